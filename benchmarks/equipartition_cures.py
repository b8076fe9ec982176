"""What can be done to a trained propagator that leaks: noise for what it does not explain, symmetry, feedback."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from physics_systems import ASESystem
from torch import Tensor

from fastegnn_md import Propagator, State
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.propagator import Fluctuating, LearnedMap
from fastegnn_md.propagator.prediction import Prediction
from fastegnn_md.units import BOLTZMANN

CURES = ("none", "noise", "noise-0.85", "symmetrised", "feedback")
_TAU = 1.0  # ps, of the feedback


def cured(propagator: Propagator, arguments: argparse.Namespace, folder: Path, system: ASESystem) -> LearnedMap:
    """The propagator, wrapped or changed in place."""
    if arguments.cure.startswith("noise"):
        noisy = with_noise(propagator, folder, system.lag, float(arguments.cure.partition("-")[2] or 1.0))
        print(noisy.describe(), flush=True)
        return noisy
    predict = propagator.predict
    if arguments.cure == "symmetrised":

        def symmetrised(state: State, *, generator: Any = None) -> Prediction:
            return there_and_back(predict, state)

        propagator.predict = symmetrised  # type: ignore[method-assign]
    elif arguments.cure == "feedback":
        feedback, kt = torch.zeros(len(propagator.species), dtype=torch.float64), BOLTZMANN * system.temperature

        def scaled(state: State, *, generator: Any = None) -> Prediction:
            return with_feedback(predict(state), state, feedback, propagator, kt)

        propagator.predict = scaled  # type: ignore[method-assign]
    return propagator


def with_noise(
    propagator: Propagator, folder: Path, lag: float, factor: float, held: list[list[int]] | None = None
) -> Fluctuating:
    """With the covariance of errors on the bursts of a folder, or a part of it; lag in fs, held bonds."""
    pairs = TrajectoryPairs(folder / "bursts.h5md", lag=f"{lag} fs", time_reversal=True, progress=False)
    batches = (pairs.batch([index]) for index in range(0, len(pairs), 2))
    noisy = Fluctuating.measured(propagator, batches, held=held)
    return noisy if factor == 1.0 else Fluctuating(propagator, noisy.numbers, factor * noisy.covariance)


def with_feedback(found: Prediction, state: State, feedback: Tensor, propagator: Propagator, kt: float) -> Prediction:
    """A friction of each element, of either sign, that its own temperature drives (adaptive Langevin dynamics)."""
    assert found.velocities is not None
    species, dt = propagator._species_index[state.numbers], propagator.timestep
    velocities = found.velocities * torch.exp(-dt * feedback[species])[:, None]
    thermal = state.masses * velocities.square().sum(1) / (3 * kt)
    for index in range(len(feedback)):
        feedback[index] += dt / _TAU**2 * (float(thermal[species == index].mean()) - 1)
    return found._replace(velocities=velocities)


def there_and_back(predict: Any, state: State) -> Prediction:
    """Ψ(z − e/2), e = RΨRΨ(z) − z: half of what the way there and back adds is taken off."""
    ended = predict(state).end(state, None, None)
    turned = ended.replace(velocities=-ended.velocities)
    back = predict(turned).end(turned, None, None)
    x = 1.5 * state.positions - 0.5 * back.positions
    v = 1.5 * state.velocities + 0.5 * back.velocities
    found = predict(state.replace(positions=x, velocities=v))
    return found._replace(displacement=found.displacement + (x - state.positions))
