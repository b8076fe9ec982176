"""LearnedIntegrator and LearnedSimulation as a script uses them: schedules, replay, faults, refusals."""

from __future__ import annotations

import copy
import gc
import io
import threading
import warnings
import weakref
from types import SimpleNamespace

import numpy as np
import openmm_cases as cases
import pytest
import torch
from ase import Atoms
from openmm import app, unit
from openmm_cases import INSIDE, StandIn, langevin, phase_space, simulation

import fastegnn_md.engines.openmm.force as jump_force
from fastegnn_md.engines.ase.atoms import PICOSECOND
from fastegnn_md.engines.openmm import OpenMMCalculator, add_jump_force, find_jump_force
from fastegnn_md.engines.openmm.register import PHASE
from fastegnn_md.errors import CompatibilityError, ConfigError, JumpError, MissingDependencyError
from fastegnn_md.integrators import (
    Conserve,
    GuardSettings,
    JumpStatistics,
    Langevin,
    LearnedDynamics,
    LearnedIntegrator,
    LearnedSimulation,
    LearnedStateReporter,
    MetropolizedJumpIntegrator,
    Schedule,
    VelocityRescaling,
)
from fastegnn_md.integrators.openmm.classical import StepGenerator
from fastegnn_md.propagator.fake import FakePropagator
from fastegnn_md.propagator.limits import JumpLimits

openmm = pytest.importorskip("openmm")
REFERENCE = openmm.Platform.getPlatformByName("Reference")


def refuse_from(step: int, until: int = 10**9) -> StandIn:
    """A map that moves an atom far too much in some of its calls."""

    def move(state):
        ended = StandIn.drift(state)
        if step <= made.calls <= until:
            ended.positions[4] += 50.0
        return ended

    made = StandIn(move=move, limits=LIMITS)
    return made


def rest(state):
    """Nothing moves."""
    return state


LIMITS = JumpLimits({1: 2.0, 6: 2.0, 7: 2.0, 8: 2.0})


# Schedules ---------------------------------------------------------------------------------------------------------


def test_steps_and_time_of_fixed_alternation():
    made = simulation(cases.peptide(), StandIn(), started=False, classical_steps=3, jumps=2)
    times = []
    for _ in range(10):
        made.step(1)
        times.append(made.context.getTime().value_in_unit(unit.femtosecond))
    assert np.diff([0, *times]) == pytest.approx([2, 2, 2, 8, 8, 2, 2, 2, 8, 8])
    assert made.currentStep == made.context.getStepCount() == 10


