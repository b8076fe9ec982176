"""The scripts that vary masses and kinds of propagators, on springs in the place of GFN2-xTB."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pages
import pytest
import torch

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs, load_universe

ROOT = Path(__file__).parents[1]


def springs():
    """Ethanol with a spring between every two atoms."""
    from ase.build import molecule
    from ase.calculators.calculator import Calculator

    rest = np.linalg.norm((places := molecule("CH3CH2OH").positions)[:, None] - places, axis=2)

    class Springs(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms=None, properties=None, system_changes=None):
            super().calculate(atoms, properties, system_changes)
            vectors = atoms.positions[:, None] - atoms.positions
            lengths = np.linalg.norm(vectors, axis=2) + np.eye(len(rest))
            strain = lengths - rest - np.eye(len(rest))
            forces = -2.0 * (strain / lengths)[:, :, None] * vectors  # eV/Å² is 2
            self.results = {"energy": 0.5 * (strain**2).sum(), "forces": forces.sum(axis=1)}

    return Springs()


@pytest.fixture
def scripts(require, monkeypatch):
    """Scripts by name, found as Python finds them when one is run."""
    require("ase")
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "organic")
    return lambda name: importlib.import_module(name)


@pytest.fixture
def masses(scripts, tmp_path, monkeypatch):
    """A command of ``masses.py`` on few bursts of springs."""
    script = scripts("masses")
    monkeypatch.setattr(script, "xtb", springs)
    monkeypatch.setattr(script, "SAMPLES", {"train": (450.0, 10), "exam": (350.0, 2)})

    def call(stage, *options):
        monkeypatch.setattr(sys, "argv", list(map(str, ["masses.py", stage, tmp_path, *options])))
        script.main()

    call.folder, call.script = tmp_path, script
    return call


def test_mass_comes_from_the_atom_that_hydrogen_is_bonded_to_or_from_nowhere(scripts):
    ethanol = scripts("masses").ethanol
    natural, moved, added = (ethanol(policy).get_masses() for policy in ("1", "3", "4+"))
    hydrogen = ethanol("1").numbers == 1
    assert moved.sum() == pytest.approx(natural.sum())
    assert set(moved[hydrogen]) == {3.0}
    np.testing.assert_allclose(natural[~hydrogen] - moved[~hydrogen], np.array([3, 2, 1]) * 1.992, atol=1e-3)
    assert set(added[hydrogen]) == {4.0}
    np.testing.assert_array_equal(added[~hydrogen], natural[~hydrogen])


def test_the_page_writes_a_structure_with_the_masses_it_says(scripts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scripts("masses").ethanol("1").write("molecule.xyz", format="xyz")
    (code,) = (one for one in pages.blocks(ROOT / "docs" / "propagator.md", "python") if "guess_bonds" in one)
    exec(code, {})
    written = load_universe(tmp_path / "heavy.traj").atoms.masses
    np.testing.assert_allclose(written, scripts("masses").ethanol("3").get_masses())


def test_other_masses_move_in_the_potential_of_the_shipped_model(masses):
    masses("make", "--masses", "3")
    pairs = TrajectoryPairs(masses.folder / "train-3.h5", lag="6 fs", progress=False)
    shipped = Propagator.load("organic-xtb-4fs")
    made = masses.script.with_potential_of("organic-xtb-4fs", pairs, shipped.config)
    state = pairs.batch([0])[0]
    assert float(state.masses.min()) == pytest.approx(3.0)
    natural = state.replace(masses=torch.tensor(masses.script.ethanol("1").get_masses(), dtype=state.dtype))
    for place in (0.0, 0.4):
        places = torch.full_like(state.masses, place)
        expected = shipped._force(state.positions, natural, places)
        torch.testing.assert_close(made._force(state.positions, state, places), expected, rtol=1e-3, atol=1.0)


def test_runs_of_other_masses_are_collected_beside_classical_ones(masses):
    masses("make", "--masses", "4+")
    masses("train", "--masses", "4+", "--lag", "8", "--updates", "0")
    own = ("--masses", "4+", "--lag", "8", "--updates", "0", "--picoseconds", "0.4")
    masses("run", *own, "--friction", "nve")
    masses("run", *own, "--friction", "nve", "--step", "1")
    (masses.folder / "vibrations.json").write_text("{}")
    masses("collect", "--output", masses.folder / "all.json")
    learned, classical = json.loads((masses.folder / "all.json").read_text())["runs"]
    assert learned["jump, fs"] == 8
    assert len(learned["E - E0 by tenths, kT"]) == 10 or learned["stopped"]  # it never saw springs
    assert len(classical["E - E0 by tenths, kT"]) == 10
    assert classical["classical step, fs"] == 1
    assert max(map(abs, classical["E - E0 by tenths, kT"])) < 0.2


@pytest.mark.filterwarnings("ignore::fastegnn_md.integrators.home.UnlikeTrainingWarning")  # two frames are no ensemble
def test_kinds_are_trained_on_the_same_bursts_judged_and_run(scripts, tmp_path, monkeypatch):
    from ase.build import molecule
    from ase.io import write
    from ase.md.velocitydistribution import thermalize_momenta

    kinds, small = scripts("kinds"), {"MOLECULES": 2, "HELD_OUT": 1, "EXAM": ("ethanol",)}
    for name, value in {"xtb": springs, **small}.items():
        monkeypatch.setattr(kinds, name, value)
    monkeypatch.setattr(scripts("dynamics"), "xtb", springs)
    monkeypatch.setattr(kinds, "NETWORK", {**kinds.NETWORK, "hidden": 8, "layers": 1})
    frames = []
    for seed in range(2):
        frames.append(molecule("CH3CH2OH"))
        thermalize_momenta(frames[-1], 300, rng=np.random.default_rng(seed))
    names = [one.name for one in kinds.shuffled(kinds.read_list("train")) if one.n_atoms <= kinds.LARGEST]
    for name in (*names[:2], "ethanol"):
        write(tmp_path / f"{name}.traj", frames)

    def call(stage, *options):
        own = ["kinds.py", stage, tmp_path / "kinds", "--stores", tmp_path, "--kind", "force-midpoint", *options]
        monkeypatch.setattr(sys, "argv", list(map(str, own)))
        kinds.main()

    call("make")
    shutil.copy(tmp_path / "kinds" / f"{names[0]}.h5", tmp_path / "ethanol.h5")
    call("train", "--updates", "2")
    call("judge")
    call("run", "--picoseconds", "0.02")
    call("collect", "--output", tmp_path / "all.json")
    found = json.loads((tmp_path / "all.json").read_text())["kinds"]["force-midpoint"]
    assert found["training"]["molecules"] == 1
    assert 0.02 < found["errors"]["median over best baseline"]["v"] < 1.5  # two updates teach nothing
    assert found["runs"][0]["jumps"] == 5


def test_networks_are_trained_for_one_time_and_judged_on_molecules_they_have_not_seen(masses, scripts, monkeypatch):
    ablation = scripts("ablation")
    masses("make", "--masses", "4+")
    stores = masses.folder / "stores"
    stores.mkdir()
    for name in ("a", "b", "ethanol"):
        shutil.copy(masses.folder / "train-4+.h5", stores / f"{name}.h5")
    small = {
        "SHIPPED": {"hidden": 8, "layers": 1, "cutoff": 4.0},
        "VARIANTS": {"as shipped": {}, "wide": {"hidden": 16}},
    }
    tiny = {"MOLECULES": 2, "HELD_OUT": 1, "EXAM": ("ethanol",), "CLOCKED": "ethanol", "FORCES": 2, "PAIRS": 2}
    for name, value in {"xtb": springs, **small, **tiny}.items():
        monkeypatch.setattr(ablation, name, value)
    own = ["ablation.py", masses.folder / "networks", "--stores", stores, "--exam", stores, "--seconds", "0.01"]
    monkeypatch.setattr(sys, "argv", list(map(str, [*own, "--output", masses.folder / "ablation.json"])))
    ablation.main()
    found = json.loads((masses.folder / "ablation.json").read_text())
    assert found["molecules"] == 1
    rows = found["networks"]
    assert rows["wide"]["weights"] > rows["as shipped"]["weights"]
    assert rows["wide"]["hidden"] == 16
    assert rows["wide"]["v over best baseline"]["ethanol"] == rows["wide"]["v over best baseline, median"] > 0
