"""Dynamics and training with a propagator on a GPU."""

from __future__ import annotations

import copy

import gpu_cases
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from gpu_cases import DEVICE

import fastegnn_md
from fastegnn_md import Committee
from fastegnn_md.data import StoreWriter, Topology, TrajectoryPairs
from fastegnn_md.integrators import LearnedDynamics, LearnedEnsemble
from fastegnn_md.training import TrainingConfig, fit

pytestmark = gpu_cases.ON_GPU
SMALL = {"hidden": 16, "layers": 2}


def copper(seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True) * (3, 3, 3)
    noise = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    atoms.set_momenta(noise * np.sqrt(units.kB * 300 * atoms.get_masses())[:, None])
    return atoms


def dynamics(propagator, seed: int) -> LearnedDynamics:
    """Guarded jumps of copper under a thermostat."""
    return LearnedDynamics(copper(seed), propagator, temperature_K=300, friction=0.01 / units.fs, rng=seed)


def same_motion(found: Atoms, expected: Atoms) -> None:
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-8)
    np.testing.assert_allclose(found.get_momenta(), expected.get_momenta(), atol=1e-7)


@pytest.mark.parametrize("members", [1, 2])
def test_dynamics_of_ase_move_as_on_the_cpu(members):
    made = [fastegnn_md.load("copper-emt").double() for _ in range(members)]
    for k, one in enumerate(made):
        one.network.requires_grad_(False)
        for parameter in one.network.parameters():
            parameter.mul_(1 + 1e-3 * k)
    here = made[0] if members == 1 else Committee(made)
    one, other = dynamics(here, 0), dynamics(copy.deepcopy(here).to(DEVICE), 0)
    one.run(10)
    other.run(10)
    assert other.statistics.accepted == one.statistics.accepted == 10
    same_motion(other.atoms, one.atoms)


def test_an_ensemble_moves_as_on_the_cpu():
    here = fastegnn_md.load("copper-emt").double()
    there = copy.deepcopy(here).to(DEVICE)
    one, other = ([dynamics(propagator, seed) for seed in range(3)] for propagator in (here, there))
    LearnedEnsemble(one).run(5)
    LearnedEnsemble(other).run(5)
    for left, right in zip(other, one, strict=True):
        same_motion(left.atoms, right.atoms)


@pytest.mark.parametrize("backend", ["host", "python"])
@pytest.mark.parametrize("kind", ["force-free", "force-start"])
@pytest.mark.parametrize("platform", ["Reference", "OpenCL-mixed"])
def test_a_context_moves_as_with_the_propagator_on_the_cpu(platform, kind, backend, require):
    require("openmm")
    import openmm_cases

    here = openmm_cases.small_network(kind)
    there = copy.deepcopy(here).to(DEVICE)
    ends = []
    for propagator in (here, there):
        made = openmm_cases.simulation(openmm_cases.peptide(), propagator, platform, backend, guard=False)
        made.step(7)  # a jump, five classical steps, a jump
        ends.append(openmm_cases.phase_space(made))
        assert made.integrator.statistics.tried == 2
    # A jump has an error of its own where a platform computes in single precision, which classical steps spread.
    tolerance = 1e-9 if platform == "Reference" else 1e-4
    np.testing.assert_allclose(ends[1][0], ends[0][0], atol=tolerance)
    np.testing.assert_allclose(ends[1][1], ends[0][1], atol=100 * tolerance)


def pairs(folder, *, periodic: bool = False) -> tuple[TrajectoryPairs, ...]:
    """Bursts of three frames, whose velocities slow down."""
    first = gpu_cases.system(periodic=periodic)
    topology = Topology(numbers=first.numbers.numpy(), masses=first.masses.numpy(), bonds=first.bonds.numpy())
    path, bursts, lag = folder / "pairs.h5md", 60, gpu_cases.TIMESTEP
    about = {"made by": "a test"}
    with StoreWriter(
        path, topology, 3 * bursts, velocities=True, forces=True, cells=periodic, kind="bursts", provenance=about
    ) as writer:
        for burst in range(bursts):
            state = gpu_cases.system(burst, periodic=periodic)
            positions, velocities = state.positions.numpy(), state.velocities.numpy()
            for frame in range(3):
                writer.write(
                    positions,
                    burst + frame * lag,
                    velocities=velocities,
                    forces=-20.0 * state.masses.numpy()[:, None] * velocities,
                    cell=None if state.cell is None else state.cell[0].numpy(),
                )
                velocities = 0.85 * velocities
                positions = positions + lag * velocities
        writer.finish(lag, 3 * np.arange(bursts)[:, None] + [0, 3])
    return TrajectoryPairs(path, lag=lag, progress=False).split((0.6, 0.2, 0.2))