def test_frames_at_whole_cycles_have_right_times_in_dcd_and_xtc(tmp_path):
    import MDAnalysis as mda

    made = simulation(cases.peptide(), StandIn(move=rest), classical=langevin(), started=False)
    for name, kind in (("dcd", app.DCDReporter), ("xtc", app.XTCReporter)):
        made.reporters.append(kind(str(tmp_path / f"out.{name}"), 12))
    made.step(48)
    made.reporters.clear()
    for name in ("dcd", "xtc"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MDAnalysis, on its own DCD reader
            universe = mda.Universe.empty(22, trajectory=True).load_new(str(tmp_path / f"out.{name}"))
            times = [frame.time for frame in universe.trajectory]
        assert np.diff(times) == pytest.approx(3 * [0.036], rel=1e-4)
    adaptive = LearnedIntegrator(StandIn(), schedule=Schedule(5, None, classical=langevin()))
    assert adaptive.getStepSize() == 0.002 * unit.picosecond


@pytest.mark.parametrize("backend", ["host", "python"])
def test_a_refused_jump_is_replaced_by_classical_steps_of_the_same_span(backend):
    plain = simulation(cases.peptide(), StandIn(), backend="host", started=False, classical_steps=9)
    plain.step(9)
    made = simulation(cases.peptide(), refuse_from(1), backend=backend, started=False)
    made.step(6)
    statistics = made.integrator.statistics
    assert (statistics.tried, statistics.accepted, statistics.rejected) == (1, 0, {"displacement": 1})
    assert statistics.fallback_steps == 4
    assert made.currentStep == 6
    assert made.context.getTime()._value == pytest.approx(0.018)
    for found, expected in zip(phase_space(made), phase_space(plain), strict=True):
        np.testing.assert_array_equal(found, expected)  # the refused jump left no trace


def test_an_adaptive_schedule_jumps_until_refused_and_resumes():
    made = simulation(
        cases.peptide(),
        refuse_from(4, 5),
        started=False,
        classical_steps=3,
        jumps=None,
    )
    kinds = []
    for _ in range(14):
        before = made.context.getTime()._value
        made.step(1)
        kinds.append("J" if made.context.getTime()._value - before > 0.005 else "c")
    assert "".join(kinds) == "JJJccc" + "ccc" + "JJJJJ"
    assert made.integrator.statistics.rejected == {"displacement": 2}
    assert made.currentStep == 14


@pytest.mark.parametrize(("steps", "jumps"), [(-1, 1), (0, 0), (0, None), (5, -2)])
def test_a_schedule_refuses_numbers_out_of_range(steps, jumps):
    with pytest.raises(ConfigError, match=r"expected a whole number >=|give classical_steps >= 1"):
        Schedule(steps, jumps)


def test_ase_and_openmm_follow_one_schedule():
    assert [Schedule(2, 2).classical_steps_due(step, 0) for step in range(8)] == [2, 1, 0, 0, 2, 1, 0, 0]


# Replay ------------------------------------------------------------------------------------------------------------


def run_to(made, step):
    made.step(step - made.currentStep)
    return phase_space(made)


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("backend", ["host", "python"])
@pytest.mark.parametrize("how", ["checkpoint", "state", "new process"])
def test_a_simulation_replays_from_the_middle_of_a_cycle(platform, backend, how, tmp_path):
    """Verlet steps, so that every random number is a jump's: a script that forgot its seed gets it back."""

    class Noisy(StandIn):
        def with_trust(self, state, *, generator=None, temperature=None):
            ended, spread = super().with_trust(state)
            noise = torch.randn(state.positions.shape, generator=generator, dtype=torch.float64)
            return ended.replace(velocities=ended.velocities + noise), spread

    def make(seed=None):
        one = simulation(cases.peptide(), Noisy(), platform, backend, started=False)
        if seed is not None:
            one.integrator._custom.setGlobalVariableByName("seed", seed)
        return one

    made = make()
    made.step(9)
    file = str(tmp_path / "saved")
    if how == "checkpoint":
        made.saveCheckpoint(file)
    else:
        made.saveState(file)
    expected = run_to(made, 25)
    if how == "new process":
        made = make(seed=99)  # a script that did not fix its seed: the file brings it
    if how == "checkpoint":
        made.loadCheckpoint(file)
    else:
        made.loadState(file)
    assert made.currentStep == 9
    found = run_to(made, 25)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_noise_of_jumps_follows_from_seed_and_step():
    ends = []
    for seed in (1, 1, 2):
        case = cases.peptide()
        integrator = LearnedIntegrator(StandIn(), seed=seed, schedule=Schedule(0, 1, classical=langevin()))
        made = LearnedSimulation(case[0], case[1], integrator, REFERENCE)
        made.context.setPositions(case[2])
        made.step(3)
        ends.append(phase_space(made)[1])
    np.testing.assert_array_equal(ends[0], ends[1])
    assert np.abs(ends[0] - ends[2]).max() > 0.1


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
@pytest.mark.parametrize("backend", ["host", "python"])
def test_langevin_steps_and_jumps_replay_from_a_checkpoint(platform, backend):
    made = simulation(cases.peptide(), StandIn(), platform, backend, langevin(), started=False)
    made.step(9)
    checkpoint = made.context.createCheckpoint()
    expected = run_to(made, 25)
    made.context.loadCheckpoint(checkpoint)
    made.currentStep = made.context.getStepCount()
    for a, b in zip(run_to(made, 25), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_adaptive_schedule_replays_the_classical_steps_it_owed(tmp_path):
    def make(**options):
        return simulation(cases.peptide(), refuse_from(3, 3), started=False, jumps=None, **options)

    made = make()
    made.step(4)  # two jumps, a refused one, two of five classical steps
    assert made.integrator.statistics.rejected == {"displacement": 1}
    made.saveState(str(tmp_path / "state.xml"))
    expected = run_to(made, 9)
    again = make()
    again.integrator.propagator.calls = 3
    again.loadState(str(tmp_path / "state.xml"))
    for a, b in zip(run_to(again, 9), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("how", ["xml", "deepcopy"])
@pytest.mark.parametrize("backend", ["host", "python"])
def test_a_system_with_a_jump_force_survives_xml_and_deepcopy(how, backend):
    topology, system, positions = cases.solvated()
    propagator = StandIn()
    force = add_jump_force(system, topology, propagator, atoms=range(22), backend=backend)
    if how == "xml":
        restored = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    else:
        restored = copy.deepcopy(system)
    found = find_jump_force(restored, topology, propagator)
    assert (found.backend, found.group) == (backend, force.group)
    np.testing.assert_array_equal(found.part.atoms, np.arange(22))
    ends = []
    for one in (system, restored):
        made = simulation((topology, one, positions), propagator, backend="auto")
        made.step(2)
        assert made.integrator.statistics.accepted == 1
        ends.append(phase_space(made))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    np.testing.assert_array_equal(ends[0][1], ends[1][1])


def test_copies_of_an_integrator_jump_as_well():
    case = cases.peptide()
    first = LearnedIntegrator(StandIn(), seed=5, guard=False, schedule=Schedule(2, 1, classical=langevin()))
    ends = []
    for integrator in (copy.deepcopy(first), copy.copy(first)):
        assert isinstance(integrator, LearnedIntegrator)
        made = LearnedSimulation(case[0], cases.peptide()[1], integrator, REFERENCE)
        made.context.setPositions(case[2])
        made.step(7)
        assert integrator.statistics.accepted == 2
        ends.append(phase_space(made))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    alone = copy.deepcopy(LearnedIntegrator(StandIn(), seed=3, thermostat=Langevin(300, 1)))
    assert alone.seed == 3


# Contexts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["host", "python"])
def test_deleting_the_simulation_frees_its_context(backend):
    made = simulation(cases.peptide(), StandIn(), backend=backend)
    made.step(2)
    integrator, context = made.integrator, weakref.ref(made.context)
    del made
    gc.collect()
    assert context() is None
    with pytest.raises(ConfigError, match="has no Context"):
        integrator.step(1)


@pytest.mark.parametrize("backend", ["host", "python"])
def test_two_contexts_do_not_disturb_each_other(backend):
    def map_of(factor):
        def move(state):
            return state.replace(positions=state.positions + factor * state.velocities)

        return StandIn(move=move)

    topology, system, positions = cases.peptide()
    add_jump_force(system, topology, map_of(0.001), backend=backend)  # one System, one force, two Contexts
    alone = []
    for factor in (0.001, -0.002):
        made = simulation((topology, copy.deepcopy(system), positions), map_of(factor), backend="auto")
        made.step(7)
        alone.append(phase_space(made))
    both = [simulation((topology, system, positions), map_of(factor), backend="auto") for factor in (0.001, -0.002)]
    for _ in range(7):
        for made in both:
            made.step(1)
    threaded = [simulation((topology, system, positions), map_of(factor), backend="auto") for factor in (0.001, -0.002)]
    threads = [threading.Thread(target=made.step, args=(7,)) for made in threaded]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for made, twin, expected in zip(both, threaded, alone, strict=True):
        np.testing.assert_array_equal(phase_space(made)[0], expected[0])
        np.testing.assert_array_equal(phase_space(twin)[0], expected[0])


def test_the_idle_force_has_neither_energy_nor_forces():
    topology, system, positions = cases.solvated()
    add_jump_force(system, topology, StandIn(), atoms=range(22), backend="python")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), REFERENCE)
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True, groups={31})
    assert state.getPotentialEnergy()._value == 0
    assert not np.any(state.getForces(asNumpy=True)._value)
    context.setParameter(PHASE, 3)  # somebody plays with the parameter: nothing happens either
    assert not np.any(context.getState(forces=True, groups={31}).getForces(asNumpy=True)._value)


