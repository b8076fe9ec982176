"""Files that earlier versions wrote, kept in tests/data with the number of their format, are what they were."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import fastegnn_md
from fastegnn_md import State
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.errors import CheckpointError, ConfigError
from fastegnn_md.propagator.config import Kind, PropagatorConfig
from fastegnn_md.propagator.file import read_manifest
from fastegnn_md.propagator.migration import with_kind
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.checkpoints import FORMAT as CHECKPOINT

DATA = Path(__file__).parent / "data"
OPTIONS: dict[Kind, dict[str, Any]] = {
    "force-free": {},
    "force-start": {},
    "force-midpoint": {},
    "position": {"edge_dropping": 0.25},
    "kick-drift": {"kicks": 2},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_propagator_of_format_2_moves_states_as_it_did(kind: Kind) -> None:
    propagator = fastegnn_md.load(DATA / f"propagator-{kind}-2.safetensors")
    shape = {"hidden": 8, "layers": 1, "radial_functions": 4}
    assert propagator.config == PropagatorConfig(kind=kind, **shape, **OPTIONS[kind])
    assert read_manifest(DATA / f"propagator-{kind}-2.safetensors").format_version == 2
    known = load_file(DATA / "propagator-2-predictions.safetensors")
    fields = {name: known[name] for name in ("positions", "velocities", "forces", "midpoint_forces")}
    state = State(
        numbers=torch.tensor([8, 1, 1]),
        masses=torch.tensor([15.999, 1.008, 1.008], dtype=torch.float64),
        bonds=torch.tensor([[0, 1], [0, 2]]),
        **fields,
    )
    with torch.no_grad():
        found = propagator.predict(state)
    torch.testing.assert_close(found.displacement, known[f"{kind}.displacement"], rtol=1e-9, atol=1e-9)
    if kind == "position":
        assert found.velocities is None
    else:
        torch.testing.assert_close(found.velocities, known[f"{kind}.velocities"], rtol=1e-9, atol=1e-9)


def test_a_propagator_of_format_3_is_that_of_format_2_it_was_made_from() -> None:
    earlier, later = (fastegnn_md.load(DATA / f"propagator-force-free-{version}.safetensors") for version in (2, 3))
    assert later.identity() == earlier.identity()
    assert (later.config, later.domain, later.metrics) == (earlier.config, earlier.domain, earlier.metrics)
    assert later.provenance is None
    assert later.surroundings is None


@pytest.mark.parametrize("kind", OPTIONS)
def test_what_is_read_is_written_in_the_present_format(kind: Kind, tmp_path: Path) -> None:
    earlier = fastegnn_md.load(DATA / f"propagator-{kind}-2.safetensors")
    earlier.save(tmp_path / "model.safetensors")
    again = fastegnn_md.load(tmp_path / "model.safetensors")
    assert read_manifest(tmp_path / "model.safetensors").format_version == 8
    assert again.identity() == earlier.identity()
    assert (again.config, again.domain, again.metrics) == (earlier.config, earlier.domain, earlier.metrics)


def run_of_format_1(tmp_path: Path) -> tuple[list[TrajectoryPairs], Path]:
    """A run that was killed after update 4 of 6, and its data."""
    shutil.copytree(DATA / "run-1", tmp_path, dirs_exist_ok=True)
    parts = TrajectoryPairs(tmp_path / "store.h5md", lag=0.008, progress=False).split((0.6, 0.2, 0.2))
    return list(parts), tmp_path / "model.safetensors"


def test_a_run_of_format_1_is_resumed_with_its_own_settings(require: Any, tmp_path: Path) -> None:
    require("lightning")
    (train, validation, _), output = run_of_format_1(tmp_path)
    config = TrainingConfig.from_yaml(tmp_path / "model.training" / "config.yaml")
    assert (config.propagator.kind, config.propagator.kicks) == ("kick-drift", 2)
    result = fit(train, validation, config, output, resume=True, progress=False)
    assert result.updates == 6
    history = (tmp_path / "model.training" / "history.csv").read_text(encoding="utf-8").splitlines()
    earlier = (DATA / "run-1" / "model.training" / "history.csv").read_text(encoding="utf-8").splitlines()
    assert history[: len(earlier)] == earlier  # the validation after update 4 was not made again
    assert len(history) == len(earlier) + 1


def test_a_run_of_format_1_is_not_resumed_as_another_kind(require: Any, tmp_path: Path) -> None:
    require("lightning")
    (train, validation, _), output = run_of_format_1(tmp_path)
    file = tmp_path / "model.training" / "config.yaml"
    config = TrainingConfig.from_yaml(file, ["propagator.kind=force-free", "propagator.kicks=4"])
    with pytest.raises(ConfigError, match=r"propagator\.kind was 'kick-drift', is now 'force-free'"):
        fit(train, validation, config, output, resume=True, progress=False)


@pytest.mark.parametrize(
    ("former", "kind"),
    [
        ({"mode": "full", "forces": False, "midpoint": False}, "force-free"),
        ({"forces": True}, "force-start"),
        ({"forces": True, "midpoint": True}, "force-midpoint"),
        ({"mode": "position"}, "position"),
        ({"mode": "kick-drift", "kicks": 8}, "kick-drift"),
    ],
)
def test_settings_in_former_words_are_understood_in_files(former: dict[str, Any], kind: str, tmp_path: Path) -> None:
    config = TrainingConfig.from_mapping({"propagator": {"hidden": 8, **former}})
    assert (config.propagator.kind, config.propagator.hidden) == (kind, 8)
    config.to_yaml(tmp_path / "new.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "new.yaml") == config
    assert TrainingConfig.from_mapping({"propagator": former}, ["propagator.kind=force-free", "propagator.kicks=4"])


@pytest.mark.parametrize(
    ("former", "words"),
    [
        ({"midpoint": True}, "midpoint=True names no kind of propagator; set kind to one of force-free, "),
        ({"mode": "position", "forces": True}, "mode='position', forces=True names no kind"),
        ({"mode": ["full"]}, "names no kind"),
        ({"mode": "full", "kind": "position"}, "kind alone says it"),
    ],
)
def test_former_words_that_name_no_kind_are_refused(former: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        with_kind(former)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("propagator.mode=position", "one key now: write kind='position'"),
        ("propagator.forces=true", "one key now: write kind='force-start'"),
        ("propagator.midpoint=true", "midpoint=True names no kind"),
        ("midpoint=true", "one key now, propagator.kind=force-free|force-start|"),
    ],
)
def test_a_former_word_on_the_command_line_is_told_the_new_one(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        TrainingConfig.from_mapping({}, [setting])


def test_a_checkpoint_of_a_number_of_updates_that_there_is_not_is_refused(require: Any, tmp_path: Path) -> None:
    require("lightning")
    (train, validation, _), output = run_of_format_1(tmp_path)
    file = tmp_path / "model.training" / "checkpoint.safetensors"
    config = TrainingConfig.from_yaml(tmp_path / "model.training" / "config.yaml")
    tensors, record = CHECKPOINT.read(file)
    for update in (-3, "many"):
        rest = {key: value for key, value in record.items() if key not in ("format", "format_version", "version")}
        CHECKPOINT.write(file, tensors, {**rest, "progress": {**record["progress"], "update": update}})
        with pytest.raises(CheckpointError, match="has broken metadata"):
            fit(train, validation, config, output, resume=True, progress=False)
