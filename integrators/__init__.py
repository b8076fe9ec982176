"""How time advances with learned jumps.

Names are imported on first use: guards, thermostats and schedules work without an engine, dynamics and integrators need
theirs (extras ``ase``, ``openmm``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastegnn_md.optional import lazy_exports

if TYPE_CHECKING:
    from .ase import LearnedDynamics
    from .ase_ensemble import LearnedEnsemble
    from .ase_hybrid import HybridDynamics
    from .ase_metropolis import MetropolizedDynamics
    from .guards import GuardSettings, JumpStatistics, check_jump
    from .metropolis import MetropolisStatistics
    from .openmm import LearnedJumpIntegrator
    from .openmm_hybrid import HybridIntegrator
    from .openmm_metropolis import MetropolizedJumpIntegrator
    from .openmm_simulation import LearnedSimulation, LearnedStateReporter
    from .schedule import Schedule
    from .thermostats import LangevinHalfStep, StochasticVelocityRescaling

__all__ = [
    "GuardSettings",
    "HybridDynamics",
    "HybridIntegrator",
    "JumpStatistics",
    "LangevinHalfStep",
    "LearnedDynamics",
    "LearnedEnsemble",
    "LearnedJumpIntegrator",
    "LearnedSimulation",
    "LearnedStateReporter",
    "MetropolisStatistics",
    "MetropolizedDynamics",
    "MetropolizedJumpIntegrator",
    "Schedule",
    "StochasticVelocityRescaling",
    "check_jump",
]

_HOME = {
    "GuardSettings": ".guards",
    "HybridDynamics": ".ase_hybrid",
    "HybridIntegrator": ".openmm_hybrid",
    "JumpStatistics": ".guards",
    "LangevinHalfStep": ".thermostats",
    "LearnedDynamics": ".ase",
    "LearnedEnsemble": ".ase_ensemble",
    "LearnedJumpIntegrator": ".openmm",
    "LearnedSimulation": ".openmm_simulation",
    "LearnedStateReporter": ".openmm_simulation",
    "MetropolisStatistics": ".metropolis",
    "MetropolizedDynamics": ".ase_metropolis",
    "MetropolizedJumpIntegrator": ".openmm_metropolis",
    "Schedule": ".schedule",
    "StochasticVelocityRescaling": ".thermostats",
    "check_jump": ".guards",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOME, globals())
