"""A molecule that switches between a short and a long form with known chances, as MDAnalysis trajectories."""

from __future__ import annotations

import MDAnalysis as mda
import numpy as np

SHORT, LONG, WIDTH = 1.2, 2.0, 0.05  # Å
LEAVE = {"short": 0.3, "long": 0.6}  # chance to be in the other form a frame (1 ps) later
FRACTION_LONG = LEAVE["short"] / (LEAVE["short"] + LEAVE["long"])


def trajectory(frames: int, seed: int) -> mda.Universe:
    """Three atoms O-C-N, C-N of length 1.2 Å and C-O short or long, at an angle, turning and drifting freely."""
    rng = np.random.default_rng(seed)
    is_long = rng.random() < FRACTION_LONG
    positions = np.empty((frames, 3, 3))
    for frame in range(frames):
        length = (LONG if is_long else SHORT) + WIDTH * rng.standard_normal()
        angle = np.radians(110) + 0.05 * rng.standard_normal()
        shape = np.array(
            [[length, 0, 0], [0, 0, 0], [SHORT * np.cos(angle), SHORT * np.sin(angle), 0]]
        ) + 0.02 * rng.standard_normal((3, 3))
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        positions[frame] = shape @ (turn * np.linalg.det(turn)) + rng.standard_normal(3)
        is_long ^= bool(rng.random() < LEAVE["long" if is_long else "short"])
    universe = mda.Universe.empty(3, trajectory=True)
    universe.add_TopologyAttr("elements", ["O", "C", "N"])
    universe.add_TopologyAttr("types", ["O", "C", "N"])
    universe.add_TopologyAttr("masses", [15.999, 12.011, 14.007])
    universe.add_TopologyAttr("bonds", [(0, 1), (1, 2)])
    universe.load_new(positions.astype(np.float32), dt=1.0)
    return universe
