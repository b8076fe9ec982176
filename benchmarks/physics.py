"""Data, training and judgement of the systems whose propagators come with the package.

    python benchmarks/physics.py harvest ethanol-xtb             # classical runs, and bursts from their frames
    python benchmarks/physics.py reference ethanol-xtb --friction 10
    python benchmarks/physics.py train ethanol-xtb
    python benchmarks/physics.py validate ethanol-xtb --friction 10
    python benchmarks/physics.py validate ethanol-xtb --friction 1 --conserve-energy --span 1000
    python benchmarks/physics.py validate copper-emt-2048 --model copper-emt
    python benchmarks/physics.py break-even ethanol-xtb
    python benchmarks/physics.py collect ethanol-xtb --output benchmarks/results/physics_ethanol.json

Each stage continues what was stopped. `validate` calls `fastegnn-md validate`; its report lies in the folder of the
system, `validation-10/report.html`. Frictions are in 1/ps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from physics_systems import ASE_SYSTEMS, ASESystem

from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.harvest import harvest
from fastegnn_md.propagator.config import PropagatorConfig
from fastegnn_md.training import TrainingConfig, fit

TRAINING: dict[str, dict[str, Any]] = {
    "ethanol-xtb": {
        "propagator": PropagatorConfig(kind="kick-drift", kicks=8, cutoff=5.0, use_bonds=False),
        "updates": 9000,
        "force_updates": 6000,
    },
    "copper-emt": {
        "propagator": PropagatorConfig(cutoff=4.0, virtual_nodes=1, use_bonds=False),
        "updates": 5000,
        "batch_size": 8,
    },
}


def starts(system: ASESystem, folder: Path) -> list[Path]:
    """Classical runs at several temperatures; bursts start from their frames."""
    paths = []
    for temperature, count in system.starts.items():
        paths.append(folder / f"starts-{temperature:.0f}K.trr")
        system.classical(
            paths[-1],
            temperature=temperature,
            friction=10.0,
            span=count * system.start_every,
            every=system.start_every,
            seed=int(temperature),
            settle=2000.0,
        )
    return paths


def bursts(system: ASESystem, folder: Path, arguments: argparse.Namespace) -> None:
    """Training pairs: bursts at constant energy, frames at half the lag."""
    universe = system.universe(folder / "topology.xyz", starts(system, folder))
    interval = system.lag / 2
    harvest(
        universe,
        system.calculator,
        store=folder / "bursts.h5md",
        burst=f"{interval * system.frames_per_burst} fs",
        interval=f"{interval} fs",
        timestep=f"{system.timestep} fs",
        processes=arguments.processes,
    )


def reference(system: ASESystem, folder: Path, arguments: argparse.Namespace) -> None:
    """Independent classical runs."""
    for run in range(system.reference_runs):
        system.classical(
            folder / f"reference-{arguments.friction:g}-{run}.trr",
            temperature=system.temperature,
            friction=arguments.friction,
            span=system.reference_span,
            every=system.lag,
            seed=1000 + run,
            settle=5000.0,
        )


def train(system: ASESystem, folder: Path, arguments: argparse.Namespace) -> None:
    """A propagator from the bursts, on one thread."""
    torch.set_num_threads(1)
    pairs = TrajectoryPairs(folder / "bursts.h5md", lag=f"{system.lag} fs", time_reversal=True)
    training, validation, _ = pairs.split((0.92, 0.03, 0.05))
    config = TrainingConfig(
        validate_every=500, validation_pairs=512, checkpoint_every=500, seed=arguments.seed, **TRAINING[system.name]
    )
    result = fit(training, validation, config, folder / "propagator.safetensors", resume=True)
    print(json.dumps(result.metrics, indent=1))


def validate(system: ASESystem, folder: Path, arguments: argparse.Namespace) -> None:
    """What one long learned run samples, beside the reference runs."""
    scaled = ("--conserve-energy",) if arguments.conserve_energy else ()
    name = f"validation-{arguments.friction:g}{'-energy' if scaled else ''}"
    span = system.learned_span if arguments.span is None else 1000 * arguments.span
    steps, nve_steps = (round(time / system.lag) for time in (span, system.nve_span))
    _validate(system, folder, arguments, name, steps, nve_steps, scaled)


def break_even(system: ASESystem, folder: Path, arguments: argparse.Namespace) -> None:
    """The same of 400 jumps, for the row of that name: to be run on a machine that does nothing else."""
    _validate(system, folder, arguments, "validation-break-even", 400, 0, ())


def _validate(
    system: ASESystem,
    folder: Path,
    arguments: argparse.Namespace,
    name: str,
    steps: int,
    nve_steps: int,
    options: tuple[str, ...],
) -> None:
    command = [
        *(sys.executable, "-c", "from fastegnn_md.cli import main; main()", "validate"),
        str(arguments.model or folder / "propagator.safetensors"),
        *("--reference", str(folder / "topology.xyz")),
        *map(str, sorted(folder.glob(f"reference-{arguments.friction:g}-*.trr"))),
        *("--calculator", system.calculator_name, "--timestep", f"{system.timestep} fs"),
        *("--temperature", f"{system.temperature:g}", "--friction", f"{arguments.friction:g}/ps", "--runs", "1"),
        *("--steps", str(steps), "--every", str(system.learned_every), "--nve-steps", str(nve_steps), "--compile"),
        *(("--pairs", str(folder / "bursts.h5md")) if (folder / "bursts.h5md").exists() else ()),
        *options,
        *("--output", str(folder / name)),
    ]
    subprocess.run(command, check=True)


def collect(system: ASESystem, folder: Path, arguments: argparse.Namespace) -> None:
    """Rows of all reports of a system, without their curves."""
    found = {}
    for path in sorted(folder.glob("validation-*/report.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        rows = [{key: value for key, value in row.items() if key != "plots"} for row in report["rows"]]
        found[path.parent.name] = {**report, "rows": rows}
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if arguments.output is None:
        print(text)
    else:
        arguments.output.write_text(text, encoding="utf-8")


STAGES = {
    "harvest": bursts,
    "reference": reference,
    "train": train,
    "validate": validate,
    "break-even": break_even,
    "collect": collect,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("system", choices=sorted(ASE_SYSTEMS))
    parser.add_argument("--folder", type=Path, default=Path("physics-output"))
    parser.add_argument("--friction", type=float, default=10.0)
    parser.add_argument("--conserve-energy", action="store_true", help="scale velocities after jumps of `validate`")
    parser.add_argument("--span", type=float, help="of the learned run of `validate`, in ps; default: the system's")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of training")
    parser.add_argument("--output", type=Path, help="of the stage `collect`")
    parser.add_argument("--model", help="file or name of a propagator; default: that of the stage `train`")
    arguments = parser.parse_args()
    system = ASE_SYSTEMS[arguments.system]
    if arguments.stage == "train" and system.name not in TRAINING:
        parser.error(f"{system.name} is judged with a propagator trained on another system: give --model to `validate`")
    folder = arguments.folder / system.name
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "topology.xyz").exists():
        system.write_topology(folder / "topology.xyz")
    STAGES[arguments.stage](system, folder, arguments)


if __name__ == "__main__":
    main()
