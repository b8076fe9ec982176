"""Harvest: frames of an existing trajectory are starting points for short bursts at constant energy.

Trajectories are saved every 1 to 100 ps and carry a thermostat's noise; pairs at 5 to 50 fs come from bursts that the
user's own engine runs from those frames. Bursts are written in parts, and the parts are merged into one store.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import MDAnalysis as mda
import numpy as np

from .. import units
from .._files import only_writer
from .._progress import progress_bar
from ..data.frames import keeping_frame, read_frame
from ..data.mirror import MirrorAsymmetry, MirrorWarning, mirror_asymmetry
from ..data.store import Store, write_error
from ..data.store_writer import StoreWriter
from ..data.topology import quiet, select_atoms, static
from ..errors import DataError, EngineError, Remedy
from .bursts import BurstRecipe, BurstRunner, Start
from .parts import Finished
from .plan import BurstPlan, positive_time
from .recipe import burst_recipe
from .starts import StartingPoints
from .workers import Workers, run_bursts

if TYPE_CHECKING:
    from openmm import System

_MIRRORED = 4  # frames whose forces are compared with those of their mirror image


def harvest(
    universe: mda.Universe | mda.AtomGroup,
    engine: System | Callable[[], Any],
    *,
    store: str | os.PathLike[str],
    burst: float | str = "24 fs",
    interval: float | str = "8 fs",
    timestep: float | str = "0.5 fs",
    midpoint: float | str | None = None,
    frames: slice | Sequence[int] | None = None,
    temperature: float | None = None,
    seed: int = 0,
    processes: int | None = None,
    executor: Executor | None = None,
    energy_tolerance: float = 0.02,
    max_failed: float = 0.05,
    constraints: Sequence[Any] = (),
    platform: str | None = None,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Run a short burst at constant energy from each frame of a trajectory and store the bursts as segments.

    Every burst is kept with positions, velocities and forces of the same time (velocity Verlet, RATTLE). The result
    does not depend on who runs them, and a harvest that was killed goes on where it stopped when it is called again:
    every finished burst lies in ``<store>.parts`` until the store is complete. With ``processes`` above 1 worker
    processes are spawned, so a script needs the usual ``if __name__ == "__main__":``. An ``executor`` has its workers
    where it likes, on other machines too; files are read and written by this process alone, and a burst that was lost
    with its worker is run again.

    Parameters
    ----------
    universe : Universe or AtomGroup
        Topology and trajectory in any format MDAnalysis reads; its atoms are those of the engine, in the same order.
    engine : openmm.System or callable
        An OpenMM System without thermostat or barostat, or a function that returns an ASE calculator. The function must
        be importable by other processes (top level of a module, not of a notebook).
    store : path
        The store to write. If it already is the result of this very harvest, nothing is done.
    burst, interval : float or str
        Length of a burst and time between its stored frames, in ps or with a unit; whole multiples.
    timestep : float or str
        Time step of the engine, in ps or with a unit; divides the interval.
    midpoint : float or str, optional
        The lag of propagators of kind "force-midpoint" that are to learn from these bursts, in ps or with a unit:
        forces at x ± v lag/2 are stored too, two more force calls per stored frame.
    frames : slice or sequence of int, optional
        Which frames to start from; all by default.
    temperature : float, K, optional
        Draw velocities from Maxwell–Boltzmann, constraints respected. Default: velocities of the trajectory, which must
        be those of the time of the frame.
    seed : int
        Seed of the velocities; frame k uses the generator of (seed, k).
    processes : int, optional
        Processes to share the work; 1 by default. With an executor: how many tasks it is given at a time, no fewer than
        it has workers; 64 by default.
    executor : concurrent.futures.Executor, optional
        Runs the bursts: that of a dask cluster (``client.get_executor()``), of mpi4py, a pool of threads or processes.
        Its workers need this package and the engine; they build the engine once. It is not shut down.
    energy_tolerance : float
        Largest change of the total energy within a burst per degree of freedom, in units of kT (of ``temperature``, or
        of the burst's own kinetic temperature). Bursts beyond it are dropped and counted.
    max_failed : float
        Share of bursts that may be dropped, because the engine failed in them (no convergence) or they lose energy.
        Beyond it the harvest ends with an error; failed bursts are run again when it is called again.
    constraints : sequence of ase.constraints.FixBondLengths
        Constraints for an ASE engine (an OpenMM System has its own).
    platform : str, optional
        OpenMM platform. Default: Reference for up to 100 atoms, in boxes with right angles if in any, else CPU with one
        thread per process.
    progress : bool
        Show progress bars.
    overwrite : bool
        Replace a store of that name that is not the result of this harvest, once the new one is complete.

    Returns
    -------
    Path
        The store, for :class:`TrajectoryPairs`.

    Raises
    ------
    DataError
        If the frames, the engine and the times do not fit together, the engine cannot be sent to workers, these are
        lost, too many bursts lose energy, or the store cannot be written.
    EngineError
        If the engine fails in too many bursts, or in all by its nature.
    ConstraintError
        If a constraint is not supported.
    OutputError
        If another process is writing this store.

    Warns
    -----
    MirrorWarning
        If the forces change under reflection, as those of CMAP terms do: see :func:`mirror_asymmetry`. Four frames are
        looked at, at two force calls each.
    """
    plan = BurstPlan.make(burst, interval, timestep, temperature, seed)
    lag = None if midpoint is None else positive_time("midpoint", midpoint)
    static(universe)
    workers = Workers.make(processes, executor)
    path = Path(store)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    with only_writer(path), quiet(), keeping_frame(universe.universe.trajectory):
        source = StartingPoints(select_atoms(universe, "all"), frames, temperature, plan.seed)
        recipe = _recipe(source, engine, plan, lag, constraints, platform)
        workers.check(recipe)
        source.adopt(recipe)
        fingerprint = _fingerprint(plan, recipe, source)
        if path.exists() and _is_result(path, fingerprint, energy_tolerance, overwrite):
            return path
        runner = recipe.build()
        about, mirror = runner.about, _compare_with_mirror_images(runner, source)
        if mirror is not None and mirror.matters:
            warnings.warn(mirror.message("forces of the engine"), MirrorWarning, stacklevel=2)
        own = runner if workers.alone else None
        del runner  # workers build theirs, and a GPU has no memory to spare
        done = Finished(
            path,
            fingerprint,
            len(source.frames),
            plan.n_frames,
            source.topology.n_atoms,
            midpoint=lag is not None,
            cells=source.periodic,
        )
        with done:
            _run(done, recipe, source, plan, workers, progress, own, max_failed)
            _merge(done, recipe, source, plan, energy_tolerance, max_failed, fingerprint, mirror, about)
        shutil.rmtree(done.folder, ignore_errors=True)
    return path


