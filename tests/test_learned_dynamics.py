"""LearnedDynamics with propagators whose exact answer is known."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms, FixBondLengths, FixCom, Hookean
from ase.io.trajectory import Trajectory
from ase.md.verlet import VelocityVerlet

from fastegnn_md.errors import CheckpointError, CompatibilityError, ConfigError, ConstraintError, JumpError, StateError
from fastegnn_md.integrators import Conserve, LearnedDynamics, Schedule
from fastegnn_md.integrators.guards import GuardSettings
from fastegnn_md.propagator.fake import FakePropagator, permissive_domain
from fastegnn_md.propagator.limits import JumpLimits

PS = 1000 * units.fs
EV = PS**2  # amu Å²/ps², with the constants of ASE: those of 2018 would show in the ninth digit of an energy


class StandIn(FakePropagator):
    """For light elements."""

    def __init__(self, move, timestep=0.01, *, periodic=False, bonds=False, limits=None, **options):
        domain = permissive_domain(periodic=periodic, bonds=bonds, limits=limits)
        light = {number: masses for number, masses in domain.masses.items() if number <= 50}
        super().__init__(move, timestep, dataclasses.replace(domain, masses=light), **options)


class Springs(Calculator):
    """Harmonic springs between all atoms, and to their places (``anchor``): k/2 |r - r0|², k in eV/Å².

    They do not turn with the atoms: angular momentum is not conserved, also without anchor.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, places: np.ndarray, spring: float = 5.0, anchor: float = 0.0):
        super().__init__()
        n = len(places)
        self.places, self.calls = places.copy(), 0
        self.matrix = spring * (n * np.eye(n) - np.ones((n, n))) / n + anchor * np.eye(n)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms)
        self.calls += 1
        u = atoms.positions - self.places
        self.results = {"energy": 0.5 * np.vdot(u, self.matrix @ u), "forces": -self.matrix @ u}


def exact_motion(springs: Springs, masses: np.ndarray, timestep: float):
    """The exact map of a system of springs over ``timestep`` ps, by its normal modes."""
    root = np.sqrt(masses)
    squares, modes = np.linalg.eigh(springs.matrix * EV / np.outer(root, root))
    places = torch.tensor(springs.places)
    omega = torch.tensor(np.sqrt(np.clip(squares, 0, None)))[:, None]
    free = omega < 1e-6
    cos, sin = torch.cos(omega * timestep), torch.sin(omega * timestep)
    slow = torch.where(free, timestep, sin / torch.where(free, 1.0, omega))
    modes, weight = torch.tensor(modes), torch.tensor(root)[:, None]

    def move(state, *_):
        q, p = modes.T @ (weight * (state.positions - places)), modes.T @ (weight * state.velocities)
        q, p = cos * q + slow * p, cos * p - omega * sin * q
        return state.replace(positions=places + modes @ q / weight, velocities=modes @ p / weight)

    return move


def free_flight(timestep: float = 0.01):
    return lambda state, *_: state.replace(positions=state.positions + timestep * state.velocities)


def thermal(atoms: Atoms, temperature: float = 300.0, seed: int = 0) -> Atoms:
    noise = np.random.default_rng(seed).normal(size=(len(atoms), 3))
    atoms.set_momenta(noise * np.sqrt(units.kB * temperature * atoms.get_masses())[:, None])
    return atoms


def harmonic_molecule(anchor: float = 0.0, timestep: float = 0.02, **flags) -> tuple[Atoms, StandIn, Springs]:
    atoms = thermal(molecule("CH3OH"))
    springs = Springs(atoms.positions, anchor=anchor)
    atoms.calc = springs
    return atoms, StandIn(exact_motion(springs, atoms.get_masses(), timestep), timestep, **flags), springs


def twisted(move, degrees: float = 150.0):
    """Turn everything about its centre after ``move``."""
    angle = math.radians(degrees)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1.0]])
    turn = turn.double()

    def both(state, *rest):
        after = move(state, *rest)
        centre = after.positions.mean(0)
        return after.replace(
            positions=centre + (after.positions - centre) @ turn.T, velocities=after.velocities @ turn.T
        )

    return both


def read(path) -> list[Atoms]:
    with Trajectory(path) as frames:
        return list(frames)


class Sometimes:
    """``move``, but every third call is ``fault``."""

    def __init__(self, move, fault):
        self.move, self.fault, self.calls = move, fault, 0

    def __call__(self, state, *rest):
        self.calls += 1
        return (self.fault if self.calls % 3 == 0 else self.move)(state, *rest)


def to_nan(state, *_):
    positions = state.positions.clone()
    positions[2, 1] = torch.nan
    return state.replace(positions=positions)


def explode(state, *_):
    positions = state.positions.clone()
    positions[3] += 7.0
    return state.replace(positions=positions)


