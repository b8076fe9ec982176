"""Neighbour lists against ASE's, and edge features against closed forms."""

from __future__ import annotations

import ase.neighborlist
import numpy as np
import pytest
import torch
from ase import Atoms

from fastegnn_md import State
from fastegnn_md.errors import GraphError
from fastegnn_md.graph import (
    BondDistance,
    NeighbourSearch,
    cutoff_envelope,
    minimum_image,
    neighbour_list,
    shortest_edges,
)

TRICLINIC = torch.tensor([[9.0, 0.0, 0.0], [2.0, 8.0, 0.0], [-1.5, 2.5, 7.0]], dtype=torch.float64)


def make(n, seed=0, cell=None, pbc=None, spread=8.0, systems=1):
    generator = torch.Generator().manual_seed(seed)
    positions = spread * torch.rand(n * systems, 3, generator=generator, dtype=torch.float64)
    return State(
        positions=positions,
        velocities=torch.zeros_like(positions),
        numbers=torch.ones(n * systems, dtype=torch.int64),
        masses=torch.ones(n * systems, dtype=torch.float64),
        cell=None if cell is None else cell.expand(systems, 3, 3),
        pbc=pbc,
        batch=torch.arange(systems).repeat_interleave(n),
    )


def as_set(edges):
    return sorted(
        (int(i), int(j), *np.round(vector.numpy(), 6).tolist())
        for i, j, vector in zip(*edges.edge_index, edges.vector, strict=True)
    )


@pytest.mark.parametrize("backend", ["vesin", "vesin_torch"])
@pytest.mark.parametrize("pbc", [(False,) * 3, (True,) * 3, (True, False, True)])
@pytest.mark.parametrize("cutoff", [2.5, 5.0])
def test_cell_lists_agree_with_ase(pbc, cutoff, backend, require):
    if backend == "vesin_torch":
        require(backend)
    state = make(40, cell=TRICLINIC, pbc=torch.tensor(pbc))
    edges = neighbour_list(state, cutoff, backend=backend)
    atoms = Atoms(state.numbers.numpy(), state.positions.numpy(), cell=TRICLINIC.numpy(), pbc=pbc)
    i, j, vector = ase.neighborlist.neighbor_list("ijD", atoms, cutoff)
    expected = sorted((int(a), int(b), *np.round(-d, 6).tolist()) for a, b, d in zip(i, j, vector, strict=True))
    np.testing.assert_allclose(as_set(edges), expected, atol=2e-6)
    assert bool((edges.edge_index[0].diff() >= 0).all()), "edges are sorted by receiver"


def test_dense_agrees_with_vesin_on_a_batch():
    state = make(11, systems=5)
    dense, vesin = (neighbour_list(state, 4.0, backend=name) for name in ("dense", "vesin"))
    assert as_set(dense) == as_set(vesin)
    assert bool((state.batch[dense.edge_index[0]] == state.batch[dense.edge_index[1]]).all())


@pytest.mark.parametrize("backend", ["vesin", "vesin_torch"])
@pytest.mark.parametrize("cell", [None, TRICLINIC])
def test_a_search_with_a_skin_finds_what_one_without_finds(backend, cell, require):
    if backend == "vesin_torch":
        require(backend)
    search, generator = NeighbourSearch(3.0, skin=1.0, backend=backend), torch.Generator().manual_seed(3)
    state = make(25, cell=cell, systems=2)
    for step in range(30):
        edges = search(state)
        assert as_set(edges) == as_set(neighbour_list(state, 3.0)), step
        assert bool((edges.edge_index[0].diff() >= 0).all()), "edges are sorted by receiver"
        # Drifting out of the cell one way, a few atoms at a time faster than half the skin.
        jump = 0.1 + 0.1 * torch.rand(state.positions.shape, generator=generator, dtype=torch.float64)
        jump[step] *= 5
        state = state.replace(positions=state.positions + jump)


def test_a_search_with_a_skin_notices_another_system():
    search = NeighbourSearch(3.0, skin=1.0, backend="vesin")
    for state in (make(25, cell=TRICLINIC), make(25), make(25, cell=1.02 * TRICLINIC), make(20), make(20, seed=1)):
        assert as_set(search(state)) == as_set(neighbour_list(state, 3.0))


@pytest.mark.parametrize("backend", ["vesin", "vesin_torch"])
def test_a_search_without_a_skin_does_not_depend_on_what_was_searched_before(backend, require):
    """To the last bit, also after atoms crossed a face of the cell: a continued simulation searches anew."""
    if backend == "vesin_torch":
        require(backend)
    before = make(25, cell=TRICLINIC)
    after = before.replace(positions=before.positions - 0.3)
    search = NeighbourSearch(3.0, backend=backend)
    search(before)
    for found, fresh in zip(search(after), NeighbourSearch(3.0, backend=backend)(after), strict=True):
        assert torch.equal(found, fresh)


