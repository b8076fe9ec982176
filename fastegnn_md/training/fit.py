"""Train a propagator: from two sets of pairs and a configuration to a saved model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..baselines import Errors, lowest_baseline, one_step_errors, over_baseline
from ..errors import DataError
from ..optional import naming_extras
from ..propagator import Propagator
from ..units import format_time
from .config import TrainingConfig
from .folder import TrainingFolder

if TYPE_CHECKING:
    from ..data import TrajectoryPairs
    from .module import PropagatorModule


@dataclass(frozen=True)
class FitResult:
    """A finished training run.

    Attributes
    ----------
    propagator : Propagator
        Averaged weights of the best validation, on the CPU.
    metrics : dict
        One-step errors on the held-out pairs, those of the baselines, and their ratio; also in the saved manifest.
    history : Path or None
        CSV with one row per validation.
    updates : int
        Updates done; fewer than asked for after early stopping.
    """

    propagator: Propagator
    metrics: dict[str, Any]
    history: Path | None
    updates: int


def fit(
    train: TrajectoryPairs,
    validation: TrajectoryPairs,
    config: TrainingConfig,
    output: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = True,
) -> FitResult:
    """Train a propagator on pairs and save it.

    Beside ``output`` stands a folder of the same name with the ending ``.training``: ``checkpoint.safetensors``,
    ``history.csv`` and ``config.yaml``.

    Parameters
    ----------
    train, validation : TrajectoryPairs
        Pairs to learn from and held-out pairs, as :meth:`TrajectoryPairs.split` gives them.
    config : TrainingConfig
        The settings.
    output : str or Path, optional
        File of the trained model (``.safetensors``); without it nothing is written and nothing can be resumed.
    resume : bool
        Continue from the training checkpoint if there is one. The result is that of an uninterrupted run; on the
        CPU, with the same number of threads, bit for bit.
    progress : bool
        Show a progress bar.

    Returns
    -------
    FitResult
        The propagator and its errors beside the baselines.

    Raises
    ------
    DataError
        If there are no pairs, or the two sets do not belong together.
    ConfigError
        If the run to resume had other settings or other data, or would be overwritten.
    CheckpointError
        If the training checkpoint cannot be read.
    TrainingError
        If the loss is not finite, or a file cannot be written.
    MissingDependencyError
        If Lightning is not installed.
    """
    with naming_extras("training"):  # Lightning takes seconds to import
        from .module import PropagatorModule
        from .runner import is_main_process, run_lightning

    _check_pairs(train, validation, config)
    files = None if output is None else TrainingFolder(Path(output), _identity(train, validation, config))
    found = None if files is None else files.open(resume)
    main = is_main_process()
    progress = progress and main
    if files is not None and main:
        files.describe(config)

    propagator = Propagator.from_pairs(train, config.propagator, seed=config.seed)
    if config.precision == "64-true":
        propagator.double()
    chosen = _spread(len(validation), config.validation_pairs)
    baselines = one_step_errors(propagator, validation, indices=chosen, progress=progress)
    del baselines["learned"]  # that of the untrained network

    module = PropagatorModule(propagator, config, train, validation, chosen, lowest_baseline(baselines))
    if found is not None:
        module.restore(*found)
    if not module.finished:
        run_lightning(module, files, baselines, progress=progress)

    trained = module.best_propagator().cpu()
    trained.metrics = _metrics(module, baselines)
    if files is not None and main:
        files.export(trained)
    history = None if files is None or config.logger == "none" else files.history
    return FitResult(trained, trained.metrics, history, module.progress.update)


def _check_pairs(train: TrajectoryPairs, validation: TrajectoryPairs, config: TrainingConfig) -> None:
    for name, pairs in (("training", train), ("validation", validation)):
        if len(pairs) == 0:
            raise DataError(f"the {name} set has no pairs; give a longer trajectory or other split fractions")
        if config.propagator.forces and not pairs.has_forces:
            raise DataError(
                f"the {name} set has no forces but propagator.forces is set; harvest bursts (they carry forces) "
                "or set propagator.forces=false"
            )
    if config.force_updates and not train.has_forces:
        raise DataError("force_updates needs forces, the training set has none: harvest bursts, or set it to 0")
    if train.lag != validation.lag:
        raise DataError(
            f"training pairs are {format_time(train.lag)} apart, validation pairs {format_time(validation.lag)}; "
            "give both the same lag"
        )


def _identity(train: TrajectoryPairs, validation: TrajectoryPairs, config: TrainingConfig) -> dict[str, Any]:
    """What two runs must share for one to continue the other."""
    data = {
        name: {"fingerprint": pairs.fingerprint, "pairs": len(pairs), "lag": pairs.lag}
        for name, pairs in (("training data", train), ("validation data", validation))
    }
    return {**config.model_dump(mode="json"), **data}


def _spread(n_pairs: int, most: int | None) -> list[int]:
    """Evenly spaced indices, at most ``most`` of them."""
    count = n_pairs if most is None else min(n_pairs, most)
    return [n_pairs * i // count for i in range(count)]


def _metrics(module: PropagatorModule, baselines: dict[str, Errors]) -> dict[str, Any]:
    progress = module.progress
    return {
        "updates": progress.update,
        "best_update": progress.best_update,
        "validation_pairs": len(module.chosen),
        "one_step": {"learned": progress.learned} | {name: asdict(errors) for name, errors in baselines.items()},
        "over_best_baseline": over_baseline(progress.learned, module.baselines),
    }
