"""Lightning's Trainer around the module: devices, precision, logs, checkpoints, and the end of a run."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger

from .._extras import naming_extras
from ..errors import ConfigError
from .batches import shares
from .config import TrainingConfig
from .folder import TrainingFolder
from .history import HistoryLogger, UpdateBar
from .module import PropagatorModule
from .one_step import Errors, over_baseline
from .processes import is_main_process
from .schedule import learning_rate

# Lightning's advice that does not apply here, by the beginning of its text.
_EXPECTED = (
    r".*does not have many workers which may be a bottleneck",
    r".*find_unused_parameters=True was specified in DDP constructor",
    r"GPU available but not used",
    # Lightning 2.6 on torch 2.13
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
)


def run_lightning(
    module: PropagatorModule,
    files: TrainingFolder | None,
    baselines: Mapping[str, Errors],
    *,
    on_best: Callable[[], None],
    progress: bool,
) -> None:
    """Train ``module`` from where it stands to the end of its updates.

    Parameters
    ----------
    module : PropagatorModule
        The module, restored from a checkpoint or fresh.
    files : TrainingFolder, optional
        Where checkpoints and logs go.
    baselines : mapping of str to Errors
        One-step errors of the baselines, written beside the learned ones.
    on_best : callable
        Called in the first process after a validation that was the best so far.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ConfigError
        If there are no such devices, or the batches or validation pairs cannot be shared by them; if the processes of
        the run differ in their settings, data or checkpoint.
    TrainingError
        If the loss or the weights are not finite, or a file cannot be written.
    """
    config = module.config
    interrupted = _Interrupted()
    callbacks: list[Callback] = [interrupted]
    bar = UpdateBar() if progress else None
    if bar is not None:
        callbacks.append(bar)
    with _quiet():
        trainer = _trainer(module, files, callbacks)
        _check_shares(module, trainer.world_size)
        columns = {
            f"{key} {name}": value
            for name, errors in baselines.items()
            for key in ("x", "v")
            if (value := getattr(errors, key)) is not None
        }

        def on_update(module: PropagatorModule) -> None:
            if files is not None and module.progress.update % config.checkpoint_every == 0 and is_main_process():
                files.save(module.tensors(), module.record())

        def on_validated(module: PropagatorModule, learned: dict[str, float]) -> None:
            ratios = over_baseline(learned, module.baselines)
            row = {"learning_rate": learning_rate(config, module.progress.update - 1), "loss": module.recent_loss}
            row |= {f"{key} learned": value for key, value in learned.items()}
            row |= {f"{key} over best baseline": value for key, value in ratios.items()}
            row |= {f"{key} learned, {config.unroll} jumps": value for key, value in module.unrolled.items()}
            row |= {f"drawn {key}": value for key, value in module.drawn.items()}
            for logger in trainer.loggers:
                logger.log_metrics(row | columns, step=module.progress.update)
            if bar is not None:
                bar.show(ratios, module.drawn)
            if module.progress.best_update == module.progress.update and is_main_process():
                on_best()
            if module.finished and files is not None and is_main_process():
                files.save(module.tensors(), module.record())
            else:
                on_update(module)

        module.on_update, module.on_validated = on_update, on_validated
        try:
            with _kept_interrupt_handler():
                trainer.fit(module)
        except SystemExit:
            if interrupted.by is not None:  # Lightning leaves Python on Ctrl-C; a library must not
                raise interrupted.by from None
            if trainer.received_sigterm:  # Lightning would report success to the batch system
                if files is not None and is_main_process():  # it ends between two updates
                    files.save(module.tensors(), module.record())
                raise SystemExit(128 + signal.SIGTERM) from None
            raise
        finally:
            if bar is not None:
                bar.close()


class _Interrupted(Callback):
    """Remembers a Ctrl-C, which Lightning turns into ``sys.exit``."""

    def __init__(self) -> None:
        self.by: KeyboardInterrupt | None = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            self.by = exception


def _trainer(module: PropagatorModule, files: TrainingFolder | None, callbacks: list[Callback]) -> Trainer:
    config = module.config
    if config.precision == "16-mixed" and not _has_accelerator(config.accelerator):
        raise ConfigError("precision = '16-mixed' needs a GPU; use 'bf16-mixed' or '32-true' on the CPU")
    loggers = _loggers(module, files)
    try:
        return Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=strategy_of(config),
            precision=config.precision,
            max_epochs=-1,
            max_steps=config.updates - module.progress.update,
            gradient_clip_val=config.gradient_clip,
            logger=loggers,
            log_every_n_steps=1,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=any(isinstance(callback, UpdateBar) for callback in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            # tensors that a propagator caches during validation are used in training too
            inference_mode=False,
        )
    except (MisconfigurationException, ValueError) as error:
        keys = ("accelerator", "devices", "num_nodes", "strategy")
        given = ", ".join(f"{key} = {getattr(config, key)!r}" for key in keys)
        raise ConfigError(f"cannot train with {given}: {error}") from error


def _loggers(module: PropagatorModule, files: TrainingFolder | None) -> list[Logger] | bool:
    kind, update = module.config.logger, module.progress.update
    if files is None or kind == "none" or not is_main_process(module.config.num_nodes):
        return False
    loggers: list[Logger] = [HistoryLogger(files.history, update)]
    if kind == "tensorboard":
        with naming_extras("logger = 'tensorboard'"):
            loggers.append(TensorBoardLogger(files.folder, name="", version="tensorboard", purge_step=update))
    return loggers


def _has_accelerator(accelerator: str) -> bool:
    return accelerator != "cpu" and (torch.cuda.is_available() or torch.backends.mps.is_available())


def strategy_of(config: TrainingConfig) -> str:
    """Lightning's name of the strategy: one process per device as soon as there are several devices."""
    if config.devices in ("auto", -1):
        devices = 1 if config.accelerator == "cpu" else torch.cuda.device_count()
    else:
        devices = int(config.devices)
    if config.strategy == "ddp" or devices > 1 or config.num_nodes > 1:
        return "ddp_find_unused_parameters_true"  # some weights of the last layer reach no output
    return "auto"


def _check_shares(module: PropagatorModule, processes: int) -> None:
    """Refuse, before there are further processes, a batch that they cannot share evenly."""
    size = module.config.batch_size
    if size % processes:
        raise ConfigError(
            f"batch_size = {size} cannot be shared evenly by {processes} devices; take a multiple of {processes}"
        )
    shares(module.chosen, size, processes, 0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advertisements and its advice on worker processes off the screen."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for text in _EXPECTED:
                warnings.filterwarnings("ignore", message=text)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _kept_interrupt_handler() -> Iterator[None]:
    """Lightning leaves Ctrl-C ignored after an interrupted run, and calls what else SIGTERM does beside its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
