"""How much of the forces of a protein force field changes under reflection: alanine dipeptide in vacuum.

    python benchmarks/mirror.py --output benchmarks/results/mirror.json

Frames of a Langevin run at 300 K with each force field, 1 ps apart, on the platform Reference; of each the forces and
those of its mirror image. The odd part f₋ = (f(x) - M f(Mx))/2 is what a network symmetric under reflection cannot
learn where both mirror images occur. "v over 8 fs" is what it does to velocities over a jump: f₋ Δt/m over the thermal
velocity √(k_B T/m), RMS over atoms. That is the error of a force-free propagator which predicts everything else.
CHARMM36 is taken in its release of 2024: OpenMM's older file leaves open which template the capped residue is.
"""

from __future__ import annotations

import argparse
import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from openmm import app

from fastegnn_md.data import mirror_asymmetry
from fastegnn_md.data.mirror import mirrored
from fastegnn_md.units import BOLTZMANN, KJ_PER_MOL

FORCE_FIELDS = {
    "Amber ff14SB": "amber14-all.xml",
    "Amber ff15ipq": "amber14/protein.ff15ipq.xml",
    "Amber ff19SB": "amber19-all.xml",
    "Amber FB15": "amberfb15.xml",
    "CHARMM36": "charmm36_2024.xml",
}
TEMPERATURE, JUMP = 300.0, 0.008  # K, ps


def may_be_odd(system: openmm.System) -> list[str]:
    """Terms that need not be even under reflection, by their kind and parameters."""
    found = set()
    for force in system.getForces():
        if isinstance(force, openmm.CMAPTorsionForce) and force.getNumTorsions():
            found.add("CMAP")
        if isinstance(force, openmm.PeriodicTorsionForce):
            phases = [force.getTorsionParameters(k)[5]._value for k in range(force.getNumTorsions())]
            if np.any(np.abs(np.sin(phases)) > 1e-6):
                found.add("torsion phases other than 0 and π")
    return sorted(found)


def measure(pdb: app.PDBFile, forcefield: str, frames: int) -> dict[str, Any]:
    """Odd part of the forces of one force field."""
    system = app.ForceField(forcefield).createSystem(pdb.topology, nonbondedMethod=app.NoCutoff)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 1.0, 0.001)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(pdb.positions)
    openmm.LocalEnergyMinimizer.minimize(context)
    context.setVelocitiesToTemperature(TEMPERATURE, 1)
    integrator.step(5000)
    places = []
    for _ in range(frames):
        integrator.step(1000)
        places.append(10.0 * context.getState(positions=True).getPositions(asNumpy=True)._value)

    def forces(x: np.ndarray, cell: np.ndarray | None) -> np.ndarray:
        context.setPositions(x / 10.0)
        return context.getState(forces=True).getForces(asNumpy=True)._value

    found = mirror_asymmetry(forces, [(x, None) for x in places])
    each = [mirror_asymmetry(forces, [(x, None)]) for x in places]
    mirror = np.array([1.0, 1.0, -1.0])
    odd = np.array([0.5 * (forces(x, None) - forces(*mirrored(x, None)) * mirror) for x in places])
    masses = np.array([system.getParticleMass(k)._value for k in range(system.getNumParticles())])[:, None]
    change = odd * (KJ_PER_MOL / 10.0) * JUMP / np.sqrt(masses * BOLTZMANN * TEMPERATURE)
    shares = np.array([one.share for one in each])
    return {
        "file": forcefield,
        "terms that may be odd": may_be_odd(system),
        "share of the RMS force": found.share,
        "share, 5 to 95 % of frames": np.quantile(shares, [0.05, 0.95]).tolist(),
        "largest of one atom": found.largest,
        "v over 8 fs, share of thermal": float(np.sqrt(np.square(change).mean())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with as_file(files("fastegnn_md").joinpath("assets", "ala2.pdb")) as path:
        pdb = app.PDBFile(str(path))
    rows = {}
    for name, forcefield in FORCE_FIELDS.items():
        rows[name] = measure(pdb, forcefield, arguments.frames)
        print(json.dumps({name: rows[name]}, ensure_ascii=False), flush=True)
    if arguments.output is not None:
        result = {"openmm": openmm.version.full_version, "frames": arguments.frames, "force fields": rows}
        arguments.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
