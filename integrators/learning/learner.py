"""The model that is learned: examined on each new pair, then trained with it, and given to those who jump."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fastegnn_md.graph import neighbour_list
from fastegnn_md.propagator.base import Propagator
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.propagator.file import package_version
from fastegnn_md.propagator.limits import JumpLimits
from fastegnn_md.propagator.provenance import Provenance
from fastegnn_md.propagator.surroundings import Surroundings
from fastegnn_md.state import State
from fastegnn_md.training.config import TrainingConfig
from fastegnn_md.training.online import OnlineTrainer
from fastegnn_md.training.start import propagator_of_batch

from .exams import Exam, examine
from .memory import Memory, Pair
from .settings import Learning

_NEW, _TRAINED = 4e-3, 1e-3  # learning rates
_MEASURED = 500_000  # atoms that ranges are measured on


class Learner:
    """Pairs in, propagators out.

    Parameters
    ----------
    settings : Learning
    config : PropagatorConfig
        Of the model; of a kind that predicts velocities.
    lag : float
        ps.
    system : State
        One system.
    initial : Propagator, optional
        A trained model to go on from; not modified.
    """

    settings: Learning
    config: PropagatorConfig
    lag: float
    initial: Propagator | None

    def __init__(
        self,
        settings: Learning,
        config: PropagatorConfig,
        lag: float,
        system: State,
        initial: Propagator | None = None,
    ):
        self.settings, self.config, self.lag, self.initial = settings, config, lag, initial
        self.rng: np.random.Generator = np.random.default_rng(settings.seed)
        self.memory: Memory = Memory(system, settings.memory)
        self.trainer: OnlineTrainer | None = None
        self.untold: int = 0  # pairs since the last publication
        if initial is not None:
            self.trainer = self._trainer(copy.deepcopy(initial).cpu().requires_grad_(True))

    @property
    def model(self) -> Propagator | None:
        """The model as it is now; None before there are enough pairs."""
        return None if self.trainer is None else self.trainer.average

    def examine(self, pair: Pair, temperature: float, model: Propagator | None = None) -> Exam | None:
        """The exam of a pair that has not been learned, by default of the model as it is now; None before there is one.

        Parameters
        ----------
        pair : dict of ndarray
        temperature : float
            K, that thermal velocities are of.
        model : Propagator, optional
            Another one, which jumps.
        """
        model = self.model if model is None else model
        if model is None:
            return None
        batch = self.memory.one(pair)
        return examine(model, batch.start, batch.ends[0], temperature)

    def learn(self, pair: Pair) -> None:
        """Take in a pair, and train.

        Raises
        ------
        TrainingError
            If training goes wrong again and again.
        """
        self.memory.add(pair, self.rng)
        self.untold += 1
        updates = self.settings.updates
        if self.trainer is None:
            if len(self.memory) < self.settings.first:
                return
            start, end = self._all()
            made = propagator_of_batch(start, end, self.config, self.lag, seed=self.settings.seed)
            self.trainer = self._trainer(made)
            updates *= len(self.memory)
        for _ in range(updates):
            self.trainer.update(self.memory.draw(self.settings.batch_size, self.rng))

    def publish(self, theory: Mapping[str, Any], metrics: dict[str, Any]) -> Propagator:
        """A copy of the model whose guards know all pairs so far.

        Parameters
        ----------
        theory : mapping
            What the calculator says of itself: ``theory``, ``charge``, ``multiplicity``, ``engine``.
        metrics : dict
            Written into its file.
        """
        assert self.trainer is not None  # nobody jumps without a model
        model = copy.deepcopy(self.trainer.average).eval()
        start, end = self._all()
        # What it was trained on first it still knows: few pairs would make guards of a narrow range.
        known = model.domain.limits
        limits = joined(known, JumpLimits.from_pairs(start, end))
        model.domain = replace(model.domain, limits=limits)
        if model.surroundings is None or not self._knows(model.surroundings, start):
            measured = Surroundings.measure(start, self.config.cutoff, seed=self.settings.seed)
            model.surroundings = None if measured is None else measured.to(model.dtype)
        model.provenance = Provenance.measure(start, end, [theory], package_version())
        model.fingerprint = self.fingerprint
        model.metrics = metrics
        self.untold = 0
        return model

    def _knows(self, surroundings: Surroundings, start: State) -> bool:
        """Whether those of the first training are those of this run, too: as a rule, and not those of one learned."""
        if self.initial is None:
            return False
        start = start.to(dtype=surroundings.offset.dtype)
        return float(surroundings(start.numbers, neighbour_list(start, surroundings.shape.reach)).max()) <= 1.0

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the pairs."""
        digest = hashlib.sha256()
        for name, values in sorted(self.memory.arrays().items()):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def restore(self, model: Propagator | None, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> None:
        """Go on from a model of the same build, :meth:`OnlineTrainer.tensors` and :meth:`record`."""
        if model is not None:
            self.trainer = self._trainer(copy.deepcopy(model).requires_grad_(True))
            self.trainer.restore(tensors, int(record["updates"]))
        self.untold = int(record["untold"])

    def record(self) -> dict[str, Any]:
        """What :meth:`restore` needs beside tensors, as JSON can hold it."""
        return {"updates": 0 if self.trainer is None else self.trainer.updates, "untold": self.untold}

    def _trainer(self, propagator: Propagator) -> OnlineTrainer:
        chosen = self.settings
        rate = chosen.learning_rate or (_NEW if self.initial is None else _TRAINED)
        config = TrainingConfig(
            propagator=propagator.config, learning_rate=rate, batch_size=chosen.batch_size, ema_decay=0.995
        )
        return OnlineTrainer(propagator, config)

    def _all(self) -> tuple[State, State]:
        """All pairs, or as many of them as ranges are measured on."""
        count = len(self.memory)
        most = max(1, _MEASURED // self.memory.system.n_atoms)
        chosen = range(count) if count <= most else self.rng.choice(count, most, replace=False).tolist()
        batch = self.memory.batch(list(chosen))
        return batch.start, batch.ends[0]


def joined(first: JumpLimits, second: JumpLimits) -> JumpLimits:
    """Limits that hold what either allows."""
    bonds = dict(first.bonds)
    for pair, (low, high) in second.bonds.items():
        known = bonds.get(pair, (low, high))
        bonds[pair] = min(low, known[0]), max(high, known[1])
    return JumpLimits(
        displacement=_larger(first.displacement, second.displacement),
        bonds=bonds,
        speed=_larger(first.speed, second.speed),
        torsions=first.torsions,
    )


def _larger(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    return {key: max(first.get(key, 0.0), second.get(key, 0.0)) for key in {*first, *second}}
