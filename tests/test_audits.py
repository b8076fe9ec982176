"""Audits: by how much jumps change the total energy, when the engine is asked, and what follows."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.md.velocitydistribution import thermalize_momenta

import fastegnn_md
from fastegnn_md.errors import ConfigError, JumpError
from fastegnn_md.integrators import (
    Conserve,
    GuardSettings,
    Langevin,
    LearnedDynamics,
    Schedule,
    VelocityRescaling,
)
from fastegnn_md.integrators.audits import Audits, AuditWarning
from fastegnn_md.propagator.fake import FakePropagator

FRICTION = 0.01 / units.fs
DEGREES = 321


class Nothing(Calculator):
    """No forces."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run_of(changes, jump=1.0, engine=2.0, share=0.2, jumps=2000):
    """Audits of a run whose jumps and engine take so many seconds; and the share of the time that audits took."""
    clock, made = Clock(), 0
    audits, stream = Audits(share, clock=clock), iter(changes)
    for _ in range(jumps):
        clock.now += jump
        if audits.due():
            clock.now += engine
            audits.record(next(stream), engine)
            made += 1
    return audits, made, made * engine / clock.now


class TestWhen:
    @pytest.mark.parametrize("engine", [0.5, 5.0, 50.0, 500.0])
    def test_they_take_the_share_of_the_time_at_most(self, engine):
        _, made, taken = run_of(iter(lambda: 0.0, None), engine=engine, jumps=max(20_000, int(400 * engine)))
        assert made >= 1
        assert taken < 0.23

    def test_a_cheap_engine_is_asked_at_one_jump_in_ten(self):
        _, made, _ = run_of(iter(lambda: 0.0, None), engine=1e-3)
        assert 150 < made < 250

    def test_the_first_jump_is_audited_and_the_others_by_chance(self):
        audits = Audits(0.2, clock=Clock())
        assert audits.due()


class TestVerdict:
    def verdict(self, mean, deviation, count, degrees=DEGREES, seed=0):
        audits, rng = Audits(0.2), np.random.default_rng(seed)
        for change in rng.normal(mean, deviation, count):
            audits.record(float(change), 1.0)
        return audits.verdict(degrees)

    @pytest.mark.parametrize(
        ("mean", "deviation", "degrees"),
        [(0.0, 0.15, 321), (0.3, 0.8, 318), (-0.2, 0.9, 189), (-0.3, 0.7, 54)],  # crystals, a vacancy, a molecule
    )
    def test_small_changes_are_within(self, mean, deviation, degrees):
        assert all(self.verdict(mean, deviation, n, degrees, seed) is None for n in (1, 3, 30) for seed in range(5))

    @pytest.mark.parametrize(("mean", "deviation", "degrees"), [(14, 4, 189), (11, 3, 186), (-9, 3, 321)])
    def test_large_changes_are_found_after_a_few(self, mean, deviation, degrees):
        assert "the total energy changes by" in self.verdict(mean, deviation, 12, degrees)

    def test_changes_that_cancel_are_found_by_their_scatter(self):
        assert "scatter" in self.verdict(0.0, 12.0, 60)

    def test_a_larger_system_may_change_more(self):
        assert self.verdict(2.5, 0.1, 10, 100) is not None
        assert self.verdict(2.5, 0.1, 10, 1000) is None

    def test_what_is_not_finite_is_out(self):
        audits = Audits(0.2)
        for change in (0.1, 0.2, float("nan")):
            audits.record(change, 1.0)
        assert "not finite" in audits.verdict(DEGREES)

    def test_one_jump_can_be_enough(self):
        audits = Audits(0.2)
        for change in [0.1, -0.1] * 20 + [40.0]:
            audits.record(change, 1.0)
        assert "in one jump" in audits.verdict(DEGREES)

    def test_a_run_that_leaves_late_is_found(self):
        audits = Audits(0.2)
        for change in [0.0] * 1000 + [30.0] * 60:
            audits.record(change, 1.0)
        assert audits.verdict(DEGREES) is not None


def crystal(temperature=600.0):
    atoms = bulk("Cu", a=3.61, cubic=True) * 2
    atoms.calc = EMT()
    thermalize_momenta(atoms, 2 * temperature, rng=np.random.default_rng(0))
    return atoms


def flight(state):
    return state.positions + 0.005 * state.velocities, state.velocities


def faster(state):
    return state.positions + 0.02 * state.velocities, 1.1 * state.velocities


def heating(guard=True, **options):
    """Jumps that give a fifth of the kinetic energy on top."""
    return LearnedDynamics(
        crystal(),
        FakePropagator(faster, 0.02, audited=True),
        temperature_K=600,
        friction=FRICTION,
        guard=guard,
        rng=1,
        **options,
    )


