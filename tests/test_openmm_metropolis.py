"""The Metropolis test inside an OpenMM Context."""

from __future__ import annotations

import copy

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from openmm_cases import peptide, small_network

from fastegnn_md.engines.openmm import add_jump_force
from fastegnn_md.errors import CompatibilityError, ConfigError, ConstraintError
from fastegnn_md.integrators import LearnedSimulation, MetropolizedJumpIntegrator
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.fake import FakePropagator
from fastegnn_md.propagator.kick_drift import KickDriftPropagator
from fastegnn_md.units import BOLTZMANN, KJ_PER_MOL

T = 300.0
SPRING = 2000.0  # kJ/mol/nm², from each atom to its place
PLACES = 0.2 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])  # nm


class WrongSprings(FakePropagator):
    """Drift, kick, drift with 1.3 times the stiffness."""

    def __init__(self, timestep: float = 0.012):
        super().__init__(self.leap, timestep, reversible=True, volume_preserving=True, cutoff=3.0)

    def leap(self, state):
        x = state.positions + 0.5 * self.timestep * state.velocities
        force = -1.3 * SPRING * KJ_PER_MOL / 100.0 * (x - 10.0 * torch.tensor(PLACES))
        v = state.velocities + self.timestep * force / state.masses[:, None]
        return x + 0.5 * self.timestep * v, v


