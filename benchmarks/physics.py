"""Data, training, runs and reports of the four systems whose propagators come with the package.

python benchmarks/physics.py starts ethanol-xtb          # classical runs that bursts start from
python benchmarks/physics.py harvest ethanol-xtb
python benchmarks/physics.py reference ethanol-xtb --friction 10
"""

from __future__ import annotations

import argparse
from pathlib import Path

from physics_systems import ASE_SYSTEMS, ASESystem

from fastegnn_md.data import harvest


def starts(system: ASESystem, folder: Path, arguments: argparse.Namespace) -> list[Path]:
    """Classical runs at several temperatures; bursts start from their frames."""
    topology = folder / "topology.xyz"
    if not topology.exists():
        system.write_topology(topology)
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
    universe = system.universe(folder / "topology.xyz", starts(system, folder, arguments))
    interval = system.lag / 2
    harvest(
        universe,
        system.calculator,
        store=folder / "bursts.h5md",
        burst=f"{interval * system.frames_per_burst} fs",
        interval=f"{interval} fs",
        timestep=f"{system.burst_timestep} fs",
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


STAGES = {"starts": starts, "harvest": bursts, "reference": reference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("system", choices=sorted(ASE_SYSTEMS))
    parser.add_argument("--folder", type=Path, default=Path("physics-output"))
    parser.add_argument("--friction", type=float, default=10.0, help="1/ps")
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    system = ASE_SYSTEMS[arguments.system]
    folder = arguments.folder / system.name
    folder.mkdir(parents=True, exist_ok=True)
    STAGES[arguments.stage](system, folder, arguments)


if __name__ == "__main__":
    main()