@pytest.mark.parametrize("backend", ["python", "host"])
def test_classical_steps_never_ask_the_propagator(backend):
    made = simulation(cases.peptide(), StandIn(), backend=backend, started=False, classical_steps=50)
    made.step(50)
    made.context.getState(energy=True, forces=True)
    assert made.integrator.propagator.calls == 0
    made.step(1)
    assert made.integrator.propagator.calls == 1


# Faults ------------------------------------------------------------------------------------------------------------


def broken(kind):
    def move(state):
        if kind == "nan":
            positions = state.positions.clone()
            positions[3, 1] = torch.nan
            return state.replace(positions=positions)
        if kind == "exception":
            raise RuntimeError("out of memory, say")
        if kind == "interrupt":
            raise KeyboardInterrupt
        raise ArithmeticError

    return move


@pytest.mark.parametrize(("platform", "backend"), cases.pairs(["Reference", "CPU", "OpenCL-mixed"], ["host", *INSIDE]))
@pytest.mark.parametrize("kind", ["nan", "exception", "interrupt"])
def test_a_failing_network_leaves_the_context_as_it_was(platform, backend, kind, monkeypatch):
    cases.provide(backend, monkeypatch)
    made = simulation(
        cases.peptide(), StandIn(move=broken(kind), kind="force-start"), platform, backend, langevin(), started=False
    )
    made.step(5)
    before, time = phase_space(made), made.context.getTime()
    error = KeyboardInterrupt if kind == "interrupt" else JumpError
    with pytest.raises(error, match=None if kind == "interrupt" else "step 6: .*as it was before"):
        made.step(1)
    for found, expected in zip(phase_space(made), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert (made.context.getStepCount(), made.context.getTime()) == (5, time)
    made.integrator.propagator.move = StandIn.drift  # repaired, the simulation goes on
    made.step(4)
    assert made.integrator.statistics.accepted == 1


def test_a_nan_names_its_atom_and_element():
    made = simulation(cases.peptide(), StandIn(move=broken("nan")))
    with pytest.raises(JumpError, match=r"at atom 3 \(H\)") as caught:
        made.step(1)
    assert caught.value.atom == 3


def test_an_atom_of_a_part_is_named_by_its_particle():
    made = simulation(cases.solvated(), StandIn(move=broken("nan")), atoms=range(6, 16))
    with pytest.raises(JumpError, match="atom 3 of those that jump is particle 9") as caught:
        made.step(1)
    assert caught.value.atom == 9


def test_the_energy_guard_refuses_and_restores():
    def clash(state):
        return state.replace(positions=0.7 * state.positions)

    made = simulation(
        cases.peptide(),
        StandIn(move=clash),
        classical=langevin(),
        guard=GuardSettings(energy_change=50.0),
        jumps=None,
    )
    before = phase_space(made)
    made.integrator._custom.setGlobalVariableByName("pending", 0)
    assert made.integrator._try_jump(made.context, made.context.getStepCount()) is False
    assert made.integrator.statistics.rejected == {"energy": 1}
    for found, expected in zip(phase_space(made), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_unguarded_clash_is_accepted():
    made = simulation(cases.peptide(), StandIn(), guard=GuardSettings(energy_change=1e6), classical=langevin())
    made.step(1)
    assert made.integrator.statistics.accepted == 1


def test_temperature_and_friction_may_change_on_the_classical_integrator():
    made = simulation(cases.peptide(), StandIn(), classical=langevin(friction=2.0))
    made.step(1)
    made.integrator.getIntegrator(0).setTemperature(500)
    made.integrator.getIntegrator(0).setFriction(7)
    made.step(6)
    thermostat = made.integrator._jump.guarded.thermostat
    assert (thermostat.temperature, thermostat.friction) == (500.0, 7.0)


# Jumps alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["host", "python"])
def test_jumps_alone_sample_the_thermostat(backend):
    topology, system, positions = cases.peptide(constraints=None)
    integrator = LearnedIntegrator(
        StandIn(move=rest), seed=1, guard=False, thermostat=Langevin(300 * unit.kelvin, 1e4 / unit.picosecond)
    )
    made = LearnedSimulation(topology, system, integrator, REFERENCE, backend=backend)
    made.context.setPositions(positions)
    masses = np.array([system.getParticleMass(i)._value for i in range(22)])
    kinetic = []
    for _ in range(300):
        made.step(1)
        kinetic.append(0.5 * masses @ np.square(phase_space(made)[1]).sum(axis=1))
    degrees = 66
    temperature = 2 * np.mean(kinetic) / (degrees * 0.00831446)
    assert temperature == pytest.approx(300, abs=4 * 300 * np.sqrt(2 / degrees / 300))
    assert made.context.getTime()._value == pytest.approx(300 * 0.008)


def test_jumps_alone_stop_at_a_refused_one():
    topology, system, positions = cases.peptide()
    for schedule, backend, words in (
        (Schedule(fallback="stop"), "host", "with fallback='classical'"),
        (Schedule(), "python", "with backend='host'"),
    ):
        integrator = LearnedIntegrator(refuse_from(3), schedule=schedule)
        made = LearnedSimulation(topology, copy.deepcopy(system), integrator, REFERENCE, backend=backend)
        made.context.setPositions(positions)
        with pytest.raises(JumpError, match=f"step 3: the displacement guard refused.*{words}"):
            made.step(5)
        assert made.context.getStepCount() == 2


def test_a_refused_jump_alone_is_replaced_on_the_host_as_in_ase():
    """Velocity Verlet from the prepared state, by the forces of the Context."""
    topology, system, positions = cases.without_remover(cases.peptide())
    propagator = refuse_from(2)
    made = LearnedSimulation(topology, system, LearnedIntegrator(propagator, Langevin(300, "5/ps"), seed=7), REFERENCE)
    made.context.setPositions(positions)
    made.context.setVelocities(cases.velocities_for(system))
    made.context.applyVelocityConstraints(1e-12)
    x, v = phase_space(made)
    made.step(3)
    assert made.integrator.statistics == JumpStatistics(3, 1, {"displacement": 2}, fallback_steps=32)
    assert made.context.getTime()._value == pytest.approx(3 * 0.008)
    assert made.context.getStepCount() == 3
    atoms = Atoms([atom.element.atomic_number for atom in topology.atoms()], positions=10 * x)
    atoms.calc = OpenMMCalculator(cases.peptide()[1], topology=topology, platform="Reference")
    atoms.set_masses(atoms.calc.masses)
    atoms.set_velocities(10 * v / PICOSECOND)
    atoms.set_constraint(atoms.calc.bond_constraints())
    bonds = [(a.index, b.index) for a, b in topology.bonds()]
    twin = refuse_from(2)
    dynamics = LearnedDynamics(atoms, twin, thermostat=Langevin(300, "5/ps"), bonds=bonds)
    for step in range(3):
        dynamics.jump.step(StepGenerator().at(7, step))
    # eV and kJ/mol are of different CODATA years, so forces differ in the ninth digit.
    np.testing.assert_allclose(phase_space(made)[0], atoms.positions / 10, rtol=0, atol=1e-9)


def test_classical_steps_that_fit_the_thermostat_are_made_where_no_integrator_is_given():
    for thermostat, kind in ((None, openmm.VerletIntegrator), (Langevin(300, "5/ps"), openmm.LangevinMiddleIntegrator)):
        made = LearnedIntegrator(StandIn(), thermostat, schedule=Schedule(5, 1, classical="3 fs"))
        assert isinstance(made.getIntegrator(0), kind)
        assert made.getIntegrator(0).getStepSize()._value == pytest.approx(0.008 / 3)
    with pytest.raises(ConfigError, match="no integrator for classical steps with VelocityRescaling"):
        LearnedIntegrator(StandIn(), VelocityRescaling(300, 0.1), schedule=Schedule(5, 1))
    with pytest.raises(ConfigError, match="brings a Langevin thermostat"):
        LearnedIntegrator(StandIn(), Langevin(300, 1), schedule=Schedule(5, 1, classical=langevin()))
    with pytest.raises(ConfigError, match="classical is a object; expected a time step or an integrator"):
        LearnedIntegrator(StandIn(), schedule=Schedule(5, 1, classical=object()))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"conserve": Conserve(energy=True)}, r"Conserve\(energy=True\)"),
        ({"guard": GuardSettings(energy_change=5), "temperature": 300}, "the energy guard"),
    ],
)
def test_what_asks_for_energies_takes_the_host(options, words, monkeypatch):
    topology, system, positions = cases.peptide()
    made = LearnedSimulation(topology, copy.deepcopy(system), LearnedIntegrator(StandIn(), **options), REFERENCE)
    made.context.setPositions(positions)
    made.step(1)
    with pytest.raises(ConfigError, match=f"{words}: needs the classical potential .* use backend='host'"):
        LearnedSimulation(topology, system, LearnedIntegrator(StandIn(), **options), REFERENCE, backend="python")


