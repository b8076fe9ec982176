"""Options of dynamics and integrators: values, combined and refused in one place for every engine."""

from __future__ import annotations

import inspect

import openmm_cases as cases
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from openmm_cases import StandIn

from fastegnn_md.errors import ConfigError, FastEGNNMDError
from fastegnn_md.integrators import (
    Conserve,
    GuardSettings,
    Langevin,
    LearnedDynamics,
    LearnedIntegrator,
    LearningDynamics,
    Schedule,
    VelocityRescaling,
)

openmm = pytest.importorskip("openmm")


def in_ase(propagator, temperature=None, **options) -> None:
    atoms = Atoms("N2", positions=[[0, 0, 0], [1.1, 0, 0]], calculator=EMT())
    LearnedDynamics(atoms, propagator, temperature_K=temperature, bonds=[[0, 1]], **options)


def in_openmm(propagator, **options) -> None:
    LearnedIntegrator(propagator, **options)


POSITION = {"kind": "position", "timestep": 1.0}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ({}, {"temperature": 300}),
        ({}, {"friction": 1.0}),
        ({}, {"thermostat": Langevin(300, 1), "temperature": 300}),
        ({}, {"thermostat": VelocityRescaling(300, 1), "friction": 1.0}),
        ({}, {"guard": GuardSettings(energy_change=5.0)}),
        ({}, {"guard": GuardSettings(spread=1.0)}),
        ({}, {"guard": "strict"}),
        ({}, {"schedule": Schedule(relax_steps=5)}),
        ({}, {"schedule": Schedule(minimize_steps=5)}),
        ({}, {"schedule": Schedule(5, 1), "conserve": Conserve(energy=True)}),
        ({}, {"schedule": Schedule(5, 1, classical=3.0j)}),
        (POSITION, {}),
        (POSITION, {"temperature": 300, "friction": 1.0}),
        (POSITION, {"thermostat": Langevin(300, 1)}),
        (POSITION, {"thermostat": VelocityRescaling(300, 1)}),
        (POSITION, {"temperature": 300, "conserve": Conserve(energy=True)}),
        (POSITION, {"temperature": 300, "conserve": Conserve(angular_momentum=True)}),
    ],
)
def test_ase_and_openmm_refuse_the_same_in_the_same_words(kind, options):
    said = []
    for make in (in_ase, in_openmm):
        with pytest.raises(FastEGNNMDError) as refused:
            make(StandIn(**kind), **options)
        assert isinstance(refused.value, ConfigError)
        said.append(str(refused.value))
    if "classical" in said[0] and "expected a time step" in said[0]:  # each names its own kind of dynamics
        assert said[0].split(";")[0] == said[1].split(";")[0]
    else:
        assert said[0] == said[1]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ({}, {}),
        ({}, {"temperature": 300, "friction": 1.0}),
        ({}, {"thermostat": VelocityRescaling(300, "0.1 ps"), "conserve": Conserve(energy=True)}),
        ({}, {"thermostat": Langevin(300, "1/ps"), "schedule": Schedule(5, 1)}),
        ({}, {"schedule": Schedule(5, None, classical="1 fs")}),
        ({}, {"temperature": 300, "guard": GuardSettings(energy_change=5.0)}),
        ({}, {"guard": False}),
        (POSITION, {"temperature": 300, "schedule": Schedule(relax_steps=5, minimize_steps=5)}),
    ],
)
def test_what_goes_together_goes_together_in_both(kind, options):
    in_ase(StandIn(**kind), **options)
    in_openmm(StandIn(**kind), **options)


@pytest.mark.parametrize(
    ("made", "most"),
    # system, map, bath (four), five values, and ASE's own four; a run that learns has its lag and its time step
    [(LearnedDynamics, 15), (LearningDynamics, 16), (LearnedIntegrator, 15)],
)
def test_constructors_are_small(made, most):
    parameters = inspect.signature(made.__init__).parameters
    options = [name for name in parameters if name not in ("self", "misplaced")]  # the latter is for errors
    assert len(options) <= most
    assert not any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def test_values_are_compared_as_values():
    assert Langevin(300, "10/ps") == Langevin(300.0, 10)
    assert Schedule(5, 1, classical="1 fs") == Schedule(5, 1, classical="1 fs")
    assert Conserve() == Conserve(None, None, False)
    assert cases.StandIn().kind == "force-free"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conserve": True}, "conserve is True; expected a Conserve"),
        ({"schedule": (5, 1)}, r"schedule is \(5, 1\); expected a Schedule"),
        ({"thermostat": "langevin"}, "thermostat is 'langevin'; expected Langevin"),
        ({"thermostat": Langevin}, "expected Langevin"),
        (
            {"schedule": Schedule(5, 1, classical="1 ps")},
            "steps of 1000 fs are longer than the jumps of 8 fs",
        ),
    ],
)
@pytest.mark.parametrize("make", [in_ase, in_openmm])
def test_other_things_than_values_are_refused_by_name(make, options, words):
    with pytest.raises(ConfigError, match=words):
        make(StandIn(), **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule(2.5, 1), "classical_steps is 2.5; expected a whole number"),
        (lambda: Schedule(1, True), "jumps is True; expected a whole number"),
        (lambda: Schedule("5", 1), "classical_steps is '5'"),
        (lambda: Schedule(jumps=None), "jumps=None takes classical steps after a refused jump: give classical_steps"),
        (lambda: GuardSettings(displacement_factor="1"), "displacement_factor is '1'; expected a number"),
        (lambda: Conserve(energy="yes"), r"Conserve\(energy='yes'\); expected True or False"),
        (lambda: Conserve(energy=None), r"Conserve\(energy=None\)"),
    ],
)
def test_values_of_the_wrong_kind_are_refused_by_name(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_friction_of_ase_may_have_its_unit():
    atoms = Atoms("N2", positions=[[0, 0, 0], [1.1, 0, 0]], calculator=EMT())
    made = LearnedDynamics(atoms, StandIn(), temperature_K=300, friction="10/ps", bonds=[[0, 1]])
    assert made.guarded.thermostat == Langevin(300, 10)
    with pytest.raises(FastEGNNMDError, match="needs one of"):
        LearnedDynamics(atoms, StandIn(), temperature_K=300, friction="10 ps", bonds=[[0, 1]])


def test_own_classical_steps_of_openmm_follow_the_seed():
    topology, _, positions = cases.peptide()
    ends = []
    for seed in (3, 3, 4):
        integrator = LearnedIntegrator(StandIn(), Langevin(300, "10/ps"), schedule=Schedule(5, 1), seed=seed)
        made = cases.LearnedSimulation(topology, cases.peptide()[1], integrator, cases.platform_of("Reference")[0])
        made.context.setPositions(positions)
        made.step(12)
        ends.append(cases.phase_space(made)[0])
    assert (ends[0] == ends[1]).all()
    assert not (ends[0] == ends[2]).all()
