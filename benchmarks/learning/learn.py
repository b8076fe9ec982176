"""Learn a system from nothing while it runs, freeze, collect statistics; resumed where it was stopped.

    python benchmarks/learning/learn.py silicon RUNS --picoseconds 30

Starts from RUNS/silicon-start.traj of ``reference.py``. RUNS/silicon-learned.traj has a frame per frozen jump,
RUNS/silicon-learned.safetensors is the model, RUNS/silicon-learned.json says what everything cost, in seconds of the
processor: those of the clock depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from ase.io import Trajectory, read
from systems import SYSTEMS, System
from timed import Timed

from fastegnn_md.integrators import Learning, LearningDynamics
from fastegnn_md.propagator.config import PropagatorConfig

_CHUNK = 100  # frozen jumps between two accounts

MODELS = {
    "silicon": PropagatorConfig(cutoff=4.5, virtual_nodes=1, use_bonds=False),
    "salt": PropagatorConfig(cutoff=5.5, virtual_nodes=1, use_bonds=False),
    "copper": PropagatorConfig(cutoff=4.0, virtual_nodes=1, use_bonds=False),
    "molecule": PropagatorConfig(cutoff=4.0, use_bonds=False),
}


def dynamics(system: System, atoms: Any, options: argparse.Namespace, base: Path) -> LearningDynamics:
    """A new run, or the interrupted one."""
    restart, learning = base.with_suffix(".restart"), Learning(target=options.target, updates=options.updates)
    if restart.exists():
        return LearningDynamics.restart(restart, atoms, learning=learning)
    return LearningDynamics(
        atoms,
        f"{options.lag or system.lag} fs",
        timestep=f"{system.timestep} fs",
        model=options.model or MODELS[options.system],
        temperature_K=system.temperature,
        friction=f"{system.friction}/ps",
        learning=learning,
        rng=options.seed,
    )


def main() -> None:
    """Learn, freeze, run, account."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--name", default="learned")
    parser.add_argument("--picoseconds", type=float, default=30.0, help="of the frozen run")
    parser.add_argument("--target", type=float, default=3.0)
    parser.add_argument("--jumps", type=int, default=100, help="jumps after which learning ends")
    parser.add_argument("--updates", type=int, default=20, help="for each new pair")
    parser.add_argument("--lag", type=float, help="fs")
    parser.add_argument("--model", help="name or file of a trained model to go on from")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    system = SYSTEMS[options.system]
    base = options.runs / f"{options.system}-{options.name}"
    engine = Timed(system.engine())
    atoms = read(options.runs / f"{options.system}-start.traj")
    atoms.calc = engine
    run = dynamics(system, atoms, options, base)
    spent = Spent(base.with_suffix(".json"), run, engine)
    while run.phase != "frozen":
        run.run(10)
        spent.note("learning")
        print(run.report_line(), flush=True)
        if run.phase == "jumping" and run.account.jumps >= options.jumps:
            run.freeze()
    run.save_model(base.with_suffix(".safetensors"))
    wanted = round(options.picoseconds / run.course.lag)
    # Frames that the accounts do not know of were written just before a kill
    path, done = base.with_suffix(".traj"), spent.sums.get("frozen", {"steps": 0})["steps"]
    frames = read(path, ":") if done else []
    with Trajectory(path, "w") as file:
        for frame in frames[:done]:
            file.write(frame)
        run.attach(lambda: file.write(atoms) if run.nsteps > begun else None)  # ASE calls at the start of a run, too
        while done < wanted:
            begun, chunk = run.nsteps, min(_CHUNK, wanted - done)
            run.run(chunk)
            done += chunk
            spent.note("frozen")
            print(run.report_line(), flush=True)
    run.report(base.with_name(f"{base.name}.html"))


class Spent:
    """Seconds of the processor by phase, and engine calls with theirs; kept in a file."""

    def __init__(self, path: Path, run: LearningDynamics, engine: Timed):
        self.path, self.run, self.engine = path, run, engine
        self.sums: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
        self._cpu, self._wall, self._steps = time.process_time(), time.perf_counter(), run.nsteps

    def note(self, phase: str) -> None:
        """Book what was spent since the last time to a phase."""
        cpu, wall = time.process_time(), time.perf_counter()
        row = self.sums.setdefault(phase, {"cpu_s": 0.0, "wall_s": 0.0, "calls": 0, "engine_cpu_s": 0.0, "steps": 0})
        row["cpu_s"] += cpu - self._cpu
        row["wall_s"] += wall - self._wall
        row["calls"] += len(self.engine.cpu)
        row["engine_cpu_s"] += sum(self.engine.cpu)
        row["steps"] += self.run.nsteps - self._steps
        account, (low, high) = self.run.account, self.run.error.interval
        self.sums["lag_fs"] = 1000 * self.run.course.lag
        self.sums["account"] = {
            "segments": account.segments,
            "jumps": account.jumps,
            "audits": account.audits,
            "refused": account.refused,
            "returns to learning": account.returns,
            "error, % of thermal v": [self.run.error.value, low, high],
            "statistics": str(self.run.statistics),
        }
        self.run.save_restart(self.path.with_suffix(".restart"))
        self.engine.cpu.clear()
        self.engine.wall.clear()
        self._cpu, self._wall, self._steps = cpu, wall, self.run.nsteps
        self.path.write_text(json.dumps(self.sums, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
