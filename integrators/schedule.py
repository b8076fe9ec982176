"""When to jump, when to take classical steps, and what follows a jump that a guard refuses."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

from fastegnn_md.errors import CompatibilityError, ConfigError, Remedy

from .thermostats import in_unit

CLASSICAL_STEP = 5e-4  # ps, of classical steps where nothing else is said


@dataclass(frozen=True)
class Schedule:
    """Jumps, or classical steps and jumps in turn.

    With a number of jumps the place in the cycle follows from the number of steps taken, so that a simulation resumes
    in mid-cycle. A refused jump is replaced by classical steps over the same time, and counts as one step.

    With ``jumps=None`` the schedule adapts: jumps as long as the guards accept them; after a refused jump
    ``classical_steps`` classical steps, then jumps again. A refused jump then counts as no step.

    Parameters
    ----------
    classical_steps : int
        Of a cycle. With none every step is a jump.
    jumps : int or None
        Of a cycle.
    classical : optional
        What makes classical steps. A time step (ps, ``"0.5 fs"`` or a Quantity): velocity Verlet with the thermostat of
        the jumps around each step, for jumps that are replaced without it; rounded so that Δt is a multiple. Or a
        dynamics of ASE for the same atoms, or an integrator of OpenMM: jumps then take its thermostat. Default 0.5 fs;
        1 fs beside stochastic jumps, where steps of relaxation have this time step as well: ``"2 fs"`` suits bonds to
        hydrogen of fixed length.
    fallback : {"classical", "stop"}
        What follows a refused jump: classical steps (:class:`~fastegnn_md.errors.JumpError` where no engine can make
        them), or JumpError at once.
    relax_steps : int, optional
        Classical steps after each jump of a propagator that redraws velocities. Of kind "flow" Langevin dynamics with a
        friction of 10/ps that counts as time; default 50, and none where no engine can make them. Of kind "position"
        velocity Verlet that does not count as time; default none.
    minimize_steps : int
        Most steps of the engine's minimiser after each jump of a position-only propagator, before relaxation.
    redraws : int
        How often a refused jump of a stochastic propagator (kind "flow") is drawn anew from the same positions before
        the fallback takes its place. A deterministic one would give the same again, and is not asked.

    Raises
    ------
    ConfigError
        If a number is out of range.
    UnitError
        If the unit of a time step cannot be read.
    """

    classical_steps: int = 0
    jumps: int | None = 1
    classical: Any = None
    fallback: Literal["classical", "stop"] = "classical"
    relax_steps: int | None = None
    minimize_steps: int = 0
    redraws: int = 3

    def __post_init__(self) -> None:
        if self.jumps is not None and not (_whole(self.jumps) and self.jumps >= 1):
            raise ConfigError(
                f"jumps is {self.jumps!r}; expected a whole number >= 1, or None to jump until a guard refuses"
            )
        for name in ("classical_steps", "relax_steps", "minimize_steps", "redraws"):
            value = getattr(self, name)
            if not (_whole(value) and value >= 0) and not (name == "relax_steps" and value is None):
                raise ConfigError(f"{name} is {value!r}; expected a whole number >= 0")
        if self.adaptive and not self.classical_steps:
            raise ConfigError("jumps=None takes classical steps after a refused jump: give classical_steps >= 1")
        if self.fallback not in ("classical", "stop"):
            raise ConfigError(f"fallback is {self.fallback!r}; expected 'classical' or 'stop'")
        if self.adaptive and self.fallback == "stop":
            raise ConfigError("jumps=None goes on with classical steps after a refused jump: leave fallback out")
        if self.engine is None and not self.own_step > 0:
            raise ConfigError(f"the classical time step is {self.own_step} ps; expected a number > 0")

    @property
    def adaptive(self) -> bool:
        """Whether only the guards end a row of jumps."""
        return self.jumps is None

    @property
    def hybrid(self) -> bool:
        """Whether there are classical steps that are counted, beside jumps."""
        return self.adaptive or self.classical_steps > 0

    @property
    def engine(self) -> Any:
        """The dynamics or integrator that makes classical steps; None for our own."""
        value = self.classical
        number = value is None or isinstance(value, (str, float, int)) or hasattr(value, "value_in_unit")
        return None if number else value

    @property
    def own_step(self) -> float:
        """Time step of our own classical steps, ps."""
        if self.classical is None or self.engine is not None:
            return CLASSICAL_STEP
        return float(in_unit(self.classical, "time"))

    def classical_steps_due(self, step: int, pending: int) -> int:
        """Classical steps to take now; zero means a jump.

        Parameters
        ----------
        step : int
            Steps taken so far.
        pending : int
            Classical steps left after a refused jump; of adaptive schedules.
        """
        if self.jumps is None:
            return pending
        return max(0, self.classical_steps - step % (self.classical_steps + self.jumps))

    def replacement_steps(self, timestep: float, step: float) -> int:
        """Steps of an engine's dynamics in place of a refused jump; zero for adaptive schedules, which replace nothing.

        Parameters
        ----------
        timestep, step : float
            Of the jump and of the classical dynamics, ps.

        Raises
        ------
        CompatibilityError
            If they do not add up to the jump.
        """
        if self.adaptive:
            return 0
        steps = max(1, round(timestep / step))
        if abs(steps * step - timestep) > 1e-6 * timestep:
            raise CompatibilityError(
                Remedy(
                    f"a refused jump of {1e3 * timestep:g} fs is replaced by classical steps, and steps of "
                    f"{1e3 * step:g} fs do not add up to it; choose ",
                    "a classical step that divides it, or jumps=None",
                    "a --timestep that divides it, or --jumps 0",
                )
            )
        return steps


def schedule_of(given: Schedule | None) -> Schedule:
    """The schedule that a user means: by default jumps alone; raises ConfigError for anything else."""
    if given is None:
        return Schedule()
    if not isinstance(given, Schedule):
        raise ConfigError(f"schedule is {given!r}; expected a Schedule of fastegnn_md.integrators")
    return given


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