class TestNVE:
    def test_the_exact_harmonic_map_conserves_energy_momentum_and_drift(self):
        atoms, propagator, springs = harmonic_molecule()
        energy, momentum = atoms.get_total_energy(), atoms.get_momenta().sum(0)
        centre, places = atoms.get_center_of_mass(), springs.places
        dynamics = LearnedDynamics(atoms, propagator, conserve=Conserve(angular_momentum=False))
        dynamics.run(200)
        assert atoms.get_total_energy() == pytest.approx(energy, rel=1e-10)
        np.testing.assert_allclose(atoms.get_momenta().sum(0), momentum, atol=1e-12)
        drift = momentum / atoms.get_masses().sum() * dynamics.get_time()
        np.testing.assert_allclose(atoms.get_center_of_mass(), centre + drift, atol=1e-11)
        assert dynamics.get_time() == pytest.approx(200 * 20 * units.fs)
        assert dynamics.statistics.accepted == dynamics.statistics.tried == 200
        # And it is the motion of ASE's own integrator in the limit of small steps.
        twin, _, _ = harmonic_molecule()
        twin.calc = Springs(places)
        VelocityVerlet(twin, 0.02 * units.fs).run(1000)
        again, propagator, _ = harmonic_molecule()
        LearnedDynamics(again, propagator, conserve=Conserve(angular_momentum=False)).run(1)
        np.testing.assert_allclose(again.positions, twin.positions, atol=1e-6)
        np.testing.assert_allclose(again.get_momenta(), twin.get_momenta(), atol=1e-5)

    def test_a_map_that_loses_momentum_is_put_right_only_where_momentum_is_conserved(self):
        def lossy(state, *_):
            return state.replace(positions=state.positions + 0.3, velocities=0.9 * state.velocities)

        def run(conserve=None, constraint=None, **options) -> np.ndarray:
            atoms = thermal(molecule("CH3OH"))
            atoms.set_constraint(constraint)
            before = atoms.get_momenta().sum(0)
            LearnedDynamics(atoms, StandIn(lossy), conserve=Conserve(momentum=conserve), **options).run(1)
            return atoms.get_momenta().sum(0) - before

        assert np.abs(run()).max() < 1e-13
        assert np.abs(run(conserve=False)).max() > 0.01
        assert np.abs(run(constraint=FixAtoms([0]))).max() > 0.01
        langevin = {"temperature_K": 300, "friction": 0.0, "rng": 1}
        assert np.abs(run(**langevin)).max() > 0.01
        assert np.abs(run(conserve=True, **langevin)).max() < 1e-13
        with pytest.raises(ConstraintError, match="free to move"):
            run(conserve=True, constraint=FixAtoms([0]))

    def test_positions_stay_unwrapped_in_a_periodic_box(self):
        atoms = Atoms("Ar2", positions=[[0, 0, 0], [4, 0, 0]], cell=[8] * 3, pbc=True)
        atoms.set_velocities([[30.0 / PS, 0, 0], [30.0 / PS, 0, 0]])
        LearnedDynamics(atoms, StandIn(free_flight(0.1), 0.1, periodic=True)).run(10)
        np.testing.assert_allclose(atoms.positions[:, 0], [30, 34])


class TestLangevin:
    def test_with_the_exact_map_it_samples_the_canonical_distribution_at_any_time_step(self):
        """1,500 independent oscillators, 100 fs steps: variances of x and v within 3 σ, per mass."""
        n, anchor = 1500, 2.0
        atoms = Atoms(f"H{n}C{n}", positions=np.zeros((2 * n, 3)))
        springs = Springs(atoms.positions[:1], spring=0.0, anchor=anchor)
        masses = atoms.get_masses()
        omega = torch.tensor(np.sqrt(anchor * EV / masses))[:, None]
        cos, sin = torch.cos(0.1 * omega), torch.sin(0.1 * omega)

        def move(state, *_):
            x, v = state.positions, state.velocities
            return state.replace(positions=cos * x + sin / omega * v, velocities=cos * v - omega * sin * x)

        dynamics = LearnedDynamics(
            atoms, StandIn(move, 0.1), temperature_K=300, friction=0.01 / units.fs, rng=7, guard=False
        )
        assert dynamics.guarded.thermostat.friction == pytest.approx(10.0)  # 0.01/fs is 10/ps
        dynamics.run(40)
        assert springs.calls == 0
        kt = units.kB * 300
        bound = 3 * math.sqrt(2 / (3 * n))
        for element in (slice(0, n), slice(n, 2 * n)):
            x, p = atoms.positions[element], atoms.get_momenta()[element]
            assert abs(anchor * np.mean(x**2) / kt - 1) < bound
            assert abs(np.mean(p**2) / masses[element][0] / kt - 1) < bound
            assert abs(np.mean(x * p) / math.sqrt(kt / anchor * kt * masses[element][0])) < 3 / math.sqrt(3 * n)

    def test_the_same_seed_repeats_and_a_drawn_seed_is_kept_and_not_printed(self, capsys):
        def run(rng):
            atoms, propagator, _ = harmonic_molecule(anchor=1.0)
            dynamics = LearnedDynamics(atoms, propagator, temperature_K=300, friction=0.1, rng=rng)
            dynamics.run(5)
            return dynamics.seed, atoms.positions

        seed, positions = run(None)
        np.testing.assert_array_equal(run(seed)[1], positions)
        np.testing.assert_array_equal(run(np.random.default_rng(seed))[1], positions)
        assert np.abs(run(seed + 1)[1] - positions).max() > 1e-3
        assert capsys.readouterr().out == ""

    def test_frozen_atoms_are_not_kicked_and_the_others_have_the_temperature(self):
        n = 900
        atoms = Atoms(f"C{n}", positions=np.random.default_rng(0).normal(size=(n, 3)))
        frozen = np.arange(0, n, 3)
        atoms.set_constraint(FixAtoms(frozen))
        atoms.set_momenta(np.ones((n, 3)), apply_constraint=False)
        before = atoms.get_positions()
        LearnedDynamics(atoms, StandIn(free_flight()), temperature_K=500, friction=20.0, rng=3).run(8)
        np.testing.assert_array_equal(atoms.positions[frozen], before[frozen])
        np.testing.assert_array_equal(atoms.get_momenta()[frozen], 0)
        assert abs(atoms.get_temperature() / 500 - 1) < 3 * math.sqrt(2 / (3 * 2 * n / 3))

    def test_a_fixed_centre_of_mass_rests(self):
        atoms, propagator, _ = harmonic_molecule()
        atoms.set_constraint(FixCom())
        centre = atoms.get_center_of_mass()
        LearnedDynamics(atoms, propagator, temperature_K=300, friction=1.0, rng=4).run(20)
        np.testing.assert_allclose(atoms.get_center_of_mass(), centre, atol=1e-11)
        np.testing.assert_allclose(atoms.get_momenta().sum(0), 0, atol=1e-11)


