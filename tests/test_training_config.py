"""Settings of a run: every key checked, YAML in and out, and what follows from them update by update."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fastegnn_md.errors import ConfigError
from fastegnn_md.training import TrainingConfig
from fastegnn_md.training.schedule import BatchOrder, UpdateSampler, average_decay, draw_generator, learning_rate


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match=r"^unknown key 'batchsize', did you mean 'batch_size'\?$"):
        TrainingConfig(batchsize=3)


def test_an_unknown_key_of_the_propagator_is_refused_with_its_section() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'propagator\.hiden', did you mean 'propagator\.hidden'\?"):
        TrainingConfig.from_mapping({"propagator": {"hiden": 3}})
    with pytest.raises(ConfigError, match=r"unknown key 'hiden', did you mean 'propagator\.hidden'\?"):
        TrainingConfig(hiden=32)


def test_a_key_like_no_other_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'qqq'; known keys: .*batch_size"):
        TrainingConfig(qqq=3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("updates", 0),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("final_learning_rate", 1.5),
        ("warmup", -1),
        ("gradient_clip", 0.0),
        ("ema_decay", 1.0),
        ("velocity_weight", -0.1),
        ("mmd_sigma", 0.0),
        ("patience", 0),
        ("precision", "float16"),
        ("accelerator", "abacus"),
        ("strategy", "fsdp"),
        ("devices", "many"),
        ("devices", 0),
        ("devices", -2),
        ("num_nodes", 0),
        ("logger", "paper"),
        ("seed", -1),
        ("num_workers", -1),
        ("propagator", {"hidden": 0}),
        ("updates", "many"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line_that_names_it(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.from_mapping({key: value})
    assert str(caught.value).startswith(key)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_2"])
def test_strategies_that_spread_the_weights_are_refused_with_the_reason(strategy: str) -> None:
    with pytest.raises(ConfigError, match=f"strategy = '{strategy}': .* take some MB, .* use 'ddp'"):
        TrainingConfig.from_mapping({"strategy": strategy})


def test_a_configuration_cannot_be_changed() -> None:
    config = TrainingConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.updates = 3  # type: ignore[misc]


def test_yaml_goes_out_and_comes_back(tmp_path: Path) -> None:
    config = TrainingConfig.from_mapping({"updates": 7, "gradient_clip": None, "propagator": {"forces": True}})
    config.to_yaml(tmp_path / "train.yaml")
    assert TrainingConfig.from_yaml(tmp_path / "train.yaml") == config
    assert config.gradient_clip is None


def test_overrides_win_over_the_file_and_are_read_as_yaml(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("batch_size: 8\nlearning_rate: 1e-3\npropagator: {hidden: 32}\n")
    config = TrainingConfig.from_yaml(
        path, ["training.batch_size=32", "propagator.layers=2", "gradient_clip=null", "time_reversal=false"]
    )
    assert (config.batch_size, config.learning_rate) == (32, 1e-3)
    assert (config.propagator.hidden, config.propagator.layers) == (32, 2)
    assert config.gradient_clip is None
    assert config.time_reversal is False


@pytest.mark.parametrize("override", ["batch_size", "=3", "propagator.=3", "batch_size.x=3", "batch_size=[1", ""])
def test_a_malformed_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        TrainingConfig.from_mapping({"batch_size": 8}, [override])


def test_an_unknown_section_is_refused_like_an_unknown_key() -> None:
    with pytest.raises(ConfigError, match="did you mean 'propagator'"):
        TrainingConfig.from_mapping({}, ["propagtor.hidden=3"])


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot read"), ("a: [", "not valid YAML"), ("- 1\n", "keys and values"), ("3: 4\n", "keys and values")],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "train.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=reason) as caught:
        TrainingConfig.from_yaml(path)
    assert "train.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("# nothing\n")
    assert TrainingConfig.from_yaml(tmp_path / "train.yaml") == TrainingConfig()


def test_the_learning_rate_rises_then_falls_as_a_cosine_to_its_final_share() -> None:
    config = TrainingConfig(updates=1001, warmup=10, learning_rate=0.1, final_learning_rate=0.02)
    assert learning_rate(config, 0) == pytest.approx(0.01, rel=1e-3)
    assert learning_rate(config, 500) == pytest.approx(0.1 * (0.02 + 0.98 / 2), rel=1e-12)
    assert learning_rate(config, 1000) == pytest.approx(0.002, rel=1e-12)
    rates = [learning_rate(config, update) for update in range(9, 1001)]
    assert rates == sorted(rates, reverse=True)


def test_the_average_forgets_its_start_quickly_and_reaches_its_decay() -> None:
    config = TrainingConfig(ema_decay=0.99)
    assert average_decay(config, 0) == 0.1
    assert average_decay(config, 10_000) == 0.99
    assert average_decay(TrainingConfig(ema_decay=0.0), 50) == 0.0


@pytest.mark.parametrize(("n_pairs", "batch_size"), [(10, 3), (7, 7), (5, 12), (1, 4)])
def test_every_epoch_holds_every_pair_once_and_every_batch_is_full(n_pairs: int, batch_size: int) -> None:
    order = BatchOrder(n_pairs, batch_size, seed=5)
    batches = [order[update] for update in range(n_pairs)]
    assert {len(batch) for batch in batches} == {batch_size}
    stream = [index for batch in batches for index in batch]
    for epoch in range(batch_size):
        assert sorted(stream[epoch * n_pairs : (epoch + 1) * n_pairs]) == list(range(n_pairs))


def test_a_batch_is_a_function_of_seed_and_update_alone() -> None:
    forwards, backwards = BatchOrder(50, 8, seed=1), BatchOrder(50, 8, seed=1)
    assert [forwards[k] for k in range(30)] == [backwards[k] for k in reversed(range(30))][::-1]
    assert forwards[3] != BatchOrder(50, 8, seed=2)[3]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_processes_share_every_batch_and_a_pass_ends_at_the_validation(world: int) -> None:
    order = BatchOrder(50, 8, seed=1)
    position = 7
    parts = [
        list(UpdateSampler(order, lambda: position, validate_every=10, updates=12, rank=rank, world=world))
        for rank in range(world)
    ]
    assert {len(part) for part in parts} == {3}
    for update, shares in zip(range(7, 10), zip(*parts, strict=True), strict=True):
        assert sorted(index for share in shares for index in share) == sorted(order[update])
    position = 10
    assert len(list(UpdateSampler(order, lambda: position, validate_every=10, updates=12))) == 2


def test_random_draws_differ_by_update_and_process_and_can_be_repeated() -> None:
    def draw(*key: int) -> float:
        return float(torch.rand((), generator=draw_generator(*key)))

    assert draw(3, 4, 0) == draw(3, 4, 0)
    assert len({draw(3, 4, 0), draw(3, 5, 0), draw(3, 4, 1), draw(4, 4, 0)}) == 4
