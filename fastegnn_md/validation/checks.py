"""All checks one after the other; what cannot be measured says why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .._progress import progress_bar
from ..errors import ConfigError, FastEGNNMDError
from . import drawn_rows, engine_rows, ensemble_rows
from .case import PIECES, Case, check_frames, independent
from .report import Report
from .rollouts import RollOuts
from .rows import Finding, Row
from .run import Run

if TYPE_CHECKING:
    from ase import Atoms
    from MDAnalysis import AtomGroup

    from ..data import TrajectoryPairs
    from ..propagator.learned_map import LearnedMap


class Check(NamedTuple):
    """A row to come: its name, what its figure is, and how it is found.

    ``find`` raises one of the package's errors where it cannot; its message becomes the reason.
    """

    name: str
    quantity: str
    find: Callable[[Case], Finding]


CHECKS: tuple[Check, ...] = (
    Check(
        "one-step",
        "One-step error over that of the best of three baselines, the worse of x and v",
        engine_rows.one_step,
    ),
    Check(
        "calibration",
        "Error of a step of a committee over its spread, RMS, the worse of x and v",
        engine_rows.calibration,
    ),
    Check("temperature", "Largest relative deviation of the temperature of an element", ensemble_rows.temperature),
    Check("equipartition", "Hottest over coldest element, each over the reference, − 1", ensemble_rows.equipartition),
    Check(
        "kinetic-energy",
        "p of physical_validation's test of the kinetic energy against the canonical ensemble",
        ensemble_rows.kinetic_energy,
    ),
    Check("ensemble", "physical_validation's check of two temperatures", engine_rows.two_temperatures),
    Check("drift", "Drift of the total energy at constant energy, over std(K)", engine_rows.drift),
    Check("h(r)", "Distances of all pairs of atoms, ∫ |h − h_ref| dr", ensemble_rows.pair_distances),
    Check("g(r)", "Radial distributions, mean |g − g_ref|", ensemble_rows.radial_distributions),
    Check("vdos", "Vibrational spectrum of v, ½ ∫ |S − S_ref| dν", ensemble_rows.vibrations),
    Check("vdos-dx", "Vibrational spectrum of dx/dt, ½ ∫ |S − S_ref| dν", ensemble_rows.vibrations_of_positions),
    Check("msd", "Diffusion coefficient, relative deviation", ensemble_rows.diffusion),
    Check("torsions", "Torsions, mean Jensen-Shannon distance (100 bins)", ensemble_rows.torsions),
    Check("torsions-joint", "φ and ψ together, mean Jensen-Shannon distance (50 × 50)", ensemble_rows.joint_torsions),
    Check(
        "tica",
        "Two slowest components of the torsions, Jensen-Shannon distance (50 × 50)",
        ensemble_rows.slow_components,
    ),
    Check(
        "populations",
        "Populations of basins of φ and ψ, largest deviation over what is allowed",
        drawn_rows.populations,
    ),
    Check("map", "φ and ψ together, Jensen-Shannon distance beside halves of the reference", drawn_rows.maps),
    Check("transitions", "Transitions between basins after a jump, largest difference", drawn_rows.transitions),
    Check("time-scales", "Implied time scales of slow processes, |ln t / t_ref|", drawn_rows.time_scales),
    Check("detailed-balance", "Net flux between basins, in standard errors", drawn_rows.detailed_balance),
    Check("chirality", "Stereocentres that turned over", drawn_rows.chirality),
    Check("energy", "Mean potential energy after relaxing, difference to the reference", drawn_rows.energy),
    Check("bonds", "RMS deviation of bonds from the mean of the reference", drawn_rows.bonds),
    Check("reversibility", "|R∘Ψ∘R∘Ψ − 1| of x over the displacement of a jump", engine_rows.reversibility),
    Check("constraints", "Relative deviation of held distances, RMS", ensemble_rows.constraint_violation),
    Check("fallback", "Share of jumps that guards refused", engine_rows.fallback),
    Check("break-even", "Time of a jump over that of the classical steps it replaces", engine_rows.break_even),
)


def validate(
    propagator: LearnedMap,
    reference: Sequence[AtomGroup],
    learned: RollOuts | Sequence[AtomGroup],
    *,
    pairs: TrajectoryPairs | Callable[[], TrajectoryPairs] | None = None,
    atoms: Atoms | None = None,
    bonds: np.ndarray | None = None,
    temperature: float | None = None,
    tica_lag: float | None = None,
    classical_timestep: float = 1e-3,
    factor: float = 1.5,
    seed: int = 0,
    checks: Sequence[Check] = CHECKS,
    progress: bool = False,
) -> Report:
    """Judge learned dynamics by a reference.

    Parameters
    ----------
    propagator : LearnedMap
    reference : sequence of AtomGroup
        The same atoms in independent reference runs, a universe each. A single one is cut into five pieces.
    learned : RollOuts, or sequence of AtomGroup
        From :func:`roll_out`, or trajectories that are there.
    pairs : TrajectoryPairs, or a function that makes them, optional
        For one-step errors.
    atoms : ase.Atoms, optional
        With the calculator and the constraints of the classical engine, for reversibility and break-even.
    bonds : ndarray of int, shape (M, 2), optional
        Where the topology does not have all.
    temperature : float, optional
        K, of the thermostat of the learned runs.
    tica_lag : float, optional
        ps; asks for the row ``tica``.
    classical_timestep : float
        ps, of the engine's own dynamics.
    factor : float
        How many times the mean spread of the reference still counts as within it.
    seed : int
        Of bootstrap and drawn velocities.
    checks : sequence of Check
        Rows of the report, in this order.
    progress : bool
        Show progress bars.

    Raises
    ------
    DataError
        If a frame of the reference or of the learned runs is damaged.
    ConfigError
        If there is nothing to compare, or the atoms are not the same.
    """
    if not reference:
        raise ConfigError("there is no reference; give one trajectory or more")
    rollouts, groups = None, []
    if isinstance(learned, RollOuts):
        rollouts, groups = learned, [record.run.atoms for record in learned.records]
    else:
        groups = list(learned)
    if not groups:
        raise ConfigError("there is no learned run")
    sizes = {len(group) for group in (*reference, *groups)}
    if len(sizes) > 1:
        raise ConfigError(f"the runs have {sorted(sizes)} atoms; all must be of the same ones")
    if not factor > 0:
        raise ConfigError(f"the spread factor is {factor}; expected a number > 0")
    runs, ours = [Run.whole(group) for group in reference], [Run.whole(group) for group in groups]
    check_frames([*runs, *ours], progress)
    case = Case(
        propagator,
        independent(runs),
        ours,
        pairs=pairs,
        rollouts=rollouts,
        atoms=atoms,
        bonds=bonds,
        temperature=temperature,
        tica_lag=tica_lag,
        classical_timestep=classical_timestep,
        factor=factor,
        rng=np.random.default_rng(seed),
        progress=progress,
    )
    rows = [measure(case, check) for check in progress_bar(checks, desc="checks", unit="row", disable=not progress)]
    return Report(
        f"Validation of a propagator: {propagator.describe()}", rows, _facts(case, seed), _remarks(case, len(reference))
    )


def measure(case: Case, check: Check) -> Row:
    """The row of a check; an error of the package becomes "not measured" and its reason."""
    if case.propagator.stochastic and check.name in drawn_rows.SENSELESS:
        return Row(check.name, check.quantity, "not measured", note=drawn_rows.SENSELESS[check.name])
    try:
        return check.find(case).row(check.name, check.quantity)
    except FastEGNNMDError as error:
        return Row(check.name, check.quantity, "not measured", note=" ".join(str(error).split()))


def _facts(case: Case, seed: int) -> dict[str, object]:
    return {
        "time step, fs": 1e3 * case.propagator.timestep,
        "training data": case.propagator.fingerprint,
        "atoms": len(case.reference[0].atoms),
        "reference runs": len(case.reference),
        "frames of the reference": sum(run.n_frames for run in case.reference),
        "learned runs": len(case.learned),
        "frames of the learned runs": sum(run.n_frames for run in case.learned),
        "temperature, K": case.temperature,
        "spread factor": case.factor,
        "seed": seed,
    }


def _remarks(case: Case, trajectories: int) -> list[str]:
    remarks = [
        "A figure with reference runs is a distance of the pooled learned runs to the pooled reference. It is within "
        f"if no larger than {case.factor:g} times the mean distance of a reference run to the pool of the others; "
        "figures without are held against a stated limit. Intervals: 95 %, block bootstrap of the learned runs."
    ]
    if trajectories == 1:
        remarks.append(
            f"There is one reference trajectory: {PIECES} pieces of it stand for independent runs. Where its slowest "
            "motions take longer than a piece the pieces share them, and the spread comes out too small or too large; "
            "independent runs tell."
        )
    if case.rollouts is not None and case.rollouts.conserve_energy:
        remarks.append(
            "Velocities were scaled after each jump to conserve the energy: the row 'drift' tells of the scaling, not "
            "of the propagator."
        )
    spans = [min(run.n_frames * run.spacing for run in runs) for runs in _timed(case)]
    if len(spans) == 2:
        remarks.append(f"The shortest reference run spans {spans[0]:g} ps, the shortest learned run {spans[1]:g} ps.")
        if spans[1] * len(case.learned) < spans[0]:
            remarks.append(
                "The learned runs together are shorter than one reference run: they lie further from the reference by "
                "chance alone. Make them longer before a verdict 'outside' is believed."
            )
    return remarks


def _timed(case: Case) -> list[list[Run]]:
    try:
        for run in (*case.reference, *case.learned):
            _ = run.spacing
    except FastEGNNMDError:
        return []
    return [case.reference, case.learned]