class TestConstraints:
    @pytest.mark.parametrize("friction", [None, 0.5])
    def test_a_rigid_dimer_that_turns_by_150_degrees_each_step(self, friction):
        atoms = thermal(Atoms("CO", positions=[[0, 0, 0], [1.13, 0, 0]]))
        atoms.set_constraint(FixBondLengths([[0, 1]]))
        atoms.set_momenta(atoms.get_momenta())
        options = {} if friction is None else {"temperature_K": 300, "friction": friction, "rng": 1}
        momentum, kinetic = atoms.get_momenta().sum(0), atoms.get_kinetic_energy()
        dynamics = LearnedDynamics(atoms, StandIn(twisted(free_flight())), bonds=[[0, 1]], **options)
        for _ in range(20):
            dynamics.run(1)
            bond = atoms.positions[1] - atoms.positions[0]
            assert np.linalg.norm(bond) == pytest.approx(1.13, abs=1e-10)
            assert abs(np.diff(atoms.get_velocities(), axis=0)[0] @ bond) < 1e-12
        assert dynamics.statistics.accepted == 20
        if friction is None:
            np.testing.assert_allclose(atoms.get_momenta().sum(0), momentum, atol=1e-12)
            assert atoms.get_kinetic_energy() < 1.5 * kinetic

    def test_other_constraints_are_refused_at_once(self):
        atoms, propagator, _ = harmonic_molecule()
        atoms.set_constraint(Hookean(0, 1, k=5.0, rt=1.2))
        with pytest.raises(ConstraintError, match="Hookean"):
            LearnedDynamics(atoms, propagator)

    def test_a_constraint_set_during_the_run_counts_from_then_on(self):
        atoms, propagator, _ = harmonic_molecule()
        dynamics = LearnedDynamics(atoms, propagator)
        dynamics.run(2)
        atoms.set_constraint(FixAtoms([1]))
        where = atoms.positions[1].copy()
        dynamics.run(2)
        np.testing.assert_array_equal(atoms.positions[1], where)


class TestCalls:
    def test_force_free_makes_no_calculator_call(self, tmp_path):
        atoms, propagator, springs = harmonic_molecule()
        dynamics = LearnedDynamics(atoms, propagator, trajectory=tmp_path / "run.traj", logfile=tmp_path / "run.log")
        dynamics.attach(lambda: None, 1)
        dynamics.run(10)
        assert springs.calls == 0
        assert propagator.calls == 10
        rows = (tmp_path / "run.log").read_text().splitlines()
        assert len(rows) == 12
        assert rows[0].split()[0] == "Time[ps]"
        time, total, potential, kinetic, temperature = map(float, rows[-1].split())
        assert time == pytest.approx(0.2)
        assert math.isnan(total)
        assert math.isnan(potential)
        assert kinetic == pytest.approx(atoms.get_kinetic_energy(), abs=1e-4)
        assert temperature == pytest.approx(atoms.get_temperature(), abs=0.1)
        assert len(read(tmp_path / "run.traj")) == 11

    def test_a_logfile_needs_no_calculator(self, capsys):
        atoms, propagator, _ = harmonic_molecule()
        atoms.calc = None
        LearnedDynamics(atoms, propagator, logfile="-").run(1)
        assert capsys.readouterr().out.count("nan") == 4

    def test_energies_are_there_if_asked_for(self, tmp_path):
        atoms, propagator, springs = harmonic_molecule()
        files = {"logfile": tmp_path / "log", "trajectory": str(tmp_path / "t.traj")}
        dynamics = LearnedDynamics(atoms, propagator, conserve=Conserve(angular_momentum=False), **files)
        dynamics.log_energy = True
        dynamics.run(10)
        assert springs.calls == 11
        energies = [float(row.split()[1]) for row in (tmp_path / "log").read_text().splitlines()[1:]]
        assert np.ptp(energies) <= 1.01e-4
        assert [frame.get_potential_energy() for frame in read(tmp_path / "t.traj")][-1] == pytest.approx(
            atoms.get_potential_energy()
        )

    @pytest.mark.parametrize("log_energy", [False, True])
    def test_force_informed_makes_one_call_per_jump(self, log_energy):
        seen = []

        def kick(state, *_):
            seen.append(state.forces.clone())
            return state.replace(velocities=state.velocities + 0.001 * state.forces / state.masses[:, None])

        atoms, _, springs = harmonic_molecule(anchor=3.0)
        atoms.rattle(0.1, seed=0)
        atoms.set_constraint(FixBondLengths([[0, 1]]))
        dynamics = LearnedDynamics(atoms, StandIn(kick, kind="force-start"))
        dynamics.log_energy = log_energy
        assert springs.calls == 0
        for step in range(10):
            expected = -springs.matrix @ (atoms.positions - springs.places) * EV  # without the force of the constraint
            dynamics.run(1)
            np.testing.assert_allclose(seen[-1].numpy(), expected, rtol=1e-7)
            # With energies wanted, the call at the new positions serves log and next jump.
            assert springs.calls == step + (2 if log_energy else 1)

    def test_one_call_per_jump_even_if_the_calculator_remembers_nothing(self):
        class Forgetful(Springs):
            def get_property(self, name, atoms=None, allow_calculation=True):
                self.reset()
                return super().get_property(name, atoms, allow_calculation)

        atoms = thermal(molecule("CH3OH"))
        atoms.calc = Forgetful(atoms.positions, anchor=1.0)
        dynamics = LearnedDynamics(atoms, StandIn(Sometimes(free_flight(), to_nan), kind="force-start"))
        dynamics.run(4)
        # Three jumps with a call each; in the fourth step 20 classical ones, of which the first has its force and the
        # last leaves one for the next jump.
        assert dynamics.statistics.fallback_steps == 20
        assert atoms.calc.calls == 3 + 20

    def test_a_new_calculator_is_asked_anew(self):
        atoms, _, springs = harmonic_molecule()
        atoms.set_momenta(np.zeros((6, 3)))
        standing = StandIn(lambda state, *_: state, kind="force-start")
        dynamics = LearnedDynamics(atoms, standing)
        dynamics.run(2)
        assert springs.calls == 1
        atoms.calc = Springs(atoms.positions)
        dynamics.run(1)
        assert atoms.calc.calls == 1


