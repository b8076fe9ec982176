"""Pairs of a store with the engine's forces where a propagator asks for them, and errors on them in summary."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from ase import Atoms
from lists import HELD_OUT, Molecule

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.harvest.exam import EnginePairs
from fastegnn_md.propagator.learned_map import LearnedMap

SIZES = {"up to 14 atoms": (0, 14), "15 to 24 atoms": (15, 24), "25 to 45 atoms": (25, 45)}


def asked_pairs(pairs: TrajectoryPairs, propagator: LearnedMap, calculator: Any, most: int) -> EnginePairs:
    """Up to so many pairs of one molecule, spread over them, with the forces of a calculator."""
    start = pairs.batch([0])[0]
    atoms = Atoms(start.numbers.numpy(), start.positions.numpy(), masses=start.masses.numpy())
    atoms.calc = calculator
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int)).tolist()
    return EnginePairs(pairs, propagator, atoms, chosen)


def summary(rows: dict[str, dict[str, Any]], molecules: Iterable[Molecule]) -> dict[str, dict[str, float]]:
    """Median and worst over the molecules of a kind: all, by size, by held-out group, and without such groups."""
    known = [one for one in molecules if "v over baseline" in rows.get(one.name, {})]
    kinds = {
        "all": known,
        "groups of the training": [one for one in known if not set(one.groups) & set(HELD_OUT)],
        "groups held out": [one for one in known if set(one.groups) & set(HELD_OUT)],
        **{group: [one for one in known if group in one.groups] for group in HELD_OUT},
        **{kind: [one for one in known if one.kind == kind] for kind in ("small", "flavour", "drug", "peptide")},
        **{size: [one for one in known if low <= one.n_atoms <= high] for size, (low, high) in SIZES.items()},
    }
    return {kind: _of(rows, chosen) for kind, chosen in kinds.items() if chosen}


def _of(rows: dict[str, dict[str, Any]], molecules: list[Molecule]) -> dict[str, Any]:
    found: dict[str, Any] = {"molecules": len(molecules)}
    for key in ("v over baseline", "x over baseline", "v over thermal"):
        values = {one.name: rows[one.name][key] for one in molecules}
        worst = max(values, key=lambda name: values[name] if math.isfinite(values[name]) else math.inf)
        found |= {f"median {key}": float(np.median(list(values.values()))), f"worst {key}": values[worst]}
        if key == "v over baseline":
            found["worst molecule"] = worst
    return found
