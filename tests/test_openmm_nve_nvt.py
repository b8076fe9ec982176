"""Conserved momenta and energy and stochastic velocity rescaling in OpenMM: the numbers of ASE, replay, refusals."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import openmm_cases as cases
import pytest
from ase import Atoms
from openmm import unit
from openmm_cases import StandIn, phase_space, simulation

from fastegnn_md.engines.ase.stepper import PICOSECOND
from fastegnn_md.engines.openmm import OpenMMCalculator, add_jump_force
from fastegnn_md.errors import CompatibilityError, ConfigError, ConstraintError, JumpError
from fastegnn_md.integrators import (
    Conserve,
    Langevin,
    LearnedDynamics,
    LearnedIntegrator,
    LearnedSimulation,
    Schedule,
    VelocityRescaling,
)
from fastegnn_md.integrators.openmm.classical import StepGenerator
from fastegnn_md.integrators.openmm.host import Host

openmm = pytest.importorskip("openmm")
REFERENCE = openmm.Platform.getPlatformByName("Reference")


def jumps_alone(propagator, backend="host", case=None, start=True, **options) -> LearnedSimulation:
    topology, system, positions = case or cases.without_remover(cases.peptide())
    made = LearnedSimulation(
        topology, system, LearnedIntegrator(propagator, seed=7, guard=False, **options), REFERENCE, backend=backend
    )
    if start:
        made.context.setPositions(positions)
        made.context.setVelocities(cases.velocities_for(system))
        made.context.applyVelocityConstraints(1e-10)
    return made


def momenta(made) -> tuple[np.ndarray, np.ndarray]:
    """Linear momentum and angular momentum about the centre of mass, in nm, ps and amu."""
    x, v = phase_space(made)
    m = np.array([made.system.getParticleMass(i)._value for i in range(len(x))])
    return m @ v, np.cross(x - m @ x / m.sum(), m[:, None] * v).sum(axis=0)


def energy(made) -> float:
    """kJ/mol."""
    state = made.context.getState(energy=True)
    return (state.getPotentialEnergy() + state.getKineticEnergy())._value


def twin(made) -> Atoms:
    """The same peptide in the same state for ASE."""
    x, v = phase_space(made)
    topology, system, _ = cases.peptide()
    atoms = Atoms([atom.element.atomic_number for atom in topology.atoms()], positions=10 * x)
    atoms.calc = OpenMMCalculator(system, topology=topology, platform="Reference")
    atoms.set_masses(atoms.calc.masses)
    atoms.set_velocities(10 * v / PICOSECOND)
    atoms.set_constraint(atoms.calc.bond_constraints())
    return atoms


NVE = {}
ENERGY = {"conserve": Conserve(energy=True)}
RESCALING = {"thermostat": VelocityRescaling(300 * unit.kelvin, 0.02 * unit.picosecond)}
LANGEVIN = {"thermostat": Langevin(300 * unit.kelvin, 5 / unit.picosecond)}


def conserved(made) -> float:
    """amu Å²/ps²; where checkpoints find it."""
    return made.integrator.getIntegrator(0).getGlobalVariableByName("energy")


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        *[(backend, options) for backend in ("host", "python") for options in (NVE, RESCALING, LANGEVIN)],
        *[("host", options | ENERGY) for options in (NVE, RESCALING, LANGEVIN)],
    ],
)
def test_openmm_and_ase_give_the_same_trajectory(options, backend):
    """An untrained network, constraints on; random numbers of each step as OpenMM draws them."""
    propagator = cases.small_network()
    made = jumps_alone(propagator, backend, **options)
    atoms = twin(made)
    bonds = [(a.index, b.index) for a, b in made.topology.bonds()]
    dynamics = LearnedDynamics(atoms, propagator, bonds=bonds, guard=False, **options)
    before, total = momenta(made), energy(made)
    for step in range(6):
        made.step(1)
        dynamics.jump.step(StepGenerator().at(7, step))
        x, v = phase_space(made)
        # eV and kJ/mol are of different CODATA years, so energies differ in the ninth digit.
        nm, nm_per_ps = (1e-9, 1e-7) if "conserve" in options else (1e-12, 1e-11)
        np.testing.assert_allclose(x, atoms.positions / 10, rtol=0, atol=nm)
        np.testing.assert_allclose(v, atoms.get_velocities() * PICOSECOND / 10, rtol=0, atol=nm_per_ps)
    if not isinstance(options.get("thermostat"), Langevin):
        for found, expected in zip(momenta(made), before, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-11)
    if "conserve" in options:
        target = conserved(made)
        assert dynamics.guarded.energy.target == pytest.approx(target, rel=1e-6)
        assert (target == pytest.approx(100 * total, rel=1e-12)) is ("thermostat" not in options)


@pytest.mark.parametrize("options", [NVE, RESCALING], ids=["NVE", "rescaling"])
@pytest.mark.parametrize("angular", [None, False])
def test_angular_momentum_is_conserved_unless_told_otherwise(options, angular):
    made = jumps_alone(cases.small_network(), conserve=Conserve(angular_momentum=angular), **options)
    before = momenta(made)
    made.step(3)
    lost = np.abs(momenta(made)[1] - before[1]).max()
    assert lost < 1e-11 if angular is None else lost > 1e-4


def test_jumps_between_verlet_steps_conserve_both_momenta():
    changes = []
    for angular in (None, False):
        case = cases.peptide(constraints=None)
        (remover,) = (i for i, one in enumerate(case[1].getForces()) if isinstance(one, openmm.CMMotionRemover))
        case[1].removeForce(remover)
        made = simulation(
            case,
            cases.small_network(),
            classical=cases.velocity_verlet(0.001),
            half_step_velocities=False,
            started=False,
            guard=False,
            conserve=Conserve(angular_momentum=angular),
        )
        before = momenta(made)
        made.step(12)
        assert made.integrator.statistics.accepted == 2
        changes.append([np.abs(b - a).max() for a, b in zip(before, momenta(made), strict=True)])
    assert max(changes[0]) < 1e-9
    assert changes[1][0] < 1e-9
    assert changes[1][1] > 1e-4


def test_a_part_of_a_system_and_a_box_have_no_angular_momentum_to_conserve():
    """The solute of a box of water, and all but one atom of a molecule without a box."""
    asked = {"conserve": Conserve(angular_momentum=True)}
    with pytest.raises(CompatibilityError, match="this one is periodic"):
        simulation(cases.solvated(), StandIn(), atoms=range(22), **asked)
    with pytest.raises(CompatibilityError, match="this one is part of a larger one"):
        simulation(cases.peptide(constraints=None), StandIn(), atoms=range(21), **asked)
    for name in ("angular_momentum", "momentum"):
        held = cases.peptide(constraints=None)
        held[1].setParticleMass(3, 0)
        with pytest.raises(ConstraintError, match=rf"{name}=True\) needs atoms that are free to move"):
            simulation(held, StandIn(), conserve=Conserve(**{name: True}))
    part = simulation(cases.peptide(constraints=None), StandIn(), atoms=range(21))
    assert not part.integrator._jump.guarded.isolated
    before = momenta(part)
    part.step(1)
    assert np.abs(momenta(part)[1] - before[1]).max() > 1e-4


def test_virtual_sites_do_not_make_a_system_a_part():
    topology, system, _ = cases.water(2, model="tip4pew")
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            force.setNonbondedMethod(openmm.NonbondedForce.NoCutoff)
    assert not system.usesPeriodicBoundaryConditions()
    assert add_jump_force(system, topology, StandIn(), backend="host").part.isolated
    topology, system, _ = cases.peptide(constraints=None)
    assert not add_jump_force(system, topology, StandIn(), atoms=range(20), backend="host").part.isolated


# Energy ------------------------------------------------------------------------------------------------------------


def faster(state):
    """Gains a fifth of the kinetic energy per jump, more than scaling takes out at once."""
    ended = StandIn.drift(state)
    return ended.replace(velocities=1.15 * ended.velocities)


def test_one_energy_is_computed_per_jump(monkeypatch):
    made = jumps_alone(StandIn(move=faster), **ENERGY)
    calls, classical = [], Host.classical

    def counting(self, context):
        engine = classical(self, context)
        return dataclasses.replace(engine, energy=lambda positions: calls.append(1) or engine.energy(positions))

    monkeypatch.setattr(Host, "classical", counting)
    made.step(5)
    assert len(calls) == 6  # and one before the first


@pytest.mark.parametrize("how", ["checkpoint", "state", "new process"])
def test_the_energy_to_conserve_comes_with_the_file(how, tmp_path):
    made = jumps_alone(StandIn(move=faster), **ENERGY)
    made.step(4)
    target = conserved(made)
    file = str(tmp_path / "saved")
    (made.saveCheckpoint if how == "checkpoint" else made.saveState)(file)
    made.step(6)
    expected = phase_space(made)
    if how == "new process":
        made = jumps_alone(StandIn(move=faster), start=False, **ENERGY)
        assert np.isnan(conserved(made))
    (made.loadCheckpoint if how == "checkpoint" else made.loadState)(file)
    made.step(6)
    assert conserved(made) == target
    for a, b in zip(phase_space(made), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_state_from_before_the_first_jump_brings_no_energy(tmp_path):
    made = jumps_alone(StandIn(), **ENERGY)
    made.saveState(str(tmp_path / "state"))
    made.step(2)
    expected = phase_space(made)
    made.loadState(str(tmp_path / "state"))
    made.context.setVelocities(2 * phase_space(made)[1])
    made.step(1)
    made.loadState(str(tmp_path / "state"))
    made.step(2)
    np.testing.assert_array_equal(phase_space(made)[1], expected[1])


def test_copies_have_the_options_and_the_energy():
    made = jumps_alone(StandIn(move=faster), conserve=Conserve(angular_momentum=False, energy=True))
    made.step(2)
    copied = copy.deepcopy(made.integrator)
    assert copied.getIntegrator(0).getGlobalVariableByName("energy") == conserved(made)
    topology, system, _ = cases.without_remover(cases.peptide())
    other = LearnedSimulation(topology, system, copied, REFERENCE)
    other.context.setState(made.context.getState(positions=True, velocities=True))
    other.context.setStepCount(2)
    made.step(3)
    other.step(3)
    for a, b in zip(phase_space(other), phase_space(made), strict=True):
        np.testing.assert_array_equal(a, b)
    rescaling = copy.deepcopy(LearnedIntegrator(StandIn(), seed=1, **RESCALING))._jump.guarded.thermostat
    assert (rescaling.temperature, rescaling.tau) == (300, 0.02)


def test_a_jump_whose_energy_is_not_finite_leaves_the_context_alone(monkeypatch):
    made = jumps_alone(StandIn(), schedule=Schedule(fallback="stop"), **ENERGY)
    before, found = phase_space(made), iter([10.0, float("nan")])
    classical = Host.classical
    monkeypatch.setattr(
        Host,
        "classical",
        lambda self, context: dataclasses.replace(classical(self, context), energy=lambda positions: next(found)),
    )
    with pytest.raises(JumpError, match=r"step 1: the energy guard refused the jump: .* would go from 10\.0 to nan"):
        made.step(1)
    for a, b in zip(phase_space(made), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isnan(conserved(made))


@pytest.mark.filterwarnings("ignore:582 of 604 particles do not jump")
@pytest.mark.parametrize("atoms", [None, range(22)], ids=["all", "solute"])
def test_the_energy_of_everything_is_what_it_was(atoms):
    """Of the solute in water, too, whose neighbours stand still."""

    def gain(state):
        velocities = 1.02 * state.velocities
        return state.replace(positions=state.positions + 1e-4 * velocities, velocities=velocities)

    topology, system, positions = cases.without_remover(cases.peptide() if atoms is None else cases.solvated())
    integrator = LearnedIntegrator(StandIn(move=gain, timestep=1e-4), seed=7, guard=False, **ENERGY)
    made = LearnedSimulation(topology, system, integrator, REFERENCE, atoms=atoms)
    made.context.setPositions(positions)
    made.context.setVelocities(cases.velocities_for(made.system))
    made.context.applyVelocityConstraints(1e-12)
    before, total = phase_space(made)[1][22:], energy(made)
    for _ in range(3):
        made.step(1)
        assert energy(made) == pytest.approx(total, abs=1e-6)
    np.testing.assert_array_equal(phase_space(made)[1][22:], before)


# Rescaling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "options"), [("host", RESCALING), ("python", RESCALING), ("host", RESCALING | ENERGY)]
)
def test_rescaling_replays_from_a_checkpoint(backend, options):
    made = jumps_alone(StandIn(), backend, **options)
    made.step(3)
    checkpoint = made.context.createCheckpoint()
    made.step(4)
    expected = phase_space(made)
    made.context.loadCheckpoint(checkpoint)
    made.step(4)
    for a, b in zip(phase_space(made), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_rescaled_jumps_have_the_temperature():
    """Of 3·22 - 12 - 6 degrees of freedom, momenta of the whole not counted; within 3 σ."""
    still = StandIn(move=lambda state: state)
    made = jumps_alone(still, thermostat=VelocityRescaling(300, 0.001))
    x, kinetic = phase_space(made)[0], []
    m = np.array([made.system.getParticleMass(i)._value for i in range(22)])
    arms = x - m @ x / m.sum()
    axes = [np.cross(axis, arms) for axis in np.eye(3)] + [np.ones((22, 1)) * axis for axis in np.eye(3)]
    rigid = np.stack([axis.ravel() * np.repeat(np.sqrt(m), 3) for axis in axes], axis=1)
    for _ in range(120):
        made.step(1)
        weighted = phase_space(made)[1].ravel() * np.repeat(np.sqrt(m), 3)
        free = weighted - rigid @ np.linalg.lstsq(rigid, weighted, rcond=None)[0]
        kinetic.append(0.5 * free @ free)
    assert abs(2 * np.mean(kinetic) / (48 * 0.00831446 * 300) - 1) < 3 * np.sqrt(2 / 48 / 120)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({**RESCALING, "friction": 1.0}, "a thermostat brings its temperature"),
        ({"friction": 0.1}, "friction without a temperature"),
        ({"temperature": 300}, "a temperature without a thermostat"),
    ],
)
def test_options_that_do_not_go_together(options, words):
    with pytest.raises(ConfigError, match=words):
        LearnedIntegrator(StandIn(), **options)
    with pytest.raises(ConfigError, match="leave friction and thermostat out"):
        LearnedIntegrator(StandIn(kind="position"), thermostat=VelocityRescaling(300, 0.1))
    with pytest.raises(ConfigError, match="leave friction out"):
        LearnedIntegrator(StandIn(kind="position"), temperature=300, friction=1.0)
    with pytest.raises(ConfigError, match="classical steps may change the energy"):
        LearnedIntegrator(
            StandIn(), schedule=Schedule(5, classical=openmm.VerletIntegrator(0.002)), conserve=Conserve(energy=True)
        )
