"""Train a propagator of kind symplectic on the bursts of many molecules.

    python benchmarks/organic/build.py TRAIN
    export OMP_NUM_THREADS=2
    python benchmarks/organic/train.py TRAIN first.safetensors --kicks 3 --force-updates 5500 --updates 9500
    python benchmarks/organic/train.py TRAIN organic-xtb-4fs.safetensors --lag "4 fs" --kicks 5 --from first.safetensors
    python benchmarks/organic/train.py TRAIN organic-xtb.safetensors --lag "8 fs" --kicks 9 --from first.safetensors

``--from`` takes the learned potential of another model, of any lag and number of kicks. One molecule in twenty is held
out for validation. A run that was stopped goes on with ``--resume``. Stores that are not there are not waited for: the
order of the list is random, so any beginning of it is a sample.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

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


def with_potential_of(path: Path, pairs: TrajectoryPairs, config: PropagatorConfig) -> SymplecticPropagator:
    """An untrained propagator for these pairs, with the learned potential of another."""
    known, made = Propagator.load(path), untrained_propagator(pairs, config)
    if not (isinstance(known, SymplecticPropagator) and isinstance(made, SymplecticPropagator)):
        raise SystemExit(f"{path} is of kind {known.kind!r}, not 'symplectic'")
    made.network.load_state_dict(known.network.state_dict())
    made.head.load_state_dict(known.head.state_dict())
    made.energy_unit.copy_(known.energy_unit)
    return made


def main() -> None:
    """Train one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--lag", default="4 fs")
    parser.add_argument("--kicks", type=int, default=5)
    parser.add_argument("--from", dest="initial", type=Path)
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
    if trained.provenance is not None:  # the list has nothing else, and tblite was not told
        trained.provenance = trained.provenance.model_copy(update={"charge": 0.0, "multiplicity": 1})
        trained.save(arguments.output)
    print(f"{arguments.output}: {len(train.stores)} molecules, {result.metrics['over_best_baseline']}")


if __name__ == "__main__":
    main()
