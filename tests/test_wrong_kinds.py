"""What is no universe, no Atoms, no pairs, no number is said by name, before anything is written."""

from __future__ import annotations

from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest

pytest.importorskip("ase")

from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.engines.ase import LearnedStepper, state_from_atoms
from fastegnn_md.engines.mdanalysis import state_from_universe
from fastegnn_md.errors import ConfigError, DataError, StateError
from fastegnn_md.harvest import harvest
from fastegnn_md.integrators import LearnedDynamics
from fastegnn_md.propagator import FakePropagator


@pytest.fixture
def universe() -> mda.Universe:
    atoms = bulk("Cu", a=3.61, cubic=True)
    made = mda.Universe.empty(4, trajectory=False)
    made.add_TopologyAttr("elements", ["Cu"] * 4)
    made.add_TopologyAttr("masses", atoms.get_masses())
    made.load_new(np.tile(atoms.positions.astype(np.float32), (2, 1, 1)), dt=1.0)
    return made


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": np.array([300.0, 400.0])}, "temperature is .*one positive number"),
        ({"temperature": [300]}, "temperature"),
        ({"temperature": "300 K"}, "temperature"),
        ({"temperature": np.nan}, "temperature"),
        ({"temperature": 300, "frames": 3}, "frames is 3; expected a slice"),
        ({"temperature": 300, "frames": ["first"]}, "frames"),
        ({"temperature": 300, "processes": "2"}, "processes"),
        ({"temperature": 300, "processes": 1.5}, "processes"),
        ({"temperature": 300, "burst": np.array([0.1, 0.2])}, "burst is"),
        ({"temperature": 300, "interval": None}, "interval is None"),
    ],
)
def test_options_of_a_harvest(universe, tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        harvest(universe, EMT, store=tmp_path / "a.h5md", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", [bulk("Cu"), "cu.pdb", None, 3, [bulk("Cu")]])
def test_what_is_no_universe(tmp_path, source):
    with pytest.raises(DataError, match="Universe"):
        harvest(source, EMT, store=tmp_path / "a.h5md", temperature=300)
    with pytest.raises(DataError, match="Universe"):
        state_from_universe(source)
    if source != "cu.pdb":
        with pytest.raises(DataError, match="Universe"):
            TrajectoryPairs(source, lag=0.01)


@pytest.mark.parametrize("lag", [None, np.array([0.1, 0.2]), [0.1]])
def test_what_is_no_lag(universe, lag):
    with pytest.raises(DataError, match="lag is"):
        TrajectoryPairs(universe, lag=lag)


def test_what_are_no_atoms(universe):
    for wrong in (universe, "cu.pdb", None, state_from_atoms(molecule("H2O"))):
        with pytest.raises(StateError, match=r"ase\.Atoms are expected"):
            state_from_atoms(wrong)


@pytest.mark.parametrize("bonds", ["auto", "guess", [0, 1, 2], [[0, 1, 2]], [[0.5, 1.0]], [[0, 1], [2]], True])
def test_what_are_no_bonds(bonds):
    def still(state: Any) -> Any:
        return state

    atoms = molecule("H2O")
    with pytest.raises(StateError, match="bonds"):
        state_from_atoms(atoms, bonds=bonds)
    with pytest.raises(StateError, match="bonds"):
        LearnedDynamics(atoms, FakePropagator(still, 0.01), bonds=bonds)
    with pytest.raises(StateError, match="bonds"):
        LearnedStepper(FakePropagator(still, 0.01), bonds=bonds).step(atoms)
    assert state_from_atoms(atoms, bonds=[]).bonds.shape == (0, 2)


def test_what_are_no_pairs_and_no_propagator(require, universe):
    require("lightning")
    from fastegnn_md.training import TrainingConfig, fit

    with pytest.raises(DataError, match="train is a Universe"):
        fit(universe, universe, TrainingConfig())
    pairs = TrajectoryPairs(universe, lag=1.0, velocities="none", progress=False)
    with pytest.raises(ConfigError, match=r"Propagator\.load\('copper-emt'\)"):
        fit(pairs, pairs, TrainingConfig(), initial="copper-emt")