# Position-only -----------------------------------------------------------------------------------------------------


def crowd(state):
    """A long jump that pushes the atoms of a peptide into each other."""
    return state.replace(positions=0.85 * state.positions)


def test_position_only_jumps_redraw_minimise_and_relax():
    def energies(minimize, relax):
        propagator = StandIn(move=crowd, kind="position", timestep=1.0)
        made = simulation(
            cases.peptide(),
            propagator,
            classical=langevin(),
            minimize_steps=minimize,
            relax_steps=relax,
        )
        before = made.context.getState(energy=True).getPotentialEnergy()._value
        made.step(1)
        assert made.integrator.statistics.accepted == 1
        assert made.context.getTime()._value == pytest.approx(1.0)  # neither minimisation nor relaxation is time
        assert made.currentStep == 6
        speed = np.sqrt(np.square(phase_space(made)[1]).sum(axis=1).mean())
        assert relax or 0.5 < speed < 4.0  # thermal, nm/ps
        return made.context.getState(energy=True).getPotentialEnergy()._value - before

    assert energies(0, 0) > 1000  # kJ/mol
    assert energies(50, 0) < 50
    assert energies(50, 20) < 200


def test_position_only_needs_a_temperature():
    propagator = StandIn(move=crowd, kind="position")
    with pytest.raises(ConfigError, match="redraws velocities: give a temperature"):
        LearnedIntegrator(propagator, schedule=Schedule(5, classical=openmm.VerletIntegrator(0.002)))
    LearnedIntegrator(
        propagator, temperature=300 * unit.kelvin, schedule=Schedule(5, classical=openmm.VerletIntegrator(0.002))
    )


