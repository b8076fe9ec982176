"""Hold runs of drawn jumps against classical trajectories of a peptide, row by row, beside samplers that must lose.

    python benchmarks/peptides/judge.py MODEL DATA/ala2 RUNS -o ala2-10ps.json

RUNS is the folder of ``rollout.py``, or has a DCD or XTC file for each replica, a frame for every jump. A
``prices.json`` in it with ``spent`` (seconds for data and training), ``reference`` and ``learned`` (seconds for a
nanosecond) gives the break-even. ``--mirror`` names runs of the mirror image. ``--shots 200`` adds as many shots of
classical dynamics from each of eight starts.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from data import REFERENCE, TRAINING, parts, universe
from MDAnalysis.lib.distances import calc_dihedrals
from molecules import peptide
from scipy.stats import t as student
from shots import energies, shot_row

import fastegnn_md
from fastegnn_md.errors import FastEGNNMDError
from fastegnn_md.graph.stereo import signed_volumes, stereocentres
from fastegnn_md.validation import find_torsions
from fastegnn_md.validation.baselines import GaussianJump, MarkovEmulator, independent_draws, unmoved
from fastegnn_md.validation.observables.basins import populations
from fastegnn_md.validation.observables.chirality import flips
from fastegnn_md.validation.observables.geometry import Moments, angle_sizes, bond_lengths, bonded_angles, rms_from
from fastegnn_md.validation.observables.kinetics import fit_clusters
from fastegnn_md.validation.observables.shots import break_even
from fastegnn_md.validation.rows import Finding, Row, finite
from fastegnn_md.validation.slow_processes import compare_timescales
from fastegnn_md.validation.torsion_runs import (
    TorsionRuns,
    compare_maps,
    compare_populations,
    compare_transitions,
    detailed_balance,
)

REDRAWS, ENERGY, THERMAL = 0.01, 3.0, 1.5  # share, kJ/mol, RMS of bonds over that of the reference
EARLY = 10_000  # jumps, against which later ones are held
_PIECE = 10_000  # ps of a piece of a reference run
_TENTHS = 10
_CHAINED = 2000  # jumps of the Gaussian, which has left the molecule long before
_ENERGIES = 5000  # frames
_FORMATS = (".dcd", ".xtc")


class Trajectories:
    """Runs of one peptide as positions and torsions."""

    def __init__(self, like: Trajectories | None, data: Path, runs: list[list[str]], spacing: float | None = None):
        # file by file, because MDAnalysis reads a single one at once and a chain of them frame by frame
        every = [[universe(data, [file]) for file in files] for files in runs]
        self.positions = [np.concatenate([one.trajectory.timeseries(order="fac") for one in run]) for run in every]
        first = every[0][0]
        self.spacing = round(float(first.trajectory.dt), 6) if spacing is None else spacing
        if like is None:
            found = find_torsions(first.atoms)
            self.names, self.pairs = found.names, found.pairs
            self.quadruples = [group.ix for group in found.groups]
        else:
            self.names, self.pairs, self.quadruples = like.names, like.pairs, like.quadruples
        self.angles = [self.angles_of(one) for one in self.positions]

    def angles_of(self, positions: np.ndarray) -> np.ndarray:
        """Torsions (n_frames, T) in degrees."""
        columns = [calc_dihedrals(*(positions[:, atom] for atom in quadruple)) for quadruple in self.quadruples]
        return np.degrees(np.stack(columns, axis=1))

    def runs(self, angles: list[np.ndarray] | None = None, spacing: float | None = None, piece: int = 0) -> TorsionRuns:
        """As torsions, in pieces of so many frames where there are few runs."""
        angles = self.angles if angles is None else angles
        if piece:
            angles = [part for one in angles for part in np.array_split(one, max(2, len(one) // piece))]
        return TorsionRuns.of(angles, self.spacing if spacing is None else spacing, self.pairs, self.names)


def measured(name: str, quantity: str, find: Callable[..., Finding], *given: object) -> Row:
    """The row of a finding; what cannot be measured says why."""
    try:
        return find(*given).row(name, quantity)
    except FastEGNNMDError as error:
        return Row(name, quantity, "not measured", note=str(error))


def torsion_rows(
    reference: TorsionRuns, learned: TorsionRuns, time: float, centres: np.ndarray, multiples: tuple[int, ...]
) -> list[Row]:
    """Rows that torsions alone decide."""
    rng, both = np.random.default_rng(0), (reference, learned)
    after = "Transition probabilities after {:g} ps, largest difference"
    return [
        measured("populations", "Deviation of a basin over what is allowed", compare_populations, *both, rng),
        measured("map", "Jensen-Shannon distance of φ and ψ", compare_maps, *both, rng),
        measured("transitions", after.format(time), compare_transitions, *both, time, rng),
        measured("two jumps", after.format(2 * time), compare_transitions, *both, 2 * time, rng),
        measured(
            "time scales", "|ln t / t_ref| of slow processes", compare_timescales, *both, time, centres, rng, multiples
        ),
        measured("detailed balance", "Net flux in standard errors", detailed_balance, learned, time),
    ]


def shape_rows(reference: Trajectories, learned: Trajectories, name: str) -> list[Row]:
    """Handedness, bonds, angles and energies."""
    molecule = peptide(name)
    bonds = np.array([[a.index, b.index] for a, b in molecule.topology.bonds()])
    numbers = torch.tensor([atom.element.atomic_number for atom in molecule.topology.atoms()])
    centres = stereocentres(numbers, torch.from_numpy(bonds))

    def volumes(positions: np.ndarray) -> np.ndarray:
        return signed_volumes(torch.from_numpy(positions), centres).numpy()

    def turned() -> Finding:
        hand = np.mean([volumes(one).mean(axis=0) for one in reference.positions], axis=0)
        count = int(sum(flips(volumes(one), hand).sum() for one in learned.positions))
        jumps = sum(len(one) - 1 for one in learned.positions)
        return Finding(count, 0, f"limit: stated; {len(centres)} centres, {jumps} jumps")

    def vibration(measure: Callable[[np.ndarray], np.ndarray]) -> Finding:
        theirs = Moments.of(np.concatenate([measure(one[::50]) for one in reference.positions]))
        ours = Moments.of(np.concatenate([measure(one) for one in learned.positions]))
        thermal = rms_from(theirs, theirs)
        return Finding(
            rms_from(ours, theirs), THERMAL * thermal, f"limit: {THERMAL:g} times {thermal:.3g} of the reference"
        )

    def energy() -> Finding:
        found = []
        for runs in (learned, reference):
            frames = np.concatenate(runs.positions)
            found.append(energies(name, frames[:: max(1, len(frames) // _ENERGIES)]))
        (ours, theirs), errors = map(np.mean, found), [np.std(one) / np.sqrt(len(one)) for one in found]
        value, half = abs(float(ours - theirs)), 1.96 * float(np.hypot(*errors))
        width, most = ([float(f(one)) for one in found] for f in (np.std, np.max))
        note = (
            f"limit: stated; learned {ours:.2f}, reference {theirs:.2f} kJ/mol, as frames are stored; standard "
            f"deviations {width[0]:.1f} and {width[1]:.1f}, largest {most[0]:.0f} and {most[1]:.0f}"
        )
        return Finding(value, ENERGY, note, "kJ/mol", (max(0.0, value - half), value + half))

    triples = bonded_angles(bonds)
    deviation = "RMS deviation from the mean of the reference, "
    return [
        measured("flips", "Stereocentres that turned over", turned),
        measured("bonds", deviation + "Å", vibration, lambda x: bond_lengths(x, bonds)),
        measured("angles", deviation + "degrees", vibration, lambda x: angle_sizes(x, triples)),
        measured("energy", "Mean potential energy, difference to the reference", energy),
    ]


def early_and_late(learned: TorsionRuns, time: float) -> Finding:
    """Largest difference of a population or of staying in a basin between the first jumps and later ones, as t."""
    states, jumps = len(learned.regions), min(map(len, learned.angles)) - 1
    first = min(max(1, EARLY // len(learned.angles)), jumps // _TENTHS)
    ends = [0, *np.linspace(first, jumps, _TENTHS).astype(int)]
    rng, series = np.random.default_rng(0), []
    for begin, end in itertools.pairwise(ends):
        part = TorsionRuns.of(
            [one[begin : end + 1] for one in learned.angles],
            learned.spacing,
            learned.pairs,
            ["φ of "] * 2 * len(learned.pairs),
        )
        found = []
        for k, basins in enumerate(part.basins):
            shares = populations(basins, states, rng).values
            stay = np.diag(part.transitions(k, time, rng).probabilities)
            found += [*shares, *np.where(shares > 0.05, stay, 0.0)]
        series.append(found)
    values = np.array(series)
    spread = values[1:].std(axis=0, ddof=1)
    known = (spread > 0) & np.isfinite(spread) & np.isfinite(values[0])
    scores = np.abs(values[0] - values[1:].mean(axis=0))[known] / (spread[known] * np.sqrt(1 + 1 / (_TENTHS - 1)))
    limit = float(student.ppf(1 - 0.005 / max(1, known.sum()), _TENTHS - 2))
    total = len(learned.angles) * jumps
    note = (
        f"limit: by chance once in a hundred; the first {first * len(learned.angles)} of {total} jumps, then nine parts"
    )
    return Finding(float(scores.max(initial=0.0)), limit, note)


def mirrored(learned: TorsionRuns, mirror: TorsionRuns) -> Finding:
    """Largest difference of a population between runs and the reflected runs of the mirror image, in its errors."""
    back = TorsionRuns(
        list(map(np.negative, mirror.angles)), mirror.spacing, mirror.pairs, mirror.residues, mirror.regions
    )
    rng, scores = np.random.default_rng(0), []
    for ours, theirs in zip(learned.basins, back.basins, strict=True):
        a, b = (populations(one, len(learned.regions), rng) for one in (ours, theirs))
        error = np.hypot(a.errors, b.errors)
        scores += [*(np.abs(a.values - b.values) / np.where(error > 0, error, np.inf))]
    degrees = min(len(learned.angles), len(mirror.angles)) - 1
    limit = float(student.ppf(1 - 0.005 / len(scores), max(1, degrees)))
    note = "limit: by chance once in a hundred; standard errors by a bootstrap of whole replicas"
    return Finding(float(max(scores)), limit, note)


def statistic_rows(folder: Path) -> list[Row]:
    """What the runs themselves counted."""
    rows, file = [], folder / "rollout.json"
    if file.exists():
        counted = json.loads(file.read_text())["parts"]
        jumps = sum(part["tried"] for part in counted)
        redrawn = sum(sum(part["redrawn"].values()) for part in counted)
        replaced = jumps - sum(part["accepted"] for part in counted)
        note = f"limit: stated; of {jumps} jumps {redrawn} redraws, {replaced} replaced by classical steps"
        value = (redrawn + replaced) / max(1, jumps)
        rows.append(Finding(value, REDRAWS, note).row("redraws", "Draws that were refused, over the jumps"))
    prices = folder / "prices.json"
    known = json.loads(prices.read_text()) if prices.exists() else {}
    if {"spent", "reference", "learned"} <= known.keys():
        seconds = [float(known[key]) for key in ("spent", "reference", "learned")]
        note = "{:.0f} s for data and training; a nanosecond takes {:.3g} s, learned {:.3g} s".format(*seconds)
        quantity = "Simulated time from which jumps are cheaper"
        rows.append(Finding(break_even(*seconds), float("inf"), note, "ns").row("break-even", quantity))
    return rows


def baselines(
    training: Trajectories, learned: Trajectories, time: float, centres: np.ndarray
) -> dict[str, TorsionRuns]:
    """What must lose, as long as the learned runs."""
    rng, count = np.random.default_rng(1), len(learned.angles)
    jumps, lag = min(map(len, learned.angles)) - 1, round(time / training.spacing)
    every = np.concatenate(training.angles)
    starts = np.stack([one[0] for one in learned.angles])
    emulator = MarkovEmulator.fit(training.runs().features, lag, centres=centres)
    first = np.stack([one[0] for one in learned.positions]).astype(np.float64)
    gaussian = GaussianJump.fit(training.positions, lag).trajectories(first, min(jumps, _CHAINED), rng)
    return {
        name: learned.runs(list(angles), time)
        for name, angles in {
            "independent draws": independent_draws(every, count, jumps, rng),
            "x' = x": unmoved(starts, jumps),
            "Gaussian": np.stack([learned.angles_of(one) for one in gaussian]),
            "Markov emulator": every[emulator.trajectories(count, jumps, rng)],
        }.items()
    }


def replicas(folder: Path) -> list[list[str]]:
    """Files of the learned runs: of each replica the parts of ``rollout.py`` in order, or a single file."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    record = folder / "rollout.json"
    finished = len(json.loads(record.read_text())["parts"]) if record.exists() else None  # the next may be half written
    every = [sorted(file for file in path.iterdir() if file.suffix in _FORMATS)[:finished] for path in folders]
    every += [[file] for file in sorted(folder.iterdir()) if file.suffix in _FORMATS]
    found = [[str(file) for file in files] for files in every if files]
    if not found:
        raise SystemExit(f"{folder} has no DCD or XTC files; give the folder of the learned runs")
    return found


