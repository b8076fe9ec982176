"""What runs of ``dynamics.py`` show: temperatures, refusals, distributions beside classical runs, drift, gains."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
from ase import units
from ase.data import chemical_symbols

from fastegnn_md.errors import DataError
from fastegnn_md.validation import energy_drift
from fastegnn_md.validation.observables.distances import WIDTH, PairDistances
from fastegnn_md.validation.observables.torsions import find_torsions, torsion_angles, torsion_histograms
from fastegnn_md.validation.statistics import Sample, compare, mean_jensen_shannon

TEMPERATURE = 350.0
SETTLE = 2.0  # ps that are not counted
BLOCKS = 20  # at most; of ten an error itself is known to a quarter only
BLOCK = 3.0  # ps, at least: longer than velocities are remembered at 1/ps
REFERENCE = "classical-0.5fs"
LONG = 20.0  # ps, from which on runs are summed up by themselves


class Run:
    """A finished run on disk."""

    def __init__(self, path: Path):
        self.about: dict[str, Any] = json.loads(path.read_text("utf-8"))
        self._path = path.with_suffix(".npz")

    @property
    def key(self) -> tuple[str, str]:
        """Molecule, and friction or ``nve``."""
        friction = self.about["friction, 1/ps"]
        return self.about["molecule"], "nve" if friction is None else f"{friction:g}/ps"

    def arrays(self) -> dict[str, np.ndarray]:
        """What was recorded."""
        with np.load(self._path) as file:
            return dict(file)

    def universe(self) -> mda.Universe:
        """Positions after the start, with bonds where the radii of atoms tell them."""
        arrays = self.arrays()
        symbols = [chemical_symbols[number] for number in arrays["numbers"]]
        skip = int(1000 * SETTLE / self.about["frame, fs"])
        universe = mda.Universe.empty(len(symbols), trajectory=True)
        universe.add_TopologyAttr("elements", symbols)
        universe.add_TopologyAttr("types", symbols)
        universe.add_TopologyAttr("names", [f"{symbol}{index}" for index, symbol in enumerate(symbols)])
        universe.load_new(arrays["positions"][skip:], dt=1e-3 * self.about["frame, fs"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            universe.atoms.guess_bonds()
        return universe


def observe(folder: Path, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """Rows of all runs by model, and what they come to.

    ``known`` is what an earlier call returned: its rows of the same weights are kept beside those of the folder, and of
    two of one molecule, friction and seed the longer one.
    """
    runs: dict[str, list[Run]] = defaultdict(list)
    gains: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*/*.json")):
        if path.stem.endswith("_clock"):
            row = json.loads(path.read_text("utf-8"))
            gains[path.parent.name].append({key: value for key, value in row.items() if key != "identity"})
        else:
            runs[path.parent.name].append(Run(path))
    reference = defaultdict(list)
    for run in runs.get(REFERENCE, []):
        if run.key[1] != "nve" and not run.about["stopped"]:
            reference[run.key[0]].append(run)
    found: dict[str, Any] = {}
    for model in sorted({*runs, *gains, *(known or {})}):
        rows = [_row(run, [] if model == REFERENCE else reference[run.key[0]]) for run in runs[model]]
        before = (known or {}).get(model, {"identity": None, "runs": [], "clock": []})
        identities = [run.about["identity"] for run in runs[model]] or [before["identity"]]
        if any(identity != identities[0] for identity in identities):
            raise SystemExit(f"{folder / model} has runs of several models of that name; run those of old ones again")
        if identities[0] != before["identity"]:
            before = {"runs": [], "clock": []}
        rows = _longest([*before["runs"], *rows])
        clock = {row["molecule"]: row for row in (*before["clock"], *gains[model])}
        found[model] = {
            "identity": identities[0],
            "summary": _summary(rows),
            "runs": rows,
            "clock": [clock[name] for name in sorted(clock)],
        }
    return found


def _longest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row of each molecule, friction and seed: the longest, of equal ones the last."""
    kept: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = row["molecule"], math.inf if row["friction, 1/ps"] is None else row["friction, 1/ps"], row["seed"]
        if key not in kept or row["asked for, ps"] >= kept[key]["asked for, ps"]:
            kept[key] = row
    return [kept[key] for key in sorted(kept)]


