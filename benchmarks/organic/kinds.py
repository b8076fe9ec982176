"""Three kinds of propagators of the same molecules, bursts and CPU time: symplectic, force-midpoint, force-free.

    export OMP_NUM_THREADS=1
    python benchmarks/organic/build.py TRAIN; python benchmarks/organic/build.py EXAM --exam
    python benchmarks/organic/kinds.py make FOLDER --stores TRAIN
    python benchmarks/organic/kinds.py train FOLDER --kind symplectic --force-updates 600 --updates 500
    python benchmarks/organic/kinds.py train FOLDER --kind force-midpoint --updates 2000
    python benchmarks/organic/kinds.py judge FOLDER --kind symplectic --stores EXAM
    python benchmarks/organic/kinds.py run FOLDER --kind symplectic --stores EXAM --molecule ethanol --friction 1
    python benchmarks/organic/kinds.py collect FOLDER --output benchmarks/results/organic_kinds.json

``make`` runs new bursts, with the forces that each kind asks for, from the frames of the smaller molecules of the
training list. What a training took is written down in seconds of CPU, so that numbers of updates can be chosen for it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from dynamics import beginning, learned, record
from engine import about_machine, xtb
from judging import asked_pairs
from lists import read_list, shuffled
from observed import SETTLE, temperatures

from fastegnn_md import Propagator
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.data.ase_files import ase_universe
from fastegnn_md.harvest import harvest
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.one_step import one_step_errors, ratios

MOLECULES, LARGEST = 24, 13  # of the training list, and how many atoms they have at most
HELD_OUT = 2  # of them
EXAM = ("ethanol", "acetamide", "benzene", "furan", "isobutane", "caffeine", "aspirin")
NETWORK = {"hidden": 64, "layers": 3, "cutoff": 4.5, "virtual_nodes": 1, "use_bonds": False}
TIMES = {"burst": "8 fs", "interval": "2 fs", "timestep": "0.5 fs"}


def make(arguments: argparse.Namespace) -> None:
    """Bursts of the first molecules of the list that are small."""
    known = [one for one in shuffled(read_list("train")) if one.n_atoms <= LARGEST]
    frames = [path for one in known if (path := arguments.stores / f"{one.name}.traj").exists()]
    for path in frames[:MOLECULES]:
        harvest(
            ase_universe(path),
            xtb,
            store=arguments.folder / f"{path.stem}.h5",
            midpoint=f"{arguments.lag:g} fs",
            max_failed=0.25,
            progress=False,
            **TIMES,
        )


def train(arguments: argparse.Namespace) -> None:
    """One model and what it cost."""
    stores, lag = sorted(str(path) for path in arguments.folder.glob("*.h5")), f"{arguments.lag:g} fs"
    training, held_out = (
        TrajectoryPairs(some, lag=lag, time_reversal=True, progress=False)
        for some in (stores[HELD_OUT:], stores[:HELD_OUT])
    )
    own = {"kicks": arguments.kicks} if arguments.kind == "symplectic" else {}
    config = TrainingConfig(
        propagator=PropagatorConfig(kind=arguments.kind, **NETWORK, **own),
        updates=arguments.updates,
        force_updates=arguments.force_updates,
        learning_rate=arguments.learning_rate,
        ema_decay=0.99,
        validate_every=200,
        validation_pairs=128,
    )
    begun = time.process_time()
    fit(training, held_out, config, _model(arguments), progress=False)
    about = {"kind": arguments.kind, "updates": arguments.updates, "force updates": arguments.force_updates}
    about |= {"training, CPU s": round(time.process_time() - begun, 1), "molecules": len(stores) - HELD_OUT}
    about |= {"kicks": arguments.kicks} if own else {}
    _write(arguments.folder / f"{arguments.kind}-training.json", about)


def judge(arguments: argparse.Namespace) -> None:
    """Errors on bursts of molecules it has not seen, the engine asked where it leads."""
    model, rows = Propagator.load(_model(arguments)), {}
    for name in EXAM:
        pairs = TrajectoryPairs(arguments.stores / f"{name}.h5", lag=model.timestep, progress=False)
        asked = asked_pairs(pairs, model, xtb(), 20)
        rows[name] = ratios(one_step_errors(model, asked, asked.indices))
    median = {key: float(np.median([row[key] for row in rows.values()])) for key in ("x", "v")}
    _write(arguments.folder / f"{arguments.kind}-errors.json", {"median over best baseline": median, "molecules": rows})


def run(arguments: argparse.Namespace) -> None:
    """Dynamics of a molecule it has not seen."""
    model = Propagator.load(_model(arguments))
    atoms = beginning(arguments.stores, arguments.molecule, arguments.seed, False, model)
    dynamics = learned(atoms, model, arguments.friction, arguments.seed)
    begun = time.process_time()
    found = record(dynamics, atoms, 1e3 * model.timestep, arguments.picoseconds, False)
    seconds, arrays = time.process_time() - begun, found["arrays"]
    row: dict[str, Any] = {"molecule": arguments.molecule, "friction, 1/ps": arguments.friction, "seed": arguments.seed}
    row |= {key: found["about"][key] for key in ("run, ps", "stopped")}
    statistics = dynamics.statistics
    row |= {"jumps": statistics.tried, "refused": sum(statistics.rejected.values())}
    row |= {"CPU ms per jump": 1e3 * seconds / max(1, len(arrays["kinetic"]))}
    row["audits, kT"] = list(statistics.energy_change)
    if found["about"]["run, ps"] > 2 * SETTLE:
        means, errors = temperatures(arrays["kinetic"], arrays["counts"], 1e3 * model.timestep)
        row["T, K"] = {
            symbol: [round(float(mean), 1), round(float(error), 1)]
            for symbol, mean, error in zip(Atoms(arrays["elements"]).symbols, means, errors, strict=True)
        }
    name = f"{arguments.kind}-run-{arguments.molecule}-{arguments.friction:g}-{arguments.seed}.json"
    _write(arguments.folder / name, row)


def collect(arguments: argparse.Namespace) -> None:
    """What the folder has, to one file."""
    kinds = {}
    for path in sorted(arguments.folder.glob("*-training.json")):
        kind = path.name.removesuffix("-training.json")
        runs = sorted(arguments.folder.glob(f"{kind}-run-*.json"))
        kinds[kind] = {
            "training": json.loads(path.read_text()),
            "errors": json.loads((arguments.folder / f"{kind}-errors.json").read_text()),
            "runs": [json.loads(one.read_text()) for one in runs],
        }
    _write(arguments.output, {"machine": about_machine(), "time step, fs": arguments.lag, "kinds": kinds})


def _model(arguments: argparse.Namespace) -> Path:
    return Path(arguments.folder, f"{arguments.kind}.safetensors")


def _write(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(stages := {one.__name__: one for one in STAGES}))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stores", type=Path, help="folder of build.py")
    parser.add_argument("--kind", default="symplectic")
    parser.add_argument("--lag", type=float, default=4.0, help="fs")
    parser.add_argument("--kicks", type=int, default=3)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--force-updates", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--molecule", default="ethanol")
    parser.add_argument("--friction", type=float, default=1.0)
    parser.add_argument("--picoseconds", type=float, default=6.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stages[arguments.stage](arguments)


STAGES = (make, train, judge, run, collect)

if __name__ == "__main__":
    main()
