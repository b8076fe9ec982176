"""Pairs of a store with the engine's forces where a propagator asks for them, and errors on them in summary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from lists import HELD_OUT, Molecule
from torch import Tensor

from fastegnn_md import State
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.engines.ase.atoms import forces_at
from fastegnn_md.errors import EngineError, NotFiniteError
from fastegnn_md.propagator.learned_map import LearnedMap

SIZES = {"up to 14 atoms": (0, 14), "15 to 24 atoms": (15, 24), "25 to 45 atoms": (25, 45)}


class EnginePairs:
    """Some pairs of one molecule, as :func:`fastegnn_md.training.one_step.one_step_errors` takes them.

    A force-informed propagator is judged as it runs: the engine is asked where *it* wants the force, which is a place
    that it predicts from the first state, and never the stored frame in the middle, which knows the future.

    Attributes
    ----------
    indices : list of int
        Pairs whose forces are known; those at which the engine gave up are missing.
    """

    has_middle_frames = False  # not for judging

    def __init__(self, pairs: TrajectoryPairs, propagator: LearnedMap, calculator: Any, most: int):
        self.lag, self.n_atoms = pairs.lag, pairs.n_atoms
        self._pairs, self._propagator = pairs, propagator
        chosen = np.unique(np.linspace(0, len(pairs) - 1, min(most, len(pairs))).astype(int)).tolist()
        self._forces: dict[int, Tensor] = {}
        self.indices = chosen
        if propagator.wants_forces is not None:
            self.indices = [index for index in chosen if self._ask(index, calculator)]

    def __len__(self) -> int:
        return len(self._pairs)

    def batch(self, indices: Sequence[int]) -> tuple[State, ...]:
        """As that of the pairs."""
        start, end = self._pairs.batch(indices)
        if self._forces:
            start = self._propagator.with_forces(start, torch.cat([self._forces[index] for index in indices]))
        return start, end

    def _ask(self, index: int, calculator: Any) -> bool:
        start = self._pairs.batch([index])[0]
        with torch.no_grad():
            where = self._propagator.force_positions(start)
        assert where is not None  # it wants forces
        atoms = Atoms(start.numbers.numpy(), start.positions.numpy(), masses=start.masses.numpy())
        atoms.calc = calculator
        try:
            self._forces[index] = forces_at(atoms, where.double()).to(start.positions.dtype)
        except (EngineError, NotFiniteError):
            return False
        return True


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
