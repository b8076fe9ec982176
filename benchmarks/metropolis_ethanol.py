"""Engine calls per effective sample: learned kicks and drifts against plain hybrid Monte Carlo, ethanol with GFN2-xTB.

    python benchmarks/metropolis_ethanol.py kick-drift.safetensors --minutes 2 \\
        --reference physics-output/ethanol-xtb/reference-10-*.trr --output benchmarks/results/metropolis_ethanol.json

Plain hybrid Monte Carlo is leapfrog with the engine's forces, one call per step, over several lengths of trajectory
and steps; the learned one asks for one energy per proposal. Both go through the same Metropolis step and start from
the same relaxed molecule. Each run is written when it ends, and kept when the command is given again. An effective
sample is counted for each observable by pymbar's statistical inefficiency; the slowest bond length and the torsion
about C-O (sine and cosine, the slower of the two) are reported.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import MDAnalysis as mda
import numpy as np
import torch
from physics_systems import ETHANOL
from pymbar.timeseries import statistical_inefficiency
from scipy.spatial.distance import jensenshannon
from tqdm import tqdm

from fastegnn_md import Propagator, State
from fastegnn_md._files import write_atomically
from fastegnn_md.engines.ase.atoms import FORCE, PICOSECOND
from fastegnn_md.engines.ase.stepper import guess_bonds
from fastegnn_md.integrators import MetropolizedDynamics
from fastegnn_md.propagator.fake import FakePropagator

TEMPERATURE = 400.0
TORSION = (0, 1, 2, 3)  # C C O H in ase.build.molecule's order
# Step in fs, steps per proposal, friction of a partial refreshment in 1/ps (None draws velocities anew).
PLAIN = (
    *((1.0, steps, None) for steps in (8, 16, 32, 64)),
    *((1.0, steps, 10.0) for steps in (8, 16, 32)),
    *((1.5, steps, None) for steps in (16, 32)),
    *((2.0, steps, None) for steps in (4, 8, 16)),
)
LEARNED = ((1, None), (2, None), (4, None), (8, None), (1, 10.0), (2, 10.0))  # jumps per proposal, friction


class Leapfrog(FakePropagator):
    """Leapfrog (velocity Verlet) with the forces of the calculator: plain hybrid Monte Carlo's map."""

    def __init__(self, atoms: Any, step: float, steps: int):
        super().__init__(self._leap, 1e-3 * step * steps, reversible=True, volume_preserving=True)
        self.step, self.steps = 1e-3 * step, steps
        self._atoms = atoms.copy()
        self._atoms.calc = atoms.calc

    def _leap(self, state: State) -> State:
        x, v, mass = state.positions.numpy(), state.velocities.numpy(), state.masses.numpy()[:, None]
        v = v + 0.5 * self.step * self._forces(x) / mass  # known from the last proposal: no further call in practice
        for number in range(self.steps):
            x = x + self.step * v
            v = v + (1.0 if number + 1 < self.steps else 0.5) * self.step * self._forces(x) / mass
        return state.replace(positions=torch.from_numpy(x), velocities=torch.from_numpy(v))

    def _forces(self, x: np.ndarray) -> np.ndarray:
        self._atoms.positions = x
        return self._atoms.get_forces() * FORCE


def inefficiency(series: np.ndarray) -> float:
    """Steps per effective sample; all of them where nothing ever changed."""
    return float(statistical_inefficiency(series)) if np.ptp(series) > 0 else float(len(series))


def observe(atoms: Any, bonds: np.ndarray) -> tuple[np.ndarray, float]:
    """Bond lengths in Å and the torsion in radians."""
    x = atoms.positions
    return np.linalg.norm(x[bonds[:, 0]] - x[bonds[:, 1]], axis=1), np.deg2rad(atoms.get_dihedral(*TORSION))


def sample(
    propagator: Any, calls: int, jumps: int, friction: float | None, seconds: float, seed: int
) -> dict[str, Any]:
    """A run of ``seconds``; ``calls`` of the engine per proposal."""
    atoms = ETHANOL.atoms()
    bonds = guess_bonds(atoms)
    propagator = Leapfrog(atoms, *propagator) if isinstance(propagator, tuple) else propagator
    dynamics = MetropolizedDynamics(
        atoms,
        propagator,
        temperature_K=TEMPERATURE,
        friction=None if friction is None else friction / PICOSECOND,
        jumps=jumps,
        rng=seed,
        bonds=bonds,
    )
    dynamics.run(200)
    dynamics.metropolis.statistics = type(dynamics.statistics)()
    lengths, torsions, begun = [], [], time.perf_counter()
    while time.perf_counter() - begun < seconds:
        dynamics.run(1)
        length, torsion = observe(atoms, bonds)
        lengths.append(length)
        torsions.append(torsion)
    spent = time.perf_counter() - begun
    length, torsion = np.array(lengths), np.array(torsions)
    n = len(length)
    slowest = max(inefficiency(length[:, k]) for k in range(len(bonds)))
    turning = max(inefficiency(f(torsion)) for f in (np.cos, np.sin))
    return {
        "fs per proposal": 1e3 * dynamics.metropolis.timestep,
        "engine calls per proposal": calls,
        "friction, 1/ps": friction,
        "minutes": seconds / 60,
        "proposals": n,
        "acceptance": dynamics.statistics.acceptance,
        "engine calls per effective sample, slowest bond": calls * slowest,
        "engine calls per effective sample, torsion": calls * turning,
        "effective samples of the torsion": n / turning,
        "seconds per effective sample of the torsion": spent / n * turning,
        "bond lengths, Å": length.mean(axis=0).tolist(),
        "_lengths": length,
        "_torsion": torsion,
    }


