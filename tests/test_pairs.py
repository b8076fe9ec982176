"""Pairs from trajectories: what they hold, what is refused and why."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest
import torch
from MDAnalysis.transformations import NoJump
from MDAnalysisTests import datafiles

from fastegnn_md import State
from fastegnn_md.data import NoiseFloorWarning, Store, TrajectoryPairs, load_universe, noise_floor
from fastegnn_md.data.frames import find_overlap
from fastegnn_md.data.unwrap import Unwrapper, make_whole, spanning_tree
from fastegnn_md.errors import DataError, UnitError
from fastegnn_md.training.batches import loader
from fastegnn_md.units import BOLTZMANN, KJ_PER_MOL

DT = 0.01  # ps
SYMBOLS = ["C", "H", "O", "N"]
MASSES = [12.011, 1.008, 15.999, 14.007]


def make_universe(
    x: np.ndarray,
    v: np.ndarray | None = None,
    f: np.ndarray | None = None,
    box: np.ndarray | list[float] | None = None,
    dt: float = DT,
    bonds: bool = True,
) -> mda.Universe:
    """A trajectory in memory: x, v (frames, N, 3) Å, Å/ps, f kJ/mol/Å; ``bonds`` of each atom to the next."""
    n = x.shape[1]
    universe = mda.Universe.empty(n, n_residues=1, atom_resindex=[0] * n, trajectory=False)
    symbols = (SYMBOLS * n)[:n]
    for name in ("names", "types", "elements"):
        universe.add_TopologyAttr(name, symbols)
    universe.add_TopologyAttr("masses", (MASSES * n)[:n])
    universe.add_TopologyAttr("charges", np.linspace(-1, 1, n))
    if bonds and n > 1:
        universe.add_TopologyAttr("bonds", [(i, i + 1) for i in range(n - 1)])
    dimensions = None if box is None else np.broadcast_to(np.asarray(box, dtype=np.float32), (len(x), 6)).copy()
    universe.load_new(x.astype(np.float32), dt=dt, velocities=v, forces=f, dimensions=dimensions)
    return universe


def vibration(n_frames: int, n_atoms: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities of atoms that vibrate about fixed places, with thermal amplitudes."""
    rng = np.random.default_rng(seed)
    rest = 1.5 * np.arange(n_atoms)[:, None] * np.ones(3) + 3.0
    omega = rng.uniform(20.0, 80.0, size=(n_atoms, 3))
    phase = rng.uniform(0, 2 * np.pi, size=(n_atoms, 3))
    angle = omega * DT * np.arange(n_frames)[:, None, None] + phase
    return rest + 10.0 / omega * np.sin(angle), 10.0 * np.cos(angle)


def make_pairs(n_frames: int = 30, n_atoms: int = 3, **options: Any) -> TrajectoryPairs:
    x, v = vibration(n_frames, n_atoms)
    return TrajectoryPairs(make_universe(x, v), **({"lag": 2 * DT, "progress": False} | options))


# Ways to get from pairs to something that reads the same store.
DERIVED: dict[str, Callable[[TrajectoryPairs], Any]] = {
    "sequences": lambda pairs: pairs.sequences(2),
    "sequences of sequences": lambda pairs: pairs.sequences(3).sequences(1),
    "split": lambda pairs: pairs.split((0.5, 0.5))[0],
    "split of sequences": lambda pairs: pairs.sequences(2).split((0.5, 0.5))[0],
    "sequences of a split": lambda pairs: pairs.split((0.5, 0.5))[0].sequences(2),
    "copy": copy.copy,
    "deep copy": copy.deepcopy,
    "through a pickle": lambda pairs: ForkingPickler.loads(bytes(ForkingPickler.dumps(pairs))),
    "subset": lambda pairs: torch.utils.data.Subset(pairs, [0, 1]),
}


