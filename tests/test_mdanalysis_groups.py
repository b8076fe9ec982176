"""What MDAnalysis hands over that would go wrong silently or raise errors of its own; analyses in several processes."""

from __future__ import annotations

from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.data.frames import check_velocities
from fastegnn_md.data.topology import select_atoms
from fastegnn_md.errors import DataError
from fastegnn_md.validation.observables.constraints import ConstraintViolation, RigidPairs
from fastegnn_md.validation.observables.diffusion import Diffusion
from fastegnn_md.validation.observables.distances import PairDistances
from fastegnn_md.validation.observables.temperature import ElementTemperatures
from fastegnn_md.validation.observables.tica import TorsionFeatures
from fastegnn_md.validation.observables.vdos import VelocityDensityOfStates
from fastegnn_md.validation.run import Run

AKMA = 20.455
MASSES = np.array([12.011, 1.008, 1.008, 15.999, 12.011])


def chain(n_frames: int = 40, dt: float = 0.002, temperature: float = 300.0, factor: float = 1.0) -> mda.Universe:
    """Five atoms that vibrate about a zigzag, in a box through whose boundary they drift; stored velocities scaled."""
    rng = np.random.default_rng(4)
    rest = np.array([[0.0, 0, 0], [1.2, 0.6, 0], [2.4, 0, 0.3], [3.6, 0.7, 0], [4.8, 0, 0.2]])
    omega = 2 * np.pi * rng.uniform(5, 20, size=(5, 3))  # 1/ps
    speed = np.sqrt(0.8314462618 * temperature / MASSES)[:, None]
    phase = rng.uniform(0, 2 * np.pi, size=(5, 3))
    t = dt * np.arange(n_frames)[:, None, None]
    x = rest + 2 + np.sqrt(2) * speed / omega * np.sin(omega * t + phase)
    v = np.sqrt(2) * speed * np.cos(omega * t + phase)
    x[..., 2] += 20.0 * t[..., 0]
    v[..., 2] += 20.0
    universe = mda.Universe.empty(5, n_residues=1, atom_resindex=[0] * 5, trajectory=False)
    universe.add_TopologyAttr("elements", ["C", "H", "H", "O", "C"])
    universe.add_TopologyAttr("masses", MASSES)
    universe.add_TopologyAttr("names", ["C1", "H1", "H2", "O", "C2"])
    universe.add_TopologyAttr("bonds", [(0, 1), (1, 2), (2, 3), (3, 4)])
    universe.load_new(
        (x % 9.0).astype(np.float32), dt=dt, velocities=factor * v, dimensions=np.array([9.0, 9, 9, 90, 90, 90])
    )
    return universe


class TestUpdatingGroups:
    def group(self) -> Any:
        return chain().select_atoms("prop x < 5", updating=True)

    def test_pairs_harvests_and_validations_refuse_them(self, tmp_path):
        from fastegnn_md.harvest import harvest

        with pytest.raises(DataError, match="updating"):
            TrajectoryPairs(self.group(), lag="4 fs", progress=False)
        with pytest.raises(DataError, match="updating"):
            harvest(self.group(), object, store=tmp_path / "a.h5md", temperature=300)
        with pytest.raises(DataError, match="updating"):
            Run.whole(self.group())
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("analysis", [ElementTemperatures, Diffusion, VelocityDensityOfStates, RigidPairs])
    def test_analyses_refuse_them(self, analysis):
        with pytest.raises(DataError, match="updating"):
            analysis(self.group())

    def test_the_atoms_of_one_frame_are_a_way_out(self):
        group = self.group()
        still = group.universe.atoms[group.ix]
        assert len(TrajectoryPairs(still, lag="4 fs", progress=False)) == 38


