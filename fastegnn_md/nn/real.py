"""The real-real part of a layer of EGNN, which its Fast version and FastRF have as well."""

from __future__ import annotations

import torch
from torch import Tensor

from .edges import Edges
from .message import EdgeMessage
from .messages import gpu as gpu_kernel
from .messages.sums import message_sums
from .mlp import MLP
from .vectors import VectorChannels

_NORMALIZE_EPSILON = 1e-8  # of the published `normalize` option


def pulls(
    edge: EdgeMessage, coordinate: MLP, h: Tensor, x: Tensor, edges: Edges, *, normalize: bool = False
) -> tuple[Tensor, Tensor]:
    """Sums over the neighbours of the messages m_ij and of the pulls (x_i-x_j) φx(m_ij).

    Parameters
    ----------
    edge : EdgeMessage
        φ1, of h_i, h_j, |x_i-x_j|² and the attributes of the edge.
    coordinate : MLP
        φx.
    h : Tensor, shape (N, hidden)
    x : Tensor, shape (N, 3)
    edges : Edges
    normalize : bool
        Divide (x_i-x_j) by its detached length.

    Returns
    -------
    tuple of Tensor, shapes (N, hidden) and (N, 3)
    """
    at_nodes, received, pull = edge.at_nodes(h), None, None
    for block in edges.blocks():
        difference = block.difference(x)
        square = difference.square().sum(1, keepdim=True)
        if normalize:
            difference = difference / (square.sqrt().detach() + _NORMALIZE_EPSILON)
        features = torch.cat([square, block.attributes], dim=1)
        received, coefficients = message_sums(
            edge, coordinate, at_nodes, features, block.weight, block.index, block.receivers, received
        )
        pull = block.sum(difference * coefficients, pull)
    assert received is not None and pull is not None  # there is at least one block
    return received, pull


def heard(edge: EdgeMessage, h: Tensor, x: Tensor, edges: Edges) -> Tensor:
    """The first of :func:`pulls`, without the pulls: sums of the messages, shape (N, hidden)."""

    def messages(receiver: list[Tensor], sender: list[Tensor], difference: Tensor, attributes: Tensor) -> tuple[Tensor]:
        square = difference.square().sum(1, keepdim=True)
        return (edge(receiver[0], sender[0], torch.cat([square, attributes], dim=1)),)

    at_receiver, at_sender = edge.at_nodes(h)
    (message,) = edges.sums(messages, x, [at_receiver], [at_sender], [edge])
    return message


def carried(edge: EdgeMessage, channels: VectorChannels, h: Tensor, u: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
    """Sums over the neighbours of messages that see vector channels, and of the vectors that they carry.

    Parameters
    ----------
    edge : EdgeMessage
        Of h_i, h_j, |x_i-x_j|², the two-body invariants of the vectors and the attributes of the edge.
    channels : VectorChannels
    h : Tensor, shape (N, hidden)
    u : Tensor, shape (N, K, 3)
        The vectors.
    edges : Edges
        Of a network whose layers leave positions where they are.

    Returns
    -------
    tuple of Tensor, shapes (N, hidden) and (N, K, 3)
    """
    at_nodes, received, vectors = edge.at_nodes(h), None, None
    if edges.vector is not None and not torch.is_grad_enabled() and u.is_cuda and not torch.compiler.is_compiling():
        weight = edges.weight[0] if edges.weight else None
        given = gpu_kernel.Carried(u, edges.index[1], edges.rows, edges.vector, edges.attributes, weight)
        if gpu_kernel.carries(edge, channels, given) and not torch.is_autocast_enabled("cuda"):
            return gpu_kernel.carried(edge, channels, at_nodes, given)
    for block in edges.blocks():
        assert block.direction is not None  # as the docstring asks
        direction, square = block.direction
        receiver, sender = block.receivers.gather(u), u.index_select(0, block.index[1])
        features = torch.cat([square, channels.invariants(receiver, sender, direction), block.attributes], dim=1)
        received, outputs = message_sums(
            edge, channels.edge, at_nodes, features, block.weight, block.index, block.receivers, received
        )
        vectors = block.sum(channels.carried(outputs, sender, direction), vectors)
    assert received is not None and vectors is not None  # there is at least one block
    return received, vectors
