"""Steps of stochastic maps in OpenMM: relaxation inside the Context, redraws, fallback, replicas, checkpoints."""

from __future__ import annotations

import copy

import numpy as np
import openmm
import pytest
import torch
from ase import Atoms, units
from ase.constraints import FixBondLengths
from openmm import unit

from fastegnn_md.engines.openmm import OpenMMCalculator
from fastegnn_md.errors import CompatibilityError, ConfigError, JumpError
from fastegnn_md.integrators import (
    JumpStatistics,
    Langevin,
    LearnedDynamics,
    LearnedIntegrator,
    LearnedSimulation,
    MetropolizedJumpIntegrator,
    Schedule,
    SimulationEnsemble,
)
from fastegnn_md.integrators.openmm.classical import StepGenerator
from fastegnn_md.integrators.openmm.restart import load_simulation, save_simulation
from fastegnn_md.propagator.draws import normal
from fastegnn_md.propagator.fake import FakePropagator, permissive_domain
from fastegnn_md.propagator.limits import JumpLimits
from tests.helpers.openmm_cases import peptide, phase_space, platform_of, without_remover

LAG = 0.5  # ps


class Draws:
    """Small displacements; of each system with the probability ``bad`` far away."""

    def __init__(self, bad: float = 0.0):
        self.bad = bad
        self.sizes: list[int] = []

    def __call__(self, state, generator):
        self.sizes.append(state.n_systems)
        noise = normal(state, generator, torch.float64)
        first = torch.stack([part[0, 0] for part in noise.split(state.atom_counts.tolist())])
        wrong = torch.special.ndtr(first) < self.bad
        return state.positions + 0.02 * noise + 5.0 * wrong[state.batch][:, None], state.velocities


def flow(draws=None, timestep: float = LAG) -> FakePropagator:
    domain = permissive_domain(bonds=True, limits=JumpLimits({1: 1.0, 6: 1.0, 7: 1.0, 8: 1.0}))
    return FakePropagator(draws or Draws(), timestep, domain, kind="flow", random=True)


CASE = without_remover(peptide())


def simulation(propagator, seed: int = 7, *, case=CASE, platform: str = "Reference", **options) -> LearnedSimulation:
    topology, system, positions = case
    schedule = options.pop("schedule", Schedule(relax_steps=20, classical="2 fs"))
    integrator = LearnedIntegrator(propagator, temperature=300, seed=seed, schedule=schedule, **options)
    made = LearnedSimulation(topology, system, integrator, *platform_of(platform))
    made.context.setPositions(positions)
    made.context.applyConstraints(1e-8)
    return made


def time_of(made) -> float:
    return made.context.getTime()._value


def test_the_context_advances_by_jump_and_relaxation():
    made = simulation(flow(), schedule=None)
    made.step(2)
    assert time_of(made) == pytest.approx(2 * (LAG + 0.050))
    assert made.currentStep == 2
    assert made.context.getStepCount() == 2
    assert made.integrator.getStepSize()._value == pytest.approx(LAG + 0.050)
    assert made.integrator.statistics == JumpStatistics(2, 2, relax_steps=100)
    lengths = [made.system.getConstraintParameters(k) for k in range(made.system.getNumConstraints())]
    x, v = phase_space(made)
    for i, j, length in lengths:
        assert np.linalg.norm(x[i] - x[j]) == pytest.approx(length._value, rel=1e-4)
        assert abs((x[i] - x[j]) @ (v[i] - v[j])) < 1e-3


