"""Restart files that are damaged: one line, and the atoms, constraints and trajectory of the user stay as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from fastegnn_md.errors import CheckpointError, FastEGNNMDError
from fastegnn_md.propagator.fake import FakePropagator

Arrays = dict[str, np.ndarray]


def water() -> Any:
    from ase.build import molecule
    from ase.calculators.lj import LennardJones
    from ase.constraints import FixBondLengths

    atoms = molecule("H2O")
    atoms.set_constraint(FixBondLengths([[0, 1], [0, 2]]))
    atoms.calc = LennardJones(sigma=0.5, epsilon=0.01)
    return atoms


def propagator(**options: Any) -> FakePropagator:
    return FakePropagator(lambda state: state, 0.002, **options)


@pytest.fixture
def saved(tmp_path: Path, require: Any) -> Path:
    require("ase")
    from fastegnn_md.integrators import LearnedDynamics

    atoms = water()
    atoms.set_velocities(np.full((3, 3), 0.01))
    made = LearnedDynamics(atoms, propagator(), guard=False, rng=1, trajectory=str(tmp_path / "md.traj"))
    made.run(3)
    made.save_restart(tmp_path / "restart")
    made.close()
    return tmp_path / "restart"


def rewrite(path: Path, change: Callable[[Arrays, dict[str, Any]], Any]) -> None:
    """Change a file as one who knows the format would: without the checksum."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["header"])
    header.pop("sha256", None)
    arrays = load(data)
    change(arrays, header)
    path.write_bytes(save(arrays, {"header": json.dumps(header)}))


def everything(atoms: Any) -> list[Any]:
    lengths = [constraint.bondlengths for constraint in atoms.constraints]
    arrays = {name: value.tolist() for name, value in sorted(atoms.arrays.items())}
    return [arrays, atoms.cell.tolist(), atoms.pbc.tolist(), None if lengths[0] is None else lengths[0].tolist()]


