"""Dynamics that learn while they run: phases, exams, audits, restarts, faults."""

from __future__ import annotations

import math
import re
import shutil
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from ase.io import Trajectory, read
from ase.md.velocitydistribution import thermalize_momenta

from fastegnn_md import load
from fastegnn_md.errors import (
    CheckpointError,
    CompatibilityError,
    ConfigError,
    EngineError,
    NotFiniteError,
)
from fastegnn_md.integrators import Langevin, LearnedDynamics, Learning, LearningDynamics, LearningWarning
from fastegnn_md.integrators.learning.account import Account
from fastegnn_md.integrators.learning.exams import Exam, RunningError
from fastegnn_md.propagator.config import PropagatorConfig

SMALL = PropagatorConfig(hidden=8, layers=1, vector_channels=2, radial_functions=4, virtual_nodes=1, use_bonds=False)
QUICK = Learning(first=4, updates=5, batch_size=4, target=200.0, window=10)
KELVIN = 300.0
# Models of seconds of training change the energy, and how often a frozen run asks for it depends on the clock.
pytestmark = pytest.mark.filterwarnings("ignore::fastegnn_md.integrators.AuditWarning")


class Springs(Calculator):
    """Springs between all atoms: a small network learns them."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, home: np.ndarray, strength: float = 2.0):
        super().__init__()
        self.home, self.strength, self.made = home, strength, 0
        self.lengths = np.linalg.norm(home[:, None] - home[None], axis=2)

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.made += 1
        apart = self.atoms.positions[:, None] - self.atoms.positions[None]
        now = np.linalg.norm(apart, axis=2) + np.eye(len(apart))
        stretch = now - np.eye(len(apart)) - self.lengths
        self.results = {
            "energy": 0.25 * self.strength * float((stretch**2).sum()),
            "forces": -self.strength * (stretch[..., None] * apart / now[..., None]).sum(axis=1),
        }


def cluster(seed: int = 0) -> Atoms:
    home = np.array([[0, 0, 0], [1.6, 0, 0], [0, 1.7, 0.2], [1.5, 1.6, 0.9]])
    atoms = Atoms("ArNeArNe", positions=home)
    atoms.calc = Springs(home)
    thermalize_momenta(atoms, KELVIN, rng=np.random.default_rng(seed))
    return atoms


def run_of(atoms: Atoms, **options: Any) -> LearningDynamics:
    chosen = {
        "timestep": "2 fs",
        "model": SMALL,
        "temperature_K": KELVIN,
        "friction": "5/ps",
        "learning": QUICK,
        "rng": 1,
    } | options
    return LearningDynamics(atoms, "8 fs", **chosen)


class TestPhases:
    def test_first_segments_are_the_classical_map_between_half_steps_of_the_thermostat(self) -> None:
        from ase.md.verlet import VelocityVerlet

        atoms, other = cluster(), cluster()
        bath = Langevin(KELVIN, "5/ps")
        dynamics = run_of(atoms)
        dynamics.run(3)

        rng, masses = np.random.default_rng(1), other.get_masses()
        for _ in range(3):
            for half in range(2):
                kept = math.exp(-bath.friction * 0.004)
                drawn = rng.standard_normal((4, 3))
                spread = np.sqrt((1 - kept**2) * units.kB * KELVIN / masses)[:, None]
                other.set_velocities(kept * other.get_velocities() + spread * drawn)
                if half == 0:
                    VelocityVerlet(other, 2 * units.fs).run(4)
        # ASE and OpenMM, whose Boltzmann constant is ours, differ by 1e-7 about it
        np.testing.assert_allclose(atoms.positions, other.positions, atol=1e-7)
        np.testing.assert_allclose(atoms.get_momenta(), other.get_momenta(), rtol=1e-6, atol=1e-7)

    def test_it_learns_then_jumps_and_says_so_in_every_frame(self, tmp_path: Path) -> None:
        atoms = cluster()
        dynamics = run_of(atoms, trajectory=str(tmp_path / "run.traj"))
        assert dynamics.phase == "learning"
        dynamics.run(60)
        assert dynamics.phase == "jumping"
        assert dynamics.account.jumps > 20
        assert dynamics.account.steps == 60
        dynamics.freeze()
        dynamics.run(5)
        assert dynamics.account.jumps + dynamics.account.segments == 65
        phases = [frame.info["phase"] for frame in read(tmp_path / "run.traj", ":")]
        assert phases[0] == "learning"
        assert "jumping" in phases
        assert phases[-1] == "frozen"
        changes = [a for a, b in pairwise(phases) if a != b]
        assert changes == ["learning", "jumping"]

    def test_jumps_ask_the_engine_for_nothing_and_audits_for_a_segment_and_two_energies(self) -> None:
        atoms = cluster()
        dynamics = run_of(atoms)
        dynamics.run(40)
        before, audits, refused = dynamics.course.engine.calls, dynamics.account.audits, dynamics.account.refused
        dynamics.run(100)
        audited, replaced = dynamics.account.audits - audits, dynamics.account.refused - refused
        assert dynamics.phase == "jumping"
        assert audited > 0
        # forces at the start, unless the step before was a segment, and four steps; the energy after the jump
        most = 6 * audited + 5 * replaced
        assert most - audited - replaced <= dynamics.course.engine.calls - before <= most

    def test_calls_are_those_that_the_calculator_counted(self) -> None:
        atoms = cluster()
        dynamics = run_of(atoms)
        dynamics.run(60)
        assert dynamics.account.audits > 0
        assert dynamics.course.engine.calls == atoms.calc.made
        assert len(dynamics.course.engine.durations) == dynamics.course.engine.calls
        assert dynamics.saved_calls == 60 * 4 - dynamics.course.engine.calls

    def test_the_error_on_unseen_segments_falls(self) -> None:
        dynamics = run_of(cluster(), learning=Learning(first=10, updates=20, target=0.01, window=10))
        dynamics.run(14)
        early = dynamics.error.value
        dynamics.run(60)
        assert dynamics.phase == "learning"
        assert dynamics.error.value < 0.5 * early
        table = dynamics.error.table
        assert table["learned"]["v"] < 0.5 * min(table[name]["v"] for name in ("zero motion", "free flight"))
        assert set(table) == {"learned", "zero motion", "free flight", "best linear"}

    def test_bad_audits_send_it_back_to_learning(self) -> None:
        atoms = cluster()
        dynamics = run_of(atoms, learning=Learning(first=4, updates=5, batch_size=4, target=200.0, window=10))
        dynamics.run(30)
        assert dynamics.phase == "jumping"
        atoms.calc.strength = 40.0  # another engine: what was learned is wrong
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(300):
                dynamics.run(1)
                if dynamics.account.returns:
                    break
        assert dynamics.account.returns == 1
        assert dynamics.phase == "learning"

    def test_a_model_that_has_become_worse_does_not_take_over(self) -> None:
        learning = Learning(first=40, updates=5, batch_size=4, target=20.0, window=10, renew=3)
        dynamics = run_of(cluster(), learning=learning)
        while dynamics.phase == "learning":
            dynamics.run(1)
        jumping = dynamics.propagator
        trainer = dynamics.course.learner.trainer
        for _ in range(300):
            for weight in trainer.average.parameters():  # a bad update
                weight.data.fill_(3.0)
            dynamics.run(1)
            if dynamics.phase == "learning":
                break
        assert dynamics.course.account.audits > 3
        assert dynamics.propagator is jumping

    def test_freeze_after_so_many_jumps(self) -> None:
        learning = Learning(first=4, updates=5, batch_size=4, target=200.0, window=10, freeze_after=10)
        dynamics = run_of(cluster(), learning=learning)
        dynamics.run(60)
        assert dynamics.phase == "frozen"
        made = len(dynamics.course.learner.memory)
        before = {name: one.clone() for name, one in dynamics.propagator.state_dict().items()}
        dynamics.run(40)
        assert len(dynamics.course.learner.memory) == made
        assert all((one == before[name]).all() for name, one in dynamics.propagator.state_dict().items())

    def test_freeze_warns_of_a_model_above_its_target_and_refuses_none(self) -> None:
        dynamics = run_of(cluster(), learning=Learning(first=4, updates=2, batch_size=4, target=1e-3))
        with pytest.raises(ConfigError, match="no model to freeze after 0 segments"):
            dynamics.freeze()
        dynamics.run(12)
        with pytest.warns(LearningWarning, match="target of 0.001 %"):
            dynamics.freeze()
        assert dynamics.phase == "frozen"

    @pytest.mark.parametrize("kind", ["force-start", "force-midpoint", "kick-drift", "symplectic"])
    def test_every_kind_that_predicts_velocities_learns(self, kind: str) -> None:
        config = PropagatorConfig.model_validate({**SMALL.model_dump(exclude={"kind", "kicks"}), "kind": kind})
        dynamics = run_of(cluster(), model=config)
        dynamics.run(30)
        assert dynamics.phase == "jumping"
        assert dynamics.account.jumps > 5
        assert np.isfinite(dynamics.atoms.positions).all()

    def test_it_goes_on_from_a_trained_model_which_may_jump_after_ten_exams(self, tmp_path: Path) -> None:
        first = run_of(cluster())
        first.run(40)
        first.save_model(tmp_path / "model.safetensors")
        second = LearningDynamics(
            cluster(3),
            model=tmp_path / "model.safetensors",
            timestep="2 fs",
            temperature_K=KELVIN,
            friction="5/ps",
            learning=QUICK,
            rng=2,
        )
        assert "Springs" in load(tmp_path / "model.safetensors").provenance.theory
        assert second.course.lag == pytest.approx(0.008)
        second.run(12)
        assert second.phase == "jumping"
        assert second.account.segments >= 10

    def test_surroundings_of_another_system_are_learned_too(self, tmp_path: Path) -> None:
        first = run_of(cluster())
        first.run(60)
        first.freeze()
        assert first.propagator.surroundings is not None
        first.save_model(tmp_path / "model.safetensors")
        wider = cluster(3)
        wider.calc = Springs(1.4 * wider.calc.home)
        wider.positions *= 1.4
        second = LearningDynamics(
            wider,
            model=tmp_path / "model.safetensors",
            timestep="2 fs",
            temperature_K=KELVIN,
            friction="5/ps",
            learning=Learning(first=4, updates=5, batch_size=4, target=500.0, window=10),
            rng=2,
        )
        second.run(80)
        refused = second.statistics.rejected.get("surroundings", 0)
        assert second.account.jumps > 2 * refused

    def test_a_saved_model_is_one_that_others_jump_with(self, tmp_path: Path) -> None:
        dynamics = run_of(cluster())
        dynamics.run(40)
        dynamics.freeze()
        dynamics.save_model(tmp_path / "model.safetensors")
        model = load(tmp_path / "model.safetensors")
        assert model.metrics["learned"]["pairs"] == len(dynamics.course.learner.memory)
        assert set(model.metrics["one_step"]) == {"learned", "zero motion", "free flight", "best linear"}
        assert model.provenance is not None
        assert "Springs" in model.provenance.theory
        LearnedDynamics(cluster(), model, temperature_K=KELVIN, friction="5/ps", rng=0).run(3)

    def test_the_work_of_a_step_does_not_grow_with_the_run(self) -> None:
        learning = Learning(first=4, updates=3, batch_size=4, target=1e-3, memory=10)
        dynamics = run_of(cluster(), learning=learning)
        counts = []
        for _ in range(30):
            dynamics.run(1)
            trainer = dynamics.course.learner.trainer
            counts.append((dynamics.course.engine.calls, 0 if trainer is None else trainer.updates))
        assert counts[3][1] == 4 * 3
        assert {b[1] - a[1] for a, b in pairwise(counts[3:])} == {3}
        assert {b[0] - a[0] for a, b in pairwise(counts)} == {4}

    def test_memory_stays_within_its_room_and_time_is_that_of_the_steps(self) -> None:
        learning = Learning(first=4, updates=1, batch_size=4, target=1e-3, memory=16)
        dynamics = run_of(cluster(), learning=learning)
        dynamics.run(40)
        assert len(dynamics.course.learner.memory) == 16
        assert dynamics.get_time() == pytest.approx(40 * 8 * units.fs)


class TestRestart:
    def test_a_restart_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        learning = Learning(first=4, updates=3, batch_size=4, target=200.0, window=10, renew=10_000)
        whole = run_of(cluster(), learning=learning)
        whole.run(50)
        for stop in (2, 8, 30):
            broken = run_of(cluster(), learning=learning)
            broken.run(stop)
            broken.save_restart(tmp_path / "run.restart")
            again = LearningDynamics.restart(tmp_path / "run.restart", cluster(5))
            assert again.changed == ()
            again.run(50 - stop)
            assert again.phase == whole.phase == "jumping"
            assert (again.atoms.positions == whole.atoms.positions).all()
            assert (again.atoms.get_momenta() == whole.atoms.get_momenta()).all()
            assert again.course.engine.calls == whole.course.engine.calls
            assert again.error.value == whole.error.value

    def test_changed_settings_are_taken_and_told(self, tmp_path: Path) -> None:
        dynamics = run_of(cluster())
        dynamics.run(10)
        dynamics.save_restart(tmp_path / "run.restart")
        again = LearningDynamics.restart(
            tmp_path / "run.restart",
            cluster(),
            temperature_K=350.0,
            friction="1/ps",
            timestep="1 fs",
            learning=Learning(first=4, updates=7, batch_size=4, target=100.0, window=10),
        )
        told = "; ".join(again.changed)
        assert "updates was 5, is now 7" in told
        assert "target was 200.0, is now 100.0" in told
        assert "timestep was 2 fs, is now 1 fs" in told
        assert "friction=5.0), is now Langevin(temperature=350.0, friction=1.0)" in told
        assert again.thermostat == Langevin(350.0, "1/ps")
        again.run(2)
        with pytest.raises(ConfigError, match="lag cannot be changed"):
            LearningDynamics.restart(tmp_path / "run.restart", cluster(), lag="4 fs")

    def test_a_thermostat_in_other_units_is_the_same_one(self, tmp_path: Path) -> None:
        dynamics = run_of(cluster())
        dynamics.run(2)
        dynamics.save_restart(tmp_path / "run.restart")
        bath = {"temperature_K": 300.0, "friction": 0.005 / units.fs}
        again = LearningDynamics.restart(tmp_path / "run.restart", cluster(), **bath)
        assert again.changed == ()
        assert again.thermostat == dynamics.thermostat
        still = LearningDynamics.restart(tmp_path / "run.restart", cluster(), temperature_K=None)
        assert still.thermostat is None
        assert "is now None" in still.changed[0]

    def test_a_trajectory_is_continued_without_a_frame_twice(self, tmp_path: Path) -> None:
        path = str(tmp_path / "run.traj")
        dynamics = run_of(cluster(), trajectory=path, restart_file=tmp_path / "run.restart", loginterval=5)
        dynamics.run(10)
        shutil.copy(tmp_path / "run.restart", tmp_path / "kept.restart")
        dynamics.run(5)  # frames after the file, of a run that is then killed
        again = LearningDynamics.restart(tmp_path / "kept.restart", cluster(), trajectory=path)
        assert again.nsteps == 10
        again.run(10)
        del again
        with Trajectory(path) as file:
            frames = list(file)
        assert len(frames) == 5
        different = [np.abs(a.positions - b.positions).max() for a, b in pairwise(frames)]
        assert min(different) > 0

    def test_restart_files_cost_little_and_the_last_step_is_in_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from fastegnn_md.integrators.learning import dynamics as module

        clock = [0.0]
        monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
        dynamics = run_of(cluster(), restart_file=tmp_path / "run.restart")
        saved = []

        def save(path: Any, notes: Any = None) -> None:
            saved.append(dynamics.nsteps)
            clock[0] += 1.0

        monkeypatch.setattr(dynamics, "save_restart", save)
        dynamics.attach(lambda: clock.__setitem__(0, clock[0] + 1.0))  # a second a step
        dynamics.run(60)
        assert saved[-1] == 60
        assert 3 <= len(saved) <= 5

        monkeypatch.undo()
        dynamics.save_restart(tmp_path / "run.restart")
        monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
        again = LearningDynamics.restart(tmp_path / "run.restart", cluster())
        del saved[:]
        monkeypatch.setattr(again, "save_restart", save)
        again.attach(lambda: clock.__setitem__(0, clock[0] + 1.0))
        again.run(60)
        assert 3 <= len(saved) <= 5  # as before the restart

    def test_files_of_others_and_damaged_ones_are_refused(self, tmp_path: Path) -> None:
        dynamics = run_of(cluster())
        dynamics.run(40)
        path = tmp_path / "run.restart"
        dynamics.save_restart(path)
        atoms = cluster(9)
        before = atoms.positions.copy()
        content = path.read_bytes()
        (tmp_path / "cut.restart").write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError):
            LearningDynamics.restart(tmp_path / "cut.restart", atoms)
        other = atoms.copy()
        other.calc = atoms.calc
        other.symbols[0] = "Ne"
        with pytest.raises(CompatibilityError, match="numbers"):
            LearningDynamics.restart(path, other)
        dynamics.freeze()
        dynamics.save_model(tmp_path / "m.safetensors")
        learned = LearnedDynamics(cluster(), load(tmp_path / "m.safetensors"), temperature_K=300, friction="5/ps")
        learned.save_restart(tmp_path / "learned.restart")
        with pytest.raises(CheckpointError, match="of other dynamics"):
            LearningDynamics.restart(tmp_path / "learned.restart", atoms)
        assert (atoms.positions == before).all()


class Faulty(Springs):
    """Fails when it is told to."""

    fault = ""
    kept: dict[str, Any]

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        if self.fault == "raises":
            raise RuntimeError("did not converge")
        if self.fault == "nan":
            self.results["forces"] = np.full((len(self.atoms), 3), np.nan)
        if self.fault == "stale":
            self.results = self.kept
        self.kept = self.results


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "error", "words"),
        [
            ("raises", EngineError, "did not converge"),
            ("nan", NotFiniteError, "not finite|NaN"),
            ("stale", EngineError, "same forces for two geometries"),
        ],
    )
    @pytest.mark.parametrize("steps", [1, 6, 40])
    def test_a_call_that_fails_leaves_all_as_it_was(
        self, fault: str, error: type[Exception], words: str, steps: int
    ) -> None:
        atoms = cluster()
        calculator = Faulty(atoms.calc.home)
        atoms.calc = calculator
        dynamics = run_of(atoms)
        dynamics.run(steps)
        calculator.fault = fault
        raised = ""
        for _ in range(200):  # of jumps only audits ask
            before = atoms.positions.copy(), atoms.get_momenta(), dynamics.rng.bit_generator.state
            pairs, done = len(dynamics.course.learner.memory), dynamics.nsteps
            try:
                dynamics.run(1)
            except error as found:
                raised = str(found)
                break
        assert re.search(words, raised)
        assert (atoms.positions == before[0]).all()
        assert (atoms.get_momenta() == before[1]).all()
        assert dynamics.rng.bit_generator.state == before[2]
        assert len(dynamics.course.learner.memory) == pairs
        assert dynamics.account.steps == done
        calculator.fault = ""
        calculator.reset()
        dynamics.run(3)

    def test_a_stop_in_the_middle_of_training_leaves_atoms_and_steps_as_they_were(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dynamics = run_of(cluster())
        dynamics.run(6)
        before = dynamics.atoms.positions.copy(), dynamics.rng.bit_generator.state

        def stop(pair: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(dynamics.course.learner, "learn", stop)
            with pytest.raises(KeyboardInterrupt):
                dynamics.run(1)
        assert (dynamics.atoms.positions == before[0]).all()
        assert dynamics.rng.bit_generator.state == before[1]
        assert dynamics.nsteps == dynamics.account.steps == 6
        dynamics.run(2)
        assert dynamics.nsteps == dynamics.account.steps == 8

    def test_an_answer_in_no_time_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from fastegnn_md.integrators.learning import engine as module

        ticks = iter(np.cumsum([x for _ in range(20) for x in (1.0, 0.1)] + [1.0, 1e-5] + [1.0, 0.1] * 50))
        monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
        logged = module.LoggedEngine(cluster())
        from fastegnn_md.engines.ase.atoms import state_from_atoms

        places = state_from_atoms(logged.atoms).positions
        for k in range(20):
            logged.forces(places * (1 + 0.01 * k))
        with pytest.raises(EngineError, match="it takes 100 ms as a rule"):
            logged.forces(places * 1.5)

    def test_what_cannot_be_learned_is_refused_before_anything_is_moved(self) -> None:
        atoms = cluster()
        before = atoms.positions.copy()
        free = cluster()
        free.calc = None
        cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
            (free, {}, CompatibilityError, "calculator"),
            (atoms, {"timestep": "3 fs"}, CompatibilityError, "do not add up"),
            (atoms, {"timestep": "8 fs"}, CompatibilityError, "at most half"),
            (atoms, {"model": PropagatorConfig(kind="flow")}, ConfigError, "kind 'flow' cannot be learned"),
            (atoms, {"model": 3}, ConfigError, "model is a int"),
            (atoms, {"friction": None}, ConfigError, "both|temperature_K and friction"),
            (atoms, {"thermostat": Langevin(300, 1)}, ConfigError, "brings its temperature"),
            (atoms, {"learning": {"target": 3}}, ConfigError, "expected Learning"),
            (atoms, {"guard": True}, ConfigError, "expected GuardSettings"),
            (
                atoms,
                {"timestep": "1.6 fs", "model": PropagatorConfig(kind="symplectic")},
                CompatibilityError,
                "an even number",
            ),
        ]
        for given, options, error, words in cases:
            with pytest.raises(error, match=words):
                run_of(given, **options)
        with pytest.raises(ConfigError, match='give lag="20 fs"'):
            LearningDynamics(atoms)
        assert (atoms.positions == before).all()

    @pytest.mark.parametrize("timestep", [2 * units.fs, None, 0, "1 ps", math.nan, True])
    def test_a_time_step_that_is_none_is_refused(self, timestep: Any) -> None:
        with pytest.raises(ConfigError, match=r"timestep is .*up to 40 fs"):  # 2 * units.fs would be 196 fs
            run_of(cluster(), timestep=timestep)

    @pytest.mark.parametrize("lag", [40 * units.fs, 8 * units.fs, 40, 0, math.inf, True])
    def test_a_lag_that_is_none_is_refused(self, lag: Any) -> None:
        with pytest.raises(ConfigError, match=r"lag is .*up to 500 fs.*\(times of ASE"):
            LearningDynamics(cluster(), lag, timestep="4 fs", temperature_K=300, friction="10/ps")

    @pytest.mark.parametrize("change", ["element", "mass", "boundary", "atom"])
    def test_other_atoms_in_the_middle_of_a_run_are_refused(self, change: str) -> None:
        dynamics = run_of(cluster(), learning=Learning(first=20, updates=0))
        dynamics.run(1)
        atoms = dynamics.atoms
        if change == "element":
            atoms.symbols[0] = "Ne"
        elif change == "mass":
            atoms.set_masses([1.0, *atoms.get_masses()[1:]])
        elif change == "boundary":
            atoms.set_cell(20 * np.eye(3))
            atoms.pbc = True
        else:
            del atoms[3]
            atoms.calc = Springs(atoms.positions.copy())
        before = atoms.positions.copy()
        with pytest.raises(CompatibilityError, match="than when the run began"):
            dynamics.run(1)
        assert (atoms.positions == before).all()
        assert dynamics.account.steps == 1

    @pytest.mark.parametrize("bath", [{"temperature_K": None, "friction": None}, {}, {"temperature_K": 0.0}])
    @pytest.mark.parametrize("count", [1, 2])
    def test_one_or_two_atoms_learn_too(self, count: int, bath: dict[str, Any]) -> None:
        atoms = cluster()[:count]
        atoms.calc = Springs(cluster().positions[:count])
        dynamics = run_of(atoms, learning=Learning(first=3, updates=1, batch_size=2, target=900.0, window=10), **bath)
        dynamics.run(16)
        assert np.isfinite(atoms.positions).all()
        assert dynamics.account.steps == 16
        assert len(dynamics.error) == 10

    def test_a_restart_with_another_engine_warns_and_says_so(self, tmp_path: Path) -> None:
        dynamics = run_of(cluster(), learning=Learning(first=20, updates=0))
        dynamics.run(1)
        dynamics.save_restart(tmp_path / "run.restart")
        other = cluster()
        other.calc = LennardJones(sigma=1.0)
        with pytest.warns(LearningWarning, match="pairs of both"):
            again = LearningDynamics.restart(tmp_path / "run.restart", other)
        assert again.changed == ("engine was Springs, is now LennardJones",)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"window": 9},
            {"target": 0},
            {"first": 1},
            {"updates": 2.5},
            {"audits": 1.0},
            {"window": True},
            {"memory": 3},
            {"seed": -1},
        ],
    )
    def test_settings_out_of_range(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Learning(**wrong)


class TestRunningError:
    def test_it_is_the_root_mean_square_of_the_worst_element_and_its_interval_covers_it(self) -> None:
        rng = np.random.default_rng(0)
        covered, count = 0, 300
        for _ in range(count):
            error = RunningError(40)
            for _ in range(40):
                error.add(Exam(np.array([1e-4, 4e-4]) * rng.chisquare(10, 2) / 10, np.zeros((4, 2))))
            low, high = error.interval
            assert low <= error.value <= high
            covered += low <= 2.0 <= high
        assert 0.85 * count <= covered <= 0.99 * count

    def test_nothing_is_said_of_few_exams(self) -> None:
        error = RunningError(20)
        assert math.isnan(error.value)
        for _ in range(9):
            error.add(Exam(np.array([1e-8]), np.zeros((4, 2))))
        assert error.interval == (0.0, math.inf)


class TestAccount:
    def test_it_pays_where_the_clock_says(self) -> None:
        account = Account()
        for step in range(3000):
            jump = step >= 100
            account.jumps += jump
            account.segments += not jump
            account.segment_seconds += 0.0 if jump else 1.0
            account.training_seconds += 0.0 if jump else 2.0
            account.jump_seconds += 0.1 if jump else 0.0
            account.record(jump, 1.0, 2.0, [300.0])
            if step == 150:
                assert account.pays_after == pytest.approx(100 + 200 / 0.9, rel=0.05)
        assert len(account.rows) <= 1000
        assert sum(row.steps for row in account.rows) >= 3000 - account.stride
        assert account.pays_after == pytest.approx(100 + 200 / 0.9, rel=0.02)
        assert account.recent_share == 1.0
        again = Account.of(account.state())
        assert again.pays_after == account.pays_after
        assert again.recent_share == account.recent_share


def test_the_page_holds_the_numbers_and_pictures(tmp_path: Path) -> None:
    dynamics = run_of(cluster())
    dynamics.run(60)
    dynamics.report(tmp_path / "learn.html")
    text = (tmp_path / "learn.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64") == 4
    assert '<p class="warning">WARNING: learning has not ended' in text
    assert str(dynamics.course.engine.calls) in text
    line = dynamics.report_line()
    for words in ("0.48 ps", "jumping", "of thermal v, target 200 %", "calls made", "saved"):
        assert words in line
