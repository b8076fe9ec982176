"""A learned map that is symplectic whatever its weights, and asks no engine: kicks along gradients of a potential."""

from __future__ import annotations

from typing import ClassVar

import torch

from ..state import State
from ..units import format_time
from .along_energy import EnergyPropagator
from .prediction import Prediction


class ConservativePropagator(EnergyPropagator):
    """Advance systems by a palindrome of kicks along gradients of a learned potential, without forces of an engine.

    x ← x + v δ/2,  then  v ← v + δ a_k(x),  x ← x + v δ  for k = 1..K,  the last of these drifts over δ/2;  δ = Δt/K,

    m a_k = −∂U/∂x with the potential U(x; k) of :class:`EnergyPropagator`.

    Every factor is the flow of a Hamiltonian, so the product is symplectic and a Hamiltonian near that of the kicks is
    conserved; it reads the same from both ends, so it is its own inverse once velocities are turned round; momentum and
    angular momentum are conserved (Hairer, Lubich, Wanner, Geometric Numerical Integration, 2006, chapters V, VI and
    IX). All of this holds for any weights. What training decides is whether it is the right Hamiltonian.

    Parameters and attributes are those of :class:`EnergyPropagator`.
    """

    kinds: ClassVar[tuple[str, ...]] = ("conservative",)

    def describe(self) -> str:
        """One line for people."""
        where = "periodic" if self.periodic else "isolated"
        return (
            f"conservative {self.config.architecture} of {self.config.kicks} kicks along a learned potential, "
            f"Δt = {format_time(self.timestep)}, {where}, elements {self.species}"
        )

    def _jump(self, state: State) -> Prediction | None:
        return self._predict(state)  # kick by kick, each by the library where it serves

    def _predict(self, state: State) -> Prediction:
        kicks = self.config.kicks
        step, masses = self.timestep / kicks, state.masses[:, None]
        v = state.velocities
        displacement = 0.5 * step * v
        for number in range(kicks):
            from_middle = abs(2 * number + 1 - kicks) // 2
            place = torch.full_like(state.masses, (2 * from_middle + (1 - kicks % 2)) / kicks)
            v = v + step * self._force(state.positions + displacement, state, place) / masses
            displacement = displacement + (step if number + 1 < kicks else 0.5 * step) * v
        edges = None if self.surroundings is None or torch.is_grad_enabled() else self._neighbours(state)
        return Prediction(displacement, v, edges=edges)
