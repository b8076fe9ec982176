"""Several propagators that predict together, and how far they differ.

Members are trained alike from different seeds or on different parts of the data, and differ where the data leaves them
free (query by committee: Seung, Opper, Sompolinsky, COLT 1992; for potentials Schran, Brezina, Marsalek, J. Chem. Phys.
153, 104105, 2020). Errors that all of them share do not show: :mod:`fastegnn_md.training.calibration` compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CompatibilityError, ConfigError
from ..state import State
from ..units import format_time
from .base import Propagator
from .config import PropagatorConfig
from .domain import MASS_TOLERANCE, Domain
from .draws import Generators
from .learned_map import LearnedMap
from .limits import JumpLimits
from .prediction import Prediction, Spread, Trust
from .provenance import Provenance


class Committee(LearnedMap):
    """The mean of several propagators, with their spread.

    Stands wherever a :class:`~fastegnn_md.Propagator` does: dynamics, integrators, one-step errors. Members predict one
    after the other, so a jump costs as much as all of theirs. The mean keeps what each of them keeps: symmetries, and
    momentum where members conserve it.

    Parameters
    ----------
    members : sequence of Propagator
        Two or more with one time step, kind, precision, and sort of training data: elements, masses, boundary, bonds,
        conservation of momentum. Networks and cutoffs may differ.

    Attributes
    ----------
    members : sequence of Propagator
    timestep : float
        ps.
    config : PropagatorConfig
        That of the member with the longest cutoff.
    domain : Domain
        That of the first member, with the limits that hold for all of them.
    fingerprint : str
        Those of the training data of the members, joined by commas, each once.

    Raises
    ------
    ConfigError
        If there are fewer than two members, one is given twice (as an object or a copy) or is not a propagator.
    CompatibilityError
        If members differ in what they must share.
    """

    timestep: float
    species: tuple[int, ...]

    members: Sequence[Propagator]
    has_spread = True

    def __init__(self, members: Sequence[Propagator]):
        super().__init__()
        members = list(members)
        _check_members(members)
        if members[0].kind == "symplectic":
            raise ConfigError(
                "propagators of kind 'symplectic' make no committee: each asks the engine at a place of its own, and "
                "their mean is not symplectic; take one of them"
            )
        if members[0].stochastic:
            raise ConfigError(
                "propagators of kind 'flow' make no committee: the mean of draws is not a draw; take one of them"
            )
        first = members[0]
        self.timestep, self.species = first.timestep, first.species
        self.config: PropagatorConfig = max(members, key=lambda one: one.config.cutoff).config
        self.domain: Domain = dataclasses.replace(first.domain, limits=_common_limits([one.limits for one in members]))
        self.provenance: Provenance | None = first.provenance
        self.audited: bool = all(one.audited for one in members)
        self.fingerprint: str = ",".join(dict.fromkeys(one.fingerprint for one in members))
        self.members = nn.ModuleList(members)  # type: ignore[assignment]  # a sequence of its own kind

    @classmethod
    def load(cls, paths: Sequence[str | Path], device: torch.device | str = "cpu") -> Committee:
        """Read the files of members (paths or names, as :meth:`Propagator.load` takes them).

        Raises
        ------
        CheckpointError
            As :meth:`Propagator.load`.
        ConfigError, CompatibilityError
            If they make no committee.
        """
        if isinstance(paths, (str, Path)):
            raise ConfigError(f"a committee is loaded from several files; got {str(paths)!r}, give a list of paths")
        return cls([Propagator.load(path, device) for path in paths])

    def check(self, state: State) -> None:
        """Refuse a system that a member refuses; see :meth:`Propagator.check`."""
        for member in self.members:
            member.check(state)

    def compile(self) -> None:
        """Translate the jumps of the members; see :meth:`Propagator.compile`."""
        for member in self.members:
            member.compile()

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the networks."""
        return self.members[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.members[0].device

    def predict(self, state: State, *, generator: Generators | None = None) -> Prediction:
        """Mean and spread of what the members say of a state; without virtual nodes, which are each member's own."""
        each = [member.predict(state, generator=generator) for member in self.members]
        root, scale = state.masses.sqrt(), self.residual_scale(state)
        x, spread_x = _mean_and_spread([one.displacement for one in each], root / scale[:, 0])
        v = spread_v = None
        if self.predicts_velocities:
            velocities = [one.velocities for one in each if one.velocities is not None]
            v, spread_v = _mean_and_spread(velocities, root / scale[:, 1])
        unlike = [one.trust.unlike for one in each if one.trust.unlike is not None]
        farthest = torch.stack(unlike).amax(0) if unlike else None
        return Prediction(x, v, trust=Trust(Spread(spread_x, spread_v), farthest))

    def residual_scale(self, state: State) -> Tensor:
        """Mean of the members' residual scales, shape (N, 2): amu^½ Å and amu^½ Å/ps."""
        return torch.stack([member.residual_scale(state) for member in self.members]).mean(0)

    def describe(self) -> str:
        """One line for people."""
        return f"committee of {len(self.members)}: {self.members[0].describe()}"


def _mean_and_spread(values: list[Tensor], weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of K tensors (N, 3), and the weighted standard deviation of a component for each atom (N,)."""
    first = values[0]
    # Differences from the first: members that agree give their own value and a spread of zero, both exactly.
    apart = torch.stack(values) - first
    mean = apart.mean(0)
    variance = (apart - mean).square().sum(dim=(0, 2)) / (3 * (len(values) - 1))
    return first + mean, weight.to(first.dtype) * variance.sqrt()


def _check_members(members: list[Propagator]) -> None:
    if len(members) < 2:
        raise ConfigError(f"a committee of {len(members)}; two propagators at least are needed to differ")
    for index, member in enumerate(members):
        if not isinstance(member, Propagator):
            raise ConfigError(f"member {index} of the committee is a {type(member).__name__}; expected a Propagator")
        if any(member is other for other in members[:index]):
            raise ConfigError(f"member {index} of the committee is given twice; load or train another one")
        for what, here, there in _differences(members[0], member):
            raise CompatibilityError(
                f"members of a committee must fit together, but {what} of member {index} is {there}, that of member 0 "
                f"{here}; train them alike, with other seeds or other data of the same kind"
            )
    weights = [member.identity()["weights"] for member in members]
    for index, one in enumerate(weights):
        if one in weights[:index]:
            raise ConfigError(
                f"members {weights.index(one)} and {index} of the committee have the same weights and never differ; "
                "train one with another seed"
            )


def _differences(first: Propagator, other: Propagator) -> list[tuple[str, object, object]]:
    """What must be the same and is not: its name and both values."""
    pairs: list[tuple[str, object, object]] = [
        ("Δt", format_time(first.timestep), format_time(other.timestep)),
        ("the kind", first.kind, other.kind),
        ("the list of elements", first.species, other.species),
        ("the precision", first.dtype, other.dtype),
    ]
    pairs += [
        (f"domain.{name}", getattr(first.domain, name), getattr(other.domain, name))
        for name in ("periodic", "bonds", "conserves_momentum")
    ]
    differing = [(what, here, there) for what, here, there in pairs if here != there]
    for number in sorted(set(first.domain.masses) & set(other.domain.masses)):
        here, there = first.domain.masses[number], other.domain.masses[number]
        if any(abs(a - b) > MASS_TOLERANCE * a for a, b in zip(here, there, strict=True)):
            differing.append((f"the range of masses (amu) of atomic number {number}", here, there))
    return differing


def _common_limits(limits: list[JumpLimits]) -> JumpLimits:
    """Ranges that lie within those of every member; of what only some members limit, theirs."""
    bonds: dict[tuple[int, int], tuple[float, float]] = {}
    for kind in dict.fromkeys(kind for one in limits for kind in one.bonds):
        known = [one.bonds[kind] for one in limits if kind in one.bonds]
        bonds[kind] = (max(low for low, _ in known), min(high for _, high in known))
        if bonds[kind][0] > bonds[kind][1]:
            raise CompatibilityError(
                f"the ranges of bond lengths between atomic numbers {kind} that members of the committee have seen do "
                f"not overlap: {known} Å; train them on data of one system"
            )
    return JumpLimits(
        displacement=_smallest([one.displacement for one in limits]),
        bonds=bonds,
        speed=_smallest([one.speed for one in limits]),
    )


def _smallest(tables: list[dict[int, float]]) -> dict[int, float]:
    numbers = dict.fromkeys(number for table in tables for number in table)
    return {number: min(table[number] for table in tables if number in table) for number in numbers}
