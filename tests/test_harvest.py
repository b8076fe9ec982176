"""Bursts from frames: physics against closed forms, both engines, resumption after a kill, and what is refused."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import pytest

import fastegnn_md
from fastegnn_md.data import Store, TrajectoryPairs, noise_floor
from fastegnn_md.errors import ConstraintError, DataError, EngineError
from fastegnn_md.harvest import harvest
from fastegnn_md.harvest.openmm import reduced_cell
from fastegnn_md.harvest.parts import Finished
from fastegnn_md.units import BOLTZMANN, EV, KJ_PER_MOL

PEPTIDE = str(Path(fastegnn_md.__file__).with_name("assets") / "ala2.pdb")
SPRING = 0.5  # eV/Å²
MASSES = np.array([12.011, 1.008, 15.999])
FAST = {"progress": False, "temperature": 300.0}


def make_universe(
    n_frames: int = 6, *, box: list[float] | None = None, v: np.ndarray | None = None, seed: int = 0
) -> mda.Universe:
    """Three atoms about the corners of a triangle, in memory, saved every picosecond."""
    rng = np.random.default_rng(seed)
    x = np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 1.3, 0]]) + 0.02 * rng.normal(size=(n_frames, 3, 3))
    universe = mda.Universe.empty(3, trajectory=False)
    universe.add_TopologyAttr("elements", ["C", "H", "O"])
    universe.add_TopologyAttr("masses", MASSES)
    dimensions = None if box is None else np.tile(np.array(box, dtype=np.float32), (n_frames, 1))
    universe.load_new(x.astype(np.float32), dt=1.0, velocities=v, dimensions=dimensions)
    return universe


def harmonic_calculator(power: int = 2) -> Any:
    """Every atom on a spring to the origin: E = ½ k Σ x² (or ¼ k Σ x⁴)."""
    from ase.calculators.calculator import Calculator

    class Spring(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = None) -> None:
            super().calculate(atoms, properties, system_changes)
            x = atoms.get_positions()
            self.results = {"energy": SPRING / power * np.sum(x**power), "forces": -SPRING * x ** (power - 1)}

    return Spring()


def failing_calculator() -> Any:
    from ase.calculators.calculator import CalculationFailed, Calculator

    class Failing(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, *_: Any) -> None:
            raise CalculationFailed("no convergence")

    return Failing()


def harmonic_system(n_atoms: int = 3) -> Any:
    import openmm

    system = openmm.System()
    force = openmm.CustomExternalForce("0.5*k*(x^2+y^2+z^2)")
    force.addGlobalParameter("k", SPRING * EV / KJ_PER_MOL * 100)  # kJ/mol/nm²
    for index in range(n_atoms):
        system.addParticle(float(MASSES[index]))
        force.addParticle(index, [])
    system.addForce(force)
    return system


@pytest.fixture(params=["ase", "openmm"])
def spring(request, require) -> Any:
    require(request.param)
    return harmonic_calculator if request.param == "ase" else harmonic_system()


@pytest.fixture(scope="module")
def peptide(require) -> tuple[mda.Universe, Any]:
    """Alanine dipeptide in vacuum, thermal frames without velocities, and its System."""
    openmm = require("openmm")
    app = require("openmm.app")
    pdb = app.PDBFile(PEPTIDE)
    system = app.ForceField("amber14-all.xml").createSystem(
        pdb.topology, nonbondedMethod=app.NoCutoff, constraints=app.HBonds
    )
    integrator = openmm.LangevinMiddleIntegrator(300, 10.0, 0.002)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(pdb.positions)
    openmm.LocalEnergyMinimizer.minimize(context)
    context.setVelocitiesToTemperature(300, 1)
    frames = []
    for _ in range(120):
        integrator.step(50)
        frames.append(context.getState(positions=True).getPositions(asNumpy=True)._value * 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        universe = mda.Universe(PEPTIDE)
    universe.load_new(np.array(frames, dtype=np.float32).round(3), dt=0.1)
    return universe, system


class TestPhysics:
    def test_frames_of_a_burst_follow_the_closed_form(self, spring, tmp_path):
        universe = make_universe(2)
        path = harvest(
            universe, spring, store=tmp_path / "b.h5md", burst="20 fs", interval="4 fs", timestep="0.02 fs", **FAST
        )
        store = Store(path)
        assert store.n_frames == 2 * 6
        assert store.dt == pytest.approx(0.004)
        omega = np.sqrt(SPRING * EV / MASSES)[:, None]
        for first, stop in store.segments:
            x0, v0 = store.positions[first].astype(float), store.velocities[first].astype(float)
            for frame in range(first, stop):
                angle = omega * 0.004 * (frame - first)
                # velocities and forces are of the time of the frame: half a step off would be 1e-2 here
                sine, cosine = np.sin(angle), np.cos(angle)
                x, v, f = (one[frame].astype(float) for one in (store.positions, store.velocities, store.forces))
                np.testing.assert_allclose(x, x0 * cosine + v0 / omega * sine, atol=1e-5)
                np.testing.assert_allclose(v, v0 * cosine - x0 * omega * sine, atol=2e-3)
                np.testing.assert_allclose(f * KJ_PER_MOL, -SPRING * EV * x, rtol=1e-5)

    def test_both_engines_give_the_same_bursts(self, require, tmp_path):
        require("ase"), require("openmm")
        universe = make_universe()
        one, two = (
            Store(harvest(universe, engine, store=tmp_path / name, **FAST))
            for name, engine in (("a.h5md", harmonic_calculator), ("o.h5md", harmonic_system()))
        )
        np.testing.assert_allclose(one.positions, two.positions, atol=2e-6)
        np.testing.assert_allclose(one.velocities, two.velocities, atol=1e-4)
        np.testing.assert_allclose(one.forces, two.forces, rtol=1e-5, atol=1e-4)

    def test_stored_velocities_are_the_start(self, spring, tmp_path):
        v = np.random.default_rng(5).normal(size=(6, 3, 3)) * 10
        path = harvest(make_universe(v=v), spring, store=tmp_path / "b.h5md", progress=False)
        np.testing.assert_allclose(Store(path).velocities[::4], v, rtol=1e-5)

    def test_drawn_velocities_are_thermal_and_belong_to_their_frame(self, spring, tmp_path):
        universe = make_universe(300)
        settings = {"burst": "8 fs", "progress": False, "temperature": 250.0}
        store = Store(harvest(universe, spring, store=tmp_path / "a.h5md", **settings))
        v = store.velocities[::2].astype(float)
        kinetic = MASSES[:, None] * v**2 / (BOLTZMANN * 250.0)
        # the mean of n values of χ²₁ has the standard deviation √(2/n)
        assert abs(kinetic.mean() - 1) < 4 * np.sqrt(2 / 2700)
        assert np.all(np.abs(kinetic.mean((0, 2)) - 1) < 4 * np.sqrt(2 / 900))
        few = Store(harvest(universe, spring, store=tmp_path / "b.h5md", frames=[7, 123], **settings))
        np.testing.assert_array_equal(few.velocities[::2], store.velocities[[14, 246]])
        other = Store(harvest(universe, spring, store=tmp_path / "c.h5md", frames=[7], seed=1, **settings))
        assert not np.allclose(other.velocities[0], few.velocities[0])

    def test_constraints_hold_in_every_frame(self, peptide, tmp_path):
        universe, system = peptide
        store = Store(harvest(universe, system, store=tmp_path / "b.h5md", **FAST))
        pairs = [system.getConstraintParameters(i) for i in range(system.getNumConstraints())]
        index = np.array([pair[:2] for pair in pairs])
        length = np.array([pair[2]._value * 10 for pair in pairs])
        r = store.positions[:, index[:, 0]].astype(float) - store.positions[:, index[:, 1]]
        v = store.velocities[:, index[:, 0]].astype(float) - store.velocities[:, index[:, 1]]
        np.testing.assert_allclose(np.linalg.norm(r, axis=2), np.broadcast_to(length, r.shape[:2]), atol=5e-6)
        assert np.abs((r * v).sum(-1) / length).max() < 1e-3

    def test_constrained_velocities_are_thermal(self, peptide, tmp_path):
        universe, system = peptide
        store = Store(harvest(universe, system, store=tmp_path / "b.h5md", **FAST))
        v = store.velocities[::4].astype(float)
        degrees = 3 * 22 - system.getNumConstraints()
        kinetic = (store.topology.masses[:, None] * v**2).sum((1, 2)) / (BOLTZMANN * 300.0 * degrees)
        assert abs(kinetic.mean() - 1) < 5 * np.sqrt(2 / (degrees * len(v)))

    def test_ase_constraints_hold(self, require, tmp_path):
        require("ase")
        from ase.constraints import FixBondLengths

        universe = make_universe()
        path = harvest(
            universe, harmonic_calculator, store=tmp_path / "b.h5md", constraints=[FixBondLengths([[0, 1]])], **FAST
        )
        store = Store(path)
        first = universe.trajectory[0].positions.astype(float)
        length = np.linalg.norm(first[1] - first[0])
        r = store.positions[:, 1].astype(float) - store.positions[:, 0]
        v = store.velocities[:, 1].astype(float) - store.velocities[:, 0]
        np.testing.assert_allclose(np.linalg.norm(r, axis=1), length, atol=1e-5)
        assert np.abs((r * v).sum(1)).max() < 1e-3

    def test_repartitioned_masses_are_those_of_the_engine(self, require, tmp_path):
        require("openmm")
        system = harmonic_system()
        system.setParticleMass(0, 10.0)
        system.setParticleMass(1, 3.019)
        store = Store(harvest(make_universe(), system, store=tmp_path / "b.h5md", **FAST))
        np.testing.assert_allclose(store.topology.masses, [10.0, 3.019, 15.999])
        assert store.topology.numbers.tolist() == [6, 1, 8]


class TestPeriodic:
    BOX = (12.0, 12.0, 12.0, 90.0, 90.0, 60.0)

    def system(self) -> Any:
        import openmm

        system = openmm.System()
        bonds = openmm.HarmonicBondForce()  # not periodic, as force fields have it: molecules have to be whole
        pair = openmm.CustomNonbondedForce("0")
        pair.setNonbondedMethod(openmm.CustomNonbondedForce.CutoffPeriodic)
        pair.setCutoffDistance(0.4)
        for index in range(3):
            system.addParticle(float(MASSES[index]))
            pair.addParticle([])
        bonds.addBond(0, 1, 0.11, 2e5)
        bonds.addBond(0, 2, 0.13, 2e5)
        system.addForce(bonds)
        system.addForce(pair)
        return system

    def test_molecules_broken_by_wrapping_are_made_whole(self, require, tmp_path):
        require("openmm")
        universe = make_universe(box=list(self.BOX))
        for ts in universe.trajectory:
            ts.positions += np.float32(-0.5)
            universe.atoms.wrap()
        wrapped = universe.trajectory[0].positions
        assert np.ptp(wrapped, axis=0).max() > 6
        store = Store(harvest(universe, self.system(), store=tmp_path / "b.h5md", **FAST))
        x = store.positions
        assert np.abs(np.linalg.norm(x[:, 1] - x[:, 0], axis=1) - 1.1).max() < 0.3
        assert store.periodic
        turns = (x[0] - wrapped) @ np.linalg.inv(store.cells[0])
        np.testing.assert_allclose(turns, np.round(turns), atol=1e-4)
        assert store.topology.bonds.tolist() == [[0, 1], [0, 2]]

    def test_cells_are_reduced_to_the_form_openmm_asks_for(self):
        cell = mda.lib.mdamath.triclinic_vectors(np.array([10, 11, 12, 40, 50, 35], dtype=np.float32)).astype(float)
        reduced = reduced_cell(cell)
        assert np.all(np.abs(reduced[[1, 2, 2], [0, 0, 1]]) <= 0.5 * np.diag(reduced)[[0, 0, 1]] + 1e-9)
        same = reduced @ np.linalg.inv(cell)
        np.testing.assert_allclose(same, np.round(same), atol=1e-9)
        assert np.linalg.det(reduced) == pytest.approx(np.linalg.det(cell))

    def test_a_periodic_engine_needs_a_cell(self, require, tmp_path):
        require("openmm")
        with pytest.raises(DataError, match="engine is periodic but the frames have no cell"):
            harvest(make_universe(), self.system(), store=tmp_path / "b.h5md", **FAST)

    def test_ase_gets_the_cell_of_the_frame(self, require, tmp_path):
        require("ase")
        universe = make_universe(box=list(self.BOX))
        store = Store(harvest(universe, harmonic_calculator, store=tmp_path / "b.h5md", **FAST))
        np.testing.assert_allclose(store.cells[0], universe.trajectory[0].triclinic_dimensions, rtol=1e-6, atol=1e-5)


class TestStore:
    def test_bursts_are_segments_that_no_split_cuts_and_that_never_warn(self, peptide, tmp_path):
        universe, system = peptide
        path = harvest(universe, system, store=tmp_path / "b.h5md", **FAST)
        assert os.listdir(tmp_path) == ["b.h5md"]
        pairs = TrajectoryPairs(path, lag="16 fs", time_reversal=True)
        assert pairs.n_forward == 120 * 2
        assert pairs.has_forces
        assert pairs.has_bonds
        assert len(pairs.stores[0].topology.bonds) == 21
        assert noise_floor(pairs).value == 0.0
        assert [len(part) for part in pairs.split()] == [2 * 96 * 2, 2 * 12 * 2, 2 * 12 * 2]
        provenance = pairs.stores[0].provenance
        assert (provenance["bursts"], provenance["dropped bursts"], provenance["temperature"]) == (120, 0, 300.0)

    def test_bonds_that_a_pdb_file_leaves_out_are_those_of_the_force_field(self, peptide, tmp_path):
        """OpenMM writes CONECT records for unusual residues only: 12 of 21 bonds, which nobody would notice."""
        from openmm import app
        from peptide_files import write_topology

        universe, system = peptide
        path = tmp_path / "conect.pdb"
        write_topology(path)
        partial = mda.Universe(str(path))
        assert len(partial.bonds) == 12
        partial.load_new(np.array([ts.positions.copy() for ts in universe.trajectory[:8]]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on the time step that arrays in memory have not
            store = harvest(partial, system, store=tmp_path / "b.h5md", frames=slice(0, 4), **FAST)
        found = TrajectoryPairs(store, lag="16 fs").stores[0].topology.bonds
        expected = np.sort([(a.index, b.index) for a, b in app.PDBFile(str(path)).topology.bonds()], axis=1)
        np.testing.assert_array_equal(found, np.unique(expected, axis=0))

    def test_mdanalysis_reads_the_store(self, peptide, tmp_path):
        universe, system = peptide
        path = harvest(universe, system, store=tmp_path / "b.h5md", frames=slice(0, 5), **FAST)
        copy = universe.copy()
        copy.load_new(str(path))
        assert copy.trajectory.n_frames == 5 * 4
        assert copy.trajectory[5].time == pytest.approx(0.1 + 0.008, abs=1e-5)
        np.testing.assert_allclose(copy.atoms.forces, Store(path).forces[5], rtol=1e-5)

    def test_a_finished_harvest_is_not_run_again_and_another_not_overwritten(self, spring, tmp_path):
        universe = make_universe()
        path = harvest(universe, spring, store=tmp_path / "b.h5md", **FAST)
        written = path.stat().st_mtime_ns
        assert harvest(universe, spring, store=tmp_path / "b.h5md", **FAST) == path
        assert path.stat().st_mtime_ns == written
        with pytest.raises(DataError, match="was made with other frames"):
            harvest(universe, spring, store=tmp_path / "b.h5md", seed=1, **FAST)

    def test_read_only_folder(self, spring, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="cannot write"):
            harvest(make_universe(), spring, store=tmp_path / "file" / "b.h5md", **FAST)


class TestResume:
    def test_an_interrupted_harvest_goes_on_and_gives_the_same(self, peptide, tmp_path, monkeypatch):
        universe, system = peptide
        whole = Store(harvest(universe, system, store=tmp_path / "whole.h5md", **FAST))
        write, counted = Finished.write, []

        def interrupted(self: Finished, *burst: Any) -> None:
            if len(self) == 7:
                raise KeyboardInterrupt
            write(self, *burst)

        with monkeypatch.context() as patch:
            patch.setattr(Finished, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                harvest(universe, system, store=tmp_path / "b.h5md", **FAST)
        assert not (tmp_path / "b.h5md").exists()
        (bursts,) = (tmp_path / "b.h5md.parts").iterdir()
        content = bytearray(bursts.read_bytes())
        size = len(content) // 7
        content[2 * size + 100] ^= 1  # a damaged burst, and half a one, are run again
        bursts.write_bytes(content + content[: size // 2])
        monkeypatch.setattr(Finished, "write", lambda self, *burst: (counted.append(burst[0]), write(self, *burst)))
        assert Store(harvest(universe, system, store=tmp_path / "b.h5md", **FAST)).content == whole.content
        assert counted == [2, *range(7, len(universe.trajectory))]
        assert sorted(os.listdir(tmp_path)) == ["b.h5md", "whole.h5md"]

    def test_parts_of_other_settings_are_not_used(self, spring, tmp_path, monkeypatch):
        universe = make_universe()
        with monkeypatch.context() as patch:
            patch.setattr("fastegnn_md.harvest.harvesting._merge", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                harvest(universe, spring, store=tmp_path / "b.h5md", seed=1, **FAST)
        assert len(os.listdir(tmp_path / "b.h5md.parts")) == 1
        one = Store(harvest(universe, spring, store=tmp_path / "b.h5md", **FAST))
        two = Store(harvest(universe, spring, store=tmp_path / "c.h5md", **FAST))
        assert one.content == two.content

    @pytest.mark.slow
    def test_the_result_does_not_depend_on_processes_nor_on_a_kill(self, peptide, tmp_path):
        """Killed with SIGKILL in the middle, gone on with two processes: bit for bit the same store."""
        universe, system = peptide
        whole = Store(harvest(universe, system, store=tmp_path / "whole.h5md", **FAST))
        import openmm

        (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(system))
        np.save(tmp_path / "x.npy", universe.trajectory.get_array())
        script = tmp_path / "run.py"
        script.write_text(SCRIPT.format(pdb=PEPTIDE, folder=str(tmp_path)))
        parts = tmp_path / "b.h5md.parts"
        with subprocess.Popen([sys.executable, str(script), "slow"], start_new_session=True) as process:
            deadline = time.monotonic() + 120
            while not any(path.stat().st_size for path in parts.glob("*")) and time.monotonic() < deadline:
                assert process.poll() is None
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
        assert not (tmp_path / "b.h5md").exists()
        (bursts,) = parts.iterdir()
        assert 0 < bursts.stat().st_size < 12 * 24 * len(universe.atoms) * universe.trajectory.n_frames
        subprocess.run([sys.executable, str(script), "fast"], check=True, capture_output=True)
        assert Store(tmp_path / "b.h5md").content == whole.content


def slow_calculator() -> Any:
    """Lennard-Jones that takes as long as quantum chemistry; a function of a module, for other processes."""
    from ase.calculators.lj import LennardJones

    class Slow(LennardJones):
        def calculate(self, *arguments: Any, **keywords: Any) -> None:
            time.sleep(0.02)
            super().calculate(*arguments, **keywords)

    return Slow(sigma=1.0, epsilon=0.2, rc=4.0)


def test_every_burst_of_a_slow_engine_is_kept_and_shown_at_once(
    require: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    require("ase")
    sizes, write = [], Finished.write

    def watched(self: Finished, *burst: Any) -> None:
        write(self, *burst)
        sizes.append(self.path.stat().st_size)

    monkeypatch.setattr(Finished, "write", watched)
    settings = {"burst": "2 fs", "interval": "1 fs", "timestep": "0.5 fs", "temperature": 30.0}
    harvest(make_universe(8), slow_calculator, store=tmp_path / "b.h5md", **settings)
    assert sizes == [sizes[0] * count for count in range(1, 9)]
    assert "0 of 8 bursts" in capfd.readouterr().err  # before the first one is finished


@pytest.mark.slow
def test_few_slow_bursts_are_shared_by_the_processes(require: Any, tmp_path: Path, monkeypatch: Any) -> None:
    require("ase")
    from fastegnn_md.harvest import workers

    taken = []
    submit = workers.ProcessPoolExecutor.submit
    monkeypatch.setattr(
        workers.ProcessPoolExecutor,
        "submit",
        lambda self, work, engine, starts, *rest: (
            taken.append(len(starts)),
            submit(self, work, engine, starts, *rest),
        )[1],
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(Path(__file__).parent)
    from test_harvest import slow_calculator as importable

    settings = {"burst": "10 fs", "interval": "5 fs", "timestep": "0.5 fs", "temperature": 30.0, "progress": False}
    one = harvest(make_universe(8), importable, store=tmp_path / "one.h5md", **settings)
    two = harvest(make_universe(8), importable, store=tmp_path / "two.h5md", processes=2, **settings)
    assert taken == 8 * [1]
    assert Store(one).content == Store(two).content


SCRIPT = """
import sys, time, warnings
import MDAnalysis as mda, numpy as np, openmm
import fastegnn_md.harvest.parts as parts
from fastegnn_md.harvest import harvest

