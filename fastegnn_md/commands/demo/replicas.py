"""A cycle inside OpenMM, drawn jumps and classical steps, for many replicas: alanine dipeptide in implicit water."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
from openmm import LangevinMiddleIntegrator, Platform, System, unit
from openmm import app as openmm_app

from ..._progress import progress_bar
from ...data import load_universe
from ...integrators import LearnedIntegrator, LearnedSimulation, Schedule, SimulationEnsemble
from ...propagator import Propagator, load
from ...propagator.catalogue import Catalogue
from ...report.page import Table
from ...validation import TorsionBasins
from .records import COLOURS, DemoSettings, Pace, StepResult, now

MODEL = "ala2-obc-10ps"
FORCE_FIELD = ("amber99sbildn.xml", "amber99_obc.xml")
TEMPERATURE, FRICTION, STEP = 300.0, 1.0, 0.002  # K, 1/ps, ps
SETTLING = 0.2  # share of the jumps of a replica, from frames of a short run
# Shares of basins in two classical runs of 80 ns, and standard errors: docs/generative.md.
REFERENCE = {"C5": (0.279, 0.007), "C7eq": (0.290, 0.007), "alphaR": (0.410, 0.010)}


def replicas(output: Path, settings: DemoSettings, *, progress: bool) -> StepResult:
    """One classical run, and replicas that start from its frames and jump 10 ps at a time."""
    pdb = openmm_app.PDBFile(str(Catalogue().start(MODEL)))
    with open(output / "ala2.pdb", "w", encoding="utf-8") as file:
        openmm_app.PDBFile.writeFile(pdb.topology, pdb.positions, file)
    system = openmm_app.ForceField(*FORCE_FIELD).createSystem(
        pdb.topology, nonbondedMethod=openmm_app.NoCutoff, constraints=openmm_app.HBonds, removeCMMotion=False
    )
    platform = Platform.getPlatformByName("Reference")  # the fastest one for so few atoms
    classical = _classical(pdb, system, platform, output, settings, progress=progress)
    universe = load_universe(output / "ala2.pdb", output / "ala2.dcd")
    propagator = load(MODEL)
    learned, simulations = _jumps(universe, propagator, pdb, system, platform, output, settings, progress=progress)

    names = [output / f"ala2-{k:02d}.dcd" for k in range(settings.replicas)]
    basins = {
        "classical": TorsionBasins(universe).run(),
        "learned": TorsionBasins([load_universe(output / "ala2.pdb", name) for name in names]).run(
            start=int(SETTLING * settings.replica_jumps)
        ),
    }
    shares = {
        name: dict(zip(found.results.names, found.results.populations[0], strict=True))
        for name, found in basins.items()
    }
    errors = dict(zip(basins["learned"].results.names, basins["learned"].results.errors[0], strict=True))
    angles = {name: np.concatenate(found.results.angles) for name, found in basins.items()}
    tried = sum(one.integrator.statistics.tried for one in simulations)
    redrawn = sum(one.integrator.statistics.redraws for one in simulations)
    found = ", ".join(f"{name} {shares['learned'][name]:.2f} ± {errors[name]:.2f}" for name in REFERENCE)
    wanted = ", ".join(f"{share:.2f}" for share, _ in REFERENCE.values())
    return StepResult(
        name="a cycle inside OpenMM",
        system="alanine dipeptide, 22 atoms, amber99sbildn in implicit water",
        classical=classical,
        learned=learned,
        physics=f"shares of {found} ({wanted} in two long classical runs)",
        draw=lambda axes: _draw(axes, angles, classical, learned),
        reading="The two backbone angles of the molecule in each frame: crowded places are shapes that it likes, and "
        "both colours should crowd in the same places.",
        paragraphs=[
            f"Nothing is trained: {MODEL} comes with the package. A jump draws the molecule {propagator.timestep:g} ps "
            f"later, and 50 classical steps of the Context relax it; {settings.replicas} replicas share each call of "
            "the network. The time of all of them is counted.",
            f"{tried} jumps, {redrawn} draws refused and drawn anew. One replica alone is about half as fast.",
        ],
        tables=[_table(shares, errors)],
    )


def _classical(
    pdb: openmm_app.PDBFile, system: System, platform: Platform, output: Path, settings: DemoSettings, *, progress: bool
) -> Pace:
    """Langevin dynamics, a frame every ps."""
    integrator = LangevinMiddleIntegrator(
        TEMPERATURE * unit.kelvin, FRICTION / unit.picosecond, STEP * unit.picoseconds
    )
    integrator.setRandomNumberSeed(settings.seed + 1)  # zero means a random seed to OpenMM
    simulation = openmm_app.Simulation(pdb.topology, system, integrator, platform)
    simulation.context.setPositions(pdb.positions)
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(TEMPERATURE * unit.kelvin, settings.seed + 1)
    per_ps = round(1 / STEP)
    simulation.step(10 * per_ps)
    simulation.reporters.append(openmm_app.DCDReporter(str(output / "ala2.dcd"), per_ps))
    begun = now()
    for _ in progress_bar(range(settings.classical_ps), desc="classical", unit="ps", disable=not progress):
        simulation.step(per_ps)
    pace = Pace.since(begun, float(settings.classical_ps))
    simulation.reporters.clear()  # closes the file
    return pace


def _jumps(
    universe: mda.Universe,
    propagator: Propagator,
    pdb: openmm_app.PDBFile,
    system: System,
    platform: Platform,
    output: Path,
    settings: DemoSettings,
    *,
    progress: bool,
) -> tuple[Pace, list[LearnedSimulation]]:
    """Replicas that start from frames of a trajectory, and a DCD file of each."""
    simulations = []
    for k, frame in enumerate(np.linspace(0, len(universe.trajectory) - 1, settings.replicas).astype(int)):
        integrator = LearnedIntegrator(
            propagator, temperature=TEMPERATURE, seed=settings.seed + k, schedule=Schedule(classical=STEP)
        )
        one = LearnedSimulation(pdb.topology, system, integrator, platform)
        one.context.setPositions(0.1 * universe.trajectory[frame].positions.astype(float))
        one.reporters.append(openmm_app.DCDReporter(str(output / f"ala2-{k:02d}.dcd"), 1))
        simulations.append(one)
    ensemble = SimulationEnsemble(simulations)
    begun = now()
    ensemble.step(settings.replica_jumps, progress=progress)
    pace = Pace.since(begun, sum(one.context.getTime().value_in_unit(unit.picosecond) for one in simulations))
    for one in simulations:
        one.reporters.clear()  # closes the file
    return pace, simulations


def _draw(axes: Any, angles: dict[str, np.ndarray], classical: Pace, learned: Pace) -> None:
    for name, pace in (("learned", learned), ("classical", classical)):
        in_a_minute = 60 / pace.seconds_per_ns
        said = f"{name}: {in_a_minute:.1f} ns per minute"
        axes.scatter(*angles[name].T, s=3, linewidths=0, color=COLOURS[name], label=said)
    axes.set(xlim=(-180, 180), ylim=(-180, 180), xlabel="φ / degrees", ylabel="ψ / degrees")
    axes.set_title("alanine dipeptide: torsions")
    axes.legend(loc="upper right", markerscale=4)


def _table(shares: dict[str, dict[str, float]], errors: dict[str, float]) -> Table:
    rows = [
        [
            name,
            f"{shares['classical'][name]:.3f}",
            f"{shares['learned'][name]:.3f} ± {errors[name]:.3f}",
            "{:.3f} ± {:.3f}".format(*REFERENCE[name]) if name in REFERENCE else "",
        ]
        for name in shares["learned"]
    ]
    caption = (
        "Shares of the basins of φ and ψ. The classical run is too short to tell them; the last column is two runs of "
        "80 ns (docs/generative.md). Of αL and C7ax, which are rare, neither run of the demo says anything."
    )
    return Table(["basin", "classical", "learned", "two long classical runs"], rows, caption)
