"""Trajectories become a store, a store becomes pairs a propagator is trained on."""

from .flow_lag import FlowLagSuggestion, suggest_flow_lag
from .lags import LagSuggestion, suggest_lag
from .mirror import MirrorAsymmetry, MirrorWarning, mirror_asymmetry
from .noise import NoiseFloor, NoiseFloorWarning, noise_floor
from .pairs import TrajectoryPairs
from .store import Store
from .store_writer import StoreWriter
from .topology import Topology, load_universe, read_topology

__all__ = [
    "FlowLagSuggestion",
    "LagSuggestion",
    "MirrorAsymmetry",
    "MirrorWarning",
    "NoiseFloor",
    "NoiseFloorWarning",
    "Store",
    "StoreWriter",
    "Topology",
    "TrajectoryPairs",
    "load_universe",
    "mirror_asymmetry",
    "noise_floor",
    "read_topology",
    "suggest_flow_lag",
    "suggest_lag",
]
