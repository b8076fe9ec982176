"""Linear motion, the simplest line of the papers' tables.

Satorras, Hoogeboom, Welling: E(n) Equivariant Graph Neural Networks. ICML 2021, Section 5.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..nn.edges import Edges
from ..segments import Segments
from .architecture import Architecture
from .output import ModelOutput


class Linear(Architecture):
    """x_i + v_i t with one trainable number t, 1 at the start; ``h`` is returned as it was given, edges are not used.

    Where velocities are zero (a propagator of kind "position") nothing moves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.time: nn.Parameter = nn.Parameter(torch.ones(1))

    def predict(
        self, h: Tensor, x: Tensor, v: Tensor, vectors: Tensor | None, edges: Edges, systems: Segments
    ) -> ModelOutput:
        """Run the map; see :meth:`Architecture.predict`."""
        self._refuse_vectors(vectors)
        return ModelOutput(x=x + self.time * v, h=h)
