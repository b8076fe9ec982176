"""What jumps must know of OpenMM's classical integrators."""

from __future__ import annotations

from ..._extras import naming_extras
from ...errors import ConfigError

with naming_extras(__name__):
    import openmm

# These hold v(t - δ/2) beside x(t): leap-frog, and the middle scheme of Zhang et al., J. Phys. Chem. A 123, 6056
# (2019).
_HALF_STEP = ("VerletIntegrator", "LangevinMiddleIntegrator", "LangevinIntegrator", "NoseHooverIntegrator")
_LANGEVIN = ("LangevinMiddleIntegrator", "LangevinIntegrator")


def holds_half_step_velocities(integrator: openmm.Integrator, given: bool | None = None) -> bool:
    """Whether velocities are those of half a step before the positions.

    Parameters
    ----------
    integrator : openmm.Integrator
    given : bool, optional
        What the user says; needed for a CustomIntegrator, which may do anything.

    Raises
    ------
    ConfigError
        If jumps cannot be put between the steps of this kind of integrator, or it is a CustomIntegrator and nothing was
        said.
    """
    kind = type(integrator).__name__
    if isinstance(integrator, openmm.CustomIntegrator):
        if given is None:
            raise ConfigError(
                f"{kind} is a CustomIntegrator; say with half_step_velocities=True or False whether its velocities are "
                "those of half a step before the positions (leap-frog) or of the same time (velocity Verlet)"
            )
        return given
    if kind not in _HALF_STEP:
        raise ConfigError(
            f"{kind} cannot be interleaved with jumps; supported are {', '.join(_HALF_STEP)} and CustomIntegrator"
        )
    if given is False:
        raise ConfigError(f"the velocities of {kind} are those of half a step ago; leave half_step_velocities out")
    return True


def temperature_of(integrator: openmm.Integrator) -> float | None:
    """Temperature of the heat bath in K, None without one."""
    return integrator.getTemperature()._value if hasattr(integrator, "getTemperature") else None


def friction_of(integrator: openmm.Integrator) -> float | None:
    """Friction of a Langevin integrator in 1/ps, None for others."""
    return integrator.getFriction()._value if type(integrator).__name__ in _LANGEVIN else None


def force_groups_of(integrator: openmm.Integrator) -> set[int]:
    """Force groups that an integrator feels."""
    mask = integrator.getIntegrationForceGroups()
    return {group for group in range(32) if mask >> group & 1}
