"""Layers of FastEGNN with vector channels on a GPU, four kernels each, where no gradient is recorded.

Between the messages of edges (:func:`fastegnn_md.nn.messages.gpu.carried`) of two layers are some fifty operations of
torch. Of a small system each takes longer to start than to run, and of a large one each reads and writes all messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from ..segments import Segments
from .edges import Edges
from .message import EdgeMessage
from .messages import gpu
from .mlp import MLP
from .vectors import VectorChannels
from .virtual import VirtualNodes

_FEW = 4096  # atoms, up to which a program takes 16 of them, so that there are many programs; else 64
_MANY_TILES = 64  # of one system, from which torch sums over them


class Blocks(NamedTuple):
    """What a layer is made of."""

    edge: EdgeMessage
    vectors: VectorChannels
    virtual: VirtualNodes
    node: MLP
    neighbours: float  # that sums over neighbours are divided by


class Moved(NamedTuple):
    """What goes from layer to layer."""

    h: Tensor  # (N, H)
    vectors: Tensor  # (N, K, 3)
    z: Tensor | None  # (B, C, 3)
    s: Tensor  # (B, C, H)


def serves(layers: Sequence[Blocks], given: Moved, edges: Edges) -> bool:
    """Whether the kernels are there for layers and tensors like these."""
    return (
        given.h.is_cuda
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cuda")
        and not torch.compiler.is_compiling()
        and edges.index.shape[1] > 0
        and fits(layers, given, edges)
        and find_spec("triton") is not None
    )


def fits(layers: Sequence[Blocks], given: Moved, edges: Edges) -> bool:
    """Whether widths, precision and options are those of the kernels, wherever tensors are."""
    if edges.vector is None or (given.z is not None and given.z.dtype != torch.float32):
        return False
    carried = _carried(given, edges)
    return given.s.shape[1] <= 16 and all(
        gpu.fits_carried(one.edge, one.vectors, carried)
        and one.virtual.ordered
        and one.virtual.attention is None
        and one.virtual.feature is not None
        and not (one.virtual.coordinate is not None and one.virtual.coordinate.tanh)
        for one in layers
    )


def run(layers: Sequence[Blocks], given: Moved, x: Tensor, edges: Edges, systems: Segments) -> Moved:
    """Run all layers.

    Parameters
    ----------
    layers : sequence of Blocks
    given : Moved
        What the first layer finds.
    x : Tensor, shape (N, 3)
        Positions, which stay where they are.
    edges : Edges
        With at least one edge.
    systems : Segments
        System of each atom, not decreasing.

    Returns
    -------
    Moved
    """
    tiles = _tiles(systems, len(given.h))
    centre = systems.mean(x)
    at_nodes = layers[0].edge.at_nodes(given.h)
    per_system = _from_virtual(layers[0].virtual, given, centre)
    for one, following in zip(layers, [*layers[1:], None], strict=True):
        sums, found = gpu.carried_halves(one.edge, one.vectors, at_nodes, _carried(given, edges))
        given, at_nodes, per_system = _between(
            one, following, given, x.contiguous(), centre, (sums, found), per_system, tiles
        )
    return given


def _carried(given: Moved, edges: Edges) -> gpu.Carried:
    assert edges.vector is not None  # of networks with vector channels
    weight = edges.weight[0] if edges.weight else None
    return gpu.Carried(given.vectors, edges.index[1], edges.rows, edges.vector, edges.attributes, weight)


def _between(
    one: Blocks,
    following: Blocks | None,
    given: Moved,
    x: Tensor,
    centre: Tensor,
    heard: tuple[Tensor, Tensor],
    per_system: Tensor,
    tiles: _Tiles,
) -> tuple[Moved, tuple[Tensor, Tensor], Tensor]:
    """What follows the messages of a layer, up to those of the next one."""
    from .messages import triton_layer as programs

    h, u, z, s = (None if one is None else one.contiguous() for one in given)
    assert h is not None and u is not None and s is not None  # z alone may be missing
    atoms, hidden = h.shape
    nodes, channels, virtual = s.shape[1], u.shape[1], one.virtual
    pull, along, geometry = virtual.coordinate, one.vectors.virtual, z is not None
    messages, added = h.new_empty(atoms, nodes, hidden), h.new_empty(atoms, nodes, channels, 3) if geometry else None
    sums, pulls = h.new_empty(tiles.number, nodes, hidden), h.new_empty(tiles.number, nodes, 3) if geometry else None
    shared = {"HIDDEN": hidden, "NODES": nodes, "GEOMETRY": geometry, "enable_fp_fusion": True}
    wide = gpu.power_of_two(channels)
    programs.virtual_messages[(tiles.number, nodes)](
        h, x, z, per_system, tiles.system, tiles.first, tiles.last, atoms,
        virtual.first.weight, virtual.second.weight, virtual.second.bias,
        *((None, None, None) if pull is None else (pull.first.weight, pull.first.bias, pull.second.weight)),
        *((None, None) if along is None else (along.weight, along.bias)), messages, added, sums, pulls,
        CHANNELS=channels, WIDE=wide, WIDTH=virtual.first.weight.shape[1], SQUARED=virtual.squared, SINGLE=len(s) == 1,
        BLOCK=tiles.block, **shared,
    )  # fmt: skip
    new_h, new_u, at_receiver, at_sender = torch.empty_like(h), torch.empty_like(u), torch.empty_like(h), h
    new_z, new_s, given_next = None if z is None else torch.empty_like(z), torch.empty_like(s), torch.empty_like(s)
    edge, first = (
        (one.edge.first, virtual.first) if following is None else (following.edge.first, following.virtual.first)
    )
    if following is not None:
        at_sender = torch.empty_like(h)
    mix = one.vectors.mix
    programs.update_atoms[(-(-atoms // tiles.block), 2)](
        h, u, *heard, messages, added,
        one.node.first.weight, one.node.first.bias, one.node.second.weight, one.node.second.bias,
        mix.first.weight, mix.first.bias, mix.second.weight, mix.second.bias, edge.weight, edge.bias,
        new_h, new_u, at_receiver, at_sender, atoms, one.neighbours,
        CHANNELS=channels, WIDE=wide, EDGE=edge.weight.shape[1], LAST=following is None, BLOCK=tiles.block, **shared,
    )  # fmt: skip
    feature, number = virtual.feature, tiles.number
    assert feature is not None  # as fits() found
    if len(s) == 1 and number > _MANY_TILES:
        sums, pulls, number = sums.sum(0), None if pulls is None else pulls.sum(0), 1
    programs.update_systems[(len(s),)](
        z, s, centre, sums, pulls, tiles.of_system, tiles.atoms, number, atoms,
        feature.first.weight, feature.first.bias, feature.second.weight, feature.second.bias, first.weight, first.bias,
        new_z, new_s, given_next, ROWS=16, WIDTH=first.weight.shape[1], LAST=following is None,
        SINGLE=len(s) == 1, **shared,
    )  # fmt: skip
    return Moved(new_h, new_u, new_z, new_s), (at_receiver, at_sender), given_next


class _Tiles(NamedTuple):
    """Atoms in pieces that are of one system each; of too many pieces the last ones are empty."""

    block: int
    number: int
    # Of several systems:
    system: Tensor | None = None  # (T,)
    first: Tensor | None = None  # (T,)
    last: Tensor | None = None  # (T,), the first atom that is not of this system
    of_system: Tensor | None = None  # (B + 1,), first piece of each system
    atoms: Tensor | None = None  # (B,)


def _tiles(systems: Segments, atoms: int) -> _Tiles:
    block = 16 if atoms <= _FEW else 64
    if systems.size == 1:
        return _Tiles(block, -(-atoms // block))
    index = systems.index
    begin = torch.searchsorted(index, torch.arange(systems.size + 1, device=index.device))
    sizes = begin.diff()
    of_system = torch.cat([begin[:1], ((sizes + block - 1) // block).cumsum(0)])
    count = atoms // block + systems.size  # at least as many as there are, without a look
    tile = torch.arange(count, device=index.device)
    system = torch.searchsorted(of_system[1:], tile, right=True).clamp(max=systems.size - 1)
    first = begin.index_select(0, system) + block * (tile - of_system.index_select(0, system))
    return _Tiles(block, count, system, first, begin.index_select(0, system + 1), of_system, sizes)


def _from_virtual(virtual: VirtualNodes, given: Moved, centre: Tensor) -> Tensor:
    """What messages take from the virtual nodes of a system before the first layer, (B, C, H)."""
    hidden = given.h.shape[1]
    weight = virtual.first.weight
    found = torch.nn.functional.linear(given.s, weight[:, hidden : 2 * hidden], virtual.first.bias)
    if given.z is not None:
        centred = given.z - centre[:, None]
        mixing = torch.bmm(centred, centred.transpose(1, 2))
        found = found + torch.nn.functional.linear(mixing, weight[:, 2 * hidden + 1 :])
    return found.contiguous()