def test_steps_are_those_of_ase():
    """Draw, Langevin noise and classical steps: with the same generator the same numbers."""
    topology, system, _ = CASE
    schedule = Schedule(relax_steps=20, classical="2 fs")
    made = simulation(flow(), schedule=schedule)
    start = phase_space(made)[0]
    made.step(1)
    symbols = [atom.element.symbol for atom in topology.atoms()]
    atoms = Atoms(symbols, positions=10 * start)
    atoms.set_masses([system.getParticleMass(i)._value for i in range(len(symbols))])
    atoms.calc = OpenMMCalculator(system, platform="Reference")
    pairs = [system.getConstraintParameters(k)[:2] for k in range(system.getNumConstraints())]

    atoms.set_constraint(FixBondLengths(pairs))
    bonds = [(bond[0].index, bond[1].index) for bond in topology.bonds()]
    dynamics = LearnedDynamics(
        atoms, flow(), temperature_K=300, rng=StepGenerator().at(7, 0), schedule=schedule, bonds=bonds
    )
    dynamics.run(1)
    x, v = phase_space(made)
    np.testing.assert_allclose(atoms.positions, 10 * x, atol=2e-4)
    np.testing.assert_allclose(atoms.get_velocities() * 1000 * units.fs, 10 * v, atol=2e-2)
    assert np.abs(atoms.positions - 10 * start).max() > 0.05