# Reporter and reporters of OpenMM ------------------------------------------------------------------------------------


def test_the_reporter_counts_what_became_of_jumps():
    made = simulation(cases.peptide(), refuse_from(2), classical=langevin(), started=False)
    out = io.StringIO()
    made.reporters.append(LearnedStateReporter(out, 6))
    made.step(18)
    header, *lines = out.getvalue().splitlines()
    names = [name.strip('"') for name in header.lstrip("#").split(",")]
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines]
    assert [row["step"] for row in rows] == ["6", "12", "18"]
    assert [row["tried"] for row in rows] == ["1", "2", "3"]
    assert [row["refused: displacement"] for row in rows] == ["0", "1", "2"]
    assert [row["fallback steps"] for row in rows] == ["0", "4", "8"]
    assert float(rows[0]["time (ps)"]) == pytest.approx(0.018)
    v = phase_space(made)[1]
    symbols = np.array([atom.element.symbol for atom in made.topology.atoms()])
    masses = np.array([made.system.getParticleMass(i)._value for i in range(22)])
    for symbol in ("C", "H", "N", "O"):
        chosen = symbols == symbol
        kinetic = (0.5 * masses[chosen] * np.square(v[chosen]).sum(axis=1)).mean()
        assert float(rows[-1][f"T {symbol} (K)"]) == pytest.approx(2 * kinetic / 3 / 0.0083144626, abs=0.06)
    assert all(float(row["ms/jump"]) > 0 and float(row["ms/classical step"]) > 0 for row in rows)


