"""What a jump conserves, and of which systems it can be asked."""

from __future__ import annotations

from dataclasses import dataclass

from fastegnn_md.errors import CompatibilityError, ConfigError, ConstraintError
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.state import State


@dataclass(frozen=True)
class Conserve:
    """Quantities that are restored exactly after each jump.

    Parameters
    ----------
    momentum : bool, optional
        Total momentum and the drift of the centre of mass. By default without friction, frozen atoms and redrawn
        velocities, unless the propagator learned that momentum is not conserved.
    angular_momentum : bool, optional
        Angular momentum about the centre of mass. By default where momentum is, of whole systems without a periodic
        direction. Atoms in a field need False.
    energy : bool
        Scale velocities towards the total energy before the first jump and the heat that a thermostat has brought
        since, by a factor within 0.9 and 1.1 (:class:`~fastegnn_md.mechanics.conservation.EnergyRescale`). One energy
        of the engine per jump. It hides where energy leaks from stiff into soft motion: look at the temperature of each
        element. Not beside classical steps, which may change the energy.
    """

    momentum: bool | None = None
    angular_momentum: bool | None = None
    energy: bool = False

    def __post_init__(self) -> None:
        for name in ("momentum", "angular_momentum", "energy"):
            value = getattr(self, name)
            if not (isinstance(value, bool) or (value is None and name != "energy")):
                raise ConfigError(f"Conserve({name}={value!r}); expected True or False")

    def check(self, constraints: Constraints, periodic: bool, isolated: bool) -> None:
        """Refuse to conserve what a system does not.

        Parameters
        ----------
        constraints : Constraints
        periodic, isolated : bool
            Whether any direction of the system is periodic, and whether it is whole and not a part of a larger one.

        Raises
        ------
        ConstraintError
            If a momentum is to be conserved and atoms are frozen.
        CompatibilityError
            If angular momentum is to be conserved in a periodic system or a part of one.
        """
        frozen = constraints.holds_atoms
        for asked, name in ((self.momentum, "momentum"), (self.angular_momentum, "angular_momentum")):
            if asked and frozen:
                raise ConstraintError(f"Conserve({name}=True) needs atoms that are free to move, but some are frozen")
        if self.angular_momentum and (periodic or not isolated):
            what = "periodic" if periodic else "part of a larger one, which exchanges angular momentum with it"
            raise CompatibilityError(
                f"Conserve(angular_momentum=True) needs an isolated system, this one is {what}; leave it out"
            )

    def freedom(self, state: State, constraints: Constraints, physical: bool, isolated: bool) -> Freedom:
        """What is conserved of the motion of a system, and what is left to it.

        Parameters
        ----------
        state : State
        constraints : Constraints
        physical : bool
            Whether thermostat and propagator conserve momentum.
        isolated : bool
            As in :meth:`check`.
        """
        physical = physical and not constraints.holds_atoms
        momentum = physical if self.momentum is None else self.momentum
        angular = self.angular_momentum
        if angular is None:
            angular = momentum and physical and isolated and not state.periodic
        return Freedom(constraints, momentum, angular)
