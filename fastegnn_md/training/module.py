"""The Lightning module: one training step, one validation step, and all that a resumed run must find again."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import CheckpointError, StateError, TrainingError
from ..propagator.base import Propagator
from ..propagator.flow import FlowPropagator
from ..state import State
from .batches import Batch, loader, pairs_for, shares
from .checkpoints import check_fit, group_of
from .config import TrainingConfig
from .drawn import drawn_report
from .losses import force_loss, step_loss
from .one_step import over_baseline
from .processes import check_agreement, total
from .schedule import BatchOrder, UpdateSampler, average_decay, draw_generator, learning_rate, spread
from .unrolling import perturbed, unrolled_residuals
from .weights import MOMENTS, MovingAverage, WeightBlock

if TYPE_CHECKING:
    from ..data import TrajectoryPairs

_DRAWN = 512  # held-out pairs that every second one of is drawn at a validation


@dataclass
class Progress:
    """How far a run is."""

    update: int = 0
    best_score: float | None = None
    best_update: int = 0
    stale: int = 0  # validations since the best one
    stopped: bool = False
    learned: dict[str, float] = field(default_factory=dict)  # RMSE at the best validation
    unrolled: dict[str, float] = field(default_factory=dict)  # RMSE after the last of several jumps, there too
    drawn: dict[str, float] = field(default_factory=dict)  # of a stochastic map, there too


class PropagatorModule(LightningModule):
    """Training of one propagator, counted in updates.

    A pass of Lightning ("epoch") is the stretch up to the next validation. Whatever decides the result is a function
    of the update (:mod:`.schedule`) or part of :meth:`tensors` and :attr:`progress`, so that a run continued from
    them is the uninterrupted one bit for bit.

    Parameters
    ----------
    propagator : Propagator
        The propagator to train, in place.
    config : TrainingConfig
        The settings.
    train, validation : TrajectoryPairs
        Pairs to learn from, and held-out pairs.
    chosen : list of int
        The held-out pairs that are evaluated.
    baselines : dict
        The lowest baseline RMSE per quantity, ``{"x": …, "v": …}``; "v" is absent where velocities are redrawn.

    Attributes
    ----------
    on_update, on_validated : callable
        Called with this module after each update that no validation follows, and, with the learned RMSE, after each
        validation.
    last_loss, recent_loss : float
        Loss of the last update, and its mean over the updates before the last validation; of whole batches, whatever
        the number of processes.
    unrolled : dict
        RMSE of the last validation after ``unroll`` jumps, keys as ``baselines``; empty for one jump.
    drawn : dict
        Of a stochastic map: what :func:`~fastegnn_md.training.drawn.drawn_report` said at the last validation.
    """

    validation_pairs: TrajectoryPairs
    chosen: list[int]
    progress: Progress

    def __init__(
        self,
        propagator: Propagator,
        config: TrainingConfig,
        train: TrajectoryPairs,
        validation: TrajectoryPairs,
        chosen: list[int],
        baselines: dict[str, float],
    ):
        super().__init__()
        self.propagator = propagator
        self.average: Propagator = copy.deepcopy(propagator).requires_grad_(False)
        self.config = config
        wanted = config.propagator.wants_forces
        needs = {"forces": wanted == "start" or config.force_updates > 0, "midpoint": wanted == "midpoint"}
        train, validation = (pairs_for(config.propagator, one) for one in (train, validation))
        self.train_pairs: TrajectoryPairs = train.sequences(config.unroll).lean(**needs)
        self.validation_pairs, self.chosen = validation.lean(**needs), chosen
        self.validation_runs: TrajectoryPairs = self.validation_pairs.sequences(config.unroll)
        self.baselines = baselines
        self.on_update: Callable[[PropagatorModule], None] = lambda module: None
        self.on_validated: Callable[[PropagatorModule, dict[str, float]], None] = lambda module, learned: None
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.recent_loss: float = math.nan
        self.last_loss: float = math.nan
        self._equal_sizes = len({store.n_atoms for store in train.stores}) == 1
        self._losses: list[float] = []
        self._optimizer_state: dict[str, Tensor] = {}
        self._precision_state: dict[str, Any] = {}
        self.unrolled: dict[str, float] = {}
        self.drawn: dict[str, float] = {}
        self._sums = torch.zeros(2, 3)
        self._block: WeightBlock
        self._following: MovingAverage | None = None

    # data -----------------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches from the current update to the next validation, this process' share of each."""
        config = self.config
        order = BatchOrder(len(self.train_pairs), config.batch_size, config.seed)
        sampler = UpdateSampler(
            order,
            lambda: self.progress.update,
            config.validate_every,
            config.updates,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        return loader(self.train_pairs, sampler, config.num_workers)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """The chosen held-out pairs, this process' share of each batch, and as many runs where several jumps count."""
        config, world, rank = self.config, self.trainer.world_size, self.trainer.global_rank
        chosen = [(self.validation_pairs, self.chosen)]
        if config.unroll > 1:
            chosen.append((self.validation_runs, spread(len(self.validation_runs), len(self.chosen))))
        return [
            loader(pairs, shares(indices, 4 * config.batch_size, world, rank), config.num_workers)
            for pairs, indices in chosen
        ]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch to the device and precision of the weights."""
        return batch.to(device, next(self.propagator.parameters()).dtype)

    def on_fit_start(self) -> None:
        """Compare what the processes of a run start from, before they wait for each other in vain.

        Raises
        ------
        ConfigError
            If their settings, data or checkpoints differ.
        """
        if self.trainer.world_size > 1:
            data = [pairs.fingerprint for pairs in (self.train_pairs, self.validation_pairs)]
            check_agreement(f"{self.config.model_dump_json()} {data} {asdict(self.progress)}", self.device)

    # training -------------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on the propagator, with the moments of the checkpoint if there is one."""
        self._block = WeightBlock(self.propagator)
        # fused: one kernel instead of ten per parameter; Lightning does not combine it with clipping under autocast
        fused = not self.config.precision.endswith("mixed") and self.device.type in ("cpu", "cuda")
        optimizer = torch.optim.Adam(
            [self._block.values],
            lr=learning_rate(self.config, self.progress.update),
            weight_decay=self.config.weight_decay,
            fused=fused or None,
        )
        if self._optimizer_state:
            state = {0: self._block.state(self._optimizer_state)}
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
            self._optimizer_state = {}
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of this update."""
        rate = learning_rate(self.config, self.progress.update)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of this process' share of the update; the mean over processes is the loss of the whole batch.

        Raises
        ------
        TrainingError
            If the loss is not finite, in this process or in another.
        """
        try:
            loss = self._loss(batch)
        except StateError:  # positions between two kicks, or after a jump that others follow, are not finite
            loss = torch.tensor(math.nan)
        value = float(loss.detach())
        if self.trainer.world_size > 1:
            value = float(total([value], self.device)) / self.trainer.world_size
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} at update {self.progress.update + 1} "
                f"(learning rate {learning_rate(self.config, self.progress.update):.3g}); "
                "the last checkpoint is kept; lower learning_rate or gradient_clip, or look for broken pairs"
            )
        self.last_loss = value
        self._losses.append(value)
        return loss

    def _loss(self, batch: Batch) -> Tensor:
        share = self._share_of_atoms(batch.start)
        if self.progress.update < self.config.force_updates:
            return share * force_loss(self.propagator, batch.start)
        start, generator = batch.start, None
        if self.config.noise or self.config.mmd_weight or self.propagator.stochastic:
            generator = draw_generator(self.config.seed, self.progress.update, self.trainer.global_rank)
        if self.config.noise:
            assert generator is not None  # narrows the type
            start = perturbed(self.propagator, start, self.config.noise, generator)
        residuals = unrolled_residuals(self.propagator, start, batch.ends, generator)
        losses = [
            step_loss(self.config, residual, end, share, generator)
            for residual, end in zip(residuals, batch.ends, strict=True)
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def _share_of_atoms(self, state: State) -> float:
        """Atoms of this process over those of the mean process: processes have as many systems, of any size."""
        processes = self.trainer.world_size
        if processes == 1 or self._equal_sizes:
            return 1.0
        return state.n_atoms * processes / float(total([state.n_atoms], self.device))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; called by Lightning, after it has undone the scale of float16."""
        if gradient_clip_val is not None:
            self._block.clip(gradient_clip_val)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Forget the gradients of the update before; called by Lightning."""
        self._block.forget()

    def on_after_backward(self) -> None:
        """Bring the gradients to where the optimiser looks for them."""
        self._block.gather()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Count the update and move the average."""
        assert self._following is not None  # set at the start
        self._following.move(average_decay(self.config, self.progress.update))
        self.progress.update += 1
        if not self.pass_ends:
            self.on_update(self)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.progress.stopped or self.progress.update >= self.config.updates

    @property
    def pass_ends(self) -> bool:
        """Whether a validation follows the last update."""
        update = self.progress.update
        return update % self.config.validate_every == 0 or update == self.config.updates

    # validation -----------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start the sums anew."""
        self._sums = torch.zeros(2, 3, dtype=torch.float64)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the mass-scaled squared errors of the averaged propagator, in the precision it will be used in."""
        with torch.autocast(self.device.type, enabled=False):
            *_, residual = unrolled_residuals(self.average, batch.start, batch.ends)
        scale = self.average.residual_scale(batch.start)
        x = (residual.x * scale[:, :1]).square().sum()
        v = (residual.v * scale[:, 1:]).square().sum() if residual.v is not None else 0.0
        self._sums[dataloader_idx] += torch.tensor([float(x), float(v), residual.x.numel()], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Compare with the baselines; keep the best average; tell the run."""
        sums = self._sums
        if self.trainer.world_size > 1:
            sums = total(sums.tolist(), self.device)
        learned = self._rms(sums[0])
        self.unrolled = self._rms(sums[1]) if self.config.unroll > 1 else {}
        if isinstance(self.average, FlowPropagator):
            drawn = spread(len(self.validation_pairs), _DRAWN)
            self.drawn = drawn_report(self.average, self.validation_pairs, drawn)
        score = sum(over_baseline(learned, self.baselines).values()) / len(learned)
        if not math.isfinite(score):
            raise TrainingError(f"the validation error is not finite at update {self.progress.update}")
        if self.progress.best_score is None or score < self.progress.best_score:
            self.progress.best_score, self.progress.best_update, self.progress.stale = score, self.progress.update, 0
            self.progress.learned, self.progress.unrolled = learned, self.unrolled
            self.progress.drawn = self.drawn
            self.best = {name: value.detach().clone() for name, value in self.average.state_dict().items()}
        else:
            self.progress.stale += 1
        patience = self.config.patience
        self.progress.stopped = patience is not None and self.progress.stale >= patience
        self.recent_loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        self._losses.clear()
        self.on_validated(self, learned)

    def _rms(self, sums: Tensor) -> dict[str, float]:
        x, v, components = sums.tolist()
        rms = {"x": math.sqrt(x / components)}
        if self.average.predicts_velocities:
            rms["v"] = math.sqrt(v / components)
        return rms

    def on_train_epoch_end(self) -> None:
        """End the run early if nothing gets better."""
        if self.progress.stopped:
            self.trainer.should_stop = True

    # checkpoints ----------------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """All tensors a resumed run needs: weights, their average, the best average, moments of Adam."""
        named = {f"weights/{name}": value for name, value in self.propagator.state_dict().items()}
        named |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        named |= {f"best/{name}": value for name, value in self.best.items()}
        named |= self._block.moments(self.trainer.optimizers[0].state.get(self._block.values, {}))
        if not all(bool(value.isfinite().all()) for value in named.values() if value.is_floating_point()):
            raise TrainingError(
                f"the weights are not finite after update {self.progress.update}; the last checkpoint is kept; "
                "lower learning_rate or gradient_clip"
            )
        return named

    def record(self) -> dict[str, Any]:
        """The rest a resumed run needs, as JSON values."""
        return {
            "progress": asdict(self.progress),
            "losses": self._losses,
            "precision": _plain(self.trainer.precision_plugin.state_dict()),
        }

    def restore(self, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Continue from :meth:`tensors` and :meth:`record`; changes nothing if they do not fit.

        Raises
        ------
        CheckpointError
            If a tensor is missing, too many, or of another shape or type.
        """
        weights = self.propagator.state_dict()
        expected: dict[str, Tensor] = {
            f"{group}/{name}": value for group in ("weights", "average") for name, value in weights.items()
        }
        if any(name.startswith("best/") for name in tensors):
            expected |= {f"best/{name}": value for name, value in weights.items()}
        for name, parameter in self.propagator.named_parameters():
            if any(f"{key}/{name}" in tensors for key in MOMENTS):  # parameters without gradient have none
                moment: Tensor = parameter
                expected |= {f"step/{name}": torch.zeros(()), f"exp_avg/{name}": moment, f"exp_avg_sq/{name}": moment}
        check_fit(tensors, expected)
        try:
            progress = Progress(**record["progress"])
            losses = [float(value) for value in record["losses"]]
            precision = dict(record["precision"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the training checkpoint has broken metadata ({error}); delete it") from None
        self.progress, self._losses, self._precision_state = progress, losses, precision
        self.propagator.load_state_dict(group_of(tensors, "weights"))
        self.average.load_state_dict(group_of(tensors, "average"))
        self.best = group_of(tensors, "best")
        self._optimizer_state = {name: value for name, value in tensors.items() if name.split("/")[0] in MOMENTS}

    def on_train_start(self) -> None:
        """Weights are on their device now; give the float16 loss scale of the checkpoint back to Lightning's plugin."""
        self._following = MovingAverage(self.average, self.propagator)
        if self._precision_state:
            self.trainer.precision_plugin.load_state_dict(self._precision_state)

    def best_propagator(self) -> Propagator:
        """The averaged weights of the best validation."""
        self.average.load_state_dict(self.best)
        return self.average.eval()


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value.item() if isinstance(value, Tensor) else value for key, value in state.items()}
