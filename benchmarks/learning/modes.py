"""Formaldehyde judged without classical dynamics: temperature and wavenumber of each vibration, potential energy.

    python benchmarks/learning/modes.py RUNS

The engine is asked for the minimum, for forces about it (24 displacements of 0.01 Å) and for energies of some frames of
RUNS/molecule-learned.traj. Frames are turned onto the minimum, and their velocities, less those of the motion as a
rigid body, are projected on the normal modes: 2 K / k_B of each is the temperature of the run, if it is right, the
maximum of its spectrum is near the harmonic wavenumber, below it where the potential is softer, and the mean potential
energy is near that of six harmonic vibrations, 3 k_B T. RUNS/molecule-modes.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.io import read
from ase.optimize import BFGS
from scipy.signal import welch
from scipy.spatial.transform import Rotation
from systems import SYSTEMS

_DELTA = 0.01  # Å
_BLOCKS = 10
_WINDOW = 4.0  # ps, of spectra
_WAVENUMBER = 33.35641  # 1/cm of 1 THz


def minimum(atoms: Atoms) -> Atoms:
    """The relaxed structure."""
    BFGS(atoms, logfile=None).run(fmax=0.005, steps=100)
    return atoms


def normal_modes(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Wavenumbers (1/cm) of the vibrations, and their mass-weighted modes (modes, N, 3)."""
    places, root = atoms.get_positions(), np.repeat(np.sqrt(atoms.get_masses()), 3)
    hessian = np.empty((places.size, places.size))
    for k in range(places.size):
        forces = []
        for sign in (1, -1):
            moved = places.copy()
            moved.flat[k] += sign * _DELTA
            atoms.set_positions(moved)
            forces.append(atoms.get_forces().ravel())
        hessian[k] = (forces[1] - forces[0]) / (2 * _DELTA)
    atoms.set_positions(places)
    values, vectors = np.linalg.eigh((hessian + hessian.T) / (2 * np.outer(root, root)))
    omega = np.sqrt(values[6:]) * 1000 * units.fs  # 1/ps
    return omega / (2 * np.pi) * _WAVENUMBER, vectors[:, 6:].T.reshape(-1, len(atoms), 3)


def amplitudes(frames: list[Atoms], rest: Atoms, modes: np.ndarray) -> np.ndarray:
    """√m v of each frame along each mode, (frames, modes), in √(eV)."""
    masses = rest.get_masses()
    centred = rest.get_positions() - rest.get_center_of_mass()
    rows = []
    for frame in frames:
        x, v = frame.get_positions() - frame.get_center_of_mass(), frame.get_velocities()
        v = v - masses @ v / masses.sum()
        inertia = np.einsum("n,nij->ij", masses, np.eye(3) * (x**2).sum(1)[:, None, None] - x[:, :, None] * x[:, None])
        v -= np.cross(np.linalg.solve(inertia, (masses[:, None] * np.cross(x, v)).sum(0)), x)
        turn, _ = Rotation.align_vectors(centred, x, weights=masses)
        rows.append(np.einsum("knc,nc->k", modes, np.sqrt(masses)[:, None] * turn.apply(v)))
    return np.array(rows)


def with_error(values: np.ndarray) -> list[float]:
    """Mean and its error from blocks."""
    blocks = [part.mean() for part in np.array_split(values, _BLOCKS)]
    return [float(values.mean()), float(np.std(blocks, ddof=1) / np.sqrt(_BLOCKS))]


def main() -> None:
    """Minimum, modes, temperatures, spectra, energies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--name", default="learned")
    parser.add_argument("--energies", type=int, default=100, help="frames whose energy is asked for")
    options = parser.parse_args()
    system = SYSTEMS["molecule"]
    rest = system.build()
    rest.calc = engine = system.engine()
    lowest = minimum(rest).get_potential_energy()
    wavenumbers, modes = normal_modes(rest)
    frames = read(options.runs / f"molecule-{options.name}.traj", ":")
    along = amplitudes(frames, rest, modes)
    found: dict[str, Any] = {"frames": len(frames), "modes": []}
    for wavenumber, of in zip(wavenumbers, along.T, strict=True):
        frequencies, power = welch(of, 1000 / system.lag, nperseg=round(1000 * _WINDOW / system.lag))
        found["modes"].append(
            {
                "harmonic, 1/cm": float(wavenumber),
                "maximum of the spectrum, 1/cm": float(frequencies[power.argmax()] * _WAVENUMBER),
                "temperature, K": with_error(of**2 / units.kB),
            }
        )
    energies = []
    for index in np.linspace(0, len(frames) - 1, options.energies).round().astype(int):
        frame = frames[index].copy()
        frame.calc = engine
        energies.append(frame.get_potential_energy() - lowest)
    thermal = units.kB * system.temperature
    found["potential energy above the minimum, kT"] = with_error(np.array(energies) / thermal)
    found["of harmonic vibrations, kT"] = len(modes) / 2
    path = options.runs / "molecule-modes.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
