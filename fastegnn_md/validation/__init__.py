"""How far a propagator's dynamics is from a reference: observables, verdicts, a report.

Names are imported on first use; :func:`validate` and some observables need the extra ``validate``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..optional import lazy_exports

if TYPE_CHECKING:
    from .case import Case, Run, check_frames
    from .checks import CHECKS, Check, validate
    from .constraints import ConstraintViolation, RigidPairs
    from .diffusion import Diffusion
    from .distances import PairDistances, radial_distribution
    from .drift import energy_drift
    from .ensembles import ensemble_check, kinetic_energy_check
    from .report import Report
    from .reversibility import round_trip
    from .rollouts import RollOuts, roll_out
    from .rows import Row
    from .statistics import Sample, bootstrap_interval, compare
    from .temperature import ElementTemperatures, degrees_of_freedom
    from .tica import TorsionComponents, TorsionFeatures, fit_components
    from .torsions import find_torsions, joint_histograms, torsion_angles, torsion_histograms
    from .vdos import VelocityDensityOfStates

__all__ = [
    "CHECKS",
    "Case",
    "Check",
    "ConstraintViolation",
    "Diffusion",
    "ElementTemperatures",
    "PairDistances",
    "Report",
    "RigidPairs",
    "RollOuts",
    "Row",
    "Run",
    "Sample",
    "TorsionComponents",
    "TorsionFeatures",
    "VelocityDensityOfStates",
    "bootstrap_interval",
    "check_frames",
    "compare",
    "degrees_of_freedom",
    "energy_drift",
    "ensemble_check",
    "find_torsions",
    "fit_components",
    "joint_histograms",
    "kinetic_energy_check",
    "radial_distribution",
    "roll_out",
    "round_trip",
    "torsion_angles",
    "torsion_histograms",
    "validate",
]

_HOME = {
    "CHECKS": ".checks",
    "Case": ".case",
    "Check": ".checks",
    "ConstraintViolation": ".constraints",
    "Diffusion": ".diffusion",
    "ElementTemperatures": ".temperature",
    "PairDistances": ".distances",
    "Report": ".report",
    "RigidPairs": ".constraints",
    "RollOuts": ".rollouts",
    "Row": ".rows",
    "Run": ".case",
    "Sample": ".statistics",
    "TorsionComponents": ".tica",
    "TorsionFeatures": ".tica",
    "VelocityDensityOfStates": ".vdos",
    "bootstrap_interval": ".statistics",
    "check_frames": ".case",
    "compare": ".statistics",
    "degrees_of_freedom": ".temperature",
    "energy_drift": ".drift",
    "ensemble_check": ".ensembles",
    "find_torsions": ".torsions",
    "fit_components": ".tica",
    "joint_histograms": ".torsions",
    "kinetic_energy_check": ".ensembles",
    "radial_distribution": ".distances",
    "roll_out": ".rollouts",
    "round_trip": ".reversibility",
    "torsion_angles": ".torsions",
    "torsion_histograms": ".torsions",
    "validate": ".checks",
}

__getattr__, __dir__ = lazy_exports(__name__, _HOME, globals())
