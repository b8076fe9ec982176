"""Forces that change under reflection are found, in every engine and boundary, kept with the store and told of."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest

import fastegnn_md
from fastegnn_md.data import MirrorAsymmetry, MirrorWarning, Store, TrajectoryPairs, mirror_asymmetry
from fastegnn_md.data.mirror import mirrored
from fastegnn_md.harvest import harvest
from fastegnn_md.harvest.bursts import Start
from fastegnn_md.harvest.openmm import reduced_cell
from fastegnn_md.harvest.recipe import burst_recipe

pytestmark = pytest.mark.slow  # thorough: `make test` and CI run it

PEPTIDE = str(Path(fastegnn_md.__file__).with_name("assets") / "ala2.pdb")
MASSES = np.array([12.011, 1.008, 15.999, 14.007])
FAST = {"progress": False, "temperature": 300.0}
MIRROR = np.array([1.0, 1.0, -1.0])


def four_atoms(n_frames: int = 6, box: list[float] | None = None) -> mda.Universe:
    """Four atoms about the corners of a tetrahedron."""
    rng = np.random.default_rng(0)
    corners = np.array([[0.0, 0, 0], [1.4, 0, 0], [0, 1.5, 0], [0.2, 0.3, 1.3]])
    x = corners + 0.05 * rng.normal(size=(n_frames, 4, 3))
    universe = mda.Universe.empty(4, trajectory=False)
    universe.add_TopologyAttr("elements", ["C", "H", "O", "N"])
    universe.add_TopologyAttr("masses", MASSES)
    dimensions = None if box is None else np.tile(np.array(box, dtype=np.float32), (n_frames, 1))
    universe.load_new(x.astype(np.float32), dt=1.0, dimensions=dimensions)
    return universe


def even_and_odd(x: np.ndarray, chiral: float) -> tuple[np.ndarray, np.ndarray]:
    """Springs between all pairs, and chiral · (r₁ × r₂) · r₃, rᵢ from the first atom, which is odd under reflection."""
    difference = x[:, None] - x[None]
    r = np.linalg.norm(difference, axis=2) + np.eye(4)
    even = -(0.5 * (r - 1.6 * (1 - np.eye(4)) - np.eye(4)) / r)[..., None] * difference
    a, b, c = x[1:] - x[0]
    odd = -chiral * np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
    return even.sum(axis=1), np.concatenate([-odd.sum(axis=0, keepdims=True), odd])


def chiral_calculator(chiral: float = 0.0, fails: bool = False) -> Any:
    from ase.calculators.calculator import CalculationFailed, Calculator

    class Tetrahedron(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
            super().calculate(atoms, properties, system_changes)
            if fails:
                raise CalculationFailed("no convergence")
            x = atoms.get_positions()
            r = np.linalg.norm(x[:, None] - x[None], axis=2)[np.triu_indices(4, 1)]
            a, b, c = x[1:] - x[0]
            energy = 0.25 * np.square(r - 1.6).sum() + chiral * np.cross(a, b) @ c
            self.results = {"energy": energy, "forces": sum(even_and_odd(x, chiral))}

    return Tetrahedron()


def chiral_system(require: Any, phase: float, *, periodic: bool = False) -> Any:
    """The four atoms in OpenMM: bonds, a torsion with a phase in degrees and, where periodic, PME."""
    openmm = require("openmm")
    system, bonds, torsion = openmm.System(), openmm.HarmonicBondForce(), openmm.PeriodicTorsionForce()
    for mass in MASSES:
        system.addParticle(float(mass))
    for i in range(4):
        for j in range(i):
            bonds.addBond(i, j, 0.16, 2e4)
    torsion.addTorsion(1, 0, 2, 3, 1, np.radians(phase), 20.0)
    for force in (bonds, torsion):
        system.addForce(force)
    if periodic:
        pair = openmm.NonbondedForce()
        for charge in (0.4, -0.6, 0.3, -0.1):
            pair.addParticle(charge, 0.1, 0.0)
        pair.setNonbondedMethod(pair.PME)
        pair.setCutoffDistance(0.6)
        system.addForce(pair)
    return system


@functools.cache
def peptide_frames() -> np.ndarray:
    """Frames of alanine dipeptide about its structure, Å."""
    rng = np.random.default_rng(1)
    x = mda.Universe(PEPTIDE).atoms.positions
    return (x + 0.03 * rng.normal(size=(8, *x.shape))).astype(np.float32)


@pytest.fixture
def peptide(require: Any) -> Any:
    """A universe of alanine dipeptide and a function that makes its System."""
    app = require("openmm.app")
    topology = app.PDBFile(PEPTIDE).topology
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on what the PDB file leaves out
        universe = mda.Universe(PEPTIDE)
        universe.load_new(peptide_frames(), dt=1.0)
    return universe, lambda file: app.ForceField(file).createSystem(topology, nonbondedMethod=app.NoCutoff)


class TestMeasure:
    def test_the_odd_part_is_that_of_the_closed_form(self):
        x = [ts.positions.astype(float) for ts in four_atoms().trajectory]
        even, odd = (np.array(part) for part in zip(*(even_and_odd(one, 0.2) for one in x), strict=True))
        found = mirror_asymmetry(lambda x, cell: sum(even_and_odd(x, 0.2)), [(one, None) for one in x])
        lengths, rms = np.linalg.norm(odd, axis=2), np.sqrt(np.square(even + odd).sum(axis=2).mean())
        assert found.share == pytest.approx(np.sqrt(np.square(lengths).mean()) / rms, rel=1e-10)
        assert found.largest == pytest.approx(lengths.max() / rms, rel=1e-10)
        assert found.atom == lengths.max(axis=0).argmax()

    def test_even_forces_have_none(self):
        frames = [(one.positions.astype(float), None) for one in four_atoms().trajectory]
        found = mirror_asymmetry(lambda x, cell: even_and_odd(x, 0.0)[0], frames)
        assert found.share < 1e-15
        assert not found.matters

    def test_a_few_odd_atoms_among_many_matter(self):
        """As of a peptide in a box of water."""
        rng = np.random.default_rng(0)
        forces = rng.normal(size=(20_000, 3))
        odd = np.zeros_like(forces)
        odd[77, 2] = 0.05

        def calls(x: np.ndarray, cell: None) -> np.ndarray:
            hand = np.sign(x[0, 2])
            return forces * np.array([1, 1, hand]) + odd

        found = mirror_asymmetry(calls, [(np.ones_like(forces), None)])
        assert found.share < 1e-3
        assert found.atom == 77
        assert found.matters

    def test_frames_that_the_engine_gives_up_on_are_left_out(self):
        frames = [(one.positions.astype(float), None) for one in four_atoms().trajectory]

        def calls(x: np.ndarray, cell: None) -> np.ndarray:
            lost = np.abs(x[3, 2]) == np.abs(frames[0][0][3, 2])
            return np.full((4, 3), np.nan) if lost else sum(even_and_odd(x, 0.2))

        found = mirror_asymmetry(calls, frames)
        assert found == mirror_asymmetry(calls, frames[1:])
        assert found.matters
        assert mirror_asymmetry(calls, frames[:1]) is None
        assert mirror_asymmetry(lambda x, cell: 0.0 * x, frames) is None

    @pytest.mark.parametrize("turned", [False, True])
    def test_cells_are_those_of_the_mirrored_lattice(self, turned):
        rng = np.random.default_rng(3)
        for _ in range(20):
            lengths_and_angles = np.array([*rng.uniform(5, 9, 3), *rng.uniform(65, 110, 3)], dtype=np.float32)
            cell = mda.lib.mdamath.triclinic_vectors(lengths_and_angles).astype(float)
            if turned:
                cell = cell @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
            x, other = mirrored(rng.normal(size=(5, 3)), cell)
            turns = other @ np.linalg.inv(cell * MIRROR)
            np.testing.assert_allclose(turns, np.round(turns), atol=1e-12)
            assert np.linalg.det(other) == pytest.approx(np.linalg.det(cell))
            if not turned:
                np.testing.assert_array_equal(other, np.tril(other))
                assert np.all(np.diag(other) > 0)
                np.testing.assert_array_equal(np.abs(mirrored(x, reduced_cell(cell))[1]), np.abs(reduced_cell(cell)))
            back, again = mirrored(x, other)
            np.testing.assert_array_equal(again, cell)
            np.testing.assert_array_equal(mirrored(back, None)[0], x)


class TestHarvest:
    @pytest.mark.parametrize("file", ["amber19-all.xml", "amberfb15.xml"])
    def test_force_fields_that_are_not_symmetric(self, file, peptide, tmp_path):
        universe, make = peptide
        with pytest.warns(MirrorWarning, match=r"\d\.\d\d% of the RMS force, up to .* at atom \d+") as caught:
            path = harvest(universe, make(file), store=tmp_path / "b.h5md", burst="8 fs", max_failed=0.9, **FAST)
        assert caught[0].filename == __file__
        found = MirrorAsymmetry.of_store(Store(path).provenance)
        assert 2e-3 < found.share < 0.1
        assert found.share < found.largest
        assert f"{found.share:.2%}" in str(caught[0].message)

    def test_a_force_field_that_is(self, peptide, tmp_path):
        universe, make = peptide
        path = harvest(
            universe, make("amber14-all.xml"), store=tmp_path / "b.h5md", burst="8 fs", max_failed=0.9, **FAST
        )
        assert MirrorAsymmetry.of_store(Store(path).provenance).share < 1e-6

    @pytest.mark.parametrize("box", [None, [12.0, 13.0, 11.0, 70.0, 100.0, 60.0]])
    def test_an_ase_calculator(self, box, require, tmp_path):
        require("ase")
        universe = four_atoms(box=box)
        engine = functools.partial(chiral_calculator, 0.05)
        with pytest.warns(MirrorWarning, match="forces of the engine change under reflection"):
            path = harvest(universe, engine, store=tmp_path / "a.h5md", energy_tolerance=1.0, **FAST)
        found = MirrorAsymmetry.of_store(Store(path).provenance)
        x = [ts.positions.astype(float) for ts in universe.trajectory[::2]]
        even, odd = (np.array(part) for part in zip(*(even_and_odd(one, 0.05) for one in x), strict=True))
        # engines answer in single precision
        expected = np.sqrt(np.square(odd).sum() / np.square(even + odd).sum())
        assert found.share == pytest.approx(expected, rel=1e-5)
        plain = harvest(universe, chiral_calculator, store=tmp_path / "b.h5md", energy_tolerance=1.0, **FAST)
        assert MirrorAsymmetry.of_store(Store(plain).provenance).share < 1e-6

    def test_an_engine_that_gives_up_says_so_as_ever(self, require, tmp_path):
        require("ase")
        from fastegnn_md.errors import EngineError

        with pytest.raises(EngineError, match=r"the engine failed in .* bursts .*no convergence"):
            harvest(four_atoms(), functools.partial(chiral_calculator, fails=True), store=tmp_path / "b.h5md", **FAST)

    @pytest.mark.parametrize("platform", ["Reference", "CPU"])
    @pytest.mark.parametrize("angles", [(90.0, 90.0, 90.0), (70.0, 100.0, 60.0), (60.0, 60.0, 90.0)])
    @pytest.mark.parametrize("phase", [0.0, 180.0, 120.0])
    def test_periodic_systems(self, phase, angles, platform, require):
        universe = four_atoms(box=[16.0, 17.0, 18.0, *angles])
        frames = [(ts.positions.astype(float), ts.triclinic_dimensions.astype(float)) for ts in universe.trajectory]
        first = Start(positions=frames[0][0], velocities=np.zeros((4, 3)), cell=frames[0][1])
        system = chiral_system(require, phase, periodic=True)
        recipe = burst_recipe(
            system, numbers=np.array([6, 1, 8, 7]), masses=MASSES, timestep=0.0005, first=first, platform=platform
        )
        found = mirror_asymmetry(recipe.build().forces, frames)
        if phase == 120.0:
            assert found.share > 0.01
            assert found.matters
        else:
            assert found.share < 2e-5  # of PME and single precision: a fiftieth of what is warned of
            assert found.largest < 1e-4

    @pytest.mark.parametrize("engine", ["ASE", "Reference", "CPU"])
    def test_bursts_are_the_same_whether_it_was_measured_or_not(self, engine, require, tmp_path, monkeypatch):
        require("ase")
        make = chiral_calculator if engine == "ASE" else chiral_system(require, 0.0)
        options = {"platform": None if engine == "ASE" else engine, "energy_tolerance": 1.0, **FAST}
        measured = Store(harvest(four_atoms(), make, store=tmp_path / "a.h5md", **options))
        monkeypatch.setattr("fastegnn_md.harvest.harvesting._compare_with_mirror_images", lambda *_: None)
        plain = Store(harvest(four_atoms(), make, store=tmp_path / "b.h5md", **options))
        assert plain.content == measured.content
        assert MirrorAsymmetry.of_store(measured.provenance) is not None
        assert MirrorAsymmetry.of_store(plain.provenance) is None


class TestTraining:
    """Runs of one update."""

    @pytest.fixture
    def store(self, require, tmp_path) -> Path:
        require("ase"), require("lightning")
        engine = functools.partial(chiral_calculator, 0.05)
        with pytest.warns(MirrorWarning):
            return harvest(four_atoms(20), engine, store=tmp_path / "a.h5md", energy_tolerance=1.0, **FAST)

    def train(self, store: Path, **propagator: Any) -> None:
        from fastegnn_md.training import TrainingConfig, fit

        position = propagator.get("kind") == "position"
        pairs = TrajectoryPairs(store, lag="8 fs", velocities="none" if position else "stored", progress=False)
        config = TrainingConfig.from_mapping(
            {"updates": 1, "batch_size": 2, "accelerator": "cpu", "logger": "none", "time_reversal": False}
            | {"propagator": {"hidden": 8, "layers": 1, **propagator}}
        )
        fit(*pairs.split((0.5, 0.5)), config, progress=False)

    def test_it_warns_of_what_the_harvest_has_found(self, store):
        found = MirrorAsymmetry.of_store(Store(store).provenance)
        with pytest.warns(MirrorWarning, match="forces behind the training data change under reflection") as caught:
            self.train(store)
        assert f"{found.share:.2%}" in str(caught[0].message)

    def test_it_says_nothing_of_networks_that_are_not_symmetric_themselves(self, store):
        self.train(store, kind="position", architecture="mpnn")  # warnings are errors

    @pytest.mark.parametrize("known", [True, False])
    def test_it_says_nothing_where_nothing_was_found_or_measured(self, known, require, tmp_path, monkeypatch):
        require("ase"), require("lightning")
        if not known:  # as stores were before
            monkeypatch.setattr("fastegnn_md.harvest.harvesting._compare_with_mirror_images", lambda *_: None)
        path = harvest(four_atoms(20), chiral_calculator, store=tmp_path / "b.h5md", energy_tolerance=1.0, **FAST)
        assert (MirrorAsymmetry.of_store(Store(path).provenance) is not None) == known
        self.train(path)