def temperatures(kinetic: np.ndarray, counts: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Temperature of each element and its standard error from blocks, K.

    Parameters
    ----------
    kinetic : ndarray, shape (n_steps, n_elements), eV
    counts : ndarray of int, shape (n_elements,)
        Atoms, each with three degrees of freedom.
    step : float, fs
    """
    series = 2 * kinetic[int(1000 * SETTLE / step) :].astype(np.float64) / (3 * counts * units.kB)
    count = max(3, min(BLOCKS, int(1e-3 * step * len(series) / BLOCK)))
    blocks = np.array([block.mean(axis=0) for block in np.array_split(series, count)])
    return series.mean(axis=0), blocks.std(axis=0, ddof=1) / np.sqrt(count)


def _row(run: Run, reference: list[Run]) -> dict[str, Any]:
    arrays = run.arrays()
    row = {key: value for key, value in run.about.items() if key != "identity"}
    if run.key[1] == "nve":
        return row | _drift(arrays, run.about)
    if run.about["run, ps"] < 2 * SETTLE or len(arrays["kinetic"]) < 2 * BLOCKS:
        return row  # it says when it ended
    mean, error = temperatures(arrays["kinetic"], arrays["counts"], run.about["step, fs"])
    symbols = [chemical_symbols[number] for number in arrays["elements"]]
    row["T, K"] = {
        symbol: [round(float(a), 1), round(float(b), 1)] for symbol, a, b in zip(symbols, mean, error, strict=True)
    }
    row["largest deviation of an element"] = float(np.abs(mean / TEMPERATURE - 1).max())
    if row.get("audits", 0) > 1:
        taken = run.about["friction, 1/ps"] * 1e-3 * run.about["step, fs"]
        scale = 1 / (3 * arrays["counts"].sum() * math.sinh(taken))  # statistics.heating of dynamics
        row["heating, audits"] = [round(float(scale * value), 5) for value in row["energy change per jump, kT"]]
    row["in standard errors"] = float(np.abs((mean - TEMPERATURE) / error).max())
    if len(reference) > 1 and not run.about["stopped"]:
        row |= _beside(run, reference)
    return row


def _drift(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> dict[str, Any]:
    energy = arrays["energies"] / (units.kB * TEMPERATURE)
    if len(energy) < 40:
        return {}
    every = round(about["frame, fs"] / about["step, fs"])
    kinetic = arrays["kinetic"].sum(axis=1)[::every][: len(energy)]
    times, per_mol = 1e-3 * about["frame, fs"] * np.arange(len(energy)), units.mol / units.kJ
    drift = energy_drift(times, per_mol * arrays["energies"], per_mol * kinetic, about["atoms"])
    return {
        "change of the energy by quarters, kT": [
            round(float(part.mean() - energy[0]), 3) for part in np.array_split(energy, 4)
        ],
        "drift, kJ/mol/ps per atom": drift.per_atom,
        "std of the energy, kT": float(energy.std()),
    }


def _beside(run: Run, reference: list[Run]) -> dict[str, Any]:
    """h(r) and torsions: distance to the classical runs, over the limit of 1.5 times their spread."""
    own, others = run.universe(), [one.universe() for one in reference]
    longest = 1.5 * float(max(np.ptp(one.atoms.positions, axis=0).max() for one in others))
    found = {"h(r)": _over_limit(own, others, lambda u, part: _pairs(u, longest, part), _area)}
    try:
        places = [group.ix for group in find_torsions(others[0].atoms).groups]
    except DataError:
        return found
    return found | {
        "torsions": _over_limit(own, others, lambda u, part: _torsions(u, places, part), mean_jensen_shannon)
    }


def _area(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).sum() * WIDTH)


def _pairs(universe: mda.Universe, longest: float, part: slice) -> np.ndarray:
    return PairDistances(universe.atoms, longest).run(start=part.start, stop=part.stop).results.density


def _torsions(universe: mda.Universe, places: list[np.ndarray], part: slice) -> np.ndarray:
    groups = [universe.atoms[place] for place in places]
    return torsion_histograms(torsion_angles(groups, start=part.start, stop=part.stop))


def _over_limit(own: mda.Universe, others: list[mda.Universe], measure: Any, distance: Any) -> dict[str, Any]:
    edges = np.linspace(0, len(own.trajectory), 6).astype(int)
    parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    learned = [Sample(measure(own, part), part.stop - part.start) for part in parts]
    classical = [Sample(measure(one, slice(0, len(one.trajectory))), len(one.trajectory)) for one in others]
    comparison = compare(learned, classical, distance, np.random.default_rng(0))
    return {"distance": comparison.value, "limit": comparison.limit, "within": comparison.within}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By friction, and by length: how many ended early, were hot or cold, or far from the classical runs."""
    found = {}
    for mode in dict.fromkeys(_mode(row) for row in rows):
        chosen = [row for row in rows if _mode(row) == mode]
        part: dict[str, Any] = {"runs": len(chosen), "ended early": [r["molecule"] for r in chosen if r["stopped"]]}
        if all("refused share" in row for row in chosen):
            part["median refused share"] = float(np.median([row["refused share"] for row in chosen]))
            part["with audit warnings"] = [row["molecule"] for row in chosen if row["audit warnings"]]
        deviations = [row["largest deviation of an element"] for row in chosen if "T, K" in row and not row["stopped"]]
        if deviations:
            part["median largest deviation of an element"] = float(np.median(deviations))
            part["worst deviation of an element"] = float(np.max(deviations))
            part["within 3 % or 3 standard errors"] = sum(
                row["largest deviation of an element"] <= 0.03 or row["in standard errors"] <= 3
                for row in chosen
                if "T, K" in row and not row["stopped"]
            )
        part |= _temperatures_of(chosen)
        for name in ("h(r)", "torsions"):
            compared = [row[name]["within"] for row in chosen if name in row]
            if compared:
                part[f"{name} within the spread"] = f"{sum(compared)} of {len(compared)}"
        drifts = [abs(row["drift, kJ/mol/ps per atom"]) for row in chosen if "drift, kJ/mol/ps per atom" in row]
        if drifts:
            part["median |drift|, kJ/mol/ps per atom"] = float(np.median(drifts))
        found[mode] = part
    return found


def _temperatures_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over molecules: mean and standard error of each element, K; shares near the bath; mean of what jumps add."""
    ended = [row for row in rows if "T, K" in row and not row["stopped"]]
    elements: dict[str, list[list[float]]] = defaultdict(list)
    for row in ended:
        for symbol, value in row["T, K"].items():
            elements[symbol].append(value)
    if not elements:
        return {}
    means = {name: np.array(values)[:, 0] for name, values in elements.items()}
    off, error = np.abs(np.concatenate(list(elements.values())).T - [[TEMPERATURE], [0.0]])
    found: dict[str, Any] = {
        "mean over molecules, K": {
            name: [round(float(t.mean()), 1), round(float(t.std(ddof=1) / math.sqrt(len(t))), 1)]
            for name, t in means.items()
            if len(t) > 1
        },
        "temperatures within 3 %": float((off <= 0.03 * TEMPERATURE).mean()),
        "temperatures within two standard errors": float((off <= 2 * error).mean()),
    }
    heating = np.array([row["heating, audits"] for row in ended if "heating, audits" in row])
    if len(heating):
        weight = heating[:, 1] ** -2
        mean = float((weight * heating[:, 0]).sum() / weight.sum())
        found["heating, audits, mean by weight"] = [round(mean, 5), round(float(weight.sum() ** -0.5), 5)]
    return found


def table(rows: list[dict[str, Any]], friction: float) -> str:
    """Long runs at a friction, as the page of trained systems has them."""
    lines = ["| | atoms | ps | jumps refused | heating, % | H, K | C | N | O | other |", "|---" * 10 + "|"]
    chosen = [row for row in rows if row["friction, 1/ps"] == friction and row["run, ps"] >= LONG]
    for row in sorted(chosen, key=lambda row: int(row["atoms"])):  # stable: of one size by name
        kelvin = {symbol: f"{mean:.0f} ± {error:.0f}" for symbol, (mean, error) in row["T, K"].items()}
        refused = f"{100 * row['refused share']:.2g} %" if row["refused share"] else "0"
        heating, error = row["heating, audits"]
        cells = [row["molecule"], row["atoms"], f"{row['run, ps']:.0f}", refused]
        cells += [f"{100 * heating:+.1f} ± {100 * error:.1f}".replace("-", "−")]
        cells += [kelvin.pop(symbol, "") for symbol in "HCNO"]
        cells += [", ".join(f"{symbol} {value}" for symbol, value in kelvin.items())]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _mode(row: dict[str, Any]) -> str:
    friction = row["friction, 1/ps"]
    mode = "nve" if friction is None else f"{friction:g}/ps"
    return f"{mode}, {LONG:g} ps and more" if row["asked for, ps"] >= LONG else mode
