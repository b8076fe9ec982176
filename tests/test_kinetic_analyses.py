"""Analyses of basins, kinetics and handedness, on trajectories whose torsions are known."""

from __future__ import annotations

import MDAnalysis as mda
import numpy as np
import pytest
from known_processes import DoubleWell
from MDAnalysis.analysis.base import AnalysisBase
from MDAnalysis.coordinates.memory import MemoryReader
from turning_peptide import TAU, of_well, turning

from fastegnn_md.errors import DataError
from fastegnn_md.validation import Chirality, Kinetics, TorsionBasins


@pytest.fixture(scope="module")
def well() -> DoubleWell:
    return DoubleWell()


@pytest.fixture(scope="module")
def runs(well) -> tuple[np.ndarray, list[mda.Universe]]:
    """Basins that ψ was in (1: alphaR), and the trajectories; φ of the structure is that of C5 or C7eq."""
    points = well.trajectories(4, 600, TAU, np.random.default_rng(3))
    return well.basin[points], [of_well(one) for one in well.x[points]]


def test_basins_of_several_runs_are_those_that_were_put_in(runs):
    basin, universes = runs
    found = TorsionBasins(universes).run()
    assert isinstance(found, AnalysisBase)
    right_handed = found.results.names.index("alphaR")
    for one, labels in zip(basin, found.results.labels, strict=True):
        assert np.mean((labels[:, 0] == right_handed) == one) > 0.99
    assert found.results.populations.shape == (1, 5)
    assert found.results.populations[0, right_handed] == pytest.approx(basin.mean(), abs=0.01)
    assert found.results.populations.sum() == pytest.approx(1)
    assert 0 < found.results.errors[0, right_handed] < 0.2
    alone = TorsionBasins(universes[0].select_atoms("all")).run(step=10)
    assert len(alone.results.labels[0]) == 61
    assert np.isnan(alone.results.errors).all()


def test_kinetics_of_several_runs_are_those_of_the_process(runs, well, require):
    require("deeptime")
    _, universes = runs
    found = Kinetics(universes, lag=2 * TAU, clusters=20).run().results
    assert found.lower[0] < well.timescale() < found.upper[0]
    left, right = (found.names.index(name) for name in ("C7eq", "alphaR"))
    if found.populations[0, left] == 0:
        left = found.names.index("C5")
    stays = found.transitions[0][[left, right], [left, right]]
    np.testing.assert_allclose(stays, np.diag(well.basin_matrix(2 * TAU)), atol=0.05)
    assert found.counts.sum() == pytest.approx(4 * 599 / 2)
    again = Kinetics(universes, lag=2 * TAU, centres=found.centres).run().results
    assert again.timescales[0] == pytest.approx(found.timescales[0])
    with pytest.raises(DataError, match="no multiple"):
        Kinetics(universes, lag=0.7 * TAU).run()


def test_chirality_counts_the_frames_that_are_mirror_images():
    universe = turning(np.linspace(-60, 150, 6))
    x = universe.trajectory.timeseries(order="fac").copy()
    assert Chirality(universe.atoms).run().results.flips.sum() == 0
    x[2:4, :, 0] *= -1
    universe.load_new(x, format=MemoryReader)
    found = Chirality(universe.atoms).run().results
    assert universe.atoms[found.centres].names.tolist() == ["CA"]
    assert found.flips.tolist() == [2]
    assert (np.sign(found.volumes[:, 0]) == np.sign(found.volumes[0, 0]) * np.array([1, 1, -1, -1, 1, 1])).all()


def test_what_cannot_be_analysed_is_refused(runs):
    _, universes = runs
    with pytest.raises(DataError, match="no trajectory"):
        TorsionBasins([])
    with pytest.raises(DataError, match="atoms"):
        TorsionBasins([universes[0], universes[1].select_atoms("resname ALA")])
    with pytest.raises(DataError, match="no frame"):
        TorsionBasins(universes).run(start=10_000)
    without = mda.Universe.empty(4, atom_resindex=[0] * 4, trajectory=True)
    without.add_TopologyAttr("elements", ["C"] * 4)
    without.add_TopologyAttr("masses", [12.0] * 4)
    with pytest.raises(DataError, match="no bonds"):
        Chirality(without.atoms)
