"""Untrained propagators whose scales and ranges are those of a data set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..data import TrajectoryPairs
from ..data.bonds import missing_bonds
from ..errors import DataError, Remedy
from ..propagator.base import Propagator
from ..propagator.config import PropagatorConfig
from ..propagator.domain import Domain
from ..propagator.file import package_version
from ..propagator.limits import JumpLimits
from ..propagator.provenance import Provenance
from ..propagator.surroundings import Surroundings
from ..state import State
from ..units import format_time
from .batches import pairs_for

# Atoms that ranges and linear predictors are measured on, for systems of any size.
_SAMPLE_ATOMS = 500_000
_TORSION_SAMPLES = 10  # times as many pairs show where torsions may be


def check_forces(pairs: TrajectoryPairs, config: PropagatorConfig) -> None:
    """Refuse pairs without the forces that a configuration asks for."""
    if config.middle_frames:
        _check_middle_frames(pairs, config)
    elif config.wants_forces == "midpoint" and not pairs.has_midpoint_forces:
        lag = format_time(pairs.lag)
        raise DataError(
            Remedy(
                f"kind {config.kind!r} needs forces half a lag of {lag} before and after each frame, these pairs have "
                "none: take another kind, or harvest bursts with ",
                f"midpoint={lag!r}",
                f'--midpoint "{lag}"',
            )
        )
    if config.wants_forces == "start" and not pairs.has_forces:
        raise DataError(
            f"kind {config.kind!r} needs forces at each frame, these pairs have none: harvest bursts (they carry "
            "forces), or take kind 'force-free'"
        )


def _check_middle_frames(pairs: TrajectoryPairs, config: PropagatorConfig) -> None:
    if pairs.has_middle_frames:
        return
    half = format_time(pairs.lag / 2)
    raise DataError(
        Remedy(
            f"kind {config.kind!r} needs the frame halfway between those of each pair, with its forces, these pairs of "
            f"a lag of {format_time(pairs.lag)} have none: take another kind, or harvest bursts whose frames are half "
            "a lag apart, with ",
            f"interval={half!r}",
            f'--interval "{half}"',
        )
    )


def check_bonds(pairs: TrajectoryPairs, config: PropagatorConfig) -> None:
    """Refuse molecules for kind "flow" whose bonds are not all known: nothing would guard those that are missing."""
    if not (config.stochastic and config.use_bonds):
        return
    for store in pairs.stores:
        positions = store.positions[0]
        missing = missing_bonds(store.topology, positions)
        if not len(missing):
            continue
        (i, j), some = missing[0], store.topology.bonds is not None and len(store.topology.bonds) > 0
        ways = "or take the incomplete ones out and then" if some else "or"
        distance = np.linalg.norm(positions[i] - positions[j])
        raise DataError(
            Remedy(
                f"kind 'flow' knows molecules by their bonds, and the topology has {'only some' if some else 'none'}: "
                f"{len(missing)} pairs of atoms are as near as bonded ones and not connected (atoms {i} and {j}: "
                f"{distance:.2f} Å). Give a topology that has all (.psf, .prmtop, a PDB file with CONECT records of "
                "all atoms), ",
                f"{ways} take them from distances, fastegnn_md.data.bonds.add_guessed_bonds(universe), or leave bonds "
                "and their guards out, PropagatorConfig(use_bonds=False)",
                f"{ways} take them from distances, --bonds guess, or leave bonds and their guards out, --set "
                "propagator.use_bonds=false",
            )
        )


def untrained_propagator(
    pairs: TrajectoryPairs,
    config: PropagatorConfig,
    *,
    seed: int = 0,
    sample: int = 4096,
    temperature: float | None = None,
) -> Propagator:
    """Make an untrained propagator that fits a data set, of the class its kind asks for.

    Masses, linear predictor, scales and limits come from some pairs of the data set.

    Parameters
    ----------
    pairs : TrajectoryPairs
        The data set.
    config : PropagatorConfig
        Kind and size.
    seed : int
        Of the weights and of the pairs that are drawn.
    sample : int
        About how many pairs are drawn: fewer of large systems, and at least one of each system.
    temperature : float, optional, K
        That of :func:`remember_data`.

    Returns
    -------
    Propagator
        Of the class that the kind asks for.

    Raises
    ------
    DataError
        If the configuration asks for velocities, forces or bonds that the pairs lack.
    """
    if config.predicts_velocities and not pairs.has_velocities:
        raise DataError(
            f"kind {config.kind!r} needs velocities, these pairs have none: harvest bursts, or take kind 'flow' (a "
            "molecule, at picoseconds) or 'position'"
        )
    if config.stochastic and pairs.periodic:
        raise DataError(
            Remedy(
                "kind 'flow' is for isolated molecules, these pairs are periodic: a draw moves all atoms at once, "
                "and no network of this size knows a liquid; take the solute out of its box, ",
                'TrajectoryPairs(…, select="protein", isolated=True)',
                '--select "protein", of a trajectory and not of a store',
            )
        )
    check_bonds(pairs, config)
    check_forces(pairs, config)
    pairs = pairs_for(config, pairs)
    start, end = pairs.batch(representative(pairs, sample, seed))
    domain = Domain.from_pairs(start, end, config)
    if config.stochastic:  # a basin that one of a thousand frames is in is no error of a jump
        domain = replace(domain, limits=_with_rare_torsions(domain.limits, pairs, sample, seed))
    propagator = _measured(start, end, config, pairs.lag, domain, seed)
    remember_data(propagator, pairs, seed=seed, sample=sample, temperature=temperature)
    return propagator


def propagator_of_batch(start: State, end: State, config: PropagatorConfig, lag: float, *, seed: int = 0) -> Propagator:
    """An untrained propagator that fits one batch of pairs ``lag`` ps apart; it knows nothing of their origin."""
    return _measured(start, end, config, lag, Domain.from_pairs(start, end, config), seed)


def _measured(start: State, end: State, config: PropagatorConfig, lag: float, domain: Domain, seed: int) -> Propagator:
    propagator = Propagator.build(config, lag, domain, seed=seed)
    propagator.measure(start, end)
    return propagator


def _with_rare_torsions(limits: JumpLimits, pairs: TrajectoryPairs, sample: int, seed: int) -> JumpLimits:
    """Limits that know the torsions of more pairs than other ranges are measured on."""
    chosen = representative(pairs, _TORSION_SAMPLES * sample, seed)
    for begin in range(0, len(chosen), sample):
        limits = limits.with_torsions(*pairs.batch(chosen[begin : begin + sample]))
    return limits


def remember_data(
    propagator: Propagator,
    pairs: TrajectoryPairs,
    *,
    seed: int = 0,
    sample: int = 4096,
    temperature: float | None = None,
) -> None:
    """Let a propagator know the data it is for: their fingerprint, provenance and surroundings.

    ``temperature`` in K is that of the run, where somebody said it; else what stores say or velocities tell.
    """
    start, end = pairs.batch(representative(pairs, sample, seed))
    sources = [store.provenance for store in pairs.stores]
    if temperature is not None:
        sources = [{**source, "temperature": temperature} for source in sources]
    propagator.fingerprint = pairs.fingerprint
    propagator.provenance = Provenance.measure(start, end, sources, package_version())
    if propagator.stochastic:  # its reach is the whole molecule, and what it does not know it refuses by name
        return
    measured = Surroundings.measure(start, propagator.config.cutoff, seed=seed)
    propagator.surroundings = None if measured is None else measured.to(propagator.dtype)


def representative(pairs: TrajectoryPairs, count: int, seed: int) -> list[int]:
    """About ``count`` pairs drawn with a seed, fewer of large systems, and at least one of each system; ascending."""
    count = min(count, max(1, _SAMPLE_ATOMS // pairs.n_atoms))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    system = pairs.frame_indices(order.numpy())[:, 0]
    one_of_each = np.unique(system, return_index=True)[1]
    return sorted({*order[:count].tolist(), *order[one_of_each].tolist()})
