"""Checks of what jumps sample and how fast: basins, transitions, time scales, fluxes, handedness, bonds."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ..data.topology import quiet, read_topology
from ..errors import DataError
from ..graph.stereo import signed_volumes, stereocentres
from ..report.page import Table
from . import torsion_runs
from .case import PIECES, Case, pools
from .engine import NO_ENGINE, Engine
from .observables.chirality import flips
from .observables.frames import FrameAnalysis
from .observables.geometry import bond_lengths
from .observables.kinetics import CLUSTERS, fit_clusters
from .observables.metastable import MetastableSets, metastable_sets
from .observables.torsions import find_torsions, torsion_angles
from .rows import Finding
from .run import Run
from .slow_processes import compare_timescales
from .statistics import bootstrap_error, bootstrap_interval
from .torsion_runs import TorsionRuns, features_of

# What a stochastic map of picoseconds cannot be asked, and why.
SENSELESS = {
    "one-step": "a draw has no error of a step: see populations, transitions and time-scales",
    "drift": "velocities are drawn anew after every jump, so nothing conserves an energy",
    "vdos": "velocities are drawn anew after every jump and know nothing of vibrations",
    "vdos-dx": "jumps of picoseconds know nothing of vibrations",
    "reversibility": "a draw is not undone by another one: see detailed-balance",
}
ENERGY = 3.0  # kJ/mol, of the mean potential energy
_ENERGIES = 200  # frames of a reference run, and of a block of a learned one
_SURE = 1.96
_THERMAL = 1.5  # RMS deviation of bonds over that of the reference
_ENOUGH = 8  # runs; fewer are cut into pieces
_FRAMES_OF_A_CLUSTER = 20


def populations(case: Case) -> Finding:
    """Largest deviation of the population of a basin, over what it may be."""
    return torsion_runs.compare_populations(*_both(case), case.rng)


def maps(case: Case) -> Finding:
    """Jensen-Shannon distance of the maps of φ and ψ, beside halves of the reference."""
    return torsion_runs.compare_maps(*_both(case), case.rng)


def transitions(case: Case) -> Finding:
    """Largest difference of a probability of a transition between basins after a jump."""
    return torsion_runs.compare_transitions(*_both(case), _lag(case), case.rng)


def time_scales(case: Case) -> Finding:
    """|ln t / t_ref| of the slow processes of the torsions."""
    reference, learned = _both(case)
    lag = _lag(case)
    centres = fit_clusters(reference.features, _clusters(reference.angles))
    return compare_timescales(reference, learned, lag, centres, case.rng)


def detailed_balance(case: Case) -> Finding:
    """Largest net flux between two basins in standard errors."""
    return torsion_runs.detailed_balance(_both(case)[1], _lag(case))


def chirality(case: Case) -> Finding:
    """How often a stereocentre turned over."""
    first = case.reference[0].atoms
    with quiet():
        topology = read_topology(first)
    bonds = case.bonds if topology.bonds is None else topology.bonds
    if bonds is None:
        raise DataError("the topology has no bonds, so stereocentres are not known")
    centres = stereocentres(torch.as_tensor(topology.numbers), torch.as_tensor(bonds))
    if not len(centres):
        raise DataError("no atom has four different neighbours")

    def volumes(run: Run) -> np.ndarray:
        return signed_volumes(torch.from_numpy(_positions(run)), centres).numpy()

    hand = np.mean([volumes(run).mean(axis=0) for run in case.reference], axis=0)
    found = [flips(volumes(run), hand) for run in case.learned]
    rows = [[f"learned-{k}", int(one.sum())] for k, one in enumerate(found)]
    frames = sum(run.n_frames for run in case.learned)
    note = f"limit: stated; {len(centres)} stereocentres, {frames} frames, held against the hand of the reference"
    return Finding(int(sum(one.sum() for one in found)), 0, note, tables=(Table(["run", "changes"], rows),))


def bonds(case: Case) -> Finding:
    """RMS deviation of bonds from their mean in the reference, beside its own."""
    with quiet():
        topology = read_topology(case.reference[0].atoms)
    pairs = case.bonds if topology.bonds is None else topology.bonds
    if pairs is None or not len(pairs):
        raise DataError("the topology has no bonds")
    if case.periodic:
        raise DataError("periodic: bonds may reach through the box")
    links = np.asarray(pairs)
    lengths = [bond_lengths(_positions(run), links) for run in case.reference]
    mean = np.concatenate(lengths).mean(axis=0)

    def square(run: Run) -> np.ndarray:
        return np.array([np.mean((bond_lengths(_positions(run), links) - mean) ** 2)])

    samples = case.samples("bonds", square)
    ours, thermal = (float(np.sqrt(one[0])) for one in pools(samples))
    interval = bootstrap_interval(samples[0], lambda values: float(np.sqrt(values[0])), case.rng)
    note = f"limit: {_THERMAL:g} times {thermal:.3g} Å of the reference; {len(links)} bonds"
    return Finding(
        ours, _THERMAL * thermal, note, "Å", None if interval is None else (max(0.0, interval[0]), interval[1])
    )


def energy(case: Case) -> Finding:
    """Difference of the mean potential energy of the learned frames, which were relaxed, to the reference."""
    if not case.propagator.stochastic:
        raise DataError("a row for draws, which put every atom anew; see temperature, drift and h(r)")
    if case.atoms is None or case.atoms.calc is None:
        raise DataError(NO_ENGINE)
    engine = Engine(case.atoms)

    def mean(run: Run) -> np.ndarray:
        some = dataclasses.replace(run, step=run.step * max(1, run.n_frames // _ENERGIES))
        return np.array([np.mean([engine.energy(positions) for positions in _positions(some)])])

    samples = case.samples("energy", mean)
    means = [float(one[0]) for one in pools(samples)]
    errors = [float(bootstrap_error(one, lambda values: values, case.rng)[0]) for one in samples]
    value, half = abs(means[0] - means[1]), _SURE * float(np.hypot(errors[0], errors[1]))
    rows = [list(one) for one in zip(("learned", "reference"), means, errors, strict=True)]
    return Finding(
        value,
        ENERGY,
        "limit: stated; energies by the engine of frames as they are stored",
        "kJ/mol",
        interval=(max(0.0, value - half), value + half) if np.isfinite(half) else None,
        tables=(Table(["", "mean potential energy, kJ/mol", "standard error"], rows),),
    )


class _Positions(FrameAnalysis):
    def row(self) -> np.ndarray:
        return self.atoms.positions.astype(np.float64)

    def _conclude(self) -> None:
        self.results.positions = np.array(self.taken())


def _positions(run: Run) -> np.ndarray:
    return run.analyse(_Positions(run.atoms)).results.positions


def _lag(case: Case) -> float:
    if case.propagator.stochastic:
        return case.propagator.timestep
    if case.tica_lag is None:
        raise DataError("not asked for; give --tica and a lag")
    return case.tica_lag


def _both(case: Case) -> tuple[TorsionRuns, TorsionRuns]:
    """Torsions of reference and learned runs, measured once."""
    if case.torsion_runs is None:
        with case.reference[0].first_frame():
            found = find_torsions(case.reference[0].atoms)
        lag = 0.0 if found.pairs else _lag(case)  # which may say that there is none, before anything is measured
        both = [(_torsions(runs), runs[0].spacing) for runs in (case.reference, case.learned)]
        if found.pairs:
            reference, learned = (TorsionRuns.of(*one, found.pairs, found.names) for one in both)
        else:
            sets = _sets(*both[0], lag)
            reference, learned = (TorsionRuns.unnamed(*one, sets) for one in both)
        case.torsion_runs = reference, learned
    return case.torsion_runs


def _torsions(runs: list[Run]) -> list[np.ndarray]:
    """Degrees, in pieces where there are few runs."""
    angles = []
    for piece in runs if len(runs) >= _ENOUGH else [piece for run in runs for piece in run.cut(2 * PIECES)]:
        with piece.first_frame():
            groups = find_torsions(piece.atoms).groups
            angles.append(torsion_angles(groups, start=piece.start, stop=piece.stop, step=piece.step))
    return angles


def _sets(angles: list[np.ndarray], spacing: float, lag: float) -> MetastableSets:
    """Basins of a molecule without φ and ψ, by a Markov state model of the reference."""
    frames = round(lag / spacing)
    if frames < 1:
        raise DataError(f"frames of the reference are {spacing:g} ps apart, further than a lag of {lag:g} ps")
    return metastable_sets(features_of(angles), frames, _clusters(angles))


def _clusters(runs: list[np.ndarray]) -> int:
    return min(CLUSTERS, sum(map(len, runs)) // _FRAMES_OF_A_CLUSTER)
