"""Many simulations of OpenMM advanced together: one call of the network per step for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from fastegnn_md._progress import progress_bar
from fastegnn_md.errors import CompatibilityError, ConfigError, JumpError

from ..together import Together
from .integrator import LearnedIntegrator
from .simulation import LearnedSimulation


class SimulationEnsemble:
    """Advance several :class:`LearnedSimulation` step by step, their jumps predicted in one batch.

    Each keeps its own Context, random numbers, guards and reporters, and gives the numbers it would give alone, to
    rounding. Draws that guards refuse are drawn anew together, too.

    Parameters
    ----------
    simulations : sequence of LearnedSimulation
        With a LearnedIntegrator each, all of one and the same propagator, and the back-end ``host``. Systems may
        differ.

    Attributes
    ----------
    simulations : list of LearnedSimulation

    Raises
    ------
    ConfigError
        If there are none, one is given twice, or one has another integrator or back-end.
    CompatibilityError
        If they have different propagators.

    Examples
    --------
    >>> replicas = SimulationEnsemble(simulations)  # doctest: +SKIP
    >>> replicas.step(1000)  # doctest: +SKIP
    """

    def __init__(self, simulations: Sequence[LearnedSimulation]):
        self.simulations: list[LearnedSimulation] = list(simulations)
        if not self.simulations:
            raise ConfigError("an ensemble of no simulations; give at least one LearnedSimulation")
        if len({id(one) for one in self.simulations}) < len(self.simulations):
            raise ConfigError("a simulation is given twice; make one for each replica")
        for one in self.simulations:
            kind = type(one.integrator)
            if kind is not LearnedIntegrator:
                raise ConfigError(f"the integrator of a replica is a {kind.__name__}; make each with LearnedIntegrator")
        propagator = self.simulations[0].integrator.propagator
        if any(one.integrator.propagator is not propagator for one in self.simulations):
            raise CompatibilityError("the simulations of an ensemble have different propagators; load it once for all")
        self._together = Together(propagator)

    def step(self, steps: int, progress: bool = False) -> None:
        """Make a number of steps of each simulation; ``progress`` shows a bar.

        Raises
        ------
        JumpError
            If a guard refuses the jump of a replica and nothing can replace it; it names the replica. Those before it
            have made the step, it and those after it have not.
        """
        for _ in progress_bar(range(steps), disable=not progress, unit="step"):
            try:
                waiting = [one.prepare() for one in self.simulations]
                self._together.predict([one for one in waiting if one is not None])
                for k, one in enumerate(self.simulations):
                    try:
                        one.step(1)
                    except JumpError as error:
                        raise JumpError(f"replica {k}: {error}", error.atom) from error
            finally:
                for one in self.simulations:
                    one.integrator.forget()
