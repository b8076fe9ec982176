"""Seeds: bursts from where a model jumped give the populations of the force field, whatever those of the model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest
import torch

from fastegnn_md.data import load_universe
from fastegnn_md.errors import CompatibilityError, ConfigError, DataError, OutputError
from fastegnn_md.harvest import Seeded, seeds
from fastegnn_md.harvest.seed_files import read_dcd
from fastegnn_md.harvest.seeds_page import remarks
from fastegnn_md.propagator import FakePropagator
from fastegnn_md.units import BOLTZMANN

KT = BOLTZMANN * 300.0 / 100.0  # kJ/mol
NEAR, FAR, BARRIER, TILT = 0.30, 0.50, 6.0, 2.0  # nm; kJ/mol
MIDDLE, HALF = 0.5 * (NEAR + FAR), 0.5 * (FAR - NEAR)


def energy(r: np.ndarray) -> np.ndarray:
    """Double well of the distance of two atoms, kJ/mol; r in nm."""
    z = (r - MIDDLE) / HALF
    return BARRIER * (z**2 - 1) ** 2 + TILT * z


def share_near() -> float:
    """Of the near well in three dimensions."""
    r = np.linspace(0.15, 0.7, 20_001)
    weight = r**2 * np.exp(-energy(r) / KT)
    return float(weight[r < MIDDLE].sum() / weight.sum())


@pytest.fixture(scope="module", autouse=True)
def components(require) -> None:
    for one in ("openmm", "deeptime"):
        require(one)


def wells():
    import openmm

    found = openmm.System()
    for _ in range(2):
        found.addParticle(40.0)
    force = openmm.CustomBondForce(f"{BARRIER}*(z^2-1)^2 + {TILT}*z; z = (r-{MIDDLE})/{HALF}")
    force.addBond(0, 1, [])
    found.addForce(force)
    return found


def two_atoms() -> mda.Universe:
    universe = mda.Universe.empty(2, trajectory=True)
    universe.add_TopologyAttr("elements", ["Ar", "Ar"])
    universe.add_TopologyAttr("masses", [40.0, 40.0])
    universe.atoms.positions = [[0, 0, 0], [10 * NEAR, 0, 0]]
    return universe


@pytest.fixture
def system():
    return wells()


@pytest.fixture
def dimer() -> mda.Universe:
    return two_atoms()


def jumper(near: float, kind: str = "flow") -> FakePropagator:
    """Jumps into the near well with this probability, wherever it was."""
    source = torch.Generator().manual_seed(5)

    def move(state):
        x = state.positions.reshape(-1, 2, 3).clone()
        chosen = torch.rand(len(x), generator=source, dtype=x.dtype) < near
        r = torch.where(chosen, 10 * NEAR, 10 * FAR) + 0.2 * torch.randn(len(x), generator=source, dtype=x.dtype)
        x[:, 1] = x[:, 0] + torch.stack([r, 0 * r, 0 * r], dim=1)
        return x.reshape(-1, 3), state.velocities

    return FakePropagator(move, 10.0, kind=kind)


SHORT = {
    "temperature": 300.0, "jumps": 20, "replicas": 8, "starts": 60, "burst": "30 ps", "interval": "0.25 ps",
    "burn_in": "1 ps", "lag": "2 ps", "timestep": "10 fs", "friction": "2/ps", "progress": False,
}  # fmt: skip


@pytest.mark.parametrize("near", [0.9, 0.15])
def test_a_biased_model_does_not_bias_the_populations(near: float, dimer, system, tmp_path: Path) -> None:
    exact = share_near()
    assert abs(exact - near) > 0.15
    beyond = dimer.copy()  # half of it where no burst can be
    beyond.load_new(np.array([[[0, 0, 0], [r, 0, 0]] for r in (10 * NEAR, 10 * FAR, 14.0, 15.0)]))
    found = seeds(jumper(near), dimer, system, output=tmp_path / "out", reference=[beyond], **SHORT)
    state = int(found.kinetics.states_of(np.array([[10 * NEAR]]))[0])
    population = found.kinetics.populations[state]
    assert exact in population
    assert population.high - population.low < 0.4
    assert near not in population
    assert found.flow[state] == pytest.approx(near, abs=0.1)  # what the model thinks is told beside it
    assert found.kinetics.connected > 0.99
    assert found.unseen_reference == pytest.approx(0.5)
    assert found.reference is not None
    assert found.reference[state].value == pytest.approx(0.5)
    assert found.bursts == 60
    assert found.nanoseconds == pytest.approx(1.8)


def test_bursts_are_trajectories_any_tool_reads_and_a_killed_call_goes_on(dimer, system, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    settings = {**SHORT, "starts": 12, "burst": "4 ps", "lag": "0.5 ps"}
    first = seeds(jumper(0.5), dimer, system, output=folder, **settings)
    paths = sorted((folder / "bursts").glob("*.dcd"))
    assert len(paths) == first.bursts == 12
    read = load_universe(folder / "topology.pdb", paths[0])
    assert read.trajectory.n_frames == 17
    starts = load_universe(folder / "topology.pdb", folder / "starts.dcd")
    assert read.trajectory[0].positions == pytest.approx(starts.trajectory[0].positions, abs=1e-4)
    content = {path: path.read_bytes() for path in paths}
    paths[3].unlink()
    paths[11].unlink()
    untouched = os.stat(paths[0]).st_mtime_ns
    again = seeds(jumper(0.5), dimer, system, output=folder, **settings)
    assert {path: path.read_bytes() for path in paths} == content
    assert os.stat(paths[0]).st_mtime_ns == untouched
    assert again.kinetics.populations[0].value == pytest.approx(first.kinetics.populations[0].value)
    more = seeds(jumper(0.5), dimer, system, output=folder, **{**settings, "repeats": 2})
    assert more.bursts == 24
    assert os.stat(paths[0]).st_mtime_ns == untouched
    rare = np.full_like(first.kinetics.transitions, 3)
    thin = replace(first.kinetics, transitions=rare, connected=0.9, left_out=(np.zeros(1),))
    names = [f"state {k}" for k in range(len(rare))]
    few, apart, *_ = remarks(replace(first, kinetics=thin), names)
    assert few.startswith("WARNING: fewer than 10 transitions at the lag for state 0 (3 into it, 3 out of it); state 1")
    assert apart.startswith("WARNING: 1 of")
    assert "10.00% of the frames, are not connected" in apart
    with pytest.raises(ConfigError, match=r"other settings \(frames of a burst, seed\)"):
        seeds(jumper(0.5), dimer, system, output=folder, **{**settings, "seed": 1, "burst": "5 ps"})


@pytest.mark.slow
def test_a_process_that_was_killed_in_its_bursts_leaves_whole_ones(dimer, system, tmp_path: Path) -> None:
    script = (
        "import sys; from test_seeds import *; seeds(jumper(0.5), two_atoms(), wells(), output=sys.argv[1], **SHORT)"
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-c", script, str(killed)], cwd=Path(__file__).parent)
    try:
        until = time.monotonic() + 300
        while len(list((killed / "bursts").glob("[0-9]*.dcd"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert len(list((killed / "bursts").glob("[0-9]*.dcd"))) < 60
    seeds(jumper(0.5), dimer, system, output=killed, **SHORT)
    seeds(jumper(0.5), dimer, system, output=whole, **SHORT)
    for path in (whole / "bursts").glob("*.dcd"):
        assert read_dcd(killed / "bursts" / path.name) == pytest.approx(read_dcd(path), abs=1e-5)


def test_a_simulation_brings_its_own_integrator_and_processes_change_nothing(dimer, system, tmp_path: Path) -> None:
    import openmm

    integrator = openmm.LangevinMiddleIntegrator(300.0, 2.0, 0.01)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    settings = {**SHORT, "starts": 10, "burst": "2 ps", "burn_in": "0.25 ps", "lag": "0.25 ps"}
    own = {key: value for key, value in settings.items() if key not in ("timestep", "friction", "temperature")}
    seeds(jumper(0.5), dimer, context, output=tmp_path / "own", processes=2, **own)
    seeds(jumper(0.5), dimer, system, output=tmp_path / "ours", **settings)
    with ThreadPoolExecutor(2) as pool:
        seeds(jumper(0.5), dimer, system, output=tmp_path / "pool", executor=pool, **settings)
    for path in sorted((tmp_path / "own" / "bursts").glob("*.dcd")):
        ours = read_dcd(tmp_path / "ours" / "bursts" / path.name)
        assert read_dcd(path) == pytest.approx(ours, abs=1e-3)
        assert (read_dcd(tmp_path / "pool" / "bursts" / path.name) == ours).all()


def test_what_is_not_for_seeds_is_refused_by_name(dimer, system, tmp_path: Path) -> None:
    def refused(error: type[Exception], match: str, model=None, engine=system, **changed: object) -> None:
        model = jumper(0.5) if model is None else model
        with pytest.raises(error, match=match):
            seeds(model, dimer, engine, output=tmp_path / "out", **{**SHORT, **changed})
        assert not (tmp_path / "out").exists()

    import openmm

    refused(ConfigError, "kind 'position', whose jumps are always the same", jumper(0.5, "position"))
    refused(ConfigError, "9 bursts are too few", starts=9)
    refused(ConfigError, "temperature is None", temperature=None)
    refused(ConfigError, "leaves 0 frames after a burn-in of 40 ps", burn_in="40 ps")
    refused(ConfigError, "the lag 40 ps must be", lag="40 ps")
    refused(DataError, "engine is a NoneType", engine=None)
    refused(DataError, "not a whole number of timesteps", timestep="7 fs")
    box = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    force = openmm.NonbondedForce()
    for _ in range(2):
        force.addParticle(0, 1, 0)
    force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    box.addForce(force)
    refused(CompatibilityError, "the System is periodic", engine=box)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no seeds"):
        seeds(jumper(0.5), dimer, system, output=tmp_path / "mine", **SHORT)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["data.txt"]


def test_bursts_that_never_cross_are_too_few(dimer, system, tmp_path: Path) -> None:
    def nowhere(state):
        return torch.full_like(state.positions, torch.nan), state.velocities

    with pytest.raises(DataError, match="all 24 first jumps were refused"):
        seeds(FakePropagator(nowhere, 10.0, kind="flow"), dimer, system, output=tmp_path / "a", **SHORT)


def test_an_ase_calculator_runs_the_bursts(require, dimer, tmp_path: Path) -> None:
    require("ase")
    settings = {**SHORT, "starts": 10, "jumps": 5, "burst": "0.4 ps", "interval": "0.02 ps", "burn_in": "0.04 ps"}
    settings |= {"lag": "0.04 ps", "timestep": "10 fs"}
    found: Seeded = seeds(jumper(0.5), dimer, springs, output=tmp_path / "out", **settings)
    assert found.failed == 0
    assert len(list((tmp_path / "out" / "bursts").glob("*.dcd"))) == 10


def springs():
    """The double well as an ASE calculator."""
    from ase.calculators.calculator import Calculator, all_changes
    from ase.units import kJ, mol

    class Wells(Calculator):
        implemented_properties = ["energy", "forces"]  # noqa: RUF012

        def calculate(self, atoms=None, properties=None, system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            apart = atoms.positions[1] - atoms.positions[0]
            r = float(np.linalg.norm(apart)) / 10
            z = (r - MIDDLE) / HALF
            slope = (4 * BARRIER * z * (z**2 - 1) + TILT) / HALF / 10 * kJ / mol
            pull = slope * apart / np.linalg.norm(apart)
            self.results = {"energy": float(energy(np.array(r))) * kJ / mol, "forces": np.array([pull, -pull])}

    return Wells()


def test_bursts_at_a_temperature_answer_the_forces_of_a_harvest(require):
    require("openmm")
    from openmm import app

    from fastegnn_md.harvest.bursts import Start
    from fastegnn_md.harvest.langevin import LangevinRecipe
    from fastegnn_md.harvest.openmm import openmm_recipe

    pdb = app.PDBFile(str(Path(__file__).parents[1] / "fastegnn_md" / "assets" / "ala2.pdb"))
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology)
    x = 10.0 * np.array(pdb.positions._value)
    engine = openmm_recipe(
        system,
        numbers=np.array([atom.element.atomic_number for atom in pdb.topology.atoms()]),
        masses=np.array([system.getParticleMass(k)._value for k in range(len(x))]),
        timestep=0.001,
        midpoint=None,
        first=Start(x, np.zeros_like(x), None),
        platform="Reference",
    )
    ours = LangevinRecipe(engine, 300.0, 1.0).build().forces(x, None)
    np.testing.assert_allclose(ours, engine.build().forces(x, None), rtol=1e-5)
    assert np.abs(ours).max() > 1.0
