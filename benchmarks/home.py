"""Give the shipped models what tells them where they are at home: provenance and surroundings.

    python benchmarks/home.py copper-emt ala2-vacuum ala2-gbn2 ethanol-xtb --folder home-output

Frames are sampled as the training data of the models were: engine, temperatures, friction and time between frames; of
ethanol a third as many. Weights and everything else in the files stay. Training measures both for new models.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import MDAnalysis as mda
import torch
from hybrid_ala2 import Molecule, trajectory
from physics_systems import ASE_SYSTEMS

from fastegnn_md import Propagator, State
from fastegnn_md.data.topology import quiet
from fastegnn_md.engines.ase.calculators import describe_calculator
from fastegnn_md.engines.mdanalysis import state_from_universe
from fastegnn_md.engines.openmm.description import theory_of
from fastegnn_md.propagator.catalogue import Catalogue
from fastegnn_md.propagator.provenance import Provenance
from fastegnn_md.propagator.surroundings import Surroundings

_SHARE = {"ethanol-xtb": 3}  # xTB takes its time


def frames_of_ase(name: str, folder: Path) -> tuple[mda.Universe, str]:
    """Frames, and the level of theory."""
    system, paths = ASE_SYSTEMS[name], []
    for temperature, count in system.starts.items():
        paths.append(folder / f"{name}-{temperature:.0f}.trr")
        span = count // _SHARE.get(name, 1) * system.start_every
        system.classical(
            paths[-1],
            temperature=temperature,
            friction=10.0,
            span=span,
            every=system.start_every,
            seed=int(temperature),
            settle=2000.0,
        )
    topology = folder / f"{name}.pdb"
    system.write_topology(topology)
    return system.universe(topology, paths), describe_calculator(system.calculator())


def frames_of_openmm(name: str, folder: Path) -> tuple[mda.Universe, str]:
    """The same of alanine dipeptide."""
    molecule, paths = Molecule(name.removeprefix("ala2-")), []
    for temperature in (300.0, 450.0):
        paths.append(folder / f"{name}-{temperature:.0f}.dcd")
        trajectory(
            molecule, paths[-1], frames=5000, every=0.1, friction=10.0, seed=int(temperature), temperature=temperature
        )
    topology = folder / f"{name}.pdb"
    with open(topology, "w", encoding="utf-8") as file:
        molecule.pdb.writeFile(molecule.topology, molecule.pdb.positions, file)
    universe = mda.Universe(str(topology), *map(str, paths))
    universe.add_bonds([(bond[0].index, bond[1].index) for bond in molecule.topology.bonds()])
    return universe, theory_of(molecule.system())


def states_of(universe: mda.Universe) -> list[State]:
    """Positions of all frames, in an order that mixes the runs; who the atoms are is asked once."""
    first = state_from_universe(universe.atoms, velocities="zero")
    states = []
    for frame in universe.trajectory:
        states.append(first.replace(positions=torch.tensor(frame.positions, dtype=torch.float64)))
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(0))
    return [states[k] for k in order.tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=sorted(Catalogue().entries))
    parser.add_argument("--folder", type=Path, default=Path("home-output"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    for name in arguments.models:
        entry, path = Catalogue().entries[name], Catalogue().path(name)
        with quiet():
            universe, theory = (frames_of_openmm if name.startswith("ala2") else frames_of_ase)(name, arguments.folder)
            states = states_of(universe)
        start, end = State.concatenate(states[:-1]), State.concatenate(states[1:])
        propagator = Propagator.load(path)
        measured = Surroundings.measure(start, propagator.config.cutoff)
        assert measured is not None
        propagator.surroundings = measured.to(propagator.dtype)
        propagator.provenance = Provenance.measure(
            start,
            end,
            [{"engine": entry.engine, "theory": theory, "charge": 0.0}],
            package=propagator.provenance.package if propagator.provenance else "fastegnn_md 0.1.0",
        ).model_copy(update={"temperature_K": entry.temperature_K, "held_atoms": False})
        propagator.save(path)
        print(f"{name}: {propagator.provenance.model_dump_json(indent=1)}")


if __name__ == "__main__":
    main()