def test_vectors_do_not_change_when_an_atom_moves_by_lattice_vectors():
    state = make(20, cell=TRICLINIC)
    shifts = torch.randint(-3, 4, (20, 3), generator=torch.Generator().manual_seed(1)).double()
    moved = state.replace(positions=state.positions + shifts @ TRICLINIC)
    np.testing.assert_allclose(as_set(neighbour_list(moved, 4.0)), as_set(neighbour_list(state, 4.0)), atol=2e-6)


def test_overlapping_atoms_are_named():
    state = make(5)
    positions = state.positions.clone()
    positions[3] = positions[1]
    with pytest.raises(GraphError, match="atoms 1 and 3 are"):
        neighbour_list(state.replace(positions=positions), 3.0)


def test_one_atom_has_no_edges():
    for backend in ("dense", "vesin"):
        assert neighbour_list(make(1), 3.0, backend=backend).edge_index.shape == (2, 0)


def test_backends_say_what_they_cannot_do():
    with pytest.raises(GraphError, match="unknown neighbour list 'kdtree'; available: dense, vesin, vesin_torch"):
        neighbour_list(make(3), 3.0, backend="kdtree")
    with pytest.raises(GraphError, match=r"cutoff is 0.0 Å and skin 0.0 Å"):
        neighbour_list(make(3), 0.0)
    with pytest.raises(GraphError, match=r"skin -1.0 Å"):
        NeighbourSearch(3.0, skin=-1.0)
    with pytest.raises(GraphError, match="isolated systems of equal size"):
        neighbour_list(make(3, cell=TRICLINIC), 3.0, backend="dense")


def test_minimum_image_is_the_shortest_for_bonds():
    generator = torch.Generator().manual_seed(2)
    short = 4.0 * torch.rand(50, 3, generator=generator, dtype=torch.float64) - 2.0
    images = short + torch.randint(-2, 3, (50, 3), generator=generator).double() @ TRICLINIC
    pbc = torch.ones(50, 3, dtype=torch.bool)
    torch.testing.assert_close(minimum_image(images, TRICLINIC.expand(50, 3, 3), pbc), short, rtol=0, atol=1e-12)


def test_envelope_is_one_at_zero_and_smooth_at_the_cutoff():
    r = torch.tensor([0.0, 2.0, 4.0 - 1e-7, 4.0, 5.0], dtype=torch.float64, requires_grad=True)
    value = cutoff_envelope(r, 4.0)
    (slope,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    torch.testing.assert_close(value.detach()[[0, 1, 3, 4]], torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=torch.float64))
    assert float(slope.detach()[2].abs()) < 1e-12
    assert float(curvature[2].abs()) < 1e-6


def test_bond_distance_counts_bonds_by_the_shortest_path():
    # a ring of five with a tail, and a molecule of its own
    bonds = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0], [4, 5], [5, 6], [6, 7], [8, 9]])
    n = 10
    index = torch.tensor([[i, j] for i in range(n) for j in range(n) if i != j]).T
    steps = np.full((n, n), np.inf)
    for a, b in bonds.tolist():
        steps[a, b] = steps[b, a] = 1
    for k in range(n):  # Floyd-Warshall
        steps = np.minimum(steps, steps[:, k : k + 1] + steps[k : k + 1])
    expected = [min(steps[i, j], 4) - 1 for i, j in index.T.tolist()]
    distance = BondDistance(bonds, n)
    assert distance(index).argmax(1).tolist() == expected
    assert distance.fits(bonds.clone(), n)
    assert not distance.fits(bonds[1:], n)
    assert BondDistance(bonds[:0], n)(index).argmax(1).tolist() == [3] * index.shape[1]


@pytest.mark.parametrize(("share", "left"), [(0.0, 1.0), (0.75, 0.25), (0.5, 0.5), (1.0, 0.0)])
def test_the_shortest_edges_of_each_system_stay(share, left):
    state = make(9, systems=3)
    edges = neighbour_list(state, 6.0)
    system = state.batch[edges.edge_index[0]]
    keep = shortest_edges(edges.distance[:, 0], system, share)
    assert torch.equal(keep, keep.sort().values)
    for one in range(3):
        lengths = edges.distance[system == one, 0].sort().values
        mine = edges.distance[keep][system[keep] == one, 0].sort().values
        count = round(left * len(lengths))
        assert torch.equal(mine, lengths[: count + count % 2]), "an edge stays with its reverse"


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1"):
        shortest_edges(torch.ones(3), torch.zeros(3, dtype=torch.int64), 1.2)


@pytest.mark.parametrize("boundary", [(True, True, True), (True, False, True)])
def test_pairs_come_in_one_order_whatever_that_of_the_search(boundary):
    """A GPU lists the senders of a receiver, and images of one sender, in an order of chance."""
    from fastegnn_md.graph.neighbours import _in_order

    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(40, (3000, 2), generator=generator)
    most = [2 if periodic else 0 for periodic in boundary]
    shifts = torch.stack([torch.randint(-bound, bound + 1, (3000,), generator=generator) for bound in most], dim=1)
    rows = torch.cat([pairs, shifts], dim=1).unique(dim=0)
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    found = _in_order(shuffled[:, :2], shuffled[:, 2:].int(), 40, most)
    assert torch.equal(torch.cat(found, dim=1), rows)
