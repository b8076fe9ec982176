"""What a user writes who has types checked: read by mypy and never run, see ``known_types.py``."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

from ase import Atoms
from torch import Tensor

import fastegnn_md
from fastegnn_md import Committee, Propagator, State
from fastegnn_md.data import TrajectoryPairs, load_universe
from fastegnn_md.engines.ase import state_from_atoms
from fastegnn_md.harvest import harvest
from fastegnn_md.integrators import GuardSettings, Langevin, LearnedDynamics, LearningDynamics, Schedule
from fastegnn_md.training import TrainingConfig, fit


def train(topology: Path, trajectory: Path) -> Propagator:
    """From a trajectory to a model."""
    pairs = TrajectoryPairs(load_universe(topology, trajectory), lag="8 fs")
    training, validation, _ = pairs.split((0.8, 0.1, 0.1))
    result = fit(training, validation, TrainingConfig(), "model.safetensors")
    return assert_type(result.propagator, Propagator)


def step(atoms: Atoms) -> float:
    """From a model to dynamics."""
    propagator = assert_type(fastegnn_md.load("copper-emt"), Propagator)
    assert_type(propagator.timestep, float)
    moved = assert_type(propagator(state_from_atoms(atoms)), State)
    assert_type(moved.positions, Tensor)
    assert_type(Committee.load(["one", "other"])(moved), State)
    dynamics = LearnedDynamics(
        atoms, propagator, thermostat=Langevin(300, "1/ps"), guard=GuardSettings(audits=0.1), schedule=Schedule(5, 1)
    )
    assert_type(dynamics.run(100), bool)
    assert_type(dynamics.statistics.tried, int)
    return assert_type(dynamics.get_temperature(), float)


def learn(atoms: Atoms) -> int:
    """Dynamics that learn."""
    dynamics = LearningDynamics(atoms, lag="8 fs")
    assert_type(dynamics.run(100), bool)
    return assert_type(dynamics.saved_calls, int)


def bursts(topology: Path, trajectory: Path, engine: object) -> Path:
    """Training data of an engine."""
    made = harvest(load_universe(topology, trajectory), engine, store="x.h5md", burst="24 fs", interval="8 fs")
    return assert_type(made, Path)
