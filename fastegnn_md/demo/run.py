"""The whole path on alanine dipeptide: reference, harvest, training, learned dynamics and a report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .._extras import naming_extras
from .._progress import progress_bar
from ..mechanics.thermal import temperature_per_element
from ..propagator.base import Propagator
from ..state import State
from ..training.one_step import one_step_errors, ratios
from .records import DemoResult, DemoSettings, LearnedRun

if TYPE_CHECKING:
    import MDAnalysis as mda

    from ..data import TrajectoryPairs
    from .system import AlanineDipeptide


def run_demo(output: str | Path, settings: DemoSettings | None = None, *, progress: bool = True) -> Path:
    """Run the demo.

    Parameters
    ----------
    output : path
        Folder for all files; made if it is missing. Files of an earlier run are replaced.
    settings : DemoSettings, optional
    progress : bool
        Show progress bars.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    MissingDependencyError
        If OpenMM, ASE, Lightning or matplotlib is missing.
    """
    settings = DemoSettings() if settings is None else settings
    with naming_extras("the demo"):  # named here, before minutes of work
        import ase  # noqa: F401
        import lightning  # noqa: F401
        import matplotlib  # noqa: F401
        import openmm  # noqa: F401
    import MDAnalysis as mda

    from ..data.topology import quiet
    from .report import write_demo_report
    from .system import AlanineDipeptide
    from .training import KINDS, read_history, train_both

    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    result, system = DemoResult(settings), AlanineDipeptide()
    with result.stage("classical reference"):
        result.reference_energy = system.write_reference(output / "reference.dcd", settings, progress=progress)
        system.write_topology(output / "topology.pdb")
    with quiet():
        universe = mda.Universe(system.topology, str(output / "reference.dcd"))
    with result.stage("harvest of short NVE bursts"):
        pairs = _harvest(universe, system, output / "bursts.h5md", settings, progress=progress)
    train, validation, held_out = pairs.split(settings.split)
    result.pairs = {"training": len(train), "validation": len(validation), "held out": len(held_out)}
    with result.stage("training of both propagators, one core each"):
        train_both(pairs.stores[0].path, output, settings, progress=progress)
    propagators = {name: Propagator.load(output / f"{name}.safetensors") for name in KINDS}
    result.histories = {name: read_history(output, name) for name in KINDS}
    with result.stage("errors on held-out bursts"):
        for name, propagator in propagators.items():
            result.errors[name] = one_step_errors(propagator, held_out, progress=progress)
    result.chosen = min(result.errors, key=lambda name: ratios(result.errors[name])["v"])
    propagator = propagators[result.chosen]
    with result.stage("learned Langevin dynamics"), _one_thread():
        result.run = learned_run(system, propagator, held_out, output / "learned.xtc", settings, progress=progress)
    with result.stage("speed of classical dynamics"):
        result.classical_ms = system.classical_ms(settings, propagator.timestep)
    write_demo_report(output / "report.html", result, universe)
    return output / "report.html"


@contextmanager
def _one_thread() -> Iterator[None]:
    """A second thread makes the jump of a small molecule slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _harvest(
    universe: mda.Universe, system: AlanineDipeptide, path: Path, settings: DemoSettings, *, progress: bool
) -> TrajectoryPairs:
    from ..data import TrajectoryPairs
    from ..harvest import harvest

    path.unlink(missing_ok=True)
    harvest(
        universe,
        system.system,
        store=path,
        burst=settings.burst,
        interval=settings.lag,
        midpoint=settings.lag,
        temperature=settings.temperature,
        seed=settings.seed,
        processes=2,
        progress=progress,
    )
    return TrajectoryPairs(path, lag=settings.lag, time_reversal=True)


def learned_run(
    system: AlanineDipeptide,
    propagator: Propagator,
    held_out: TrajectoryPairs,
    trajectory: Path,
    settings: DemoSettings,
    *,
    progress: bool,
    conserve_energy: bool = False,
) -> LearnedRun:
    """Step ASE Atoms from a held-out frame under Langevin half steps."""
    from ase import units

    from ..engines.ase.stepper import state_from_atoms
    from ..engines.mdanalysis import RolloutWriter
    from ..integrators import Conserve, GuardSettings, LearnedDynamics

    atoms = system.atoms(held_out[0][0])
    dynamics = LearnedDynamics(
        atoms,
        propagator,
        temperature_K=settings.temperature,
        friction=settings.friction / (1000 * units.fs),
        rng=settings.seed,
        bonds=system.bonds,
        guard=GuardSettings(audits=0.0),  # a model of minutes fails them; the report shows its energies
        conserve=Conserve(energy=conserve_energy),
    )
    energies, kinetic = [], []
    begun = time.perf_counter()
    with RolloutWriter(trajectory) as writer:
        for _ in progress_bar(
            dynamics.irun(settings.jumps), total=settings.jumps + 1, desc="jumps", disable=not progress
        ):
            energies.append(atoms.get_potential_energy() / (units.kJ / units.mol))
            state = state_from_atoms(atoms, bonds=system.bonds)
            kinetic.append(kinetic_per_atom(state))
            writer.write(state, time=dynamics.nsteps * propagator.timestep)
    seconds = time.perf_counter() - begun
    symbols = np.array(atoms.get_chemical_symbols())
    # Each burst starts from velocities drawn at the temperature of the reference, on the constraints.
    starts = range(0, held_out.n_forward, settings.pairs_per_burst)
    drawn = np.mean([kinetic_per_atom(held_out[index][0]) for index in starts], axis=0)
    return LearnedRun(
        energy=np.array(energies),
        temperature=temperature_per_element(np.mean(kinetic, axis=0), symbols),
        reference_temperature=temperature_per_element(drawn, symbols),
        statistics=dynamics.statistics,
        ms_per_jump=1e3 * seconds / settings.jumps,
        topology=trajectory.with_name("topology.pdb"),
        trajectory=trajectory,
    )


def kinetic_per_atom(state: State) -> np.ndarray:
    """½ m v² of each atom, shape (N,), amu Å²/ps²."""
    return (0.5 * state.masses * state.velocities.square().sum(1)).numpy()
