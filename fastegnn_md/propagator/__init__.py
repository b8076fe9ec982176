"""The learned map State → State after Δt: what it is, what it is built from, where it is kept."""

from .base import Propagator, load
from .committee import Committee
from .config import PropagatorConfig
from .conservative import ConservativePropagator
from .domain import Domain
from .fake import FakePropagator, permissive_domain
from .flow import FlowPropagator
from .fluctuating import Fluctuating
from .full import FullPropagator
from .kick_drift import KickDriftPropagator
from .learned_map import LearnedMap
from .limits import JumpLimits
from .position import PositionPropagator
from .prediction import Prediction, Spread
from .symplectic import SymplecticPropagator

__all__ = [
    "Committee",
    "ConservativePropagator",
    "Domain",
    "FakePropagator",
    "FlowPropagator",
    "Fluctuating",
    "FullPropagator",
    "JumpLimits",
    "KickDriftPropagator",
    "LearnedMap",
    "PositionPropagator",
    "Prediction",
    "Propagator",
    "PropagatorConfig",
    "Spread",
    "SymplecticPropagator",
    "load",
    "permissive_domain",
]
