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


def in_order(index, vector, atoms):
    """Pairs, of which each is there in one image, and their vectors, by receiver and sender."""
    order = (index[0] * atoms + index[1]).argsort()
    return index[:, order].cpu(), vector[order].cpu()


def compared(state: State, cutoff: float) -> dict[str, object]:
    expected = neighbour_list(state, cutoff, "vesin")
    there = state.to(DEVICE)
    given = (there.cell[0], heights(state)) if state.periodic else (None, [0.0] * 3)
    assert cells.fits(state.boundaries[0], given[1], cutoff)
    index, vector = again = cells.near_pairs(there.positions, *given, cutoff)
    if not state.periodic or DEVICE == "cuda":  # the interpreter takes its time
        again = cells.near_pairs(there.positions, *given, cutoff)
    mine, theirs = in_order(index, vector, state.n_atoms), in_order(*expected[:2], state.n_atoms)
    same = torch.equal(mine[0], theirs[0])
    return {
        "edges": index.shape[1],
        "same pairs": same,
        "largest difference of vectors": float((mine[1] - theirs[1]).abs().max()) if same else None,
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
