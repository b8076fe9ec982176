"""Classical dynamics of a system of the learning benchmarks, resumed where it was stopped.

    python benchmarks/learning/reference.py silicon RUNS --picoseconds 30

RUNS/silicon-classical.traj has a frame with velocities every few femtoseconds, RUNS/silicon-classical.csv the seconds
of every hundred engine calls (by the clock and of the processor).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import Trajectory, read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from systems import SYSTEMS, System
from timed import Timed


def dynamics(atoms: Atoms, system: System, temperature: float, seed: int) -> Langevin:
    """ASE's Langevin dynamics at the settings of the system."""
    return Langevin(
        atoms,
        system.timestep * units.fs,
        temperature_K=temperature,
        friction=system.friction / (1000 * units.fs),
        fixcm=False,
        rng=np.random.default_rng(seed),
    )


def settled(system: System, engine: Timed, seed: int) -> Atoms:
    """Atoms with velocities after the stretches of ``system.settle``."""
    atoms = system.build()
    atoms.calc = engine
    rng = np.random.default_rng(seed)
    atoms.positions += 0.02 * rng.standard_normal(atoms.positions.shape)
    thermalize_momenta(atoms, temperature_K=system.settle[0][0], rng=rng)
    for stretch, (temperature, picoseconds) in enumerate(system.settle):
        run = dynamics(atoms, system, temperature, seed + stretch)
        run.run(round(1000 * picoseconds / system.timestep))
    return atoms


def write_times(engine: Timed, path: Path) -> None:
    """Append the mean seconds of the calls since the last time, and forget them."""
    if not path.exists():
        path.write_text("calls,wall_s,cpu_s\n", encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{len(engine.wall)},{np.mean(engine.wall):.6f},{np.mean(engine.cpu):.6f}\n")
    engine.wall.clear()
    engine.cpu.clear()


def main() -> None:
    """Settle, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--picoseconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    system = SYSTEMS[options.system]
    options.runs.mkdir(parents=True, exist_ok=True)
    base = options.runs / f"{options.system}-classical"
    frames, start = base.with_suffix(".traj"), options.runs / f"{options.system}-start.traj"
    engine = Timed(system.engine())
    if not start.exists():
        atoms = settled(system, engine, options.seed)
        print(f"{options.system}: settled in {sum(engine.cpu):.0f} CPU seconds, {len(engine.cpu)} calls", flush=True)
        write_times(engine, options.runs / f"{options.system}-settle.csv")
        atoms.write(start)
    done = 0
    if frames.exists():
        with Trajectory(frames) as written:
            done = len(written)
    atoms = read(frames if done else start, index=-1)
    atoms.calc = engine
    stride = round(system.saved / system.timestep)
    wanted = round(1000 * options.picoseconds / system.saved)
    run = dynamics(atoms, system, system.temperature, options.seed + 1000 + done)
    with Trajectory(frames, "a") as file:
        for frame in range(done, wanted):
            run.run(stride)
            file.write(atoms)
            if (frame + 1) % max(1, 100 // stride) == 0:
                write_times(engine, base.with_suffix(".csv"))
                T = atoms.get_temperature()
                print(f"{(frame + 1) * system.saved / 1000:.2f} ps, {T:.0f} K", flush=True)


if __name__ == "__main__":
    main()
