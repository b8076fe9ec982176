"""A trajectory that MDAnalysis reads, and a propagator trained on it: copper."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
from ase import Atoms, units
from ase.calculators.emt import EMT
from ase.io import iread
from ase.md.bussi import Bussi
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from MDAnalysis.analysis.rdf import InterRDF

from ..._progress import progress_bar
from ...data import TrajectoryPairs, load_universe
from ...data.topology import quiet
from ...engines.mdanalysis import RolloutWriter
from ...integrators import JumpStatistics, LearnedDynamics, VelocityRescaling
from ...propagator import Propagator
from ...propagator.catalogue import Catalogue
from ...propagator.config import PropagatorConfig
from ...report.page import Table
from ...training import TrainingConfig, fit
from ...training.one_step import Errors, one_step_errors, ratios
from .records import COLOURS, DemoSettings, Pace, StepResult, energy_change, now
from .temperatures import Kelvin, temperatures

TEMPERATURE, TAU = 600.0, 0.5  # K, ps
STEP, FRAME, LAG = 5, 20, 40  # fs


def copper(output: Path, settings: DemoSettings, *, progress: bool) -> StepResult:
    """Train on a trajectory of EMT, and go on with jumps."""
    classical = _trajectory(output, settings, progress=progress)
    universe = load_universe(output / "copper.pdb", output / "copper.trr")
    begun = time.perf_counter()
    propagator, errors = _trained(universe, output, settings, progress=progress)
    training = time.perf_counter() - begun
    learned, dynamics = _jumps(universe, propagator, output, settings, progress=progress)
    jumped = load_universe(output / "copper.pdb", output / "copper-learned.trr")
    kelvin = {"classical": temperatures(universe), "learned": temperatures(jumped)}
    shells = {"classical": _rdf(universe), "learned": _rdf(jumped)}
    difference = float(np.abs(shells["learned"][1] - shells["classical"][1]).mean())
    result = StepResult(
        name="a trajectory and MDAnalysis",
        system="copper, 108 atoms, EMT of ASE",
        classical=classical,
        learned=learned,
        learning=classical.seconds + training,
        physics=f"mean difference of g(r) {difference:.3f}, temperature {_said(kelvin['learned'])} "
        f"(classical {_said(kelvin['classical'])})",
        draw=lambda axes: _draw(axes, shells),
        reading="How many neighbours an atom has at a distance r, over those of an even spread: the two lines should "
        "lie on each other.",
        tables=[_errors_table(errors), _temperature_table(kelvin)],
    )
    statistics, worse = dynamics.statistics, max(ratios(errors).values())
    pays = result.pays_after_ps
    result.paragraphs.extend(
        [
            f"A trajectory of {classical.ps:g} ps with velocities, a frame every {FRAME} fs (velocity Verlet, "
            f"{STEP} fs, velocity rescaling at {TEMPERATURE:g} K), was read by MDAnalysis. {settings.updates} updates "
            f"taught a propagator of {LAG} fs that needs no forces; its error on the last tenth of the trajectory is "
            f"{worse:.3f} of that of the best predictor that learns nothing.",
            f"It then made {statistics.tried} jumps under the same thermostat; guards refused "
            f"{sum(statistics.rejected.values())}. {_audited(statistics)}",
            f"Trajectory and training took {result.learning:.0f} s. "
            + (
                f"At {result.gain:.1f} times the speed of classical steps that is paid back after {pays:.0f} ps."
                if pays is not None
                else "Jumps are slower than the classical steps here: it is never paid back."
            ),
        ]
    )
    return result


def _trajectory(output: Path, settings: DemoSettings, *, progress: bool) -> Pace:
    """Classical dynamics, as a user has it: a topology, and frames with velocities."""
    rng = np.random.default_rng(settings.seed)
    atoms = next(iread(Catalogue().start("copper-emt")))
    atoms.calc = EMT()
    thermalize_momenta(atoms, 2 * TEMPERATURE, rng=rng)  # half of it goes into the lattice
    Stationary(atoms)
    options: dict[str, Any] = {"temperature_K": TEMPERATURE, "rng": rng}
    Bussi(atoms, STEP * units.fs, taut=100 * units.fs, **options).run(200)
    with quiet():
        atoms.write(output / "copper.pdb")
    dynamics = Bussi(atoms, STEP * units.fs, taut=1000 * TAU * units.fs, **options)
    begun = now()
    with RolloutWriter(output / "copper.trr") as writer:
        for frame in progress_bar(range(settings.frames), desc="classical", unit="frame", disable=not progress):
            dynamics.run(FRAME // STEP)
            writer.write(atoms, time=1e-3 * FRAME * (frame + 1))
    return Pace.since(begun, 1e-3 * FRAME * settings.frames)


def _trained(
    universe: mda.Universe, output: Path, settings: DemoSettings, *, progress: bool
) -> tuple[Propagator, dict[str, Errors]]:
    """A propagator, and its errors on pairs of the end of the trajectory."""
    pairs = TrajectoryPairs(universe, lag=f"{LAG} fs", time_reversal=True, progress=progress)
    train, validation, test = pairs.split((0.85, 0.05, 0.1))
    config = TrainingConfig(
        propagator=PropagatorConfig(cutoff=4.0, virtual_nodes=1, use_bonds=False),
        updates=settings.updates,
        batch_size=4,
        validate_every=max(1, settings.updates // 4),
        validation_pairs=32,
        checkpoint_every=settings.updates,
        seed=settings.seed,
    )
    propagator = fit(train, validation, config, output / "copper.safetensors", progress=progress).propagator
    return propagator, one_step_errors(propagator, test)


def _jumps(
    universe: mda.Universe, propagator: Propagator, output: Path, settings: DemoSettings, *, progress: bool
) -> tuple[Pace, LearnedDynamics]:
    """Learned dynamics from the last frame of the trajectory."""
    atoms = _atoms(universe)
    atoms.calc = EMT()  # for audits, and in place of jumps that guards refuse
    dynamics = LearnedDynamics(atoms, propagator, thermostat=VelocityRescaling(TEMPERATURE, TAU), rng=settings.seed + 1)
    dynamics.run(1)  # what is compiled or kept for later is not timed
    begun = now()
    with RolloutWriter(output / "copper-learned.trr") as writer:
        for jump in progress_bar(range(settings.copper_jumps), desc="jumps", unit="jump", disable=not progress):
            dynamics.run(1)
            writer.write(atoms, time=1e-3 * LAG * (jump + 1))
    return Pace.since(begun, 1e-3 * LAG * settings.copper_jumps), dynamics


def _atoms(universe: mda.Universe) -> Atoms:
    """The last frame, for ASE."""
    frame = universe.trajectory[-1]
    atoms = Atoms(universe.atoms.elements, frame.positions.astype(float), cell=frame.dimensions, pbc=True)
    atoms.set_velocities(frame.velocities.astype(float) / (1000 * units.fs))
    return atoms


def _rdf(universe: mda.Universe) -> tuple[np.ndarray, np.ndarray]:
    found = InterRDF(universe.atoms, universe.atoms, nbins=90, range=(1.8, 5.4), exclusion_block=(1, 1)).run()
    return found.results.bins, found.results.rdf


def _draw(axes: Any, shells: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for (name, (radius, values)), style in zip(shells.items(), ("-", "--"), strict=True):
        axes.plot(radius, values, style, color=COLOURS[name], label=name)
    axes.set(xlabel="r / Å", ylabel="g(r)", title="copper: distances of atoms")
    axes.legend()


def _said(kelvin: dict[str, Kelvin]) -> str:
    return str(kelvin["Cu"])


def _audited(statistics: JumpStatistics) -> str:
    change = energy_change(statistics)
    return f"After {statistics.audits} of them EMT was asked: the total energy changed by {change} kT per jump."


def _errors_table(errors: dict[str, Errors]) -> Table:
    rows = [[name, error.x, error.v] for name, error in errors.items()]
    caption = (
        "Root-mean-square error of one jump on frames not trained on, mass-scaled, beside zero motion, free flight and "
        "the best linear predictor."
    )
    return Table(["predictor", "x, amu^½ Å", "v, amu^½ Å/ps"], rows, caption)


def _temperature_table(kelvin: dict[str, dict[str, Kelvin]]) -> Table:
    rows = [[name, str(found["Cu"])] for name, found in kelvin.items()]
    return Table(["run", "temperature"], rows, "Mean and standard error, of eight blocks.")