def against_reference(run: dict[str, Any], references: list[Path], topology: Path) -> dict[str, Any]:
    """Bond lengths and torsion beside those of independent classical runs."""
    bonds, series = guess_bonds(ETHANOL.atoms()), []
    for path in references:
        universe = mda.Universe(str(topology), str(path))
        x = np.array([frame.positions.astype(float) for frame in universe.trajectory])
        length = np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=2)
        a, b, c, d = (x[:, k] for k in TORSION)
        n1, n2 = np.cross(a - b, c - b), np.cross(b - c, d - c)
        sign = np.sign(np.einsum("ij,ij->i", a - b, n2))
        cosine = np.einsum("ij,ij->i", n1, n2) / np.linalg.norm(n1, axis=1) / np.linalg.norm(n2, axis=1)
        series.append((length, sign * np.arccos(np.clip(cosine, -1, 1))))
    learned, found = run["_lengths"], {}
    mean = np.array([length.mean(axis=0) for length, _ in series])
    error = np.hypot(
        mean.std(axis=0, ddof=1) / np.sqrt(len(mean)),
        [learned[:, k].std() * np.sqrt(inefficiency(learned[:, k]) / len(learned)) for k in range(len(bonds))],
    )
    found["deviation of mean bond lengths, standard errors"] = (
        (learned.mean(axis=0) - mean.mean(axis=0)) / error
    ).tolist()

    def anti(torsion: np.ndarray) -> np.ndarray:
        return (np.abs((torsion + np.pi) % (2 * np.pi) - np.pi) > 2 * np.pi / 3).astype(float)

    shares = [anti(torsion).mean() for _, torsion in series]
    own = anti(run["_torsion"])
    bound = np.hypot(np.std(shares, ddof=1) / np.sqrt(len(shares)), own.std() * np.sqrt(inefficiency(own) / len(own)))
    found["share of anti conformers"] = {
        "learned": float(own.mean()),
        "reference": float(np.mean(shares)),
        "error": float(bound),
    }

    def histogram(torsion: np.ndarray) -> np.ndarray:  # of |torsion|: the molecule has a mirror plane
        wrapped = np.abs((torsion + np.pi) % (2 * np.pi) - np.pi)
        return np.histogram(wrapped, bins=50, range=(0, np.pi))[0] / len(torsion)

    pool = [histogram(torsion) for _, torsion in series]
    found["Jensen-Shannon distance of the torsion"] = {
        "learned": float(jensenshannon(histogram(run["_torsion"]), np.mean(pool, axis=0), base=2)),
        "reference run to the others, mean": float(
            np.mean(
                [jensenshannon(one, np.mean(pool[:k] + pool[k + 1 :], axis=0), base=2) for k, one in enumerate(pool)]
            )
        ),
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a propagator of kind kick-drift")
    parser.add_argument("--minutes", type=float, default=1.0, help="of each run")
    parser.add_argument("--reference", type=Path, nargs="*", default=[])
    parser.add_argument("--topology", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    propagator = Propagator.load(arguments.model)
    propagator.compile()
    jobs: list[tuple[str, Any, int, int, float | None]]
    jobs = [("plain", (step, steps), steps, 1, friction) for step, steps, friction in PLAIN]
    jobs += [("learned", propagator, 1, jumps, friction) for jumps, friction in LEARNED]
    result: dict[str, Any] = {"torch": torch.__version__, "plain": [], "learned": []}
    if arguments.output is not None and arguments.output.exists():
        result = json.loads(arguments.output.read_text(encoding="utf-8"))
    for kind, what, calls, jumps, friction in tqdm(jobs, desc="runs"):
        name = f"{what[1]} x {what[0]:g} fs" if kind == "plain" else f"{jumps} x {1e3 * propagator.timestep:g} fs"
        name += "" if friction is None else f", {friction:g}/ps"
        if name in (row["run"] for row in result[kind]):
            continue
        row = {"run": name, **sample(what, calls, jumps, friction, 60 * arguments.minutes, seed=1)}
        if arguments.reference:
            row["reference"] = against_reference(row, arguments.reference, arguments.topology)
        result[kind].append({key: value for key, value in row.items() if key[0] != "_"})
        tqdm.write(json.dumps(result[kind][-1]))
        if arguments.output is not None:
            write(result, arguments.output)


def write(result: dict[str, Any], path: Path) -> None:
    """All runs so far, and the best of both kinds beside each other once there are some of both."""
    if result["plain"] and result["learned"]:
        for what in ("slowest bond", "torsion"):
            key = f"engine calls per effective sample, {what}"
            best = {kind: min(row[key] for row in result[kind]) for kind in ("plain", "learned")}
            result[f"plain over learned, {what}"] = best["plain"] / best["learned"]
    write_atomically(path, (json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
