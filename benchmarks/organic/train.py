"""Train a propagator of kind symplectic on the bursts of many molecules.

    python benchmarks/organic/build.py TRAIN
    export OMP_NUM_THREADS=2
    python benchmarks/organic/train.py TRAIN first.safetensors --kicks 3 --force-updates 5500 --updates 9500
    python benchmarks/organic/train.py TRAIN organic-xtb-4fs.safetensors --lag "4 fs" --kicks 5 --from first.safetensors
    python benchmarks/organic/train.py TRAIN organic-xtb.safetensors --lag "8 fs" --kicks 9 --from first.safetensors
    python benchmarks/organic/train.py HEAVY organic-xtb-8fs-heavy.safetensors --lag "8 fs" --from organic-xtb-4fs \\
        --learning-rate 8e-4 --updates 1500

``--from`` takes the learned potential of another model, of any lag, number of kicks and masses; of other masses, what
it knows of surroundings, too: places are distributed alike, and it has seen more molecules. One molecule in twenty is
held out for validation. A run that was stopped goes on with ``--resume``. Stores that are not there are not waited for:
the order of the list is random, so any beginning of it is a sample.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_masses

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.propagator import PropagatorConfig, SymplecticPropagator
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.start import untrained_propagator

HELD_OUT = 20  # one molecule in so many


def split(folder: Path) -> tuple[list[str], list[str]]:
    """Stores to train on and to validate on."""
    stores = sorted(str(path) for path in folder.glob("*.h5"))
    random.Random(1).shuffle(stores)
    held = max(1, len(stores) // HELD_OUT)
    return stores[held:], stores[:held]


def with_potential_of(model: str | Path, pairs: TrajectoryPairs, config: PropagatorConfig) -> SymplecticPropagator:
    """An untrained propagator for these pairs, with the learned potential of another, which knows no other masses."""
    known, own = Propagator.load(model), untrained_propagator(pairs, config)
    # sums over neighbours are divided by the mean number of them in the data of the potential
    made = Propagator.build(config, pairs.lag, replace(own.domain, neighbours=known.domain.neighbours))
    if not (isinstance(known, SymplecticPropagator) and isinstance(made, SymplecticPropagator)):
        raise SystemExit(f"{model} is of kind {known.kind!r}, not 'symplectic'")
    made.load_state_dict(own.state_dict())
    made.fingerprint, made.provenance, made.surroundings = own.fingerprint, own.provenance, own.surroundings
    state = dict(known.network.state_dict())
    if made.domain.masses[1] != known.domain.masses[1]:
        state["embedding.weight"] = _told_natural_masses(state["embedding.weight"], known.species, made.species)
    made.network.load_state_dict(state)
    made.head.load_state_dict(known.head.state_dict())
    made.energy_unit.copy_(known.energy_unit)
    return made


def _told_natural_masses(weight: torch.Tensor, known: Sequence[int], own: Sequence[int]) -> torch.Tensor:
    """An embedding of elements, logarithm of the mass and place of the kick, with the natural mass in the element."""
    mass = weight[:, [len(known)]]
    natural = torch.as_tensor(np.log(atomic_masses[list(own)]), dtype=weight.dtype)
    columns = weight[:, [known.index(number) for number in own]] + mass * natural
    return torch.cat([columns, 0 * mass, weight[:, len(known) + 1 :]], dim=1)


def main() -> None:
    """Train one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--lag", default="4 fs")
    parser.add_argument("--kicks", type=int, default=5)
    parser.add_argument("--from", dest="initial", help="model whose learned potential it starts from: name or file")
    parser.add_argument("--updates", type=int, default=4500)
    parser.add_argument("--force-updates", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--cutoff", type=float, default=4.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    train, validation = (
        TrajectoryPairs(stores, lag=arguments.lag, time_reversal=True, progress=False)
        for stores in split(arguments.stores)
    )
    propagator = PropagatorConfig(
        kind="symplectic",
        kicks=arguments.kicks,
        hidden=arguments.hidden,
        layers=arguments.layers,
        cutoff=arguments.cutoff,
        virtual_nodes=1,
        use_bonds=False,
    )
    config = TrainingConfig(
        propagator=propagator,
        updates=arguments.updates,
        force_updates=arguments.force_updates,
        learning_rate=arguments.learning_rate,
        ema_decay=0.995,
        validate_every=250,
        checkpoint_every=250,
        validation_pairs=512,
        seed=arguments.seed,
    )
    initial = None if arguments.initial is None else with_potential_of(arguments.initial, train, propagator)
    result = fit(train, validation, config, arguments.output, initial=initial, resume=arguments.resume)
    trained = result.propagator
    if arguments.initial is not None:
        known = Propagator.load(arguments.initial)
        if known.species == trained.species and known.domain.masses[1] != trained.domain.masses[1]:
            trained.surroundings = known.surroundings
    if trained.provenance is not None:  # the list has nothing else, and tblite was not told
        trained.provenance = trained.provenance.model_copy(update={"charge": 0.0, "multiplicity": 1})
        trained.save(arguments.output)
    print(f"{arguments.output}: {len(train.stores)} molecules, {result.metrics['over_best_baseline']}")


if __name__ == "__main__":
    main()
