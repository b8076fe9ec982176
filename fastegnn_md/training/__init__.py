"""Losses, the Lightning module, the typed configuration, and the run from pairs to a saved model."""

from .config import TrainingConfig
from .fit import FitResult, fit
from .losses import residual_loss, virtual_node_mmd
from .scores import error_table

__all__ = ["FitResult", "TrainingConfig", "error_table", "fit", "residual_loss", "virtual_node_mmd"]
