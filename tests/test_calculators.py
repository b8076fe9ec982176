"""Whatever a calculator answers, or where it fails: jumps, classical steps and bursts go on, or change nothing."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ase")

import MDAnalysis as mda
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin as ASELangevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

import fastegnn_md
from fastegnn_md.engines.ase import state_from_atoms
from fastegnn_md.errors import EngineError, NotFiniteError
from fastegnn_md.harvest import harvest
from fastegnn_md.integrators import Conserve, GuardSettings, LearnedDynamics, MetropolizedDynamics, Schedule
from fastegnn_md.propagator import FakePropagator

FS = units.fs
LAG = 0.008


class Answers(EMT):
    """EMT whose answers have another type."""

    forces_as: Any = staticmethod(lambda forces: forces)
    energy_as: Any = staticmethod(lambda energy: energy)

    def calculate(self, *arguments: Any, **options: Any) -> None:
        super().calculate(*arguments, **options)
        self.results["forces"] = type(self).forces_as(self.results["forces"])
        self.results["energy"] = type(self).energy_as(self.results["energy"])


class Single(Answers):
    forces_as = staticmethod(lambda forces: forces.astype(np.float32))
    energy_as = staticmethod(np.float32)


class Lists(Answers):
    forces_as = staticmethod(lambda forces: forces.tolist())
    energy_as = staticmethod(lambda energy: np.array([energy]))


class ReadOnly(Answers):
    energy_as = staticmethod(np.array)

    def get_forces(self, atoms: Any = None) -> np.ndarray:
        forces = super().get_forces(atoms)
        forces.setflags(write=False)
        return forces


class Failing(EMT):
    """Raises, or answers NaN, from the n-th calculation on, until it is mended."""

    def __init__(self, after: int, nan: bool = False, error: type[Exception] = RuntimeError):
        super().__init__()
        self.left, self.nan, self.error = after, nan, error

    def calculate(self, *arguments: Any, **options: Any) -> None:
        super().calculate(*arguments, **options)
        self.left -= 1
        if self.left >= 0:
            return
        if not self.nan:
            raise self.error("no convergence")
        self.results["forces"] = np.full_like(self.results["forces"], np.nan)


KINDS = [Single, Lists, ReadOnly]


def crystal(calculator: Any, side: int = 2) -> Atoms:
    atoms = bulk("Cu", a=3.61, cubic=True) * (side, side, side)
    thermalize_momenta(atoms, 600, rng=np.random.default_rng(0))
    atoms.calc = calculator
    return atoms


def flight(state: Any) -> Any:
    return state.positions + LAG * state.velocities, state.velocities


def midpoint_flight(state: Any) -> Any:
    """Drift, kick, drift."""
    v = state.velocities + LAG * state.midpoint_forces / state.masses[:, None]
    return state.positions + 0.5 * LAG * (state.velocities + v), v


REFUSING = GuardSettings(energy_change=1e-12)  # every jump


@pytest.mark.parametrize("kind", KINDS)
class TestAnswersOfAnyType:
    def compare(self, kind: type, steps: int, **options: Any) -> LearnedDynamics:
        """Run with such answers and with those of EMT itself."""
        made = []
        for calculator in (kind(), EMT()):
            atoms = crystal(calculator)
            chosen = {name: value(atoms) if callable(value) else value for name, value in options.items()}
            propagator = chosen.pop("propagator", None) or FakePropagator(flight, LAG)
            dynamics = LearnedDynamics(atoms, propagator, rng=1, **chosen)
            dynamics.log_energy = True
            dynamics.run(steps)
            made.append(dynamics)
        found, expected = made
        np.testing.assert_allclose(found.atoms.positions, expected.atoms.positions, rtol=0, atol=1e-5)
        assert found.atoms.positions.dtype == np.float64
        energies = found.logged_energy(), expected.logged_energy()
        assert type(energies[0]) is float
        assert energies[0] == pytest.approx(energies[1], abs=1e-4)
        return found

    def test_classical_steps_in_place_of_refused_jumps(self, kind):
        found = self.compare(kind, 4, temperature_K=600, friction="10/ps", guard=REFUSING)
        assert found.statistics.fallback_steps > 0
        assert found.statistics.accepted == 0

    def test_forces_at_the_midpoint(self, kind):
        found = self.compare(kind, 4, propagator=lambda _: FakePropagator(midpoint_flight, LAG, kind="force-midpoint"))
        assert found.statistics.accepted == 4

    def test_forces_at_the_start_and_energy_conserved(self, kind):
        def kick(state: Any) -> Any:
            v = state.velocities + LAG * state.forces / state.masses[:, None]
            return state.positions + LAG * v, v

        self.compare(
            kind, 4, propagator=lambda _: FakePropagator(kick, LAG, kind="force-start"), conserve=Conserve(energy=True)
        )

    def test_own_classical_steps_between_jumps(self, kind):
        self.compare(kind, 9, schedule=Schedule(2, 1, classical="2 fs"), temperature_K=600, friction="10/ps")

    def test_classical_steps_of_ase_between_jumps(self, kind):
        self.compare(kind, 9, schedule=lambda atoms: Schedule(2, 1, classical=VelocityVerlet(atoms, 2 * FS)))

    def test_relaxation_and_minimisation(self, kind):
        schedule = Schedule(relax_steps=2, minimize_steps=2)
        position = FakePropagator(flight, LAG, kind="position")
        self.compare(kind, 2, propagator=lambda _: position, schedule=schedule, temperature_K=600)

    def test_metropolis(self, kind):
        ends = []
        for calculator in (kind(), EMT()):
            atoms = crystal(calculator)
            exact = FakePropagator(flight, LAG, reversible=True, volume_preserving=True)
            dynamics = MetropolizedDynamics(atoms, exact, temperature_K=600, rng=1)
            dynamics.run(4)
            ends.append(atoms.positions)
            assert type(dynamics.logged_energy()) is float
        np.testing.assert_allclose(*ends, rtol=0, atol=1e-5)

    def test_trajectories_and_logs_hold_the_energies(self, kind, tmp_path):
        from ase.io import read

        atoms = crystal(kind())
        dynamics = LearnedDynamics(
            atoms, FakePropagator(flight, LAG), trajectory=str(tmp_path / "a.traj"), logfile=str(tmp_path / "log")
        )
        dynamics.log_energy = True
        dynamics.run(2)
        kept = read(tmp_path / "a.traj", index=-1)
        assert float(np.squeeze(kept.get_potential_energy())) == pytest.approx(dynamics.logged_energy(), abs=1e-4)

    def test_states_with_forces(self, kind):
        atoms = crystal(kind())
        forces = state_from_atoms(atoms, forces=True).forces
        expected = state_from_atoms(crystal(EMT()), forces=True).forces
        np.testing.assert_allclose(forces, expected, rtol=0, atol=1e-2)  # amu Å/ps², 1 eV/Å is 9,649

    @pytest.mark.parametrize("midpoint", [None, "4 fs"])
    def test_bursts(self, kind, midpoint, tmp_path):
        found = harvest(frames(2), kind, store=tmp_path / "a.h5md", midpoint=midpoint, **FAST)
        expected = harvest(frames(2), EMT, store=tmp_path / "b.h5md", midpoint=midpoint, **FAST)
        a, b = (fastegnn_md.data.Store(path) for path in (found, expected))
        np.testing.assert_allclose(a.positions[:], b.positions[:], rtol=0, atol=1e-4)


FAST: dict[str, Any] = {
    "burst": "4 fs",
    "interval": "2 fs",
    "timestep": "1 fs",
    "temperature": 600,
    "progress": False,
}


def frames(count: int) -> mda.Universe:
    """Copper, the same crystal a few times."""
    atoms = crystal(None)
    universe = mda.Universe.empty(len(atoms), trajectory=False)
    universe.add_TopologyAttr("elements", ["Cu"] * len(atoms))
    universe.add_TopologyAttr("masses", atoms.get_masses())
    box = np.tile(np.array([*atoms.cell.lengths(), 90, 90, 90], dtype=np.float32), (count, 1))
    universe.load_new(np.tile(atoms.positions.astype(np.float32), (count, 1, 1)), dt=1.0, dimensions=box)
    return universe


def test_the_shipped_model_with_a_calculator_in_single_precision():
    atoms = crystal(Single(), 3)
    dynamics = LearnedDynamics(
        atoms, fastegnn_md.load("copper-emt"), temperature_K=600, friction="10/ps", guard=REFUSING, rng=1
    )
    dynamics.run(2)
    assert dynamics.statistics.fallback_steps > 0


SCHEDULES = {
    "own steps": lambda atoms: Schedule(2, 1, classical="2 fs"),
    "Verlet of ASE": lambda atoms: Schedule(2, 1, classical=VelocityVerlet(atoms, 2 * FS)),
    "Langevin of ASE": lambda atoms: Schedule(
        2,
        1,
        classical=ASELangevin(
            atoms, 2 * FS, temperature_K=600, friction=0.01 / FS, rng=np.random.default_rng(3), fixcm=False
        ),
    ),
    "an adaptive schedule": lambda atoms: Schedule(2, None, classical=VelocityVerlet(atoms, 2 * FS)),
    "steps in place of jumps": lambda atoms: Schedule(),
    "steps of ASE in place of jumps": lambda atoms: Schedule(2, 1, classical=VelocityVerlet(atoms, 2 * FS)),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("after", [1, 2, 4, 5])
def test_a_step_in_which_the_calculator_fails_is_not_made_at_all(name, nan, after):
    """And once the calculator is mended, the run ends where one that never failed ends."""

    def made(calculator: Any) -> LearnedDynamics:
        atoms = crystal(calculator)
        guard = REFUSING if "place" in name or "adaptive" in name else False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # ASE, of the default of fixcm
            schedule = SCHEDULES[name](atoms)
        options: dict[str, Any] = {"temperature_K": 600} if guard else {}
        if guard and schedule.engine is None:
            options["friction"] = "10/ps"
        return LearnedDynamics(atoms, FakePropagator(flight, LAG), schedule=schedule, guard=guard, rng=1, **options)

    expected = made(EMT())
    expected.run(8)
    found = made(Failing(after, nan))
    with pytest.raises((EngineError, NotFiniteError, fastegnn_md.errors.JumpError), match=r"convergence|NaN"):
        found.run(8)
    reached = made(EMT())
    reached.run(found.nsteps)
    np.testing.assert_allclose(found.atoms.positions, reached.atoms.positions, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.atoms.get_momenta(), reached.atoms.get_momenta(), rtol=0, atol=1e-12)
    assert isinstance(found.atoms.calc, Failing)
    assert found.get_time() == reached.get_time()
    found.atoms.calc.left = 10**6
    found.atoms.calc.reset()
    found.run(8 - found.nsteps)
    np.testing.assert_allclose(found.atoms.positions, expected.atoms.positions, rtol=0, atol=1e-12)


class TestBursts:
    def test_a_geometry_that_the_calculator_cannot_do_is_dropped(self, tmp_path):
        class NaNOnce(EMT):
            calls = 0

            def calculate(self, *arguments: Any, **options: Any) -> None:
                super().calculate(*arguments, **options)
                type(self).calls += 1
                if type(self).calls == 14:  # after those for mirror images
                    self.results["forces"] = self.results["forces"] * np.nan

        path = harvest(frames(3), NaNOnce, store=tmp_path / "a.h5md", max_failed=0.5, **FAST)
        assert fastegnn_md.data.Store(path).provenance["dropped bursts"] == 1

    def test_a_calculator_that_breaks_is_an_error_by_name_and_the_harvest_goes_on_later(self, tmp_path):
        class Breaking(EMT):
            calls = 0
            broken = True

            def calculate(self, *arguments: Any, **options: Any) -> None:
                super().calculate(*arguments, **options)
                type(self).calls += 1
                if type(self).broken and type(self).calls > 12:
                    raise RuntimeError("CUDA out of memory")

        with pytest.raises(EngineError, match=r"failed in 1 of \d bursts \(RuntimeError: CUDA out of memory"):
            harvest(frames(3), Breaking, store=tmp_path / "a.h5md", **FAST)
        assert not (tmp_path / "a.h5md").exists()
        Breaking.broken = False
        path = harvest(frames(3), Breaking, store=tmp_path / "a.h5md", **FAST)
        assert fastegnn_md.data.Store(path).provenance["dropped bursts"] == 0

    @pytest.mark.parametrize("error", [RuntimeError, KeyError, ValueError])
    def test_a_burst_in_which_the_engine_fails_is_dropped_whatever_it_raises(self, error, tmp_path):
        class Failing(EMT):
            calls = 0

            def calculate(self, *arguments: Any, **options: Any) -> None:
                type(self).calls += 1
                if type(self).calls == 14:
                    raise error("SCF not converged")
                super().calculate(*arguments, **options)

        path = harvest(frames(8), Failing, store=tmp_path / "a.h5md", max_failed=0.2, **FAST)
        said = fastegnn_md.data.Store(path).provenance
        assert (said["bursts"], said["dropped bursts"], said["bursts in which the engine failed"]) == (8, 1, 1)

    def test_what_is_no_answer_at_all_ends_a_harvest_at_once(self, tmp_path):
        class Lists(EMT):
            def calculate(self, *arguments: Any, **options: Any) -> None:
                super().calculate(*arguments, **options)
                self.results["forces"] = ["x", "y"]

        with pytest.raises(EngineError, match="not numbers of shape"):
            harvest(frames(3), Lists, store=tmp_path / "a.h5md", max_failed=0.9, **FAST)


class Odd(EMT):
    forces: Any = None
    energy: Any = 0.0

    def get_forces(self, atoms: Any = None) -> Any:
        return self.forces

    def get_potential_energy(self, atoms: Any = None, force_consistent: bool = False) -> Any:
        return self.energy


@pytest.mark.parametrize(
    ("forces", "message"),
    [
        (np.zeros((3, 3)), r"shape \(3, 3\); expected \(32, 3\)"),
        ([["a", "b", "c"]] * 32, "not numbers"),
        (None, "not numbers|shape"),
        (np.full((32, 3), np.inf), "NaN or infinite"),
    ],
)
def test_what_are_no_forces_is_said(forces, message):
    calculator = Odd()
    calculator.forces = forces
    with pytest.raises((EngineError, NotFiniteError), match=message):
        state_from_atoms(crystal(calculator), forces=True)


@pytest.mark.parametrize("energy", [np.zeros(2), "low", None])
def test_what_is_no_energy_is_said(energy):
    calculator = Odd()
    calculator.forces, calculator.energy = np.zeros((32, 3)), energy
    dynamics = LearnedDynamics(
        crystal(calculator), FakePropagator(flight, LAG), guard=REFUSING, temperature_K=600, friction="1/ps"
    )
    with pytest.raises(EngineError, match="energy of the calculator Odd"):
        dynamics.run(1)
