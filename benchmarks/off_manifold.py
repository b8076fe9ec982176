"""Why jumps break off the training manifold: alanine dipeptide trained with bonds to hydrogen fixed, then run without.

    python benchmarks/off_manifold.py --folder off-manifold --output benchmarks/results/off_manifold.json

Models of the same size and number of updates: trained as they are, with noise on the starts, on wider bursts
(500 K), with bonds not fixed, and on top of no linear predictor. Each is asked what it makes of a bond to hydrogen
that is too long or stretches: the largest eigenvalue of this two by two map says whether jumps pull back (below one)
or away; and how many jumps it takes, without projection onto constraints, until a bond to hydrogen is shorter than 0.7
or longer than 1.5 Å.
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
from alanine import AlanineDipeptide
from openmm import LangevinMiddleIntegrator, LocalEnergyMinimizer, app, unit

from fastegnn_md import Propagator, State
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.errors import FastEGNNMDError
from fastegnn_md.harvest import harvest
from fastegnn_md.propagator import PropagatorConfig
from fastegnn_md.propagator.linear import LinearPredictor
from fastegnn_md.training import TrainingConfig, fit

LAG = 8.0  # fs
CASES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "noise 0.1": {"noise": 0.1},
    "noise 0.3": {"noise": 0.3},
    "bursts at 500 K": {"kelvin": 500},
    "no linear predictor": {"linear": False},
    "bonds not fixed": {"fixed": False},
}
NETWORK = PropagatorConfig(hidden=32, layers=3)


def pairs(folder: Path, kelvin: int, fixed: bool) -> TrajectoryPairs:
    """Bursts of 24 fs from a classical run."""
    name = f"{kelvin}K-{'fixed' if fixed else 'free'}"
    peptide, store = AlanineDipeptide(), folder / f"{name}.h5md"
    if not fixed:
        peptide.system = app.ForceField("amber14-all.xml").createSystem(
            peptide.topology, constraints=None, removeCMMotion=False
        )
    if not store.exists():
        step = 0.002 if fixed else 0.0005
        peptide.write_topology(folder / "ala2.pdb")
        integrator = LangevinMiddleIntegrator(kelvin * unit.kelvin, 10 / unit.picosecond, step * unit.picoseconds)
        integrator.setRandomNumberSeed(1)
        simulation = app.Simulation(peptide.topology, peptide.system, integrator, peptide.platform)
        simulation.context.setPositions(peptide._start)
        LocalEnergyMinimizer.minimize(simulation.context)
        simulation.context.setVelocitiesToTemperature(kelvin * unit.kelvin, 2)
        simulation.step(round(2 / step))
        simulation.reporters.append(app.DCDReporter(str(folder / f"{name}.dcd"), round(0.05 / step)))
        simulation.step(round(20 / step))
        simulation.reporters.clear()
        universe = mda.Universe(str(folder / "ala2.pdb"), str(folder / f"{name}.dcd"))
        harvest(universe, peptide.system, store=store, burst="24 fs", interval="8 fs", temperature=kelvin)
    return TrajectoryPairs(store, lag=f"{LAG} fs", time_reversal=True)


def trained(folder: Path, name: str, updates: int) -> tuple[Propagator, State, float]:
    """A model, a batch of held-out starts of the fixed bonds at 300 K, and the error in v over the best baseline."""
    case = dict(CASES[name])
    kelvin, fixed, linear = case.pop("kelvin", 300), case.pop("fixed", True), case.pop("linear", True)
    training, validation = pairs(folder, kelvin, fixed).split((0.9, 0.1))
    config = TrainingConfig(propagator=NETWORK, updates=updates, validation_pairs=256, logger="none", seed=1, **case)
    fitted = LinearPredictor.fit
    if not linear:
        LinearPredictor.fit = _fit_scale  # type: ignore[method-assign]
    try:
        result = fit(training, validation, config)
    finally:
        LinearPredictor.fit = fitted  # type: ignore[method-assign]
    _, held_out = pairs(folder, 300, True).split((0.9, 0.1))
    starts = held_out.batch(range(0, len(held_out) // 2, max(1, len(held_out) // 40)))[0]
    return result.propagator.double(), starts.to(dtype=torch.float64), result.metrics["over_best_baseline"]["v"]


def _fit_scale(self: LinearPredictor, start: State, end: State, species: Any, **_: Any) -> None:
    """Atoms stay where they are and stop; the network predicts displacements and velocities themselves."""
    root = start.masses.double().sqrt()[:, None]
    left = root * (end.positions.double() - start.positions.double()), root * end.velocities.double()
    for index in range(len(self.scale)):
        for kind, residual in enumerate(left):
            self.scale[index, kind] = residual[species == index].square().mean().sqrt()


def hydrogens(state: State) -> torch.Tensor:
    """Bonds to hydrogen (M, 2), the hydrogen second."""
    assert state.bonds is not None
    numbers = state.numbers[state.bonds]
    bonds = torch.where((numbers[:, :1] == 1), state.bonds.flip(1), state.bonds)
    return bonds[(numbers == 1).any(1)]


@torch.no_grad()
def response(propagator: Propagator, state: State) -> dict[str, float]:
    """What a stretch of one bond to hydrogen by 0.02 Å, or of its velocity alike, becomes; mean over bonds."""
    blocks, free, step, dt = [], propagator(state), 0.02, propagator.timestep
    bonds = hydrogens(state)
    for bond in bonds[:: max(1, len(bonds) // 12)]:
        i, j = bond.tolist()
        along = state.positions[j] - state.positions[i]
        along = along / along.norm()
        columns = []
        for field, size in (("positions", step), ("velocities", step / dt)):
            changed = getattr(state, field).clone()
            changed[j] += size * along
            ended = propagator(state.replace(**{field: changed}))
            apart = [getattr(ended, one) - getattr(free, one) for one in ("positions", "velocities")]
            columns.append(
                [float((one[j] - one[i]) @ along) * factor / step for one, factor in zip(apart, (1, dt), strict=True)]
            )
        blocks.append(np.array(columns).T)
    radius = [float(np.abs(np.linalg.eigvals(one)).max()) for one in blocks]
    mean = np.mean(blocks, axis=0)
    return {
        "length to length": float(mean[0, 0]),
        "largest eigenvalue, mean": float(np.mean(radius)),
        "share above one": float(np.mean(np.array(radius) > 1)),
    }


@torch.no_grad()
def jumps(propagator: Propagator, state: State, most: int) -> int:
    """Jumps until a bond to hydrogen is shorter than 0.7 or longer than 1.5 Å."""
    bonds = hydrogens(state)
    for number in range(most):
        try:
            state = propagator(state)
        except FastEGNNMDError:
            return number
        length = (state.positions[bonds[:, 0]] - state.positions[bonds[:, 1]]).norm(dim=1)
        if not bool(((length > 0.7) & (length < 1.5)).all()):
            return number + 1
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("off-manifold"))
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--most", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=Path("off_manifold.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, Any] = {}
    for name in CASES:
        begun = time.process_time()
        propagator, batch, error = trained(arguments.folder, name, arguments.updates)
        spent, states = time.process_time() - begun, batch.split()[:12]
        found = [response(propagator, state) for state in states]
        lasting = [jumps(propagator, state, arguments.most) for state in states]
        rows[name] = {
            "v over best baseline": error,
            **{key: float(np.mean([one[key] for one in found])) for key in found[0]},
            "jumps until a bond breaks, median, least": [float(np.median(lasting)), min(lasting)],
            "CPU s": spent,
        }
        print(name, json.dumps(rows[name]), flush=True)
        arguments.output.write_text(json.dumps({"updates": arguments.updates, "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