CHANGES: dict[str, Callable[[Arrays, dict[str, Any]], Any]] = {
    "no momenta": lambda arrays, header: arrays.pop("momenta"),
    "momenta of two atoms": lambda arrays, header: arrays.update(momenta=arrays["momenta"][:2].copy()),
    "momenta turned": lambda arrays, header: arrays.update(momenta=np.zeros((3, 1))),
    "momenta of whole numbers": lambda arrays, header: arrays.update(momenta=np.zeros((3, 3), dtype=np.int64)),
    "momenta NaN": lambda arrays, header: arrays.update(momenta=np.full((3, 3), np.nan)),
    "positions infinite": lambda arrays, header: arrays.update(positions=np.full((3, 3), np.inf)),
    "positions flat": lambda arrays, header: arrays.update(positions=arrays["positions"].ravel()),
    "cell of lengths": lambda arrays, header: arrays.update(cell=np.ones(3)),
    "numbers as floats": lambda arrays, header: arrays.update(numbers=arrays["numbers"].astype(float)),
    "masses of two": lambda arrays, header: arrays.update(masses=arrays["masses"][:2].copy()),
    "bonds beyond": lambda arrays, header: arrays.update(bonds=np.array([[0, 7]])),
    "lengths of one": lambda arrays, header: arrays.update(bondlengths_0=np.ones(1)),
    "energy of three": lambda arrays, header: arrays.update(energy=np.ones(3)),
    "forces of two": lambda arrays, header: arrays.update(forces=np.ones((2, 3))),
    "steps in words": lambda arrays, header: header.update(nsteps="three"),
    "steps below zero": lambda arrays, header: header.update(nsteps=-3),
    "seed": lambda arrays, header: header.update(seed=[1]),
    "frames": lambda arrays, header: header.update(frames=1.5),
    "more frames than there are": lambda arrays, header: header.update(frames=100),
    "no options": lambda arrays, header: header.pop("options"),
    "options": lambda arrays, header: header.update(options=[]),
    "loginterval": lambda arrays, header: header["options"].update(loginterval="often"),
    "thermostat": lambda arrays, header: header["options"].update(thermostat={"kind": ["langevin"]}),
    "thermostat of options": lambda arrays, header: header["options"].update(thermostat=3),
    "schedule": lambda arrays, header: header["options"].update(schedule={"every": 2}),
    "schedule below zero": lambda arrays, header: header["options"]["schedule"].update(classical_steps=-1),
    "guard": lambda arrays, header: header["options"].update(guard={"displacement": "far"}),
    "statistics": lambda arrays, header: header.update(statistics={"tried": "many"}),
    "other statistics": lambda arrays, header: header.update(statistics={"guessed": 3}),
    "place": lambda arrays, header: header.update(place=3),
    "time": lambda arrays, header: header.update(place={"time": float("nan")}),
    "random state": lambda arrays, header: header.update(rng={"bit_generator": "PCG64", "state": {"state": -1}}),
    "random state of objects": lambda arrays, header: header.update(
        rng={"bit_generator": "MT19937", "state": {"key": {"__array__": [1], "dtype": "O"}}}
    ),
    "random state of a list": lambda arrays, header: header.update(rng={"bit_generator": []}),
    "no random state": lambda arrays, header: header.update(rng=None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_restart_changes_nothing(change: str, saved: Path, tmp_path: Path) -> None:
    from fastegnn_md.integrators import LearnedDynamics

    rewrite(saved, CHANGES[change])
    atoms, trajectory = water(), tmp_path / "md.traj"
    before, frames = everything(atoms), trajectory.read_bytes()
    with pytest.raises(FastEGNNMDError) as caught:
        LearnedDynamics.restart(saved, atoms, propagator(), trajectory=str(trajectory))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert everything(atoms) == before
    assert trajectory.read_bytes() == frames


def test_the_same_file_unchanged_goes_on(saved: Path, tmp_path: Path) -> None:
    from fastegnn_md.integrators import LearnedDynamics

    rewrite(saved, lambda arrays, header: None)
    atoms = water()
    dynamics = LearnedDynamics.restart(saved, atoms, propagator(), trajectory=str(tmp_path / "md.traj"))
    assert dynamics.nsteps == 3
    dynamics.run(2)
    dynamics.close()
    assert atoms.get_velocities().any()


def test_a_trajectory_that_is_none_changes_nothing(saved: Path, tmp_path: Path) -> None:
    from fastegnn_md.integrators import LearnedDynamics

    whole = (tmp_path / "md.traj").read_bytes()
    for content in (b"", b"no trajectory", whole[: len(whole) // 2]):
        (tmp_path / "md.traj").write_bytes(content)
        atoms = water()
        before = everything(atoms)
        with pytest.raises(CheckpointError, match=r"md\.traj"):
            LearnedDynamics.restart(saved, atoms, propagator(), trajectory=str(tmp_path / "md.traj"))
        assert everything(atoms) == before
        assert (tmp_path / "md.traj").read_bytes() == content


def test_a_log_that_cannot_be_written_changes_nothing(saved: Path, tmp_path: Path) -> None:
    from fastegnn_md.integrators import LearnedDynamics

    atoms = water()
    before = everything(atoms)
    with pytest.raises(OSError, match="absent"):
        LearnedDynamics.restart(saved, atoms, propagator(), logfile=tmp_path / "absent" / "log")
    assert everything(atoms) == before


@pytest.mark.parametrize("change", ["no momenta", "momenta NaN", "statistics", "energy of three", "no random state"])
def test_sampling_by_metropolis_is_held_to_the_same(change: str, tmp_path: Path, require: Any) -> None:
    require("ase")
    from fastegnn_md.integrators import MetropolizedDynamics

    def bare() -> Any:
        atoms = water()
        atoms.set_constraint()
        return atoms

    fake = propagator(kind="kick-drift", reversible=True, volume_preserving=True)
    made = MetropolizedDynamics(bare(), fake, temperature_K=300, rng=1)
    made.run(2)
    made.save_restart(tmp_path / "restart")
    rewrite(tmp_path / "restart", CHANGES[change])
    atoms = bare()
    before = {name: value.tolist() for name, value in atoms.arrays.items()}
    with pytest.raises(CheckpointError):
        MetropolizedDynamics.restart(tmp_path / "restart", atoms, fake)
    assert {name: value.tolist() for name, value in atoms.arrays.items()} == before
