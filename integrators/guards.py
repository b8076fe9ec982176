"""Guards look whether a predicted state is finite and plausible, compared with what was seen in training."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from fastegnn_md.constraints import UnreachableLengthError
from fastegnn_md.errors import ConfigError, ConstraintError, StateError
from fastegnn_md.limits import JumpLimits, bond_vectors
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN


@dataclass(frozen=True)
class GuardReport:
    """What the guards found.

    Attributes
    ----------
    ok : bool
    guard : str
        Which guard refused: ``finite``, ``displacement``, ``speed``, ``bond``, ``constraints`` or ``energy``; empty if
        none did.
    atom : int or None
        Index of the atom that is furthest outside.
    message : str
        What was found and what the limit is, without the name of the atom.
    """

    ok: bool
    guard: str = ""
    atom: int | None = None
    message: str = ""


PASSED = GuardReport(True)


@dataclass(frozen=True)
class GuardSettings:
    """How far beyond the range of training a jump may go.

    Parameters
    ----------
    displacement_factor : float
        Largest |Δq| and |v′| accepted, in units of the largest seen for the element.
    bond_margin : float
        Share by which the range of a bond length is widened at both ends.
    energy_change : float, optional
        Largest |ΔU| of the potential energy accepted, in kT of the whole system. It costs an energy evaluation per
        jump; None does not look. In equilibrium |ΔU| stays below about 6 √f for f degrees of freedom.

    Raises
    ------
    ConfigError
        If the factor or the energy is not positive or the margin is not in [0, 1).
    """

    displacement_factor: float = 1.5
    bond_margin: float = 0.15
    energy_change: float | None = None

    def __post_init__(self) -> None:
        if not self.displacement_factor > 0:
            raise ConfigError(f"displacement_factor is {self.displacement_factor}; expected a number > 0")
        if not 0 <= self.bond_margin < 1:
            raise ConfigError(f"bond_margin is {self.bond_margin}; expected 0 <= bond_margin < 1")
        if self.energy_change is not None and not self.energy_change > 0:
            raise ConfigError(f"energy_change is {self.energy_change}; expected a number > 0 (in kT), or None")


def guard_settings(guard: bool | GuardSettings) -> GuardSettings | None:
    """What ``guard=`` means to dynamics and integrators: True the defaults, False only what is not finite (None)."""
    if guard is True:
        return GuardSettings()
    return guard or None


def check_finite(positions: Tensor, velocities: Tensor) -> GuardReport:
    """Refuse NaN and infinity in positions (N, 3) or velocities (N, 3)."""
    for name, values in (("position", positions), ("velocity", velocities)):
        wrong = ~torch.isfinite(values).all(dim=1)
        if bool(wrong.any()):
            return GuardReport(False, "finite", int(wrong.nonzero()[0]), f"its predicted {name} is not finite")
    return PASSED


def check_jump(
    before: State, after: State, limits: JumpLimits, settings: GuardSettings = GuardSettings()
) -> GuardReport:
    """Hold a jump against the ranges of training.

    Elements and kinds of bond without a limit are not checked; bonds are those of ``before.bonds``.

    Parameters
    ----------
    before, after : State
        The systems before and after the jump. Positions of ``after`` are unwrapped relative to ``before``: the
        displacement is their plain difference, also in a periodic box.
    limits : JumpLimits
        Of the propagator.
    settings : GuardSettings
        Margins.

    Returns
    -------
    GuardReport
        Of the first guard that refuses (finite, displacement, speed, bond), with the atom furthest outside.
    """
    report = check_motion(before, after, limits, settings)
    return check_bonds(before, after, limits, settings) if report.ok else report


def check_motion(before: State, after: State, limits: JumpLimits, settings: GuardSettings) -> GuardReport:
    """The guards that look at one atom at a time: finite, displacement, speed; arguments of :func:`check_jump`."""
    report = check_finite(after.positions, after.velocities)
    if not report.ok:
        return report
    factor = settings.displacement_factor
    moved = (after.positions - before.positions).norm(dim=1)
    report = _check_size("displacement", "would move {:.3g} Å", "Å", moved, before, limits.displacement, factor)
    if not report.ok:
        return report
    speed = after.velocities.norm(dim=1)
    return _check_size("speed", "would have the speed {:.3g} Å/ps", "Å/ps", speed, before, limits.speed, factor)


def check_bonds(before: State, after: State, limits: JumpLimits, settings: GuardSettings) -> GuardReport:
    """The guard of bond lengths; arguments of :func:`check_jump`."""
    if before.bonds is None or not limits.bonds:
        return PASSED
    return _check_bonds(before, after, limits, settings.bond_margin)


def check_energy(before: float, after: float, temperature: float, settings: GuardSettings) -> GuardReport:
    """The guard of the potential energy.

    Parameters
    ----------
    before, after : float
        Potential energy, amu Å²/ps².
    temperature : float
        K, > 0.
    settings : GuardSettings
    """
    if settings.energy_change is None:
        return PASSED
    change = (after - before) / (BOLTZMANN * temperature)
    if abs(change) <= settings.energy_change:  # false for NaN
        return PASSED
    message = f"the potential energy would change by {change:.3g} kT, limit {settings.energy_change:.3g} kT"
    return GuardReport(False, "energy", None, message)


def report_of_error(error: StateError | ConstraintError) -> GuardReport:
    """What a state that could not be built, or a constraint that could not be satisfied, is to a guard."""
    if isinstance(error, UnreachableLengthError):
        return GuardReport(False, "constraints", error.atoms[0], str(error))
    if isinstance(error, ConstraintError):
        return GuardReport(False, "constraints", None, str(error))
    # A State refuses what is not finite and names the atom; the tensor itself is gone.
    match = re.match(r"(positions|velocities|forces) has a NaN or infinite value at index (\d+)", str(error))
    if match is None:
        return GuardReport(False, "finite", None, str(error))
    return GuardReport(False, "finite", int(match[2]), f"its predicted {match[1]} are not finite")


def _check_size(
    guard: str, what: str, unit: str, values: Tensor, state: State, limits: dict[int, float], factor: float
) -> GuardReport:
    if not limits:
        return PASSED
    table = torch.full((int(max(int(state.numbers.max()), *limits)) + 1,), math.inf, dtype=values.dtype)
    for number, limit in limits.items():
        table[number] = factor * limit
    limit_of = table.to(values.device)[state.numbers]
    excess = values - limit_of
    if bool((excess <= 0).all()):
        return PASSED
    atom = int((values / limit_of.clamp(min=1e-30)).argmax())
    message = f"{what.format(float(values[atom]))}, limit {float(limit_of[atom]):.3g} {unit}"
    return GuardReport(False, guard, atom, message)


def _check_bonds(before: State, after: State, limits: JumpLimits, margin: float) -> GuardReport:
    bonds = before.bonds
    assert bonds is not None  # the caller has looked
    a, b = bonds.unbind(1)
    # The image is that of the state before: after a wild jump the nearest image could hide a broken bond.
    shifts = bond_vectors(before) - (before.positions[a] - before.positions[b])
    length = (after.positions[a] - after.positions[b] + shifts).norm(dim=1)
    size = int(before.numbers.max()) + 1
    low = torch.zeros((size, size), dtype=length.dtype)
    high = torch.full((size, size), math.inf, dtype=length.dtype)
    for (p, q), (shortest, longest) in limits.bonds.items():
        if q < size:
            low[p, q] = low[q, p] = (1 - margin) * shortest
            high[p, q] = high[q, p] = (1 + margin) * longest
    kind = before.numbers[a], before.numbers[b]
    low_of, high_of = low.to(length.device)[kind], high.to(length.device)[kind]
    excess = torch.maximum(length - high_of, low_of - length)
    if bool((excess <= 0).all()):
        return PASSED
    k = int(excess.argmax())
    # Of the two atoms the one that moved further is the likelier culprit.
    moved = (after.positions - before.positions).norm(dim=1)
    atom, other = (int(a[k]), int(b[k])) if moved[a[k]] >= moved[b[k]] else (int(b[k]), int(a[k]))
    message = (
        f"its bond to atom {other} would be {float(length[k]):.3f} Å long, "
        f"limits {float(low_of[k]):.3f} to {float(high_of[k]):.3f} Å"
    )
    return GuardReport(False, "bond", atom, message)
