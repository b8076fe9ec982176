"""Systems of ``benchmarks/equipartition.py`` and their bursts: silicon with CHGNet, copper with EMT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import MDAnalysis as mda
from ase import Atoms
from ase.build import bulk
from physics_systems import ASESystem, copper, emt

from fastegnn_md.harvest import harvest

_chgnet: Any = None


def chgnet() -> Any:
    """CHGNet on one thread; loaded once."""
    global _chgnet
    if _chgnet is None:
        from chgnet.model.dynamics import CHGNetCalculator

        _chgnet = CHGNetCalculator(use_device="cpu")
    return _chgnet


def silicon() -> Atoms:
    """Diamond, 64 atoms, periodic."""
    return bulk("Si", a=5.46, cubic=True) * (2, 2, 2)


_COMMON = {
    "reference_runs": 0,
    "reference_span": 0.0,
    "learned_span": 0.0,
    "learned_every": 1,
    "nve_span": 0.0,
    "bonded": False,
}
SILICON = ASESystem(
    name="silicon-chgnet",
    build=silicon,
    calculator=chgnet,
    calculator_name="chgnet",
    temperature=600.0,
    timestep=2.5,
    lag=20.0,
    frames_per_burst=12,  # of 5 fs: a quarter of the lag
    starts={600.0: 42, 800.0: 18},
    start_every=25.0,
    **_COMMON,
)
COPPER = ASESystem(
    name="copper-emt",
    build=copper,
    calculator=emt,
    calculator_name="emt",
    temperature=600.0,
    timestep=5.0,
    lag=40.0,
    frames_per_burst=12,  # of 10 fs
    starts={600.0: 100, 800.0: 50},
    start_every=200.0,
    **_COMMON,
)
SYSTEMS = {system.name: system for system in (SILICON, COPPER)}


def bursts(system: ASESystem, folder: Path) -> Path:
    """Classical runs, and bursts from their frames with a frame every quarter of the lag."""
    folder.mkdir(parents=True, exist_ok=True)
    topology, trajectories = folder / "topology.xyz", []
    if not topology.exists():
        system.write_topology(topology)
    for temperature, count in system.starts.items():
        trajectories.append(folder / f"starts-{temperature:.0f}K.trr")
        system.classical(
            trajectories[-1],
            temperature=temperature,
            friction=10.0,
            span=count * system.start_every,
            every=system.start_every,
            seed=int(temperature),
            settle=500.0,
        )
    interval = system.lag / 4
    return harvest(
        mda.Universe(str(topology), [str(path) for path in trajectories]),
        system.calculator,
        store=folder / "bursts.h5md",
        burst=f"{interval * system.frames_per_burst} fs",
        interval=f"{interval} fs",
        timestep=f"{system.timestep} fs",
    )
