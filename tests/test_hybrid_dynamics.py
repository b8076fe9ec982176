"""LearnedDynamics with a schedule: classical ASE dynamics and learned jumps in turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixBondLengths
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

from fastegnn_md import integrators as values
from fastegnn_md.errors import CheckpointError, CompatibilityError, ConfigError, JumpError
from fastegnn_md.integrators import Conserve, GuardSettings, LearnedDynamics, LearnedEnsemble, Schedule
from fastegnn_md.mechanics.thermal import thermal_velocities
from fastegnn_md.propagator.fake import FakePropagator, permissive_domain
from fastegnn_md.propagator.limits import JumpLimits

FS = units.fs


class StandIn(FakePropagator):
    def __init__(self, move=None, *, timestep: float = 0.008, limits: JumpLimits | None = None, **options):
        super().__init__(move or self.fly, timestep, permissive_domain(limits=limits), **options)

    @staticmethod
    def fly(state):
        return state.replace(positions=state.positions + 0.008 * state.velocities)


class Anchors(Calculator):
    """A spring from each atom to its place: -k u, k in eV/Å²."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, places: np.ndarray, spring: float = 5.0):
        super().__init__()
        self.places, self.spring, self.calls = places.copy(), spring, 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms)
        self.calls += 1
        u = atoms.positions - self.places
        self.results = {"energy": 0.5 * self.spring * np.vdot(u, u), "forces": -self.spring * u}


def ethanol(seed: int = 0) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.calc = Anchors(atoms.positions)
    velocities = thermal_velocities(torch.tensor(atoms.get_masses()), 300, np.random.default_rng(seed))
    atoms.set_velocities(velocities.numpy() / (1000 * FS))
    return atoms


def langevin(atoms: Atoms, timestep: float, temperature: float, friction: float) -> Langevin:
    rng = np.random.default_rng(2)
    return Langevin(atoms, timestep, temperature_K=temperature, friction=friction, rng=rng, fixcm=False)


def refuse_from(first: int, last: int = 10**9):
    def move(state):
        ended = StandIn.fly(state)
        if first <= made.calls <= last:
            ended.positions[4] += 50.0
        return ended

    made = StandIn(move, limits=JumpLimits({1: 2.0, 6: 2.0, 8: 2.0}))
    return made


def test_steps_and_time_of_fixed_alternation(tmp_path):
    atoms = ethanol()
    log = tmp_path / "run.log"
    with LearnedDynamics(
        atoms,
        StandIn(),
        logfile=log,
        trajectory=str(tmp_path / "run.traj"),
        schedule=Schedule(3, 2, classical=VelocityVerlet(atoms, 2 * FS)),
    ) as dynamics:
        times = []
        for _ in range(10):
            dynamics.run(1)
            times.append(dynamics.get_time() / FS)
    assert np.diff([0, *times]) == pytest.approx([2, 2, 2, 8, 8, 2, 2, 2, 8, 8])
    assert dynamics.statistics.accepted == 4
    assert float(log.read_text().splitlines()[-1].split()[0]) == pytest.approx(0.044, abs=1e-3)  # ps
    assert len(read(tmp_path / "run.traj", ":")) == 11


def test_exact_jumps_between_exact_enough_steps_follow_the_exact_solution():
    """Springs: a jump by the closed form, classical steps of velocity Verlet a hundredth of the period."""
    atoms = ethanol()
    springs, masses = atoms.calc, torch.tensor(atoms.get_masses())[:, None]
    omega = torch.sqrt(springs.spring * (1000 * FS) ** 2 / masses)
    places = torch.tensor(springs.places)

    def flow(x, v, time):
        u = x - places
        c, s = torch.cos(omega * time), torch.sin(omega * time)
        return places + c * u + s / omega * v, c * v - omega * s * u

    def exact(state):
        x, v = flow(state.positions, state.velocities, 0.008)
        return state.replace(positions=x, velocities=v)

    x, v = flow(torch.tensor(atoms.positions), torch.tensor(atoms.get_velocities() * 1000 * FS), 3 * 0.010)
    dynamics = LearnedDynamics(
        atoms,
        StandIn(exact),
        guard=False,
        schedule=Schedule(20, 1, classical=VelocityVerlet(atoms, 0.1 * FS)),
        conserve=Conserve(momentum=False),
    )
    dynamics.run(63)
    assert dynamics.get_time() == pytest.approx(30 * FS)
    np.testing.assert_allclose(atoms.positions, x, atol=2e-5)
    np.testing.assert_allclose(atoms.get_velocities() * 1000 * FS, v, atol=2e-3)


