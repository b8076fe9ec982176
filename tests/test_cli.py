"""The command line: help, the whole path on a small molecule, and one line for every mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest
import torch

from fastegnn_md import Committee, __version__
from fastegnn_md.cli import main
from fastegnn_md.commands.forcefields import calculator_factory, openmm_system
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.errors import ConfigError, DataError, MissingDependencyError
from fastegnn_md.propagator.base import Propagator
from fastegnn_md.training.calibration import one_step_calibration
from fastegnn_md.training.one_step import one_step_errors

COMMANDS = [
    "train",
    "harvest",
    "learn",
    "adapt",
    "suggest-lag",
    "seeds",
    "run",
    "evaluate",
    "validate",
    "inspect",
    "models",
    "demo",
    "doctor",
]
SMALL = ["--set", "propagator.hidden=8", "--set", "propagator.layers=1", "--set", "accelerator=cpu"]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return call


@pytest.fixture
def mistake(cli: Cli) -> Callable[..., str]:
    """The message of a call that must end with exit code 2 and one line on stderr."""

    def call(*arguments: object) -> str:
        code, _, err = cli(*arguments)
        assert code == 2, err
        lines = [line for line in err.splitlines() if line.strip() and "%|" not in line]  # bars apart
        assert len(lines) == 1, err
        assert lines[0].startswith("fastegnn-md: error: ")
        return lines[0].removeprefix("fastegnn-md: error: ")

    return call


@pytest.fixture(scope="module")
def molecule(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Carbon monoxide in many orientations, as a trajectory without velocities."""
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(60):
        axis = rng.standard_normal(3)
        axis *= rng.normal(1.15, 0.02) / np.linalg.norm(axis) / 2
        rows = ("{} {:.6f} {:.6f} {:.6f}".format(name, *place) for name, place in (("C", axis), ("O", -axis)))
        lines += ["2", "carbon monoxide", *rows]
    path = tmp_path_factory.mktemp("molecule") / "co.xyz"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def store(molecule: Path, require: Any) -> Path:
    require("ase")
    path = molecule.parent / "bursts.h5md"
    times = ["--burst", "6 fs", "--interval", "3 fs", "--timestep", "0.25 fs", "--temperature", 300]
    arguments = ["harvest", molecule, "--engine", "ase", "--calculator", "emt", "-o", path, *times]
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 0
    return path


