"""Adapting a model to another engine: exams, budget, resumption, failures of the engine, refusals, the command."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ase")
pytest.importorskip("lightning")

import adapt_cases
from adapt_cases import Springs, Unsteady, soft, stiff, unsteady, water
from ase import Atoms

from fastegnn_md import Committee, Propagator
from fastegnn_md.cli import main
from fastegnn_md.data import Store, TrajectoryPairs
from fastegnn_md.engines.ase.atoms import FORCE
from fastegnn_md.engines.ase.calculators import charge_of, describe_calculator
from fastegnn_md.errors import CompatibilityError, ConfigError, EngineError
from fastegnn_md.harvest import Adapted, adapt, rounds
from fastegnn_md.harvest.ledger import CountedFactory, Ledger
from fastegnn_md.harvest.rounds import burst_of, next_size
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.training.one_step import one_step_errors, ratios

BURST = 10 + 1 + 8 + 4  # calls: sampling, first point, 4 fs of 0.5 fs, forces ahead and behind of two frames


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Propagator:
    return adapt_cases.trained(tmp_path_factory.mktemp("adapt"))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_UPDATES", 60)
    monkeypatch.setattr(Springs, "calls", 0)
    monkeypatch.setattr(Unsteady, "failing", set())
    monkeypatch.setattr(Unsteady, "error", RuntimeError)


def adapted(model: Propagator, engine: Any, output: Path, **options: Any) -> Adapted:
    settings: dict[str, Any] = {"target": 1e-3, "budget": 560, "progress": False}
    return adapt(model, water(), engine, output=output, **(settings | options))


class TestExams:
    def test_a_model_that_is_good_enough_is_said_to_be_and_stays_as_it_is(self, model, tmp_path):
        found = adapted(model, soft, tmp_path / "a.safetensors", target=0.5)
        assert found.reached
        assert found.unchanged
        assert (len(found.rounds), found.bursts) == (1, 10)
        assert found.worth.training_seconds == 0.0
        loaded = Propagator.load(tmp_path / "a.safetensors")
        for name, value in model.state_dict().items():
            torch.testing.assert_close(loaded.state_dict()[name], value)
        assert loaded.metrics["over_best_baseline"]["v"] == pytest.approx(found.error)
        assert loaded.metrics["adapted"]["calls"] == Springs.calls

    def test_another_engine_is_learned_and_what_is_told_is_true_of_unseen_bursts(self, model, tmp_path):
        found = adapted(model, stiff, tmp_path / "a.safetensors", budget=1100)
        assert not found.unchanged
        assert not found.reached
        assert found.error < 0.5 * ratios(found.before)["v"]
        sizes = [one.bursts for one in found.rounds]
        assert sizes[0] == 10
        assert sizes[-1] >= 10
        assert [one.trained for one in found.rounds] == [True] * (len(sizes) - 1) + [False]
        last = tmp_path / "a.adapting" / f"round-{len(sizes)}.h5md"
        pairs = TrajectoryPairs(last, lag=model.timestep, time_reversal=True, progress=False)
        loaded = Propagator.load(tmp_path / "a.safetensors")
        for who, said in ((loaded, found.after), (model, found.before)):
            measured = one_step_errors(who, pairs)
            assert measured["learned"].v == pytest.approx(said["learned"].v, rel=1e-4)
            assert set(measured) == set(said)
        seen = set(loaded.fingerprint)
        assert seen
        trained_on = [Store(tmp_path / "a.adapting" / f"round-{k}.h5md").content for k in range(1, len(sizes))]
        assert Store(last).content not in trained_on
        assert "Springs" in loaded.provenance.theory

    def test_it_ends_with_the_round_that_reaches_the_target(self, model, tmp_path):
        first = adapted(model, stiff, tmp_path / "a.safetensors")
        target = 0.5 * (first.rounds[0].error + first.rounds[1].error)
        found = adapted(model, stiff, tmp_path / "b.safetensors", budget=5000, target=target)
        assert found.reached
        assert found.worth.calls < 2000

    def test_rounds_grow_and_leave_enough_for_a_last_exam(self):
        for affordable in range(20, 400, 7):
            left, sizes = affordable, []
            while left >= 10:
                sizes.append(next_size(len(sizes), left))
                left -= sizes[-1]
            assert left < 10
            assert all(size >= 10 for size in sizes)
            assert all(size <= 10 * 2**number for number, size in enumerate(sizes))
        assert [next_size(number, 1000) for number in range(4)] == [10, 20, 40, 80]

    def test_what_a_kind_learns_from(self):
        lag = 0.004
        assert burst_of(PropagatorConfig(kind="force-midpoint"), lag) == {
            "burst": lag,
            "interval": lag,
            "midpoint": lag,
        }
        assert burst_of(PropagatorConfig(kind="symplectic"), lag) == {"burst": lag, "interval": 0.002}
        assert burst_of(PropagatorConfig(kind="kick-drift"), lag) == {"burst": lag, "interval": lag}

    @pytest.mark.parametrize("kind", ["symplectic", "kick-drift"])
    def test_other_kinds(self, kind, model, tmp_path):
        config = PropagatorConfig(**{**adapt_cases.SMALL, "kind": kind, "kicks": 3})
        other = Propagator.build(config, model.timestep, model.domain)
        found = adapted(other, stiff, tmp_path / "a.safetensors", target=100.0)
        assert (found.bursts, found.unchanged) == (10, True)
        assert found.worth.calls_per_jump == (kind == "symplectic")
        exam = 10 if kind == "symplectic" else 0
        assert found.worth.calls == Springs.calls == 40 + 9 + 10 * (BURST - 4) + exam

    @pytest.mark.parametrize("mollify", [None, 3000.0])
    def test_a_symplectic_model_is_judged_by_the_force_where_it_leads(self, mollify, model, tmp_path):
        other = symplectic(model, mollify=mollify)
        found = adapted(other, stiff, tmp_path / "a.safetensors", target=100.0)
        calls = Springs.calls
        assert adapted(other, stiff, tmp_path / "a.safetensors", target=100.0).after == found.after
        assert Springs.calls == calls
        pairs = TrajectoryPairs(tmp_path / "a.adapting" / "round-1.h5md", lag=model.timestep, progress=False)
        squares = []
        for start, end in pairs:
            where = Atoms("OH2", other.force_positions(start).double().numpy())
            forces = torch.tensor(Springs(24.0).get_forces(where) * FORCE, dtype=torch.float32)
            v = other(other.with_forces(start, forces)).velocities
            squares.append((start.masses[:, None] * (v - end.velocities) ** 2).mean())
        assert found.after["learned"].v == pytest.approx(float(torch.stack(squares).mean().sqrt()), rel=1e-4)

    @pytest.mark.slow
    def test_a_symplectic_model_learns_another_engine_within_the_budget(self, model, tmp_path):
        found = adapted(symplectic(model), stiff, tmp_path / "a.safetensors")
        assert found.worth.calls == Springs.calls <= 560
        assert len(found.rounds) == 2
        assert found.error < ratios(found.before)["v"]


def symplectic(model: Propagator, **more: Any) -> Propagator:
    config = PropagatorConfig(**{**adapt_cases.SMALL, "kind": "symplectic", "kicks": 3, **more})
    return Propagator.build(config, model.timestep, model.domain)


class TestBudget:
    @pytest.mark.parametrize("budget", [520, 640])
    def test_it_is_kept_to_the_call_and_what_is_told_is_what_was_called(self, model, tmp_path, budget):
        found = adapted(model, stiff, tmp_path / "a.safetensors", budget=budget)
        assert found.worth.calls == Springs.calls == Ledger(tmp_path / "a.adapting" / "calls").calls
        assert budget - 10 * BURST - 20 < Springs.calls <= budget

    def test_the_smallest_is_named_and_enough(self, model, tmp_path):
        with pytest.raises(ConfigError, match=r"budget of 300 calls is too small .* budget=(\d+) at least") as error:
            adapted(model, stiff, tmp_path / "a.safetensors", budget=300)
        assert Springs.calls == 0
        least = int(str(error.value).split("budget=")[1].split()[0])
        with pytest.raises(ConfigError, match="too small"):
            adapted(model, stiff, tmp_path / "a.safetensors", budget=least - 1)
        found = adapted(model, stiff, tmp_path / "a.safetensors", budget=least)
        assert [one.bursts for one in found.rounds] == [10, 10]
        assert Springs.calls <= least

    def test_more_of_it_goes_on_and_the_same_call_does_nothing(self, model, tmp_path):
        first = adapted(model, stiff, tmp_path / "a.safetensors")
        calls = Springs.calls
        again = adapted(model, stiff, tmp_path / "a.safetensors")
        assert Springs.calls == calls
        assert again.after == first.after
        more = adapted(model, stiff, tmp_path / "a.safetensors", budget=900)
        assert more.rounds[0].errors == first.rounds[0].errors
        assert len(more.rounds) > len(first.rounds)
        assert more.error < first.error
        assert Springs.calls <= 900

    def test_what_it_costs_and_when_it_pays(self, model, tmp_path):
        worth = adapted(model, stiff, tmp_path / "a.safetensors").worth
        assert worth.calls_per_jump == 1
        saved = worth.call_seconds / 0.001 - (worth.jump_seconds + worth.call_seconds) / 0.004
        cost = worth.engine_seconds + worth.training_seconds
        assert worth.pays_after_ps == (pytest.approx(cost / saved) if saved > 0 else math.inf)
        assert worth.training_seconds > 0
        assert 0 < worth.engine_seconds < 60


class TestResume:
    @pytest.mark.parametrize("call", [45, pytest.param(270, marks=pytest.mark.slow), 420])
    def test_what_was_killed_goes_on_and_comes_to_the_same(self, model, tmp_path, call):
        whole = adapted(model, unsteady, tmp_path / "whole.safetensors")
        Springs.calls, Unsteady.error, Unsteady.failing = 0, KeyboardInterrupt, {call}
        with pytest.raises(KeyboardInterrupt):
            adapted(model, unsteady, tmp_path / "a.safetensors")
        assert not (tmp_path / "a.safetensors").exists()
        found = adapted(model, unsteady, tmp_path / "a.safetensors", budget=600)
        assert found.rounds[0].bursts == 10
        assert found.rounds[0].errors["learned"].v == pytest.approx(whole.rounds[0].errors["learned"].v, rel=1e-5)
        assert whole.worth.calls < found.worth.calls + 10 * BURST
        assert found.worth.calls == Springs.calls

    def test_a_training_that_was_killed_goes_on(self, model, tmp_path, monkeypatch):
        whole = adapted(model, stiff, tmp_path / "whole.safetensors")
        with monkeypatch.context() as patch:
            patch.setattr(rounds.Rounds, "examine", _interrupted(rounds.Rounds.examine, 2))
            with pytest.raises(KeyboardInterrupt):
                adapted(model, stiff, tmp_path / "a.safetensors")
        Springs.calls = 0
        found = adapted(model, stiff, tmp_path / "a.safetensors")
        assert Springs.calls == 0
        assert found.after["learned"].v == pytest.approx(whole.after["learned"].v, rel=1e-5)

    @pytest.mark.parametrize(
        ("changed", "named"),
        [
            ({"temperature": 300.0}, "temperature was 350.0, is now 300.0"),
            ({"seed": 1}, "seed was 0, is now 1"),
            ({"timestep": "1 fs"}, "timestep was 0.0005, is now 0.001"),
            ({"engine": soft}, "engine was 'adapt_cases.stiff"),
        ],
    )
    def test_other_arguments_are_refused(self, model, tmp_path, changed, named):
        adapted(model, stiff, tmp_path / "a.safetensors", target=5.0)
        calls, engine = Springs.calls, changed.pop("engine", stiff)
        with pytest.raises(ConfigError, match=rf"{named}.*delete the folder"):
            adapted(model, engine, tmp_path / "a.safetensors", target=5.0, **changed)
        assert Springs.calls == calls

    def test_another_start_is_refused(self, model, tmp_path):
        adapted(model, stiff, tmp_path / "a.safetensors", target=5.0)
        moved = water()
        moved.positions[0, 0] += 0.01
        with pytest.raises(ConfigError, match="atoms was"):
            adapt(model, moved, stiff, output=tmp_path / "a.safetensors", target=5.0, progress=False)

    @pytest.mark.slow
    def test_the_result_does_not_depend_on_processes(self, model, tmp_path, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", str(Path(adapt_cases.__file__).parent))
        one = adapted(model, stiff, tmp_path / "one.safetensors", target=5.0)
        two = adapted(model, stiff, tmp_path / "two.safetensors", target=5.0, processes=2)
        assert one.after["learned"].v == pytest.approx(two.after["learned"].v, rel=1e-6)
        assert one.worth.calls == two.worth.calls


def _interrupted(examine: Any, at: int) -> Any:
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return examine(*arguments)

    return interrupted


class TestFailures:
    def test_a_burst_that_fails_is_dropped_and_counted(self, model, tmp_path):
        Unsteady.failing = {51 + 90 + 8 + 20, 51 + 90 + 8 + 60}
        found = adapted(model, unsteady, tmp_path / "a.safetensors", target=5.0)
        assert (found.bursts, found.dropped, found.failed) == (10, 2, 2)
        assert found.worth.calls == Springs.calls

    def test_a_sampling_that_fails_goes_on_from_the_frame_before(self, model, tmp_path):
        Unsteady.failing = {20, 75}
        found = adapted(model, unsteady, tmp_path / "a.safetensors", target=5.0)
        assert (found.bursts, found.dropped) == (10, 0)
        assert found.worth.calls == Springs.calls <= 560

    def test_where_it_fails_in_an_exam_the_burst_is_left_out_of_it(self, model, tmp_path):
        before = 40 + 9 + 10 * (BURST - 4)
        Unsteady.failing = {before + 1, before + 6}
        found = adapted(symplectic(model), unsteady, tmp_path / "a.safetensors", target=100.0)
        assert (found.bursts, found.dropped, found.rounds[0].unanswered) == (10, 0, 2)
        Springs.calls, Unsteady.failing = 0, set(range(before + 1, before + 11))
        with pytest.raises(EngineError, match=r"failed at 10 of 10 places that the model leads to"):
            adapted(symplectic(model), unsteady, tmp_path / "b.safetensors", target=100.0)
        again = adapted(symplectic(model), unsteady, tmp_path / "b.safetensors", target=100.0)
        assert again.rounds[0].unanswered == 0

    def test_an_engine_that_always_fails_is_named(self, model, tmp_path):
        Unsteady.failing = set(range(2000))
        with pytest.raises(EngineError, match=r"sampling failed; relax the start.*Unsteady failed: RuntimeError: SCF"):
            adapted(model, unsteady, tmp_path / "a.safetensors")
        assert Springs.calls == 3

    def test_more_failures_than_half_are_an_error_and_run_again(self, model, tmp_path):
        Unsteady.failing = set(range(51 + 90 + 9, 51 + 90 + 400))
        with pytest.raises(EngineError, match=r"failed in 6 of 6 bursts"):
            adapted(model, unsteady, tmp_path / "a.safetensors", target=5.0)
        Unsteady.failing = set()
        assert adapted(model, unsteady, tmp_path / "a.safetensors", target=5.0).dropped == 0


class TestRefusals:
    def test_atoms_that_the_model_does_not_know(self, model, tmp_path):
        sulphide = water()
        sulphide.symbols[0] = "S"
        periodic = water()
        periodic.cell, periodic.pbc = [9, 9, 9], True
        for atoms, reason in ((sulphide, "atomic number 16"), (periodic, "the system is periodic")):
            with pytest.raises(CompatibilityError, match=reason):
                adapt(model, atoms, stiff, output=tmp_path / "a.safetensors", progress=False)
        assert Springs.calls == 0
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"target": 0}, "target is 0"),
            ({"budget": 1000.5}, "budget is 1000.5"),
            ({"budget": "1000"}, "budget is '1000'"),
            ({"output": "a.pt"}, "must end in .safetensors"),
        ],
    )
    def test_arguments_out_of_range(self, model, tmp_path, options, reason):
        settings: dict[str, Any] = {"output": tmp_path / "a.safetensors", "progress": False}
        with pytest.raises(ConfigError, match=reason):
            adapt(model, water(), stiff, **(settings | options))

    def test_what_is_no_model_no_atoms_and_no_factory(self, model, tmp_path):
        output = tmp_path / "a.safetensors"
        other = Propagator.build(model.config, model.timestep, model.domain, seed=1)
        with pytest.raises(ConfigError, match=r"model is a Committee.*one by one"):
            adapt(Committee([model, other]), water(), stiff, output=output)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="atoms is a str"):
            adapt(model, "water.xyz", stiff, output=output)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="engine_factory is a Springs"):
            adapt(model, water(), stiff(), output=output)
        position = Propagator.build(PropagatorConfig(kind="position", use_bonds=False), 0.004, model.domain)
        with pytest.raises(ConfigError, match="kind 'position' has no velocities"):
            adapt(position, water(), stiff, output=output)


class TestLedger:
    def test_one_call_for_each_geometry_and_the_engine_keeps_its_name(self, tmp_path):
        atoms, ledger = water(), Ledger(tmp_path / "calls")
        assert (ledger.calls, ledger.seconds, ledger.typical) == (0, 0.0, 0.0)
        atoms.calc = CountedFactory(lambda: Springs(charge=1), ledger.path)()
        assert charge_of(atoms.calc) == 1.0
        assert describe_calculator(atoms.calc) == "Springs"
        for _ in range(3):
            atoms.positions[0] += 0.1
            atoms.get_forces(), atoms.get_potential_energy(), atoms.get_forces()
        assert ledger.calls == Springs.calls == 3
        assert 0 < ledger.typical <= ledger.seconds < 10
        expected = Springs()
        np.testing.assert_array_equal(atoms.get_forces(), expected.get_forces(atoms))
        with ledger.path.open("ab") as file:
            file.write(b"\0")  # of a write that a kill cut short
        assert ledger.calls == 3


class TestCommand:
    @pytest.fixture
    def here(self, model, tmp_path, monkeypatch) -> Path:
        monkeypatch.chdir(tmp_path)
        shutil.copy(adapt_cases.__file__, tmp_path / "engines_of_mine.py")
        model.save(tmp_path / "model.safetensors")
        water().write(tmp_path / "start.xyz", format="xyz")
        return tmp_path

    def run(self, *arguments: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["adapt", "model.safetensors", "start.xyz", "--calculator", *arguments])
        return int(end.value.code or 0)

    def test_it_says_what_it_did(self, here, capsys):
        asked = ["engines_of_mine:stiff", "-o", "a.safetensors"]
        assert self.run(*asked, "--target", "1e-3", "--budget", "560 calls") == 3
        said = capsys.readouterr()
        for part in ("round 1: 10 bursts", "then trained for", "free flight", "cost: ", "saved a.safetensors"):
            assert part in said.out
        assert "target of 0.001 is not reached" in said.err
        record = json.loads((here / "a.adapting" / "adapting.json").read_text())
        assert len(record["rounds"]) >= 2
        assert "next: " not in said.out
        assert self.run(*asked, "--target", "0.99", "--budget", "560") == 0  # the same bursts, another target
        call = "fastegnn-md run a.safetensors start.xyz --calculator engines_of_mine:stiff --temperature 350 "
        assert f"saved a.safetensors; next: {call}" in capsys.readouterr().out

    def test_a_model_that_is_good_enough(self, here, capsys):
        assert self.run("engines_of_mine:soft", "--target", "0.9") == 0
        assert "good enough as it is" in capsys.readouterr().out
        assert (here / "adapted.safetensors").exists()

    def test_atoms_get_the_masses_of_a_model_that_knows_only_others(self, here, model, capsys):
        heavy = copy.deepcopy(model)
        heavy.domain = dataclasses.replace(model.domain, masses=model.domain.masses | {1: (4.0, 4.0)})
        heavy.save(here / "model.safetensors")
        assert self.run("engines_of_mine:soft", "--target", "9") == 0
        assert "masses that the model was trained with (H 4 u)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["engines_of_mine:stiff", "--budget", "many"], 'as "1000 calls"'),
            (["engines_of_mine:stiff", "--budget", "100 calls"], '--budget "'),
            (["engines_of_mine:nothing"], "no callable 'nothing'"),
            (["engines_of_mine:stiff", "-o", "start.xyz"], "same file as the input"),
            (["engines_of_mine:stiff", "--timestep", "3 fs"], "not a whole number of timesteps"),
        ],
    )
    def test_mistakes_end_with_one_line(self, here, capsys, arguments, said):
        assert self.run(*arguments) == 2
        err = capsys.readouterr().err.strip()
        assert said in err
        assert len(err.splitlines()) == 1

    def test_a_file_that_is_there_is_kept(self, here, capsys):
        (here / "adapted.safetensors").write_text("mine")
        assert self.run("engines_of_mine:stiff") == 2
        assert "--overwrite" in capsys.readouterr().err
