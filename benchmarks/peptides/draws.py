"""One draw from each of many frames of the reference, residue by residue, beside where the reference itself goes.

    python benchmarks/peptides/draws.py MODEL DATA/ala3 -o JSON

No guard, no relaxation: what a model draws before anything mends it. Of each residue, how often ψ turned by more than
90 degrees, and how often the stereocentre turned over, in draws that turned ψ and in others.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from data import REFERENCE, parts, universe
from MDAnalysis.lib.distances import calc_dihedrals

import fastegnn_md
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.graph.stereo import signed_volumes, stereocentres
from fastegnn_md.validation import find_torsions
from fastegnn_md.validation.observables.geometry import bond_lengths

BATCH = 64
TURNED = 90.0  # degrees
STRETCHED = 0.25  # Å, from the mean of the data; no thermal bond is


def draws(model: Path, folder: Path, output: Path, count: int, seed: int) -> None:
    """Draw and compare."""
    propagator = fastegnn_md.load(model)
    runs = [universe(folder, parts(folder, run)) for run in REFERENCE]
    found = find_torsions(runs[0].atoms)
    groups = [found.groups[psi].ix for _, psi in found.pairs]
    pairs = TrajectoryPairs(runs, lag=propagator.timestep, velocities="none", progress=False)
    chosen = np.linspace(0, len(pairs) - 1, count).astype(int)
    generator, gathered = torch.Generator().manual_seed(seed), []
    with torch.no_grad():
        for begin in range(0, count, BATCH):
            start, end = pairs.batch(chosen[begin : begin + BATCH])
            drawn = start.positions + propagator.predict(start, generator=generator).displacement
            states = (start.positions, end.positions, drawn)
            gathered.append([one.double().view(-1, len(runs[0].atoms), 3) for one in states])
    here, there, drawn = (torch.cat(part) for part in zip(*gathered, strict=True))
    links = torch.as_tensor(runs[0].bonds.indices)
    centres = stereocentres(pairs.batch([0])[0].numbers, links)
    hand = signed_volumes(here, centres).numpy()

    def psi(positions: torch.Tensor) -> np.ndarray:
        x = positions.numpy()
        return np.degrees(np.stack([calc_dihedrals(*(x[:, atom] for atom in group)) for group in groups], axis=1))

    def turned(positions: torch.Tensor) -> np.ndarray:
        return np.abs((psi(positions) - psi(here) + 180) % 360 - 180) > TURNED

    def over(positions: torch.Tensor) -> np.ndarray:
        return np.sign(signed_volumes(positions, centres).numpy()) != np.sign(hand)

    mean = bond_lengths(there.numpy(), links.numpy()).mean(axis=0)
    turns, flips = turned(drawn), over(drawn)
    result = {
        "lag_ps": propagator.timestep,
        "draws": count,
        "psi turned": {"draws": _share(turns), "data": _share(turned(there))},
        "stereocentre turned over": {"draws": _share(flips), "data": _share(over(there))},
        "turned over where psi turned": [_mean(flip[turn]) for flip, turn in zip(flips.T, turns.T, strict=True)],
        "turned over elsewhere": [_mean(flip[~turn]) for flip, turn in zip(flips.T, turns.T, strict=True)],
        "any stereocentre turned over": float(flips.any(axis=1).mean()),
        "a bond stretched by 0.25 Å": {
            name: float((np.abs(bond_lengths(one.numpy(), links.numpy()) - mean) > STRETCHED).any(axis=1).mean())
            for name, one in (("draws", drawn), ("data", there))
        },
    }
    output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1, ensure_ascii=False))


def _mean(one: np.ndarray) -> float | None:
    return float(one.mean()) if len(one) else None


def _share(one: np.ndarray) -> list[float]:
    return [float(value) for value in one.mean(axis=0)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path, help="DATA/ala3")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="DCDReader currently makes independent timesteps")
        draws(**vars(parser.parse_args()))
