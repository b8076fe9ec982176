"""The demo, with little of everything, from the force field to the report."""

from __future__ import annotations

import re

import MDAnalysis as mda
import pytest

from fastegnn_md import Propagator
from fastegnn_md.data import load_universe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(require, tmp_path_factory):
    for component in ("openmm", "ase", "lightning", "matplotlib", "jinja2"):
        require(component)
    from fastegnn_md.demo import DemoSettings, run_demo

    output = tmp_path_factory.mktemp("demo")
    settings = DemoSettings(updates=20, jumps=30, frames=120, equilibration=500)
    return settings, output, run_demo(output, settings, progress=False)


def test_report_is_one_file_with_every_section(demo):
    _, output, report = demo
    text = report.read_text(encoding="utf-8")
    assert report.parent == output
    for heading in ("One-step errors on held-out bursts", "Training", "Learned dynamics", "Speed"):
        assert f"<h2>{heading}</h2>" in text
    for row in ("zero motion", "free flight", "best linear", "force-free propagator", "force-informed propagator"):
        assert f"<td>{row}</td>" in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == [], "nothing is loaded from elsewhere"
    assert text.count("data:image/png;base64,") == 3
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text)


def test_trajectories_are_on_disk_and_readable(demo):
    settings, output, _ = demo
    learned = mda.Universe(str(output / "topology.pdb"), str(output / "learned.xtc"))
    assert len(learned.trajectory) == settings.jumps + 1
    assert learned.trajectory.dt == pytest.approx(0.008, rel=1e-4)
    reference = load_universe(output / "topology.pdb", output / "reference.dcd")
    assert len(reference.trajectory) == settings.frames


def test_both_propagators_are_saved_with_their_errors(demo):
    _, output, _ = demo
    for name, forces in (("force-free", False), ("force-informed", True)):
        propagator = Propagator.load(output / f"{name}.safetensors")
        assert (propagator.wants_forces == "midpoint") is forces
        assert propagator.timestep == pytest.approx(0.008)
        assert propagator.uses_bonds
        assert propagator.domain.conserves_momentum
        assert set(propagator.metrics["one_step"]) >= {"learned", "zero motion", "free flight", "best linear"}


def test_a_second_run_into_the_same_folder_replaces_the_first(demo):
    from fastegnn_md.demo import DemoSettings, run_demo

    _, output, report = demo
    before = report.read_text(encoding="utf-8")
    settings = DemoSettings(updates=2, jumps=2, frames=60, equilibration=50)
    assert run_demo(output, settings, progress=False) == report
    assert report.read_text(encoding="utf-8") != before
    assert len(load_universe(output / "topology.pdb", output / "reference.dcd").trajectory) == 60
    assert len(mda.Universe(str(output / "topology.pdb"), str(output / "learned.xtc")).trajectory) == 3
    for name in ("force-free", "force-informed"):
        assert Propagator.load(output / f"{name}.safetensors").metrics["updates"] == 2
