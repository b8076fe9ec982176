"""Settings that nobody means: refused at once, in one line, by an error of ours."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from fastegnn_md.cli import main
from fastegnn_md.errors import ConfigError, brief
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.training import TrainingConfig

STORE = Path(__file__).parent / "data" / "run-1" / "store.h5md"
DIGITS = "9" * 5000
BOMB = "updates: [&a [x,x,x,x,x,x,x,x,x]" + "".join(
    f", &{name} [{','.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def nested(depth: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(depth):
        inner = [inner]
    return inner


def refusal(make: Any) -> str:
    begun = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        make()
    assert time.perf_counter() - begun < 10  # it must not be read first
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 2000
    return message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB + "]", r"has the alias \*a"),
        ("base: &a {updates: 3}\npropagator: *a", "has the alias"),
        ("updates: " + "[" * 100_000, "levels within each other"),
        ("updates: " + "{a: " * 1000 + "1" + "}" * 1000, "levels within each other"),
        ("- " * 10_000, "levels within each other"),
        (f"updates: {DIGITS}", "cannot be read"),
        (f"updates: {DIGITS[:4000]}", "less than or equal"),
        ("updates: 2001-99-99", "cannot be read"),
        ("updates: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("updates: {[1]: 2}", "not valid YAML"),
        ("updates: \0", "not valid YAML"),
        ("learning_rate: .nan", "finite"),
        ("a: 1\n" * 300_000, "characters; expected at most"),
        ("x" * 1000 + ": 1", "unknown key 'xxx"),
        ("[1, 2]", "must hold keys and values"),
        ("3: 4", "must hold keys and values"),
    ],
    ids=range(16),
)
def test_a_file_that_is_made_to_be_large_is_refused_in_one_line(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        TrainingConfig.from_yaml(tmp_path / "train.yaml")
    refusal(lambda: TrainingConfig.from_yaml(tmp_path / "train.yaml"))


def test_what_is_not_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        assert "is not a file" in refusal(lambda path=path: TrainingConfig.from_yaml(path))
    (tmp_path / "latin.yaml").write_bytes(b"updates: \xff")
    assert "cannot read" in refusal(lambda: TrainingConfig.from_yaml(tmp_path / "latin.yaml"))


@pytest.mark.parametrize(
    "setting",
    [
        f"updates={DIGITS}",
        "updates=" + "[" * 100_000,
        "batch_size=1000000000000",
        "num_workers=100000",
        "devices=0",
        "devices=100000",
        "num_nodes=1000000",
        "warmup=-1",
        "propagator.hidden=100000000",
        "propagator.layers=1000000",
        "propagator.cutoff=.inf",
        "propagator.kind=positon",
        "propagator.hiden=8",
        "x" * 100_000 + "=3",
    ],
    ids=range(14),
)
def test_a_setting_out_of_all_bounds_ends_with_one_line_and_exit_code_2(
    setting: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", str(STORE), "--lag", "8 fs", "--set", setting, "-o", str(tmp_path / "model.safetensors")])
    err = capfd.readouterr().err
    assert caught.value.code == 2
    assert len(err.splitlines()) == 1
    assert len(err) < 2000
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_is_not_there_ends_with_one_line_and_exit_code_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, require: Any
) -> None:
    require("lightning")
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    arguments = ["train", str(STORE), "--lag", "8 fs", "-o", str(tmp_path / "model.safetensors")]
    for settings in (["accelerator=gpu"], ["precision=16-mixed"]):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, *(word for one in settings for word in ("--set", one))])
        lines = [
            line for line in capfd.readouterr().err.splitlines() if not line.startswith("errors: ") and line.strip()
        ]
        assert caught.value.code == 2, lines
        assert len(lines) == 1, lines
        assert settings[0].partition("=")[0] in lines[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hidden": 0}, "hidden = 0"),
        ({"hiden": 8}, "unknown key 'hiden', did you mean 'hidden'"),
        ({"kind": "positon"}, "kind = 'positon'.*'position'"),
        ({"mode": "full"}, "^mode, forces and midpoint are one key"),
        ({"kicks": 8}, "^kicks is an option of kind"),
        ({"cutoff": float("nan")}, "cutoff = nan"),
        ({"layers": nested(5000)}, "layers = "),
        ({"hidden": 10**5000}, "hidden = <int that is too large to print>"),
    ],
    ids=range(8),
)
def test_settings_of_a_propagator_are_refused_by_an_error_of_ours_from_python_too(
    values: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        PropagatorConfig(**values)
    refusal(lambda: PropagatorConfig(**values))
    refusal(lambda: TrainingConfig(propagator=values))


def test_both_levels_are_named_where_settings_stand_within_settings() -> None:
    message = refusal(lambda: TrainingConfig.from_mapping({"propagator": {"hidden": 0, "updates": 3}, "updats": 2}))
    assert "propagator.hidden = 0" in message
    assert "'propagator.updates', did you mean 'updates'" in message
    assert "'updats', did you mean 'updates'" in message


@pytest.mark.parametrize(
    "value", [10**5000, nested(50_000), "x" * 10**7, {"a": ["b" * 10**6] * 100}, "two\nlines"], ids=range(5)
)
def test_what_is_quoted_is_one_short_line(value: Any) -> None:
    assert len(brief(value)) < 1000
    assert "\n" not in brief(value, quoted=False)