def test_a_refused_jump_is_replaced_by_classical_steps_of_the_same_span():
    plain = ethanol()
    VelocityVerlet(plain, 2 * FS).run(9)
    atoms = ethanol()
    dynamics = LearnedDynamics(atoms, refuse_from(1), schedule=Schedule(5, classical=VelocityVerlet(atoms, 2 * FS)))
    dynamics.run(6)
    assert dynamics.statistics.rejected == {"displacement": 1}
    assert dynamics.statistics.fallback_steps == 4
    assert dynamics.get_time() / FS == pytest.approx(18)
    np.testing.assert_array_equal(atoms.positions, plain.positions)
    np.testing.assert_array_equal(atoms.get_momenta(), plain.get_momenta())


def test_an_adaptive_schedule_jumps_until_refused_and_resumes():
    atoms = ethanol()
    dynamics = LearnedDynamics(
        atoms, refuse_from(4, 5), schedule=Schedule(3, None, classical=VelocityVerlet(atoms, 2 * FS))
    )
    kinds = []
    for _ in range(14):
        before = dynamics.get_time()
        dynamics.run(1)
        kinds.append("J" if dynamics.get_time() - before > 5 * FS else "c")
    assert "".join(kinds) == "JJJcccccc" + "JJJJJ"  # as the OpenMM integrator does


def test_the_thermostat_is_that_of_langevin_steps():
    atoms = ethanol()
    classical = langevin(atoms, 2 * FS, 350, 0.004 / FS)
    dynamics = LearnedDynamics(atoms, StandIn(), rng=1, schedule=Schedule(5, classical=classical))
    thermostat = dynamics.jump.guarded.thermostat
    assert thermostat.temperature == pytest.approx(350)
    assert thermostat.friction == pytest.approx(4.0)
    assert (
        LearnedDynamics(
            atoms, StandIn(), schedule=Schedule(5, classical=VelocityVerlet(atoms, 2 * FS))
        ).jump.guarded.thermostat
        is None
    )


@pytest.mark.slow
def test_the_canonical_distribution_survives_hybrid_stepping():
    """Springs with exact jumps and Langevin steps: ⟨½ k u²⟩ and ⟨½ m v²⟩ are 3/2 kT per atom."""
    atoms = ethanol()
    springs, masses = atoms.calc, torch.tensor(atoms.get_masses())[:, None]
    omega, places = torch.sqrt(springs.spring * (1000 * FS) ** 2 / masses), torch.tensor(springs.places)

    def exact(state):
        u, c, s = state.positions - places, torch.cos(omega * 0.008), torch.sin(omega * 0.008)
        x, v = places + c * u + s / omega * state.velocities, c * state.velocities - omega * s * u
        return state.replace(positions=x, velocities=v)

    # fixcm is deprecated by ASE itself and off by default in the release after 3.29.
    classical = Langevin(
        atoms, 1 * FS, temperature_K=300, friction=0.05 / FS, rng=np.random.default_rng(2), fixcm=False
    )
    dynamics = LearnedDynamics(atoms, StandIn(exact), rng=3, guard=False, schedule=Schedule(2, 1, classical=classical))
    dynamics.run(300)
    potential, kinetic = [], []
    for _ in range(4000):
        dynamics.run(3)
        potential.append(atoms.get_potential_energy())
        kinetic.append(atoms.get_kinetic_energy())
    expected = 1.5 * len(atoms) * units.kB * 300
    blocks = [np.mean(np.array_split(values, 20), axis=1) for values in (potential, kinetic)]
    for block in blocks:
        assert block.mean() == pytest.approx(expected, abs=5 * block.std(ddof=1) / np.sqrt(20) + 0.01 * expected)


def test_constraints_hold_after_jumps_and_steps():
    atoms = ethanol()
    atoms.set_constraint(FixBondLengths([(0, 1), (1, 2), (2, 3)]))
    lengths = [atoms.get_distance(i, i + 1) for i in range(3)]
    LearnedDynamics(atoms, StandIn(), schedule=Schedule(3, 1, classical=VelocityVerlet(atoms, 1 * FS))).run(12)
    assert [atoms.get_distance(i, i + 1) for i in range(3)] == pytest.approx(lengths, abs=1e-9)


