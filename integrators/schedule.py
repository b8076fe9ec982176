"""When to jump and when to take classical steps."""

from __future__ import annotations

from dataclasses import dataclass

from fastegnn_md.errors import CompatibilityError, ConfigError


@dataclass(frozen=True)
class Schedule:
    """Classical steps and jumps in turn.

    With a number of jumps the place in the cycle follows from the number of steps taken, so that a simulation resumes
    in mid-cycle. A refused jump is replaced by classical steps over the same time, and counts as one step.

    With ``jumps=None`` the schedule adapts: jumps as long as the guards accept them; after a refused jump
    ``classical_steps`` classical steps, then jumps again. A refused jump then counts as no step.

    Parameters
    ----------
    classical_steps : int
    jumps : int or None

    Raises
    ------
    ConfigError
        If a number is out of range.
    """

    classical_steps: int = 5
    jumps: int | None = 1

    def __post_init__(self) -> None:
        if self.jumps is not None and self.jumps < 1:
            raise ConfigError(f"jumps is {self.jumps}; expected a number >= 1, or None to jump until a guard refuses")
        least = 1 if self.adaptive else 0
        if self.classical_steps < least:
            raise ConfigError(f"classical_steps is {self.classical_steps}; expected a number >= {least}")

    @property
    def adaptive(self) -> bool:
        """Whether only the guards end a row of jumps."""
        return self.jumps is None

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
        """Classical steps in place of a refused jump; zero for adaptive schedules, which replace nothing.

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
                f"a refused jump of {1e3 * timestep:g} fs is replaced by classical steps, and steps of "
                f"{1e3 * step:g} fs do not add up to it; choose a classical step that divides it, or jumps=None"
            )
        return steps
