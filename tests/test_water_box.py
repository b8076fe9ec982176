"""A box of water: what is written is liquid water, and pairs can be harvested from it."""

from __future__ import annotations

import numpy as np
import pytest

from fastegnn_md.data import load_universe
from fastegnn_md.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def box(require):
    require("openmm")
    from fastegnn_md.papers.datasets.water_box import WaterBox

    return WaterBox(edge=18.0, frames=3, frame_every=5, equilibration=20)


@pytest.fixture(scope="module")
def files(box, tmp_path_factory):
    from fastegnn_md.papers.datasets.water_box import write_water_box

    folder = tmp_path_factory.mktemp("water")
    write_water_box(folder / "water.pdb", folder / "water.dcd", box, platform="CPU", progress=False)
    return folder / "water.pdb", folder / "water.dcd"


def test_the_box_holds_rigid_water_at_its_density(files):
    universe = load_universe(*files)
    molecules = len(universe.residues)
    density = molecules * 18.015 / 6.02214e23 / (18.0e-8) ** 3  # g/cm³
    assert 0.85 < density < 1.1  # placed by OpenMM at the density of water, with a margin at the faces
    assert len(universe.trajectory) == 3
    np.testing.assert_allclose(universe.trajectory[0].dimensions, [18.0, 18.0, 18.0, 90, 90, 90], atol=1e-3)
    for _ in universe.trajectory:
        x = universe.atoms.positions.astype(np.float64).reshape(molecules, 3, 3)
        np.testing.assert_allclose(np.linalg.norm(x[:, 1] - x[:, 0], axis=1), 0.9572, atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(x[:, 1] - x[:, 2], axis=1), 1.5139, atol=1e-3)


def test_pairs_are_harvested_from_it(files, box, tmp_path):
    from openmm import app

    from fastegnn_md.data import TrajectoryPairs
    from fastegnn_md.harvest import harvest
    from fastegnn_md.papers.datasets.water_box import FORCE_FIELD

    pdb = app.PDBFile(str(files[0]))
    system = app.ForceField(FORCE_FIELD).createSystem(
        pdb.topology, nonbondedMethod=app.PME, nonbondedCutoff=box.cutoff / 10.0, removeCMMotion=False
    )
    store = harvest(
        load_universe(*files),
        system,
        store=tmp_path / "pairs.h5md",
        burst="4 fs",
        interval="2 fs",
        timestep="1 fs",
        temperature=300.0,
        platform="CPU",
        progress=False,
    )
    pairs = TrajectoryPairs(store, lag="2 fs", progress=False)
    start, end = pairs[0]
    assert start.periodic
    assert 0.0 < float((end.positions - start.positions).norm(dim=1).max()) < 0.3
    assert len(pairs) == 6


def test_what_cannot_be(box, tmp_path):
    from fastegnn_md.papers.datasets.water_box import WaterBox, write_water_box

    with pytest.raises(ConfigError, match="at least 15 Å"):
        WaterBox(edge=10.0)
    with pytest.raises(ConfigError, match="must be positive"):
        WaterBox(frames=0)
    with pytest.raises(ConfigError, match="no platform"):
        write_water_box(tmp_path / "a.pdb", tmp_path / "a.dcd", box, platform="Abacus")
    with pytest.raises(DataError, match="cannot write"):
        write_water_box(tmp_path / "none" / "a.pdb", tmp_path / "a.dcd", box, platform="CPU", progress=False)
    assert list(tmp_path.iterdir()) == []
