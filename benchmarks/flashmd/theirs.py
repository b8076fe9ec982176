"""FlashMD of metatrain on pairs in memory: training, predictions and jumps, by its Python interface."""

from __future__ import annotations

import copy
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import units
from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import ModelEvaluationOptions, ModelOutput, System
from metatrain.experimental.flashmd import FlashMD, Trainer
from metatrain.utils.architectures import get_default_hypers
from metatrain.utils.data import Dataset, DatasetInfo
from metatrain.utils.data.target_info import TargetInfo
from metatrain.utils.neighbor_lists import get_requested_neighbor_lists, get_system_with_neighbor_lists

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.state import State

_ASE = 1.0 / (1000 * units.fs)  # velocities: Å/ps to those of ASE, whose momenta FlashMD takes
_KEYS = Labels(["_"], torch.tensor([[0]]))
_TARGETS = {"position": ("length", "angstrom"), "momentum": ("momentum", "(eV*u)^(1/2)")}
_DEFAULT_LOSS = {"type": "mse", "weight": 1.0, "reduction": "mean", "gradients": {}}
# About as many parameters as ours. That momenta are differences is what its manual advises for short steps.
SMALL = {
    "d_pet": 32,
    "d_head": 32,
    "d_node": 64,
    "d_feedforward": 64,
    "num_heads": 4,
    "num_gnn_layers": 2,
    "num_attention_layers": 1,
    "predict_momenta_as_difference": True,
}


def _vector(values: torch.Tensor, index: int, name: str) -> TensorMap:
    atoms = torch.arange(len(values))
    samples = Labels(["system", "atom"], torch.stack([torch.full_like(atoms, index), atoms], dim=1))
    block = TensorBlock(
        values=values.unsqueeze(-1),
        samples=samples,
        components=[Labels(["xyz"], torch.arange(3).reshape(-1, 1))],
        properties=Labels([name], torch.tensor([[0]])),
    )
    return TensorMap(_KEYS, [block])


def _scalar(values: torch.Tensor, index: int) -> TensorMap:
    atoms = torch.arange(len(values))
    samples = Labels(["system", "atom"], torch.stack([torch.full_like(atoms, index), atoms], dim=1))
    block = TensorBlock(values.unsqueeze(-1), samples, [], Labels(["mass"], torch.tensor([[0]])))
    return TensorMap(_KEYS, [block])


def system_of(state: State, dtype: torch.dtype = torch.float64) -> System:
    """A state of one molecule or cell in their form."""
    periodic = state.cell is not None
    system = System(
        types=state.numbers.to(torch.int32),
        positions=state.positions.to(dtype),
        cell=state.cell.reshape(3, 3).to(dtype) if periodic else torch.zeros(3, 3, dtype=dtype),
        pbc=torch.tensor([periodic] * 3),
    )
    momenta = state.masses[:, None].double() * state.velocities.double() * _ASE
    system.add_data("momentum", _vector(momenta.to(dtype), 0, "momentum"))
    system.add_data("mass", _scalar(state.masses.to(dtype), 0))
    return system


def _dataset(pairs: TrajectoryPairs, chosen: np.ndarray, lists: list[Any]) -> Dataset:
    systems, x, p = [], [], []
    for place, index in enumerate(chosen):
        start, end = pairs[int(index)]
        systems.append(get_system_with_neighbor_lists(system_of(start), lists))
        x.append(_vector(end.positions.double(), place, "position"))
        p.append(_vector(end.masses[:, None].double() * end.velocities.double() * _ASE, place, "momentum"))
    return Dataset.from_dict({"system": systems, "position": x, "momentum": p})


