"""Guards look whether a predicted state is finite and plausible, compared with what was seen in training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastegnn_md.errors import ConfigError, ConstraintError, JumpError, NotFiniteError, Remedy, StateError
from fastegnn_md.mechanics.constraints import UnreachableLengthError
from fastegnn_md.nn.native.functions import INTEGER, POINTER, NativeFunction
from fastegnn_md.propagator.learned_map import LearnedMap
from fastegnn_md.propagator.limits import JumpLimits, bond_vectors
from fastegnn_md.state import State, all_finite
from fastegnn_md.units import BOLTZMANN

from .ranges import Ranges

if TYPE_CHECKING:
    from fastegnn_md.propagator.prediction import Spread

# What the C++ library does not find within its limits is looked at again.
_motion_within = NativeFunction("motion_within", INTEGER, *[POINTER] * 5)
_bonds_within = NativeFunction("bonds_within", INTEGER, *[POINTER] * 4)


@dataclass(frozen=True)
class GuardReport:
    """What the guards found.

    Attributes
    ----------
    ok : bool
    guard : str
        Which guard refused: ``finite``, ``displacement``, ``speed``, ``spread``, ``surroundings``,
        ``constraints``, ``bond``, ``chirality``, ``torsion``, ``relaxation``, ``energy`` or ``audits``; empty if
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
    spread : float, optional
        Largest :class:`~fastegnn_md.propagator.committee.Spread` of an atom accepted, of positions or of velocities as
        predicted (before constraints), in units of the residual scale. It needs a :class:`~fastegnn_md.Committee`;
        None does not look.
    surroundings : float, optional
        Largest distance of the surroundings of an atom from those of training accepted, in units of the largest there
        (:class:`~fastegnn_md.propagator.surroundings.Surroundings`). None does not look.
    audits : float
        Share of the time to spend on audits: at jumps drawn by chance the engine, where there is one, says by how much
        the total energy changed (:class:`~fastegnn_md.integrators.audits.Audits`). 0 asks never. Audits out of bounds
        warn, replace the next jumps by classical steps, and end the run when it happens again and again.

    Raises
    ------
    ConfigError
        If a factor, the energy or the spread is not positive, or the margin or the share is not in [0, 1).
    """

    displacement_factor: float = 1.5
    bond_margin: float = 0.15
    energy_change: float | None = None
    spread: float | None = None
    surroundings: float | None = 2.0
    audits: float = 0.2

    def __post_init__(self) -> None:
        for name in ("displacement_factor", "bond_margin", "energy_change", "spread", "surroundings", "audits"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
                raise ConfigError(f"{name} is {value!r}; expected a number")
        if not self.displacement_factor > 0:
            raise ConfigError(f"displacement_factor is {self.displacement_factor}; expected a number > 0")
        if not 0 <= self.bond_margin < 1:
            raise ConfigError(f"bond_margin is {self.bond_margin}; expected 0 <= bond_margin < 1")
        if self.energy_change is not None and not self.energy_change > 0:
            raise ConfigError(f"energy_change is {self.energy_change}; expected a number > 0 (in kT), or None")
        if self.spread is not None and not self.spread > 0:
            raise ConfigError(
                Remedy(f"spread is {self.spread}; expected a number > 0 (in residual scales)", ", or None")
            )
        if self.surroundings is not None and not self.surroundings > 0:
            raise ConfigError(f"surroundings is {self.surroundings}; expected a number > 0, or None")
        if self.audits is None or not 0 <= self.audits < 1:
            raise ConfigError(f"audits is {self.audits}; expected a share of the time, 0 <= audits < 1")


def guard_settings(guard: bool | GuardSettings | None) -> GuardSettings | None:
    """What ``guard=`` means: True the defaults, False only what is not finite (None); raises ConfigError for others."""
    if guard is None or isinstance(guard, bool):
        return GuardSettings() if guard else None
    if not isinstance(guard, GuardSettings):
        raise ConfigError(f"guard is {guard!r}; expected True, False or GuardSettings")
    return guard


def check_finite(positions: Tensor, velocities: Tensor) -> GuardReport:
    """Refuse NaN and infinity in positions (N, 3) or velocities (N, 3)."""
    for name, values in (("position", positions), ("velocity", velocities)):
        if not all_finite(values):
            wrong = ~torch.isfinite(values).all(dim=1)
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
        Of the first guard that refuses (finite, displacement, speed, bond, and where the limits know torsions,
        chirality and torsion), with the atom furthest outside.
    """
    ranges = Ranges.of(before, limits, settings.displacement_factor, settings.bond_margin)
    report = check_motion(before, after, ranges)
    return check_geometry(before, after, ranges) if report.ok else report