class TestUnitsOfVelocities:
    def test_a_trajectory_in_its_own_unit_passes(self):
        for dt in (0.0005, 0.002, 0.1):
            assert len(TrajectoryPairs(chain(dt=dt), lag=dt, progress=False, friction=None))

    @pytest.mark.parametrize("temperature", [100.0, 300.0, 1200.0])
    @pytest.mark.parametrize("dt", [0.002, 0.05])
    @pytest.mark.parametrize("factor", [AKMA, 1 / AKMA, 1000.0, 1e-3])
    def test_a_factor_of_units_is_noticed(self, temperature, dt, factor):
        universe = chain(temperature=temperature, dt=dt, factor=factor)
        universe.del_TopologyAttr("bonds")  # these springs are softer than any bond
        with pytest.raises(DataError, match=r"not in Å/ps .*20\.455"):
            TrajectoryPairs(universe, lag=dt, progress=False)

    @pytest.mark.parametrize(("factor", "refused"), [(1.0, False), (AKMA, True), (1 / AKMA, True)])
    def test_one_frame_is_told_by_its_temperature(self, factor, refused):
        v = chain(factor=factor).trajectory[0].velocities
        v = v - np.average(v, axis=0, weights=MASSES)
        if refused:
            with pytest.raises(DataError, match="temperature"):
                check_velocities(v, MASSES)
        else:
            check_velocities(v, MASSES)


@pytest.mark.parametrize(
    "selection",
    [
        "nonsense",
        "name",
        "name C1 and",
        "index 1:",
        "index a",
        "prop mass >",
        "prop x < y",
        "around protein",
        "point 1 2 3",
        "bynum 0 x",
        "(name C1",
        "resid 99999999999999999999:",
        "same thing as name C1",
        "group missing",
    ],
)
def test_a_wrong_selection_is_one_error_by_name(selection):
    with pytest.raises(DataError, match=r"selection|empty"):
        select_atoms(chain(), selection)


@pytest.mark.parametrize("error", [OSError, ValueError, KeyError, TypeError, EOFError])
def test_a_frame_that_cannot_be_read_is_named(monkeypatch, error):
    run = Run.whole(chain().atoms)
    reader = run.atoms.universe.trajectory

    def fail(self: Any, index: int) -> None:
        raise error("bits")

    monkeypatch.setattr(type(reader), "_read_frame", fail)
    with pytest.raises(DataError, match=r"frame \d+ of 40 cannot be read"):
        run.spacing  # noqa: B018
    with pytest.raises(DataError, match=r"frame \d+ of 40 cannot be read"):
        run.has_velocities  # noqa: B018


def made(universe: mda.Universe) -> dict[str, Any]:
    pairs = np.array([[0, 1], [1, 2]])
    return {
        "temperature": ElementTemperatures(universe.atoms, pairs),
        "diffusion": Diffusion(universe.atoms),
        "density of states": VelocityDensityOfStates(universe.atoms),
        "density of states of positions": VelocityDensityOfStates(universe.atoms, "central"),
        "distances": PairDistances(universe.atoms, 8.0),
        "rigid pairs": RigidPairs(universe.atoms, 0.2),
        "violation": ConstraintViolation(universe.atoms, pairs, np.array([1.3, 1.3])),
        "torsions": TorsionFeatures([universe.atoms[[0, 1, 2, 3]], universe.atoms[[1, 2, 3, 4]]]),
    }


@pytest.mark.parametrize("name", made(chain(8)))
def test_an_analysis_in_several_processes_is_that_in_one(name: str) -> None:
    """Of all frames and of a part of them."""
    universe = chain()
    for frames in ({}, {"start": 1, "stop": 38, "step": 3}):
        expected = made(universe)[name].run(**frames).results
        analysis = made(universe)[name]
        assert "multiprocessing" in analysis.get_supported_backends()
        found = analysis.run(backend="multiprocessing", n_workers=2, **frames).results
        assert set(found) == set(expected)
        assert "rows" not in found
        for key, value in expected.items():
            if key == "elements":
                assert found[key] == value
            else:
                np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-12)