class Theirs:
    """A FlashMD model with the physical constraints that its integrators apply: momentum, and a uniform centre."""

    def __init__(self, model: Any, timestep_fs: float):
        self.parameters = sum(one.numel() for one in model.parameters())
        self._lists = get_requested_neighbor_lists(model)
        self._model, self._lag = model.export(), timestep_fs / 1000
        self._options = ModelEvaluationOptions(
            length_unit="angstrom",
            outputs={name: ModelOutput(sample_kind="atom") for name in _TARGETS},
        )

    def __call__(self, states: list[State]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Positions (Å) and velocities (Å/ps) of each state a time step later."""
        systems = [get_system_with_neighbor_lists(system_of(state, torch.float32), self._lists) for state in states]
        with torch.no_grad():
            found = self._model(systems, self._options, check_consistency=False)
        x = found["position"].block().values.squeeze(-1).double()
        p = found["momentum"].block().values.squeeze(-1).double()
        ended = []
        counts = [len(state.masses) for state in states]
        for state, now, momenta in zip(states, x.split(counts), p.split(counts), strict=True):
            masses = state.masses.double()
            v = momenta / masses[:, None] / _ASE
            ended.append(_centred(state, now, v, masses, self._lag))
        return ended


def _centred(
    state: State, x: torch.Tensor, v: torch.Tensor, masses: torch.Tensor, lag: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``flashmd.constraints`` does: the centre of mass moves uniformly."""
    share = (masses / masses.sum())[:, None]
    before, moving = (share * state.positions.double()).sum(0), (share * state.velocities.double()).sum(0)
    return x - (share * x).sum(0) + before + lag * moving, v - (share * v).sum(0) + moving


def train(
    pairs: TrajectoryPairs,
    validation: TrajectoryPairs,
    *,
    cpu_seconds: float,
    timestep_fs: float,
    hypers: dict[str, Any],
    batch_size: int,
    learning_rate: float,
    folder: Path,
    seed: int = 0,
) -> tuple[Theirs, dict[str, Any]]:
    """Train for about as many CPU seconds, validation included; forward and backward are timed first.

    The rate falls along the number of updates, so that this is fixed beforehand: whole epochs, or one epoch over fewer
    pairs, drawn from all of them, where the time does not suffice for one.
    """
    logging.getLogger("metatrain").setLevel(logging.WARNING)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(pairs))
    few = rng.permutation(len(validation))[:256]
    once, each = _seconds_per_update(pairs, chosen, few, hypers, batch_size, timestep_fs, folder, seed)
    updates = max(20, int((cpu_seconds - once) / each))
    per_epoch = len(pairs) // batch_size
    epochs = max(1, round(updates / per_epoch))
    used = chosen if updates >= per_epoch else chosen[: updates * batch_size]
    model, spent = _train(
        pairs, used, validation, few, hypers, batch_size, learning_rate, epochs, timestep_fs, folder, seed
    )
    about = {
        "updates": epochs * (len(used) // batch_size),
        "batch size": batch_size,
        "CPU seconds of training": spent,
        "pairs seen": epochs * (len(used) // batch_size) * batch_size,
    }
    return Theirs(model.eval(), timestep_fs), about


def _seconds_per_update(
    pairs: Any, chosen: np.ndarray, few: np.ndarray, hypers: Any, batch_size: int, *rest: Any
) -> tuple[float, float]:
    """CPU seconds of what is done once, and of an update, from trainings of 8 and of 40 updates."""
    timestep_fs, folder, seed = rest
    spent = []
    for updates in (2, 8, 40):  # the first one compiles
        some = chosen[: updates * batch_size]
        spent.append(_train(pairs, some, pairs, few, hypers, batch_size, 1e-4, 1, timestep_fs, folder, seed)[1])
    each = (spent[2] - spent[1]) / 32
    return spent[1] - 8 * each, each


def _train(
    pairs: TrajectoryPairs,
    chosen: np.ndarray,
    validation: TrajectoryPairs,
    few: np.ndarray,
    changes: dict[str, Any],
    batch_size: int,
    learning_rate: float,
    epochs: int,
    timestep_fs: float,
    folder: Path,
    seed: int,
) -> tuple[Any, float]:
    torch.manual_seed(seed)  # noqa: TID251  # theirs draws from the global generator
    defaults = get_default_hypers("experimental.flashmd")
    model_hypers = {**copy.deepcopy(defaults["model"]), **changes}
    trainer_hypers = copy.deepcopy(defaults["training"])
    trainer_hypers |= {
        "timestep": timestep_fs,
        "batch_size": batch_size,
        "num_epochs": epochs,
        "learning_rate": learning_rate,
        "num_workers": 0,
        "loss": {name: copy.deepcopy(_DEFAULT_LOSS) for name in _TARGETS},
    }
    start = pairs[0][0]
    masses = {int(z): float(m) for z, m in zip(start.numbers, start.masses, strict=True)}
    trainer_hypers["masses"] = masses
    types = sorted(masses)
    info = DatasetInfo(length_unit="angstrom", atomic_types=types, targets={name: _target(name) for name in _TARGETS})
    model = FlashMD(model_hypers, info)
    lists = get_requested_neighbor_lists(model)
    train_set, validation_set = _dataset(pairs, chosen, lists), _dataset(validation, few, lists)
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.process_time()
    trainer = Trainer(trainer_hypers)
    trainer.train(
        model=model,
        dtype=torch.float32,
        devices=[torch.device("cpu")],
        train_datasets=[train_set],
        val_datasets=[validation_set],
        checkpoint_dir=str(folder),
    )
    return model, time.process_time() - begun


def _target(name: str) -> TargetInfo:
    quantity, unit = _TARGETS[name]
    block = TensorBlock(
        values=torch.empty((0, 3, 1), dtype=torch.float64),
        samples=Labels(["system", "atom"], torch.empty((0, 2), dtype=torch.int32)),
        components=[Labels.range("xyz", 3)],
        properties=Labels.range(name, 1),
    )
    return TargetInfo(layout=TensorMap(Labels.single(), [block]), quantity=quantity, unit=unit)
