"""What the network of a propagator is given of edges."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ..graph import EdgeList, bessel_basis, cutoff_envelope

_BLOCK = 128


def edge_inputs(edges: EdgeList, hops: Tensor, cutoff: float, functions: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Attributes, vectors and weights of edges, by the names of the network's arguments.

    Parameters
    ----------
    edges : EdgeList
    hops : Tensor, shape (E, 4)
        Distance along bonds, one-hot.
    cutoff : float, Å
        The unit of the vectors.
    functions : int
        Radial functions.
    dtype : torch.dtype
        Of the network.

    Returns
    -------
    dict of Tensor
        ``edge_attr`` (E, functions + 4), ``edge_vector`` (E, 3) and ``edge_weight`` (E,).
    """
    if _one_kernel(edges, dtype):
        return by_kernel(edges, hops, cutoff, functions)
    distance = edges.distance.to(dtype)
    radial = bessel_basis(distance, cutoff, functions)
    return {
        "edge_attr": torch.cat([radial, hops.to(dtype)], dim=1),
        "edge_vector": edges.vector.to(dtype) / cutoff,
        "edge_weight": cutoff_envelope(distance, cutoff)[:, 0],
    }


def _one_kernel(edges: EdgeList, dtype: torch.dtype) -> bool:
    """Whether two dozen operations of torch are one kernel: on a GPU, where no gradient is recorded."""
    return (
        edges.vector.is_cuda
        and dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and len(edges.vector) > 0
        and find_spec("triton") is not None
    )


def by_kernel(edges: EdgeList, hops: Tensor, cutoff: float, functions: int) -> dict[str, Tensor]:
    """:func:`edge_inputs` in single precision by the Triton kernel, of at least one edge."""
    from ..nn.messages.triton_features import edge_inputs as program

    count = len(edges.vector)
    attributes, scaled, weight = (
        torch.empty(shape, device=hops.device) for shape in ((count, functions + 4), (count, 3), (count,))
    )
    width = 1 << (functions + 3).bit_length()
    program[(-(-count // _BLOCK),)](
        edges.vector.contiguous(), edges.distance.contiguous(), hops.contiguous(), attributes, scaled, weight, count,
        cutoff, FUNCTIONS=functions, WIDTH=width, BLOCK=_BLOCK, enable_fp_fusion=True,
    )  # fmt: skip
    return {"edge_attr": attributes, "edge_vector": scaled, "edge_weight": weight}
