"""``fastegnn-md run --pressure``: frames of several volumes, a run that is continued, and what has no barostat."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import read, write

from fastegnn_md.cli import main

Cli = Callable[..., tuple[int, str]]
OPTIONS = ["--temperature", 600, "--pressure", "1 bar", "--seed", 3]


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
def crystal(tmp_path: Path) -> Path:
    path = tmp_path / "copper.pdb"
    write(path, bulk("Cu", a=3.61, cubic=True) * (3, 3, 3))
    return path


def test_a_continued_run_at_constant_pressure(cli: Cli, crystal: Path) -> None:
    command = ["run", "copper-emt", crystal, *OPTIONS, "--calculator", "emt", "--every", 25]
    whole, parts = crystal.with_name("whole.traj"), crystal.with_name("parts.traj")
    code, said = cli(*command, "--steps", 150, "-o", whole)
    assert code == 0, said
    assert "6 changes of the volume tried" in said
    assert "mean volume of the second half" in said
    assert cli(*command, "--steps", 60, "-o", parts)[0] == 0
    restart = ["--restart", crystal.with_name("parts.traj.restart")]
    wrong = [*command[:5], "--pressure", "2 bar", *command[7:]]
    code, said = cli(*wrong, "--steps", 150, "-o", parts, *restart)
    assert (code, "--pressure was '1 bar'" in said) == (2, True), said
    code, said = cli(*command, "--steps", 150, "-o", parts, *restart)
    assert code == 0, said
    frames, expected = read(parts, ":"), read(whole, ":")
    assert len(frames) == len(expected) == 7
    # Audits go by the clock and say nothing of atoms; the rest is the same to the last bit.
    for frame, other in zip(frames, expected, strict=True):
        assert (frame.cell == other.cell).all()
        assert (frame.positions == other.positions).all()
    assert len({round(frame.get_volume(), 6) for frame in frames}) > 2


def test_formats_of_mdanalysis_hold_the_box_of_each_frame(cli: Cli, crystal: Path) -> None:
    import MDAnalysis as mda

    output = crystal.with_name("out.xtc")
    command = ["run", "copper-emt", crystal, *OPTIONS, "--calculator", "emt", "--every", 25]
    assert cli(*command, "--steps", 100, "-o", output)[0] == 0
    universe = mda.Universe(str(crystal), str(output))
    assert len({round(float(frame.dimensions[0]), 4) for frame in universe.trajectory}) > 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temperature", 600, "--pressure", "1 bar"], "give --calculator, --forcefield or --system"),
        (["--temperature", 600, "--pressure", "1"], "a pressure needs one of: bar"),
        (
            ["--temperature", 600, "--pressure", "1 bar", "--nve", "--calculator", "emt"],
            "--pressure needs a thermostat",
        ),
        (
            ["--temperature", 600, "--pressure", "1 bar", "--engine", "openmm", "--system", "system.xml"],
            "openmm.MonteCarloBarostat",
        ),
        (
            ["--temperature", 600, "--pressure", "1 bar", "--metropolis", "--calculator", "emt"],
            "--pressure and --metropolis exclude each other",
        ),
    ],
)
def test_what_has_no_barostat(cli: Cli, crystal: Path, options: list[object], words: str) -> None:
    output = crystal.with_name("out.traj")
    code, said = cli("run", "copper-emt", crystal, *options, "--steps", 5, "-o", output)
    assert (code, words in said) == (2, True), said
    assert not output.exists()


def test_a_molecule_has_no_volume(cli: Cli, tmp_path: Path) -> None:
    from ase.build import molecule

    write(tmp_path / "ethanol.xyz", molecule("CH3CH2OH"))
    options = ["--temperature", 300, "--pressure", "1 bar", "--calculator", "emt", "--steps", 5]
    code, said = cli("run", "ethanol-xtb", tmp_path / "ethanol.xyz", *options, "-o", tmp_path / "out.xyz")
    assert (code, "leave --pressure out" in said) == (2, True), said
