"""The propagators that come with the package do what their engines do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fastegnn_md import Propagator, State


@pytest.fixture(scope="module")
def hot_copper(require):
    """Copper at about 600 K, of a size the propagator was trained on and of another one."""
    require("ase")
    from ase import units
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.md.velocitydistribution import thermalize_momenta
    from ase.md.verlet import VelocityVerlet

    def make(repeats):
        atoms = bulk("Cu", a=3.61, cubic=True) * repeats
        atoms.calc = EMT()
        thermalize_momenta(atoms, 1200, rng=np.random.default_rng(0))  # half of it becomes potential energy
        VelocityVerlet(atoms, 5 * units.fs).run(40)
        return atoms

    return {"108 atoms": make((3, 3, 3)), "256 atoms": make((4, 4, 4))}


@pytest.mark.parametrize(("pbc", "words"), [(False, "set atoms.cell and atoms.pbc = True"), ((1, 1, 0), "vacuum")])
def test_copper_without_its_box_is_told_to_have_one(hot_copper, pbc, words):
    from fastegnn_md.errors import CompatibilityError
    from fastegnn_md.integrators import LearnedDynamics

    atoms = hot_copper["108 atoms"].copy()
    atoms.pbc = pbc
    before = atoms.positions.copy()
    with pytest.raises(CompatibilityError, match=words):
        LearnedDynamics(atoms, Propagator.load("copper-emt"))
    assert (atoms.positions == before).all()


@pytest.mark.parametrize("size", ["108 atoms", "256 atoms"])
def test_a_jump_of_copper_is_eight_steps_of_emt(hot_copper, size):
    from ase import units
    from ase.calculators.emt import EMT
    from ase.md.verlet import VelocityVerlet

    from fastegnn_md.integrators import LearnedDynamics

    classical, learned = hot_copper[size].copy(), hot_copper[size].copy()
    classical.calc = EMT()
    VelocityVerlet(classical, 5 * units.fs).run(8)
    dynamics = LearnedDynamics(learned, Propagator.load("copper-emt"))
    dynamics.run(1)
    assert dynamics.statistics.accepted == 1
    moved = classical.positions - hot_copper[size].positions
    error = learned.positions - classical.positions
    assert np.sqrt((error**2).mean()) < 0.015 * np.sqrt((moved**2).mean())
    thermal = np.sqrt((classical.get_velocities() ** 2).mean())
    assert np.sqrt(((learned.get_velocities() - classical.get_velocities()) ** 2).mean()) < 0.025 * thermal


def test_roll_outs_of_copper_conserve_energy_where_asked(hot_copper, tmp_path, require):
    for component in ("ase", "deeptime", "tidynamics"):
        require(component)
    from ase.calculators.emt import EMT

    from fastegnn_md.data import load_universe
    from fastegnn_md.validation import roll_out

    hot_copper["108 atoms"].write(tmp_path / "start.xyz")
    group = load_universe(tmp_path / "start.xyz").atoms

    change = {}
    for scaled in (False, True):
        atoms = hot_copper["108 atoms"].copy()
        atoms.calc = EMT()
        made = roll_out(
            Propagator.load("copper-emt"),
            [atoms],
            tmp_path / str(scaled),
            group=group,
            steps=1,
            temperature=600,
            friction=1.0,
            nve_steps=20,
            conserve_energy=scaled,
            progress=False,
        )
        assert made.conserve_energy is scaled
        change[scaled] = np.abs(np.diff(made.nve.potential + made.nve.kinetic)).max()
    assert change[True] < 1e-6 < 0.1 < change[False]  # kJ/mol


@pytest.mark.slow
def test_ethanol_goes_there_and_back_and_stays_a_molecule(require):
    require("ase")
    from ase import units
    from ase.build import molecule
    from ase.md.velocitydistribution import thermalize_momenta

    from fastegnn_md.engines.ase.stepper import guess_bonds
    from fastegnn_md.integrators import Conserve, LearnedDynamics, Schedule

    propagator = Propagator.load("ethanol-xtb")
    assert propagator.reversible
    assert propagator.volume_preserving
    atoms = molecule("CH3CH2OH")
    bonds = guess_bonds(atoms)
    thermalize_momenta(atoms, 400, rng=np.random.default_rng(1))
    there = atoms.copy()
    for _ in range(2):
        LearnedDynamics(there, propagator, bonds=bonds, conserve=Conserve(momentum=False, angular_momentum=False)).run(
            3
        )
        there.set_momenta(-there.get_momenta())
    np.testing.assert_allclose(there.positions, atoms.positions, atol=1e-4)  # single precision
    with LearnedDynamics(
        atoms,
        propagator,
        temperature_K=400,
        friction=0.01 / units.fs,
        rng=2,
        bonds=bonds,
        schedule=Schedule(fallback="stop"),
    ) as dynamics:
        dynamics.run(100)  # 0.8 ps
    assert dynamics.statistics.accepted == 100
    assert np.array_equal(np.sort(guess_bonds(atoms), axis=0), np.sort(bonds, axis=0))


@pytest.mark.parametrize("solvent", ["vacuum", "gbn2"])
def test_a_jump_of_alanine_dipeptide_is_what_openmm_does(solvent, require):
    """Over several starts, x and v are nearer to velocity Verlet of 0.5 fs than to anything simple."""
    openmm = require("openmm")
    app = require("openmm.app")
    from importlib.resources import as_file, files

    from fastegnn_md.harvest.openmm import velocity_verlet
    from fastegnn_md.integrators import LearnedIntegrator, LearnedSimulation

    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        pdb = app.PDBFile(str(path))
    field = app.ForceField("amber14-all.xml", *(["implicit/gbn2.xml"] if solvent == "gbn2" else []))
    options = {"nonbondedMethod": app.NoCutoff, "constraints": app.HBonds, "removeCMMotion": False}
    reference = openmm.Platform.getPlatformByName("Reference")

    def simulation(kind, integrator):
        return kind(pdb.topology, field.createSystem(pdb.topology, **options), integrator, reference)

    heated = openmm.LangevinMiddleIntegrator(300, 10, 0.002)
    heated.setRandomNumberSeed(1)
    sampler = simulation(app.Simulation, heated)
    sampler.context.setPositions(pdb.positions)
    sampler.minimizeEnergy()
    sampler.context.setVelocitiesToTemperature(300, 1)
    sampler.step(500)
    propagator = Propagator.load(f"ala2-{solvent}")
    classical = simulation(app.Simulation, velocity_verlet(openmm, 0.0005))
    learned = simulation(LearnedSimulation, LearnedIntegrator(propagator))
    root = np.sqrt([atom.element.mass._value for atom in pdb.topology.atoms()])[:, None]
    moved, missed, thermal, missed_velocity = 0.0, 0.0, 0.0, 0.0
    for _ in range(8):
        sampler.step(100)
        start = sampler.context.getState(positions=True, velocities=True)
        ends = []
        for one, steps in ((classical, 20), (learned, 1)):
            one.context.setPositions(start.getPositions())
            one.context.setVelocities(start.getVelocities())
            one.context.applyVelocityConstraints(1e-8)
            one.step(steps)
            ended = one.context.getState(positions=True, velocities=True)
            ends.append((ended.getPositions(asNumpy=True)._value, ended.getVelocities(asNumpy=True)._value))
        (x, v), (ours, our_velocity) = ends
        moved += np.square(root * (x - start.getPositions(asNumpy=True)._value)).sum()
        missed += np.square(root * (ours - x)).sum()
        thermal += np.square(root * v).sum()
        missed_velocity += np.square(root * (our_velocity - v)).sum()
    assert missed < 0.04**2 * moved
    assert missed_velocity < 0.06**2 * thermal


# Frames of GFN2-xTB 2 fs apart, of molecules that are not in the training data:
# benchmarks/organic/build.py EXAM --exam.
BURSTS = Path(__file__).parent / "data" / "organic_bursts.npz"
MODELS = ("organic-xtb-4fs", "organic-xtb", "organic-xtb-8fs-heavy")


def bursts(molecule):
    """Positions, velocities and forces (3, 5, N, 3) of three bursts, numbers and masses."""
    with np.load(BURSTS) as file:
        moving = [torch.tensor(file[f"{molecule}_{key}"], dtype=torch.float64) for key in "xvf"]
        return (
            *moving,
            torch.tensor(file[f"{molecule}_numbers"]).long(),
            torch.tensor(file[f"{molecule}_masses"]).double(),
        )


@pytest.mark.parametrize("molecule", ["ethanol", "caffeine", "aspirin"])
def test_molecules_never_seen_move_as_with_xtb(molecule):
    propagator = Propagator.load("organic-xtb-4fs")
    x, v, f, numbers, masses = bursts(molecule)
    errors, flights = [], []
    for burst in range(3):
        informed = {"midpoint_forces": f[burst, 1], "midpoint_positions": x[burst, 1]}
        ended = propagator(State(x[burst, 0], v[burst, 0], numbers, masses, **informed))
        root = masses.sqrt()[:, None]
        errors.append(root * (ended.velocities - v[burst, 2]))
        flights.append(root * (v[burst, 0] - v[burst, 2]))
    assert torch.cat(errors).norm() < 0.02 * torch.cat(flights).norm()


@pytest.mark.parametrize("name", MODELS)
def test_the_learned_potential_is_close_to_that_of_xtb(name):
    propagator = Propagator.load(name)
    for molecule in ("ethanol", "caffeine", "aspirin"):
        x, v, f, numbers, _ = bursts(molecule)
        masses = propagator.domain.masses_of(numbers)
        state = State(x[0, 0], v[0, 0], numbers, masses)
        own = propagator._force(x[0, 0], state, torch.zeros_like(masses))
        assert (own - f[0, 0]).norm() < 0.3 * f[0, 0].norm()


@pytest.mark.parametrize("name", MODELS)
def test_the_learned_potential_alone_keeps_a_molecule_together(name):
    """With its own force in the place of the engine's: what holds bonds does not come from the engine alone."""
    propagator = Propagator.load(name)
    x, v, _, numbers, natural = bursts("aspirin")
    masses = propagator.domain.masses_of(numbers)
    state = begun = State(x[0, 0], (natural / masses).sqrt()[:, None] * v[0, 0], numbers, masses)
    bonded = torch.pdist(begun.positions) < 1.6
    for _ in range(100):
        own = propagator._force(propagator.force_positions(state), state, torch.zeros_like(masses))
        state = propagator(propagator.with_forces(state, own))
    stretch = torch.pdist(state.positions)[bonded] / torch.pdist(begun.positions)[bonded]
    assert 0.75 < float(stretch.min()) < float(stretch.max()) < 1.3
    kinetic = [float(masses @ one.velocities.square().sum(1)) for one in (begun, state)]
    assert 0.4 < kinetic[1] / kinetic[0] < 2.0
