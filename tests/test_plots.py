"""Virtual nodes and clusters as files that other programs read."""

from __future__ import annotations

from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest
import torch
from MDAnalysisTests.datafiles import DCD, PSF

from fastegnn_md import Propagator
from fastegnn_md.data.topology import load_universe
from fastegnn_md.engines.mdanalysis import state_from_universe
from fastegnn_md.errors import DataError
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.domain import Domain
from fastegnn_md.report.structures import write_clusters, write_virtual_nodes


@pytest.fixture(scope="module")
def backbone():
    return load_universe(PSF, DCD).select_atoms("backbone")


@pytest.fixture(scope="module")
def state(backbone):
    return state_from_universe(backbone, velocities="zero")


def propagator_of(state, **options):
    config = PropagatorConfig(hidden=8, layers=1, cutoff=5.0, **options)
    later = state.replace(positions=state.positions + 0.01, velocities=state.velocities + 0.1)
    return Propagator.build(config, 0.008, Domain.from_pairs(state, later, config))


def test_virtual_nodes_stand_in_the_structure(backbone, state, tmp_path):
    propagator = propagator_of(state, virtual_nodes=4)
    virtual = propagator.virtual_nodes(state)
    assert virtual.shape == (1, 4, 3)
    # an equivariant map: moved with the structure
    moved = propagator.virtual_nodes(state.replace(positions=state.positions + 5.0))
    torch.testing.assert_close(moved, virtual + 5.0, atol=1e-3, rtol=0)
    write_virtual_nodes(tmp_path / "nodes.pdb", backbone, virtual[0].numpy())
    read = load_universe(tmp_path / "nodes.pdb")
    nodes = read.select_atoms("resname VND")
    np.testing.assert_allclose(nodes.positions, virtual[0].numpy(), atol=2e-3)
    assert list(nodes.resids) == [1, 2, 3, 4]
    assert set(nodes.record_types) == {"HETATM"}
    real = read.select_atoms("not resname VND")
    np.testing.assert_allclose(real.positions, backbone.positions, atol=2e-3)
    assert list(real.names) == list(backbone.names)


def test_clusters_are_b_factors(backbone, tmp_path):
    clusters = np.arange(len(backbone)) // 100
    write_clusters(tmp_path / "clusters.pdb", backbone, clusters)
    np.testing.assert_array_equal(load_universe(tmp_path / "clusters.pdb").atoms.tempfactors, clusters + 1)


def test_a_structure_without_names(tmp_path):
    bare = mda.Universe.empty(3, trajectory=True)
    bare.atoms.positions = np.eye(3)
    write_virtual_nodes(tmp_path / "bare.pdb", bare.atoms, np.zeros((2, 3)))
    assert len(load_universe(tmp_path / "bare.pdb").select_atoms("resname VND")) == 2


def test_coordinates_that_do_not_fit_leave_no_file(backbone, tmp_path):
    path = tmp_path / "far.pdb"
    path.write_text("before")
    with pytest.raises(DataError, match="origin"):
        write_virtual_nodes(path, backbone, np.full((1, 3), 1e9))
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_writes_both_files(backbone, state, tmp_path, monkeypatch, require, capfd):
    require("matplotlib")
    from fastegnn_md.cli import main

    propagator_of(state, virtual_nodes=2).save(tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)

    def plot(kind, output):
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    "plot",
                    kind,
                    "model.safetensors",
                    str(DCD),
                    "--topology",
                    str(PSF),
                    "--select",
                    "backbone",
                    "-o",
                    output,
                ]
            )
        return ended.value.code, capfd.readouterr().err

    assert plot("virtual-nodes", "v.png") == (0, "")
    assert Path("v.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(load_universe("v.pdb").select_atoms("resname VND")) == 2
    for kind, output, message in (
        ("clusters", "c.png", "does not pool"),
        ("virtual-nodes", "v.gif", "must end in .png"),
        ("weights", "v.png", "cannot plot 'weights'"),
    ):
        code, err = plot(kind, output)
        assert code == 2
        assert message in err


def test_clusters_of_a_network_that_pools(backbone, state, tmp_path, require):
    require("matplotlib")
    from fastegnn_md.cli import main

    options = {"architecture": "eghn", "architecture_options": {"clusters": 3}, "kind": "position"}
    propagator = propagator_of(state, **options)
    shares = propagator.clusters(state)
    assert shares.shape == (855, 3)
    torch.testing.assert_close(shares.sum(1), torch.ones(855))
    assert propagator.virtual_nodes(state) is None
    propagator.save(tmp_path / "model.safetensors")
    arguments = ["clusters", tmp_path / "model.safetensors", DCD, "--topology", PSF, "--select", "backbone"]
    with pytest.raises(SystemExit) as ended:
        main(["plot", *map(str, arguments), "-o", str(tmp_path / "c.png")])
    assert ended.value.code == 0
    assert (tmp_path / "c.png").stat().st_size > 10_000
    found = load_universe(tmp_path / "c.pdb").atoms.tempfactors
    np.testing.assert_array_equal(found, shares.argmax(1).numpy() + 1)