@pytest.mark.parametrize("kind", ["nan", "exception"])
def test_a_failing_network_leaves_the_atoms_as_they_were(kind):
    def move(state):
        if kind == "exception":
            raise RuntimeError("out of memory, say")
        positions = state.positions.clone()
        positions[2] = torch.nan
        return state.replace(positions=positions)

    atoms = ethanol()
    dynamics = LearnedDynamics(
        atoms, StandIn(move), rng=5, schedule=Schedule(5, classical=VelocityVerlet(atoms, 2 * FS))
    )
    dynamics.run(5)
    before, momenta, state = atoms.get_positions(), atoms.get_momenta(), dynamics.rng.bit_generator.state
    error, message = (RuntimeError, "out of memory") if kind == "exception" else (JumpError, r"step 6: .*atom 2 \(O\)")
    with pytest.raises(error, match=message):
        dynamics.run(1)
    np.testing.assert_array_equal(atoms.positions, before)
    np.testing.assert_array_equal(atoms.get_momenta(), momenta)
    assert dynamics.rng.bit_generator.state == state
    assert dynamics.get_time() / FS == pytest.approx(10)


def squeeze(state):
    return state.replace(positions=0.6 * state.positions)


def test_position_only_jumps_redraw_minimise_and_relax():
    def energy(minimize, relax):
        atoms = ethanol()
        dynamics = LearnedDynamics(
            atoms,
            StandIn(squeeze, kind="position", timestep=1.0),
            temperature_K=300,
            rng=1,
            schedule=Schedule(
                0, 1, classical=VelocityVerlet(atoms, 1 * FS), relax_steps=relax, minimize_steps=minimize
            ),
        )
        dynamics.run(1)
        assert dynamics.get_time() == pytest.approx(1000 * FS)
        return atoms.get_potential_energy()

    squeezed, minimised, relaxed = energy(0, 0), energy(100, 0), energy(100, 5)
    assert squeezed > 1.0
    assert minimised < 0.01
    assert minimised < relaxed < 0.5


def test_the_energy_guard_refuses_in_every_dynamics():
    guard = GuardSettings(energy_change=10.0)

    def shrink(state):
        return state.replace(positions=0.6 * state.positions)

    atoms = ethanol()
    classical = langevin(atoms, 2 * FS, 300, 0.01 / FS)
    hybrid = LearnedDynamics(atoms, StandIn(shrink), guard=guard, rng=1, schedule=Schedule(0, 1, classical=classical))
    hybrid.run(1)
    assert hybrid.statistics.rejected == {"energy": 1}
    atoms = ethanol()
    learned = LearnedDynamics(
        atoms,
        StandIn(shrink),
        temperature_K=300,
        friction=0.01 / FS,
        guard=guard,
        rng=1,
        schedule=Schedule(fallback="stop"),
    )
    before = atoms.get_positions()
    with pytest.raises(JumpError, match=r"energy guard refused the jump: the potential energy would change by .* kT"):
        learned.run(1)
    np.testing.assert_array_equal(atoms.positions, before)
    with pytest.raises(ConfigError, match="counts in kT: give a temperature"):
        LearnedDynamics(ethanol(), StandIn(), guard=guard)
    bare = ethanol()
    bare.calc = None
    with pytest.raises(CompatibilityError, match="the energy guard: needs the engine; attach a calculator"):
        LearnedDynamics(bare, StandIn(), temperature_K=300, friction=0.01 / FS, guard=guard)
    with pytest.raises(ConfigError, match="energy_change is -1"):
        GuardSettings(energy_change=-1)


def test_what_cannot_be_interleaved_is_refused():
    atoms, other = ethanol(), ethanol()
    with pytest.raises(ConfigError, match="made for other atoms"):
        LearnedDynamics(atoms, StandIn(), schedule=Schedule(5, classical=VelocityVerlet(other, 2 * FS)))
    with pytest.raises(ConfigError, match="expected a time step or one of ASE's molecular dynamics"):
        LearnedDynamics(atoms, StandIn(), schedule=Schedule(5, classical=object()))
    with pytest.raises(ConfigError, match="NoseHooverChainNVT goes on from positions of its own"):
        LearnedDynamics(
            atoms,
            StandIn(),
            schedule=Schedule(5, classical=NoseHooverChainNVT(atoms, 2 * FS, temperature_K=300, tdamp=100 * FS)),
        )
    with pytest.raises(CompatibilityError, match="steps of 3 fs do not add up"):
        LearnedDynamics(atoms, StandIn(), schedule=Schedule(5, classical=VelocityVerlet(atoms, 3 * FS)))
    with pytest.raises(ConfigError, match="minimize_steps is for position-only"):
        LearnedDynamics(
            atoms, StandIn(), schedule=Schedule(5, classical=VelocityVerlet(atoms, 2 * FS), minimize_steps=5)
        )
    with pytest.raises(ConfigError, match="minimize_steps is -1"):
        LearnedDynamics(
            atoms, StandIn(), schedule=Schedule(5, classical=VelocityVerlet(atoms, 2 * FS), minimize_steps=-1)
        )
    with pytest.raises(ConfigError, match="redraws velocities: give a temperature"):
        LearnedDynamics(atoms, StandIn(kind="position"), schedule=Schedule(5, classical=VelocityVerlet(atoms, 2 * FS)))
    classical = VelocityVerlet(atoms, 2 * FS)
    atoms.calc = None
    with pytest.raises(CompatibilityError, match="attach a calculator"):
        LearnedDynamics(atoms, StandIn(), schedule=Schedule(5, classical=classical))