class TestGuards:
    @pytest.mark.parametrize(
        ("fault", "limits", "guard", "words"),
        [
            (to_nan, JumpLimits({}), "finite", r"atom 2 \(H\): its predicted positions are not finite"),
            (
                explode,
                JumpLimits({1: 1.0, 6: 0.1, 8: 0.1}),
                "displacement",
                r"atom 3 \(H\): would move 12.1 Å, limit 1.5",
            ),
            (explode, JumpLimits({}, {(1, 6): (0.9, 1.2), (1, 8): (0.5, 2), (6, 8): (1, 2)}), "bond", r"atom 3 \(H\)"),
            (
                lambda s, *_: s.replace(velocities=s.velocities * 1e4),
                JumpLimits({}, {}, {1: 99.0, 6: 99.0, 8: 99.0}),
                "speed",
                "Å/ps, limit 148 Å/ps",
            ),
        ],
        ids=["finite", "displacement", "bond", "speed"],
    )
    def test_a_refused_jump_is_not_written_and_stops_without_a_calculator(self, fault, limits, guard, words):
        atoms = thermal(molecule("CH3OH"))
        from fastegnn_md.engines.ase.stepper import guess_bonds

        dynamics = LearnedDynamics(
            atoms, StandIn(fault, limits=limits), temperature_K=300, friction=1.0, rng=5, bonds=guess_bonds(atoms)
        )
        before, drawn = atoms.copy(), dynamics.rng.bit_generator.state
        with pytest.raises(JumpError, match=words) as caught:
            dynamics.run(3)
        assert "step 1:" in str(caught.value)
        assert "attach a calculator" in str(caught.value)
        assert caught.value.atom in (2, 3) or guard == "speed"
        np.testing.assert_array_equal(atoms.positions, before.positions)
        np.testing.assert_array_equal(atoms.get_momenta(), before.get_momenta())
        assert dynamics.rng.bit_generator.state == drawn
        assert dynamics.nsteps == 0
        assert dynamics.statistics.rejected == {guard: 1}

    @pytest.mark.parametrize("constrained", [False, True])
    def test_the_fallback_is_the_velocity_verlet_of_ase(self, constrained):
        atoms, _, springs = harmonic_molecule(timestep=0.01)
        if constrained:
            atoms.set_constraint(FixBondLengths([[0, 1], [0, 2]]))
            atoms.set_momenta(atoms.get_momenta())
        twin = atoms.copy()
        twin.calc = Springs(springs.places)
        for constraint in twin.constraints:
            constraint.tolerance = 1e-15
        dynamics = LearnedDynamics(atoms, StandIn(to_nan))
        dynamics.run(3)
        assert dynamics.statistics.rejected == {"finite": 3}
        assert dynamics.statistics.fallback_steps == 3 * 20
        assert springs.calls == 3 * 20 + 1
        VelocityVerlet(twin, 0.5 * units.fs).run(60)
        np.testing.assert_allclose(atoms.positions, twin.positions, atol=1e-10)
        np.testing.assert_allclose(atoms.get_momenta(), twin.get_momenta(), atol=1e-10)

    def test_the_sub_step_divides_the_time_step(self):
        atoms, _, springs = harmonic_molecule()
        dynamics = LearnedDynamics(atoms, StandIn(to_nan, 0.01), schedule=Schedule(classical="3 fs"))
        twin = atoms.copy()
        twin.calc = Springs(springs.places)
        dynamics.run(1)
        assert dynamics.statistics.fallback_steps == 3
        VelocityVerlet(twin, 10 * units.fs / 3).run(3)
        np.testing.assert_allclose(atoms.positions, twin.positions, atol=1e-12)

    def test_jumps_and_fallback_alternate_and_are_counted(self):
        atoms, propagator, _ = harmonic_molecule(limits=JumpLimits({1: 2.0, 6: 2.0, 8: 2.0}))
        propagator.move = Sometimes(propagator.move, explode)
        energy = atoms.get_total_energy()
        dynamics = LearnedDynamics(atoms, propagator, conserve=Conserve(angular_momentum=False))
        dynamics.run(9)
        assert (dynamics.statistics.tried, dynamics.statistics.accepted) == (9, 6)
        assert dynamics.statistics.rejected == {"displacement": 3}
        assert dynamics.statistics.fallback_steps == 3 * 40
        assert atoms.get_total_energy() == pytest.approx(energy, rel=0.01)

    def test_stop_means_stop(self):
        atoms, _, _ = harmonic_molecule()
        with pytest.raises(JumpError, match="fallback='classical' classical steps would"):
            LearnedDynamics(atoms, StandIn(to_nan), schedule=Schedule(fallback="stop")).run(1)

    def test_a_constraint_out_of_reach_is_a_refusal(self):
        def collapse(state, *_):
            return state.replace(positions=state.positions * 0.0)

        atoms, _, _ = harmonic_molecule()
        atoms.set_constraint(FixBondLengths([[0, 1]]))
        atoms.calc = None
        with pytest.raises(JumpError, match=r"constraints guard .*fixed distance"):
            LearnedDynamics(atoms, StandIn(collapse), conserve=Conserve(momentum=False)).run(1)

    @pytest.mark.parametrize("fault", [np.nan, np.inf])
    def test_a_fallback_that_fails_leaves_the_atoms_alone(self, fault):
        class Broken(Springs):
            def calculate(self, *args, **kwargs):
                super().calculate(*args, **kwargs)
                if self.calls > 4:
                    self.results["forces"][4, 0] = fault

        atoms = thermal(molecule("CH3OH"))
        atoms.calc = Broken(atoms.positions)
        before = atoms.copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            with pytest.raises(JumpError, match="failed as well: the engine's forces on atom 4 are infinite or NaN"):
                LearnedDynamics(atoms, StandIn(to_nan), rng=1).run(1)
        np.testing.assert_array_equal(atoms.positions, before.positions)
        np.testing.assert_array_equal(atoms.get_momenta(), before.get_momenta())

    def test_an_error_of_the_calculator_leaves_the_atoms_alone(self):
        class Failing(Springs):
            def calculate(self, *args, **kwargs):
                raise RuntimeError("did not converge")

        atoms = thermal(molecule("CH3OH"))
        atoms.calc = Failing(atoms.positions)
        before = atoms.copy()
        dynamics = LearnedDynamics(atoms, StandIn(to_nan), temperature_K=300, friction=1.0, rng=1)
        drawn = dynamics.rng.bit_generator.state
        with pytest.raises(RuntimeError, match="did not converge"):
            dynamics.run(1)
        np.testing.assert_array_equal(atoms.positions, before.positions)
        assert dynamics.rng.bit_generator.state == drawn

    def test_without_guard_only_what_is_not_finite_is_refused(self):
        atoms, _, _ = harmonic_molecule()
        limits = JumpLimits({1: 1e-3})
        LearnedDynamics(atoms, StandIn(explode, limits=limits), guard=False, conserve=Conserve(momentum=False)).run(1)
        assert atoms.positions[3].max() > 6
        with pytest.raises(JumpError):
            LearnedDynamics(atoms, StandIn(to_nan), guard=False, schedule=Schedule(fallback="stop")).run(1)

    def test_margins_can_be_set(self):
        atoms, _, _ = harmonic_molecule()
        tight = StandIn(free_flight(), limits=JumpLimits({1: 0.1}))
        with pytest.raises(JumpError):
            LearnedDynamics(atoms, tight, schedule=Schedule(fallback="stop")).run(1)
        LearnedDynamics(
            atoms, tight, guard=GuardSettings(displacement_factor=20.0), schedule=Schedule(fallback="stop")
        ).run(1)

    def test_a_bond_guard_without_bonds_is_told(self):
        atoms, _, _ = harmonic_molecule()
        with pytest.warns(UserWarning, match="no bonds were given"):
            LearnedDynamics(atoms, StandIn(free_flight(), limits=JumpLimits({}, {(1, 6): (1.0, 1.2)})))


