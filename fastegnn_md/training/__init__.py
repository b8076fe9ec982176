"""Losses, the Lightning module, the typed configuration, and the run from pairs to a saved model."""

from .config import TrainingConfig
from .fit import FitResult, fit
from .losses import residual_loss, virtual_node_mmd

__all__ = ["FitResult", "TrainingConfig", "fit", "residual_loss", "virtual_node_mmd"]