def _recipe(
    source: StartingPoints,
    engine: Any,
    plan: BurstPlan,
    midpoint: float | None,
    constraints: Sequence[Any],
    platform: str | None,
) -> BurstRecipe:
    # The one call to a floor above: the public name lives here, the engines' code with the engines.

    x = source.first.positions
    first = Start(positions=x, velocities=np.zeros_like(x), cell=source.first.cell)
    return burst_recipe(
        engine,
        numbers=source.topology.numbers,
        masses=source.topology.masses,
        timestep=plan.timestep,
        first=first,
        midpoint=midpoint,
        platform=platform,
        constraints=constraints,
    )


def _fingerprint(plan: BurstPlan, recipe: BurstRecipe, source: StartingPoints) -> str:
    """SHA-256 of everything that decides the frames of the bursts."""
    digest = hashlib.sha256(repr(plan).encode() + recipe.fingerprint.encode() + repr(source.frames).encode())
    digest.update(source.topology.sha256.encode() + source.first.positions.tobytes())
    last = read_frame(source.atoms, source.frames[-1])
    digest.update(last.positions.tobytes())
    return digest.hexdigest()


def _is_result(path: Path, fingerprint: str, tolerance: float, overwrite: bool) -> bool:
    """Whether a store is the result of this harvest; one that is not may stand there only to be replaced."""
    try:
        known = Store(path).provenance
    except DataError:
        if not overwrite:
            raise
        return False
    if known.get("harvest") == fingerprint and known.get("energy tolerance") == tolerance:
        return True
    if not overwrite:
        raise DataError(
            Remedy(
                f"store {str(path)!r} is there and was made with other frames, another engine or other settings; "
                "choose another name, or replace it: ",
                "overwrite=True",
                "--overwrite",
            )
        )
    return False