class TestPositionOnly:
    @staticmethod
    def shift(state):
        return state.replace(positions=state.positions + 0.05)

    def test_velocities_have_the_temperature_and_obey_constraints(self):
        n = 2000
        atoms = Atoms(f"C{n}", positions=np.random.default_rng(0).normal(size=(n, 3)))
        atoms.set_constraint(FixAtoms([0, 1]))
        propagator = StandIn(self.shift, 1.0, kind="position", limits=JumpLimits({6: 0.1}, {}, {6: 1e-3}))
        dynamics = LearnedDynamics(atoms, propagator, temperature_K=400, rng=2)
        dynamics.run(2)
        assert dynamics.statistics.accepted == 2
        assert abs(atoms.get_temperature() / 400 - 1) < 3 * math.sqrt(2 / (3 * n))
        np.testing.assert_array_equal(atoms.get_momenta()[:2], 0)

    def test_relaxation_is_classical_and_counted(self):
        atoms, _, springs = harmonic_molecule(anchor=1.0)
        propagator = StandIn(self.shift, 1.0, kind="position")
        dynamics = LearnedDynamics(atoms, propagator, temperature_K=300, rng=2, schedule=Schedule(relax_steps=4))
        twin = atoms.copy()
        dynamics.run(1)
        assert dynamics.statistics.relax_steps == 4
        assert springs.calls == 5
        assert dynamics.get_time() == pytest.approx(1000 * units.fs)
        LearnedDynamics(twin, propagator, temperature_K=300, rng=2).run(1)
        twin.calc = Springs(springs.places, anchor=1.0)
        VelocityVerlet(twin, 0.5 * units.fs).run(4)
        np.testing.assert_allclose(atoms.positions, twin.positions, atol=1e-12)

    def test_needs_temperature_and_a_calculator_to_relax(self):
        atoms, _, _ = harmonic_molecule()
        propagator = StandIn(self.shift, 1.0, kind="position")
        with pytest.raises(ConfigError, match="redraws velocities: give a temperature"):
            LearnedDynamics(atoms, propagator)
        atoms.calc = None
        with pytest.raises(CompatibilityError, match="relax_steps: needs the engine"):
            LearnedDynamics(atoms, propagator, temperature_K=300, schedule=Schedule(relax_steps=5))