def test_openmm_reporters_work_unchanged(tmp_path):
    made = simulation(cases.peptide(), StandIn(), classical=langevin(), started=False)
    log = io.StringIO()
    made.reporters.append(
        app.StateDataReporter(log, 6, step=True, time=True, potentialEnergy=True, temperature=True, speed=True)
    )
    made.reporters.append(app.DCDReporter(str(tmp_path / "out.dcd"), 6))
    made.reporters.append(app.CheckpointReporter(str(tmp_path / "out.chk"), 6))
    made.step(12)
    assert len(log.getvalue().splitlines()) == 3
    made.reporters.clear()
    assert (tmp_path / "out.dcd").stat().st_size > 22 * 12 * 2


def test_reporters_refuse_what_they_cannot_report():
    with pytest.raises(ConfigError, match="reportInterval"):
        LearnedStateReporter(io.StringIO(), 0)
    plain = app.Simulation(*cases.peptide()[:2], openmm.VerletIntegrator(0.001), REFERENCE)
    plain.context.setPositions(cases.peptide()[2])
    plain.reporters.append(LearnedStateReporter(io.StringIO(), 1))
    with pytest.raises(ConfigError, match="this reporter is for"):
        plain.step(1)


# Refusals ----------------------------------------------------------------------------------------------------------


def add(case=None, propagator=None, **options):
    topology, system, _ = case or cases.peptide()
    return add_jump_force(system, topology, propagator or StandIn(), **{"backend": "python", **options})


def test_a_system_without_the_species_is_refused():
    topology, system, positions = cases.peptide()
    next(iter(topology.atoms())).element = app.element.gold
    try:
        with pytest.raises(CompatibilityError, match="atom 0 has atomic number 79"):
            add((topology, system, positions))
    finally:
        next(iter(topology.atoms())).element = app.element.hydrogen


def test_masses_other_than_the_policy_allows_are_refused():
    network = cases.small_network()
    add(cases.peptide(hydrogen_mass=3.0), network)
    with pytest.raises(CompatibilityError, match=r"has mass 4\.0000 amu; training had"):
        add(cases.peptide(hydrogen_mass=4.0), network)


def test_drude_and_other_extra_particles_are_refused():
    topology, system, _ = cases.peptide()
    drude = openmm.DrudeForce()
    drude.addParticle(5, 4, -1, -1, -1, -1.0, 0.001, 1, 1)
    system.addForce(drude)
    with pytest.raises(CompatibilityError, match="particle 5 is a Drude particle of particle 4"):
        add_jump_force(system, topology, StandIn(), backend="python")
    topology = app.Topology()
    residue = topology.addResidue("X", topology.addChain())
    topology.addAtom("C", app.element.carbon, residue)
    topology.addAtom("LP", None, residue)
    system = openmm.System()
    system.addParticle(12.0)
    system.addParticle(1.0)
    with pytest.raises(CompatibilityError, match=r"particle 1 \(LP\) has no element"):
        add_jump_force(system, topology, StandIn(), backend="python")


def test_a_second_jump_force_is_refused():
    case = cases.peptide()
    add(case)
    with pytest.raises(CompatibilityError, match=r"has a jump force already \(force \d, group 31\)"):
        add(case)


