"""The demo, with little of everything: three systems by their engines and by jumps, and one report."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from browser import assert_looks_right

from fastegnn_md.data import load_universe

pytestmark = [
    pytest.mark.slow,
    # a training of seconds fails its audits, as it should
    pytest.mark.filterwarnings("ignore:the total energy changed:fastegnn_md.integrators.AuditWarning"),
]


EARLIER = b"of an earlier run"
REPLACED = (
    "copper.trr",
    "copper.safetensors",
    "aspirin.traj",
    "ala2.dcd",
    "ala2-00.dcd",
    "results.json",
    "report.html",
)


@pytest.fixture(scope="module")
def demo(require, tmp_path_factory):
    for component in ("openmm", "ase", "lightning", "matplotlib", "jinja2", "tblite"):
        require(component)
    from fastegnn_md.commands.demo.records import QUICK
    from fastegnn_md.commands.demo.run import run_demo

    output = tmp_path_factory.mktemp("demo")
    for name in REPLACED:
        (output / name).write_bytes(EARLIER)
    return QUICK, output, run_demo(output, QUICK, progress=False)


def test_report_is_one_file_with_a_section_and_an_explained_picture_for_each_step(demo):
    _, output, steps = demo
    text = (output / "report.html").read_text(encoding="utf-8")
    for number, step in enumerate(steps, 1):
        assert f"{number}. {step.name[0].upper()}{step.name[1:]}: {step.system}</h2>" in text
    for row in ("zero motion", "free flight", "best linear", "alphaR"):
        assert f"<td>{row}</td>" in text
    assert re.findall(r'(?:src|href)="(?!data:|#)', text) == [], "nothing is loaded from elsewhere"
    assert text.count("data:image/png;base64,") == 1 + len(steps)
    assert all(f"<figcaption>{step.reading}</figcaption>" in text for step in steps)
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", text))


def test_report_in_a_browser(demo, tmp_path):
    assert_looks_right(demo[1] / "report.html", tmp_path / "page")


def test_trajectories_of_both_kinds_are_on_disk_and_as_long_as_the_times_say(demo):
    settings, output, steps = demo
    copper, aspirin, peptide = steps
    for step, topology, classical, learned in (
        (copper, "copper.pdb", "copper.trr", "copper-learned.trr"),
        (aspirin, "aspirin.xyz", "aspirin.traj", "aspirin-learned.traj"),
    ):
        runs = [load_universe(output / topology, output / name, dt=0.004) for name in (classical, learned)]
        assert all(run.trajectory.ts.has_velocities for run in runs)
        assert len(runs[0].trajectory) == pytest.approx(step.classical.ps / (0.02 if step is copper else 0.004), abs=2)
        assert len(runs[1].trajectory) == pytest.approx(step.learned.ps / (0.04 if step is copper else 0.004), abs=2)
    replicas = sorted(output.glob("ala2-*.dcd"))
    assert len(replicas) == settings.replicas
    assert all(len(load_universe(output / "ala2.pdb", one).trajectory) == settings.replica_jumps for one in replicas)
    assert peptide.learned.ps >= 10 * settings.replicas * settings.replica_jumps


def test_times_add_up_and_learning_is_counted_where_something_is_learned(demo):
    for step in demo[2]:
        assert step.gain == pytest.approx(
            step.classical.seconds / step.classical.ps * step.learned.ps / step.learned.seconds
        )
    copper, aspirin, peptide = demo[2]
    assert copper.learning > copper.classical.seconds
    assert aspirin.learning == peptide.learning == 0


def test_gains_and_losses_are_said_alike():
    from fastegnn_md.commands.demo.records import Pace, StepResult
    from fastegnn_md.commands.demo.report import gain_in_words, in_words

    def said(classical: float, learned: float, learning: float = 0.0) -> str:
        paces = Pace(1.0, classical, classical), Pace(1.0, learned, learned)
        return gain_in_words(
            StepResult("a", "b", *paces, physics="", draw=lambda axes: None, reading="", learning=learning)
        )

    assert said(10.0, 1.0) == "10 times faster"
    assert said(10.0, 1.0, learning=90.0) == "10 times faster, learning paid after 10 ps"
    assert said(1.0, 2.0, learning=90.0) == "2 times slower, a loss"
    assert [in_words(seconds) for seconds in (3.21, 90, 600, 9000, 300000)] == [
        "3.2 s",
        "90 s",
        "10 min",
        "2.5 h",
        "3.5 days",
    ]


def test_files_of_an_earlier_run_are_replaced(demo):
    settings, output, _ = demo
    assert all((output / name).read_bytes() != EARLIER for name in REPLACED)
    assert len(load_universe(output / "copper.pdb", output / "copper.trr").trajectory) == settings.frames


def test_a_component_that_is_missing_is_named_before_anything_is_done(tmp_path, monkeypatch):
    import sys

    from fastegnn_md.commands.demo.run import run_demo
    from fastegnn_md.errors import MissingDependencyError

    monkeypatch.setitem(sys.modules, "tblite", None)
    with pytest.raises(MissingDependencyError, match=r"tblite.*fastegnn-md\[xtb\]"):
        run_demo(tmp_path / "demo")


@pytest.mark.parametrize("number", range(4))
def test_commands_of_the_page_run_on_what_the_demo_made(demo, tmp_path, monkeypatch, capsys, number):
    from fastegnn_md.cli import main

    text = (Path(__file__).parents[1] / "docs" / "demo.md").read_text(encoding="utf-8")
    commands = [
        line
        for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("fastegnn-md ")
    ]
    assert len(commands) == 4
    (tmp_path / "demo-output").symlink_to(demo[1])
    monkeypatch.chdir(tmp_path)
    if number == 1:  # what the command before makes
        shutil.copy(demo[1] / "copper.safetensors", tmp_path)
    line = re.sub(r"--steps \d+", "--steps 2", re.sub(r"--updates \d+", "--updates 5", commands[number]))
    line = line.replace("--replicas 64", "--replicas 2")
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line)[1:])
    # 3: a training of seconds is not to be trusted, as it says
    assert ended.value.code in ((0, 3) if number == 1 else (0,)), capsys.readouterr().err
