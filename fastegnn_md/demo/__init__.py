"""The whole path on alanine dipeptide: reference, harvest, training, learned dynamics and a report."""

from .records import DemoSettings
from .run import learned_run, run_demo

__all__ = ["DemoSettings", "learned_run", "run_demo"]