@pytest.mark.filterwarnings("ignore::fastegnn_md.integrators.RedrawWarning")  # a model that is bad on purpose
def test_refused_draws_are_drawn_anew_and_the_last_is_replaced():
    made = simulation(flow(Draws(bad=0.4)), schedule=Schedule(relax_steps=2, redraws=30, classical="2 fs"))
    made.step(10)
    statistics = made.integrator.statistics
    assert (statistics.tried, statistics.accepted, statistics.rejected) == (10, 10, {})
    assert list(statistics.redrawn) == ["displacement"]
    assert time_of(made) == pytest.approx(10 * (LAG + 0.004))

    made = simulation(flow(Draws(bad=1.0)), schedule=Schedule(relax_steps=5, redraws=2, classical="2 fs"))
    made.step(1)
    assert made.integrator.statistics == JumpStatistics(
        1, 0, {"displacement": 1}, redrawn={"displacement": 2}, fallback_steps=255
    )
    assert time_of(made) == pytest.approx(LAG + 0.010)
    assert made.currentStep == 1
    made = simulation(flow(Draws(bad=1.0)), schedule=Schedule(fallback="stop"))
    before = phase_space(made)
    with pytest.raises(JumpError, match="displacement guard refused"):
        made.step(1)
    for one, other in zip(before, phase_space(made), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert time_of(made) == 0


def test_an_integrator_of_the_schedule_replaces_what_is_refused():
    classical = openmm.LangevinMiddleIntegrator(300, 1, 0.002)
    classical.setRandomNumberSeed(3)
    schedule = Schedule(relax_steps=5, redraws=1, classical=classical)
    topology, system, positions = CASE
    integrator = LearnedIntegrator(flow(Draws(bad=1.0)), seed=1, schedule=schedule)
    made = LearnedSimulation(topology, system, integrator, *platform_of("Reference"))
    made.context.setPositions(positions)
    made.step(2)
    assert integrator.statistics.fallback_steps == 2 * 255
    assert time_of(made) == pytest.approx(2 * (LAG + 0.010))


def test_a_seed_repeats_a_run_and_a_copy_goes_on_like_the_original(tmp_path):
    ends = []
    for seed in (7, 7, 8):
        made = simulation(flow(Draws(bad=0.3)), seed)
        made.step(4)
        ends.append(phase_space(made)[0])
    assert np.array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 1e-3
    assert copy.deepcopy(made.integrator).getTemperature() == 300 * unit.kelvin


def test_a_restart_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = simulation(flow(Draws(bad=0.3)))
    whole.step(5)
    first = simulation(flow(Draws(bad=0.3)))
    first.step(2)
    save_simulation(tmp_path / "a.restart", first)
    again = simulation(flow(Draws(bad=0.3)))
    load_simulation(tmp_path / "a.restart", again)
    again.step(3)
    for one, other in zip(phase_space(again), phase_space(whole), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert again.integrator.statistics == whole.integrator.statistics
    # A State is enough: the random numbers follow from seed and step.
    first.saveState(str(tmp_path / "a.xml"))
    other = simulation(flow(Draws(bad=0.3)))
    other.loadState(str(tmp_path / "a.xml"))
    other.step(3)
    np.testing.assert_allclose(phase_space(other)[0], phase_space(whole)[0], atol=1e-6)


@pytest.mark.parametrize("bad", [0.0, 0.4])
def test_replicas_move_as_they_would_alone_in_one_call_of_the_network(bad):
    draws = Draws(bad)
    alone = [simulation(flow(Draws(bad)), k) for k in range(3)]
    for one in alone:
        one.step(4)
    propagator = flow(draws)
    together = [simulation(propagator, k) for k in range(3)]
    SimulationEnsemble(together).step(4)
    for one, other in zip(alone, together, strict=True):
        for x, y in zip(phase_space(one), phase_space(other), strict=True):
            np.testing.assert_allclose(x, y, atol=1e-10)
        assert one.integrator.statistics == other.integrator.statistics
        assert time_of(one) == pytest.approx(time_of(other))
    redraws = sum(one.integrator.statistics.redraws for one in together)
    assert (redraws > 0) == (bad > 0)
    assert draws.sizes.count(3) >= 4
    assert sum(draws.sizes) == 12 + redraws
    if not bad:
        assert draws.sizes == [3, 3, 3, 3]


def test_replicas_of_a_deterministic_map_too():
    def drift(state):
        return state.positions + 0.002 * state.velocities, state.velocities

    def replica(propagator, seed):
        topology, system, positions = CASE
        thermostat = Langevin(300, 10)
        classical = openmm.LangevinMiddleIntegrator(300, 10, 0.002)
        classical.setRandomNumberSeed(seed + 1)
        schedule = Schedule(2, 1, classical=openmm.VerletIntegrator(0.001))
        integrator = LearnedIntegrator(propagator, thermostat, seed=seed, schedule=schedule)
        made = LearnedSimulation(topology, system, integrator, *platform_of("Reference"), backend="host")
        made.context.setPositions(positions)
        made.context.setVelocitiesToTemperature(300, seed + 1)
        return made

    maps = [FakePropagator(drift, 0.002, permissive_domain(bonds=True)) for _ in range(3)]
    alone = [replica(maps[k], k) for k in range(2)]
    together = [replica(maps[2], k) for k in range(2)]
    for one in alone:
        one.step(6)
    SimulationEnsemble(together).step(6)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(phase_space(one)[0], phase_space(other)[0], atol=1e-10)
    assert maps[2].calls == 2


def test_a_replica_that_fails_is_named_and_nothing_is_left_half_done():
    propagator = flow(Draws(bad=1.0))
    replicas = [simulation(propagator, k, schedule=Schedule(fallback="stop", relax_steps=2)) for k in range(2)]
    before = [phase_space(one) for one in replicas]
    with pytest.raises(JumpError, match="replica 0: step 1: the displacement guard"):
        SimulationEnsemble(replicas).step(1)
    for one, (x, v) in zip(replicas, before, strict=True):
        np.testing.assert_allclose(phase_space(one)[0], x, atol=1e-12)
        np.testing.assert_allclose(phase_space(one)[1], v, atol=1e-12)
        assert time_of(one) == 0
        assert one.currentStep == 0


def test_what_makes_no_ensemble_is_refused():
    with pytest.raises(ConfigError, match="no simulations"):
        SimulationEnsemble([])
    one = simulation(flow())
    with pytest.raises(ConfigError, match="given twice"):
        SimulationEnsemble([one, one])
    with pytest.raises(CompatibilityError, match="different propagators"):
        SimulationEnsemble([one, simulation(flow())])


def test_neither_annealing_nor_metropolis_nor_friction():
    with pytest.raises(ConfigError, match="at the temperature of its training"):
        simulation(flow()).integrator.setTemperature(350)
    with pytest.raises(CompatibilityError, match="starting points of classical bursts"):
        MetropolizedJumpIntegrator(flow(), temperature=300)
    with pytest.raises(ConfigError, match="of kind 'flow' redraws velocities at each jump"):
        LearnedIntegrator(flow(), temperature=300, friction=1)
    with pytest.raises(ConfigError, match="give a temperature"):
        LearnedIntegrator(flow())
