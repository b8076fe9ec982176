"""Many learned dynamics advanced together: one call of the network per step for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from fastegnn_md._progress import progress_bar
from fastegnn_md.errors import CompatibilityError, ConfigError, JumpError

from ..together import Together, Waiting
from .dynamics import LearnedDynamics


class LearnedEnsemble:
    """Advance several :class:`LearnedDynamics` step by step, their jumps predicted in one batch.

    Each keeps its own atoms, random numbers, thermostat, constraints, guards, observers, trajectory and restart file,
    and gives the numbers it would give alone, to rounding. A small molecule leaves most of a processor idle: replicas
    fill it.

    Parameters
    ----------
    dynamics : sequence of LearnedDynamics
        With one and the same propagator, of any systems it fits. A calculator must not be shared by atoms of which it
        keeps results.

    Raises
    ------
    ConfigError
        If there are none, or one is given twice.
    CompatibilityError
        If they have different propagators.

    Examples
    --------
    >>> replicas = [LearnedDynamics(atoms, propagator, rng=k) for k, atoms in enumerate(copies)]  # doctest: +SKIP
    >>> LearnedEnsemble(replicas).run(1000)  # doctest: +SKIP
    """

    def __init__(self, dynamics: Sequence[LearnedDynamics]):
        self.dynamics: list[LearnedDynamics] = list(dynamics)
        if not self.dynamics:
            raise ConfigError("an ensemble of no dynamics; give at least one LearnedDynamics")
        atoms = {id(one.atoms) for one in self.dynamics}
        if len(atoms) < len(self.dynamics):
            raise ConfigError("two dynamics of the ensemble move the same atoms; give each a copy")
        self._propagator = self.dynamics[0].propagator
        if any(one.propagator is not self._propagator for one in self.dynamics):
            raise CompatibilityError("the dynamics of an ensemble have different propagators; load it once for all")
        self._together = Together(self._propagator)

    def set_temperature(self, temperature_K: float) -> None:
        """Another temperature (K) of all from the next step on; see :meth:`LearnedDynamics.set_temperature`."""
        for one in self.dynamics:
            one.set_temperature(temperature_K)

    def run(self, steps: int, progress: bool = False) -> None:
        """Make a number of steps of each dynamics; ``progress`` shows a bar.

        Raises
        ------
        JumpError
            If a guard refuses the jump of a replica and nothing can replace it; it names the replica. Those before it
            have made the step, it and those after it have not.
        """
        for _ in progress_bar(self.irun(steps), total=steps, disable=not progress, unit="step"):
            pass

    def irun(self, steps: int) -> Iterator[int]:
        """The same as a generator that yields after each step how many were made."""
        runs = [one.irun(steps) for one in self.dynamics]
        for run in runs:
            next(run)  # step 0, for observers that have not seen it
        for made in range(1, steps + 1):
            try:
                self._predict()
                for k, run in enumerate(runs):
                    try:
                        next(run)
                    except JumpError as error:
                        raise JumpError(f"replica {k}: {error}", error.atom) from error
            finally:
                self._forget()
            yield made

    def _predict(self) -> None:
        waiting = []
        for one in self.dynamics:
            if one.jumps_next:
                one.follow_thermostat()
                one.jump.waiting = one.jump.prepare(one.rng)
                state, take, propose = one.jump.waiting.state, one.jump.take, partial(one.jump.propose, one.rng)
                waiting.append(Waiting(state, one.rng, one.guarded, take, propose))
        self._together.predict(waiting)

    def _forget(self) -> None:
        for one in self.dynamics:
            if one.jump.waiting is not None:
                one.jump.undo(one.jump.waiting.before, one.rng)
