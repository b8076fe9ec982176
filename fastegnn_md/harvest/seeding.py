"""Jumps as seeds: a flow model spreads starting points, short bursts of the user's engine run from them.

The populations and time scales come from the bursts alone. The model says where to look, not what is found there: a
Markov state model is built of what bursts do *given* where they are, after a beginning that is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import MDAnalysis as mda
import numpy as np
import torch

from .. import units
from .._extras import naming_extras
from ..data.bonds import check_bond_lengths, check_spacing
from ..data.frames import seek
from ..data.internal import InternalCoordinates
from ..data.topology import Topology, join_bonds, quiet, select_atoms, static
from ..data.trajectory import molecule_alone
from ..engines.mdanalysis import state_from_universe
from ..errors import CompatibilityError, ConfigError
from ..propagator.base import load
from ..propagator.learned_map import LearnedMap
from ..state import State
from .bursts import Start
from .langevin import LangevinRecipe, context_recipe
from .plan import BurstPlan, is_positive, positive_time
from .recipe import burst_recipe
from .seed_files import SeedFolder
from .seed_plan import SeedPlan
from .seed_run import Seeded, SeedRun
from .workers import Workers

if TYPE_CHECKING:
    from openmm import Context, System
    from openmm.app import Simulation


def seeds(
    model: LearnedMap | str | Path,
    source: mda.Universe | mda.AtomGroup,
    engine: System | Context | Simulation | Callable[[], Any],
    *,
    output: str | Path,
    temperature: float | None = None,
    jumps: int = 200,
    replicas: int = 16,
    starts: int = 100,
    repeats: int = 1,
    burst: float | str = "50 ps",
    interval: float | str = "1 ps",
    burn_in: float | str = "5 ps",
    lag: float | str | None = None,
    timestep: float | str = "2 fs",
    friction: float | str = "1/ps",
    constraints: Sequence[Any] = (),
    platform: str | None = None,
    bonds: np.ndarray | None = None,
    reference: Sequence[mda.Universe | mda.AtomGroup] = (),
    seed: int = 0,
    processes: int | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> Seeded:
    """Spread starting points by the jumps of a flow model, run bursts from them, and model their kinetics.

    ``replicas`` chains of ``jumps`` jumps start from the frames of the source, each jump followed by 50 steps of the
    engine. What they visited is divided into ``starts`` clusters (k-means of torsions, or of distances where bonds are
    not known), and ``repeats`` bursts run from one frame of each, with velocities and random forces of their own. The
    first ``burn_in`` of each burst is dropped; a reversible Markov state model of the rest gives populations and
    implied time scales with Bayesian intervals.

    A call that was stopped goes on where it was: finished bursts are kept. With more ``repeats``, another ``lag`` or
    ``burn_in`` or a reference the same folder serves again, and only what is missing is run.

    Parameters
    ----------
    model : LearnedMap, str or Path
        Of kind "flow", or the name or file of one.
    source : Universe or AtomGroup
        The atoms of the engine, in their order. Replicas start from frames evenly spread over the trajectory.
    engine : openmm.System, openmm.Context, openmm.app.Simulation, or callable
        A System gets Langevin dynamics (``LangevinMiddleIntegrator``); a Context or Simulation is copied with its own
        integrator, whose step and temperature count. A function that returns an ASE calculator gets ASE's Langevin.
    output : str or Path
        Folder; made if missing.
    temperature : float, K
        Needed unless the integrator of a Context has one.
    jumps, replicas, starts, repeats : int
    burst, interval, burn_in : float or str
        Length of a burst, time between its frames, and what is dropped at its beginning; ps or with a unit.
    lag : float or str, optional
        Of the Markov state model. Default: a fifth of what is left of a burst.
    timestep, friction : float or str
        Of the dynamics of a System or an ASE calculator; ps and 1/ps, or with a unit.
    constraints : sequence of ase.constraints.FixBondLengths
        For an ASE engine; a System has its own.
    platform : str, optional
        OpenMM platform. Default: Reference for up to 100 atoms, else CPU with one thread per process.
    bonds : ndarray of int, shape (M, 2), optional
        Where neither topology nor engine has them.
    reference : sequence of Universe or AtomGroup
        Trajectories of the same atoms to compare populations with.
    seed : int
    processes : int, optional
        Processes that share the bursts; the result does not depend on it. With an executor: how many tasks it is given
        at a time; 64 by default.
    executor : concurrent.futures.Executor, optional
        Runs the bursts, as that of :func:`~fastegnn_md.harvest.harvest` does.
    progress : bool

    Returns
    -------
    Seeded

    Raises
    ------
    ConfigError
        If the model is deterministic, an argument is out of range, or the folder holds seeds of other settings.
    CompatibilityError
        If the model is for periodic systems or for other atoms, or the engine is periodic.
    OutputError
        If the folder holds something else, or another process is writing there.
    EngineError
        If the engine fails in more than a tenth of the bursts.
    DataError
        If times or atoms do not fit together, a start is none of these atoms (in nm, in another order, cut by a box),
        or there are too few bursts for a Markov state model.
    """
    with naming_extras("seeds"):
        import deeptime  # noqa: F401  # asked for before hours of bursts
    workers = Workers.make(processes, executor)
    plan = SeedPlan.make(jumps, replicas, starts, repeats, burst, interval, burn_in, lag)
    model = _stochastic(model)
    with quiet():
        group = select_atoms(static(source), "all")
        states = _states(group, plan.replicas)
    recipe, temperature = _recipe(engine, states[0], plan, temperature, timestep, friction, constraints, platform)
    workers.check(recipe)
    known = join_bonds(*(None if one is None else np.asarray(one) for one in (_bonds(states[0]), recipe.bonds, bonds)))
    masses = torch.from_numpy(recipe.masses)
    tied = None if known is None else torch.from_numpy(np.asarray(known, dtype=np.int64))
    states = [one.replace(masses=masses, bonds=tied) for one in states]
    model.check(states[0])
    topology = Topology(numbers=states[0].numbers.numpy(), masses=recipe.masses, bonds=known)
    for k, one in enumerate(states):
        x, where = one.positions.numpy(), f"START, replica {k}"
        check_bond_lengths(topology, x, None, where, atoms=group)
        check_spacing(group, x, None, where)
    folder = SeedFolder(Path(output), group)
    with folder.claimed(_identity(model, recipe, states, plan, temperature, seed)):
        run = SeedRun(folder, plan, model, states, recipe, temperature, seed, InternalCoordinates(topology))
        run.spread(progress)
        run.bursts(workers, progress)
        return run.concluded(reference)


def _stochastic(model: LearnedMap | str | Path) -> LearnedMap:
    model = model if isinstance(model, LearnedMap) else load(model)
    if not model.stochastic:
        raise ConfigError(
            f"the model is of kind {model.kind!r}, whose jumps are always the same; seeds are spread by a model of "
            "kind 'flow', which draws them"
        )
    if model.periodic:
        raise CompatibilityError(
            "the model is for periodic systems; seeds are of isolated molecules, whose jumps kind 'flow' draws"
        )
    return model


def _states(group: mda.AtomGroup, replicas: int) -> list[State]:
    trajectory = group.universe.trajectory
    chosen = np.linspace(0, trajectory.n_frames - 1, min(replicas, trajectory.n_frames)).round().astype(int)
    alone, read = molecule_alone(group), {}
    for frame in np.unique(chosen):
        seek(trajectory, int(frame))
        state = state_from_universe(group, velocities="zero")
        read[int(frame)] = state.replace(positions=torch.from_numpy(alone(trajectory.ts)), cell=None, pbc=None)
    return [read[int(chosen[k % len(chosen)])] for k in range(replicas)]


def _recipe(
    engine: Any,
    state: State,
    plan: SeedPlan,
    temperature: float | None,
    timestep: float | str,
    friction: float | str,
    constraints: Sequence[Any],
    platform: str | None,
) -> tuple[LangevinRecipe, float]:
    engine = getattr(engine, "context", engine)  # of a Simulation
    text, step = "", positive_time("timestep", timestep)
    if hasattr(engine, "getIntegrator"):
        platform = platform or engine.getPlatform().getName()
        engine, text, step, own = context_recipe(engine)
        temperature = own if own is not None else temperature
    if temperature is None or not is_positive(temperature):
        raise ConfigError(f"temperature is {temperature!r}; expected a positive number of K")
    rate = units.parse_quantity(friction, "friction") if isinstance(friction, str) else float(friction)
    if not rate > 0:
        raise ConfigError(f"friction is {friction}; expected a positive number of 1/ps, or with its unit")
    BurstPlan.make(plan.interval, plan.interval, step, None, 0)  # refuses an interval of no whole steps
    x = state.positions.numpy()
    found = burst_recipe(
        engine,
        numbers=state.numbers.numpy(),
        masses=state.masses.numpy(),
        timestep=step,
        first=Start(x, np.zeros_like(x), None),
        platform=platform,
        constraints=constraints,
    )
    if found.periodic:
        raise CompatibilityError("the System is periodic; seeds are of isolated molecules: give one without a box")
    return LangevinRecipe(found, float(temperature), rate, text), float(temperature)  # type: ignore[arg-type]


def _bonds(state: State) -> np.ndarray | None:
    return None if state.bonds is None else state.bonds.numpy()


def _identity(
    model: LearnedMap, recipe: LangevinRecipe, states: list[State], plan: SeedPlan, temperature: float, seed: int
) -> dict[str, Any]:
    """Everything that decides the frames of the bursts, but not how many there are."""
    start = hashlib.sha256(b"".join(one.positions.numpy().tobytes() for one in states)).hexdigest()
    return {
        "model": model.identity(),
        "engine": recipe.fingerprint,
        "start": start,
        "jumps": plan.jumps,
        "replicas": plan.replicas,
        "starts": plan.starts,
        "interval": plan.interval,
        "frames of a burst": plan.frames,
        "temperature": temperature,
        "seed": seed,
    }
