"""A Context read and written by the host: it answers about the classical potential as an engine of ASE does."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.system import FORCE, NM, JumpSystem
from fastegnn_md.errors import StateError
from fastegnn_md.state import State
from fastegnn_md.units import KJ_PER_MOL

from ..engine import Classical

with naming_extras(__name__):
    import openmm


Leap = Callable[[float, int], None]

_TOLERANCE = 1e-7  # of velocities along fixed bonds


def fingerprint(context: openmm.Context) -> int:
    """A number that another box, other positions or velocities change."""
    state, found = context.getState(positions=True, velocities=True), 0
    for values in (
        state.getPeriodicBoxVectors(asNumpy=True),
        state.getPositions(asNumpy=True),
        state.getVelocities(asNumpy=True),
    ):
        found = zlib.crc32(np.asarray(values._value).tobytes(), found)
    return found


class Host:
    """State of the atoms that jump, out of a Context and into it.

    Parameters
    ----------
    system : openmm.System
    part : JumpSystem
        The atoms that jump; the others stay.
    groups : set of int
        Force groups of the classical potential.
    leap : callable, optional
        Makes so many leap-frog steps of so many ps in the Context.

    Attributes
    ----------
    positions, velocities : ndarray, shape (n_particles, 3), nm and nm/ps
        As they were read.
    """

    positions: np.ndarray
    velocities: np.ndarray

    def __init__(self, system: openmm.System, part: JumpSystem, groups: set[int], leap: Leap | None = None):
        n = part.n_particles
        masses = np.array([system.getParticleMass(i)._value for i in range(n)])
        self._inverse = np.divide(1.0, masses, out=np.zeros(n), where=masses > 0)[:, None]
        self._leap = leap
        self._periodic = system.usesPeriodicBoundaryConditions()
        self._sites = any(system.isVirtualSite(i) for i in range(n))
        self._part, self._groups = part, sum(1 << group for group in groups)
        self._atoms: Any = slice(None) if part.whole_system else part.atoms
        self.positions = self.velocities = self._rest = self._on_step = np.zeros((n, 3))
        self._read_on_step = self._on_step
        self._constrained = system.getNumConstraints() > 0
        self._ended: Tensor | None = None  # positions that steps of the engine left in the Context,
        self._last_forces: np.ndarray | None = None  # and forces there
        self._start: State | None = None
        self._found: openmm.State | None = None

    def read(self, context: openmm.Context, half_step: float = 0.0, *, informed: bool = False) -> State:
        """The atoms that jump.

        Parameters
        ----------
        context : openmm.Context
        half_step : float
            ps; velocities are those of so long after those of the Context, by its forces.
        informed : bool
            With forces.

        Raises
        ------
        CompatibilityError
            If the box is too narrow for the propagator.
        """
        self._start = None
        wanted = informed or half_step > 0
        self._found = state = context.getState(positions=True, velocities=True, forces=wanted, groups=self._groups)
        self.positions, self.velocities = _rows(state, state.Positions), _rows(state, state.Velocities)
        self._rest, self._on_step, forces = self.positions, self.velocities, None
        if wanted:
            f = _rows(state, state.Forces)
            self._on_step = self.velocities + half_step * f * self._inverse
            if informed:
                forces = self._tensor(np.where(self._inverse > 0, f, 0.0))
        self._read_on_step, self._ended = self._on_step, None
        box = torch.tensor(self.box) if self._periodic else None
        self._start = self._part.state(self._tensor(self.positions), self._tensor(self._on_step), forces, box)
        return self._start

    @property
    def box(self) -> np.ndarray:
        """Of the Context when it was read, shape (3, 3), nm."""
        assert self._found is not None  # the Context has been read
        box: np.ndarray = self._found.getPeriodicBoxVectors(asNumpy=True)._value
        return box

    def write(self, context: openmm.Context, ended: State) -> None:
        """Leave a state of the atoms that jump in the Context."""
        assert self._start is not None  # the Context has been read
        if not self._left_by(ended):
            self._place(
                context, self.positions if ended.positions is self._start.positions else self._moved(ended.positions)
            )
        v = self._on_step.copy()
        v[self._atoms] = ended.velocities.numpy() / NM
        context.setVelocities(v)

    def restore(self, context: openmm.Context) -> None:
        """Put back what was read, if it was."""
        if self._start is not None:
            self._rest = self.positions
            self._place(context, self.positions)
            context.setVelocities(self.velocities)

    def back_shift(self, context: openmm.Context, half_step: float) -> None:
        """Bring velocities back to half a step ago."""
        state = context.getState(velocities=True, forces=True, groups=self._groups)
        context.setVelocities(_rows(state, state.Velocities) - half_step * _rows(state, state.Forces) * self._inverse)

    def classical(self, context: openmm.Context) -> Classical:
        """The classical potential with the atoms that jump at other places; the others stay."""

        def forces(positions: Tensor) -> Tensor:
            self._place(context, self._moved(positions))
            f = _rows(context.getState(forces=True, groups=self._groups), openmm.State.Forces)
            return self._tensor(np.where(self._inverse > 0, f, 0.0)) * FORCE

        def energy(positions: Tensor) -> float:
            self._place(context, self._moved(positions))
            return context.getState(energy=True, groups=self._groups).getPotentialEnergy()._value * KJ_PER_MOL

        def minimise(positions: Tensor, steps: int) -> Tensor:
            before = self._moved(positions)
            self._place(context, before)
            openmm.LocalEnergyMinimizer.minimize(context, maxIterations=steps)
            self._rest = _rows(context.getState(positions=True), openmm.State.Positions)  # it moves all particles
            return positions + self._tensor(self._rest - before) * NM

        return Classical(forces, energy, minimise, partial(self._verlet, context) if self._leap else None)

    def _verlet(self, context: openmm.Context, state: State, timestep: float, steps: int) -> State:
        """Velocity Verlet, as leap-frog steps of OpenMM between two half kicks; all particles move.

        Raises
        ------
        StateError
            If it ends at what is not finite.
        """
        assert self._leap is not None and self._start is not None  # the Context has been read
        half = 0.5 * timestep
        if not self._left_by(state):
            self._rest, self._on_step = self.positions, self._read_on_step  # those of an earlier draw were moved, too
            self._place(context, self._moved(state.positions))
        v = self._on_step.copy()
        v[self._atoms] = state.velocities.numpy() / NM
        context.setVelocities(v - half * self._forces_on(context) * self._inverse)
        self._hold(context)
        try:
            self._leap(timestep, steps)
            found = context.getState(positions=True, velocities=True, forces=True, groups=self._groups)
        except openmm.OpenMMException as error:
            raise StateError(str(error)) from error
        x, v, f = (_rows(found, kind) for kind in (found.Positions, found.Velocities, found.Forces))
        v = v + half * f * self._inverse
        moved = self._tensor(x - self.positions) * NM
        self._rest, self._on_step, self._last_forces = x, v, f
        ended = state.replace(positions=self._start.positions + moved, velocities=self._tensor(v) * NM)
        self._ended = ended.positions
        return ended

    def _left_by(self, state: State) -> bool:
        """Whether the particles are where the last steps left them."""
        return self._ended is not None and state.positions is self._ended

    def _forces_on(self, context: openmm.Context) -> np.ndarray:
        if self._last_forces is None:
            return _rows(context.getState(forces=True, groups=self._groups), openmm.State.Forces)
        forces, self._last_forces = self._last_forces, None
        return forces

    def _hold(self, context: openmm.Context) -> None:
        """Take from velocities what constraints forbid, which half a kick of raw forces brought in."""
        if self._constrained:
            context.applyVelocityConstraints(_TOLERANCE)

    def _moved(self, positions: Tensor) -> np.ndarray:
        """Positions of all particles in nm for those of the atoms that jump in Å.

        Displacements, as the state may hold another image of a molecule.
        """
        assert self._start is not None  # the Context has been read
        x = self._rest.copy()
        x[self._atoms] = self.positions[self._atoms] + (positions.numpy() - self._start.positions.numpy()) / NM
        return x

    def _place(self, context: openmm.Context, positions: np.ndarray) -> None:
        self._ended = self._last_forces = None
        context.setPositions(positions)
        if self._sites:
            context.computeVirtualSites()

    def _tensor(self, values: np.ndarray) -> Tensor:
        """Rows of the atoms that jump, maybe a part of the array: not to be written to."""
        return torch.from_numpy(values[self._atoms])


def _rows(state: openmm.State, kind: int) -> np.ndarray:
    """Positions, velocities or forces (n_particles, 3) of a State of OpenMM, in its units.

    What ``getPositions(asNumpy=True)`` and the like make a Quantity of, which takes several times as long.
    """
    rows = np.empty((state._getNumParticles(), 3))
    state._getVectorAsNumpy(kind, rows)
    return rows
