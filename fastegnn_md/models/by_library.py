"""FastEGNN by the C++ library: from the keywords of an architecture to its call, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..nn.native.network import Inputs, Outputs, Plan, Shape, differentiable, forward, plan_for, weights_of
from ..nn.vectors import initial_vectors
from .output import ModelOutput

if TYPE_CHECKING:
    from .fast import FastNetwork


def by_library(
    network: FastNetwork,
    shape: Shape,
    by_torch: Callable[..., ModelOutput],
    *,
    h: Tensor,
    x: Tensor,
    v: Tensor,
    edge_index: Tensor,
    edge_attr: Tensor | None = None,
    batch: Tensor | None = None,
    systems: int | None = None,
    vectors: Tensor | None = None,
    edge_vector: Tensor | None = None,
    edge_weight: Tensor | None = None,
) -> ModelOutput | None:
    """What the network gives; None where the library cannot say, or the input is one that torch will refuse.

    Parameters
    ----------
    network : FastNetwork
    shape : Shape
        Of the network.
    by_torch : callable
        The network by torch.
    h, x, v, edge_index, edge_attr, batch, systems, vectors, edge_vector, edge_weight
        As in :meth:`Architecture.forward`.
    """
    weight = network.virtual_features
    given = [h, x, v, *(one for one in (edge_attr, vectors, edge_vector, edge_weight) if one is not None)]
    if (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or any(one.dtype != weight.dtype or one.device != weight.device for one in given)
        or (h.requires_grad and torch.is_grad_enabled())
        or not len(x)
        or edge_index.dtype != torch.int64
        or (edge_attr is not None and len(edge_attr) != edge_index.shape[1])
        or not _shapes_fit(shape, h, x, v, edge_index.shape[1], vectors, edge_vector, edge_weight)
    ):
        return None  # what does not fit is torch's to refuse: the library would read beyond it
    plan = plan_for(shape, weight)
    begin = None if plan is None else _begin(len(x), batch, systems)
    width = 0 if edge_attr is None else edge_attr.shape[1]
    if plan is None or begin is None or width != shape.attributes or (vectors is not None and not shape.vectors):
        return None
    if edge_attr is None:
        edge_attr = x.new_zeros(edge_index.shape[1], 0)
    keep = network._kept(x, x.new_zeros(len(x), dtype=torch.int64) if batch is None else batch, edge_index, edge_vector)
    if keep is not None:
        edge_index, edge_attr = edge_index.index_select(1, keep), edge_attr.index_select(0, keep)
        edge_vector, edge_weight = (
            None if one is None else one.index_select(0, keep) for one in (edge_vector, edge_weight)
        )
    vector = edge_vector
    if shape.vectors and vector is None:
        vector = x.index_select(0, edge_index[0]) - x.index_select(0, edge_index[1])
    elif not shape.vectors and vector is not None:  # what is added to differences of positions
        vector = vector - (x.index_select(0, edge_index[0]) - x.index_select(0, edge_index[1]))
    u = initial_vectors(v, vectors, shape.vectors) if shape.vectors else v
    inputs = Inputs(h, x, u, edge_attr, vector, edge_weight)

    def plain(h: Tensor, x: Tensor, u: Tensor, attributes: Tensor, vector: Tensor, weight: Tensor) -> Outputs:
        v, vectors = (u[:, 0], u[:, 1:]) if shape.vectors else (u, None)
        if not shape.vectors and vector is not None:
            vector = vector + (x.index_select(0, edge_index[0]) - x.index_select(0, edge_index[1]))
        found = by_torch(
            h=h, x=x, v=v, edge_index=edge_index, edge_attr=attributes, batch=batch, systems=systems, vectors=vectors,
            edge_vector=vector, edge_weight=weight,
        )  # fmt: skip
        nothing = x.new_zeros(0)
        change = nothing if found.v is None else torch.stack([found.x - x, found.v - v], dim=1)
        z = nothing if found.z is None else found.z
        assert found.s is not None  # FastEGNN has virtual nodes
        return Outputs(found.h, nothing if shape.vectors else found.x, z, found.s, change)

    try:
        return _output(_called(network, plan, begin, edge_index, inputs, plain), x, v, shape)
    except IndexError:
        order = edge_index[0].argsort(stable=True)
        if bool((order.diff() == 1).all()):
            return None  # sorted already: they name nodes that are not there
    # Gradients of what is sorted here go back through it.
    edge_index = edge_index[:, order]
    inputs = inputs._replace(
        attributes=edge_attr[order],
        vector=None if vector is None else vector[order],
        weight=None if edge_weight is None else edge_weight[order],
    )
    return _output(_called(network, plan, begin, edge_index, inputs, plain), x, v, shape)


def _called(
    network: FastNetwork, plan: Plan, begin: Tensor, edge_index: Tensor, inputs: Inputs, plain: Callable[..., Outputs]
) -> Outputs:
    weights = weights_of(network)
    if torch.is_grad_enabled():
        parameters = weights.parameters()
        if any(one is not None and one.requires_grad for one in (*inputs, *parameters)):
            return differentiable(plan, begin, edge_index, inputs, parameters, plain)
    return forward(plan, weights.packed(plan), begin, edge_index, inputs)


def _shapes_fit(
    shape: Shape,
    h: Tensor,
    x: Tensor,
    v: Tensor,
    edges: int,
    vectors: Tensor | None,
    edge_vector: Tensor | None,
    edge_weight: Tensor | None,
) -> bool:
    nodes = len(x)
    return (
        h.shape == (nodes, shape.features)
        and x.shape == v.shape == (nodes, 3)
        and (vectors is None or (vectors.dim() == 3 and vectors.shape[::2] == (nodes, 3)))
        and (edge_vector is None or edge_vector.shape == (edges, 3))
        and (edge_weight is None or edge_weight.shape == (edges,))
    )


def _output(found: Outputs, x: Tensor, v: Tensor, shape: Shape) -> ModelOutput:
    z = found.z if shape.geometry else None
    if not shape.vectors:
        return ModelOutput(x=found.x, h=found.h, z=z, s=found.s)
    return ModelOutput(x=x + found.change[:, 0], v=v + found.change[:, 1], h=found.h, z=z, s=found.s)


def _begin(nodes: int, batch: Tensor | None, systems: int | None) -> Tensor | None:
    """First node of each system, and the number of nodes; None if a system has none, or systems are not in order."""
    if batch is None:
        return torch.tensor([0, nodes])
    if systems is None:
        systems = int(batch[-1]) + 1
    if systems == 1:
        return torch.tensor([0, nodes])
    begin = torch.searchsorted(batch, torch.arange(systems + 1))
    return begin if bool((begin.diff() > 0).all()) and int(begin[-1]) == nodes else None