class TestOptions:
    def test_the_time_step_is_that_of_the_propagator(self):
        atoms, propagator, _ = harmonic_molecule(timestep=0.008)
        dynamics = LearnedDynamics(atoms, propagator)
        assert dynamics.dt == pytest.approx(8 * units.fs)
        for wrong in (8 * units.fs, None):
            with pytest.raises(ConfigError, match=f"propagator is a {type(wrong).__name__}; expected a Propagator"):
                LearnedDynamics(atoms, wrong)
        with pytest.raises(TypeError, match="timestep"):
            LearnedDynamics(atoms, propagator, timestep=8 * units.fs)

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"temperature_K": 300}, ConfigError, "a temperature without a thermostat"),
            ({"friction": 0.1}, ConfigError, "friction without a temperature"),
            ({"temperature_K": -1, "friction": 0.1}, ConfigError, "temperature is -1"),
            ({"schedule": Schedule(relax_steps=3)}, ConfigError, "relax_steps is for position-only"),
            ({"schedule": Schedule(minimize_steps=3)}, ConfigError, "minimize_steps is for position-only"),
            ({"guard": 1.5}, ConfigError, r"guard is 1\.5; expected True, False or GuardSettings"),
            (
                {"schedule": Schedule(3, 1), "conserve": Conserve(energy=True)},
                ConfigError,
                "classical steps may change the energy",
            ),
            ({"rng": np.random.RandomState(0)}, ConfigError, "expected a numpy.random.Generator"),
        ],
    )
    def test_out_of_range(self, options, error, words, tmp_path):
        atoms, propagator, _ = harmonic_molecule()
        kept = tmp_path / "kept.traj"
        kept.write_bytes(b"precious")
        with pytest.raises(error, match=words):
            LearnedDynamics(atoms, propagator, trajectory=kept, **options)
        assert kept.read_bytes() == b"precious"  # an earlier trajectory survives a typing error

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"fallback": "hope"}, "fallback is 'hope'"),
            ({"classical": 0.0}, r"classical time step is 0\.0 ps"),
            ({"relax_steps": -1}, "relax_steps is -1"),
            ({"jumps": 0}, "jumps is 0"),
            ({"jumps": None, "classical_steps": 0}, "give classical_steps >= 1"),
            ({"jumps": None, "classical_steps": 3, "fallback": "stop"}, "leave fallback out"),
        ],
    )
    def test_schedules_out_of_range(self, options, words):
        with pytest.raises(ConfigError, match=words):
            Schedule(**options)

    def test_restart_files_need_an_interval(self, tmp_path):
        atoms, propagator, _ = harmonic_molecule()
        with pytest.raises(ConfigError, match="interval of restart files is 0"):
            LearnedDynamics(atoms, propagator).attach_restart(tmp_path / "x", 0)

    def test_a_misspelt_option_is_an_error(self):
        atoms, propagator, _ = harmonic_molecule()
        with pytest.raises(TypeError, match="temprature"):
            LearnedDynamics(atoms, propagator, temprature=300)

    def test_what_the_propagator_or_an_option_needs(self):
        atoms, _, _ = harmonic_molecule()
        with pytest.raises(CompatibilityError, match="trained with bonds"):
            LearnedDynamics(atoms, StandIn(free_flight(), bonds=True))
        with pytest.raises(CompatibilityError, match="atomic number 54"):
            LearnedDynamics(Atoms("Xe"), StandIn(free_flight()))
        atoms.calc = None
        with pytest.raises(CompatibilityError, match="an input of this propagator: needs the engine; attach"):
            LearnedDynamics(atoms, StandIn(free_flight(), kind="force-start"))
        dynamics = LearnedDynamics(atoms, StandIn(free_flight()))
        dynamics.log_energy = True
        with pytest.raises(CompatibilityError, match="log_energy"):
            dynamics.run(1)
        atoms.positions[1] = np.nan
        with pytest.raises(StateError, match="index 1"):
            LearnedDynamics(atoms, StandIn(free_flight()))

    def test_the_trajectory_header_describes_the_run(self, tmp_path):
        atoms, propagator, _ = harmonic_molecule()
        LearnedDynamics(
            atoms, propagator, temperature_K=300, friction=0.1, rng=9, trajectory=tmp_path / "t.traj", loginterval=5
        ).run(5)
        with Trajectory(tmp_path / "t.traj") as frames:
            about = frames.description
            assert len(frames) == 2
        assert about["md-type"] == "LearnedDynamics"
        assert about["seed"] == 9
        assert about["thermostat"] == {"kind": "langevin", "temperature": 300, "friction": 0.1 * PS}
        assert about["training-data"] == "fake"


