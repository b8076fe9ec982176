"""States and checkpoints between classical simulations and those that jump."""

from __future__ import annotations

import numpy as np
import openmm_cases as cases
import pytest
from openmm import app
from openmm_cases import StandIn, phase_space

from fastegnn_md.errors import ConfigError
from fastegnn_md.integrators import Conserve, LearnedIntegrator, LearnedSimulation, Schedule

openmm = pytest.importorskip("openmm")
REFERENCE = openmm.Platform.getPlatformByName("Reference")


def learned(schedule=None, backend="host", **options) -> LearnedSimulation:
    topology, system, _ = cases.peptide()
    integrator = LearnedIntegrator(StandIn(), seed=7, schedule=schedule, **options)
    return LearnedSimulation(topology, system, integrator, REFERENCE, backend=backend)


def classical(integrator=None) -> app.Simulation:
    topology, system, _ = cases.peptide()
    return app.Simulation(topology, system, integrator or cases.langevin(), REFERENCE)


def started(made):
    made.context.setPositions(cases.peptide()[2])
    made.context.setVelocities(cases.velocities_for(made.system))
    made.context.applyVelocityConstraints(1e-8)
    made.step(3)
    return made


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (classical, learned),
        (classical, lambda: learned(Schedule(2, 1))),
        (lambda: classical(openmm.VerletIntegrator(0.002)), lambda: learned(backend="python")),
        (learned, classical),
        (lambda: learned(Schedule(2, 1)), classical),
        (lambda: learned(Schedule(2, 1)), lambda: classical(openmm.VerletIntegrator(0.002))),
        (learned, lambda: learned(Schedule(2, 1))),
        (learned, learned),
    ],
)
def test_a_state_travels(source, target, tmp_path):
    one, other = started(source()), target()
    one.saveState(str(tmp_path / "state.xml"))
    other.loadState(str(tmp_path / "state.xml"))
    for a, b in zip(phase_space(other), phase_space(one), strict=True):
        np.testing.assert_array_equal(a, b)
    assert other.currentStep == 3
    assert other.context.getTime() == one.context.getTime()
    other.step(3)
    if isinstance(other, LearnedSimulation):
        assert other.integrator.seed == 7


@pytest.mark.parametrize("backend", ["host", "python"])
@pytest.mark.parametrize("schedule", [None, Schedule(2, 1)], ids=["jumps", "hybrid"])
def test_a_checkpoint_of_a_classical_simulation_is_where_it_starts(schedule, backend, tmp_path):
    """Its variables were zero afterwards: seed, energy to conserve, which particles jump."""
    options = {"conserve": Conserve(energy=True)} if schedule is None and backend == "host" else {}
    one, other, same = (
        started(classical()),
        learned(schedule, backend, **options),
        learned(schedule, backend, **options),
    )
    one.saveCheckpoint(str(tmp_path / "checkpoint"))
    other.loadCheckpoint(str(tmp_path / "checkpoint"))
    x, v = phase_space(one)
    same.context.setPositions(x)
    same.context.setVelocities(v)
    same.context.setStepCount(3)
    for made in (other, same):
        made.context.setStepCount(2)  # a jump, in both schedules
        made.step(1)
    assert other.integrator.seed == 7
    for a, b in zip(phase_space(other), phase_space(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_a_state_of_another_system_is_refused(tmp_path):
    topology, system, positions = cases.water(n=3)
    water = app.Simulation(topology, system, openmm.VerletIntegrator(0.002), REFERENCE)
    water.context.setPositions(positions)
    water.saveState(str(tmp_path / "state.xml"))
    with pytest.raises(openmm.OpenMMException):
        learned().loadState(str(tmp_path / "state.xml"))


@pytest.mark.parametrize("schedule", [None, Schedule(2, 1)], ids=["jumps", "hybrid"])
def test_a_step_without_positions_says_so(schedule):
    with pytest.raises(ConfigError, match="setPositions"):
        learned(schedule).step(1)
