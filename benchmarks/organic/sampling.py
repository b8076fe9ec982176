"""One molecule: conformers by RDKit, frames by Langevin dynamics, bursts by ``harvest``, all with GFN2-xTB."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.io import Trajectory
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from engine import xtb
from lists import Molecule, seed_of
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from fastegnn_md.data.ase_files import TIME, ase_universe
from fastegnn_md.harvest import harvest

FRICTION = 20.0  # 1/ps
SETTLE = 60  # steps of 1 fs that are dropped
EVERY = 20  # steps of 1 fs between starting frames
STRETCH = 1.4  # a bond this many times as long as in the conformer is broken
TIMES = {"burst": "16 fs", "interval": "2 fs", "timestep": "0.5 fs"}


@dataclass(frozen=True)
class Plan:
    """How a molecule is sampled: temperatures in K, number of bursts and of runs they start from, mass of hydrogen."""

    low: float
    high: float
    bursts: int
    runs: int
    hydrogen: float | None = None  # u, if not the natural mass


def training_plan(n_atoms: int) -> Plan:
    """About 1,000 force calls of a molecule of 17 atoms; fewer bursts of larger ones, whose calls are dear."""
    bursts = 16 if n_atoms < 13 else 14 if n_atoms < 18 else 12
    return Plan(300.0, 600.0, bursts, 4 if n_atoms < 13 else 3)


def exam_plan(n_atoms: int) -> Plan:
    """The same for molecules of any size, at the temperature of the exam."""
    return Plan(350.0, 350.0, 10, 2)


def conformers(smiles: str, seed: int, count: int) -> tuple[list[Atoms], np.ndarray]:
    """Conformers, relaxed by MMFF94 or UFF, and bonds (n, 2)."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    found = list(rdDistGeom.EmbedMultipleConfs(molecule, count, randomSeed=seed))
    if len(found) < count:
        found += list(rdDistGeom.EmbedMultipleConfs(molecule, count, randomSeed=seed, useRandomCoords=True))
    if not found:
        raise RuntimeError("RDKit finds no conformer")
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(molecule):
        rdForceFieldHelpers.UFFOptimizeMoleculeConfs(molecule)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    bonds = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()])
    places = [one.GetPositions() for one in molecule.GetConformers()]
    return [Atoms(symbols, places[index % len(places)]) for index in range(count)], bonds


def sample(molecule: Molecule, plan: Plan, path: Path) -> dict[str, Any]:
    """Write starting frames with velocities to a .traj file; returns what happened."""
    seed = seed_of(molecule.name)
    rng = np.random.default_rng(seed)
    starts, bonds = conformers(molecule.smiles, seed, plan.runs)
    frames: list[Atoms] = []
    temperatures, broken = [], 0
    counts = [len(part) for part in np.array_split(np.arange(plan.bursts), plan.runs)]
    for atoms, count in zip(starts, counts, strict=True):
        temperature = float(rng.uniform(plan.low, plan.high))
        temperatures.append(round(temperature, 1))
        lengths = _lengths(atoms.positions, bonds)
        if plan.hydrogen is not None:
            atoms.set_masses(np.where(atoms.numbers == 1, plan.hydrogen, atoms.get_masses()))
        atoms.calc = xtb()
        thermalize_momenta(atoms, 2 * temperature, rng=rng)  # half of it goes into the bonds
        dynamics = Langevin(
            atoms,
            units.fs,
            temperature_K=temperature,
            friction=FRICTION / (1000 * units.fs),
            rng=rng,
            fixcm=False,
        )
        dynamics.run(SETTLE)
        for _ in range(count):
            dynamics.run(EVERY)
            if (_lengths(atoms.positions, bonds) > STRETCH * lengths).any():
                broken += 1
                break
            frame = Atoms(atoms.numbers, atoms.positions, masses=atoms.get_masses(), momenta=atoms.get_momenta())
            frame.info[TIME] = 1e-3 * EVERY * (len(frames) + 1)
            frames.append(frame)
    if not frames:
        raise RuntimeError("every run broke a bond")
    part = path.with_suffix(".part.traj")
    with Trajectory(part, "w") as file:
        for frame in frames:
            file.write(frame)
    part.rename(path)
    return {"temperatures": temperatures, "frames": len(frames), "runs that broke a bond": broken}


def build(molecule: Molecule, plan: Plan, folder: Path) -> dict[str, Any]:
    """Sample and harvest one molecule; what happened is written beside the store and returned.

    A molecule whose engine gives up is dropped: its record says why, and it has no store.
    """
    record_path, store = folder / f"{molecule.name}.json", folder / f"{molecule.name}.h5"
    start = time.monotonic()
    record: dict[str, Any] = {"smiles": molecule.smiles, "atoms": molecule.n_atoms, "bursts": plan.bursts}
    path = folder / f"{molecule.name}.traj"
    try:
        # whatever a killed run left is made again, bit by bit the same, so that bursts in hand fit its frames
        record |= sample(molecule, plan, path)
        harvest(
            ase_universe(path),
            xtb,
            store=store,
            **TIMES,
            temperature=None,
            max_failed=0.25,
            progress=False,
            overwrite=True,
        )
    except Exception as error:  # any of RDKit, tblite, ASE and harvest: one molecule never ends the others
        record["dropped"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    record["seconds"] = round(time.monotonic() - start, 1)
    part = record_path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.rename(record_path)
    return record


def _lengths(x: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[bonds[:, 0]] - x[bonds[:, 1]], axis=1)