class TestRestart:
    """20 steps at once, against 10 steps, everything dropped, and 10 more."""

    @staticmethod
    def system() -> tuple[Atoms, StandIn]:
        """Force-informed, constrained, thermostatted, and every third jump refused."""

        def kick(state, *_):
            v = state.velocities + 0.002 * state.forces / state.masses[:, None]
            return state.replace(positions=state.positions + 0.002 * v, velocities=v)

        def fault(state, *_):  # of the state, not of a counter that a restart would lose
            return to_nan(state) if math.floor(float(state.positions[0, 0]) * 1e9) % 3 == 0 else kick(state)

        atoms, _, _ = harmonic_molecule(anchor=1.0)
        atoms.set_constraint([FixBondLengths([[0, 1]]), FixAtoms([2])])
        return atoms, StandIn(fault, 0.002, kind="force-start")

    def options(self, folder, name: str) -> dict:
        return {"trajectory": folder / f"{name}.traj", "logfile": folder / f"{name}.log"}

    def start(self, folder, name: str, saved=None, interval=5, **options) -> LearnedDynamics:
        atoms, propagator = self.system()
        options |= self.options(folder, name)
        dynamics = LearnedDynamics(
            atoms, propagator, temperature_K=300, friction=0.05, rng=11, loginterval=2, **options
        )
        if saved is not None:
            dynamics.attach_restart(saved, interval)
        return dynamics

    def resume(self, folder, name: str, path) -> LearnedDynamics:
        atoms, propagator = self.system()
        atoms.positions += 1.0
        atoms.set_momenta(np.zeros((6, 3)))
        return LearnedDynamics.restart(path, atoms, propagator, **self.options(folder, name))

    def same(self, folder, whole: LearnedDynamics, parts: LearnedDynamics) -> None:
        np.testing.assert_array_equal(whole.atoms.positions, parts.atoms.positions)
        np.testing.assert_array_equal(whole.atoms.get_momenta(), parts.atoms.get_momenta())
        assert whole.rng.bit_generator.state == parts.rng.bit_generator.state
        assert whole.statistics == parts.statistics
        assert whole.get_time() == parts.get_time()
        assert 0 < whole.statistics.accepted < whole.statistics.tried
        frames, others = read(folder / "whole.traj"), read(folder / "parts.traj")
        assert len(frames) == len(others) == 11
        for frame, other in zip(frames, others, strict=True):
            np.testing.assert_array_equal(frame.positions, other.positions)
            np.testing.assert_array_equal(frame.get_momenta(), other.get_momenta())
        assert (folder / "whole.log").read_text() == (folder / "parts.log").read_text()

    def test_bit_for_bit_with_one_trajectory_and_one_log(self, tmp_path):
        whole = self.start(tmp_path, "whole")
        whole.run(20)
        first = self.start(tmp_path, "parts")
        first.run(10)
        first.save_restart(tmp_path / "restart")
        del first
        second = self.resume(tmp_path, "parts", tmp_path / "restart")
        assert second.nsteps == 10
        assert second.seed == 11
        second.run(10)
        self.same(tmp_path, whole, second)

    def test_killed_between_two_restart_files(self, tmp_path):
        """The trajectory has frames from after the restart file; they are not there twice."""
        whole = self.start(tmp_path, "whole", saved=tmp_path / "whole.restart")
        whole.run(20)
        first = self.start(tmp_path, "parts", saved=tmp_path / "restart")
        first.run(14)
        log = (tmp_path / "parts.log").read_text().splitlines(keepends=True)
        del first
        assert len(read(tmp_path / "parts.traj")) == 8
        second = self.resume(tmp_path, "parts", tmp_path / "restart")
        assert second.nsteps == 10
        assert len(read(tmp_path / "parts.traj")) == 6
        (tmp_path / "parts.log").write_text("".join(log[:7]))  # lines of a log may repeat; frames may not
        second.run(10)
        self.same(tmp_path, whole, second)
        # The continued run has gone on saving.
        third = self.resume(tmp_path, "parts", tmp_path / "restart")
        assert third.nsteps == 20
        np.testing.assert_array_equal(third.atoms.positions, whole.atoms.positions)

    def test_killed_at_any_moment(self, tmp_path):
        """SIGKILL in another process, once it has saved something."""
        script = (
            "import sys, importlib.util as u, pathlib\n"
            "spec = u.spec_from_file_location('tested', sys.argv[1]); tested = u.module_from_spec(spec)\n"
            "spec.loader.exec_module(tested)\n"
            "folder = pathlib.Path(sys.argv[2])\n"
            "kept = folder / 'restart'\n"
            "tested.TestRestart().start(folder, 'parts', saved=kept, interval=1).run(10**6)\n"
        )
        child = subprocess.Popen([sys.executable, "-c", script, __file__, str(tmp_path)])
        try:
            while child.poll() is None:
                time.sleep(0.05)
                with contextlib.suppress(FileNotFoundError):
                    if (tmp_path / "parts.log").read_text().count("\n") > 3:
                        break
        finally:
            child.kill()
            assert child.wait() == -signal.SIGKILL
        parts = self.resume(tmp_path, "parts", tmp_path / "restart")
        steps = parts.nsteps + 3
        parts.run(3)
        whole = self.start(tmp_path, "whole")
        whole.run(steps)
        np.testing.assert_array_equal(parts.atoms.positions, whole.atoms.positions)
        np.testing.assert_array_equal(parts.atoms.get_momenta(), whole.atoms.get_momenta())
        frames, others = read(tmp_path / "whole.traj"), read(tmp_path / "parts.traj")
        assert len(frames) == len(others) == 1 + steps // 2
        assert all(np.array_equal(a.positions, b.positions) for a, b in zip(frames, others, strict=True))

    @pytest.mark.parametrize("steps", [None, 0, 1])
    def test_before_and_at_the_first_step(self, tmp_path, steps):
        first = self.start(tmp_path, "parts")
        if steps is not None:
            first.run(steps)
        first.save_restart(tmp_path / "restart")
        del first
        second = self.resume(tmp_path, "parts", tmp_path / "restart")
        second.run(4 - second.nsteps)
        whole = self.start(tmp_path, "whole")
        whole.run(4)
        assert len(read(tmp_path / "parts.traj")) == len(read(tmp_path / "whole.traj")) == 3
        np.testing.assert_array_equal(second.atoms.positions, whole.atoms.positions)

    def test_given_bond_lengths_and_known_forces_are_kept(self, tmp_path):
        atoms, propagator = self.system()
        atoms.constraints[0].bondlengths = np.array([1.5])
        propagator.move = to_nan
        dynamics = LearnedDynamics(atoms, propagator, rng=1)
        dynamics.run(1)
        calls = atoms.calc.calls
        dynamics.save_restart(tmp_path / "restart")
        again, propagator = self.system()
        continued = LearnedDynamics.restart(tmp_path / "restart", again, propagator)
        assert again.constraints[0].bondlengths == [1.5]
        np.testing.assert_array_equal(continued.jump.known_forces(), dynamics.jump.known_forces())
        continued.run(1)
        assert again.calc.calls == calls - 1

    @pytest.mark.parametrize("kind", ["MT19937", "PCG64DXSM", "Philox", "SFC64"])
    def test_every_generator_of_numpy(self, tmp_path, kind):
        atoms, propagator = self.system()
        rng = np.random.Generator(getattr(np.random, kind)(3))
        dynamics = LearnedDynamics(atoms, propagator, temperature_K=300, friction=0.1, rng=rng)
        dynamics.run(1)
        dynamics.save_restart(tmp_path / "restart")
        again, propagator = self.system()
        continued = LearnedDynamics.restart(tmp_path / "restart", again, propagator)
        for run in (dynamics, continued):
            run.run(1)
        np.testing.assert_array_equal(again.positions, atoms.positions)

    def test_a_full_disk_keeps_the_previous_file(self, tmp_path, monkeypatch):
        dynamics = self.start(tmp_path, "whole")
        dynamics.run(1)
        path = tmp_path / "restart"
        dynamics.save_restart(path)
        saved = path.read_bytes()
        dynamics.run(1)

        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(CheckpointError, match=r"cannot write the restart file .*No space left"):
                dynamics.save_restart(path)
        assert path.read_bytes() == saved
        assert sorted(p.name for p in tmp_path.iterdir()) == ["restart", "whole.log", "whole.traj"]
        assert self.resume(tmp_path, "whole", path).nsteps == 1
        with pytest.raises(CheckpointError, match="No such file"):
            dynamics.save_restart(tmp_path / "nowhere" / "restart")

    def test_damaged_and_foreign_files(self, tmp_path):
        dynamics = self.start(tmp_path, "whole")
        dynamics.run(2)
        path = tmp_path / "restart"
        dynamics.save_restart(path)
        data = path.read_bytes()
        atoms, propagator = self.system()
        before = atoms.get_positions()
        newer = data.replace(b'format_version\\": 5', b'format_version\\": 9')
        other = data.replace(b"fastegnn_md restart", b"fastegnn_md retsart")
        lacking = data.replace(b'\\"nsteps\\"', b'\\"nstops\\"')
        cases = {
            "truncated or not": data[:-100],
            "truncated": b"",
            "not a safetensors file": b"hello, this is no restart file",
            "not a restart file": other,
            "format version 9.*upgrade": newer,
            "damaged": lacking,
        }
        for words, content in cases.items():
            assert content != data
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match=words):
                LearnedDynamics.restart(path, atoms, propagator)
        with pytest.raises(CheckpointError, match="no restart file at"):
            LearnedDynamics.restart(tmp_path / "absent", atoms, propagator)
        np.testing.assert_array_equal(atoms.positions, before)

    def test_another_system_or_propagator(self, tmp_path):
        dynamics = self.start(tmp_path, "whole")
        dynamics.run(4)
        path = tmp_path / "restart"
        dynamics.save_restart(path)

        def refused(words, change_atoms=lambda a: None, error=CompatibilityError, change=lambda p: None, **options):
            atoms, propagator = self.system()
            change_atoms(atoms)
            change(propagator)
            before = atoms.get_positions()
            with pytest.raises(error, match=words):
                LearnedDynamics.restart(path, atoms, propagator, **options)
            np.testing.assert_array_equal(atoms.positions, before)

        refused("other numbers", lambda a: a.set_atomic_numbers(a.numbers[::-1]))
        refused("other masses", lambda a: a.set_masses(a.get_masses() * 2))
        refused("other pbc", lambda a: (a.set_cell([20] * 3), a.set_pbc(True)))
        refused("constraints", lambda a: a.set_constraint())
        refused("another propagator", change=lambda p: setattr(p, "timestep", 0.001))
        shutil.copy(tmp_path / "whole.traj", tmp_path / "short.traj")
        from fastegnn_md.engines.ase.trajectory import truncate_trajectory

        truncate_trajectory(tmp_path / "short.traj", 1)
        refused("has 1 frames, .* after 3", error=CheckpointError, trajectory=tmp_path / "short.traj")

    def test_without_a_trajectory_nothing_is_written(self, tmp_path):
        dynamics = self.start(tmp_path, "whole")
        dynamics.run(2)
        dynamics.save_restart(tmp_path / "restart")
        atoms, propagator = self.system()
        LearnedDynamics.restart(tmp_path / "restart", atoms, propagator).run(4)
        assert len(read(tmp_path / "whole.traj")) == 2


