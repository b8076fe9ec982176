"""What is looked at when an integrator that jumps meets a Context, and again when the Context is made anew."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Collection
from typing import Any, Protocol

from fastegnn_md._extras import naming_extras
from fastegnn_md.engines.openmm.description import SystemDescription, describe_system
from fastegnn_md.engines.openmm.force import JumpForce, find_jump_force
from fastegnn_md.errors import CompatibilityError, ConfigError, Remedy
from fastegnn_md.propagator.learned_map import LearnedMap

with naming_extras(__name__):
    import openmm


class Binding(Protocol):
    """An integrator that jumps."""

    propagator: LearnedMap

    def bind(self, context: openmm.Context, force: JumpForce, learned_forces: Collection[str] = ()) -> None:
        """Serve a Context."""

    def unbind(self) -> None:
        """Serve none."""


def check_integrator(context: openmm.Context, integrator: openmm.Integrator) -> None:
    """Refuse a Context that was made with another integrator.

    Raises
    ------
    ConfigError
    """
    own = context.getIntegrator()
    if int(own.this) != int(integrator.this):
        raise ConfigError(
            f"the Context was made with another integrator, a {type(own).__name__}: make it with this one, "
            "openmm.Context(system, integrator)"
        )


def check_forces(
    system: openmm.System, force: JumpForce, informed: bool, hybrid: bool, learned_forces: Collection[str]
) -> SystemDescription:
    """Refuse jumps that would ignore a restraint or a bias; warn where classical steps alone feel it.

    Parameters
    ----------
    system : openmm.System
    force : JumpForce
    informed : bool
        Whether jumps are given the forces of the Context.
    hybrid : bool
        Whether there are classical steps between jumps.
    learned_forces : collection of str
        Forces that were there in training, as the error names them.

    Returns
    -------
    SystemDescription

    Raises
    ------
    CompatibilityError
        If there is such a force and nothing feels it.
    ConfigError
        If ``learned_forces`` names what is not there.
    """
    if isinstance(learned_forces, str):
        raise ConfigError(f"learned_forces is {learned_forces!r}; expected a list: [{learned_forces!r}]")
    described = describe_system(system, force.topology, force.part.atoms)
    unknown = sorted(set(learned_forces) - set(described.unusual_forces))
    if unknown:
        there = ", ".join(map(repr, described.unusual_forces)) or "none"
        raise ConfigError(f"learned_forces names {unknown[0]!r}; forces beyond a force field in this System: {there}")
    ignored = [name for name in described.unusual_forces if name not in learned_forces]
    if ignored and not informed:
        names = ", ".join(ignored)
        if not hybrid:
            raise CompatibilityError(
                Remedy(
                    f"the System has forces beyond a force field: {names}. Jumps of a force-free propagator do not "
                    "feel them, and there are no classical steps that would: take a force-informed propagator, remove "
                    "them, or give ",
                    "schedule=Schedule(classical_steps, jumps). If they were there in training, say "
                    f"learned_forces={ignored}",
                    "--classical-steps of 1 or more",
                )
            )
        warnings.warn(
            f"jumps of a force-free propagator do not feel {names} of this System, the classical steps between them "
            "do: look at what it holds, and take more classical steps if it gives way",
            stacklevel=5,
        )
    if not hybrid:
        resting = [i for i in range(system.getNumParticles()) if system.getParticleMass(i)._value > 0]
        count = len(set(resting) - {int(i) for i in force.part.atoms})
        if count:
            warnings.warn(
                Remedy(
                    f"{count} of {len(resting)} particles do not jump and rest for good, as there are no classical "
                    "steps; a temperature over all particles counts them. Give ",
                    "schedule=Schedule(classical_steps, jumps), or all of them to atoms=",
                    "--classical-steps of 1 or more",
                ),
                stacklevel=5,
            )
    return described


def rebind_on_reinitialize(
    context: openmm.Context, integrator: Binding, force: JumpForce, learned_forces: Collection[str]
) -> None:
    """Have ``context.reinitialize`` bind again: masses, constraints and forces of the System may have changed.

    OpenMM tells nobody that it was called. The Context is not kept alive.
    """
    served, owner = weakref.ref(context), weakref.ref(integrator)
    topology = force.topology

    def reinitialize(preserveState: bool = False) -> None:
        """Reinitialize the Context, and look at the System anew for learned jumps; see openmm.Context."""
        present, bound = served(), owner()
        assert present is not None  # it is this one's attribute
        type(present).reinitialize(present, preserveState)
        if bound is None:
            return
        bound.unbind()
        system = present.getSystem()
        found = find_jump_force(system, topology, bound.propagator)
        if found is None:
            raise CompatibilityError(
                "the jump force was removed from the System, and nothing can jump: call add_jump_force and "
                "reinitialize again"
            )
        bound.bind(present, found, learned_forces)

    bound_method: Any = reinitialize
    context.reinitialize = bound_method
