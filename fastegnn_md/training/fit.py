"""Train a propagator: from two sets of pairs and a configuration to a saved model."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._extras import naming_extras
from .._files import only_writer
from ..data.mirror import MirrorAsymmetry, MirrorWarning
from ..errors import CompatibilityError, ConfigError, DataError, Remedy
from ..models import architectures_for
from ..propagator.base import Propagator
from ..units import format_time
from .batches import pairs_for
from .config import TrainingConfig
from .copies import check_copies
from .folder import TrainingFolder
from .one_step import Errors, lowest_baseline, one_step_errors, over_baseline
from .schedule import spread
from .start import check_forces, remember_data, representative, untrained_propagator

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
    initial: Propagator | None = None,
    resume: bool = False,
    progress: bool = True,
) -> FitResult:
    """Train a propagator on pairs and save it.

    Beside ``output`` stands a folder of the same name with the ending ``.training``: ``checkpoint.safetensors``,
    ``history.csv`` and ``config.yaml``. ``output`` is the best model so far from the first validation on
    (``metrics["unfinished"]``), so that a run which is stopped or killed leaves a model too.

    Parameters
    ----------
    train, validation : TrajectoryPairs
        Pairs to learn from and held-out pairs, as :meth:`TrajectoryPairs.split` gives them.
    config : TrainingConfig
        The settings.
    output : str or Path, optional
        File of the trained model (``.safetensors``); without it nothing is written and nothing can be resumed.
    initial : Propagator, optional
        A trained propagator to start from (fine-tuning), not modified: its weights, linear predictor, scales and
        domain are taken over, so ``config.propagator`` must be its ``config``.
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
        If the run to resume had other settings, other data or another ``initial``, or would be overwritten; if
        ``config.propagator`` is not that of ``initial``; or if the devices asked for are not there, cannot share the
        batches evenly, or their processes were given different settings or data.
    CompatibilityError
        If ``initial`` has another lag, or does not know a system of the data.
    CheckpointError
        If the training checkpoint cannot be read.
    TrainingError
        If the loss is not finite, or a file cannot be written.
    OutputError
        If another process is training this model.
    MissingDependencyError
        If Lightning is not installed.

    Warns
    -----
    MirrorWarning
        If the forces behind the data change under reflection, as a harvest has found, and the network does not.
    """
    with naming_extras("training"):  # Lightning takes seconds to import
        from .processes import is_main_process
        from .runner import run_lightning  # noqa: F401 - found out before anything is written

    _check_kinds(train, validation, initial)
    _check_pairs(train, validation, config)
    if initial is not None:
        _check_initial(initial, train, config)
    files = None if output is None else TrainingFolder(Path(output), _run_identity(train, validation, config, initial))
    main = is_main_process(config.num_nodes)
    with contextlib.ExitStack() as held:
        if files is not None and main:
            files.make()
            held.enter_context(only_writer(files.output))
        return _fit(train, validation, config, files, initial, resume, progress and main, main)


def _fit(
    train: TrajectoryPairs,
    validation: TrajectoryPairs,
    config: TrainingConfig,
    files: TrainingFolder | None,
    initial: Propagator | None,
    resume: bool,
    progress: bool,
    main: bool,
) -> FitResult:
    from .module import PropagatorModule
    from .runner import run_lightning

    found = None if files is None else files.open(resume, writes=main)
    if main:
        _warn_of_mirror_images(train, config)
    if files is not None and main:
        files.describe(config)

    if initial is None:
        propagator = untrained_propagator(train, config.propagator, seed=config.seed, temperature=config.temperature)
    else:
        propagator = copy.deepcopy(initial).cpu().requires_grad_(True)
        remember_data(propagator, train, seed=config.seed, temperature=config.temperature)
    propagator.to(torch.float64 if config.precision == "64-true" else torch.float32).train()
    chosen = spread(len(validation), config.validation_pairs)
    baselines = one_step_errors(propagator, validation, indices=chosen, progress=progress)
    del baselines["learned"]  # that of the untrained network

    module = PropagatorModule(propagator, config, train, validation, chosen, lowest_baseline(baselines))
    if found is not None:
        module.restore(*found)
    unfinished = not module.finished

    def save_best() -> None:
        """A run that ends before its time leaves the best model so far."""
        if files is not None:
            best = copy.deepcopy(module.average).cpu()
            best.load_state_dict(module.best)
            best.metrics = {**_metrics(module, baselines), "unfinished": True}
            files.export(best.eval())

    if unfinished:
        run_lightning(module, files, baselines, on_best=save_best, progress=progress)

    trained = module.best_propagator().cpu()
    trained.metrics = _metrics(module, baselines)
    try:
        if files is not None and main:
            files.export(trained)
    finally:
        if unfinished:  # the other processes must find the file when they go on
            module.trainer.strategy.barrier()
    history = None if files is None or config.logger == "none" else files.history
    return FitResult(trained, trained.metrics, history, module.progress.update)


def _check_kinds(train: Any, validation: Any, initial: Any) -> None:
    """Say what was given where pairs or a propagator belong."""
    for name, pairs in (("train", train), ("validation", validation)):
        if not hasattr(pairs, "fingerprint"):
            raise DataError(
                f"{name} is a {type(pairs).__name__}; expected TrajectoryPairs, a part of pairs.split((0.8, 0.1, 0.1))"
            )
    if isinstance(initial, (str, Path)):
        raise ConfigError(f"initial is {str(initial)!r}; load it: initial=Propagator.load({str(initial)!r})")


def _check_pairs(train: TrajectoryPairs, validation: TrajectoryPairs, config: TrainingConfig) -> None:
    for name, pairs in (("training", train), ("validation", validation)):
        if len(pairs) == 0:
            raise DataError(f"the {name} set has no pairs; give a longer trajectory or other split fractions")
        pairs.sequences(config.unroll)
        check_forces(pairs, config.propagator)
    if config.propagator.stochastic:
        check_copies(train, validation)
    if config.force_updates and not train.has_forces:
        raise DataError("force_updates needs forces, the training set has none: harvest bursts, or set it to 0")
    if train.lag != validation.lag:
        raise DataError(
            f"training pairs are {format_time(train.lag)} apart, validation pairs {format_time(validation.lag)}; "
            "give both the same lag"
        )


def _warn_of_mirror_images(train: TrajectoryPairs, config: TrainingConfig) -> None:
    """Say what a network that is symmetric under reflection cannot learn of forces that are not."""
    if config.propagator.architecture in architectures_for("handed"):
        return
    measured = [MirrorAsymmetry.of_store(store.provenance) for store in train.stores]
    worst = max((one for one in measured if one is not None and one.matters), key=lambda one: one.share, default=None)
    if worst is not None:
        warnings.warn(worst.message("forces behind the training data"), MirrorWarning, stacklevel=3)


def _check_initial(initial: Propagator, train: TrajectoryPairs, config: TrainingConfig) -> None:
    wanted, given = config.propagator.model_dump(), initial.config.model_dump()
    differences = [f"{key} is {given[key]!r}, not {value!r}" for key, value in wanted.items() if value != given[key]]
    if differences:
        raise ConfigError(
            Remedy(
                f"the settings under 'propagator' are not those of the initial propagator: {'; '.join(differences)}; ",
                "give propagator=initial.config",
                "with --from leave them out, and --kind and --architecture",
            )
        )
    if not math.isclose(initial.timestep, train.lag, rel_tol=1e-6):
        raise CompatibilityError(
            f"the initial propagator has a time step of {format_time(initial.timestep)}, the pairs are "
            f"{format_time(train.lag)} apart; give pairs of its time step, or train from the start"
        )
    one = pairs_for(initial.config, train).batch(representative(train, 1, config.seed))
    initial.check(one[0])


def _run_identity(
    train: TrajectoryPairs, validation: TrajectoryPairs, config: TrainingConfig, initial: Propagator | None
) -> dict[str, Any]:
    """What two runs must share for one to continue the other."""
    data = {
        name: {"fingerprint": pairs.fingerprint, "pairs": len(pairs), "lag": pairs.lag}
        for name, pairs in (("training data", train), ("validation data", validation))
    }
    begun = {} if initial is None else {"initial weights": _digest(initial)}
    return {**config.model_dump(mode="json"), **data, **begun}


def _digest(propagator: Propagator) -> str:
    digest = hashlib.sha256()
    for name, value in propagator.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


def _metrics(module: PropagatorModule, baselines: dict[str, Errors]) -> dict[str, Any]:
    progress, jumps = module.progress, module.config.unroll
    unrolled = {} if jumps == 1 else {"unrolled": {"jumps": jumps, "learned": progress.unrolled}}
    return {
        "updates": progress.update,
        "best_update": progress.best_update,
        "validation_pairs": len(module.chosen),
        "one_step": {"learned": progress.learned} | {name: asdict(errors) for name, errors in baselines.items()},
        "over_best_baseline": over_baseline(progress.learned, module.baselines),
        **unrolled,
        **({"drawn": progress.drawn} if progress.drawn else {}),
    }