def judge(model: Path, data: Path, runs: Path, mirror: Path | None, shots: int, kelvin: float) -> dict:
    """Everything, for JSON."""
    propagator = fastegnn_md.load(model)
    time, name = propagator.timestep, data.name.partition("-")[0]
    reference = Trajectories(None, data, [parts(data, run) for run in REFERENCE])
    training = Trajectories(reference, data, [parts(data, run) for run in TRAINING])
    learned = Trajectories(reference, data, replicas(runs), time)
    pieces = reference.runs(piece=round(_PIECE / reference.spacing))
    jumps = min(map(len, learned.angles)) - 1
    ours = learned.runs(piece=max(1, jumps // 16) if len(learned.angles) < 8 else 0)
    centres = fit_clusters(training.runs().features)
    rows = (
        torsion_rows(pieces, ours, time, centres, (1, 2, 5))
        + shape_rows(reference, learned, name)
        + statistic_rows(runs)
    )
    rows.append(measured("early and late", "First jumps against later ones, t", early_and_late, learned.runs(), time))
    if mirror is not None:
        image = Trajectories(reference, data, replicas(mirror), time)
        rows.append(measured("mirror", "Mirror image against these runs", mirrored, learned.runs(), image.runs()))
    if shots:
        given = propagator, reference, name, shots, kelvin
        rows.append(measured("shots", "Starts whose draws are told from dynamics", shot_row, *given))
    losers = baselines(training, learned, time, centres)
    return {
        "model": model.name,
        "lag_ps": time,
        "kelvin": kelvin,
        "reference_ns": 1e-3 * sum(map(len, reference.angles)) * reference.spacing,
        "training_ns": 1e-3 * sum(map(len, training.angles)) * training.spacing,
        "replicas": len(learned.angles),
        "jumps": sum(len(one) - 1 for one in learned.angles),
        "rows": [{key: value for key, value in row.to_dict().items() if key != "plots"} for row in rows],
        "baselines": {
            label: {
                row.name: {"value": finite(row.value), "limit": finite(row.limit), "verdict": row.verdict}
                for row in torsion_rows(pieces, one, time, centres, (1,))
            }
            for label, one in losers.items()
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="DATA/ala2, as simulate.py made it")
    parser.add_argument("runs", type=Path, help="folder of the learned runs")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--mirror", type=Path, help="folder of learned runs of the mirror image")
    parser.add_argument("--shots", type=int, default=0, help="from each of eight starts")
    parser.add_argument("--kelvin", type=float, default=300.0)
    given = parser.parse_args()
    found = judge(given.model, given.data, given.runs, given.mirror, given.shots, given.kelvin)
    given.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    for row in found["rows"]:
        value = "–" if row["value"] is None else f"{row['value']:.4g}"
        limit = "–" if row["limit"] is None else f"{row['limit']:.4g}"
        print(f"{row['name']:<18} {row['verdict']:<13} {value:>10} limit {limit:>8}  {row['note']}")
    for label, rows in found["baselines"].items():
        verdicts = [f"{key} {one['verdict']}" for key, one in rows.items()]
        print(f"{label:<18} {', '.join(verdicts)}")
