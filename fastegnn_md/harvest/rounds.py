"""Rounds of an adaptation: bursts are an exam first and training data afterwards. What was done is kept in a folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import write_atomically
from ..data.pairs import TrajectoryPairs
from ..data.store import Store
from ..errors import CheckpointError, ConfigError, DataError, EngineError
from ..propagator.base import Propagator, load
from ..state import State
from ..training.config import TrainingConfig
from ..training.fit import fit
from ..training.one_step import Errors, one_step_errors, ratios
from .exam import EnginePairs

if TYPE_CHECKING:
    from ase import Atoms

    from ..propagator.config import PropagatorConfig

FEWEST = 10  # bursts of an exam
_VERSION = 2
_UPDATES, _LEARNING_RATE, _BATCH = 500, 1e-3, 32  # of a round; an update of 32 small molecules takes 40 ms of a core
_HELD_OUT = 0.2  # of the bursts of each round, by which training chooses its weights


def burst_of(config: PropagatorConfig, lag: float) -> dict[str, float]:
    """Times of the bursts that a kind learns from, one pair each, in the words of :func:`.harvest`; ps."""
    if config.middle_frames:
        return {"burst": lag, "interval": 0.5 * lag}
    if config.wants_forces == "midpoint":
        return {"burst": lag, "interval": lag, "midpoint": lag}
    return {"burst": lag, "interval": lag}


def next_size(number: int, affordable: int) -> int:
    """Bursts of a round, counted from 0: twice those of the round before, and enough is left for a last exam."""
    planned = FEWEST * 2**number
    if affordable < 2 * FEWEST:
        return affordable
    return min(planned, affordable - FEWEST)


@dataclass
class Round:
    """What is known of a round.

    Attributes
    ----------
    planned : int
        Bursts wanted.
    bursts, dropped, failed : int
        Bursts run, left out, and those of the latter in which the engine failed.
    errors : dict of str to Errors, or None
        Of the model that these bursts were an exam for, beside the baselines; None before the exam.
    before : dict of str to Errors, or None
        Of the model that is adapted, on the same bursts; known of the last round.
    unanswered : int
        Bursts left out of an exam because the engine failed where the model led.
    trained : bool
        Whether the next model has learned from them.
    training_seconds : float
    """

    planned: int
    bursts: int = 0
    dropped: int = 0
    failed: int = 0
    errors: dict[str, Errors] | None = None
    before: dict[str, Errors] | None = None
    unanswered: int = 0
    trained: bool = False
    training_seconds: float = 0.0

    @property
    def error(self) -> float:
        """Error of v over that of the best baseline."""
        assert self.errors is not None
        return ratios(self.errors)["v"]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Round:
        """Undo :func:`dataclasses.asdict`."""
        known = {
            key: None if record[key] is None else {name: Errors(**one) for name, one in record[key].items()}
            for key in ("errors", "before")
        }
        return cls(**{**record, **known})


@dataclass
class Rounds:
    """The rounds of an adaptation and their files.

    Parameters
    ----------
    folder : Path
    identity : dict
        What a call must share to go on with the folder, JSON values.
    initial : Propagator
        The model that is adapted.
    seed : int
    """

    folder: Path
    identity: dict[str, Any]
    initial: Propagator
    seed: int
    rounds: list[Round] = field(default_factory=list)

    def open(self) -> None:
        """Go on with what is there.

        Raises
        ------
        ConfigError
            If it is of other settings.
        CheckpointError
            If it cannot be read.
        """
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {self._path} ({error}); delete {self.folder} to start anew") from error
        try:
            if record["version"] != _VERSION:
                raise CheckpointError(f"{self._path} is of another version of fastegnn-md; choose another output")
            before = dict(record["identity"])
            self.rounds = [Round.of(one) for one in record["rounds"]]
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{self._path} is damaged ({error!r}); delete {self.folder} to start anew") from error
        differences = [
            f"{key} was {before.get(key)!r}, is now {value!r}"
            for key, value in self.identity.items()
            if before.get(key) != value
        ]
        if differences:
            raise ConfigError(
                f"{self.folder} holds an adaptation with other settings: {'; '.join(differences)}. Give those of the "
                "first call, choose another output, or delete the folder to start anew"
            )

    def save(self) -> None:
        """Keep what is known."""
        record = {"version": _VERSION, "identity": self.identity, "rounds": [asdict(one) for one in self.rounds]}
        try:
            write_atomically(self._path, (json.dumps(record, indent=2) + "\n").encode())
        except OSError as error:
            raise DataError(f"cannot write to {self.folder}: {error.strerror or error}") from error

    def starts(self, number: int) -> Path:
        """File of the frames that the bursts of a round start from."""
        return self.folder / f"round-{number + 1}.traj"

    def store(self, number: int) -> Path:
        """Store of the bursts of a round."""
        return self.folder / f"round-{number + 1}.h5md"

    def model(self, number: int) -> Path:
        """File of the model that has learned from the bursts up to a round."""
        return self.folder / f"round-{number + 1}.safetensors"

    @property
    def latest(self) -> Propagator:
        """The model of the last training, or the one to adapt."""
        trained = [number for number, one in enumerate(self.rounds) if one.trained]
        return load(self.model(trained[-1])) if trained else self.initial

    def examine(self, model: Propagator, number: int, atoms: Atoms) -> dict[str, Errors]:
        """Errors of a model on the bursts of a round.

        A model that leads to where it wants the force of the engine is judged with the force there: ``atoms`` have the
        engine, which is called once for each burst.

        Raises
        ------
        EngineError
            If it fails at more than half of them.
        """
        pairs, one = self._pairs([number]), self.rounds[number]
        if not model.config.middle_frames:
            return one_step_errors(model, pairs)
        asked = EnginePairs(pairs, model, atoms, range(pairs.n_forward))
        unanswered = pairs.n_forward - len(asked.indices)
        if unanswered > pairs.n_forward / 2:
            raise EngineError(
                f"the engine failed at {unanswered} of {pairs.n_forward} places that the model leads to; look at "
                f"{self.starts(number)}, or adapt at a lower temperature"
            )
        one.unanswered = max(one.unanswered, unanswered)
        return one_step_errors(model, asked, asked.indices)

    def start_of(self, number: int) -> State:
        """The first state of the bursts of a round, with the forces that the model learns from."""
        return self._pairs([number])[0][0]

    def count(self, number: int) -> None:
        """Take over from its store how many bursts a round has."""
        made, one = Store(self.store(number)).provenance, self.rounds[number]
        one.bursts, one.dropped = int(made["bursts"]), int(made["dropped bursts"])
        one.failed = int(made["bursts in which the engine failed"])

    def train(self, progress: bool) -> None:
        """Go on training with the bursts of all rounds."""
        number, model = len(self.rounds) - 1, self.latest
        pairs = self._pairs(range(len(self.rounds)))
        train, held_out = pairs.split((1 - _HELD_OUT, _HELD_OUT))
        config = TrainingConfig(
            propagator=model.config,
            updates=_UPDATES,
            learning_rate=_LEARNING_RATE,
            batch_size=min(_BATCH, len(train)),
            validate_every=50,
            seed=self.seed,
        )
        begun = time.perf_counter()
        trained = fit(train, held_out, config, self.model(number), initial=model, resume=True, progress=progress)
        # What it was trained on first it still knows: few bursts would make guards of a narrow range.
        if self.initial.surroundings is not None:
            trained.propagator.surroundings = self.initial.surroundings
            trained.propagator.save(self.model(number))
        self.rounds[-1].trained, self.rounds[-1].training_seconds = True, time.perf_counter() - begun
        self.save()

    def _pairs(self, numbers: Any) -> TrajectoryPairs:
        stores = [self.store(number) for number in numbers]
        return TrajectoryPairs(stores, lag=self.initial.timestep, time_reversal=True, progress=False)

    @property
    def _path(self) -> Path:
        return self.folder / "adapting.json"
