"""On which side of its neighbours an atom stands in a sample, and where it stood: what a network of vectors cannot see.

A network that treats mirror images alike has scalar products of vectors to look at; a volume, which tells left from
right, is a product of three. The product of two volumes, of a sample and of the present positions, is the same in both
images. It says whether a centre stands as it stood, and its gradient which way leads back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..graph.stereo import signed_volumes

_VOLUME = 6.0  # Å³, six times that of a tetrahedron of atoms around a carbon, as signed_volumes has it


def volumes(x: Tensor, tetrahedra: Tensor) -> Tensor:
    """Signed volumes of the neighbours of atoms with four at positions x (N, 3), about ±1, shape (T,)."""
    return signed_volumes(x, tetrahedra) / _VOLUME


def handedness(y: Tensor, tetrahedra: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """What the volumes of a sample say beside those of the present positions.

    Parameters
    ----------
    y : Tensor, shape (N, 3), Å
        The sample.
    tetrahedra : Tensor of int64, shape (T, 5)
        Atoms with four neighbours, and these.
    present : Tensor, shape (T,)
        Their :func:`volumes` at the present positions.

    Returns
    -------
    scalars : Tensor, shape (N, 1)
        About 1 of an atom that stands among its neighbours as it stood, -1 on the other side; 0 without four.
    vectors : Tensor, shape (N, 3)
        The way along which neighbours move the scalar up.
    """
    corners = tetrahedra[:, 1:]
    a, b, c, d = (y.index_select(0, corners[:, k]) for k in range(4))
    a, b, c = a - d, b - d, c - d
    along_a, along_b, along_c = torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)
    volume = torch.linalg.vecdot(a, along_a) / _VOLUME
    ways = torch.stack([along_a, along_b, along_c, -(along_a + along_b + along_c)], dim=1)
    ways = ways * (present / _VOLUME)[:, None, None]
    scalars = y.new_zeros(len(y), 1).index_copy(0, tetrahedra[:, 0], torch.tanh(volume * present)[:, None])
    vectors = y.new_zeros(len(y), 3).index_add(0, corners.flatten(), ways.flatten(0, 1))
    return scalars, vectors
