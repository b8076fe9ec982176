"""Architectures, one file each, built by name."""

from .eghn import EGHN
from .egnn import EGNN
from .fastegnn import FastEGNN
from .fastrf import FastRF
from .fastschnet import FastSchNet
from .fasttfn import FastTFN
from .gmn import GMN
from .gvp import GVP
from .linear import Linear
from .mpnn import MPNN
from .output import ModelOutput
from .reference import from_reference
from .registry import architectures_for, available_models, build_model, hyperparameters_of
from .rf import RF
from .schnet import SchNet
from .se3_transformer import SE3Transformer
from .tfn import TFN
from .vn_egnn import VNEGNN

__all__ = [
    "EGHN",
    "EGNN",
    "GMN",
    "GVP",
    "MPNN",
    "RF",
    "TFN",
    "VNEGNN",
    "FastEGNN",
    "FastRF",
    "FastSchNet",
    "FastTFN",
    "Linear",
    "ModelOutput",
    "SE3Transformer",
    "SchNet",
    "architectures_for",
    "available_models",
    "build_model",
    "from_reference",
    "hyperparameters_of",
]
