"""Pairs of the Triton kernel of cell lists against those of vesin; as ``interpreted_kernel.py``."""

from __future__ import annotations

import json

import gpu_cases
import torch

from fastegnn_md import State
from fastegnn_md.graph import cells, neighbour_list

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def heights(state: State) -> list[float]:
    cell = state.cell[0]
    cross = torch.linalg.cross(cell.roll(-1, 0), cell.roll(-2, 0))
    return ((cross * cell).sum(1).abs() / cross.norm(dim=1)).tolist()


def rows(index, vector):
    return sorted((*a, *(round(4 * x) for x in b)) for a, b in zip(index.T.tolist(), vector.tolist(), strict=True))


def compared(state: State, cutoff: float) -> dict[str, object]:
    expected = neighbour_list(state, cutoff, "vesin")
    there = state.to(DEVICE)
    given = (there.cell[0], heights(state)) if state.periodic else (None, [0.0] * 3)
    assert cells.fits(state.boundaries[0], given[1], cutoff)
    index, vector = again = cells.near_pairs(there.positions, *given, cutoff)
    if not state.periodic or DEVICE == "cuda":  # the interpreter takes its time
        again = cells.near_pairs(there.positions, *given, cutoff)
    difference = (vector.norm(dim=1).sort().values.cpu() - expected.distance[:, 0].sort().values).abs().max()
    return {
        "edges": index.shape[1],
        "same pairs": rows(*expected[:2]) == rows(index.cpu(), vector.cpu()),
        "largest difference of distances": float(difference),
        "sorted by receiver": bool((index[0].diff() >= 0).all()),
        "the same call gives the same list": torch.equal(index, again[0]) and torch.equal(vector, again[1]),
    }


if __name__ == "__main__":
    generator = torch.Generator().manual_seed(0)
    periodic, few = gpu_cases.system(periodic=True, side=4), gpu_cases.system(side=2)
    far = torch.randint(-3, 4, (periodic.n_atoms, 3), generator=generator).double()
    states = {
        "isolated": (gpu_cases.system(side=4), 2.5),
        "a few atoms far apart": (few.replace(positions=50 * few.positions), 90.0),
        "far images": (periodic.replace(positions=periodic.positions + far @ periodic.cell[0]), 2.5),
        "single precision": (periodic.to(dtype=torch.float32), 2.6),
    }
    print(json.dumps({name: compared(*given) for name, given in states.items()}))