def _compare_with_mirror_images(runner: BurstRunner, source: StartingPoints) -> MirrorAsymmetry | None:
    """At a few of the frames, spread over all; two force calls each."""
    chosen = source.frames[:: -(-len(source.frames) // _MIRRORED)]
    points = (source[frame] for frame in chosen)
    found = mirror_asymmetry(runner.forces, ((point.positions, point.cell) for point in points))
    runner.reset()
    return found


def _run(
    done: Finished,
    recipe: BurstRecipe,
    source: StartingPoints,
    plan: BurstPlan,
    workers: Workers,
    progress: bool,
    runner: BurstRunner | None,
    max_failed: float,
) -> None:
    """Run the bursts that are not finished, or failed in an earlier call, and keep each as it comes."""
    times: dict[int, float] = {}
    total = len(source.frames)

    def start(index: int) -> Start:
        point = source[source.frames[index]]
        times[index] = point.time or 0.0
        assert point.velocities is not None  # stored or drawn
        return Start(point.positions, point.velocities, point.cell)

    waiting = [index for index in range(total) if index not in done or done[index]["error"]]
    tried = failed = 0
    with progress_bar(
        total=total, initial=total - len(waiting), desc="harvest", unit="burst", disable=not progress or not waiting
    ) as bar:
        for index, burst in run_bursts(waiting, recipe, start, plan.n_frames, plan.steps_between, workers, runner):
            done.write(index, times.pop(index), burst)
            bar.update()
            tried, failed = tried + 1, failed + bool(burst.error)
            if failed > max_failed * total:  # nobody wants to wait for the others
                raise EngineError(
                    Remedy(
                        f"the engine failed in {failed} of {tried} bursts ({burst.error}); {max_failed:.0%} of "
                        f"{total} may fail and are left out. Start from other frames, mend the engine, or accept more "
                        "failures",
                        f" (max_failed={max_failed:g})",
                        f" (--max-failed {max_failed:g})",
                    )
                )


def _change(burst: np.void, recipe: BurstRecipe, plan: BurstPlan) -> float:
    """Change of the total energy within a burst, kT per degree of freedom; NaN for one that blew up."""
    vectors = [burst[name] for name in ("positions", "forces", "ahead", "behind") if name in (burst.dtype.names or ())]
    energies = burst["energies"]
    if not all(np.isfinite(one).all() for one in (energies, *vectors)):
        return math.nan
    degrees = max(1, 3 * len(recipe.masses) - recipe.n_constraints)
    kinetic = 2.0 * burst["kinetic"] / degrees
    thermal = kinetic if plan.temperature is None else units.BOLTZMANN * plan.temperature
    return float(np.abs(energies - energies[0]).max() / degrees / max(thermal, np.finfo(np.float64).tiny))


def _merge(
    done: Finished,
    recipe: BurstRecipe,
    source: StartingPoints,
    plan: BurstPlan,
    tolerance: float,
    max_failed: float,
    fingerprint: str,
    mirror: MirrorAsymmetry | None,
    about: dict[str, Any],
) -> None:
    total = len(source.frames)
    changes, complaints = np.zeros(total), []
    for index in range(total):
        burst = done[index]
        changes[index] = _change(burst, recipe, plan)
        complaints += [burst["error"].decode(errors="replace")] if burst["error"] else []
    kept = [int(index) for index in np.flatnonzero(changes <= tolerance)]
    failed = total - len(kept)
    change = changes[np.isfinite(changes)]
    typical = float(np.median(change)) if len(change) else math.nan
    if failed > max_failed * total or failed == total:
        said = f" The engine gave up on some of them ({min(complaints)})." if complaints else ""
        raise DataError(
            Remedy(
                f"{failed} of {total} bursts changed their total energy by more than {tolerance:g} kT per degree of "
                f"freedom (the median is {typical:.2g}).{said} Use a timestep smaller than "
                f"{units.format_time(plan.timestep)}, constrain bonds to hydrogen, or relax the frames first",
                ". The bursts are kept: with a larger energy_tolerance they are not run again",
            )
        )
    provenance: dict[str, Any] = {
        "harvest": fingerprint,
        "engine": recipe.name,
        **about,
        "bursts": total,
        "dropped bursts": failed,
        "bursts in which the engine failed": len(complaints),
        "median energy change per degree of freedom": f"{typical:.3g} kT",
        "timestep": plan.timestep,
        "temperature": plan.temperature,
        "seed": plan.seed,
        "energy tolerance": tolerance,
    }
    provenance |= {f"{key} of atoms": note for key, note in source.topology.notes.items()}
    provenance |= {} if mirror is None else mirror.provenance
    writer = StoreWriter(
        done.store,
        source.topology,
        len(kept) * plan.n_frames,
        velocities=True,
        forces=True,
        cells=source.periodic,
        kind="bursts",
        provenance=json.loads(json.dumps(provenance)),
        midpoint=recipe.midpoint,
    )
    with writer:
        for index in kept:
            burst = done[index]
            for step in range(plan.n_frames):
                beside = {name: burst[name][step] for name in ("ahead", "behind") if recipe.midpoint is not None}
                writer.write(
                    burst["positions"][step],
                    float(burst["time"]) + step * plan.interval,
                    velocities=burst["velocities"][step],
                    forces=burst["forces"][step],
                    cell=burst["cell"] if source.periodic else None,
                    **beside,
                )
        starts = np.arange(len(kept)) * plan.n_frames
        writer.finish(plan.interval, np.stack([starts, starts + plan.n_frames], axis=1))