def ranges_of(state: State, propagator: LearnedMap, settings: GuardSettings, known: Ranges | None) -> Ranges:
    """Limits of the atoms of a state; those that are known where they are of the same atoms."""
    if known is not None and known.fit(state):
        return known
    limits = propagator.limits
    if not propagator.predicts_velocities:  # drawn at the user's temperature, not learned
        limits = replace(limits, speed={})
    return Ranges.of(state, limits, settings.displacement_factor, settings.bond_margin, redrawn=propagator.stochastic)


def check_motion(before: State, after: State, ranges: Ranges) -> GuardReport:
    """The guards that look at one atom at a time: finite, displacement, speed; states of :func:`check_jump`."""
    x, ends, v = before.positions, after.positions, after.velocities
    native = _motion_within.get() if ranges.read(x, ends, v) else None
    if native is not None:
        addresses = [None if limit is None else limit.data_ptr() for limit in (ranges.displacement, ranges.speed)]
        if native(before.n_atoms, x.data_ptr(), ends.data_ptr(), v.data_ptr(), *addresses):
            return PASSED
    checks = []
    if ranges.displacement is not None:
        moved = torch.linalg.vector_norm(after.positions - before.positions, dim=1)
        checks.append(("displacement", "would move {:.3g} Å", "Å", moved, ranges.displacement))
    if ranges.speed is not None:
        speed = torch.linalg.vector_norm(after.velocities, dim=1)
        checks.append(("speed", "would have the speed {:.3g} Å/ps", "Å/ps", speed, ranges.speed))
    if all(bool((values <= limits).all()) for *_, values, limits in checks):
        return PASSED  # a State holds finite numbers only
    report = check_finite(after.positions, after.velocities)
    for check in checks:
        if report.ok:
            report = _check_size(*check)
    return report


def check_spread(spread: Spread, settings: GuardSettings) -> GuardReport:
    """The guard that asks how far the members of a committee differ; names the atom they differ about most."""
    if settings.spread is None or float(spread.largest.max()) <= settings.spread:  # false for NaN
        return PASSED
    atom = int(spread.largest.argmax())
    what = "position" if spread.v is None or spread.x[atom] >= spread.v[atom] else "velocity"
    message = (
        f"the committee differs by {float(spread.largest[atom]):.3g} residual scales about its {what}, limit "
        f"{settings.spread:.3g}"
    )
    return GuardReport(False, "spread", atom, message)


def check_surroundings(unlike: Tensor, settings: GuardSettings) -> GuardReport:
    """The guard that asks how unlike those of training the surroundings (N,) are; names the farthest atom."""
    if settings.surroundings is None or float(unlike.max()) <= settings.surroundings:  # false for NaN
        return PASSED
    atom = int(unlike.argmax())
    outside = int((unlike > settings.surroundings).sum())
    message = (
        f"its surroundings are {float(unlike[atom]):.3g} times as far from those of training as any there, limit "
        f"{settings.surroundings:.3g} ({outside} of {len(unlike)} atoms are beyond it)"
    )
    return GuardReport(False, "surroundings", atom, message)


