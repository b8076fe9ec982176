"""Handedness: how often a stereocentre turned over."""

from __future__ import annotations

import numpy as np


def flips(volumes: np.ndarray, handedness: np.ndarray) -> np.ndarray:
    """How often each centre changes to the other hand from one frame to the next, shape (C,).

    The first frame is held against ``handedness``. Volumes that are near zero, less than a tenth of their centre's
    usual size, belong to no hand and leave it as it was.

    Parameters
    ----------
    volumes : ndarray, shape (n_frames, C), Å³
        Of consecutive frames, by :func:`~fastegnn_md.graph.stereo.signed_volumes`.
    handedness : ndarray, shape (C,), Å³
        Volumes of the right hand, as the mean of a reference.
    """
    flat = np.abs(volumes) < 0.1 * np.abs(handedness)
    found = np.zeros(volumes.shape[1], dtype=np.int64)
    for centre in range(volumes.shape[1]):
        signs = np.sign(volumes[~flat[:, centre], centre])
        signs = np.concatenate([[np.sign(handedness[centre])], signs])
        found[centre] = np.count_nonzero(np.diff(signs))
    return found
