"""What a run was like, in plain words: temperatures of elements, refusals, audits, and whether to trust it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.mechanics.thermal import thermal_velocities
from fastegnn_md.propagator.provenance import symbol_of
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN

from .audits import Audits
from .statistics import JumpStatistics

_DRAWS = 20_000  # of velocities of atoms, for degrees of freedom of elements: 1 % for one atom of a molecule of 22
_BLOCKS = 8  # of a half of the run, whose means give the error of its mean
_FEWEST = 50  # frames from which temperatures can be judged closely
_FAR = 3.0  # times the temperature: judged in fewer frames
_FEWEST_AUDITS = 20  # from which heating can be judged
_REFUSED = 0.1  # share of jumps
_OFF = 0.1  # share of the temperature
_APART = 0.15  # share of the temperature between elements
_SURE = 3.0  # standard errors


@dataclass
class RunWatch:
    """Keeps the kinetic energies of the elements during a run.

    Parameters
    ----------
    state : State
        The system at the beginning.
    freedom : Freedom
        What constraints and conserved momenta leave.
    temperature : float, optional
        K, of the thermostat; None in NVE.
    """

    state: State
    freedom: Freedom
    temperature: float | None = None
    _degrees: dict[int, float] = field(init=False)
    _kinetic: list[list[float]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._degrees = degrees_of_elements(self.state, self.freedom)

    def record(self, velocities: Tensor) -> None:
        """Velocities in Å/ps of a frame, (N, 3), or of one of each replica, (R, N, 3), whose mean is kept."""
        each = 0.5 * self.state.masses.double() * velocities.double().square().sum(-1)
        sums = [each[..., self.state.numbers == number].sum(-1) for number in self._degrees]
        self._kinetic.append([float(one.mean()) for one in sums])

    def verdict(self, statistics: JumpStatistics, *audits: Audits | None) -> RunVerdict:
        """What the run was like, from what was recorded and counted; with the audits of each replica."""
        frames = np.array(self._kinetic).reshape(-1, len(self._degrees))
        middle = len(frames) // 2  # a single frame is of the second half, which is judged
        means = [self._means(half) for half in (frames[:middle], frames[middle:])]
        return RunVerdict(
            means[0],
            means[1],
            statistics,
            self.temperature,
            sum(one.strikes for one in audits if one is not None),
            len(frames),
            sum(self._degrees.values()),
        )

    def _means(self, kinetic: np.ndarray) -> dict[str, tuple[float, float]]:
        """Temperature of each element and of all, and its standard error, K; nan of a half without frames."""
        names = [*(symbol_of(number) for number in self._degrees), "all"]
        if not len(kinetic):
            return dict.fromkeys(names, (math.nan, math.nan))
        degrees = np.array([*self._degrees.values()])
        columns = np.concatenate([kinetic, kinetic.sum(axis=1, keepdims=True)], axis=1)
        kelvin = 2 * columns / (np.append(degrees, degrees.sum()) * BOLTZMANN)
        blocks = np.array([block.mean(axis=0) for block in np.array_split(kelvin, min(_BLOCKS, max(1, len(kelvin))))])
        error = (
            blocks.std(axis=0, ddof=1) / math.sqrt(len(blocks))
            if len(blocks) > 1
            else np.full(len(degrees) + 1, np.inf)
        )
        return {name: (float(t), float(e)) for name, t, e in zip(names, kelvin.mean(axis=0), error, strict=True)}


@dataclass(frozen=True)
class RunVerdict:
    """What a run was like.

    Attributes
    ----------
    first, second : dict of str to (float, float)
        Temperature in K and its standard error of each element, and of ``"all"``, in both halves of the run.
    statistics : JumpStatistics
    temperature : float or None
        K, of the thermostat.
    strikes : int
        How often audits were out of bounds.
    frames : int
        Recorded; in fewer than fifty temperatures are judged only where they are far too high.
    degrees : float
        Of freedom, which say how far the temperature of a single frame may be.
    """

    first: dict[str, tuple[float, float]]
    second: dict[str, tuple[float, float]]
    statistics: JumpStatistics
    temperature: float | None
    strikes: int = 0
    frames: int = 0
    degrees: float = math.inf

    @property
    def lines(self) -> list[str]:
        """For people: temperatures and audits."""
        halves = (", ".join(f"{name} {t:.0f}" for name, (t, _) in half.items()) for half in (self.first, self.second))
        lines = ["temperature in the first half: {} K; in the second: {} K".format(*halves)]
        if self.statistics.audits:
            mean, error = self.statistics.energy_change
            within = "" if math.isnan(error) else f" ± {error:.1g}"
            line = f"audits: {self.statistics.audits} jumps, total energy changed by {mean:.2g}{within} kT per jump"
            hotter, unsure = self.statistics.heating
            if math.isfinite(hotter + unsure):
                line += (
                    f", which with this thermostat makes {100 * hotter:+.1f} ± {100 * unsure:.1f} % of its temperature"
                )
            lines.append(line)
        return lines

    @property
    def warnings(self) -> list[str]:
        """Reasons not to trust the run, in plain words; none if it looks well."""
        found = []
        refused = sum(self.statistics.rejected.values())
        if self.statistics.tried and refused > _REFUSED * self.statistics.tried:
            by = max(self.statistics.rejected, key=lambda guard: self.statistics.rejected[guard])
            found.append(
                f"{refused} of {self.statistics.tried} jumps were refused, most by the {by} guard: the model is not at "
                "home in this system or state"
            )
        if self.statistics.too_many_redraws:
            found.append(self.statistics.of_redraws)
        if self.strikes:
            found.append(f"audits were out of bounds {self.strikes} times: jumps changed the total energy")
        hotter, unsure = self.statistics.heating
        if self.statistics.audits >= _FEWEST_AUDITS and abs(hotter) > _OFF + _SURE * unsure:
            found.append(
                f"jumps keep the system {100 * abs(hotter):.0f} % {'hotter' if hotter > 0 else 'colder'} than its "
                "thermostat, say the audits: take more friction, or a model with a smaller error"
            )
        found += self._temperatures()
        return found

    def _temperatures(self) -> list[str]:
        kelvin, error = self.second["all"]
        target = self.temperature
        if target is None:  # NVE: the first half is what the second should be
            target, before = self.first["all"]
            error = math.hypot(error, before)
        found, few = [], self.frames < _FEWEST
        off = self._is_far(kelvin, target) if few else abs(kelvin - target) > _OFF * target + _SURE * error
        if off or (self.frames and not math.isfinite(kelvin)):
            wanted = "in the first half" if self.temperature is None else "asked for"
            found.append(f"the temperature of the second half is {kelvin:.0f} K, {target:.0f} K {wanted}")
        elements = {name: value for name, value in self.second.items() if name != "all"}
        if not few and len(elements) > 1:
            hot, cold = max(elements, key=lambda n: elements[n][0]), min(elements, key=lambda n: elements[n][0])
            (high, e1), (low, e2) = elements[hot], elements[cold]
            if high - low > _APART * kelvin + _SURE * math.hypot(e1, e2):
                found.append(f"elements are apart in the second half: {hot} {high:.0f} K, {cold} {low:.0f} K")
        return found

    def _is_far(self, kelvin: float, target: float) -> bool:
        """Whether a temperature is above the other by a factor that frames, which may be as one, do not have by chance.

        ln T of a frame scatters by √(2/f), f degrees of freedom. The other way says nothing in a few frames: motion
        that begins in a minimum soon has most of its energy as potential energy.
        """
        if not (self.degrees > 0 and 0 < kelvin < math.inf and target > 0):  # a single frame has nothing before it
            return False
        return math.log(kelvin / target) > math.log(_FAR) + _SURE * math.sqrt(2 / self.degrees)


def degrees_of_elements(state: State, freedom: Freedom, seed: int = 0) -> dict[int, float]:
    """Degrees of freedom of the atoms of each element, which add up to those of the system.

    ⟨m v²⟩ / kT of thermal velocities without what constraints forbid and conserved momenta take, over many draws.
    """
    rng, masses = np.random.default_rng(seed), state.masses.double()
    unit = 1.0 / BOLTZMANN  # K: kT is 1
    total = torch.zeros(state.n_atoms, dtype=torch.float64)
    draws = max(4, _DRAWS // state.n_atoms)
    for _ in range(draws):
        velocities = thermal_velocities(masses, unit, rng)
        velocities = freedom.project(state, velocities.masked_fill(freedom.constraints.frozen[:, None], 0.0))
        conserved = freedom.conserved(state.replace(velocities=velocities))
        if conserved is not None:
            velocities = velocities - conserved
        total += masses * velocities.square().sum(1)
    found = {n: float(total[state.numbers == n].sum()) / draws for n in state.numbers.unique().tolist()}
    exact = freedom.degrees(state)
    scale = exact / sum(found.values()) if exact > 0 else 1.0
    return {number: scale * degrees for number, degrees in found.items() if degrees > 1e-6}