def test_dynamics_with_positions_of_their_own_would_undo_a_jump():
    """Why they are refused: what ASE's classes do when somebody else moves the atoms."""
    for make, deaf in (
        (lambda a: NoseHooverChainNVT(a, 1 * FS, temperature_K=1, tdamp=100 * FS), True),
        (lambda a: VelocityVerlet(a, 1 * FS), False),
    ):
        atoms = Atoms("Cu4", positions=2.5 * np.eye(4)[:, :3], cell=10 * np.eye(3), calculator=EMT())
        dynamics = make(atoms)
        dynamics.run(1)
        atoms.positions += 1.0
        dynamics.run(1)
        assert (np.abs(atoms.positions - 2.5 * np.eye(4)[:, :3]).max() < 0.5) == deaf


# Our own classical steps, and restarts --------------------------------------------------------------------------------


def test_own_classical_steps_are_velocity_verlet():
    """Without a thermostat: the steps of ASE's VelocityVerlet, to rounding."""
    atoms, twin = ethanol(), ethanol()
    dynamics = LearnedDynamics(atoms, StandIn(), schedule=Schedule(6, 1, classical="0.5 fs"), guard=False)
    dynamics.run(6)
    VelocityVerlet(twin, 0.5 * FS).run(6)
    np.testing.assert_allclose(atoms.positions, twin.positions, rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.get_momenta(), twin.get_momenta(), rtol=0, atol=1e-12)
    assert dynamics.get_time() == pytest.approx(3 * FS)
    calls = atoms.calc.calls
    dynamics.run(7)
    assert dynamics.get_time() == pytest.approx((3 + 8 + 3) * FS)
    assert atoms.calc.calls == calls + 1 + 6  # forces after the jump, and one per step


def test_own_classical_steps_have_the_temperature_of_the_thermostat():
    """Harmonic atoms, jumps that stand still: kinetic energy within 4 σ, one sample per friction time."""
    atoms = Atoms("C60", positions=np.random.default_rng(0).normal(size=(60, 3)))
    atoms.calc = Anchors(atoms.positions, spring=1.0)
    still = StandIn(lambda state: state)
    dynamics = LearnedDynamics(
        atoms, still, thermostat=values.Langevin(300, "200/ps"), schedule=Schedule(9, 1, classical="1 fs"), rng=1
    )
    dynamics.run(100)
    kinetic = []
    for _ in range(60):
        dynamics.run(10)
        kinetic.append(atoms.get_kinetic_energy())
    expected = 0.5 * 180 * units.kB * 300
    assert abs(np.mean(kinetic) / expected - 1) < 4 * np.sqrt(2 / 180 / 60)


def test_a_refused_jump_of_own_steps_is_replaced_or_ends_the_run_as_the_schedule_says():
    atoms = ethanol()
    dynamics = LearnedDynamics(atoms, refuse_from(1), schedule=Schedule(2, 1, classical="1 fs"), rng=1)
    dynamics.run(3)
    assert dynamics.statistics.fallback_steps == 8
    assert dynamics.get_time() == pytest.approx(10 * FS)
    for classical in ("1 fs", "engine"):
        atoms = ethanol()
        engine = VelocityVerlet(atoms, 1 * FS) if classical == "engine" else classical
        stopping = LearnedDynamics(
            atoms, refuse_from(1), schedule=Schedule(2, 1, classical=engine, fallback="stop"), rng=1
        )
        stopping.run(2)
        before = atoms.get_positions()
        with pytest.raises(JumpError, match=r"step 3: .* with fallback='classical'"):
            stopping.run(1)
        np.testing.assert_array_equal(atoms.positions, before)


