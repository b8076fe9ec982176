"""A barostat that changes the volume by Monte Carlo: what the user wants, and where a run of it stands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastegnn_md.errors import CheckpointError, ConfigError, UnitError
from fastegnn_md.units import BAR, BOLTZMANN

from .restart_file import restart_value
from .thermostats import in_unit

_LARGEST = 0.5  # |Δ ln V| beyond which no move of a dense system is accepted
_SMALLEST = 1e-8  # of no use any more: rounding
_WANTED = 0.5  # share of moves accepted
_WIDE = 10  # moves over which the first changes of the step are large


@dataclass(frozen=True)
class MonteCarloBarostat:
    """Constant pressure: every few steps a change of the volume is tried, and accepted or rejected.

    Of a move V → V′ the change of ln V is drawn from (−δ, δ), fractional coordinates stay, and it is accepted with the
    probability

    min(1, exp(−[U(x′) − U(x) + P (V′ − V)] / k_B T + (N + 1) ln(V′ / V))),

    N the number of atoms. Positions are scaled atom by atom, **momenta are not**: they are independent of the volume in
    the ensemble that is sampled, dx dp dV exp(−[U + K + P V] / k_B T), in which an ideal gas has the mean volume
    (N + 1) k_B T / P. N counts the factor V^N of integrals over fractional coordinates, and one more the step from dV
    to d ln V (Frenkel and Smit, Understanding Molecular Simulation, section 5.4). Moves between stretches of dynamics
    at constant volume: Chow and Ferguson, Comput. Phys. Commun. 91, 283 (1995); Åqvist et al., Chem. Phys. Lett. 384,
    288 (2004). No pressure is computed; where jumps are learned, moves are judged by the engine's own energy.

    The step δ is adapted during the first ``adapt`` moves, the longer the less (Robbins and Monro 1951), towards one
    half of them accepted; then it is fixed, and moves are in detailed balance. Leave the volumes until then out of
    averages.

    Parameters
    ----------
    pressure : str or Quantity
        With its unit: ``"1 bar"``, ``"2.5 GPa"``, ``"0 bar"``.
    every : int
        Steps between moves.
    anisotropic : bool
        Scale the three cell vectors one at a time, drawn by chance, angles kept; each has a δ of its own. Lengths of
        the cell are then distributed uniformly but for the exponential above. By default all three scale together.
    step : float
        δ of the first move, |Δ ln V|.
    adapt : int
        Moves (of each vector, where these move one at a time) in which δ is adapted; 0 keeps it.

    Raises
    ------
    ConfigError
        If a number is out of range.
    UnitError
        If the pressure has no unit, or that of something else.
    """

    pressure: float  # bar
    every: int = 25
    anisotropic: bool = False
    step: float = 0.01
    adapt: int = 200

    def __init__(self, pressure: Any, every: int = 25, anisotropic: bool = False, step: float = 0.01, adapt: int = 200):
        if not (isinstance(pressure, str) or hasattr(pressure, "value_in_unit")):
            raise UnitError(f"pressure is {pressure!r}; give it with its unit, such as '1 bar'")
        bar = float(in_unit(pressure, "pressure"))
        if not math.isfinite(bar):
            raise ConfigError(f"pressure is {pressure}; expected a finite number")
        if anisotropic is not True and anisotropic is not False:
            raise ConfigError(f"anisotropic is {anisotropic!r}; expected True or False")
        values = {
            "pressure": bar,
            "every": _whole("every", every, 1),
            "anisotropic": anisotropic,
            "step": _share("step", step),
            "adapt": _whole("adapt", adapt, 0),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def due(self, steps: int) -> bool:
        """Whether a move follows the last of so many steps."""
        return steps % self.every == 0


@dataclass
class VolumeMoves:
    """Where a run at constant pressure stands, and what it draws.

    Parameters
    ----------
    barostat : MonteCarloBarostat

    Attributes
    ----------
    steps : list of float
        δ of all cell vectors together, or of each.
    tried, accepted : list of int
        Moves, likewise.
    """

    barostat: MonteCarloBarostat
    steps: list[float] = field(init=False)
    tried: list[int] = field(init=False)
    accepted: list[int] = field(init=False)

    def __post_init__(self) -> None:
        kinds = 3 if self.barostat.anisotropic else 1
        self.steps, self.tried, self.accepted = [self.barostat.step] * kinds, [0] * kinds, [0] * kinds

    @property
    def adapts(self) -> bool:
        """Whether δ is still adapted."""
        return min(self.tried) < self.barostat.adapt

    def propose(self, rng: np.random.Generator) -> tuple[int, float, np.ndarray]:
        """Which δ, the change of ln V, and the factor of each cell vector, shape (3,); ``rng`` is advanced."""
        kind = int(rng.integers(3)) if self.barostat.anisotropic else 0
        change = self.steps[kind] * (2.0 * rng.random() - 1.0)
        factors = np.full(3, math.exp(change / 3.0))
        if self.barostat.anisotropic:
            factors = np.ones(3)
            factors[kind] = math.exp(change)
        return kind, change, factors

    def accept(
        self,
        kind: int,
        change: float,
        energy: float,
        *,
        volume: float,
        atoms: int,
        kelvin: float,
        rng: np.random.Generator,
    ) -> bool:
        """Whether a proposed move is accepted; counted, and δ adapted.

        Parameters
        ----------
        kind, change : int and float
            Of :meth:`propose`.
        energy : float
            Change of the potential energy, amu Å²/ps²; what is not finite is rejected.
        volume : float
            Before the move, Å³.
        atoms : int
            N.
        kelvin : float
        rng : numpy.random.Generator
            Advanced.
        """
        work = energy + self.barostat.pressure * BAR * volume * math.expm1(change)
        exponent = (atoms + 1) * change - work / (BOLTZMANN * kelvin)
        chance = math.exp(min(0.0, exponent)) if math.isfinite(exponent) else 0.0
        accepted = bool(rng.random() < chance)
        if self.tried[kind] < self.barostat.adapt:
            gain = _WIDE / (_WIDE + self.tried[kind])
            step = self.steps[kind] * math.exp(gain * (chance - _WANTED))
            self.steps[kind] = min(max(step, _SMALLEST), _LARGEST)
        self.tried[kind] += 1
        self.accepted[kind] += accepted
        return accepted

    def place(self) -> dict[str, Any]:
        """Where the run stands, as JSON can hold it."""
        return {"steps": [*self.steps], "tried": [*self.tried], "accepted": [*self.accepted]}

    def take(self, place: Any) -> None:
        """Undo :meth:`place`.

        Raises
        ------
        CheckpointError
            If it is none of such a barostat.
        """
        found = {}
        for name, kinds in (("steps", (int, float)), ("tried", int), ("accepted", int)):
            values = restart_value(place, name, list)
            if len(values) != len(self.steps):
                raise CheckpointError(
                    f"{name} of the barostat in the restart file are {len(values)}, expected {len(self.steps)}: it is "
                    "damaged"
                )
            found[name] = [restart_value({name: value}, name, kinds, least=0) for value in values]
        self.steps, self.tried, self.accepted = found["steps"], found["tried"], found["accepted"]


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ConfigError(f"{name} is {value!r}; expected a whole number >= {least}")
    return int(value)


def _share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not 0 < value <= _LARGEST:
        raise ConfigError(f"{name} is {value!r}; expected a change of ln V, 0 < {name} <= {_LARGEST}")
    return float(value)