if __name__ == "__main__":
    slow = sys.argv[1] == "slow"
    if slow:
        write = parts.Finished.write
        parts.Finished.write = lambda self, *burst: (write(self, *burst), time.sleep(0.3))
    warnings.simplefilter("ignore")
    universe = mda.Universe({pdb!r})
    universe.load_new(np.load({folder!r} + "/x.npy"), dt=0.1)
    with open({folder!r} + "/system.xml") as file:
        system = openmm.XmlSerializer.deserialize(file.read())
    harvest(universe, system, store={folder!r} + "/b.h5md", temperature=300.0, progress=False,
            processes=1 if slow else 2)
"""


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class TestEnergy:
    def test_too_long_a_timestep_is_found_out(self, peptide, tmp_path):
        universe, system = peptide
        settings = {"burst": "24 fs", "timestep": "4 fs", "frames": slice(0, 20), **FAST}
        with pytest.raises(DataError, match=r"\d+ of 20 bursts .* Use a timestep smaller than 4 fs"):
            harvest(universe, system, store=tmp_path / "b.h5md", **settings)
        assert not (tmp_path / "b.h5md").exists()
        # the bursts are there, a decision to accept them costs nothing
        path = harvest(universe, system, store=tmp_path / "b.h5md", energy_tolerance=1e3, **settings)
        assert Store(path).provenance["dropped bursts"] == 0

    def test_a_burst_that_blows_up_does_not_take_the_others_along(self, peptide, tmp_path):
        universe, system = peptide
        copy = universe.copy()
        copy.trajectory[3].positions[5] = copy.trajectory[3].positions[6] + 0.01
        store = Store(harvest(copy, system, store=tmp_path / "b.h5md", frames=range(40), **FAST))
        assert store.provenance["dropped bursts"] == 1
        assert len(store.segments) == 39

    def test_what_the_engine_said_is_told(self, require, tmp_path):
        require("ase")
        with pytest.raises(EngineError, match=r"failed in 1 of 1 bursts \(CalculationFailed: no convergence"):
            harvest(make_universe(), failing_calculator, store=tmp_path / "b.h5md", **FAST)

    def test_single_bad_bursts_are_dropped_and_counted(self, require, tmp_path):
        require("ase")
        universe = make_universe(40)
        universe.trajectory[13].positions[2] *= 8  # a quartic spring drawn out that far is too stiff
        engine = functools.partial(harmonic_calculator, 4)
        path = harvest(universe, engine, store=tmp_path / "b.h5md", **FAST)
        store = Store(path)
        assert store.provenance["dropped bursts"] == 1
        assert len(store.segments) == 39
        np.testing.assert_allclose(store.times[store.segments[:, 0]], [i for i in range(40) if i != 13])


class TestRefusals:
    def test_engines_that_do_not_keep_the_energy_are_named(self, require, tmp_path):
        openmm = require("openmm")
        for force in (openmm.AndersenThermostat(300, 1), openmm.MonteCarloBarostat(1, 300)):
            system = harmonic_system()
            system.addForce(force)
            with pytest.raises(DataError, match=type(force).__name__):
                harvest(make_universe(), system, store=tmp_path / "b.h5md", **FAST)

    def test_removal_of_centre_of_mass_motion_is_left_out(self, require, tmp_path):
        openmm = require("openmm")
        plain = Store(harvest(make_universe(), harmonic_system(), store=tmp_path / "a.h5md", **FAST))
        system = harmonic_system()
        system.addForce(openmm.CMMotionRemover(1))
        removed = Store(harvest(make_universe(), system, store=tmp_path / "b.h5md", **FAST))
        np.testing.assert_array_equal(removed.positions, plain.positions)
        assert system.getNumForces() == 2

    def test_systems_of_other_atoms(self, require, tmp_path):
        require("openmm")
        with pytest.raises(DataError, match="2 particles, the universe 3 atoms"):
            harvest(make_universe(), harmonic_system(2), store=tmp_path / "b.h5md", **FAST)
        system = harmonic_system()
        system.setParticleMass(1, 0.0)
        with pytest.raises(DataError, match="particle 1 of the System has no mass"):
            harvest(make_universe(), system, store=tmp_path / "b.h5md", **FAST)
        system.setParticleMass(1, 12.011)
        system.setParticleMass(0, 1.008)
        with pytest.raises(DataError, match="not in the same order"):
            harvest(make_universe(), system, store=tmp_path / "b.h5md", **FAST)

    def test_unknown_platform(self, require, tmp_path):
        require("openmm")
        with pytest.raises(DataError, match="no platform 'Abacus' here; it has Reference"):
            harvest(make_universe(), harmonic_system(), store=tmp_path / "b.h5md", platform="Abacus", **FAST)

    def test_engines_that_are_none(self, require, tmp_path):
        require("ase")
        with pytest.raises(DataError, match="engine is a str; expected an OpenMM System, or a function"):
            harvest(make_universe(), "openmm", store=tmp_path / "b.h5md", **FAST)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="not the calculator itself"):
            harvest(make_universe(), harmonic_calculator(), store=tmp_path / "b.h5md", **FAST)
        with pytest.raises(DataError, match=r"factory .* returned a int"):
            harvest(make_universe(), lambda: 3, store=tmp_path / "b.h5md", **FAST)  # type: ignore[arg-type, return-value]

    def test_a_factory_that_cannot_travel(self, require, tmp_path, monkeypatch):
        require("ase")
        with pytest.raises(DataError, match="cannot be sent to other processes"):
            harvest(make_universe(), lambda: harmonic_calculator(), store=tmp_path / "b.h5md", processes=2, **FAST)

    def test_unsupported_constraints(self, require, tmp_path):
        require("ase")
        from ase.constraints import FixAtoms

        with pytest.raises(ConstraintError, match="FixAtoms is not supported"):
            harvest(
                make_universe(), harmonic_calculator, store=tmp_path / "b.h5md", constraints=[FixAtoms([0])], **FAST
            )

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"burst": "20 fs", "interval": "8 fs"}, "burst 20 fs is not a whole number of intervals of 8 fs"),
            ({"interval": "8 fs", "timestep": "3 fs"}, "interval 8 fs is not a whole number of timesteps of 3 fs"),
            ({"burst": 0.0}, "expected a positive time"),
            ({"timestep": "16 fs"}, "not a whole number"),
            ({"temperature": -1.0}, "temperature is -1"),
            ({"temperature": None}, r"no velocities; draw them: temperature=<K>"),
            ({"processes": 0}, "processes is 0"),
            ({"frames": [99]}, "frame 99 does not exist; the trajectory has 6 frames"),
            ({"frames": [1, 1]}, "holds a frame twice"),
            ({"frames": slice(3, 3)}, "no frame is selected"),
        ],
    )
    def test_settings(self, spring, tmp_path, settings, reason):
        with pytest.raises(DataError, match=reason):
            harvest(make_universe(), spring, store=tmp_path / "b.h5md", **FAST | settings)

    def test_stored_velocities_of_another_unit(self, spring, tmp_path):
        v = np.random.default_rng(5).normal(size=(6, 3, 3)) * 0.01
        with pytest.raises(DataError, match="not in Å/ps"):
            harvest(make_universe(v=v), spring, store=tmp_path / "b.h5md", progress=False)

    def test_the_reader_stays_where_it_was(self, spring, tmp_path):
        universe = make_universe()
        universe.trajectory[3]
        harvest(universe, spring, store=tmp_path / "b.h5md", **FAST)
        assert universe.trajectory.frame == 3

    def test_a_frame_with_nan(self, spring, tmp_path):
        universe = make_universe()
        universe.trajectory[4].positions[1, 2] = np.nan
        with pytest.raises(DataError, match="frame 4: positions of atom 1"):
            harvest(universe, spring, store=tmp_path / "b.h5md", **FAST)


@pytest.mark.slow
def test_an_ase_calculator_runs_in_several_processes(require, tmp_path, monkeypatch):
    require("ase")
    from ase.calculators.lj import LennardJones

    engine = functools.partial(LennardJones, sigma=1.0, epsilon=0.2, rc=4.0)
    settings = {"timestep": "0.25 fs", "energy_tolerance": 1.0, **FAST}
    one = harvest(make_universe(), engine, store=tmp_path / "a.h5md", **settings)
    two = harvest(make_universe(), engine, store=tmp_path / "b.h5md", processes=2, **settings)
    assert Store(one).content == Store(two).content


def test_a_single_frame_is_enough(spring: Any, tmp_path: Path) -> None:
    path = harvest(make_universe(1), spring, store=tmp_path / "b.h5md", **FAST)
    assert len(TrajectoryPairs(path, lag="8 fs")) == 3