class TestContent:
    def test_a_pair_is_two_frames_a_lag_apart(self):
        x, v = vibration(20)
        f = np.random.default_rng(1).normal(size=x.shape)
        pairs = TrajectoryPairs(make_universe(x, v, f), lag="30 fs", progress=False)
        assert len(pairs) == 17
        assert pairs.lag == pytest.approx(0.03)
        for index in (0, 5, 16, -1):
            start, end = pairs[index]
            first = index % 17
            for state, frame in ((start, first), (end, first + 3)):
                np.testing.assert_allclose(state.positions, x[frame], rtol=1e-6)
                np.testing.assert_allclose(state.velocities, v[frame], rtol=1e-6, atol=1e-6)
                np.testing.assert_allclose(state.forces, f[frame] * KJ_PER_MOL, rtol=1e-5)
            assert start.numbers.tolist() == [6, 1, 8]
            np.testing.assert_allclose(start.masses, MASSES[:3])
            np.testing.assert_allclose(start.charges, [-1, 0, 1])
            assert start.bonds.tolist() == [[0, 1], [1, 2]]
            assert start.dtype == torch.float32
            assert start.cell is None
        with pytest.raises(IndexError):
            pairs[17]

    def test_attributes(self):
        pairs = make_pairs()
        assert (pairs.has_velocities, pairs.has_forces, pairs.has_bonds, pairs.periodic) == (True, False, True, False)
        assert pairs.n_atoms == 3
        assert pairs.numbers.tolist() == [6, 1, 8]
        np.testing.assert_allclose(pairs.masses, MASSES[:3])

    def test_time_reversed_pairs_follow_the_others(self):
        pairs = make_pairs(time_reversal=True)
        n = pairs.n_forward
        assert len(pairs) == 2 * n
        (x, x1), (y, y1) = pairs[4], pairs[n + 4]
        assert torch.equal(y.positions, x1.positions)
        assert torch.equal(y.velocities, -x1.velocities)
        assert torch.equal(y1.positions, x.positions)
        assert torch.equal(y1.velocities, -x.velocities)

    @pytest.mark.parametrize("time_reversal", [False, True])
    def test_a_batch_is_the_concatenation_of_its_pairs_also_of_mixed_systems(self, time_reversal):
        small, large = vibration(12, 2), vibration(20, 4)
        universes = [make_universe(*small, f=small[0]), make_universe(*large, f=large[0])]
        pairs = TrajectoryPairs(universes, lag=DT, time_reversal=time_reversal, progress=False)
        assert pairs.n_forward == 11 + 19
        assert pairs.n_atoms == 4
        assert pairs.numbers.tolist() == [6, 1, 6, 1, 8, 7]
        order = np.random.default_rng(0).permutation(len(pairs))[:20]
        for batch, single in zip(pairs.batch(order), zip(*(pairs[int(i)] for i in order), strict=True), strict=True):
            assert_equal(batch, State.concatenate(single))

    def test_types_are_numbered_alike_in_all_systems(self):
        universes = [make_universe(*vibration(5, n)) for n in (2, 4)]
        start, _ = TrajectoryPairs(universes, lag=DT, progress=False).batch([0, 4])
        names = ["C", "H", "C", "H", "O", "N"]
        assert start.types.tolist() == [sorted(set(names)).index(name) for name in names]

    def test_periodic_frames_carry_their_cell(self):
        x, v = vibration(10)
        boxes = np.array([[20.0 + 0.1 * i, 21, 22, 80, 90, 100] for i in range(10)])
        universe = make_universe(x, v, box=boxes)
        cells = [ts.triclinic_dimensions for ts in universe.trajectory]
        pairs = TrajectoryPairs(universe, lag=DT, progress=False)
        assert pairs.periodic
        start, end = pairs[3]
        np.testing.assert_allclose(start.cell[0], cells[3], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(end.cell[0], cells[4], rtol=1e-5, atol=1e-5)
        assert bool(start.pbc.all())

    def test_one_atom(self):
        pairs = make_pairs(n_atoms=1)
        start, end = pairs[0]
        assert start.n_atoms == end.n_atoms == 1
        assert not pairs.has_bonds

    def test_selection_renumbers_bonds(self):
        x, v = vibration(5, 4)
        pairs = TrajectoryPairs(make_universe(x, v), lag=DT, select="name H O N", progress=False)
        start, _ = pairs[0]
        assert start.bonds.tolist() == [[0, 1], [1, 2]]
        np.testing.assert_allclose(start.positions, x[0, 1:], rtol=1e-6)

    def test_the_reader_of_the_user_stays_where_it_was(self):
        universe = make_universe(*vibration(20))
        universe.trajectory[7]
        TrajectoryPairs(universe, lag=DT, progress=False)
        assert universe.trajectory.frame == 7

    def test_stride_makes_frames_further_apart(self):
        x, v = vibration(21)
        pairs = TrajectoryPairs(make_universe(x, v), lag=4 * DT, stride=4, progress=False)
        assert len(pairs) == 5
        np.testing.assert_allclose(pairs[2][1].positions, x[12], rtol=1e-6)
        with pytest.raises(DataError, match="shorter than the 40 fs"):
            TrajectoryPairs(make_universe(x, v), lag=DT, stride=4, progress=False)


def assert_equal(one: State, other: State) -> None:
    for field in dataclasses.fields(State):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert (a is None) == (b is None), field.name
        assert a is None or torch.equal(a, b), field.name


class TestStoreUse:
    def test_several_lags_share_one_store(self, tmp_path):
        path = tmp_path / "pairs.h5md"
        x, v = vibration(30)
        one = TrajectoryPairs(make_universe(x, v), lag=DT, store=path, progress=False)
        changed = path.stat().st_mtime_ns
        two = TrajectoryPairs(make_universe(x, v), lag=3 * DT, store=path, progress=False)
        three = TrajectoryPairs(path, lag="30 fs")
        assert path.stat().st_mtime_ns == changed
        assert len(one) == 29
        assert_equal(two[7][1], three[7][1])
        assert two.fingerprint == three.fingerprint != one.fingerprint

    def test_a_store_of_other_frames_is_not_overwritten(self, tmp_path):
        path = tmp_path / "pairs.h5md"
        make_pairs(store=path)
        with pytest.raises(DataError, match="made from other frames"):
            make_pairs(31, store=path)
        with pytest.raises(DataError, match="made from other frames"):
            make_pairs(store=path, stride=2, lag=2 * DT)

    def test_several_universes_get_numbered_stores(self, tmp_path):
        universes = [make_universe(*vibration(5, n)) for n in (2, 3)]
        pairs = TrajectoryPairs(universes, lag=DT, store=tmp_path / "p.h5md", progress=False)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["p.0.h5md", "p.1.h5md"]
        again = TrajectoryPairs([tmp_path / "p.0.h5md", tmp_path / "p.1.h5md"], lag=DT)
        assert again.fingerprint == pairs.fingerprint

    @pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
    def test_a_temporary_store_lives_as_long_as_anything_made_from_it(self, derive):
        pairs = make_pairs()
        path, expected = pairs.stores[0].path, pairs[0][0]
        derived = derive(pairs)
        pairs.close()
        del pairs
        assert_equal(derived[0][0], expected)
        del derived
        assert not path.exists()
        assert not path.parent.exists()

    def test_a_store_alone_keeps_its_temporary_file(self):
        (store,) = make_pairs().stores
        path = store.path
        longer = TrajectoryPairs(store, lag=3 * DT)
        del store
        assert len(longer[0]) == 2
        del longer
        assert not path.exists()

    @pytest.mark.parametrize("workers", [0, 1])
    def test_batches_under_way_keep_the_temporary_store(self, workers):
        pairs = make_pairs()
        path = pairs.stores[0].path
        under_way = iter(loader(pairs.sequences(2), [[0, 1], [2, 3]], workers))
        del pairs
        assert [batch.start.n_systems for batch in under_way] == [2, 2]
        del under_way
        assert not path.exists()

    def test_settings_of_writing_are_refused_for_a_store(self, tmp_path):
        make_pairs(store=tmp_path / "p.h5md")
        with pytest.raises(DataError, match="select, stride apply"):
            TrajectoryPairs(tmp_path / "p.h5md", lag=DT, select="name C", stride=2)

    def test_pairs_reach_workers(self):
        pairs = make_pairs()
        sent = ForkingPickler.loads(bytes(ForkingPickler.dumps(pairs)))  # spawn
        assert_equal(sent[3][0], pairs[3][0])
        del sent  # the copy must not take the temporary store away
        loader = torch.utils.data.DataLoader(
            pairs, batch_size=4, num_workers=1, collate_fn=list, multiprocessing_context="fork"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's, about fork in a process with threads
            states = [start for batch in loader for start, _ in batch]
        assert len(states) == len(pairs)
        pairs.close()  # what is read now was not deleted by the process that ended
        assert_equal(states[5], pairs[5][0])

    def test_read_only_folder_is_named(self, tmp_path):
        blocked = tmp_path / "file"
        blocked.write_text("")
        with pytest.raises(DataError, match="cannot write"):
            make_pairs(store=blocked / "pairs.h5md")

    def test_empty_and_wrong_sources(self):
        with pytest.raises(DataError, match="no source"):
            TrajectoryPairs([], lag=DT)
        with pytest.raises(DataError, match="source is a int"):
            TrajectoryPairs(3, lag=DT)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="does not exist"):
            TrajectoryPairs("nothing.h5md", lag=DT)

    def test_isolated_and_periodic_systems_do_not_mix(self):
        x, v = vibration(5)
        universes = [make_universe(x, v), make_universe(x, v, box=[20, 20, 20, 90, 90, 90])]
        with pytest.raises(DataError, match="one kind at a time"):
            TrajectoryPairs(universes, lag=DT, progress=False)


class TestLag:
    def test_shorter_than_a_frame(self):
        with pytest.raises(DataError, match=r"shorter than the 10 fs .* nearest possible lag is 10 fs.*harvest"):
            make_pairs(lag="4 fs")

    def test_not_a_multiple_names_the_nearest(self):
        with pytest.raises(DataError, match="20 fs and 30 fs"):
            make_pairs(lag="25 fs")

    def test_rounding_is_tolerant(self):
        x, v = vibration(30)
        pairs = TrajectoryPairs(make_universe(x, v, dt=0.1), lag=0.7, friction=0.0, progress=False)
        assert pairs.lag_frames == (7,)

    @pytest.mark.parametrize("lag", [0.0, -1.0, float("nan")])
    def test_not_positive(self, lag):
        with pytest.raises(DataError, match="positive"):
            make_pairs(lag=lag)

    def test_unit_is_needed_in_text(self):
        with pytest.raises(UnitError, match="no unit"):
            make_pairs(lag="10")

    def test_longer_than_the_trajectory(self):
        with pytest.raises(DataError, match="no pair fits"):
            make_pairs(lag=30 * DT)


class TestTimes:
    def test_missing_dt_is_refused_and_can_be_given(self, tmp_path):
        path = tmp_path / "t.xyz"
        path.write_text("".join(f"2\nframe {i}\nC 0 0 0\nO 0 0 {1.1 + 0.01 * i}\n" for i in range(5)))
        universe = load_universe(path)
        with pytest.raises(DataError, match=r"does not say how much time .* dt=<ps>"):
            TrajectoryPairs(universe, lag=1.0, velocities="none", progress=False)
        pairs = TrajectoryPairs(universe, lag=0.5, velocities="none", dt=0.25, progress=False)
        assert pairs.lag_frames == (2,)

    def test_contradicting_dt_is_refused(self):
        with pytest.raises(DataError, match=r"the file says 0\.01 ps"):
            make_pairs(dt=0.5)
        assert len(make_pairs(dt=DT))

    @pytest.mark.parametrize("dt", [0.0, -1.0, float("inf")])
    def test_impossible_dt(self, dt):
        with pytest.raises(DataError, match="positive"):
            make_pairs(dt=dt)

    def test_uneven_times_are_cut_into_segments(self, tmp_path):
        write_trr(tmp_path / "t.trr", [0, 1, 2, 3, 7, 8, 9, 2, 3, 4, 5])
        universe = mda.Universe.empty(3, trajectory=False)
        universe.add_TopologyAttr("elements", SYMBOLS[:3])
        universe.load_new(str(tmp_path / "t.trr"))
        pairs = TrajectoryPairs(universe, lag=2.0, velocities="none", progress=False)
        assert pairs.stores[0].segments.tolist() == [[0, 4], [4, 7], [7, 11]]
        assert pairs.frame_indices(range(len(pairs))).tolist() == [[0, i, i + 2] for i in (0, 1, 4, 7, 8)]

    def test_times_without_a_common_step_are_refused(self, tmp_path):
        write_trr(tmp_path / "t.trr", [0, 1, 3, 7, 15, 31])
        universe = mda.Universe.empty(3, trajectory=False)
        universe.add_TopologyAttr("elements", SYMBOLS[:3])
        universe.load_new(str(tmp_path / "t.trr"))
        with pytest.raises(DataError, match="not uniform"):
            TrajectoryPairs(universe, lag=1.0, velocities="none", progress=False)

    def test_times_rounded_to_single_precision_are_uniform(self, tmp_path):
        write_trr(tmp_path / "t.trr", [5e4 + 0.1 * i for i in range(20)])
        universe = mda.Universe.empty(3, trajectory=False)
        universe.add_TopologyAttr("elements", SYMBOLS[:3])
        universe.load_new(str(tmp_path / "t.trr"))
        pairs = TrajectoryPairs(universe, lag=0.1, velocities="none", progress=False)
        assert len(pairs) == 19

    def test_no_pair_crosses_files(self):
        universe = load_universe(datafiles.PSF, datafiles.DCD, datafiles.DCD)
        pairs = TrajectoryPairs(universe, lag=1.0, select="resid 1", velocities="none", progress=False)
        assert pairs.stores[0].segments.tolist() == [[0, 98], [98, 196]]
        assert len(pairs) == 2 * 97

    def test_one_frame(self):
        x, v = vibration(1)
        with pytest.raises(DataError, match="needs two"):
            TrajectoryPairs(make_universe(x, v), lag=DT)

    def test_a_truncated_trajectory_is_refused(self, tmp_path):
        path = tmp_path / "t.trr"
        write_trr(path, list(range(500)))
        universe = mda.Universe.empty(3, trajectory=False)
        universe.add_TopologyAttr("elements", SYMBOLS[:3])
        universe.load_new(str(path))
        with path.open("r+b") as file:  # after its frames were counted
            file.truncate(path.stat().st_size * 2 // 3)
        with pytest.raises(DataError, match="truncated or damaged"):
            TrajectoryPairs(universe, lag=1.0, velocities="none", progress=False)


def write_trr(path: Path, times: list[float]) -> None:
    universe = make_universe(*vibration(len(times)))
    with mda.Writer(str(path), 3) as writer:
        for time, ts in zip(times, universe.trajectory, strict=True):
            ts.time = time
            writer.write(universe.atoms)


class TestVelocities:
    def test_missing_velocities_are_refused_with_the_ways_out(self):
        x, _ = vibration(10)
        with pytest.raises(DataError, match=r"harvest.*'central'.*'forward'.*'none'"):
            TrajectoryPairs(make_universe(x), lag=DT)

    def test_zero_velocities_count_as_missing(self):
        x, v = vibration(10)
        with pytest.raises(DataError, match="all stored velocities are zero"):
            TrajectoryPairs(make_universe(x, 0 * v), lag=DT, progress=False)

    def test_velocities_in_another_unit_are_refused(self):
        x, v = vibration(10)
        with pytest.raises(DataError, match="not in Å/ps"):
            TrajectoryPairs(make_universe(x, 1e-3 * v), lag=DT, progress=False)

    def test_central_differences_are_exact_for_parabolas(self):
        x, v = parabola(12)
        pairs = TrajectoryPairs(make_universe(x), lag=2 * DT, velocities="central", progress=False)
        assert pairs.frame_indices([0, len(pairs) - 1]).tolist() == [[0, 1, 3], [0, 8, 10]]
        for index in range(len(pairs)):
            start, end = pairs[index]
            np.testing.assert_allclose(start.velocities, v[index + 1], atol=2e-3)
            np.testing.assert_allclose(end.velocities, v[index + 3], atol=2e-3)

    def test_forward_differences_hold_half_a_step_of_future(self):
        x, v = parabola(12)
        pairs = TrajectoryPairs(make_universe(x), lag=2 * DT, velocities="forward", progress=False)
        assert pairs.frame_indices([0, len(pairs) - 1]).tolist() == [[0, 0, 2], [0, 8, 10]]
        acceleration = (v[1] - v[0]) / DT
        np.testing.assert_allclose(pairs[0][0].velocities, v[0] + 0.5 * DT * acceleration, atol=2e-3)

    def test_forward_differences_cannot_be_reversed(self):
        with pytest.raises(DataError, match="time_reversal"):
            make_pairs(velocities="forward", time_reversal=True)

    def test_none_gives_zeros(self):
        pairs = make_pairs(velocities="none")
        assert not pairs.has_velocities
        assert not pairs[0][0].velocities.any()

    def test_an_unknown_choice_names_the_others(self):
        with pytest.raises(DataError, match="'stored', 'none', 'central', 'forward'"):
            make_pairs(velocities="backward")

    def test_velocities_of_some_frames_only(self, tmp_path):
        path = tmp_path / "some.trr"
        x, v = vibration(6)
        universe = make_universe(x, v)
        with mda.Writer(str(path), 3) as writer:
            for ts in universe.trajectory:
                ts.has_velocities = ts.frame < 3
                writer.write(universe.atoms)
        universe = make_universe(x)
        universe.load_new(str(path))
        with pytest.raises(DataError, match="frame 3 has no velocities although frame 0 has"):
            TrajectoryPairs(universe, lag=DT, progress=False)
        pairs = TrajectoryPairs(universe, lag=DT, velocities="central", progress=False)
        assert not pairs.stores[0].has_velocities


def parabola(n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    t = DT * np.arange(n_frames)[:, None, None]
    x0, v0, a = rng.normal(size=(3, 3, 3)) * np.array([3.0, 5.0, 100.0])[:, None, None]
    return x0 + v0 * t + 0.5 * a * t**2, v0 + a * t


class TestBadFrames:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite_coordinates_name_frame_and_atom(self, value):
        x, v = vibration(10)
        x[4, 2, 1] = value
        with pytest.raises(DataError, match="frame 4: positions of atom 2 O"):
            TrajectoryPairs(make_universe(x, v), lag=DT, progress=False)
        x, v = vibration(10)
        v[0, 1, 0] = value
        with pytest.raises(DataError, match="frame 0: velocities of atom 1 H"):
            TrajectoryPairs(make_universe(x, v), lag=DT, progress=False)

    def test_overlapping_atoms_are_named(self):
        x, v = vibration(10, 4)
        x[7, 3] = x[7, 1] + 1e-5
        with pytest.raises(DataError, match="frame 7: atom 1 H and atom 3 N overlap"):
            TrajectoryPairs(make_universe(x, v), lag=DT, progress=False)

    def test_find_overlap_agrees_with_all_distances(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            x = rng.integers(0, 6, size=(12, 3)) * 0.5
            distance = np.linalg.norm(x[:, None] - x[None], axis=2) + 10 * np.eye(12)
            found = find_overlap(x, 0.1)
            assert (found is not None) == (distance.min() < 0.1)
            assert found is None or distance[found] < 0.1

    @pytest.mark.parametrize("box", [[10, 10, 0, 90, 90, 90], [10, 10, 10, 0, 0, 0], [10, 10, 10, 179, 1, 90]])
    def test_a_cell_without_volume(self, box):
        x, v = vibration(5)
        with pytest.raises(DataError, match="cell has no volume"):
            TrajectoryPairs(make_universe(x, v, box=box), lag=DT, progress=False)

    def test_empty_and_wrong_selections(self):
        with pytest.raises(DataError, match="is empty"):
            make_pairs(select="name XX")
        with pytest.raises(DataError, match="not valid"):
            make_pairs(select="nonsense words")

    def test_massless_sites_are_to_be_selected_away(self):
        universe = load_universe(datafiles.GRO, datafiles.TRR)
        with pytest.raises(DataError, match=r"no mass, the first is atom \d+ MW.*select them away"):
            TrajectoryPairs(universe, lag=100.0)


def random_cell(rng: np.random.Generator) -> list[float]:
    return [*rng.uniform(9, 14, size=3), *rng.uniform(70, 110, size=3)]


def diffuse(seed: int, *, npt: bool, n_frames: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True fractional path of atoms in a triclinic cell, wrapped positions, and boxes."""
    rng = np.random.default_rng(seed)
    box = np.array(random_cell(rng))
    boxes = np.tile(box, (n_frames, 1))
    if npt:
        boxes[:, :3] *= 1 + 0.02 * rng.standard_normal((n_frames, 1)).cumsum(0) * 0.2
    steps = rng.uniform(-0.3, 0.3, size=(n_frames, 5, 3))
    path = np.cumsum(steps, axis=0) + rng.uniform(size=(5, 3))
    cells = np.array([mda.lib.mdamath.triclinic_vectors(one.astype(np.float32)) for one in boxes], dtype=float)
    return path, np.einsum("tni,tij->tnj", path % 1.0, cells), boxes


class TestPeriodicBoundaries:
    @pytest.mark.parametrize("npt", [False, True], ids=["NVT", "NPT"])
    @pytest.mark.parametrize("seed", range(5))
    def test_wrapped_atoms_are_followed(self, seed, npt):
        path, wrapped, boxes = diffuse(seed, npt=npt)
        pairs = TrajectoryPairs(
            make_universe(wrapped, box=boxes, bonds=False), lag=3 * DT, velocities="none", progress=False
        )
        for index in range(len(pairs)):
            (start, end), frame = pairs[index], index
            first = start.positions.double() @ torch.linalg.inv(start.cell[0].double())
            last = end.positions.double() @ torch.linalg.inv(end.cell[0].double())
            np.testing.assert_allclose(last - first, path[frame + 3] - path[frame], atol=1e-4)
            # still the same place modulo the cell of the frame
            turns = last.numpy() - path[frame + 3]
            np.testing.assert_allclose(turns, np.round(turns), atol=1e-4)

    def test_displacements_do_not_grow_with_the_distance_diffused_when_the_cell_changes(self):
        boxes = np.tile([10.0, 10, 10, 90, 90, 90], (200, 1))
        boxes[:, :3] += 0.05 * np.sin(np.arange(200))[:, None]
        path = 0.4 * np.arange(200)[:, None, None] * np.ones((1, 2, 3)) + np.array([[[0.2]], [[0.5]]]).reshape(1, 2, 1)
        wrapped = (path % 1.0) * boxes[:, None, :3]
        pairs = TrajectoryPairs(make_universe(wrapped, box=boxes), lag=DT, velocities="none", progress=False)
        moved = torch.stack([end.positions - start.positions for start, end in (pairs[i] for i in range(len(pairs)))])
        assert moved.abs().max() < 4.0 + 0.05 * 2

    def test_as_mdanalysis_nojump(self):
        _, wrapped, boxes = diffuse(11, npt=False)
        pairs = TrajectoryPairs(
            make_universe(wrapped, box=boxes, bonds=False), lag=DT, velocities="none", progress=False
        )
        universe = make_universe(wrapped, box=boxes, bonds=False)
        universe.trajectory.add_transformations(NoJump())
        for ts, ours in zip(universe.trajectory, pairs.stores[0].positions, strict=True):
            np.testing.assert_allclose(ours, ts.positions, atol=2e-4)

    def test_without_unwrapping_a_jump_is_refused(self):
        x, v = vibration(10)
        x[5:, 1, 0] += 19.5
        with pytest.raises(DataError, match=r"atom 1 H .* frame 5, more than half the box.*unwrap=True"):
            TrajectoryPairs(make_universe(x, v, box=[20, 20, 20, 90, 90, 90]), lag=DT, unwrap=False, progress=False)
        x, v = vibration(10)
        pairs = TrajectoryPairs(make_universe(x, v, box=[20, 20, 20, 90, 90, 90]), lag=DT, unwrap=False, progress=False)
        np.testing.assert_allclose(pairs[4][0].positions, x[4], rtol=1e-6)

    def test_unwrapping_follows_the_selected_atoms_only(self):
        x, v = vibration(10)
        x[5:, 1, 0] += 19.5
        universe = make_universe(x, v, box=[20, 20, 20, 90, 90, 90])
        assert TrajectoryPairs(universe, lag=DT, select="name C O", unwrap=False, progress=False)

    def test_nothing_is_unwrapped_without_a_cell(self):
        x = np.random.default_rng(0).normal(size=(4, 3)) * 100
        assert Unwrapper()(x, None) is x

    def test_difference_velocities_do_not_see_the_boundary(self):
        x, v = parabola(12)
        wrapped = x + 5.0
        wrapped %= 10.0
        universe = make_universe(wrapped, box=[10, 10, 10, 90, 90, 90])
        pairs = TrajectoryPairs(universe, lag=DT, velocities="central", progress=False)
        np.testing.assert_allclose(pairs[4][0].velocities, v[5], atol=5e-3)

    def test_molecules_are_made_whole(self):
        rng = np.random.default_rng(2)
        cell = mda.lib.mdamath.triclinic_vectors(np.array([12, 13, 14, 70, 80, 95], dtype=np.float32)).astype(float)
        chain = np.cumsum(rng.normal(size=(20, 3)), axis=0)
        bonds = np.array([(i, i + 1) for i in range(19) if i != 9])
        whole = make_whole((chain @ np.linalg.inv(cell) % 1.0) @ cell, cell, spanning_tree(bonds, 20))
        for i, j in bonds:
            np.testing.assert_allclose(whole[j] - whole[i], chain[j] - chain[i], atol=1e-5)
        turns = (whole - chain) @ np.linalg.inv(cell)
        np.testing.assert_allclose(turns, np.round(turns), atol=1e-6)


class TestNoiseFloor:
    def test_of_langevin_friction(self):
        with pytest.warns(NoiseFloorWarning, match=r"14\.\d% of the thermal velocity \(friction 1/ps\)"):
            pairs = make_pairs(lag="10 fs", friction="1/ps")
        floor = noise_floor(pairs, friction=1.0)
        assert floor.value == pytest.approx(np.sqrt(1 - np.exp(-0.02)))
        assert noise_floor(pairs, friction=0.1).value == pytest.approx(0.0447, abs=1e-4)

    def test_friction_formula_against_a_simulated_velocity(self):
        rng = np.random.default_rng(0)
        friction, lag, width = 2.0, 0.05, np.sqrt(BOLTZMANN * 300 / 12.011)
        decay = np.exp(-friction * lag)
        v = width * rng.standard_normal(200_000)
        noisy = decay * v + width * np.sqrt(1 - decay**2) * rng.standard_normal(200_000)
        rms = np.sqrt(np.mean((noisy - decay * v) ** 2)) / width
        with pytest.warns(NoiseFloorWarning):
            pairs = make_pairs(lag=lag, friction=friction)
        assert noise_floor(pairs, friction).value == pytest.approx(rms, rel=0.01)

    def test_a_decorrelated_trajectory_warns(self):
        x, _ = vibration(200, 8)
        v = 10 * np.random.default_rng(0).standard_normal(x.shape)
        with pytest.warns(NoiseFloorWarning, match="velocities are forgotten"):
            TrajectoryPairs(make_universe(x, v, dt=1.0), lag=1.0, progress=False)

    def test_vibrations_do_not_warn_even_where_their_correlation_vanishes(self):
        # a quarter of a period: v(t)·v(t + lag) averages to zero and yet everything is predictable
        lag, n = 0.2, 300
        omega = 2 * np.pi / (4 * lag)
        t = 0.1 * np.arange(n)[:, None, None]
        phase = np.random.default_rng(0).uniform(0, 6, size=(1, 3, 3))
        x = 1.5 * np.arange(3)[None, :, None] + 0.2 * np.sin(omega * t + phase)
        v = 0.2 * omega * np.cos(omega * t + phase)
        pairs = TrajectoryPairs(make_universe(x, v, dt=0.1), lag=lag, progress=False)
        assert noise_floor(pairs).value == 0.0

    def test_short_lags_and_positions_only_do_not_warn(self):
        make_pairs()
        x, _ = vibration(50, 8)
        TrajectoryPairs(make_universe(x, dt=1.0, bonds=False), lag=1.0, velocities="none", progress=False)

    def test_bad_friction_unit(self):
        with pytest.raises(UnitError):
            make_pairs(friction="1 ps")


REFUSED = {
    "PSF/DCD, stored velocities": (
        lambda: load_universe(datafiles.PSF, datafiles.DCD),
        {"lag": 1.0, "select": "backbone"},
        "has no velocities",
    ),
    "TPR/XTC, stored velocities": (
        lambda: load_universe(datafiles.TPR, datafiles.XTC),
        {"lag": 100.0, "select": "protein"},
        "has no velocities",
    ),
    "AMBER NCDF, all times zero": (
        lambda: load_universe(datafiles.PRMncdf, datafiles.NCDF),
        {"lag": 1.0, "velocities": "none"},
        "does not say how much time",
    ),
    "AMBER mdcrd, no times": (
        lambda: load_universe(datafiles.PRM, datafiles.TRJ),
        {"lag": 1.0, "velocities": "none"},
        "does not say how much time",
    ),
    "LAMMPS dump, no times": (
        lambda: load_universe(datafiles.LAMMPSDUMP, format="LAMMPSDUMP"),
        {"lag": 1.0, "velocities": "none"},
        "does not say how much time",
    ),
    "LAMMPS dump, no elements": (
        lambda: load_universe(datafiles.LAMMPSDUMP, format="LAMMPSDUMP"),
        {"lag": 1.0, "velocities": "none", "dt": 1.0},
        r"element of atom 0 is not known \(type '2'\).*add_TopologyAttr",
    ),
    "GRO, one frame": (
        lambda: load_universe(datafiles.two_water_gro),
        {"lag": 1.0, "velocities": "none"},
        "needs two",
    ),
    "TRZ, united atoms": (
        lambda: load_universe(datafiles.TRZ_psf, datafiles.TRZ),
        {"lag": 0.01},
        "element of .* not known",
    ),
}


def lammps() -> mda.Universe:
    universe = load_universe(datafiles.LAMMPSDUMP, format="LAMMPSDUMP")
    universe.add_TopologyAttr("elements", ["O" if one == "2" else "H" for one in universe.atoms.types])
    return universe


WORKING: dict[str, tuple[Callable[[], mda.Universe], dict[str, Any], dict[str, Any]]] = {
    # how to open, options of TrajectoryPairs, what is expected
    "PSF/DCD": (
        lambda: load_universe(datafiles.PSF, datafiles.DCD),
        {"lag": "1 ps", "select": "backbone", "velocities": "none"},
        {"n": 97, "n_atoms": 855, "elements": {6, 7, 8}, "bonds": True},
    ),
    "PSF/DCD, central differences": (
        lambda: load_universe(datafiles.PSF, datafiles.DCD),
        {"lag": 1.0, "select": "backbone", "velocities": "central"},
        {"n": 95, "n_atoms": 855, "elements": {6, 7, 8}, "bonds": True},
    ),
    "GRO/TRR": (
        lambda: load_universe(datafiles.GRO, datafiles.TRR),
        {"lag": 100.0, "select": "protein"},
        {"n": 9, "n_atoms": 3341, "elements": {1, 6, 7, 8, 16}, "periodic": True, "warns": True, "temperature": 300},
    ),
    "TPR/XTC": (
        lambda: load_universe(datafiles.TPR, datafiles.XTC),
        {"lag": 200.0, "select": "protein or resid 300:310 and not name MW", "velocities": "none"},
        {"n": 8, "elements": {1, 6, 7, 8, 16}, "periodic": True, "bonds": True},
    ),
    "AMBER NCDF with velocities and forces": (
        lambda: load_universe(datafiles.PRM_NCBOX, datafiles.TRJ_NCBOX),
        {"lag": 1.0},
        {"n": 9, "n_atoms": 1398, "elements": {1, 6, 8}, "periodic": True, "forces": True, "warns": True}
        | {"bonds": True, "temperature": 300},
    ),
    "AMBER NCDF, time given": (
        lambda: load_universe(datafiles.PRMncdf, datafiles.NCDF),
        {"lag": 1.0, "velocities": "none", "dt": 1.0, "select": "resid 1:3"},
        {"n": 29, "periodic": True},
    ),
    "H5MD with velocities and forces": (
        lambda: load_universe(datafiles.TPR_xvf, datafiles.H5MD_xvf),
        {"lag": 50.0, "select": "protein"},
        {"n": 2, "n_atoms": 918, "elements": {1, 6, 7, 8, 16}, "periodic": True, "forces": True, "bonds": True},
    ),
    "TRR with velocities and forces": (
        lambda: load_universe(datafiles.TPR_xvf, datafiles.TRR_xvf),
        {"lag": 50.0, "select": "protein"},
        {"n": 2, "n_atoms": 918, "periodic": True, "forces": True, "bonds": True},
    ),
    "LAMMPS dump, elements and time given": (
        lammps,
        {"lag": 2.0, "dt": 1.0, "velocities": "none"},
        {"n": 1, "n_atoms": 24, "elements": {1, 8}, "periodic": True},
    ),
    "LAMMPS data/DCD": (
        lambda: load_universe(datafiles.LAMMPSdata2, datafiles.LAMMPSdcd2, format="LAMMPS"),
        {"lag": "0.5 ps", "velocities": "none", "select": "index 0:99"},
        {"n": 4, "periodic": True},
    ),
    "triclinic DCD": (
        lambda: load_universe(datafiles.PSF_TRICLINIC, datafiles.DCD_TRICLINIC),
        {"lag": 1.0, "velocities": "none"},
        {"n": 9, "n_atoms": 375, "elements": {1, 8}, "periodic": True, "bonds": True},
    ),
}


class TestRealFiles:
    @pytest.mark.parametrize("name", REFUSED)
    def test_refused_with_the_reason(self, name):
        opened, options, reason = REFUSED[name]
        with pytest.raises(DataError, match=reason):
            TrajectoryPairs(opened(), progress=False, **options)

    @pytest.mark.parametrize("name", WORKING)
    def test_works(self, name):
        opened, options, expected = WORKING[name]
        universe = opened()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pairs = TrajectoryPairs(universe, progress=False, **options)
        assert [w.category for w in caught] == ([NoiseFloorWarning] if expected.get("warns") else [])
        assert len(pairs) == expected["n"]
        assert pairs.n_atoms == expected.get("n_atoms", pairs.n_atoms)
        assert set(pairs.numbers) == expected.get("elements", set(pairs.numbers))
        assert pairs.periodic == expected.get("periodic", False)
        assert pairs.has_forces == expected.get("forces", False)
        if expected.get("bonds"):
            assert pairs.has_bonds
        start, end = pairs.batch(range(len(pairs)))
        assert not torch.equal(start.positions, end.positions)
        if "temperature" in expected:
            # true velocities in true units: the temperature of the simulation, constraints apart
            kinetic = float((start.masses[:, None] * start.velocities**2).mean()) / BOLTZMANN
            assert 0.5 * expected["temperature"] < kinetic < 1.1 * expected["temperature"]
        # the first frame as MDAnalysis has it
        which, first, _ = pairs.frame_indices([0])[0]
        assert which == 0
        atoms = universe.select_atoms(options.get("select", "all"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            universe.trajectory[int(first)]
        cell = None if universe.dimensions is None else universe.trajectory.ts.triclinic_dimensions.astype(float)
        moved = pairs[0][0].positions.double().numpy() - atoms.positions
        if cell is not None:
            moved = moved @ np.linalg.inv(cell)
            moved -= np.round(moved)
        np.testing.assert_allclose(moved, 0, atol=1e-4)

    def test_masses_of_a_lammps_dump_come_from_its_elements(self):
        pairs = TrajectoryPairs(lammps(), lag=1.0, dt=1.0, velocities="none", progress=False)
        assert set(np.round(pairs.masses, 2)) == {1.01, 16.0}
        assert "standard" in pairs.stores[0].provenance["masses of atoms"]

    def test_forces_of_a_lammps_dump_are_left_out(self):
        universe = load_universe(datafiles.LAMMPS_image_vf, datafiles.LAMMPSDUMP_image_vf, format="LAMMPSDUMP")
        universe.add_TopologyAttr("elements", ["Ar"] * universe.atoms.n_atoms)
        universe.atoms.masses = 39.948
        assert universe.trajectory.ts.has_forces
        pairs = TrajectoryPairs(universe, lag=1.0, dt=1.0, velocities="none", progress=False)
        assert not pairs.has_forces
        assert pairs.stores[0].has_velocities

    def test_hydrogen_mass_repartitioning_is_not_mistaken_for_other_elements(self):
        x, v = vibration(5, 4)
        universe = make_universe(x, v)
        universe.del_TopologyAttr("elements")
        universe.atoms.masses = [12.011 - 1.992, 3.0, 15.999, 14.007 - 1.992]
        pairs = TrajectoryPairs(universe, lag=DT, progress=False)
        assert pairs.numbers.tolist() == [6, 1, 8, 7]

    def test_a_store_of_a_large_triclinic_trajectory_is_read_by_mdanalysis(self, tmp_path):
        universe = load_universe(datafiles.PSF_TRICLINIC, datafiles.DCD_TRICLINIC)
        TrajectoryPairs(universe, lag=1.0, velocities="none", store=tmp_path / "t.h5md", progress=False)
        again = load_universe(datafiles.PSF_TRICLINIC, tmp_path / "t.h5md")
        assert again.trajectory.n_frames == 10
        for index in range(10):
            np.testing.assert_allclose(
                again.trajectory[index].dimensions, universe.trajectory[index].dimensions, rtol=1e-4
            )
            assert again.trajectory[index].time == pytest.approx(universe.trajectory[index].time, rel=1e-6)
        assert Store(tmp_path / "t.h5md").cell_varies
