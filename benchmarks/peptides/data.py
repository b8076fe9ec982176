"""The trajectories of ``simulate.py`` as the benchmark divides them."""

from __future__ import annotations

from pathlib import Path

import MDAnalysis as mda

TRAINING, REFERENCE = (0, 1), (2, 3)  # runs that a model sees, and those that it is held against


def parts(folder: Path, run: int) -> list[str]:
    """Finished parts of one trajectory in order."""
    ready = [path for path in sorted((folder / f"run-{run:02d}").glob("*.dcd")) if path.with_suffix(".xml").exists()]
    return [str(path) for path in ready]


def universe(folder: Path, files: list[str]) -> mda.Universe:
    """Some parts as one trajectory of the molecule with its bonds."""
    return mda.Universe(str(folder / "topology.pdb"), files)
