"""A learned map with the fluctuations that it does not explain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError, DataError
from ..mechanics.constraints import Constraints
from ..mechanics.motion import centre_of_mass
from ..state import State
from ..units import BOLTZMANN
from .config import PropagatorConfig
from .domain import Domain
from .draws import Generators, normal
from .learned_map import LearnedMap
from .prediction import Prediction, Trust
from .provenance import Provenance


class Fluctuating(LearnedMap):
    """A propagator whose jumps get back the fluctuations that its predictions lack.

    A network that is trained on squared errors predicts means. What it cannot explain of positions and velocities, the
    variance of its errors, is lost in each jump: a friction without the noise that belongs to it. With u the share of
    the variance of velocities that is lost, a thermostat of friction γ holds a temperature of about 1 − u/(γ Δt) of its
    own. Here each jump is followed by Gaussian noise with the covariance of the errors of x and v of each element,

    √m δx = √(kT) L₁₁ ξ₁,      √m δv = √(kT) (L₂₁ ξ₁ + L₂₂ ξ₂),      L Lᵀ the covariance in units of kT,

    less its motion of the centre of mass where momentum is conserved. That restores the temperature of each element;
    how far vibrations of one element agree is up to how alike they are explained. Without a temperature (NVE) there is
    no noise.

    Parameters
    ----------
    base : LearnedMap
        Of a kind that predicts velocities.
    numbers : sequence of int
        Elements.
    covariance : Tensor, shape (S, 2, 2)
        Of mass-scaled errors of x (ps) and v (no unit) of each of the elements, over kT.

    Raises
    ------
    ConfigError
        If the base redraws velocities, or the covariance is not one.
    """

    config: PropagatorConfig
    timestep: float
    domain: Domain
    fingerprint: str
    provenance: Provenance | None
    audited: bool

    numbers: Tensor
    root: Tensor

    def __init__(self, base: LearnedMap, numbers: Iterable[int], covariance: Tensor):
        super().__init__()
        if not base.predicts_velocities or isinstance(base, Fluctuating):
            raise ConfigError(f"fluctuations are for propagators that predict velocities, this is: {base.describe()}")
        elements = torch.tensor([int(number) for number in numbers])
        given = covariance.to(torch.float64)
        root, failed = torch.linalg.cholesky_ex(given)
        if given.shape != (len(elements), 2, 2) or bool(failed.any()) or not bool(torch.isfinite(root).all()):
            raise ConfigError(f"the covariance is {given.tolist()}; expected one of x and v for each of the elements")
        self.base = base
        self.config, self.timestep, self.domain = base.config, base.timestep, base.domain
        self.fingerprint, self.provenance, self.audited = base.fingerprint, base.provenance, False
        self.register_buffer("numbers", elements)
        self.register_buffer("root", root)

    @classmethod
    @torch.no_grad()
    def measured(
        cls, base: LearnedMap, pairs: Iterable[tuple[State, State]], *, held: Sequence[Sequence[int]] | None = None
    ) -> Fluctuating:
        """With the errors of a map on pairs it was not trained on.

        Parameters
        ----------
        base : LearnedMap
            Whose jumps are force-free, or find their forces in the pairs.
        pairs : iterable of (State, State)
            Starts and ends a time step later, ends unwrapped relative to starts: batches of
            :meth:`TrajectoryPairs.batch`. Their own kinetic temperature is that of the errors.
        held : sequence of (int, int), optional
            Atoms at fixed distance, as in all of the starts. Errors along these bonds, which a step takes off, are not
            counted, and neither are these degrees of freedom.

        Raises
        ------
        DataError
            If there are no pairs, or atoms of one element do not move.
        """
        numbers = list(base.domain.species)
        sums = torch.zeros(len(numbers), 2, 2, dtype=torch.float64)
        counts, thermal = torch.zeros(2, len(numbers), dtype=torch.float64).unbind(0)
        for start, end in pairs:
            start, end = start.to(dtype=torch.float64), end.to(dtype=torch.float64)
            found, root = base.predict(start), start.masses.sqrt()[:, None]
            assert found.velocities is not None  # of a map that predicts them
            wrong_x = end.positions - start.positions - found.displacement.double()
            wrong_v = end.velocities - found.velocities.double()
            if held is not None:
                bonds = _bonds(held, start)
                wrong_x, wrong_v = (bonds.project_velocities(end, one) for one in (wrong_x, wrong_v))
            for index, number in enumerate(numbers):
                of = start.numbers == number
                errors = torch.stack([(root * one)[of].flatten() for one in (wrong_x, wrong_v)], dim=1)
                sums[index] += errors.T @ errors
                counts[index] += len(errors)
                thermal[index] += (root * end.velocities)[of].square().sum()
        if not bool((counts > 0).all()) or not bool((thermal > 0).all()):
            raise DataError(
                f"there are no pairs in which all of the elements {numbers} move: give some of these systems"
            )
        # Of free coordinates the mean is the better known; where bonds are held, they leave each element its own number
        kt = thermal if held is not None else counts * (thermal.sum() / counts.sum())
        return cls(base, numbers, sums / kt[:, None, None])

    @property
    def unexplained(self) -> dict[int, float]:
        """Share of the variance of velocities of each element that a jump of the base loses."""
        lost = self.root[:, 1].square().sum(dim=1)
        return dict(zip(self.numbers.tolist(), lost.tolist(), strict=True))

    @property
    def covariance(self) -> Tensor:
        """Of the errors, shape (S, 2, 2), as it was given."""
        return self.root @ self.root.transpose(1, 2)

    def predict(self, state: State, *, generator: Generators | None = None) -> Prediction:
        """What the base says: the mean."""
        return self.base.predict(state, generator=generator)

    @torch.no_grad()
    def with_trust(
        self, state: State, *, generator: Generators | None = None, temperature: float | None = None
    ) -> tuple[State, Trust]:
        """Where a state comes to, with noise of a temperature (K); without, where there is none."""
        ended, trust = self.base.with_trust(state, generator=generator, temperature=temperature)
        if temperature is None:
            return ended, trust
        if generator is None:
            raise ConfigError("fluctuations are drawn: give a generator")
        index = (state.numbers[:, None] == self.numbers.to(state.device)).long().argmax(1)
        root = self.root.to(state.device)[index] * (BOLTZMANN * temperature / state.masses).sqrt()[:, None, None]
        first, second = (normal(state, generator, torch.float64) for _ in range(2))
        shift = torch.cat([root[:, :1, 0] * first, root[:, 1:, 0] * first + root[:, 1:, 1] * second], dim=1)
        if self.domain.conserves_momentum:
            shift = shift - centre_of_mass(shift, state)
        shift = shift.to(ended.dtype)
        return ended.replace(
            positions=ended.positions + shift[:, :3], velocities=ended.velocities + shift[:, 3:]
        ), trust

    def check(self, state: State) -> None:
        """Refuse a system that the base refuses."""
        self.base.check(state)

    def compile(self) -> None:
        """Translate the jumps of the base."""
        self.base.compile()

    def force_positions(self, state: State) -> Tensor | None:
        """Where the base wants forces."""
        return self.base.force_positions(state)

    def with_forces(self, state: State, forces: Tensor) -> State:
        """As the base does."""
        return self.base.with_forces(state, forces)

    @property
    def dtype(self) -> torch.dtype:
        """Of the base."""
        return self.base.dtype

    def residual_scale(self, state: State) -> Tensor:
        """That of the base."""
        return self.base.residual_scale(state)

    def describe(self) -> str:
        """One line for people."""
        lost = ", ".join(f"{100 * share:.2g} %" for share in self.unexplained.values())
        return f"{self.base.describe()}; with fluctuations of {lost} of the velocities"


def _bonds(held: Sequence[Sequence[int]], state: State) -> Constraints:
    """For velocities, which do not depend on lengths."""
    bonds = torch.as_tensor(held, dtype=torch.int64).reshape(-1, 2)
    if len(bonds) and not 0 <= int(bonds.min()) <= int(bonds.max()) < state.n_atoms:
        raise DataError(f"held bonds have the atoms {int(bonds.min())} to {int(bonds.max())}, starts {state.n_atoms}")
    free = torch.zeros(state.n_atoms, dtype=torch.bool)
    return Constraints(state.masses, bonds, torch.ones(len(bonds)), free)
