"""Neighbour lists of every back-end against a sum over all periodic images."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from all_images import CLOSED, OPEN, every_pair, heights

from fastegnn_md import State
from fastegnn_md.errors import GraphError, StateError
from fastegnn_md.graph import EdgeList, NeighbourSearch, neighbour_list

pytestmark = pytest.mark.slow  # thorough: `make test` and CI run it

NO_CELL = np.zeros((3, 3))
WHERE = "cuda" if torch.cuda.is_available() else "cpu"


def listed(edges, x, cell, pbc, *, first=0, accuracy=1e-9):
    """Count of (i, j, shift) in a list, for the atoms of one system from ``first`` on; vectors must belong to them."""
    edges = EdgeList(*(one.cpu() for one in edges))
    index, vector = edges.edge_index.numpy(), edges.vector.double().numpy()
    assert np.all(np.diff(index[0]) >= 0), "edges are sorted by receiver"
    mine = (index[0] >= first) & (index[0] < first + len(x))
    (i, j), vector = index[:, mine] - first, vector[mine]
    shift = np.zeros_like(vector)
    if any(pbc):
        columns = np.linalg.pinv(cell[list(pbc)])
        shift[:, list(pbc)] = np.round((x[i] - x[j] - vector) @ columns)
    np.testing.assert_allclose(x[i] - x[j] - shift @ cell, vector, rtol=0, atol=accuracy)
    np.testing.assert_allclose(edges.distance[:, 0].numpy()[mine], np.linalg.norm(vector, axis=1), rtol=1e-6)
    return Counter(zip(i.tolist(), j.tolist(), *shift.astype(int).T.tolist(), strict=True))


def assert_complete(edges, x, cell, pbc, cutoff, *, first=0, accuracy=1e-9, of=""):
    """Every pair is listed once and no other one is; only pairs within rounding of the cutoff are free."""
    found = listed(edges, x, cell, pbc, first=first, accuracy=accuracy)
    expected = every_pair(x, cell, pbc, cutoff + accuracy)
    surely = Counter(pair for pair, distance in expected.items() if distance < cutoff - accuracy)
    assert not surely - found, f"{of}: pairs are missing"
    assert not found - Counter(list(expected)), f"{of}: pairs are listed that there are not, or twice"


def state_of(x, cell=NO_CELL, pbc=OPEN, dtype=torch.float64):
    n = len(x)
    return State(
        positions=torch.tensor(x, dtype=dtype),
        velocities=torch.zeros(n, 3, dtype=dtype),
        numbers=torch.ones(n, dtype=torch.int64),
        masses=torch.ones(n, dtype=dtype),
        cell=torch.tensor(cell, dtype=dtype)[None],
        pbc=torch.tensor(pbc),
    ).to(WHERE)


def some_cell(rng, kind):
    """A cell with edges of 1.5 to 8 Å along the diagonal."""
    edges = rng.uniform(1.5, 8.0, 3)
    cell = np.diag(edges)
    if kind != "orthogonal":
        most = {"skewed": 0.5, "strongly skewed": 4.0, "turned": 1.5}[kind]
        cell[[1, 2, 2], [0, 0, 1]] = rng.uniform(-most, most, 3) * edges[[0, 0, 1]]
    if kind == "turned":  # left-handed every other time, and no longer triangular
        cell = cell[rng.permutation(3)] @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return cell


def some_atoms(rng, n, cell):
    """Positions in and outside of the cell, none closer than 0.05 Å to another or to an image of itself."""
    while True:
        x = rng.uniform(-1.5, 2.5, (n, 3)) @ cell
        if not every_pair(x, cell, CLOSED, 0.05):
            return x


def backends(*names):
    return pytest.mark.parametrize("backend", names or ["vesin", "vesin_torch"], indirect=True)


@pytest.fixture
def backend(request, require) -> str:
    if request.param == "vesin_torch":
        require("vesin_torch")
    return request.param


class TestCells:
    @backends("auto", "vesin", "vesin_torch")
    @pytest.mark.parametrize("n", [1, 2, 3, 9])
    @pytest.mark.parametrize("kind", ["orthogonal", "skewed", "strongly skewed", "turned"])
    def test_every_image_within_the_cutoff_is_listed(self, kind, n, backend):
        rng = np.random.default_rng(n)
        for case in range(12):
            cell = some_cell(rng, kind)
            x = some_atoms(rng, n, cell)
            # from a fraction of the cell over half of it to several cells
            cutoff = (0.3, 0.7, 1.3, 2.6)[case % 4] * heights(cell).min() + 0.2
            edges = neighbour_list(state_of(x, cell, CLOSED), cutoff, backend)
            assert_complete(edges, x, cell, CLOSED, cutoff, of=f"case {case}")

    @backends()
    @pytest.mark.parametrize("pbc", [one for one in itertools.product([True, False], repeat=3) if len(set(one)) == 2])
    def test_systems_periodic_in_some_directions(self, pbc, backend):
        rng = np.random.default_rng(5)
        for case, kind in enumerate(["orthogonal", "skewed", "strongly skewed", "turned"] * 3):
            cell = some_cell(rng, kind)
            x = some_atoms(rng, 4, cell)
            cutoff = (0.4, 1.2, 2.5)[case % 3] * heights(cell, pbc).min() + 0.2
            edges = neighbour_list(state_of(x, cell, pbc), cutoff, backend)
            assert_complete(edges, x, cell, pbc, cutoff, of=f"case {case}, {kind}")

    @backends()
    def test_single_precision(self, backend):
        rng = np.random.default_rng(8)
        for case, kind in enumerate(["orthogonal", "skewed", "strongly skewed", "turned"] * 5):
            cell = some_cell(rng, kind).astype(np.float32).astype(np.float64)
            x = some_atoms(rng, 5, cell).astype(np.float32).astype(np.float64)
            cutoff = 1.2 * heights(cell).min() + 0.2
            edges = neighbour_list(state_of(x, cell, CLOSED, torch.float32), cutoff, backend)
            assert edges.vector.dtype == torch.float32
            # atoms lie up to 100 Å away, where the spacing of numbers is 8e-6
            assert_complete(edges, x, cell, CLOSED, cutoff, accuracy=1e-4, of=f"case {case}, {kind}")

    @backends("auto", "dense", "vesin", "vesin_torch")
    @pytest.mark.parametrize("n", [1, 2, 3, 40])
    def test_isolated_systems(self, n, backend):
        rng = np.random.default_rng(n)
        for case in range(10):
            x = rng.uniform(-8, 8, (n, 3)) * (1.0, 1.0, case % 2) + (1000.0, -50.0, 3.0)  # in a plane, too
            cutoff = rng.uniform(1.0, 30.0)
            assert_complete(neighbour_list(state_of(x), cutoff, backend), x, NO_CELL, OPEN, cutoff, of=f"case {case}")

    @backends()
    def test_wide_flat_boxes(self, backend):
        """vesin 0.6 divides by zero in them, which would end the process."""
        rng = np.random.default_rng(0)
        for cell in (np.diag([1000.0, 1000.0, 5.0]), np.diag([4.0, 960.0, 1100.0]), np.diag([999.0, 999.0, 6.0])):
            x = np.concatenate([rng.uniform(0, 4, (20, 3)), rng.uniform(0, 1, (20, 3)) @ cell])
            assert_complete(
                neighbour_list(state_of(x, cell, CLOSED), 3.0, backend), x, cell, CLOSED, 3.0, of=str(np.diag(cell))
            )
            x[:, cell.diagonal().argmin()] = 0.0
            assert_complete(neighbour_list(state_of(x), 3.0, backend), x, NO_CELL, OPEN, 3.0, of="isolated")


class TestBatches:
    def mixed(self, rng):
        """Systems of different size and boundaries, periodic ones of different cells among them."""
        parts = []
        for n, kind, pbc in (
            (3, "strongly skewed", CLOSED),
            (1, "skewed", CLOSED),
            (5, "orthogonal", OPEN),
            (2, "turned", (True, False, True)),
            (7, "turned", CLOSED),
            (1, "orthogonal", OPEN),
            (3, "orthogonal", CLOSED),
        ):
            cell = some_cell(rng, kind)
            parts.append((some_atoms(rng, n, cell), cell, pbc))
        return parts

    @backends("auto", "vesin", "vesin_torch")
    @pytest.mark.parametrize("skin", [0.0, 0.8])
    def test_systems_of_a_batch_do_not_disturb_each_other(self, backend, skin):
        rng = np.random.default_rng(3)
        search = NeighbourSearch(3.1, skin, backend)
        for case in range(4):
            parts = self.mixed(rng)
            edges = search(State.concatenate([state_of(*part) for part in parts]))
            assert bool((edges.edge_index[0].diff() >= 0).all())
            first = 0
            for x, cell, pbc in parts:
                assert_complete(edges, x, cell, pbc, 3.1, first=first, of=f"case {case}, system at {first}")
                first += len(x)
            assert first == 22

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dense_batches(self, dtype):
        rng, n = np.random.default_rng(2), 6
        parts = [rng.uniform(-4, 4, (n, 3)).astype(np.float32).astype(np.float64) for _ in range(5)]
        edges = neighbour_list(State.concatenate([state_of(x, dtype=dtype) for x in parts]), 4.0, "dense")
        for k, x in enumerate(parts):
            assert_complete(edges, x, NO_CELL, OPEN, 4.0, first=n * k, accuracy=1e-5, of=f"system {k}")

    @backends()
    def test_padded_lists_hold_the_same_pairs_and_loops_at_the_cutoff(self, backend):
        rng = np.random.default_rng(1)
        cell = some_cell(rng, "strongly skewed")
        x = some_atoms(rng, 4, cell)
        cutoff = 1.5 * heights(cell).min()
        edges = neighbour_list(state_of(x, cell, CLOSED), cutoff, backend)
        padded = edges.padded(64, cutoff, len(x))
        count = len(edges.distance)
        assert len(padded.distance) % 64 == 0
        assert len(padded.distance) >= count
        assert_complete(
            EdgeList(*(one[..., :count] for one in padded[:1]), *(one[:count] for one in padded[1:])),
            x,
            cell,
            CLOSED,
            cutoff,
        )
        assert padded.edge_index[:, count:].unique().tolist() in ([], [3])
        assert torch.equal(padded.vector[count:].norm(dim=1, keepdim=True), padded.distance[count:])
        np.testing.assert_allclose(padded.distance[count:].cpu(), cutoff, rtol=1e-15)


class TestSkin:
    """What was found once serves while atoms move; here they move further than the skin many times over."""

    @backends()
    @pytest.mark.parametrize("kind", ["orthogonal", "strongly skewed", "turned", "isolated"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_atoms_on_their_way(self, kind, backend, dtype):
        rng = np.random.default_rng(4)
        accuracy = 1e-9 if dtype == torch.float64 else 1e-4
        for case in range(4):
            cell, pbc = (np.eye(3) * 6, OPEN) if kind == "isolated" else (some_cell(rng, kind), CLOSED)
            x = some_atoms(rng, 5, cell)
            cutoff, skin = 1.1 * heights(cell).min() + 0.5, 0.8
            search, drift, compared = NeighbourSearch(cutoff, skin, backend), rng.normal(size=(5, 3)), 0
            for step in range(30):
                state = state_of(x, cell, pbc, dtype)
                true = state.positions.double().cpu().numpy(), state.cell[0].double().cpu().numpy()
                if not every_pair(*true, pbc, 2e-3):
                    compared += 1
                    assert_complete(
                        search(state), *true, pbc, cutoff, accuracy=accuracy, of=f"case {case}, step {step}"
                    )
                x = x + 0.1 * drift + 0.05 * rng.normal(size=x.shape)  # out of the cell, through each other
                if step % 7 == 6 and any(pbc):  # wrapped now and then, as by an engine
                    x = x + rng.integers(-2, 3, (5, 3)) @ cell
            assert compared >= 28
            assert 0.1 * 30 * np.median(np.linalg.norm(drift, axis=1)) > 2 * skin

    @backends()
    @pytest.mark.parametrize("kind", ["orthogonal", "strongly skewed", "turned"])
    def test_cells_that_change(self, kind, backend):
        rng = np.random.default_rng(6)
        for case in range(4):
            cell = some_cell(rng, kind)
            x = some_atoms(rng, 4, cell)
            cutoff = 1.3 * heights(cell).min() + 0.5
            search = NeighbourSearch(cutoff, 1.0, backend)
            for step in range(20):
                assert_complete(
                    search(state_of(x, cell, CLOSED)), x, cell, CLOSED, cutoff, of=f"case {case}, step {step}"
                )
                # as a barostat does, with the atoms or without
                strain = np.eye(3) + 0.01 * rng.normal(size=(3, 3))
                cell, x = cell @ strain, x @ strain if step % 2 else x

    @backends()
    def test_far_images_move_further_than_the_cell(self, backend):
        """The cell shrinks by less than the skin, its fifth image by more: 30 of 514 pairs were missed."""
        x, cutoff = np.array([[0.3, 0.2, 0.1]]), 8.9
        search = NeighbourSearch(cutoff, 1.0, backend)
        for edge in (2.0, 1.75):
            cell = edge * np.eye(3)
            assert_complete(search(state_of(x, cell, CLOSED)), x, cell, CLOSED, cutoff, of=f"edge {edge}")

    @backends()
    def test_a_wide_flat_box_that_shrinks(self, backend):
        x = np.random.default_rng(1).uniform(0, 4, (12, 3))
        search = NeighbourSearch(3.0, backend=backend)
        for edge in (5.0, 3.5, 2.2):
            cell = np.diag([1000.0, 1000.0, edge])
            assert_complete(search(state_of(x, cell, CLOSED)), x, cell, CLOSED, 3.0, of=f"edge {edge}")

    @backends()
    def test_boundaries_that_change(self, backend):
        rng = np.random.default_rng(7)
        cell = some_cell(rng, "skewed")
        x = some_atoms(rng, 4, cell)
        search = NeighbourSearch(4.0, 1.0, backend)
        for pbc in (CLOSED, (True, False, True), OPEN, (False, False, True), CLOSED):
            assert_complete(search(state_of(x, cell, pbc)), x, cell, pbc, 4.0, of=str(pbc))


class TestRefusals:
    @pytest.mark.parametrize("pbc", [CLOSED, (True, True, False), (True, False, False)])
    @pytest.mark.parametrize(
        "cell", [np.diag([4.0, 4.0, 0.0]), np.array([[4.0, 0, 0], [8.0, 0, 0], [0, 0, 5.0]])], ids=["zero", "parallel"]
    )
    def test_cells_without_volume(self, cell, pbc):
        with pytest.raises(StateError, match="cell of a periodic system has no volume; give three independent"):
            state_of(np.zeros((1, 3)), cell, pbc)

    @backends()
    @pytest.mark.parametrize("skin", [0.0, 0.5])
    def test_cells_nearly_without_volume(self, backend, skin):
        """The search would sum over a million images and more: hours, without a word."""
        flat = np.array([[4.0, 0, 0], [4.0, 1e-3, 0], [0, 0, 5.0]])
        search = NeighbourSearch(3.0, skin, backend)
        with pytest.raises(GraphError, match=r"a cell 0\.001 × 0\.001 × 5 Å high has \d+ images within 3"):
            search(state_of(np.arange(2.0)[:, None] * np.ones(3), flat, CLOSED))
        # a direction that is not periodic has no images
        slab, x = np.diag([4.0, 4.0, 1e-4]), np.array([[0.0, 0, 0], [1.0, 0.5, 2.0]])
        pbc = (True, True, False)
        assert_complete(search(state_of(x, slab, pbc)), x, slab, pbc, 3.0)

    @backends()
    def test_an_atom_that_has_flown_away(self, backend):
        x = np.random.default_rng(0).uniform(0, 10, (70, 3))
        x[3, 1] = 2e6
        if WHERE == "cuda" and backend == "vesin_torch":  # its grid on a GPU is another one
            assert_complete(neighbour_list(state_of(x), 3.0, backend), x, NO_CELL, OPEN, 3.0)
            return
        with pytest.raises(
            GraphError, match=r"atoms spread over .* × 2.02e\+06 × .* look for an atom that has flown away"
        ):
            neighbour_list(state_of(x), 3.0, backend)
        assert_complete(neighbour_list(state_of(x), 3.0, "dense"), x, NO_CELL, OPEN, 3.0)

    def test_dense_refuses_what_it_would_get_wrong(self):
        x = np.zeros((1, 3))
        for state in (
            state_of(x, np.eye(3), CLOSED),
            state_of(x, np.eye(3), (False, True, False)),
            State.concatenate([state_of(x), state_of(np.arange(2.0)[:, None] * np.ones(3))]),
        ):
            with pytest.raises(GraphError, match="dense neighbour list takes isolated systems of equal size"):
                neighbour_list(state, 3.0, "dense")
