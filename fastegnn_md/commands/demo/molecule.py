"""An engine behind ASE that costs something, and a model that is shipped: aspirin with GFN2-xTB."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.io import iread
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from ..._extras import naming_extras
from ..._progress import progress_bar
from ...data import load_universe
from ...integrators import LearnedDynamics
from ...propagator import load
from ...propagator.catalogue import Catalogue
from ...report.page import Table
from .records import COLOURS, DemoSettings, Pace, StepResult, energy_change, now
from .temperatures import Kelvin, temperatures

MODEL = "organic-xtb-4fs"
TEMPERATURE, FRICTION = 350.0, 10.0  # K, 1/ps
STEP, EVERY = 1, 4  # fs, steps between frames
_PIECE = 10  # steps between two states of a bar


def molecule(output: Path, settings: DemoSettings, *, progress: bool) -> StepResult:
    """Classical Langevin dynamics, and jumps of a model that has never seen the molecule."""
    with naming_extras("the demo"):
        from tblite.ase import TBLite

    rng = np.random.default_rng(settings.seed)
    atoms = next(iread(Catalogue().start(MODEL)))
    atoms.write(output / "aspirin.xyz")
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    thermalize_momenta(atoms, 2 * TEMPERATURE, rng=rng)  # half of it goes into the bonds
    propagator = load(MODEL)
    thermostat: dict[str, Any] = {"temperature_K": TEMPERATURE, "friction": FRICTION / (1000 * units.fs), "rng": rng}

    with Langevin(
        atoms, STEP * units.fs, fixcm=False, trajectory=str(output / "aspirin.traj"), loginterval=EVERY, **thermostat
    ) as classical:
        before = _timed(classical.run, settings.molecule_steps, 1e-3 * STEP, "classical", "step", progress=progress)
    with LearnedDynamics(atoms, propagator, trajectory=output / "aspirin-learned.traj", **thermostat) as learned:
        after = _timed(learned.run, settings.molecule_jumps, propagator.timestep, "jumps", "jump", progress=progress)

    kelvin = {
        "classical": _kelvin(output, "aspirin.traj", skip=0.25),  # the thermostat settles
        "learned": _kelvin(output, "aspirin-learned.traj"),
    }
    audited = f"the total energy changed by {energy_change(learned.statistics)} kT per jump"
    refused = sum(learned.statistics.rejected.values())
    jump_fs = 1000 * propagator.timestep
    return StepResult(
        name="an engine behind ASE",
        system=f"aspirin, {len(atoms)} atoms, GFN2-xTB of tblite",
        classical=before,
        learned=after,
        physics=f"{audited}; temperature " + ", ".join(f"{name} {one}" for name, one in kelvin["learned"].items()),
        draw=lambda axes: _draw(axes, kelvin),
        reading="The temperature of the atoms of each element, which should be that of the thermostat (grey line) "
        "within the error bars: where elements are apart, energy goes from one motion to another in a wrong way.",
        paragraphs=[
            f"Nothing is trained: {MODEL} comes with the package and has never seen aspirin. One call of xTB in the "
            f"middle of each jump of {jump_fs:g} fs takes the place of those of {jump_fs / STEP:g} classical steps of "
            f"{STEP} fs. With steps of 0.5 fs, of which the model was trained, the gain would be twice as large.",
            f"{learned.statistics.tried} jumps, {refused} refused. After {learned.statistics.audits} of them, drawn by "
            f"chance, xTB was asked: {audited}. True dynamics would leave it as it is.",
        ],
        tables=[_table(kelvin)],
    )


def _timed(run: Callable[[int], Any], steps: int, step: float, desc: str, unit: str, *, progress: bool) -> Pace:
    """So many steps of some ps, after one that is not timed."""
    run(1)
    begun = now()
    with progress_bar(total=steps, desc=desc, unit=unit, disable=not progress) as bar:
        for done in range(0, steps, _PIECE):
            run(count := min(_PIECE, steps - done))
            bar.update(count)
    return Pace.since(begun, steps * step)


def _kelvin(output: Path, name: str, skip: float = 0.0) -> dict[str, Kelvin]:
    return temperatures(load_universe(output / "aspirin.xyz", output / name, dt=1e-3 * EVERY * STEP), skip)


def _draw(axes: Any, kelvin: dict[str, dict[str, Kelvin]]) -> None:
    for offset, (name, found) in zip((-0.1, 0.1), kelvin.items(), strict=True):
        places = np.arange(len(found)) + offset
        values = list(found.values())
        means, errors = [one.mean for one in values], [one.error for one in values]
        axes.errorbar(places, means, errors, fmt="o", color=COLOURS[name], label=name)
    axes.axhline(TEMPERATURE, color="grey", linewidth=0.8)
    axes.set(ylabel="temperature / K", title="aspirin: temperature of each element")
    axes.set_xticks(range(len(found)), list(found))
    axes.figure.legend(loc="outside right upper")


def _table(kelvin: dict[str, dict[str, Kelvin]]) -> Table:
    elements = list(kelvin["learned"])
    rows = [[name, *(str(found[element]) for element in elements)] for name, found in kelvin.items()]
    return Table(["run", *elements], rows, "Temperature of each element, mean and standard error of eight blocks.")
