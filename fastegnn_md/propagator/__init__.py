"""The learned map State → State after Δt: what it is, what it is built from, where it is kept."""

from .committee import Committee, Spread
from .config import PropagatorConfig
from .domain import Domain
from .full import Propagator
from .kick_drift import KickDriftPropagator
from .learned_map import LearnedMap
from .limits import JumpLimits

load = Propagator.load

__all__ = [
    "Committee",
    "Domain",
    "JumpLimits",
    "KickDriftPropagator",
    "LearnedMap",
    "Propagator",
    "PropagatorConfig",
    "Spread",
    "load",
]