def test_a_group_in_use_is_refused_and_nothing_is_added():
    topology, system, _ = cases.peptide()
    system.getForce(2).setForceGroup(31)
    before = system.getNumForces()
    with pytest.raises(CompatibilityError, match="force group 31 is used by NonbondedForce"):
        add_jump_force(system, topology, StandIn(), backend="python")
    assert system.getNumForces() == before
    made = LearnedSimulation(
        topology, system, LearnedIntegrator(StandIn(), group=30, schedule=Schedule(5, classical=langevin())), REFERENCE
    )
    made.context.setPositions(cases.peptide()[2])
    made.step(12)
    assert made.integrator.statistics.accepted == 2


@pytest.mark.parametrize("group", [-1, 32, 1.5])
def test_a_group_that_does_not_exist_is_refused(group):
    with pytest.raises(ConfigError, match="0 to 31"):
        add(group=group)


def test_an_old_openmm_is_refused(monkeypatch):
    monkeypatch.setattr(openmm.Platform, "getOpenMMVersion", staticmethod(lambda: "8.5.1"))
    with pytest.raises(MissingDependencyError, match=r"need OpenMM 8\.6 or later, this is 8\.5\.1"):
        add()


@pytest.mark.parametrize(("backend", "advice"), [("torch", "openmm-torch\\]"), ("python_torch", "from source")])
def test_a_missing_plugin_says_what_to_install(backend, advice, monkeypatch):
    monkeypatch.setattr(jump_force, "plugin_has", lambda name: False)
    with pytest.raises(MissingDependencyError, match=advice):
        add(backend=backend)


def test_an_unknown_back_end_is_refused():
    with pytest.raises(ConfigError, match="unknown back-end 'cuda'"):
        add(backend="cuda")


@pytest.mark.parametrize(
    ("platform", "plugin", "expected"),
    [("Reference", True, "host"), ("CPU", True, "host"), ("OpenCL", False, "python"), ("OpenCL", True, "python_torch")],
)
def test_auto_takes_the_cheaper_back_end(platform, plugin, expected, monkeypatch):
    monkeypatch.setattr(jump_force, "plugin_has", lambda name: plugin)
    named = SimpleNamespace(getName=lambda: platform)  # this machine need not have it
    assert jump_force.choose_backend("auto", named) == expected


def test_time_steps_that_do_not_fit_are_refused():
    with pytest.raises(CompatibilityError, match="steps of 3 fs do not add up"):
        LearnedIntegrator(StandIn(), schedule=Schedule(5, classical=openmm.VerletIntegrator(0.003)))
    LearnedIntegrator(StandIn(), schedule=Schedule(5, None, classical=openmm.VerletIntegrator(0.003)))
    with pytest.raises(CompatibilityError, match="timestep is 2 fs but these jumps advance by 8 fs"):
        LearnedIntegrator(StandIn()).setStepSize(0.002)


def test_a_box_that_shrinks_below_the_cutoff_stops_the_jump():
    case = cases.water()
    made = simulation(case, StandIn(periodic=True, cutoff=7.9), backend="host")
    made.step(1)
    x, _ = phase_space(made)
    made.context.setPeriodicBoxVectors(*(1.5 * np.eye(3)))
    made.context.setStepCount(5)
    with pytest.raises(CompatibilityError, match=r"step 6: the box is 15\.000 Å wide, narrower than twice the cutoff"):
        made.step(1)
    np.testing.assert_array_equal(phase_space(made)[0], x)


def test_a_small_box_is_refused_from_the_start():
    with pytest.raises(CompatibilityError, match="narrower than twice the cutoff"):
        add(cases.water(3), StandIn(periodic=True, cutoff=7.0))


def test_a_context_that_was_never_bound_says_so():
    topology, system, positions = cases.peptide()
    integrator = LearnedIntegrator(StandIn(), schedule=Schedule(5, classical=langevin()))
    with pytest.raises(ConfigError, match="has no Context; make the simulation with LearnedSimulation"):
        integrator.step(1)
    force = add_jump_force(system, topology, StandIn(), backend="python")
    context = openmm.Context(system, integrator, REFERENCE)
    context.setPositions(positions)
    with pytest.raises(ConfigError, match="has no Context"):
        integrator.step(1)
    integrator.bind(context, force)
    integrator.step(6)
    assert integrator.statistics.accepted == 1


