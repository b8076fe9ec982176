"""A learned map that is symplectic whatever its weights, with the force of the engine in its middle."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..state import State
from ..units import format_time
from .along_energy import EnergyPropagator
from .prediction import Prediction, Residual, Trust

_LIGHT = 2.99792458e-2  # cm/ps


class SymplecticPropagator(EnergyPropagator):
    """Advance systems by a palindrome of kicks along gradients of a learned potential, corrected by one of the engine.

    With K kicks, δ = Δt/K, and the learned potential U(x; k) of the k-th,

    x ← x + v δ/2,  then  v ← v + δ a_k(x),  x ← x + v δ  for k = 1..K,  the last of these drifts over δ/2;

    m a_k = −∂U/∂x, but in the middle  m a_k = K [F(x) − (1 − 1/K) (−∂U/∂x)]:

    were U the potential of the engine, every kick would be that of velocity Verlet with a step of δ; what U gets wrong
    is put right by the force F of the engine once a jump, as in multiple-time-step integration (Tuckerman, Berne,
    Martyna, J. Chem. Phys. 97, 1990, 1992). Training makes U such that errors of the larger steps are gone, too. The
    engine is asked where the first half of the map leads: :meth:`force_positions`.

    With ``mollify``, a wavenumber ω/2πc, the correction V − U that the engine stands for is taken at
    A(x) = x − M⁻¹ ∂U/∂x / ω², where vibrations of about this frequency are at rest, and its force is multiplied by the
    transpose of ∂A/∂x (mollified impulse method: García-Archilla, Sanz-Serna, Skeel, SIAM J. Sci. Comput. 20, 930,
    1998). The engine is then asked at A(x). What it would correct of such vibrations is left out, and with it the
    resonances between them and the time step, which heat from steps of half their period on. Training takes no notice.

    U is that of :class:`EnergyPropagator`; momentum and angular momentum are conserved. Every factor is the flow of a
    Hamiltonian if F is a gradient, so the product is symplectic; it reads the same from both ends, so it is its own
    inverse once velocities are turned round (Hairer, Lubich, Wanner, Geometric Numerical Integration, 2006, chapters V
    and VI). Both hold for any weights and to rounding.

    Parameters and attributes are those of :class:`EnergyPropagator`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("symplectic",)
    _last: _Half | None = None

    # forces -----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def force_positions(self, state: State) -> Tensor:
        """Where the forces are to be evaluated, shape (N, 3), Å: the middle of the jump, as the first kicks lead to it.

        Raises
        ------
        CompatibilityError
            As :meth:`check`.
        """
        self.check(state.replace(midpoint_forces=torch.zeros_like(state.positions)))
        self._last = None
        half = self._half(state)
        asked = half.positions
        if self._softness:
            own = self._force(half.positions, state, torch.zeros_like(state.masses))
            asked = asked + self._softness * own / state.masses[:, None]
            half = half._replace(asked=asked, own=own)
        self._last = half  # for the jump, which follows once the engine has answered
        return asked

    def residual(self, start: State, end: State, *, generator: torch.Generator | None = None) -> Residual:
        """Errors of a batch of training pairs; see :meth:`LearnedMap.residual`.

        Where ``start`` brings the positions and forces of the true middle, forces of the engine at the predicted middle
        are these and the difference that the learned potential makes: F(x̂) ≈ F(x) + ∂U/∂x(x) − ∂U/∂x(x̂).
        """
        prediction, middle = self._moved(start)
        scale = self.residual_scale(start)
        found = prediction.residual(start, end, scale)
        if start.midpoint_positions is None:
            return found
        error = (middle - start.midpoint_positions).to(scale.dtype)
        return found._replace(middle=start.masses.sqrt()[:, None].to(scale.dtype) * error / scale[:, :1])

    def describe(self) -> str:
        """One line for people."""
        where = "periodic" if self.periodic else "isolated"
        return (
            f"symplectic {self.config.architecture} of {self.config.kicks} kicks, one along the force of an engine, "
            f"Δt = {format_time(self.timestep)}, {where}, elements {self.species}"
        )

    # the jump ---------------------------------------------------------------------------------------------------------

    def _jump(self, state: State) -> Prediction | None:
        energy, forces = self._learned_energy(state), self.forces_of(state)
        if energy is None or energy.halves is None or forces is None or state.midpoint_positions is not None:
            return None
        half = self._half(state)
        if self._softness:
            forces = self._mollified(state, half, forces)[0]
        moved, v = energy.halves.second(energy.packed(), half.positions, half.velocities, forces)
        displacement = (half.positions - state.positions) + moved
        return Prediction(displacement, v, trust=Trust(unlike=half.unlike))

    def _predict(self, state: State) -> Prediction:
        return self._moved(state)[0]

    def _moved(self, state: State) -> tuple[Prediction, Tensor]:
        """The jump, and where the system is halfway."""
        kicks, forces = self.config.kicks, self.forces_of(state)
        assert state.batch is not None and forces is not None  # checked
        step, masses = self.timestep / kicks, state.masses[:, None]
        half = self._half(state)
        middle = half.positions
        x, v = middle, half.velocities
        if self._softness and state.midpoint_positions is None:
            forces, own = self._mollified(state, half, forces)
        else:
            own = self._force(x, state, torch.zeros_like(state.masses))
        if state.midpoint_positions is not None:
            # With its gradients: the engine's force follows the predicted middle, and knows nothing of the weights.
            forces = forces + own - self._force(state.midpoint_positions, state, torch.zeros_like(state.masses))
        v = v + (self.timestep * forces - (self.timestep - step) * own) / masses
        for number in range(kicks // 2):
            x = x + step * v
            place = torch.full_like(state.masses, 2 * (number + 1) / kicks)
            v = v + step * self._force(x, state, place) / masses
        x = x + 0.5 * step * v
        edges = None if self.surroundings is None or torch.is_grad_enabled() else self._neighbours(state)
        return Prediction(x - state.positions, v, edges=edges), middle

    @property
    def _softness(self) -> float:
        """1/ω², ps², of the vibrations that are taken out of the correction; 0 where none are."""
        wavenumber = self.config.mollify
        return 0.0 if wavenumber is None else 1.0 / (2 * math.pi * _LIGHT * wavenumber) ** 2

    def _mollified(self, state: State, half: _Half, forces: Tensor) -> tuple[Tensor, Tensor]:
        """Force to take for the engine's, and the learned one (N, 3), at the middle.

        What the engine adds to U is V − U at A(x) = x − M⁻¹ ∂U/∂x / ω². The force of this is that of V − U there, times
        the transpose of ∂A/∂x.
        """
        x, nowhere, masses = half.positions, torch.zeros_like(state.masses), state.masses[:, None]
        own, asked = half.own, half.asked
        if own is None or asked is None:
            own = self._force(x, state, nowhere)
            asked = x + self._softness * own / masses
        wrong = forces - self._force(asked, state, nowhere)
        along, wanted = wrong / masses, torch.is_grad_enabled()
        energy = None if wanted else self._learned_energy(state)
        if energy is not None:
            curved = energy.curvature(x, along, state).to(x.dtype)
        else:
            with torch.enable_grad():
                y = x if x.requires_grad else x.detach().requires_grad_()
                (curved,) = torch.autograd.grad(self._by_torch(y, state, nowhere), y, along, create_graph=wanted)
        return wrong - self._softness * curved + own, own

    def _half(self, state: State) -> _Half:
        """Positions and velocities halfway, before the kick in the middle; asked before, not computed again."""
        last, self._last = self._last, None
        if last is not None and not torch.is_grad_enabled() and last.fits(state):
            return last
        energy = None if torch.is_grad_enabled() else self._learned_energy(state)
        if energy is not None and energy.halves is not None:
            moved, v, unlike = energy.halves.first(energy.packed(), state.positions, state.velocities)
            return _Half(state, state.positions + moved.to(state.dtype), v.to(state.dtype), unlike)
        kicks = self.config.kicks
        step, masses = self.timestep / kicks, state.masses[:, None]
        v = state.velocities
        x = state.positions + 0.5 * step * v
        for number in range(kicks // 2, 0, -1):
            v = v + step * self._force(x, state, torch.full_like(state.masses, 2 * number / kicks)) / masses
            x = x + step * v
        return _Half(state, x, v)

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_last": None}


class _Half(NamedTuple):
    """A state half a jump on."""

    of: State
    positions: Tensor
    velocities: Tensor
    unlike: Tensor | None = None  # surroundings at the start, where they were looked at
    asked: Tensor | None = None  # where the engine is asked, if that is another place
    own: Tensor | None = None  # learned force at the positions, where it is known

    def fits(self, state: State) -> bool:
        """Whether it is that of this state."""
        of = self.of
        return state.positions is of.positions and state.velocities is of.velocities and state.has_atoms_of(of)