def springs(remover: bool = False) -> tuple[app.Topology, openmm.System]:
    topology, system = app.Topology(), openmm.System()
    residue = topology.addResidue("X", topology.addChain())
    force = openmm.CustomExternalForce("0.5*k*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    force.addGlobalParameter("k", SPRING)
    for name in ("x0", "y0", "z0"):
        force.addPerParticleParameter(name)
    for i, place in enumerate(PLACES):
        topology.addAtom("C", app.element.carbon, residue)
        system.addParticle(12.011)
        force.addParticle(i, list(place))
    system.addForce(force)
    if remover:
        system.addForce(openmm.CMMotionRemover())
    return topology, system


def simulation(case=None, platform: str = "Reference", integrator=None, places=PLACES, **options) -> LearnedSimulation:
    topology, system = case or springs()
    integrator = integrator or MetropolizedJumpIntegrator(WrongSprings(), T, seed=3, **options)
    made = LearnedSimulation(topology, system, integrator, openmm.Platform.getPlatformByName(platform))
    made.context.setPositions(places)
    return made


def phase_space(context) -> tuple[np.ndarray, np.ndarray]:
    state = context.getState(positions=True, velocities=True)
    return np.array(state.getPositions(asNumpy=True)._value), np.array(state.getVelocities(asNumpy=True)._value)


def deviation(series: np.ndarray, exact: float, blocks: int = 40) -> float:
    means = np.array([block.mean() for block in np.array_split(series, blocks)])
    drawn = np.random.default_rng(0).integers(blocks, size=(2000, blocks))
    return abs(series.mean() - exact) / means[drawn].mean(axis=1).std()


@pytest.mark.parametrize("friction", [None, 20.0], ids=["full", "partial"])
def test_a_wrong_map_samples_oscillators(friction):
    """Variances of positions and velocities of nine oscillators, within 3 σ of a bootstrap of blocks."""
    made = simulation(friction=friction)
    x, v = [], []
    for _ in range(2500):
        made.step(1)
        positions, velocities = phase_space(made.context)
        x.append(np.square(positions - PLACES).mean())
        v.append(np.square(velocities).mean())
    kt = BOLTZMANN * T / KJ_PER_MOL
    assert 0.3 < made.integrator.statistics.acceptance < 0.95
    assert deviation(np.array(x), kt / SPRING) < 3
    assert deviation(np.array(v), kt / 12.011) < 3
    assert made.integrator.statistics.energies == 2501


def test_a_rejection_leaves_the_context_with_velocities_turned_round():
    made = simulation(friction=0.0)
    made.context.setVelocities(0.3 * np.ones((3, 3)))
    made.step(1)
    seen = set()
    for count in range(2, 40):
        before, accepted = phase_space(made.context), made.integrator.statistics.accepted
        made.step(1)
        after = phase_space(made.context)
        moved = made.integrator.statistics.accepted > accepted
        seen.add(moved)
        assert np.array_equal(after[0], before[0]) is not moved
        if not moved:
            np.testing.assert_allclose(after[1], -before[1], rtol=1e-14)
        assert made.context.getStepCount() == count
        assert made.context.getTime()._value == pytest.approx(0.012 * count)
        energy = made.context.getState(energy=True).getPotentialEnergy()._value * KJ_PER_MOL
        assert made.integrator._known[1] == pytest.approx(energy, rel=1e-12)
        made.context.setVelocities(after[1] * (1.0 if moved else -1.5))  # else it would be rejected for ever
    assert seen == {True, False}


def test_a_run_from_a_checkpoint_is_the_uninterrupted_one(tmp_path):
    made = simulation(friction=5.0)
    made.step(10)
    made.saveCheckpoint(str(tmp_path / "checkpoint"))
    made.step(15)
    again = simulation(friction=5.0)
    again.loadCheckpoint(str(tmp_path / "checkpoint"))
    again.step(15)
    for one, other in zip(phase_space(again.context), phase_space(made.context), strict=True):
        assert np.array_equal(one, other)


def test_what_others_change_is_evaluated_again():
    made = simulation()
    made.step(3)
    asked = made.integrator.statistics.energies
    made.context.setParameter("k", 0.5 * SPRING)
    made.step(1)
    assert made.integrator.statistics.energies == asked + 2
    made.context.setPositions(PLACES + 0.001)
    made.step(1)
    assert made.integrator.statistics.energies == asked + 4
    energy = made.context.getState(energy=True).getPotentialEnergy()._value * KJ_PER_MOL
    assert made.integrator._known[1] == pytest.approx(energy, rel=1e-12)


def test_where_the_centre_of_mass_is_to_rest_velocities_are_drawn_without_its_motion():
    made = simulation(springs(remover=True))
    made.step(5)
    assert np.abs(phase_space(made.context)[1].mean(axis=0)).max() < 0.2  # kicks to fixed places move it a little
    made.integrator.propagator.timestep = 1e-9
    made.step(1)
    assert np.abs(phase_space(made.context)[1].mean(axis=0)).max() < 1e-6


def test_an_error_leaves_the_context_as_it_was():
    made = simulation()
    made.step(2)
    before, count = phase_space(made.context), made.context.getStepCount()
    counted = copy.copy(made.integrator.statistics)

    def broken(state):
        raise RuntimeError("broken")

    made.integrator._metropolis.propagator.move = broken
    with pytest.raises(RuntimeError, match="broken"):
        made.step(1)
    for one, other in zip(phase_space(made.context), before, strict=True):
        assert np.array_equal(one, other)
    assert made.context.getStepCount() == count
    assert made.integrator.statistics == counted


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_a_network_jumps_a_peptide(platform):
    topology, system, positions = peptide(constraints=None)
    plain = small_network()
    config = PropagatorConfig(kind="kick-drift", kicks=2, hidden=8, layers=1, radial_functions=4)
    propagator = KickDriftPropagator(config, 0.0005, plain.domain).double()
    propagator.force_scale[:] = 100.0
    made = simulation((topology, system), platform, MetropolizedJumpIntegrator(propagator, T, 1.0, seed=1), positions)
    made.step(12)
    assert made.integrator.statistics.accepted > 0
    assert made.integrator.statistics.energies == 13
    energy = made.context.getState(energy=True).getPotentialEnergy()._value
    assert made.integrator._known[1] / KJ_PER_MOL == pytest.approx(energy, abs=1e-3)
    twin = copy.deepcopy(made.integrator)
    assert (twin._metropolis.friction, twin._metropolis.temperature) == (1.0, T)
    assert twin.getGlobalVariableByName("seed") == 1


def test_what_cannot_be_right_is_refused():
    topology, system, _ = peptide(constraints=app.HBonds)
    config = PropagatorConfig(kind="kick-drift", hidden=8, layers=1)
    propagator = KickDriftPropagator(config, 0.0005, small_network().domain)
    with pytest.raises(ConstraintError, match="fixed bond lengths"):
        LearnedSimulation(topology, system, MetropolizedJumpIntegrator(propagator, T))
    with pytest.raises(CompatibilityError, match="kick-drift"):
        MetropolizedJumpIntegrator(small_network(), T)
    with pytest.raises(ConfigError, match="temperature"):
        MetropolizedJumpIntegrator(propagator, 0.0)
    with pytest.raises(CompatibilityError, match="advance by"):
        MetropolizedJumpIntegrator(propagator, T).setStepSize(2 * unit.femtoseconds)
    with pytest.raises(ConfigError, match="no Context"):
        MetropolizedJumpIntegrator(propagator, T).step(1)
    topology, system, _ = peptide(constraints=None)
    force = add_jump_force(system, topology, propagator, backend="python")
    integrator = MetropolizedJumpIntegrator(propagator, T)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    with pytest.raises(ConfigError, match="host"):
        integrator.bind(context, force)
    topology, system = springs()
    system.setParticleMass(1, 0.0)
    with pytest.raises(ConstraintError, match="frozen"):
        LearnedSimulation(topology, system, MetropolizedJumpIntegrator(WrongSprings(), T))
