"""Classical dynamics for the judge: energies of frames, and shots from a start beside draws from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import openmm
import torch
from molecules import peptide
from openmm import unit
from simulate import STEP

from fastegnn_md.report.page import Table
from fastegnn_md.state import State
from fastegnn_md.validation.observables.basins import named_basins
from fastegnn_md.validation.observables.shots import compare_shots
from fastegnn_md.validation.rows import Finding

if TYPE_CHECKING:
    from judge import Trajectories

    from fastegnn_md.propagator import Propagator

_STARTS, _BARRIERS = 8, 3
_BATCH = 100  # draws in one call


def _context(name: str, kelvin: float) -> openmm.Context:
    integrator = openmm.LangevinMiddleIntegrator(kelvin * unit.kelvin, 1 / unit.picosecond, STEP * unit.picoseconds)
    integrator.setRandomNumberSeed(7)
    return openmm.Context(peptide(name).system(), integrator, openmm.Platform.getPlatformByName("Reference"))


def energies(name: str, frames: np.ndarray) -> np.ndarray:
    """Potential energies of frames (F, N, 3) in Å, kJ/mol."""
    context = _context(name, 300)
    found = []
    for frame in frames:
        context.setPositions(0.1 * frame.astype(np.float64))
        energy = context.getState(getEnergy=True).getPotentialEnergy()
        found.append(energy.value_in_unit(unit.kilojoule_per_mole))
    return np.array(found)


def dynamics(name: str, start: np.ndarray, shots: int, time: float, kelvin: float, seed: int) -> np.ndarray:
    """Where shots of a time in ps with velocities of their own come to, shape (shots, N, 3), Å."""
    context, ends = _context(name, kelvin), []
    for shot in range(shots):
        context.setPositions(0.1 * start.astype(np.float64))
        context.applyConstraints(1e-6)
        context.setVelocitiesToTemperature(kelvin, 1 + seed * shots + shot)
        context.getIntegrator().step(round(time / STEP))
        ends.append(context.getState(getPositions=True).getPositions(asNumpy=True).value_in_unit(unit.angstrom))
    return np.array(ends)


def draws(propagator: Propagator, name: str, start: np.ndarray, count: int, kelvin: float, seed: int) -> np.ndarray:
    """Draws from a start, shape (count, N, 3), Å, as they come from the network."""
    molecule = peptide(name)
    atoms = list(molecule.topology.atoms())
    x = torch.from_numpy(start.astype(np.float64)).to(propagator.dtype)
    one = State(
        positions=x,
        velocities=torch.zeros_like(x),
        masses=x.new_tensor([atom.element.mass.value_in_unit(unit.dalton) for atom in atoms]),
        numbers=torch.tensor([atom.element.atomic_number for atom in atoms]),
        bonds=torch.tensor([[a.index, b.index] for a, b in molecule.topology.bonds()]),
    )
    generator, found = torch.Generator().manual_seed(seed), []
    while len(found) < count:
        batch = State.concatenate([one] * min(_BATCH, count - len(found)))
        ended = propagator(batch, generator=generator, temperature=kelvin)
        found += [state.positions.numpy() for state in ended.split()]
    return np.array(found)


def starts(reference: Trajectories, count: int = _STARTS) -> np.ndarray:
    """Frames of the reference: on the way between C7eq and alphaR, then from each basin in turn."""
    rng = np.random.default_rng(3)
    frames, angles = np.concatenate(reference.positions), np.concatenate(reference.angles)
    phi, psi = (angles[:, column] for column in reference.pairs[0])
    basin = named_basins(np.stack([phi, psi], axis=-1))
    between = np.flatnonzero((np.abs(psi - 60) < 8) & (phi < 0))
    chosen = list(rng.choice(between if len(between) else len(frames), _BARRIERS))
    while len(chosen) < count:
        there = np.flatnonzero(basin == len(chosen) % 5)
        chosen.append(rng.choice(there if len(there) else len(frames)))
    return frames[chosen]


def shot_row(propagator: Propagator, reference: Trajectories, name: str, shots: int, kelvin: float) -> Finding:
    """At how many starts draws are told from shots of dynamics, with what and by how much."""
    ours, theirs = [], []
    for seed, start in enumerate(starts(reference)):
        ours.append(draws(propagator, name, start, shots, kelvin, seed))
        theirs.append(dynamics(name, start, shots, propagator.timestep, kelvin, seed))
    angles = [np.array([reference.angles_of(one) for one in every]) for every in (ours, theirs)]
    features = [np.concatenate([np.cos(np.radians(one)), np.sin(np.radians(one))], axis=-1) for one in angles]
    basins = [named_basins(one[..., list(reference.pairs[0])]) for one in angles]
    found = compare_shots(*features, *basins, 5, np.random.default_rng(0))
    rows: list[list[object]] = [
        [k, float(d), float(limit), *map(float, a), *map(float, b)]
        for k, (d, limit, a, b) in enumerate(
            zip(found.distances, found.limits, found.learned, found.reference, strict=True)
        )
    ]
    names = ["C5", "C7eq", "alphaR", "alphaL", "C7ax"]
    columns = [
        "start",
        "energy distance",
        "chance",
        *(f"{one}, drawn" for one in names),
        *(f"{one}, MD" for one in names),
    ]
    note = f"{shots} draws and {shots} shots from each of {len(rows)} starts; the more of them the finer they tell"
    return Finding(found.told_apart, 0, note, tables=(Table(columns, rows),))
