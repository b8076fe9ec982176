"""Architectures, one file each, built by name."""

from .fastegnn import FastEGNN
from .output import ModelOutput
from .reference import from_reference
from .registry import available_models, build_model

__all__ = ["FastEGNN", "ModelOutput", "available_models", "build_model", "from_reference"]
