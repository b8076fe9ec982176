"""Small systems in motion, and engines with a potential in closed form, for maps along gradients."""

from __future__ import annotations

import numpy as np
import torch
from ase.build import molecule as ase_molecule

from fastegnn_md import State
from fastegnn_md.data import StoreWriter, Topology
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.verlet import velocity_verlet
from fastegnn_md.units import KJ_PER_MOL

DT = 0.004


def formaldehyde(seed: int = 0) -> State:
    atoms = ase_molecule("H2CO")
    rng = torch.Generator().manual_seed(seed)
    numbers = torch.tensor(atoms.numbers)
    return State(
        positions=torch.tensor(atoms.positions) + 0.05 * torch.randn(4, 3, generator=rng, dtype=torch.float64),
        velocities=8.0 * torch.randn(4, 3, generator=rng, dtype=torch.float64),
        numbers=numbers.long(),
        masses=torch.tensor(atoms.get_masses()),
        bonds=torch.tensor([[0, 1], [1, 2], [1, 3]]),
    )


def argon(seed: int = 0) -> State:
    """Atoms in a cell that is not rectangular."""
    rng = torch.Generator().manual_seed(seed)
    cell = torch.tensor([[8.4, 0, 0], [1.0, 8.4, 0], [0, 0.6, 8.4]], dtype=torch.float64)
    places = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3) / 2
    return State(
        positions=places @ cell + 0.2 * torch.randn(8, 3, generator=rng, dtype=torch.float64),
        velocities=2.0 * torch.randn(8, 3, generator=rng, dtype=torch.float64),
        numbers=torch.full((8,), 18),
        masses=torch.full((8,), 39.948, dtype=torch.float64),
        cell=cell[None],
    )


def springs(state: State):
    """Energy of harmonic springs between all atoms, amu Å²/ps²."""
    i, j = torch.triu_indices(state.n_atoms, state.n_atoms, 1)
    first = (state.positions[i] - state.positions[j]).norm(dim=1)

    def energy(x: torch.Tensor) -> torch.Tensor:
        return 2e3 * ((x[i] - x[j]).norm(dim=1) - 0.97 * first).square().sum()

    return energy


def lennard_jones(state: State):
    cell = None if state.cell is None else state.cell[0]
    i, j = torch.triu_indices(state.n_atoms, state.n_atoms, 1)

    def energy(x: torch.Tensor) -> torch.Tensor:
        d = x[i] - x[j]
        if cell is not None:
            d = d - torch.round((d @ torch.linalg.inv(cell)).detach()) @ cell
        s6 = (3.4 / d.norm(dim=1)).pow(6) if cell is not None else (0.9 / d.norm(dim=1)).pow(6)
        return 400.0 * (s6.square() - s6).sum()

    return energy


def forces_of(energy):
    def forces(x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return -torch.autograd.grad(energy(x), x, create_graph=True)[0]

    return forces


def symplecticity(flow, state: State, time: float) -> tuple[float, float]:
    """Largest entries of JᵀΩJ − Ω and J − 1 of a map of q and p, in units in which all parts are of order one."""
    q, p = state.positions.flatten(), (state.masses[:, None] * state.velocities).flatten()
    (qq, qp), (pq, pp) = torch.autograd.functional.jacobian(flow, (q, p))
    jacobian = torch.cat([torch.cat([qq, qp], dim=1), torch.cat([pq, pp], dim=1)])
    one, none = torch.eye(len(q), dtype=torch.float64), torch.zeros(len(q), len(q), dtype=torch.float64)
    omega = torch.cat([torch.cat([none, one], dim=1), torch.cat([-one, none], dim=1)])
    # q by s, p by 1/s, which leaves Ω as it is.
    scale = torch.cat([torch.full_like(q, time**-0.5), torch.full_like(p, time**0.5)])
    scaled = scale[:, None] * jacobian / scale
    change = scaled - torch.eye(2 * len(q), dtype=torch.float64)
    return float((scaled.T @ omega @ scaled - omega).abs().max()), float(change.abs().max())


def bursts(path, interval: float, count: int = 12):
    """Bursts of formaldehyde in springs of its own, at constant energy."""
    first = formaldehyde()
    topology = Topology(numbers=first.numbers.numpy(), masses=first.masses.numpy(), bonds=first.bonds.numpy())
    forces, frames = forces_of(springs(first)), round(2 * DT / interval) + 1
    options = {
        "velocities": True,
        "forces": True,
        "cells": False,
        "kind": "bursts",
        "provenance": {"made by": "a test"},
    }
    with StoreWriter(path, topology, count * frames, **options) as writer:
        for number in range(count):
            state = formaldehyde(number)
            for frame in range(frames):
                writer.write(
                    state.positions.numpy(),
                    number + frame * interval,
                    velocities=state.velocities.numpy(),
                    forces=(forces(state.positions).detach() / KJ_PER_MOL).numpy(),
                    cell=None,
                )
                state = velocity_verlet(state, lambda x: forces(x).detach(), interval / 8, 8, free(state))
                state = state.replace(forces=None)
        writer.finish(interval, frames * np.arange(count)[:, None] + [0, frames])
    return path


def free(state: State) -> Constraints:
    none = torch.zeros(0, 2, dtype=torch.int64)
    return Constraints(state.masses, none, torch.zeros(0), torch.zeros(state.n_atoms, dtype=torch.bool))
