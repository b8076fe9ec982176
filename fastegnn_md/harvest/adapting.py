"""Adapt a trained model to another molecule, another engine, another temperature, with few calls of the engine.

Rounds of short bursts are first an exam for the model, which has not seen them, and then join what it is trained on
(test, then train: Gama, Sebastião, Rodrigues, Mach. Learn. 90, 317, 2013).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import only_writer
from .._progress import progress_bar
from ..data.topology import load_universe, quiet
from ..errors import ConfigError, DataError
from ..propagator.base import Propagator
from ..training.one_step import Errors, ratios
from .asked import MIRRORED, Asked
from .harvesting import harvest
from .ledger import CountedFactory, Ledger
from .rounds import FEWEST, Round, Rounds, next_size
from .sampling import SPACING, Sampler
from .worth import Worth, seconds_of_jump

if TYPE_CHECKING:
    import MDAnalysis as mda
    from ase import Atoms

_MAX_FAILED = 0.5  # of the bursts of a round: each that is lost is counted and told


@dataclass(frozen=True)
class Adapted:
    """What an adaptation came to.

    Attributes
    ----------
    propagator : Propagator
        The adapted model; the given one where that is good enough, or where training made it worse.
    unchanged : bool
        Whether it is the given one.
    target : float
    rounds : tuple of Round
        Their exams, in order: the first is that of the given model.
    before, after : dict of str to Errors
        One-step errors of the given model and of :attr:`propagator` on the bursts of the last round, which neither has
        seen, beside those of the baselines.
    worth : Worth
        What it cost and what it buys.
    """

    propagator: Propagator
    unchanged: bool
    target: float
    rounds: tuple[Round, ...]
    before: dict[str, Errors]
    after: dict[str, Errors]
    worth: Worth

    @property
    def error(self) -> float:
        """Error of v of the model over that of the best baseline, on bursts it has not seen."""
        return ratios(self.after)["v"]

    @property
    def reached(self) -> bool:
        """Whether the error is as small as asked for."""
        return self.error <= self.target

    @property
    def bursts(self) -> int:
        """Bursts run."""
        return sum(one.bursts for one in self.rounds)

    @property
    def dropped(self) -> int:
        """Bursts left out."""
        return sum(one.dropped for one in self.rounds)

    @property
    def failed(self) -> int:
        """Bursts in which the engine failed."""
        return sum(one.failed for one in self.rounds)


def adapt(
    model: Propagator | str | Path,
    atoms: Atoms,
    engine_factory: Callable[[], Any],
    *,
    target: float = 0.05,
    budget: int = 1000,
    temperature: float = 350.0,
    timestep: float | str = "0.5 fs",
    output: str | Path = "adapted.safetensors",
    bonds: Sequence[Sequence[int]] | np.ndarray | None = None,
    seed: int = 0,
    processes: int = 1,
    progress: bool = True,
) -> Adapted:
    """Adapt a model to atoms and an engine until it is good enough or the engine was called often enough.

    Starting points come from Langevin dynamics of the engine, 10 fs apart; from each a burst at constant energy runs
    over one time step of the model. The bursts of a round are an exam: the error of the model on them, with the force
    of the engine where the model asks for it in dynamics. If it is above the target, 80 % of them are trained on,
    together with those of the rounds before, the others choose the weights, and the next round is twice as long. Bursts
    in which the engine fails are left out and counted, up to half of a round.

    Beside ``output`` stands a folder of the same name with the ending ``.adapting``. Killed and called again with the
    same arguments it goes on where it was, and so it does with another target or budget after its end.

    Parameters
    ----------
    model : Propagator, str or Path
        A propagator, or the name or file of one; not modified.
    atoms : ase.Atoms
        Where sampling starts, with its constraints (FixBondLengths); not modified. A calculator is not looked at.
    engine_factory : callable
        Function without arguments that returns an ASE calculator; importable by other processes if there are several.
    target : float
        Error of v over that of the best baseline, on bursts that the model has not seen.
    budget : int
        Largest number of calls of the engine (energy and forces of one geometry), those of the sampling included. A
        kill can cost more: what was not finished is run again.
    temperature : float, K
        Of sampling and bursts.
    timestep : float or str
        Of the bursts, in ps or with a unit; divides the time step of the model.
    output : str or Path
        File of the adapted model (``.safetensors``).
    bonds : array of int, shape (M, 2), optional
        Bonded pairs, for models trained with bonds. Default: from distances, where the model wants them.
    seed : int
        Of sampling, velocities and training.
    processes : int
        Processes that share the bursts; sampling is one. The result does not depend on it.
    progress : bool
        Show progress bars.

    Returns
    -------
    Adapted
        The model, its errors before and after, and what it cost.

    Raises
    ------
    ConfigError
        If an argument is out of range, the model predicts no velocities, the budget is too small for two exams, or the
        folder holds an adaptation with other arguments.
    CompatibilityError
        If the atoms have an element, a mass or a boundary that the model does not know.
    EngineError
        If the engine fails again and again.
    DataError
        If the times do not fit together, or a file cannot be written.
    ConstraintError
        If a constraint is not supported in bursts.
    OutputError
        If another process is writing this output.
    """
    asked = Asked.make(model, atoms, engine_factory, target, budget, temperature, timestep, bonds, seed)
    output = Path(output)
    if output.suffix != ".safetensors":
        raise ConfigError(f"the output {output} must end in .safetensors")
    folder = output.with_suffix(".adapting")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    with only_writer(folder / "adapting"):
        rounds = Rounds(folder, asked.identity, asked.model, asked.seed)
        rounds.open()
        run = _Run(asked, rounds, Ledger(folder / "calls"), processes, progress)
        found = run.until_done()
        found.propagator.metrics = _metrics(found)
        found.propagator.save(output)
    return found


@dataclass
class _Run:
    """An adaptation at work."""

    asked: Asked
    rounds: Rounds
    ledger: Ledger
    processes: int
    progress: bool

    def until_done(self) -> Adapted:
        """Go on until the target or the budget is reached."""
        known = self.rounds.rounds
        while not self._done():
            if known and known[-1].errors is not None and not known[-1].trained:
                self.rounds.train(self.progress)
            self._next_round()
        return self._found()

    def _done(self) -> bool:
        known = self.rounds.rounds
        if not known or known[-1].errors is None:
            return False
        if known[-1].error <= self.asked.target:
            return True
        return self._affordable() < FEWEST

    def _affordable(self) -> int:
        return self.asked.affordable(self.asked.budget - self.ledger.calls, first=not self.ledger.calls)

    def _next_round(self) -> None:
        known = self.rounds.rounds
        if not known or known[-1].errors is not None:
            known.append(Round(next_size(len(known), self._affordable())))
            self.rounds.save()
        number, one = len(known) - 1, known[-1]
        if not self.rounds.store(number).exists():
            self._sample(number, one.planned)
        self._harvest(number)
        self.rounds.count(number)
        one.errors = self._examine(self.rounds.latest, number)
        self.rounds.save()

    def _examine(self, model: Propagator, number: int) -> dict[str, Errors]:
        atoms = self.asked.atoms.copy()
        atoms.calc = CountedFactory(self.asked.factory, self.ledger.path)()
        return self.rounds.examine(model, number, atoms)

    def _sample(self, number: int, count: int) -> None:
        asked = self.asked
        sampler = Sampler(asked.atoms, CountedFactory(asked.factory, self.ledger.path)(), asked.temperature, asked.seed)
        if number:
            sampler.resume(self.rounds.starts(number - 1))
        burst = asked.calls_per_burst - SPACING

        def affordable(frames: int, calls: int) -> bool:
            return self.ledger.calls + calls + MIRRORED + (frames + 1) * burst <= asked.budget or frames == 0

        with progress_bar(total=count, desc="sampling", unit="frame", disable=not self.progress) as bar:
            sampler.sample(self.rounds.starts(number), count, number, affordable, bar.update)

    def _harvest(self, number: int) -> None:
        asked = self.asked
        harvest(
            _universe(self.rounds.starts(number), asked.bonds),
            CountedFactory(asked.factory, self.ledger.path),
            store=self.rounds.store(number),
            burst=asked.times["burst"],
            interval=asked.times["interval"],
            timestep=asked.times["timestep"],
            midpoint=asked.times.get("midpoint"),
            temperature=asked.temperature,
            seed=int(np.random.default_rng([asked.seed, number]).integers(2**31)),
            processes=self.processes,
            max_failed=_MAX_FAILED,
            constraints=asked.atoms.constraints,
            progress=self.progress,
        )

    def _found(self) -> Adapted:
        rounds, last = self.rounds, len(self.rounds.rounds) - 1
        initial, model = copy.deepcopy(rounds.initial), rounds.latest
        one = rounds.rounds[last]
        after = one.errors
        assert after is not None
        if one.before is None:
            one.before = after if model is rounds.initial else self._examine(initial, last)
            rounds.save()
        before = one.before
        unchanged = model is rounds.initial or ratios(after)["v"] >= ratios(before)["v"]
        if unchanged:
            model, after = initial, before
        worth = Worth(
            calls=self.ledger.calls,
            engine_seconds=self.ledger.seconds,
            training_seconds=sum(one.training_seconds for one in rounds.rounds),
            call_seconds=self.ledger.typical,
            jump_seconds=seconds_of_jump(model, rounds.start_of(last)),
            calls_per_jump=int(model.wants_forces is not None),
            timestep=model.timestep,
        )
        return Adapted(model, unchanged, self.asked.target, tuple(rounds.rounds), before, after, worth)


def _universe(path: Path, bonds: np.ndarray | None) -> mda.Universe:
    with quiet():
        universe = load_universe(path)
        if bonds is not None:
            universe.add_TopologyAttr("bonds", [tuple(map(int, pair)) for pair in bonds])
    return universe


def _metrics(found: Adapted) -> dict[str, Any]:
    """What the file of the model says of its errors, on bursts it has not seen, and of its origin."""
    pays = found.worth.pays_after_ps
    return {
        **found.propagator.metrics,
        "one_step": {name: asdict(errors) for name, errors in found.after.items()},
        "over_best_baseline": ratios(found.after),
        "adapted": {
            "before": {name: asdict(errors) for name, errors in found.before.items()},
            "before_over_best_baseline": ratios(found.before),
            "unchanged": found.unchanged,
            "target": found.target,
            "bursts": found.bursts,
            "dropped": found.dropped,
            "engine_failed": found.failed,
            **asdict(found.worth),
            "pays_after_ps": pays if math.isfinite(pays) else None,
        },
    }