def test_binding_to_what_does_not_belong_together_is_refused():
    topology, system, _ = cases.peptide()
    force = add_jump_force(system, topology, StandIn(), backend="host")
    other = LearnedIntegrator(StandIn(), group=7, schedule=Schedule(5, classical=langevin()))
    context = openmm.Context(system, other, REFERENCE)
    with pytest.raises(ConfigError, match="in group 31, the integrator was made for group 7"):
        other.bind(context, force)
    water = add(cases.water(), StandIn(periodic=True))
    integrator = LearnedIntegrator(StandIn(), schedule=Schedule(5, classical=langevin()))
    context = openmm.Context(system, integrator, REFERENCE)
    with pytest.raises(CompatibilityError, match="for 192 particles, this Context has 22"):
        integrator.bind(context, water)
    fake = FakePropagator(lambda s: (s.positions, s.velocities), 0.01, reversible=True, volume_preserving=True)
    third = MetropolizedJumpIntegrator(fake, 300)
    bare = openmm.Context(cases.peptide()[1], third, REFERENCE)
    with pytest.raises(CompatibilityError, match="has no jump force"):
        third.bind(bare, force)


def test_options_that_an_existing_force_contradicts_are_refused():
    topology, system, _ = cases.peptide()
    add_jump_force(system, topology, StandIn(), backend="host")
    with pytest.raises(ConfigError, match="has a jump force already"):
        LearnedSimulation(
            topology,
            system,
            LearnedIntegrator(StandIn(), schedule=Schedule(5, classical=langevin())),
            REFERENCE,
            backend="python",
        )


def test_other_integrators_are_refused():
    topology, system, _ = cases.peptide()
    with pytest.raises(ConfigError, match="LearnedSimulation takes a LearnedIntegrator"):
        LearnedSimulation(topology, system, openmm.VerletIntegrator(0.001), REFERENCE)
    for integrator in (openmm.BrownianIntegrator(300, 1, 0.001), openmm.VariableVerletIntegrator(0.001)):
        with pytest.raises(ConfigError, match="cannot be interleaved"):
            LearnedIntegrator(StandIn(), schedule=Schedule(5, classical=integrator))
    with pytest.raises(ConfigError, match="half_step_velocities=True or False"):
        LearnedIntegrator(StandIn(), schedule=Schedule(5, classical=cases.velocity_verlet()))
    with pytest.raises(ConfigError, match="leave half_step_velocities out"):
        LearnedIntegrator(
            StandIn(), half_step_velocities=False, schedule=Schedule(5, classical=openmm.VerletIntegrator(0.002))
        )


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ([], "atoms is empty"),
        ([0, 700000], "names particle 700000"),
        ([3, 3], "names a particle twice"),
        ([0, 2, 3, 4, 5], "a constraint holds their distance"),
        ([*range(22), *range(22, 25)], "are 2 pieces"),
    ],
)
def test_atoms_that_cannot_jump_together_are_refused(atoms, message):
    with pytest.raises(CompatibilityError, match=message):
        add(cases.solvated(), atoms=atoms)


def test_virtual_sites_cannot_be_chosen():
    with pytest.raises(CompatibilityError, match="particle 3 is a virtual site"):
        add(cases.water(model="tip4pew"), StandIn(periodic=True), atoms=[0, 1, 2, 3])


def test_topology_and_system_must_have_one_size():
    with pytest.raises(CompatibilityError, match="the topology has 22 atoms, the System 192 particles"):
        add((cases.peptide()[0], cases.water()[1], None))


def test_boundaries_must_be_those_of_training():
    with pytest.raises(CompatibilityError, match="the system is"):
        add(cases.water(), StandIn(periodic=False))
    with pytest.raises(CompatibilityError, match="the system is"):
        add(cases.peptide(), StandIn(periodic=True))


def test_atoms_may_be_given_as_atoms_of_the_topology():
    topology, system, _ = cases.solvated()
    chosen = [atom for atom in topology.atoms() if atom.residue.name in ("ACE", "ALA", "NME")]
    assert add_jump_force(system, topology, StandIn(), atoms=chosen).part.atoms.tolist() == list(range(22))


@pytest.mark.parametrize("backend", ["host", "python"])
def test_held_particles_stay(backend):
    """A mass of zero holds an atom in OpenMM; the network sees the mass of its element."""
    topology, system, positions = cases.peptide(constraints=None)
    for i in (4, 10):
        system.setParticleMass(i, 0)
    made = simulation((topology, system, positions), StandIn(kind="force-start"), backend=backend)
    made.step(1)
    assert made.integrator.statistics.accepted == 1
    x, v = phase_space(made)
    np.testing.assert_array_equal(x[[4, 10]], positions[[4, 10]])
    assert not v[[4, 10]].any()
    assert float(made.integrator.propagator.seen.masses[4]) == pytest.approx(12.01, abs=0.01)
    assert np.abs(x - positions).max() > 1e-3
