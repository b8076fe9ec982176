"""What users do out of habit: other orders of arguments, names of models, assignments, annealing."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.md.andersen import Andersen
from ase.md.langevin import Langevin as ASELangevin
from ase.md.verlet import VelocityVerlet

from fastegnn_md.errors import ConfigError
from fastegnn_md.integrators import (
    Conserve,
    Langevin,
    LearnedDynamics,
    LearnedEnsemble,
    MetropolizedDynamics,
    Schedule,
    VelocityRescaling,
)
from fastegnn_md.propagator.fake import FakePropagator

STEP = 0.01  # ps


def flight(**options) -> FakePropagator:
    return FakePropagator(
        lambda s: (s.positions + STEP * s.velocities, s.velocities), STEP, **{"cutoff": 3.0, **options}
    )


def copper(temperature: float = 300.0) -> Atoms:
    atoms = bulk("Cu", a=3.61, cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    rng = np.random.default_rng(0)
    sigma = np.sqrt(units.kB * temperature / atoms.get_masses())[:, None]
    atoms.set_velocities(sigma * rng.standard_normal((len(atoms), 3)))
    return atoms


class TestArguments:
    @pytest.mark.parametrize("wrong", [(40 * units.fs, None), (300, None)])
    def test_a_time_step_before_the_propagator_is_explained(self, wrong):
        with pytest.raises(ConfigError, match=r"LearnedDynamics\(atoms, propagator.*leave the time step out"):
            LearnedDynamics(copper(), wrong[0], flight())

    def test_what_comes_too_much_is_explained(self):
        with pytest.raises(ConfigError, match="everything else by its name"):
            LearnedDynamics(copper(), flight(), 300, 0.01)
        with pytest.raises(ConfigError, match="everything else by its name"):
            MetropolizedDynamics(copper(), flight(reversible=True, volume_preserving=True), 300, temperature_K=300)

    def test_the_name_of_a_model_is_loaded(self):
        dynamics = LearnedDynamics(bulk("Cu", a=3.61, cubic=True) * (3, 3, 3), "copper-emt")
        assert dynamics.propagator.timestep > 0

    @pytest.mark.parametrize("kind", [LearnedDynamics, MetropolizedDynamics])
    def test_what_is_no_propagator_is_named(self, kind):
        options = {"temperature_K": 300.0} if kind is MetropolizedDynamics else {}
        with pytest.raises(ConfigError, match="propagator is a float"):
            kind(copper(), 40.0, **options)

    def test_what_is_no_atoms_is_named(self):
        with pytest.raises(ConfigError, match="atoms is a str"):
            LearnedDynamics("Cu.cif", flight())

    def test_an_array_of_temperatures_is_named(self):
        with pytest.raises(ConfigError, match="expected one number of K"):
            LearnedDynamics(copper(), flight(), temperature_K=np.array([300.0, 310.0]), friction=0.01)


class TestAssignments:
    @pytest.mark.parametrize(
        "name",
        ["dt", "timestep", "temperature", "friction", "thermostat", "propagator", "schedule", "guard", "conserve"],
    )
    def test_what_would_be_ignored_raises(self, name):
        dynamics = LearnedDynamics(copper(), flight(), thermostat=Langevin(300, "1/ps"))
        with pytest.raises(ConfigError, match=f"LearnedDynamics.{name} cannot be assigned"):
            setattr(dynamics, name, 1.0)

    def test_what_acts_may_be_assigned(self):
        dynamics = LearnedDynamics(copper(), flight(), thermostat=Langevin(300, "1/ps"))
        dynamics.temperature_K = 500
        dynamics.log_energy = True
        dynamics.max_steps = 3
        assert dynamics.guarded.thermostat.temperature == dynamics.temperature_K == 500

    def test_metropolis(self):
        dynamics = MetropolizedDynamics(copper(), flight(reversible=True, volume_preserving=True), temperature_K=300)
        dynamics.temperature_K, dynamics.friction = 500, 0.01 / units.fs
        assert (dynamics.metropolis.temperature, dynamics.metropolis.friction) == (500, pytest.approx(10))
        assert dynamics._ensemble()["temperature_K"] == 500
        with pytest.raises(ConfigError, match="cannot be assigned"):
            dynamics.dt = 1.0


class TestAnnealing:
    @pytest.mark.parametrize("thermostat", [Langevin(300, "2000/ps"), VelocityRescaling(300, 0)])
    def test_atoms_follow(self, thermostat):
        atoms = copper()
        start = atoms.get_positions()
        dynamics = LearnedDynamics(atoms, flight(), thermostat=thermostat, rng=2)
        found = []
        for kelvin in (600, 1200):
            dynamics.set_temperature(temperature_K=kelvin)
            found.append([])
            for _ in range(80):
                dynamics.run(1)
                atoms.set_positions(start)
                found[-1].append(dynamics.get_temperature())
        for kelvin, values in zip((600, 1200), found, strict=True):
            assert np.mean(values) == pytest.approx(kelvin, abs=4 * kelvin * np.sqrt(2 / 93 / 80))

    def test_classical_steps_of_an_engine_are_set_and_followed(self):
        atoms = copper()
        engine = ASELangevin(atoms, 2 * units.fs, temperature_K=300, friction=0.01 / units.fs, fixcm=False)
        dynamics = LearnedDynamics(atoms, flight(), schedule=Schedule(2, 1, classical=engine))
        dynamics.set_temperature(450)
        assert engine.temp / units.kB == pytest.approx(450)
        engine.set_temperature(temperature_K=700)
        dynamics.run(3)
        assert dynamics.guarded.thermostat.temperature == pytest.approx(700)
        dynamics.set_friction("3/ps")
        dynamics.run(1)
        assert dynamics.guarded.thermostat.friction == pytest.approx(3)

    def test_a_dynamics_with_a_temperature_of_its_own_is_not_left_behind(self):
        atoms = copper()
        engine = Andersen(atoms, 2 * units.fs, temperature_K=300, andersen_prob=0.01)
        dynamics = LearnedDynamics(
            atoms, flight(), thermostat=Langevin(300, "1/ps"), schedule=Schedule(2, 1, classical=engine)
        )
        with pytest.raises(ConfigError, match="Andersen"):
            dynamics.set_temperature(450)
        assert dynamics.temperature_K == 300

    def test_verlet_between_jumps_has_none(self):
        atoms = copper()
        engine = VelocityVerlet(atoms, 2 * units.fs)
        dynamics = LearnedDynamics(
            atoms, flight(), thermostat=Langevin(300, "1/ps"), schedule=Schedule(2, 1, classical=engine)
        )
        dynamics.set_temperature(450)
        assert dynamics.temperature_K == 450

    @pytest.mark.parametrize("wrong", [-1, True, np.array([1.0, 2.0]), float("nan"), None])
    def test_what_is_no_temperature_changes_nothing(self, wrong):
        dynamics = LearnedDynamics(copper(), flight(), thermostat=Langevin(300, "1/ps"))
        with pytest.raises(ConfigError, match="temperature is"):
            dynamics.set_temperature(wrong)
        assert dynamics.temperature_K == 300

    def test_nve_has_none(self):
        dynamics = LearnedDynamics(copper(), flight())
        with pytest.raises(ConfigError, match="NVE"):
            dynamics.temperature_K = 300

    def test_an_ensemble(self):
        many = [
            LearnedDynamics(copper(), one, thermostat=Langevin(300, "1/ps")) for one in [flight()] for _ in range(2)
        ]
        LearnedEnsemble(many).set_temperature(350)
        assert [one.temperature_K for one in many] == [350, 350]

    def test_a_restart_has_the_temperature_and_the_friction(self, tmp_path):
        propagator = flight()
        dynamics = LearnedDynamics(copper(), propagator, thermostat=Langevin(300, "1/ps"))
        dynamics.set_temperature(450)
        dynamics.set_friction("3/ps")
        dynamics.run(2)
        dynamics.save_restart(tmp_path / "restart")
        again = LearnedDynamics.restart(tmp_path / "restart", copper(), propagator)
        assert again.guarded.thermostat == Langevin(450, "3/ps")

    def test_a_restart_sets_the_temperature_of_the_classical_dynamics(self, tmp_path):
        propagator = flight()

        def made(atoms):
            rng = np.random.default_rng(1)
            return ASELangevin(atoms, 2 * units.fs, temperature_K=300, friction=0.001, fixcm=False, rng=rng)

        atoms = copper()
        dynamics = LearnedDynamics(atoms, propagator, schedule=Schedule(2, 1, classical=made(atoms)))
        dynamics.set_temperature(450)
        dynamics.run(2)
        dynamics.save_restart(tmp_path / "restart")
        atoms = copper()
        again = LearnedDynamics.restart(tmp_path / "restart", atoms, propagator, classical=made(atoms))
        assert again.temperature_K == pytest.approx(450)
        assert again.classical.temp == pytest.approx(450 * units.kB)


class TestConservedEnergy:
    def test_velocities_changed_on_purpose_stay_changed(self):
        """The jump heats; what it brings is taken out, what the user brings is not."""

        def heating(state):
            return state.positions + 1e-5 * state.velocities, 1.01 * state.velocities

        atoms = copper()
        propagator = FakePropagator(heating, 1e-5, cutoff=3.0)
        dynamics = LearnedDynamics(atoms, propagator, conserve=Conserve(energy=True), guard=False)
        before = atoms.get_total_energy()
        dynamics.run(3)
        assert atoms.get_total_energy() == pytest.approx(before, abs=1e-6)
        atoms.set_momenta(1.05 * atoms.get_momenta())
        changed = atoms.get_total_energy()
        assert changed > before + 0.05
        dynamics.run(3)
        assert atoms.get_total_energy() == pytest.approx(changed, abs=1e-6)

    def test_a_restart_keeps_it(self, tmp_path):
        def heating(state):
            return state.positions + 1e-3 * state.velocities, 1.3 * state.velocities

        propagator = FakePropagator(heating, 1e-3, cutoff=3.0)
        dynamics = LearnedDynamics(copper(), propagator, conserve=Conserve(energy=True), guard=False)
        dynamics.run(3)
        dynamics.save_restart(tmp_path / "restart")
        again = LearnedDynamics.restart(tmp_path / "restart", copper(), propagator)
        again.run(1)
        assert again.guarded.energy.target == dynamics.guarded.energy.target


def test_a_jump_shorter_than_the_default_classical_step_is_restarted(tmp_path):
    """The default of classical steps is 0.5 fs; jumps of 0.25 fs have no use for it, nor has their restart."""
    move = FakePropagator(lambda state: (state.positions + 0.00025 * state.velocities, state.velocities), 0.00025)
    atoms = molecule("CH3OH")
    run = LearnedDynamics(atoms, move, rng=1)
    run.run(2)
    run.save_restart(tmp_path / "restart")
    again = LearnedDynamics.restart(tmp_path / "restart", molecule("CH3OH"), move)
    again.run(1)
    assert again.nsteps == 3
