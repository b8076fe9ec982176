"""The learned map State → State after Δt: what it is, what it is built from, where it is kept."""

from .committee import Committee
from .config import PropagatorConfig
from .domain import Domain
from .fake import FakePropagator, permissive_domain
from .full import Propagator
from .kick_drift import KickDriftPropagator
from .learned_map import LearnedMap
from .limits import JumpLimits
from .prediction import Prediction, Spread

load = Propagator.load

__all__ = [
    "Committee",
    "Domain",
    "FakePropagator",
    "JumpLimits",
    "KickDriftPropagator",
    "LearnedMap",
    "Prediction",
    "Propagator",
    "PropagatorConfig",
    "Spread",
    "load",
    "permissive_domain",
]