class TestDynamics:
    def test_a_good_model_is_audited_and_left_alone(self):
        run = LearnedDynamics(crystal(), fastegnn_md.load("copper-emt"), temperature_K=600, friction=FRICTION, rng=1)
        run.run(40)
        mean, error = run.statistics.energy_change
        assert run.statistics.audits >= 2
        assert run.statistics.rejected == {}
        assert abs(mean) < 0.5
        assert error < 0.5

    def test_the_change_is_that_of_the_total_energy(self):
        run = LearnedDynamics(
            crystal(), FakePropagator(flight, 0.005, audited=True), rng=1, guard=GuardSettings(audits=0.5)
        )
        before, kelvin = run.atoms.get_total_energy(), run.get_temperature()
        run.run(1)
        change = (run.atoms.get_total_energy() - before) / (units.kB * kelvin)
        assert run.statistics.energy_change[0] == pytest.approx(change, rel=1e-6)

    @pytest.mark.parametrize(
        "thermostat", [Langevin(300.0, 2.0), VelocityRescaling(300.0, 0.25)], ids=lambda one: type(one).__name__
    )
    def test_heating_is_how_much_hotter_atoms_are_than_their_thermostat(self, thermostat):
        atoms = bulk("Cu", a=3.61, cubic=True) * 4
        atoms.calc = Nothing()
        thermalize_momenta(atoms, 1.1 * 300, rng=np.random.default_rng(3))
        gas = FakePropagator(lambda state: (state.positions, 1.002 * state.velocities), 0.01, audited=True)
        run = LearnedDynamics(atoms, gas, thermostat=thermostat, guard=GuardSettings(audits=0.9), rng=4)
        kelvin = []
        for _ in range(3000):
            run.run(1)
            kelvin.append(run.get_temperature() / 300 - 1)
        blocks = np.mean(np.reshape(kelvin[500:], (10, 250)), axis=1)
        seen, unsure = blocks.mean(), blocks.std(ddof=1) / math.sqrt(10)
        told, error = run.statistics.heating
        assert 0.09 < told < 0.13  # 0.2 % of speed in each jump, of which 4 % of the excess are taken away
        assert error < 0.01
        assert unsure < 0.015
        assert abs(seen - told) < 4 * math.hypot(unsure, error)

    def test_there_is_no_heating_to_tell_without_a_balance(self):
        bath = {"temperature_K": 600, "friction": FRICTION}
        for options in ({}, bath | {"conserve": Conserve(energy=True)}, bath | {"schedule": Schedule(5, 1)}):
            atoms = crystal()
            atoms.calc = Nothing()
            still = FakePropagator(lambda state: (state.positions, state.velocities), 0.01, audited=True)
            run = LearnedDynamics(atoms, still, rng=1, **options)
            run.run(30)
            assert run.statistics.audits >= 1
            assert all(math.isnan(one) for one in run.statistics.heating)

    def test_a_bad_model_warns_falls_back_and_stops(self):
        run = heating(GuardSettings(audits=0.9))
        with (
            pytest.raises(JumpError, match=r"step \d+: the audits end the run: the total energy changed"),
            pytest.warns(AuditWarning, match=r"replaced by classical steps\. The propagator is wrong") as said,
        ):
            run.run(2000)
        assert len(said) == 2
        assert run.statistics.rejected == {"audits": 40}
        assert run.statistics.fallback_steps >= 40

    def test_stop_means_stop(self):
        run = heating(GuardSettings(audits=0.9), schedule=Schedule(fallback="stop"))
        with pytest.raises(JumpError, match="the audits end the run"):
            run.run(200)

    def test_nobody_asks_without_share_guard_or_engine(self):
        for guard in (GuardSettings(audits=0.0), False):
            run = heating(guard)
            run.run(20)
            assert run.statistics.audits == 0
        run = heating()
        run.atoms.calc = None
        run.run(20)
        assert run.statistics.audits == 0

    def test_audits_change_nothing_of_a_run_that_goes_well(self):
        runs = []
        for share in (0.0, 0.5):
            run = LearnedDynamics(
                crystal(), fastegnn_md.load("copper-emt"), temperature_K=600, friction=FRICTION, rng=1,
                guard=GuardSettings(audits=share),
            )  # fmt: skip
            run.run(10)
            runs.append(run.atoms.get_positions())
        assert np.array_equal(*runs)

    @pytest.mark.parametrize("share", [-0.1, 1.0, "often", None, float("nan")])
    def test_a_share_is_a_share(self, share):
        with pytest.raises(ConfigError, match="audits is"):
            GuardSettings(audits=share)


@pytest.mark.parametrize("backend", ["host", "python"])
def test_a_context_is_audited_by_every_back_end(backend, require):
    require("openmm")
    import openmm
    from openmm import app
    from openmm_cases import peptide_pdb

    from fastegnn_md.integrators import Langevin, LearnedIntegrator, LearnedSimulation

    pdb = peptide_pdb()
    system = app.ForceField("amber14-all.xml").createSystem(pdb.topology, constraints=app.HBonds, removeCMMotion=False)
    integrator = LearnedIntegrator(
        fastegnn_md.load("ala2-vacuum"), Langevin(300, "10/ps"), guard=GuardSettings(audits=0.9), seed=1
    )
    platform = openmm.Platform.getPlatformByName("Reference")
    simulation = LearnedSimulation(pdb.topology, system, integrator, platform, backend=backend)
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(300, 1)
    simulation.step(60)
    mean, error = integrator.statistics.energy_change
    assert integrator.statistics.audits >= 3
    assert abs(mean) < 3
    assert error < 3
