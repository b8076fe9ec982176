"""Jumps by reading a Context, stepping on the host, and writing it: the Context answers as an engine of ASE does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.system import FORCE, NM, JumpSystem
from fastegnn_md.state import State
from fastegnn_md.units import KJ_PER_MOL

from ..guards import GuardReport
from ..step import Classical, GuardedStep

with naming_extras(__name__):
    import openmm


class Host:
    """Read the Context, jump, write it.

    Parameters
    ----------
    context : openmm.Context
    part : JumpSystem
        The atoms that jump; the others stay.
    guarded : GuardedStep
    groups : set of int
        Force groups of the classical potential.
    place_sites : callable
        Puts virtual sites of a Context where they belong.
    """

    def __init__(
        self,
        context: openmm.Context,
        part: JumpSystem,
        guarded: GuardedStep,
        groups: set[int],
        place_sites: Callable[[openmm.Context], None],
    ):
        system = context.getSystem()
        n = part.n_particles
        masses = np.array([system.getParticleMass(i)._value for i in range(n)])
        self._inverse = np.divide(1.0, masses, out=np.zeros(n), where=masses > 0)[:, None]
        self._periodic = system.usesPeriodicBoundaryConditions()
        self._part, self._guarded, self._groups, self._place_sites = part, guarded, groups, place_sites
        self._atoms: Any = slice(None) if part.whole_system else part.atoms
        self._before: tuple[np.ndarray, np.ndarray] | None = None  # as the Context was read
        self._rest = np.zeros((0, 3))  # positions of all particles, of which those that do not jump are right
        self._on_step = np.zeros((0, 3))  # velocities of all particles at the time of the positions
        self._start: State | None = None
        self._prepared: State | None = None

    def jump(self, context: openmm.Context, half_step: float, rng: np.random.Generator) -> GuardReport:
        """Make a guarded jump; see :class:`~fastegnn_md.integrators.openmm.jump.Transport`."""
        self._before = None
        self._start = self._read(context, half_step)
        classical, constraints = self._classical(context), self._part.constraints
        self._prepared = self._guarded.prepare(self._start, constraints, rng, classical)
        ended, report = self._guarded.attempt(self._prepared, constraints, rng, classical)
        if report.ok:
            self._write(context, ended)
        return report

    def replace(self, context: openmm.Context, rng: np.random.Generator, report: GuardReport) -> None:
        """Classical steps in place of the jump that was just refused."""
        assert self._prepared is not None and self._before is not None  # there was a jump
        self._rest, constraints = self._before[0], self._part.constraints
        self._write(context, self._guarded.replace(self._prepared, constraints, rng, self._classical(context), report))

    def back_shift(self, context: openmm.Context, half_step: float) -> None:
        """Bring velocities back to half a step ago."""
        state = context.getState(velocities=True, forces=True, groups=self._groups)
        v, f = state.getVelocities(asNumpy=True)._value, state.getForces(asNumpy=True)._value
        context.setVelocities(v - half_step * f * self._inverse)

    def restore(self, context: openmm.Context) -> None:
        """Put back positions and velocities as they were read."""
        if self._before is not None:
            context.setPositions(self._before[0])
            context.setVelocities(self._before[1])

    def _read(self, context: openmm.Context, half_step: float) -> State:
        informed = self._guarded.propagator.wants_forces == "start"
        wanted = informed or half_step > 0
        state = context.getState(positions=True, velocities=True, forces=wanted, groups=self._groups)
        x, v = state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value
        self._before, self._rest, self._on_step = (x, v), x, v
        forces = None
        if wanted:
            f = state.getForces(asNumpy=True)._value
            self._on_step = v + half_step * f * self._inverse
            if informed:
                forces = self._tensor(np.where(self._inverse > 0, f, 0.0))
        box = torch.tensor(state.getPeriodicBoxVectors(asNumpy=True)._value) if self._periodic else None
        return self._part.state(self._tensor(x), self._tensor(self._on_step), forces, box)

    def _write(self, context: openmm.Context, ended: State) -> None:
        context.setPositions(self._moved(ended.positions))
        v = self._on_step.copy()
        v[self._atoms] = ended.velocities.numpy() / NM
        context.setVelocities(v)

    def _moved(self, positions: Tensor) -> np.ndarray:
        """Positions of all particles in nm for those of the atoms that jump in Å.

        Displacements, as the state may hold another image of a molecule.
        """
        assert self._start is not None and self._before is not None  # the Context has been read
        x = self._rest.copy()
        x[self._atoms] = self._before[0][self._atoms] + ((positions - self._start.positions) / NM).numpy()
        return x

    def _classical(self, context: openmm.Context) -> Classical:
        """The classical potential with the atoms that jump at other places; the others stay."""

        def place(positions: Tensor) -> None:
            context.setPositions(self._moved(positions))
            self._place_sites(context)

        def forces(positions: Tensor) -> Tensor:
            place(positions)
            f = context.getState(forces=True, groups=self._groups).getForces(asNumpy=True)._value
            return self._tensor(np.where(self._inverse > 0, f, 0.0)) * FORCE

        def energy(positions: Tensor) -> float:
            place(positions)
            return context.getState(energy=True, groups=self._groups).getPotentialEnergy()._value * KJ_PER_MOL

        def minimise(positions: Tensor, steps: int) -> Tensor:
            place(positions)
            openmm.LocalEnergyMinimizer.minimize(context, maxIterations=steps)
            after = context.getState(positions=True).getPositions(asNumpy=True)._value
            moved = self._tensor(after - self._moved(positions)) * NM
            self._rest = after  # the minimiser moves all particles
            return positions + moved

        return Classical(forces, energy, minimise)

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values[self._atoms])
