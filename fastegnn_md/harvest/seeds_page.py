"""What came of seeds: numbers as JSON, and one page with a map, time scales, populations and costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np

from .. import units
from .._files import write_atomically
from ..data.topology import load_universe, quiet
from ..report.page import Picture, Section, Table, new_figure, plain_ticks, write_report
from .kinetics import FEW, Interval
from .seed_files import read_dcd
from .seed_run import Seeded

_BINS = 36
_UNSEEN = 0.005  # share of frames that is worth a warning
_SHOWN = 5.0  # kT above the minimum
_BACKBONE = {"C-N-CA-C": "φ", "C-CA-N-C": "φ", "N-CA-C-N": "ψ", "N-C-CA-N": "ψ"}  # either way round


def write_page(found: Seeded) -> tuple[Path, Path]:
    """Write ``results.json`` and ``report.html`` into the folder of seeds; returns both paths.

    Raises
    ------
    MissingDependencyError
        If the extra ``report`` is not installed; ``results.json`` is then written.
    OSError
        If a file cannot be written.
    """
    data, page = found.folder / "results.json", found.folder / "report.html"
    axes = _Axes(found)
    names = axes.names_of_states()
    record = {**results(found), "states": names, "remarks": remarks(found, names)}
    write_atomically(data, (json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    sections = [
        Section("What to know first", record["remarks"]),
        _populations(found, names),
        _timescales(found),
        axes.section(),
        _costs(found),
    ]
    summary = (
        f"{found.bursts} bursts of {found.settings['burst_ps']:g} ps ({found.nanoseconds:.3g} ns together) from "
        f"{found.settings['starts']} starting points. The model whose jumps spread them: {found.settings['model']}."
    )
    write_report(page, "Populations and time scales from seeds", summary, sections)
    return data, page


def results(found: Seeded) -> dict[str, Any]:
    """Plain numbers, times in ps."""
    kinetics, dt = found.kinetics, found.interval
    return {
        "settings": found.settings,
        "populations": {
            "bursts": [_plain(one) for one in kinetics.populations],
            "flow": found.flow.tolist(),
            "unseen_flow": found.unseen_flow,
            "unseen_reference": found.unseen_reference,
            "reference": None if found.reference is None else [_plain(one) for one in found.reference],
        },
        "timescales_ps": [_plain(one, dt) for one in kinetics.timescales],
        "timescales_at_lags_ps": {
            f"{lag * dt:g}": [_plain(one, dt) for one in several] for lag, several in kinetics.scan.items()
        },
        "transitions": kinetics.transitions.tolist(),
        "connected": kinetics.connected,
        "clusters": kinetics.clusters,
        "clusters_left_out": len(kinetics.left_out),
        "bursts": found.bursts,
        "failed": found.failed,
        "jumps_drawn": found.drawn,
        "jumps_refused": found.refused,
        "burst_ns": found.nanoseconds,
        "spread_seconds": found.spread_seconds,
        "burst_seconds": found.burst_seconds,
    }


def remarks(found: Seeded, names: list[str]) -> list[str]:
    """What a reader has to know, the warnings first."""
    kinetics, said = found.kinetics, []
    few = [
        f"{name} ({into} into it, {out} out of it)"
        for name, (into, out) in zip(names, kinetics.transitions.tolist(), strict=True)
        if min(into, out) < FEW
    ]
    if few:
        said.append(
            f"WARNING: fewer than {FEW} transitions at the lag for {'; '.join(few)}. Their populations rest on few "
            "events: run more repeats, or longer bursts."
        )
    if kinetics.connected < 1:
        warning = "WARNING: " if kinetics.connected < 0.99 else ""
        said.append(
            f"{warning}{len(kinetics.left_out)} of {kinetics.clusters} clusters, with {1 - kinetics.connected:.2%} of "
            "the frames, are not connected with the others in both directions and are left out: nothing is known of "
            "how probable they are."
        )
    else:
        said.append(f"All {kinetics.clusters} clusters are connected in both directions.")
    for whose, share in (("reference", found.unseen_reference), ("jumps", found.unseen_flow)):
        if share > _UNSEEN:
            said.append(
                f"WARNING: {share:.1%} of the frames of the {whose} lie where no burst was. All shares are of the "
                "rest: start bursts there (more starts, a model that jumps there, frames of a trajectory as START)."
            )
    if not kinetics.timescales:
        said.append("No process outlasts the lag: take a shorter lag, or a shorter interval.")
    elif not _level(found):
        said.append(
            "WARNING: the slowest time scale still changes with the lag beyond its interval, so bursts have not "
            "forgotten their cluster after the lag: take a longer lag, and longer bursts if need be."
        )
    if found.failed:
        said.append(f"The engine failed in {found.failed} bursts, which are left out.")
    return [
        *said,
        "The jumps do not enter these numbers. The Markov state model counts what a burst does given the cluster it "
        f"is in; where bursts begin and how often cancels. The first {found.settings['burn_in_ps']:g} ps of each burst "
        "are dropped, in which it forgets how its starting point was made. What the jumps never visited and no burst "
        "walked into is missing here, and nothing in these numbers can show it.",
    ]


def _level(found: Seeded) -> bool:
    """Whether the slowest time scale at the longest lag looked at lies in the interval of that at the lag."""
    here = found.kinetics.timescales[0]
    longer = [several[0] for lag, several in found.kinetics.scan.items() if lag > found.kinetics.lag and several]
    return all(one.low <= here.high and one.high >= here.low for one in longer)


def _plain(one: Interval, scale: float = 1.0) -> dict[str, float]:
    return {"value": scale * one.value, "low": scale * one.low, "high": scale * one.high}


def _said(one: Interval, scale: float = 1.0) -> str:
    return f"{scale * one.value:.3g} ({scale * one.low:.3g} to {scale * one.high:.3g})"


def _populations(found: Seeded, names: list[str]) -> Section:
    reference = found.reference
    columns = ["state", "bursts (95 %)", "flow model", *(["reference (95 %)"] if reference else []), "into", "out of"]
    rows = []
    for k, name in enumerate(names):
        into, out = found.kinetics.transitions[k].tolist()
        beside = [_said(reference[k])] if reference else []
        rows.append([name, _said(found.kinetics.populations[k]), float(found.flow[k]), *beside, into, out])
    text = [
        "Share of each metastable state (PCCA+). Of bursts: stationary distribution of the Markov state model. Of the "
        "flow model: share of its own jumps, with its bias. Where the two differ beyond the interval, believe the "
        "bursts. Into and out of: transitions at the lag, of windows that do not overlap."
    ]
    return Section("Populations", text, [Table(columns, rows)])


def _timescales(found: Seeded) -> Section:
    dt = found.interval
    figure, (axes,) = new_figure()
    scan = {lag: several for lag, several in found.kinetics.scan.items() if several}
    for k in range(max(map(len, scan.values()), default=0)):
        lags = [lag for lag, several in scan.items() if len(several) > k]
        values = [scan[lag][k] for lag in lags]
        x = dt * np.array(lags)
        axes.fill_between(x, [dt * one.low for one in values], [dt * one.high for one in values], alpha=0.25)
        axes.plot(x, [dt * one.value for one in values], marker="o", markersize=3, label=f"process {k + 1}")
    ends = dt * np.array([min(scan, default=1), max(scan, default=1)])
    axes.plot(ends, ends, color="black", linewidth=0.8, label="the lag itself")
    axes.set(xlabel="lag / ps", ylabel="time scale / ps", yscale="log")
    plain_ticks(axes.yaxis)
    axes.legend(fontsize=8)
    rows = [[k + 1, _said(one, dt)] for k, one in enumerate(found.kinetics.timescales)]
    text = [
        f"Implied time scales of the bursts at a lag of {units.format_time(dt * found.kinetics.lag)}, with 95 % of the "
        "posterior: how long the molecule takes to forget where it was."
    ]
    picture = Picture.of(
        figure,
        "How long each slow process takes, by the lag it is looked at with. Believe a time scale where its line is "
        "level and above the black line.",
    )
    return Section("Time scales", text, [Table(["process", "time scale / ps (95 %)"], rows)], [picture])


def _costs(found: Seeded) -> Section:
    rows: list[list[object]] = [
        ["jumps drawn", found.drawn],
        ["of them refused", found.refused],
        ["seconds of jumps and their relaxation", found.spread_seconds],
        ["bursts", found.bursts],
        ["ns of bursts", found.nanoseconds],
        ["seconds of bursts", found.burst_seconds],
    ]
    text = [
        "What was spent here. The trajectories that the model was trained on, and its training, are not counted: weigh "
        "them once against all that the model is used for. Seconds are of the clock, over all processes."
    ]
    return Section("Costs", text, [Table([], rows)])


class _Axes:
    """The two coordinates that tell the metastable states apart best: torsions, or distances where there are none."""

    def __init__(self, found: Seeded):
        self._found = found
        dropped = round(found.settings["burn_in_ps"] / found.interval)
        paths = [found.folder / "bursts" / f"{k:05d}.dcd" for k in range(found.bursts)]
        self._bursts = np.concatenate([read_dcd(path)[dropped:] for path in paths if path.exists()])
        self._visited = read_dcd(found.folder / "visited.dcd")
        self._weights = np.concatenate(found.kinetics.weights)
        self._states = found.kinetics.states_of(found.coordinates(self._bursts))
        self._turns = len(found.coordinates.quadruples) > 0
        with quiet():
            self._universe = load_universe(found.folder / "topology.pdb")
        values = self._values(self._bursts)
        self._chosen = np.argsort(-self._telling(values))[:2]

    def names_of_states(self) -> list[str]:
        """Number of each state, and where it lies."""
        values = self._values(self._bursts)
        names = []
        for state in range(len(self._found.kinetics.populations)):
            inside = (self._states == state) & (self._weights > 0)
            digits = 0 if self._turns else 2
            means = [f"{self._mean(values[inside, k]):.{digits}f}{self._unit}" for k in self._chosen]
            where = [f"{self._name(k)} {mean}" for k, mean in zip(self._chosen, means, strict=True)]
            names.append(f"state {state + 1}: {', '.join(where)}")
        return names

    def section(self) -> Section:
        """Maps of bursts and of the flow model, side by side."""
        bursts, visited = self._values(self._bursts), self._values(self._visited)
        panels = [
            ("bursts, at equilibrium", bursts, self._weights),
            ("flow model's jumps", visited, np.ones(len(visited))),
        ]
        figure, axes = new_figure(9.0, 3.6, panels=2)
        text = "Free energy in kT over "
        if len(self._chosen) == 1:
            (k,) = self._chosen
            for panel, (title, values, weights) in zip(axes, panels, strict=True):
                density, edges = np.histogram(values[:, k], _BINS, weights=weights / weights.sum())
                panel.plot(0.5 * (edges[1:] + edges[:-1]), _energies(density))
                panel.set(title=title, xlabel=self._name(k) + self._in_unit, ylabel="free energy / kT")
            text += self._name(k)
        else:
            a, b = self._chosen
            both = np.concatenate([bursts, visited])
            limits = [(-180.0, 180.0)] * 2 if self._turns else [(both[:, k].min(), both[:, k].max()) for k in (a, b)]
            for panel, (title, values, weights) in zip(axes, panels, strict=True):
                density, x, y = np.histogram2d(
                    values[:, a], values[:, b], _BINS, limits, weights=weights / weights.sum()
                )
                drawn = panel.pcolormesh(x, y, _energies(density).T, vmin=0.0, vmax=_SHOWN, cmap="viridis")
                panel.set(title=title, xlabel=self._name(a) + self._in_unit, ylabel=self._name(b) + self._in_unit)
            figure.colorbar(drawn, ax=axes, label="free energy / kT")
            text += f"{self._name(a)} and {self._name(b)}"
        said = (
            f"{text}, the coordinates that tell the states apart best. Low energies are where the molecule mostly "
            "is. On the left frames of bursts with their weights at equilibrium, on the right the frames that jumps "
            "led to, as they are: a place that the right map alone has is an error of the model. White: not visited."
        )
        return Section("Map", figures=[Picture.of(figure, said)])

    def _values(self, positions: np.ndarray) -> np.ndarray:
        coordinates = self._found.coordinates
        return np.degrees(coordinates.angles(positions)) if self._turns else coordinates.distances(positions)

    def _telling(self, values: np.ndarray) -> np.ndarray:
        """Variance between states over that of all; of angles by their sines and cosines."""
        inside = self._states >= 0
        labels = self._states[inside]
        parts = [values[inside]]
        if self._turns:
            parts = [function(np.radians(values[inside])) for function in (np.sin, np.cos)]
        between, every = np.zeros(values.shape[1]), np.full(values.shape[1], 1e-9)
        for part in parts:
            every += part.var(axis=0)
            for state in np.unique(labels):
                share = np.mean(labels == state)
                between += share * (part[labels == state].mean(axis=0) - part.mean(axis=0)) ** 2
        told: np.ndarray = between / (every + 1e-3)
        return told

    def _mean(self, values: np.ndarray) -> float:
        if not self._turns:
            return float(values.mean())
        angles = np.radians(values)
        return float(np.degrees(np.arctan2(np.sin(angles).mean(), np.cos(angles).mean())))

    def _name(self, k: int) -> str:
        atoms = (self._found.coordinates.quadruples if self._turns else self._found.coordinates.pairs)[k]
        group: mda.AtomGroup = self._universe.atoms[atoms]
        known = len(set(group.names.tolist())) == len(atoms) or self._turns
        name = "-".join(group.names.tolist() if known else map(str, atoms.tolist()))
        if len(self._universe.residues) == 1:
            return name
        return f"{_BACKBONE.get(name, name)} of {group[1].resname} {group[1].resid}"

    @property
    def _unit(self) -> str:
        return "°" if self._turns else " Å"

    @property
    def _in_unit(self) -> str:
        return " / °" if self._turns else " / Å"


def _energies(density: np.ndarray) -> np.ndarray:
    """Free energies in kT above the lowest, NaN where nothing was."""
    energies = np.full(density.shape, np.nan)
    there = density > 0
    energies[there] = -np.log(density[there] / density.max())
    return energies
