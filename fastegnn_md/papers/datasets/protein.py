"""The protein benchmark: the backbone of adenylate kinase (AdK), some frames ahead.

Han et al., NeurIPS 2022 (EGHN) and Zhang et al., ICML 2024 (FastEGNN), on the equilibrium trajectory of Seyler and
Beckstein, figshare 5108170, which MDAnalysisData knows as *adk_equilibrium*: 4,187 frames of 3,341 atoms, 240 ps apart.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import MDAnalysis as mda
import numpy as np

from ..._progress import progress_bar
from ...data.frames import keeping_frame, read_frame
from ...data.topology import load_universe, select_atoms
from ...errors import DataError
from .rotation import random_rotation

_FILES = "adk4AKE.psf", "1ake_007-nowater-core-dt240ps.dcd"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class ProteinSteps:
    """One protein at several times, and some frames later.

    Attributes
    ----------
    x, target : ndarray of float32, shape (systems, N, 3), Å
        Positions of a frame and of the frame to predict.
    v : ndarray of float32, shape (systems, N, 3), Å per frame
        x(t + 1 frame) − x(t), as published: these **look into the future**. They are for comparison with published
        tables only; nothing that knows x(t) alone can have them.
    charges : ndarray of float32, shape (N,)
        Partial charges over the largest of them.
    """

    x: np.ndarray
    v: np.ndarray
    target: np.ndarray
    charges: np.ndarray


def adk_equilibrium(folder: str | os.PathLike[str] | None = None) -> mda.Universe:
    """The AdK equilibrium trajectory, where MDAnalysisData keeps it.

    Parameters
    ----------
    folder : path, optional
        Folder of both files. Default: ``adk_equilibrium`` in MDAnalysisData's folder (``$MDANALYSIS_DATA``, else
        ``~/MDAnalysis_data``).

    Raises
    ------
    DataError
        If the files are not there; nothing is downloaded.
    """
    home = Path(os.environ.get("MDANALYSIS_DATA", "~/MDAnalysis_data")).expanduser() / "adk_equilibrium"
    candidates = [home] if folder is None else [Path(folder), Path(folder) / "adk_equilibrium", home]
    for candidate in candidates:
        if all((candidate / name).is_file() for name in _FILES):
            return load_universe(*(candidate / name for name in _FILES))
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise DataError(
        f"the AdK equilibrium trajectory ({' and '.join(_FILES)}) is in none of {looked}; get it once with "
        "'pip install MDAnalysisData' and python -c 'from MDAnalysisData import datasets; "
        "datasets.fetch_adk_equilibrium()', or from https://doi.org/10.6084/m9.figshare.5108170"
    )


def protein_steps(
    universe: mda.Universe,
    *,
    select: str = "backbone",
    ahead: int = 15,
    systems: Sequence[int] = (2481, 827, 863),
    seed: int = 43,
    progress: bool = True,
) -> dict[str, ProteinSteps]:
    """Frames of a protein and the frames to predict from them.

    Parameters
    ----------
    universe : Universe
        With partial charges.
    select : str
        MDAnalysis selection of the atoms.
    ahead : int
        Frames from input to target.
    systems : sequence of three int
        Frames of the trajectory, in order, for training, validation and test; by default those of the papers. There
        is no gap between them, so targets of one part are inputs of the next.
    seed : int
        Of the rotation and the displacement of each test frame.
    progress : bool

    Returns
    -------
    dict of ProteinSteps
        ``train``, ``valid`` and ``test``. Test frames are rotated at random and displaced by a normal vector with half
        the edges of the box as standard deviation (or 10 Å without a box), as published.

    Raises
    ------
    DataError
        If the trajectory is too short or damaged, or there are no charges.
    """
    atoms = select_atoms(universe, select)
    if not hasattr(atoms, "charges"):
        raise DataError("the topology has no charges; give one that has (PSF, PRMTOP)")
    if len(systems) != 3 or min(systems) < 1 or ahead < 1:
        raise DataError(
            f"systems={tuple(systems)}, ahead={ahead}; expected three positive numbers and at least 1 frame"
        )
    total, frames = sum(systems), universe.trajectory.n_frames
    if total + ahead > frames:
        raise DataError(
            f"{total} frames and targets {ahead} frames later need {total + ahead} frames; the trajectory has {frames}"
        )
    x = np.empty((total + ahead, len(atoms), 3), dtype=np.float32)
    spread = np.full(3, 10.0)
    with keeping_frame(universe.trajectory):
        for index in progress_bar(range(total + ahead), desc="read", unit="frame", disable=not progress, delay=2):
            frame = read_frame(atoms, index)
            x[index] = frame.positions
            if frame.cell is not None:
                spread = 0.5 * np.linalg.norm(frame.cell, axis=1)
    charges = np.asarray(atoms.charges, dtype=np.float32)
    parts, begin = {}, 0
    for name, count in zip(SPLITS, systems, strict=True):
        now = slice(begin, begin + count)
        start, target = x[now], x[begin + ahead : begin + ahead + count]
        v = x[begin + 1 : begin + 1 + count] - start
        if name == "test":
            start, v, target = _moved(start, v, target, spread, np.random.Generator(np.random.PCG64(seed)))
        parts[name] = ProteinSteps(start, v, target, charges / charges.max())
        begin += count
    return parts


def _moved(
    x: np.ndarray, v: np.ndarray, target: np.ndarray, spread: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    turns = np.stack([random_rotation(rng) for _ in x]).transpose(0, 2, 1)
    shift = rng.normal(size=(len(x), 1, 3)) * spread
    moved = x @ turns + shift, v @ turns, target @ turns + shift
    x, v, target = (one.astype(np.float32) for one in moved)
    return x, v, target