def settings(updates: int, **changes) -> TrainingConfig:
    propagator = {**SMALL, **changes.pop("propagator", {})}
    values = {"updates": updates, "batch_size": 8, "validate_every": 6, "checkpoint_every": 2, "warmup": 2}
    where = "gpu" if DEVICE.type == "cuda" else "cpu"
    return TrainingConfig.from_mapping({**values, "accelerator": where, **changes, "propagator": propagator})


TRAINED = {
    "force-free": {},
    "two jumps, noise, MMD": {"unroll": 2, "noise": 0.05, "mmd_weight": 0.03, "mmd_samples": 5},
    "force-start": {"propagator": {"kind": "force-start"}},
    "position, with forces of EGHN": {
        "propagator": {"kind": "position", "architecture": "eghn", "architecture_options": {"clusters": 3}},
        "connectivity_weight": 0.1,
    },
    "kick-drift, forces first": {"propagator": {"kind": "kick-drift", "kicks": 2}, "force_updates": 4},
    "bfloat16": {"precision": "bf16-mixed"},
    "double": {"precision": "64-true"},
}
if DEVICE.type == "cuda":
    TRAINED["float16"] = {"precision": "16-mixed"}


@pytest.mark.parametrize("case", TRAINED)
def test_a_short_training_gives_a_model_for_the_cpu(case, tmp_path, require):
    require("lightning")
    changes = TRAINED[case]
    if "eghn" in str(changes):
        changes = {**changes, "propagator": {**changes["propagator"], "layers": 1, "virtual_nodes": 3}}
    training, validation, _ = pairs(tmp_path)
    result = fit(training, validation, settings(12, **changes), tmp_path / "model.safetensors", progress=False)
    assert result.propagator.device == torch.device("cpu")
    assert result.updates == 12
    learned = result.metrics["one_step"]["learned"]
    assert all(np.isfinite(value) for value in learned.values())
    loaded = fastegnn_md.load(tmp_path / "model.safetensors")
    assert loaded.identity() == result.propagator.identity()


class Stopped(Exception):
    """What ends a run in the middle."""


def test_a_run_on_the_gpu_resumes_and_ends_as_one_that_was_not_stopped(tmp_path, require, monkeypatch):
    require("lightning")
    from fastegnn_md.training.module import PropagatorModule

    training, validation, _ = pairs(tmp_path, periodic=True)
    config = settings(12, precision="64-true", noise=0.05)
    whole = fit(training, validation, config, tmp_path / "whole.safetensors", progress=False)

    step = PropagatorModule.training_step

    def stopping(self, *given):
        if self.progress.update == 7:
            raise Stopped
        return step(self, *given)

    monkeypatch.setattr(PropagatorModule, "training_step", stopping)
    output = tmp_path / "stopped.safetensors"
    with pytest.raises(Stopped):
        fit(training, validation, config, output, progress=False)
    monkeypatch.setattr(PropagatorModule, "training_step", step)
    resumed = fit(training, validation, config, output, resume=True, progress=False)
    assert resumed.updates == 12
    for one, other in zip(resumed.propagator.parameters(), whole.propagator.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_a_run_gives_the_losses_it_gives_on_the_cpu(tmp_path, require):
    require("lightning")
    training, validation, _ = pairs(tmp_path)
    ends = {}
    for where in (settings(8).accelerator, "cpu"):
        config = settings(8, precision="64-true", accelerator=where, logger="none")
        ends[where] = fit(training, validation, config, progress=False).metrics["one_step"]
    for name, value in ends["cpu"]["learned"].items():
        assert ends[settings(8).accelerator]["learned"][name] == pytest.approx(value, rel=1e-6)
