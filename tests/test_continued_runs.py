"""``fastegnn-md run`` that is stopped, killed and continued: the output is that of one uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastegnn_md.cli import main
from fastegnn_md.commands.continuing import StopSignals

Cli = Callable[..., tuple[int, str]]
OPTIONS = ["--temperature", 300, "--seed", 3]
OPENMM = [
    *["--engine", "openmm", "--platform", "Reference", "--forcefield", "amber14-all.xml", "--constraints", "HBonds"],
    *["--temperature", 300, "--every", 11],
]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Exit code and what stood on both streams, progress apart."""

    def call(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return caught.value.code, "\n".join(line for line in (out + err).splitlines() if "%|" not in line)  # type: ignore[return-value]

    return call


@pytest.fixture
def crystal(tmp_path: Path, require: Any) -> Path:
    require("ase")
    from ase.build import bulk
    from ase.io import write

    path = tmp_path / "copper.pdb"
    write(path, bulk("Cu", a=3.61, cubic=True) * (3, 3, 3))
    return path


@pytest.fixture
def dipeptide(tmp_path: Path, require: Any) -> Path:
    require("openmm")
    path = tmp_path / "ala2.pdb"
    source = Path(sys.modules["fastegnn_md"].__path__[0]) / "assets" / "ala2.pdb"
    path.write_bytes(source.read_bytes())
    return path


@pytest.mark.parametrize("suffix", ["xtc", "trr", "dcd"])
def test_a_continued_run_is_bit_for_bit_the_uninterrupted_one(cli: Cli, crystal: Path, suffix: str) -> None:
    whole, parts = crystal.with_name(f"whole.{suffix}"), crystal.with_name(f"parts.{suffix}")
    restart = crystal.with_name(f"parts.{suffix}.restart")
    command = ["run", "copper-emt", crystal, *OPTIONS, "--every", 2]
    assert cli(*command, "--steps", 9, "-o", whole)[0] == 0
    code, said = cli(*command, "--steps", 5, "-o", parts)
    assert (code, f"saved {parts} and {restart.name}" in said) == (0, True)
    with parts.open("ab") as file:  # what a killed run wrote after its restart file
        file.write(b"half a frame")
    code, said = cli(*command, "--steps", 9, "-o", parts, "--restart", restart)
    assert code == 0, said
    assert said.startswith("9 jumps of ")
    assert (
        "\njumps and audits are those of all 9 steps; temperatures, volumes and speed those of steps 6 to 9, " in said
    )
    assert "run: 5 of 9 steps, 56 %, " in said
    assert "run: 9 of 9 steps, 100 %, " in said
    assert parts.read_bytes() == whole.read_bytes()


def test_a_trajectory_of_ase_is_continued_behind_the_frames_of_the_restart_file(cli: Cli, crystal: Path) -> None:
    from ase.io import read

    whole, parts = crystal.with_name("whole.traj"), crystal.with_name("parts.traj")
    restart, early = crystal.with_name("parts.traj.restart"), crystal.with_name("early")
    command = ["run", "copper-emt", crystal, *OPTIONS, "--every", 2]
    assert cli(*command, "--steps", 9, "-o", whole)[0] == 0
    assert cli(*command, "--steps", 5, "-o", parts)[0] == 0
    early.write_bytes(restart.read_bytes())
    assert cli(*command, "--steps", 7, "-o", parts, "--restart", restart)[0] == 0
    restart.write_bytes(early.read_bytes())  # as if killed before it was saved: one frame too many, and half of one
    with parts.open("ab") as file:
        file.write(b"half a frame")
    code, said = cli(*command, "--steps", 9, "-o", parts, "--restart", restart)
    assert code == 0, said
    frames, expected = read(parts, ":"), read(whole, ":")
    assert len(frames) == len(expected) == 5
    for frame, other in zip(frames, expected, strict=True):
        assert (frame.positions == other.positions).all()
        assert (frame.get_momenta() == other.get_momenta()).all()
        assert frame.info == other.info


def test_a_run_inside_openmm_is_continued(cli: Cli, dipeptide: Path) -> None:
    whole, parts = dipeptide.with_name("whole.xtc"), dipeptide.with_name("parts.xtc")
    command = ["run", "ala2-vacuum", dipeptide, *OPENMM]
    assert cli(*command, "--steps", 44, "-o", whole)[0] == 0
    assert cli(*command, "--steps", 27, "-o", parts)[0] == 0
    code, said = cli(*command, "--steps", 44, "-o", parts, "--restart", dipeptide.with_name("parts.xtc.restart"))
    assert code == 0, said
    assert said.startswith("44 steps, ")
    assert ": 4 jumps of " in said
    assert parts.read_bytes() == whole.read_bytes()


def test_the_rest_may_go_to_another_file(cli: Cli, crystal: Path) -> None:
    import MDAnalysis as mda

    first, second = crystal.with_name("first.h5md"), crystal.with_name("second.trr")
    command = ["run", "copper-emt", crystal, *OPTIONS]
    assert cli(*command, "--steps", 2, "-o", first)[0] == 0
    restart = [*command, "--steps", 5, "--restart", f"{first}.restart"]
    assert "cannot be continued in its format; write the rest to another" in cli(*restart, "-o", first)[1]
    assert cli(*restart, "-o", second)[0] == 0
    universe = mda.Universe.empty(108)
    universe.load_new(str(second))
    assert [ts.time for ts in universe.trajectory] == pytest.approx([0.12, 0.16, 0.2], abs=1e-6)


def test_what_does_not_fit_together_is_refused_before_a_frame_is_touched(cli: Cli, crystal: Path) -> None:
    output = crystal.with_name("out.xtc")
    restart = ["--restart", f"{output}.restart"]
    command = ["run", "copper-emt", crystal, "--seed", 3, "-o", output]
    assert cli(*command, "--temperature", 300, "--steps", 2)[0] == 0
    before = output.read_bytes()
    for arguments, message in (
        (["--temperature", 350, "--steps", 4, *restart], "--temperature was 300.0 when"),
        (["--temperature", 300, "--steps", 4, "--nve", *restart], "--nve was False when"),
        (["--temperature", 300, "--steps", 2, *restart], "all of --steps 2 are done"),
        (["--temperature", 300, "--steps", 4, "--restart", crystal], "truncated or not a safetensors file"),
        (["--temperature", 300, "--steps", 4], "is there already"),
    ):
        code, said = cli(*command, *arguments)
        assert (code, message in said) == (2, True), said
        assert len(said.splitlines()) == 1
    assert output.read_bytes() == before


def test_a_failing_calculator_leaves_a_restart_file(cli: Cli, crystal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastegnn_md.integrators import LearnedDynamics

    output = crystal.with_name("out.xtc")
    step = LearnedDynamics.step

    def fails(self: Any) -> None:
        if self.nsteps == 3:
            raise OSError("no licence")
        step(self)

    command = ["run", "copper-emt", crystal, *OPTIONS, "--steps", 5]
    with monkeypatch.context() as patch:
        patch.setattr(LearnedDynamics, "step", fails)
        code, said = cli(*command, "-o", output)
    assert (code, "no licence" in said) == (2, True)
    assert cli(*command, "-o", output, "--restart", f"{output}.restart")[0] == 0
    whole = crystal.with_name("whole.xtc")
    assert cli(*command, "-o", whole)[0] == 0
    assert output.read_bytes() == whole.read_bytes()


def begin(*arguments: object) -> subprocess.Popen[str]:
    """A run in a process of its own, which has written its first frames."""
    command = [sys.executable, "-m", "fastegnn_md", *map(str, arguments)]
    if not (Path(sys.modules["fastegnn_md"].__path__[0]) / "__main__.py").exists():
        command[1:3] = ["-c", "from fastegnn_md.cli import main; main()"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    output = Path(str(arguments[arguments.index("-o") + 1]))
    deadline = time.monotonic() + 120
    while not output.exists() or output.stat().st_size < 5000:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.fixture(autouse=True)
def _ctrl_c_is_heard():
    """A suite that runs in the background of a shell is told to ignore it, and its children with it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_so(cli: Cli, crystal: Path, number: signal.Signals) -> None:
    output, whole = crystal.with_name("out.xtc"), crystal.with_name("whole.xtc")
    command = ["run", "copper-emt", crystal, *OPTIONS]
    with begin(*command, "--steps", 100_000, "-o", output) as process:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    (line,) = (line for line in said.splitlines() if line.startswith("stopped by"))
    assert line.startswith(f"stopped by {number.name} after step ")
    assert f"--restart {output}.restart continues" in line
    done = int(line.split("after step ")[1].split()[0])
    code, said = cli(*command, "--steps", done + 2, "-o", output, "--restart", f"{output}.restart")
    assert code == 0, said
    assert cli(*command, "--steps", done + 2, "-o", whole)[0] == 0
    assert output.read_bytes() == whole.read_bytes()


def test_two_runs_of_one_output(cli: Cli, crystal: Path) -> None:
    output = crystal.with_name("out.xtc")
    command = ["run", "copper-emt", crystal, *OPTIONS, "--steps", 100_000, "-o", output]
    with begin(*command) as process:
        code, said = cli(*command, "--overwrite")
        process.kill()
    assert (code, "is being written by another process" in said) == (2, True)


def test_a_second_signal_stops_at_once() -> None:
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.given is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