class TestRealPropagator:
    """An untrained FastEGNN, its corrections made small: nearly free flight, but through all of the network."""

    @staticmethod
    def propagator(atoms: Atoms, seed: int = 0, **config):
        from fastegnn_md import Propagator
        from fastegnn_md.propagator.config import PropagatorConfig
        from fastegnn_md.propagator.domain import Domain

        masses = {int(z): (float(m), float(m)) for z, m in zip(atoms.numbers, atoms.get_masses(), strict=True)}
        domain = Domain(
            masses=masses,
            limits=JumpLimits(dict.fromkeys(masses, 1.0)),
            periodic=bool(atoms.pbc.all()),
            bonds=not atoms.pbc.any(),
            conserves_momentum=True,
            neighbours=4.0,
            velocity_scale=10.0,
            force_scale=300.0,
        )
        config = PropagatorConfig(hidden=16, layers=2, **config)
        propagator = Propagator.build(config, 0.001, domain, seed=seed)
        propagator.linear.scale.mul_(1e-2)
        return propagator

    @pytest.mark.parametrize("periodic", [False, True], ids=["isolated", "periodic"])
    @pytest.mark.parametrize(
        "config", [{}, {"kind": "force-start"}, {"kind": "position"}], ids=["free", "informed", "position"]
    )
    def test_runs_and_restarts_bit_for_bit(self, tmp_path, periodic, config):
        def start() -> Atoms:
            atoms = thermal(molecule("CH3OH"))
            if periodic:
                atoms.set_cell([[8, 0, 0], [2, 9, 0], [1, 1, 10]])
                atoms.set_pbc(True)
                atoms.wrap()
            atoms.calc = Springs(atoms.positions)
            return atoms

        bonds = None if periodic else [[0, 1], [0, 2], [1, 3], [0, 4], [0, 5]]
        friction = None if config.get("kind") == "position" else 0.05
        atoms = start()
        propagator = self.propagator(atoms, **config)
        whole = LearnedDynamics(atoms, propagator, temperature_K=300, friction=friction, rng=1, bonds=bonds)
        whole.run(3)
        whole.save_restart(tmp_path / "restart")
        whole.run(3)
        assert whole.statistics.accepted == 6
        assert atoms.calc.calls == (6 if config.get("kind") == "force-start" else 0)
        propagator.save(tmp_path / "model.safetensors")
        again, loaded = start(), type(propagator).load(tmp_path / "model.safetensors")
        LearnedDynamics.restart(tmp_path / "restart", again, loaded).run(3)
        np.testing.assert_array_equal(again.positions, atoms.positions)
        np.testing.assert_array_equal(again.get_momenta(), atoms.get_momenta())
        with pytest.raises(CompatibilityError, match="another propagator"):
            LearnedDynamics.restart(tmp_path / "restart", start(), self.propagator(atoms, seed=1, **config))

    def test_weights_that_are_not_finite_are_caught_by_the_guard(self):
        atoms = thermal(molecule("CH3OH"))
        propagator = self.propagator(atoms)
        with torch.no_grad():
            next(propagator.network.parameters()).fill_(torch.nan)
        before = atoms.get_positions()
        with pytest.raises(JumpError, match=r"finite guard refused the jump at atom 0 \(C\)"):
            LearnedDynamics(atoms, propagator, bonds=[[0, 1]]).run(1)
        np.testing.assert_array_equal(atoms.positions, before)

    def test_momentum_that_was_not_conserved_in_training_is_left_alone(self):
        import dataclasses

        atoms = thermal(molecule("CH3OH"))
        propagator = self.propagator(atoms)
        propagator.domain = dataclasses.replace(propagator.domain, conserves_momentum=False)
        momentum = atoms.get_momenta().sum(0)
        LearnedDynamics(atoms, propagator, bonds=[[0, 1]]).run(1)
        assert np.abs(atoms.get_momenta().sum(0) - momentum).max() > 1e-8