SCHEDULES = {
    "own steps": lambda atoms: Schedule(3, 2, classical="1 fs"),
    "adaptive": lambda atoms: Schedule(3, None, classical="1 fs"),
    "Langevin of ASE": lambda atoms: Schedule(3, 2, classical=langevin(atoms, 1 * FS, 300, 0.01 / FS)),
    "RandomState": lambda atoms: Schedule(
        3,
        1,
        classical=Langevin(
            atoms, 1 * FS, temperature_K=300, friction=0.01 / FS, rng=np.random.RandomState(4), fixcm=False
        ),
    ),
    "adaptive Verlet of ASE": lambda atoms: Schedule(3, None, classical=VelocityVerlet(atoms, 1 * FS)),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [0, 2, 4, 7])
def test_hybrids_continue_bit_for_bit_in_mid_cycle(schedule, steps, tmp_path):
    """Some jumps refused, by the place of an atom, so that both runs refuse the same ones."""
    bath = schedule in ("own steps", "adaptive")
    options = {"thermostat": values.Langevin(300, "10/ps")} if bath else {}

    def sometimes(state):
        ended = StandIn.fly(state)
        if float(state.positions[0, 0] * 1e5) % 2 < 1:
            ended.positions[4] += 50.0
        return ended

    def start():
        atoms = ethanol()
        return atoms, StandIn(sometimes, limits=JumpLimits({1: 2.0, 6: 2.0, 8: 2.0}))

    atoms, propagator = start()
    whole = LearnedDynamics(atoms, propagator, schedule=SCHEDULES[schedule](atoms), rng=3, **options)
    whole.run(31)
    assert 0 < whole.statistics.accepted < whole.statistics.tried
    first, propagator = start()
    begun = LearnedDynamics(first, propagator, schedule=SCHEDULES[schedule](first), rng=3, **options)
    begun.run(steps)
    begun.save_restart(tmp_path / "restart")
    again, propagator = start()
    again.rattle(0.2, seed=1)
    engine = SCHEDULES[schedule](again).engine
    second = LearnedDynamics.restart(tmp_path / "restart", again, propagator, classical=engine)
    assert second.get_time() == begun.get_time()
    second.run(31 - steps)
    np.testing.assert_array_equal(again.positions, atoms.positions)
    np.testing.assert_array_equal(again.get_momenta(), atoms.get_momenta())
    assert second.statistics == whole.statistics
    assert second.get_time() == whole.get_time()


def test_a_restart_needs_the_dynamics_that_made_classical_steps_and_no_other(tmp_path):
    atoms = ethanol()
    LearnedDynamics(
        atoms, StandIn(), schedule=Schedule(3, 1, classical=langevin(atoms, 1 * FS, 300, 0.01 / FS))
    ).save_restart(tmp_path / "engine")
    LearnedDynamics(ethanol(), StandIn(), schedule=Schedule(3, 1)).save_restart(tmp_path / "own")
    with pytest.raises(CompatibilityError, match="make it anew and give it as classical="):
        LearnedDynamics.restart(tmp_path / "engine", ethanol(), StandIn())
    other = ethanol()
    with pytest.raises(CompatibilityError, match="leave classical out"):
        LearnedDynamics.restart(tmp_path / "own", other, StandIn(), classical=VelocityVerlet(other, FS))
    for make in (lambda a: VelocityVerlet(a, FS), lambda a: langevin(a, 2 * FS, 300, 0.01 / FS)):
        other = ethanol()
        with pytest.raises(CompatibilityError, match=r"were those of .*Langevin.* make the same"):
            LearnedDynamics.restart(tmp_path / "engine", other, StandIn(), classical=make(other))
    other = ethanol()
    theirs = Langevin(other, FS, temperature_K=300, friction=0.01 / FS, fixcm=False)
    with pytest.raises(CheckpointError, match="random numbers of its own"):
        LearnedDynamics.restart(tmp_path / "engine", other, StandIn(), classical=theirs)


def test_replicas_may_have_schedules():
    propagator = StandIn()
    alone = [LearnedDynamics(ethanol(k), propagator, schedule=Schedule(k, 1), guard=False) for k in range(3)]
    together = [LearnedDynamics(ethanol(k), propagator, schedule=Schedule(k, 1), guard=False) for k in range(3)]
    for one in alone:
        one.run(5)
    LearnedEnsemble(together).run(5)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other.atoms.positions, one.atoms.positions, rtol=0, atol=1e-12)