@pytest.fixture(scope="module")
def model(store: Path, require: Any) -> Path:
    require("lightning")
    path = store.parent / "model.safetensors"
    arguments = ["train", store, "--lag", "3 fs", "--updates", 30, "--batch-size", 16, "-o", path, *SMALL]
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 0
    return path


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    script = (
        "import sys\nfrom fastegnn_md.cli import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'lightning', 'ase', 'openmm', 'MDAnalysis', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_installed_command_prints_its_version() -> None:
    command = shutil.which("fastegnn-md", path=Path(sys.executable).parent)
    assert command is not None
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"fastegnn-md {__version__}\n"


def test_without_arguments_the_commands_are_listed(cli: Cli) -> None:
    code, out, _ = cli()
    assert code == 0
    assert all(f"\n  {command} " in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example(cli: Cli, command: str) -> None:
    code, out, err = cli(command, "--help")
    assert (code, err) == (0, "")
    examples = out.partition("Example")[2]
    assert f"\n    fastegnn-md {command} " in examples


def test_a_harvested_store_says_what_to_do_next_and_holds_the_bursts(store: Path) -> None:
    pairs = TrajectoryPairs(store, lag="3 fs", progress=False)
    assert len(pairs) == 2 * 60
    assert pairs.has_forces


def test_a_trained_model_is_of_the_lag_and_the_settings_asked_for(model: Path) -> None:
    propagator = Propagator.load(model)
    assert propagator.timestep == pytest.approx(0.003)
    assert propagator.config.hidden == 8
    assert propagator.metrics["updates"] == 30


def test_the_architecture_is_an_option_of_training(cli: Cli, mistake: Any, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "schnet.safetensors"
    arguments = ["train", store, "--lag", "3 fs", "--updates", 2, "--batch-size", 8, "-o", path, *SMALL]
    code, out, err = cli(*arguments, "--architecture", "schnet", "--kind", "position")
    assert code == 0, err
    assert "position schnet" in out
    assert type(Propagator.load(path).network).__name__ == "SchNet"
    arguments.append("--overwrite")
    assert "give --kind position" in mistake(*arguments, "--architecture", "schnet")
    assert "unknown model 'schnett'" in mistake(*arguments, "--architecture", "schnett")


def test_training_ends_with_the_errors_on_the_test_pairs(cli: Cli, store: Path, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    code, out, _ = cli("train", store, "--lag", "3 fs", "--updates", 30, "--batch-size", 16, "-o", path, *SMALL)
    assert code == 0
    pairs = TrajectoryPairs(store, lag="3 fs", time_reversal=True, progress=False)
    errors = one_step_errors(Propagator.load(path), pairs.split()[2])
    for name, error in errors.items():
        assert f"{name} " in out
        assert f"{error.x:.5g}" in out
    assert path.read_bytes() == model.read_bytes()


def test_a_finished_run_is_not_trained_again_by_resume(cli: Cli, store: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    arguments = ["train", store, "--lag", "3 fs", "--updates", 5, "-o", path, *SMALL, "--resume"]
    assert cli(*arguments)[0] == 0
    first = path.read_bytes()
    code, _, err = cli(*arguments)
    assert code == 0
    assert "5/5" not in err
    assert path.read_bytes() == first


def test_settings_come_from_a_file_and_the_command_line_wins(cli: Cli, store: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(
        "updates: 3\nbatch_size: 4\naccelerator: cpu\npropagator: {hidden: 8, layers: 1}\n"
    )
    path = tmp_path / "model.safetensors"
    arguments = ["--config", tmp_path / "train.yaml", "--batch-size", 2, "--kind", "force-start", "-o", path]
    assert cli("train", store, "--lag", "3 fs", *arguments)[0] == 0
    loaded = Propagator.load(path)
    assert loaded.wants_forces == "start"
    assert loaded.metrics["updates"] == 3
    assert "batch_size: 2" in (tmp_path / "model.training" / "config.yaml").read_text()


def test_forces_at_the_midpoint_need_a_harvest_for_it(mistake: Callable[..., str], store: Path, tmp_path: Path) -> None:
    arguments = ["train", store, "--lag", "3 fs", "--kind", "force-midpoint", "-o", tmp_path / "m.safetensors", *SMALL]
    assert "kind 'force-midpoint' needs forces half a lag of 3 fs before and after" in mistake(*arguments)


def test_fine_tuning_takes_the_network_over(
    cli: Cli, mistake: Callable[..., str], store: Path, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tuned.safetensors"
    arguments = ["train", store, "--lag", "3 fs", "--from", model, "--updates", 3, "--set", "accelerator=cpu"]
    code, _, err = cli(*arguments, "--set", "unroll=2", "-o", path)
    assert code == 0, err
    tuned, first = Propagator.load(path), Propagator.load(model)
    assert tuned.config == first.config
    assert tuned.metrics["unrolled"]["jumps"] == 2
    assert torch.equal(tuned.linear.coefficients, first.linear.coefficients)
    other = tmp_path / "other.safetensors"
    assert "hidden is 8, not 12" in mistake(*arguments, "--set", "propagator.hidden=12", "-o", other)
    assert "no model file at" in mistake(*arguments[:4], "--from", tmp_path / "none.safetensors", "-o", other)


def test_evaluate_prints_the_one_step_errors(cli: Cli, model: Path, store: Path) -> None:
    errors = one_step_errors(Propagator.load(model), TrajectoryPairs(store, lag="3 fs", progress=False))
    code, out, _ = cli("evaluate", model, store)
    assert code == 0
    assert all(f"{error.v:.5g}" in out for error in errors.values())
    code, out, err = cli("evaluate", model, store, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["pairs"] == 120
    for name, error in errors.items():
        assert report["one_step"][name] == pytest.approx({"x": error.x, "v": error.v}, rel=1e-6)
    assert report["over_best_baseline"]["x"] == pytest.approx(errors["learned"].x / errors["best linear"].x, rel=1e-6)


@pytest.fixture(scope="module")
def second(model: Path) -> Path:
    """The model with its weights a little changed."""
    propagator = Propagator.load(model)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in propagator.network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    propagator.save(path := model.with_name("second.safetensors"))
    return path


def test_evaluate_holds_the_spread_of_a_committee_against_its_errors(
    cli: Cli, model: Path, second: Path, store: Path
) -> None:
    pairs = TrajectoryPairs(store, lag="3 fs", progress=False)
    several = Committee.load([model, second])
    code, out, err = cli("evaluate", model, store, "--committee", second, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["one_step"]["learned"]["v"] == pytest.approx(one_step_errors(several, pairs)["learned"].v, rel=1e-6)
    expected = one_step_calibration(several, pairs)
    assert report["calibration"].keys() == {"x", "v"}
    assert report["calibration"]["v"]["z_rms"] == pytest.approx(expected["v"].z_rms, rel=1e-6)
    assert len(report["calibration"]["x"]["spread"]) == 10
    code, out, _ = cli("evaluate", model, store, "--committee", second)
    assert code == 0
    assert out.startswith("committee of 2: force-free")
    assert f"{expected['x'].z_rms:.3f}" in out


def test_run_refuses_steps_about_which_a_committee_differs(
    cli: Cli, mistake: Callable[..., str], model: Path, second: Path, molecule: Path, tmp_path: Path
) -> None:
    arguments = ["--steps", 3, "--temperature", 200, "--calculator", "emt", "-o", tmp_path / "out.xtc"]
    arguments.append("--overwrite")
    code, out, err = cli("run", model, molecule, *arguments, "--committee", second, "--spread", 1e-9)
    assert code == 3, err
    assert "3 of 3 jumps were refused, most by the spread guard" in err
    assert "3 refused, 3 by the spread guard, 18 classical sub-steps" in out
    code, out, err = cli("run", model, molecule, *arguments, "--committee", second, "--spread", 1e9)
    assert code == 0, err
    assert "by the spread guard" not in out
    assert "--committee" in mistake("run", model, molecule, *arguments, "--spread", 0.5)
    assert "spread is 0.0" in mistake("run", model, molecule, *arguments, "--committee", second, "--spread", 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "{pdb}", "{pdb}", "--lag", "1 ps", "-o", "{new}"], "--velocities central"),
        (["harvest", "{pdb}", "--calculator", "emt", "--burst", "6 fs", "--interval", "3 fs", "-o", "{store}"],
         "draw them: --temperature"),
        (["run", "{model}", "{pdb}", "--steps", "1", "-o", "{out}"], "--temperature"),
        (["run", "{model}", "{pdb}", "--steps", "1", "-o", "{out}", "--tau", "1 ps"], "--temperature"),
        (["run", "{model}", "{pdb}", "--steps", "1", "-o", "{out}", "--spread", "1"], "--committee"),
    ],
)  # fmt: skip
def test_hints_are_in_the_words_of_the_shell(
    mistake: Callable[..., str], model: Path, molecule: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    files = {"pdb": molecule, "model": model, "new": tmp_path / "a.safetensors", "out": tmp_path / "a.xtc"}
    files["store"] = tmp_path / "a.h5md"
    said = mistake(*(argument.format_map(files) for argument in arguments))
    assert words in said
    names = "velocities|temperature|friction|lag|burst|interval|stride|store|resume|bonds"
    assert not re.search(rf"(?<![-\w])({names})=", said), said


def test_inspect_shows_the_manifest(cli: Cli, model: Path) -> None:
    code, out, _ = cli("inspect", model)
    assert code == 0
    assert "timestep_ps" in out
    assert "6, 8" in out
    code, out, err = cli("inspect", model, "--json")
    assert (code, err) == (0, "")
    manifest = json.loads(out)
    assert manifest["config"]["hidden"] == 8
    assert manifest["metrics"]["updates"] == 30


@pytest.mark.filterwarnings("ignore:the total energy changed by")  # thirty updates make no good model
@pytest.mark.parametrize(
    "extra",
    [["--nve"], [], ["--friction", "1/ps"], ["--tau", "0.1 ps"], ["--conserve-energy"]],
    ids=["NVE", "Langevin", "friction", "rescaling", "energy"],
)
def test_run_writes_the_steps_asked_for(
    cli: Cli, model: Path, molecule: Path, tmp_path: Path, extra: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the first jump is audited: when others are is a matter of seconds, and this model fails audits.
    monkeypatch.setattr("fastegnn_md.integrators.audits._MOST", 0.0)
    output = tmp_path / "out.xtc"
    arguments = ["--steps", 10, "--every", 5, "--temperature", 200, "--calculator", "emt", "-o", output, *extra]
    code, out, err = cli("run", model, molecule, *arguments)
    assert code in (0, 3), err
    assert out.startswith("10 jumps of 3 fs, ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MDAnalysis, on offsets it makes anew
        written = mda.Universe(str(molecule), str(output))
        times = [float(frame.time) for frame in written.trajectory]
        assert written.trajectory[0].positions == pytest.approx(mda.Universe(str(molecule)).atoms.positions, abs=1e-2)
    assert times == pytest.approx([0.0, 0.015, 0.03], abs=1e-6)
    first = output.read_bytes()
    cli("run", model, molecule, *arguments, "--overwrite")
    assert output.read_bytes() == first
    cli("run", model, molecule, *arguments, "--overwrite", "--seed", 1)
    assert output.read_bytes() != first


def test_kick_drift_from_the_shell(
    cli: Cli, store: Path, molecule: Path, mistake: Callable[..., str], tmp_path: Path, require: Any
) -> None:
    require("lightning")
    model, output = tmp_path / "kick-drift.safetensors", tmp_path / "out.xtc"
    kicks = ["--kind", "kick-drift", "--kicks", 2, "--set", "force_updates=2", "--updates", 4]
    code, out, err = cli("train", store, "--lag", "3 fs", *kicks, *SMALL, "-o", model)
    assert code == 0, err
    assert "kick-drift fastegnn of 2 kicks" in out
    arguments = ["--steps", 6, "--temperature", 200, "-o", output, "--overwrite", "--metropolis"]
    code, out, err = cli("run", model, molecule, *arguments, "--calculator", "emt")
    assert code == 0, err
    assert out.startswith("6 jumps of 3 fs, ")
    assert " accepted; mean temperature" in out
    assert "--metropolis needs" in mistake("run", model, molecule, *arguments)
    assert "--metropolis needs" in mistake("run", model, molecule, *arguments, "--calculator", "emt", "--nve")


def test_train_from_a_trajectory_reads_it_once_into_the_store_asked_for(
    cli: Cli, store: Path, molecule: Path, tmp_path: Path, require: Any
) -> None:
    require("lightning")
    arguments = ["train", molecule, "--lag", "2 ps", "--dt", "1 ps", "--kind", "position", "--updates", 2, *SMALL]
    kept, path = tmp_path / "kept.h5md", tmp_path / "model.safetensors"
    code, out, err = cli(*arguments, "--store", kept, "-o", path)
    assert code == 0, err
    assert "position fastegnn" in out
    assert len(TrajectoryPairs(kept, lag="2 ps", velocities="none", progress=False)) == 58
    code, _, err = cli("evaluate", path, molecule, "--dt", "1 ps")
    assert code == 0, err


def test_mistakes_in_the_arguments_end_with_one_line(mistake: Callable[..., str], store: Path) -> None:
    assert "trian" in mistake("trian")
    assert "--lag" in mistake("train", store)
    assert "--nonsense" in mistake("train", store, "--lag", "3 fs", "--nonsense")
    assert "fastegnn-md train --help" in mistake("train", store, "--lag", "3 fs", "--stride", "many")


def test_mistakes_in_training_end_with_one_line(
    mistake: Callable[..., str], store: Path, molecule: Path, tmp_path: Path, require: Any
) -> None:
    require("lightning")
    output = ["-o", tmp_path / "model.safetensors"]
    lag = ["--lag", "3 fs"]
    (tmp_path / "broken.xyz").write_text("nothing\n")
    (tmp_path / "broken.yaml").write_text("batchsize: 3\n")
    assert "no unit" in mistake("train", store, "--lag", "3", *output)
    assert "4 fs" in mistake("train", store, "--lag", "4 fs", *output)
    assert "absent.pdb" in mistake("train", tmp_path / "absent.pdb", *lag, *output)
    assert "broken.xyz" in mistake("train", tmp_path / "broken.xyz", *lag, *output)
    assert "dt" in mistake("train", molecule, "--lag", "2 ps", "--velocities", "none", *output)
    assert "no velocities" in mistake("train", molecule, "--lag", "2 ps", "--dt", "1 ps", *output)
    assert "nowhere" in mistake("train", molecule, *lag, "--dt", "1 fs", "--select", "name nowhere", *output)
    assert "did you mean 'batch_size'" in mistake("train", store, *lag, "--set", "batchsize=3", *output)
    assert "did you mean 'batch_size'" in mistake("train", store, *lag, "--config", tmp_path / "broken.yaml", *output)
    assert "absent.yaml" in mistake("train", store, *lag, "--config", tmp_path / "absent.yaml", *output)
    assert "three shares" in mistake("train", store, *lag, "--split", "0.8,0.2", *output)
    assert "--select" in mistake("train", store, *lag, "--select", "name C", *output)
    assert "leave" in mistake("train", store, molecule, *lag, *output)
    assert "cannot write" in mistake("train", store, *lag, "-o", tmp_path / "broken.xyz" / "model.safetensors", *SMALL)
    assert "must end in .safetensors" in mistake("train", store, *lag, "-o", tmp_path / "model.ckpt", *SMALL)


_PSF = """\
PSF

       1 !NTITLE
 REMARKS one atom

       1 !NATOM
       1 MOL  1    MOL  C    C      0.000000       12.0110           0
"""


def test_mistakes_with_models_end_with_one_line(
    mistake: Callable[..., str], model: Path, molecule: Path, store: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(model.read_bytes()[:-50])
    out = ["-o", tmp_path / "out.xtc", "--steps", 3, "--temperature", 300]
    output = ["-o", tmp_path / "model.safetensors"]
    assert "absent" in mistake("inspect", tmp_path / "absent.safetensors")
    assert "broken.safetensors" in mistake("inspect", broken)
    assert "broken.safetensors" in mistake("evaluate", broken, store)
    assert "broken.safetensors" in mistake("run", broken, molecule, *out)
    assert "absent.pdb" in mistake("run", model, tmp_path / "absent.pdb", *out)
    no_coordinates = tmp_path / "topology.psf"
    no_coordinates.write_text(_PSF)
    assert "without coordinates" in mistake("run", model, no_coordinates, *out)
    assert "without coordinates" in mistake("train", no_coordinates, "--lag", "3 fs", *output)
    assert "no frame 99" in mistake("run", model, molecule, *out, "--frame", 99)
    assert "no velocities" in mistake("run", model, molecule, "-o", tmp_path / "out.xtc", "--steps", 3)
    assert "out.nonsense" in mistake("run", model, molecule, *out[2:], "-o", tmp_path / "out.nonsense")
    assert "no unit" in mistake("run", model, molecule, *out, "--friction", "10")
    assert "no unit" in mistake("run", model, molecule, *out, "--tau", "10")
    for other in (["--nve"], ["--friction", "1/ps"]):
        assert "--tau is another thermostat" in mistake("run", model, molecule, *out, "--tau", "1 ps", *other)
    assert "--tau is for --engine ase" in mistake("run", model, molecule, *out, "--tau", "1 ps", "--engine", "openmm")
    assert "--calculator" in mistake("run", model, molecule, *out, "--calculator", "emt", "--forcefield", "a.xml")
    assert "--conserve-energy needs" in mistake("run", model, molecule, *out, "--conserve-energy")
    assert "kick-drift" in mistake("run", model, molecule, *out, "--calculator", "emt", "--metropolis")
    absent = tmp_path / "absent" / "out.xtc"
    assert "absent" in mistake("run", model, molecule, *out[2:], "-o", absent, "--calculator", "emt")


def test_mistakes_in_harvests_end_with_one_line(mistake: Callable[..., str], molecule: Path, tmp_path: Path) -> None:
    output = ["-o", tmp_path / "bursts.h5md", "--temperature", 300]
    assert "openmm or ase" in mistake("harvest", molecule, "--engine", "gromacs", *output)
    assert "--calculator" in mistake("harvest", molecule, "--engine", "ase", *output)
    assert "module:callable" in mistake("harvest", molecule, "--engine", "ase", "--calculator", "what", *output)
    assert "START:STOP" in mistake(
        "harvest", molecule, "--engine", "ase", "--calculator", "emt", "--frames", "7", *output
    )
    assert "no unit" in mistake("harvest", molecule, "--engine", "ase", "--calculator", "emt", "--burst", "6", *output)


def test_the_traceback_is_there_for_developers(tmp_path: Path) -> None:
    from fastegnn_md.errors import CheckpointError

    with pytest.raises(CheckpointError):
        main(["--traceback", "inspect", str(tmp_path / "absent.safetensors")])


def test_ctrl_c_says_how_to_continue(cli: Cli, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastegnn_md.training.module import PropagatorModule

    def interrupted(self: PropagatorModule, batch: Any, batch_idx: int) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(PropagatorModule, "training_step", interrupted)
    code, _, err = cli("train", store, "--lag", "3 fs", "-o", tmp_path / "model.safetensors", *SMALL)
    assert code == 130
    assert err.rstrip().endswith("interrupted; continue with --resume")


def test_warnings_are_one_line_each(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastegnn_md import cli as module

    def warn(*arguments: object, **options: object) -> None:
        warnings.simplefilter("always")
        warnings.warn("two\n lines", UserWarning, stacklevel=1)

    monkeypatch.setattr(module, "app", warn)
    assert cli("demo") == (0, "", "fastegnn-md: warning: two lines\n")


def test_a_calculator_of_ones_own_is_found_beside_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require: Any
) -> None:
    require("ase")
    (tmp_path / "my_calculator.py").write_text("from ase.calculators.emt import EMT\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert calculator_factory("my_calculator:EMT")().name == "emt"
    with pytest.raises(ConfigError, match="no callable 'number'"):
        calculator_factory("my_calculator:number")
    with pytest.raises(MissingDependencyError, match=r"no my_calculatr\.py in this folder or on PYTHONPATH"):
        calculator_factory("my_calculatr:EMT")
    (tmp_path / "other.py").write_text("import no_such_module\n")
    with pytest.raises(MissingDependencyError, match="needs the module 'no_such_module', which is not installed"):
        calculator_factory("other:EMT")


def test_force_fields_become_systems(tmp_path: Path, require: Any) -> None:
    openmm = require("openmm")
    import fastegnn_md

    pdb = Path(fastegnn_md.__file__).parent / "assets" / "ala2.pdb"
    free, held = (openmm_system(pdb, ["amber14-all.xml"], None, name, "10 A") for name in ("none", "HBonds"))
    assert (free.getNumParticles(), free.getNumConstraints(), held.getNumConstraints()) == (22, 0, 12)
    assert not held.usesPeriodicBoundaryConditions()
    assert not any(isinstance(force, openmm.CMMotionRemover) for force in held.getForces())
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(held))
    again = openmm_system(pdb, None, tmp_path / "system.xml", "none", "10 A")
    assert again.getNumConstraints() == 12
    (tmp_path / "other.xml").write_text("<nothing/>")
    for forcefield, system, constraints, structure, error in [
        (None, None, "none", pdb, ConfigError),
        (["amber14-all.xml"], None, "all", pdb, ConfigError),
        (["absent.xml"], None, "none", pdb, DataError),
        (["amber14-all.xml"], None, "none", tmp_path / "start.gro", DataError),
        (["tip3p.xml"], None, "none", pdb, DataError),
        (None, tmp_path / "other.xml", "none", pdb, DataError),
        (None, tmp_path / "absent.xml", "none", pdb, DataError),
    ]:
        with pytest.raises(error):
            openmm_system(structure, forcefield, system, constraints, "10 A")
    for suffix in ("pdb", "psf", "prmtop", "cif"):
        (tmp_path / f"empty.{suffix}").touch()
        with pytest.raises(DataError, match=rf"empty\.{suffix}' is empty; copy or write it again"):
            openmm_system(tmp_path / f"empty.{suffix}", ["amber14-all.xml"], None, "none", "10 A")
        (tmp_path / f"notes.{suffix}").write_text("nothing\n")
        with pytest.raises(DataError, match=r"OpenMM cannot build a System for .*notes"):
            openmm_system(tmp_path / f"notes.{suffix}", ["amber14-all.xml"], None, "none", "10 A")
    for name in ("notes.xml", "notes.prm"):  # force fields that are none
        (tmp_path / name).write_text("nothing\n")
        with pytest.raises(DataError, match="OpenMM cannot build a System for"):
            openmm_system(pdb, [str(tmp_path / name)], None, "none", "10 A", trust=True)