def check_bonds(before: State, after: State, ranges: Ranges) -> GuardReport:
    """The guard of bond lengths; states of :func:`check_jump`."""
    if ranges.bonds is None or ranges.shortest is None or ranges.longest is None:
        return PASSED
    bonds, low, high = ranges.bonds, ranges.shortest, ranges.longest
    native = _bonds_within.get() if not before.periodic and ranges.read(after.positions) else None
    if native is not None:
        pointers = (x.data_ptr() for x in (bonds, after.positions, low, high))
        if native(len(bonds), *pointers):
            return PASSED
    vectors = _differences(after.positions, bonds)
    if before.periodic:
        # The image is that of the state before: after a wild jump the nearest image could hide a broken bond.
        vectors += bond_vectors(before) - _differences(before.positions, bonds)
    length = vectors.norm(dim=1)
    excess = torch.maximum(length - high, low - length)
    if bool((excess <= 0).all()):
        return PASSED
    k = int(excess.argmax())
    # Of the two atoms the one that moved further is the likelier culprit.
    moved = (after.positions - before.positions).norm(dim=1)
    atom, other = bonds[k].tolist()
    if moved[other] > moved[atom]:
        atom, other = other, atom
    message = (
        f"its bond to atom {other} would be {float(length[k]):.3f} Å long, "
        f"limits {float(low[k]):.3f} to {float(high[k]):.3f} Å"
    )
    return GuardReport(False, "bond", atom, message)


def check_geometry(before: State, after: State, ranges: Ranges) -> GuardReport:
    """The guards that look at several atoms at a time: bond, chirality, torsion; states of :func:`check_jump`."""
    report = check_bonds(before, after, ranges)
    return check_shape(before, after, ranges) if report.ok else report


def check_shape(before: State, after: State, ranges: Ranges) -> GuardReport:
    """The guards of molecules that are drawn as a whole, chirality and torsion; states of :func:`check_jump`."""
    if ranges.shape is None:
        return PASSED
    found = ranges.shape.changed_hand(before.positions, after.positions)
    if found is not None:
        return GuardReport(False, "chirality", *found)
    found = ranges.shape.unknown_torsion(after.positions)
    return PASSED if found is None else GuardReport(False, "torsion", *found)


def _differences(x: Tensor, bonds: Tensor) -> Tensor:
    return x.index_select(0, bonds[:, 0]) - x.index_select(0, bonds[:, 1])


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
    if isinstance(error, NotFiniteError) and error.atom is not None:
        return GuardReport(False, "finite", error.atom, f"its predicted {error.field.replace('_', ' ')} are not finite")
    return GuardReport(False, "finite", None, str(error))


def failed_steps(error: StateError | ConstraintError) -> str:
    """What made classical steps fail, which went off from a finite geometry, and what to do."""
    strained = "minimise the geometry before the run, or, where jumps have led to it, train the model longer"
    if not isinstance(error, NotFiniteError) or error.atom is None:
        return f"{error}; if the geometry is too strained for them, {strained}"
    if "force" in error.field:
        return (
            f"the engine's forces on atom {error.atom} are infinite or NaN: either it found no convergence, or atoms "
            f"are too near; look at its output, or {strained}"
        )
    what = error.field.replace("_", " ")
    return f"{what} of atom {error.atom} are not finite: with the engine's forces it flies apart; {strained}"


def _check_size(guard: str, what: str, unit: str, values: Tensor, limits: Tensor) -> GuardReport:
    if bool((values <= limits).all()):
        return PASSED
    atom = int((values / limits.clamp(min=1e-30)).argmax())
    message = f"{what.format(float(values[atom]))}, limit {float(limits[atom]):.3g} {unit}"
    return GuardReport(False, guard, atom, message)


def jump_error(state: State, report: GuardReport, python: str, shell: str | None = None) -> JumpError:
    """The error of a refused jump that nothing replaces, and what to do; names the element of the atom."""
    from MDAnalysis.guesser.tables import Z2SYMB  # slow to import, and needed for this message only

    where = ""
    if report.atom is not None:
        number = int(state.numbers[report.atom])
        where = f" at atom {report.atom} ({Z2SYMB.get(number, f'atomic number {number}')})"
    return JumpError(
        Remedy(
            f"the {report.guard} guard refused the jump{where}: {report.message}. Nothing was written; ",
            python,
            python if shell is None else shell,
        ),
        report.atom,
    )
