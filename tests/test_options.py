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
        (None, {}),
    ],
)
def test_ase_and_openmm_refuse_the_same_in_the_same_words(kind, options):
    said = []
    for make in (in_ase, in_openmm):
        propagator = "copper-emt" if kind is None else StandIn(**kind)
        with pytest.raises(FastEGNNMDError) as refused:
            make(propagator, **options)
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


@pytest.mark.parametrize("made", [LearnedDynamics, LearnedIntegrator])
def test_constructors_are_small(made):
    parameters = inspect.signature(made.__init__).parameters
    assert len(parameters) - 1 <= 14  # without self
    assert not any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def test_values_are_compared_as_values():
    assert Langevin(300, "10/ps") == Langevin(300.0, 10)
    assert Schedule(5, 1, classical="1 fs") == Schedule(5, 1, classical="1 fs")
    assert Conserve() == Conserve(None, None, False)
    assert cases.StandIn().kind == "force-free"
