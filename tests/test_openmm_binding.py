"""What a learned integrator finds in the System it is bound to, and finds again when the Context is made anew."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import openmm_cases as cases
import pytest
from openmm import app, unit
from openmm_cases import StandIn, phase_space

from fastegnn_md.engines.openmm import add_jump_force
from fastegnn_md.errors import CompatibilityError, ConfigError, DataError, FastEGNNMDError
from fastegnn_md.integrators import (
    Conserve,
    Langevin,
    LearnedIntegrator,
    LearnedSimulation,
    MetropolizedJumpIntegrator,
    Schedule,
    VelocityRescaling,
)
from fastegnn_md.propagator.fake import FakePropagator

openmm = pytest.importorskip("openmm")
REFERENCE = openmm.Platform.getPlatformByName("Reference")
BACKENDS = ["host", "python"]


def resting(timestep: float = 0.008, **options) -> FakePropagator:
    """Straight flight."""
    return StandIn(
        move=lambda state: state.replace(positions=state.positions + timestep * state.velocities),
        timestep=timestep,
        **options,
    )


def made_of(case, integrator, backend="host", **options) -> LearnedSimulation:
    topology, system, positions = case
    made = LearnedSimulation(topology, system, integrator, REFERENCE, backend=backend, **options)
    made.context.setPositions(positions)
    made.context.setVelocities(cases.velocities_for(system))
    made.context.applyVelocityConstraints(1e-8)
    return made


def restraint() -> openmm.Force:
    force = openmm.CustomExternalForce("k*(x^2+y^2+z^2)")
    force.addGlobalParameter("k", 10)
    force.setName("restraint")
    force.addParticle(0, [])
    return force


def restrained():
    topology, system, positions = cases.peptide()
    system.addForce(restraint())
    return topology, system, positions


class TestForces:
    def test_jumps_alone_of_a_force_free_propagator_are_refused(self):
        case = restrained()
        with pytest.raises(CompatibilityError, match=r"CustomExternalForce 'restraint'.*Schedule.*learned_forces="):
            made_of(case, LearnedIntegrator(StandIn()))

    def test_the_user_may_say_that_training_had_them(self):
        made = made_of(restrained(), LearnedIntegrator(StandIn()), learned_forces=["CustomExternalForce 'restraint'"])
        made.step(2)
        assert made.integrator.statistics.accepted == 2

    @pytest.mark.parametrize("names", [["CustomCVForce"], "CustomExternalForce 'restraint'"])
    def test_what_is_not_there_was_not_learned(self, names):
        with pytest.raises(ConfigError, match="learned_forces"):
            made_of(restrained(), LearnedIntegrator(StandIn()), learned_forces=names)

    def test_classical_steps_between_jumps_feel_them_and_one_warning_says_so(self):
        with pytest.warns(UserWarning, match="CustomExternalForce 'restraint'") as caught:
            made = made_of(restrained(), LearnedIntegrator(StandIn(), schedule=Schedule(5, 1)))
        made.step(13)  # warnings are errors
        assert len(caught) == 1

    def test_a_force_informed_propagator_feels_them(self):
        made_of(restrained(), LearnedIntegrator(StandIn(kind="force-start"))).step(1)

    def test_sampling_by_metropolis_has_them_in_its_energies(self):
        topology, system, positions = cases.peptide(constraints=None)
        system.addForce(restraint())
        fake = FakePropagator(lambda s: (s.positions, s.velocities), 0.01, reversible=True, volume_preserving=True)
        made_of((topology, system, positions), MetropolizedJumpIntegrator(fake, 300)).step(1)


class TestReinitialize:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("schedule", [None, Schedule(2, 1, classical="2 fs")], ids=["jumps", "hybrid"])
    @pytest.mark.parametrize("keep", [True, False])
    def test_a_particle_made_massless_stays(self, backend, schedule, keep):
        made = made_of(cases.peptide(constraints=None), LearnedIntegrator(StandIn(), schedule=schedule), backend)
        made.step(3)
        x, v = phase_space(made)
        made.system.setParticleMass(8, 0)
        made.context.reinitialize(preserveState=keep)
        if not keep:
            made.context.setPositions(x)
            made.context.setVelocities(v)
        made.step(6)
        moved = np.linalg.norm(phase_space(made)[0] - x, axis=1)
        assert moved[8] == 0
        assert np.delete(moved, 8).min() > 0

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_new_constraint_holds(self, backend):
        made = made_of(cases.peptide(constraints=None), LearnedIntegrator(StandIn()), backend)
        made.step(1)
        x, v = phase_space(made)
        made.system.addConstraint(4, 6, 0.15)
        made.context.reinitialize()
        made.context.setPositions(x)
        made.context.setVelocities(v)
        made.step(3)
        x, _ = phase_space(made)
        assert np.linalg.norm(x[4] - x[6]) == pytest.approx(0.15, abs=1e-6)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.filterwarnings("ignore:2 of 22 particles do not jump")
    def test_atoms_that_rest_go_on_resting(self, backend):
        """What says so was a variable of the integrator, which OpenMM forgets."""
        case = cases.without_remover(cases.peptide(constraints=None))
        made = made_of(case, LearnedIntegrator(resting()), backend, atoms=range(20))
        made.step(1)
        x, v = phase_space(made)
        made.context.reinitialize()
        made.context.setPositions(x)
        made.context.setVelocities(v)
        made.step(2)
        moved = np.linalg.norm(phase_space(made)[0] - x, axis=1)
        assert moved[20:].max() == 0
        np.testing.assert_allclose(moved[:20], 0.016 * np.linalg.norm(v[:20], axis=1), rtol=0.2)

    def test_what_does_not_fit_any_more_is_refused_and_nothing_moves(self):
        topology, system, positions = cases.peptide()
        made = made_of((topology, system, positions), LearnedIntegrator(StandIn()))
        system.addForce(restraint())
        with pytest.raises(CompatibilityError, match="CustomExternalForce"):
            made.context.reinitialize(preserveState=True)
        with pytest.raises(ConfigError, match="no Context"):
            made.step(1)

    def test_sampling_by_metropolis_refuses_an_atom_that_is_held(self):
        fake = FakePropagator(lambda s: (s.positions, s.velocities), 0.01, reversible=True, volume_preserving=True)
        made = made_of(cases.peptide(constraints=None), MetropolizedJumpIntegrator(fake, 300))
        made.step(1)
        made.system.setParticleMass(8, 0)
        with pytest.raises(FastEGNNMDError, match="frozen"):
            made.context.reinitialize(preserveState=True)

    def test_the_context_is_not_kept_alive(self):
        made = made_of(cases.peptide(), LearnedIntegrator(StandIn()))
        seen = weakref.ref(made.context)
        gc.disable()
        try:
            del made.context
            assert seen() is None
        finally:
            gc.enable()


class TestBetweenSteps:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("every", [1, 3])
    def test_the_motion_of_the_centre_of_mass_is_removed_at_its_steps(self, backend, every):
        topology, system, positions = cases.without_remover(cases.peptide(constraints=None))
        system.addForce(openmm.CMMotionRemover(every))
        made = made_of((topology, system, positions), LearnedIntegrator(resting()), backend)
        masses = np.array([system.getParticleMass(i)._value for i in range(22)])
        for step in range(1, 5):
            made.context.setVelocities(np.ones((22, 3)) + cases.velocities_for(system))
            made.step(1)
            left = np.abs(masses @ phase_space(made)[1]).max()
            assert bool(left < 1e-9) is (step % every == 0)
        assert made.context.getStepCount() == 4
        assert made.context.getTime()._value == pytest.approx(0.032)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_reporter_shows_the_temperature_of_the_bath(self, backend):
        """Langevin warms three degrees of freedom that OpenMM does not count where there is a remover."""
        made = made_of(
            cases.peptide(constraints=None), LearnedIntegrator(resting(), Langevin(300, "2000/ps"), seed=3), backend
        )
        degrees = 3 * 22 - 3
        found, start = [], phase_space(made)[0]
        for _ in range(400):
            made.step(1)
            made.context.setPositions(start)
            found.append(2 * made.context.getState(energy=True).getKineticEnergy()._value / degrees / 8.314462618e-3)
        assert np.mean(found) == pytest.approx(300, abs=3 * 300 * np.sqrt(2 / degrees / len(found)))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_barostat_acts_between_jumps(self, backend):
        case = cases.water(n=3, barostat=True)
        force = next(one for one in case[1].getForces() if isinstance(one, openmm.NonbondedForce))
        force.setCutoffDistance(0.4)
        made = made_of(case, LearnedIntegrator(StandIn(periodic=True), Langevin(300, "10/ps"), guard=False), backend)
        before = made.context.getState().getPeriodicBoxVolume()._value
        made.step(40)
        assert made.context.getState().getPeriodicBoxVolume()._value != before
        assert made.context.getStepCount() == 40

    def test_it_acts_beside_metropolis_too(self):
        topology, system, positions = cases.peptide(constraints=None)
        fake = FakePropagator(lambda s: (s.positions, s.velocities), 0.01, reversible=True, volume_preserving=True)
        system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, 300 * unit.kelvin, 1))
        integrator = MetropolizedJumpIntegrator(fake, 300)
        force = next(one for one in system.getForces() if isinstance(one, openmm.NonbondedForce))
        force.setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
        force.setCutoffDistance(0.9)
        system.setDefaultPeriodicBoxVectors(*(3.0 * np.eye(3)))
        made = made_of((topology, system, positions), integrator)
        made.step(10)
        assert made.context.getState().getPeriodicBoxVolume()._value != pytest.approx(27.0, rel=1e-9)
        assert made.context.getStepCount() == 10

    def test_energy_is_not_conserved_under_a_barostat(self):
        case = cases.water(n=3, barostat=True)
        integrator = LearnedIntegrator(StandIn(periodic=True), conserve=Conserve(energy=True))
        with pytest.raises(ConfigError, match="MonteCarloBarostat"):
            made_of(case, integrator)

    def test_atoms_that_never_move_are_named_once(self):
        with pytest.warns(UserWarning, match="2 of 22 particles do not jump and rest for good") as caught:
            made = made_of(cases.peptide(constraints=None), LearnedIntegrator(StandIn()), atoms=range(20))
        made.step(2)
        assert len(caught) == 1


class TestConservedEnergy:
    def test_velocities_changed_on_purpose_stay_changed(self):
        case = cases.without_remover(cases.peptide(constraints=None))
        made = made_of(case, LearnedIntegrator(resting(1e-5), conserve=Conserve(energy=True)))
        made.step(3)
        made.context.setVelocities(1.05 * phase_space(made)[1])
        before = made.context.getState(energy=True)
        made.step(3)
        after = made.context.getState(energy=True)
        total = [(one.getKineticEnergy() + one.getPotentialEnergy())._value for one in (before, after)]
        assert total[1] == pytest.approx(total[0], abs=1e-6)

    def test_what_a_remover_takes_is_not_given_back(self):
        made = made_of(
            cases.peptide(constraints=None),
            LearnedIntegrator(resting(1e-5), conserve=Conserve(energy=True)),
        )
        masses = np.array([made.system.getParticleMass(i)._value for i in range(22)])
        drift = masses @ phase_space(made)[1]
        lost = 0.5 * drift @ drift / masses.sum()
        before = made.context.getState(energy=True)
        made.step(5)
        after = made.context.getState(energy=True)
        total = [(one.getKineticEnergy() + one.getPotentialEnergy())._value for one in (before, after)]
        assert lost > 0.1
        assert total[1] == pytest.approx(total[0] - lost, abs=1e-5)


class TestAnnealing:
    @pytest.mark.parametrize(
        "integrator",
        [
            lambda: LearnedIntegrator(StandIn(), Langevin(300, "5/ps")),
            lambda: LearnedIntegrator(StandIn(), VelocityRescaling(300, "0.1 ps")),
            lambda: LearnedIntegrator(StandIn(), temperature=300, friction=5, schedule=Schedule(2, 1)),
            lambda: LearnedIntegrator(StandIn(), schedule=Schedule(2, 1, classical=cases.langevin())),
        ],
        ids=["Langevin", "rescaling", "own classical steps", "given classical steps"],
    )
    def test_a_temperature_is_that_of_jumps_and_classical_steps(self, integrator):
        made = made_of(cases.peptide(), integrator())
        made.integrator.setTemperature(350 * unit.kelvin)
        assert made.integrator.getTemperature() == 350 * unit.kelvin
        made.step(3)
        assert made.integrator._guarded.thermostat.temperature == 350
        if made.integrator.getNumIntegrators() == 2:
            assert made.integrator.getIntegrator(0).getTemperature() == 350 * unit.kelvin
        copied = made.integrator.__copy__()
        assert copied.getTemperature() == 350 * unit.kelvin

    def test_friction(self):
        made = made_of(
            cases.peptide(), LearnedIntegrator(StandIn(), temperature=300, friction=5, schedule=Schedule(2, 1))
        )
        made.integrator.setFriction("2/ps")
        assert made.integrator.getFriction() == 2 / unit.picosecond
        assert made.integrator.getIntegrator(0).getFriction() == 2 / unit.picosecond
        made.step(3)
        assert made.integrator._guarded.thermostat.friction == 2

    def test_atoms_follow(self):
        """Strong friction: the second temperature is there after one jump."""
        made = made_of(cases.peptide(constraints=None), LearnedIntegrator(resting(), Langevin(300, "2000/ps"), seed=5))
        made.integrator.setTemperature(1200)
        found, start = [], phase_space(made)[0]
        for _ in range(60):
            made.step(1)
            made.context.setPositions(start)
            found.append(2 * made.context.getState(energy=True).getKineticEnergy()._value / 63 / 8.314462618e-3)
        assert np.mean(found) == pytest.approx(1200, abs=3 * 1200 * np.sqrt(2 / 63 / 60))

    def test_metropolis(self):
        fake = FakePropagator(lambda s: (s.positions, s.velocities), 0.01, reversible=True, volume_preserving=True)
        integrator = MetropolizedJumpIntegrator(fake, 300)
        integrator.setTemperature(350)
        integrator.setFriction("1/ps")
        assert integrator.getTemperature() == 350 * unit.kelvin
        assert integrator.getFriction() == 1 / unit.picosecond
        with pytest.raises(ConfigError, match="temperature is -1"):
            integrator.setTemperature(-1)
        assert integrator.getTemperature() == 350 * unit.kelvin

    @pytest.mark.parametrize("wrong", [-1, np.array([300.0, 310.0]), True, float("nan")])
    def test_what_is_no_temperature_is_refused(self, wrong):
        integrator = LearnedIntegrator(StandIn(), Langevin(300, "5/ps"))
        with pytest.raises(ConfigError, match="temperature is"):
            integrator.setTemperature(wrong)
        assert integrator.getTemperature() == 300 * unit.kelvin

    def test_nve_has_none(self):
        integrator = LearnedIntegrator(StandIn())
        for call in (integrator.getTemperature, lambda: integrator.setTemperature(300)):
            with pytest.raises(ConfigError, match="NVE"):
                call()
        with pytest.raises(ConfigError, match="no thermostat"):
            integrator.setFriction(1)


def test_an_integrator_in_a_plain_simulation_names_learned_simulation():
    topology, system, positions = cases.peptide()
    with pytest.raises(openmm.OpenMMException, match="LearnedSimulation"):
        app.Simulation(topology, system, LearnedIntegrator(StandIn()), REFERENCE)
    fake = FakePropagator(lambda s: (s.positions, s.velocities), 0.01, reversible=True, volume_preserving=True)
    plain = app.Simulation(topology, system, MetropolizedJumpIntegrator(fake, 300), REFERENCE)
    plain.context.setPositions(positions)
    with pytest.raises(ConfigError, match="LearnedSimulation"):
        plain.step(1)


class TestArguments:
    def test_another_order_is_explained(self):
        for arguments in ((300 * unit.kelvin, StandIn()), (300, 1, StandIn())):
            with pytest.raises(ConfigError, match=r"LearnedIntegrator\(propagator.*leave the time step out"):
                LearnedIntegrator(*arguments)
        with pytest.raises(ConfigError, match="MetropolizedJumpIntegrator"):
            MetropolizedJumpIntegrator(300, StandIn())

    def test_a_temperature_in_place_of_a_thermostat_is_explained(self):
        with pytest.raises(ConfigError, match="temperature and friction by their names"):
            LearnedIntegrator(StandIn(), 300)
        with pytest.raises(ConfigError, match="everything else by its name"):
            LearnedIntegrator(StandIn(), 300 * unit.kelvin, 1 / unit.picosecond, 2 * unit.femtosecond)

    def test_the_name_of_a_model_is_loaded(self):
        topology, system, positions = cases.without_remover(cases.peptide())
        made = made_of((topology, system, positions), LearnedIntegrator("ala2-vacuum"))
        made.step(1)

    def test_a_classical_integrator_belongs_to_one(self):
        classical = cases.langevin()
        LearnedIntegrator(StandIn(), schedule=Schedule(5, 1, classical=classical))
        with pytest.raises(ConfigError, match="part of another integrator"):
            LearnedIntegrator(StandIn(), schedule=Schedule(5, 1, classical=classical))

    @pytest.mark.parametrize("name", ["temperature", "friction", "dt", "schedule", "thermostat", "propagator"])
    def test_assignments_that_would_be_ignored_raise(self, name):
        with pytest.raises(ConfigError, match=f"LearnedIntegrator.{name} cannot be assigned"):
            setattr(LearnedIntegrator(StandIn(), Langevin(300, "1/ps")), name, 300)


def test_another_order_of_arguments_and_the_name_of_a_platform_are_explained():
    topology, system, _ = cases.peptide()
    with pytest.raises(ConfigError, match=r"system is a Topology; the order is LearnedSimulation\(topology, system"):
        LearnedSimulation(system, topology, LearnedIntegrator(StandIn()))
    with pytest.raises(ConfigError, match=r"platform is 'CPU'; give openmm.Platform.getPlatformByName\('CPU'\)"):
        LearnedSimulation(topology, system, LearnedIntegrator(StandIn()), "CPU")


def test_a_context_of_another_integrator_is_refused():
    fake = FakePropagator(lambda s: (s.positions, s.velocities), 0.01, reversible=True, volume_preserving=True)
    for integrator in (LearnedIntegrator(StandIn()), MetropolizedJumpIntegrator(fake, 300)):
        topology, system, _ = cases.peptide()
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), REFERENCE)
        force = add_jump_force(system, topology, integrator.propagator, backend="host")
        with pytest.raises(ConfigError, match="made with another integrator, a VerletIntegrator"):
            integrator.bind(context, force)


def test_positions_in_angstrom_are_refused_before_a_step():
    topology, system, positions = cases.without_remover(cases.peptide())
    integrator = LearnedIntegrator("ala2-vacuum", schedule=Schedule(5, 1))
    simulation = LearnedSimulation(topology, system, integrator, REFERENCE)
    simulation.context.setPositions(10 * positions)
    with pytest.raises(DataError, match=r"positions of the Context: the bond of atoms .* in Å in place of nm"):
        simulation.step(1)
    assert simulation.currentStep == 0
    simulation.context.setPositions(positions)
    simulation.step(1)
    assert simulation.currentStep == 1
