"""Groups that turn into themselves about a bond: found by topology, relabelled, and never mirrored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import molecule as ase_molecule

from fastegnn_md import State
from fastegnn_md.engines.ase import guess_bonds
from fastegnn_md.graph.stereo import signed_volumes, tetrahedra
from fastegnn_md.propagator.alignment import aligned
from fastegnn_md.propagator.molecules import Molecules
from fastegnn_md.propagator.rotors import Rotor, rotors_of

CASES = {  # shapes (branches, atoms of each) of the rotors of molecules, outer ones first
    "isobutane": [(3, 4), (3, 1), (3, 1), (3, 1)],
    "HCOOH": [],
    "CH3NO2": [(3, 1), (2, 1)],
    "CH3CONH2": [(3, 1), (2, 1)],
    "CH3COCH3": [(3, 1), (3, 1)],  # two methyl groups exchange places when the whole molecule turns
    "C6H6": [],
    "CH4": [],
    "trans-butane": [(3, 1), (3, 1)],
    "C5H8": [],
}


def state_of(atoms) -> State:
    return State(
        positions=torch.tensor(atoms.positions),
        velocities=torch.zeros(len(atoms), 3, dtype=torch.float64),
        numbers=torch.tensor(atoms.numbers).long(),
        masses=torch.tensor(atoms.get_masses()),
        bonds=torch.as_tensor(guess_bonds(atoms)).long(),
    )


def toluene():
    """A methyl group on a phenyl ring: benzene with one hydrogen replaced."""
    atoms = ase_molecule("C6H6")
    carbon = 0
    hydrogen = int(np.argmin([atoms.get_distance(carbon, k) if atoms.numbers[k] == 1 else 9 for k in range(12)]))
    out = atoms.positions[hydrogen] - atoms.positions[carbon]
    out /= np.linalg.norm(out)
    place = atoms.positions[carbon] + 1.51 * out
    across = np.cross(out, [0, 0, 1.0])
    hydrogens = [
        place + 1.09 * (0.33 * out + 0.94 * (np.cos(angle) * across + np.sin(angle) * np.array([0, 0, 1.0])))
        for angle in (0.3, 0.3 + 2 * np.pi / 3, 0.3 + 4 * np.pi / 3)
    ]
    atoms.positions[hydrogen] = place
    atoms.numbers[hydrogen] = 6
    for one in hydrogens:
        atoms.append("H")
        atoms.positions[-1] = one
    return atoms


def shapes(state: State) -> list[tuple[int, int]]:
    found: tuple[Rotor, ...] = Molecules.of(state).rotors
    return [tuple(rotor.atoms.shape[1:]) for rotor in found]


@pytest.mark.parametrize("name", CASES)
def test_are_found_by_topology(name):
    assert sorted(shapes(state_of(ase_molecule(name)))) == sorted(CASES[name])
    sizes = [size for _, size in shapes(state_of(ase_molecule(name)))]
    assert sizes == sorted(sizes, reverse=True)


def test_of_a_ring_that_flips_are_its_pairs():
    state = state_of(toluene())
    assert shapes(state) == [(2, 4), (3, 1)]  # ortho and meta, carbon and hydrogen
    ring = Molecules.of(state).rotors[0].atoms
    assert sorted(state.numbers[ring[0, 0]].tolist()) == [1, 1, 6, 6]


def test_branches_with_centres_of_unknown_handedness_are_left():
    # Three ethyl groups on one atom: bonds do not tell which hydrogen of a CH2 group is which in the next branch.
    numbers, bonds = [6, 9], [(0, 1)]
    for _ in range(3):
        first = len(numbers)
        numbers += [6, 1, 1, 6, 1, 1, 1]
        bonds += [(0, first), (first, first + 1), (first, first + 2), (first, first + 3)]
        bonds += [(first + 3, first + 3 + k) for k in (1, 2, 3)]
    found = rotors_of(tuple(numbers), tuple(bonds))
    assert [tuple(rotor.atoms.shape) for rotor in found] == [(1, 3, 1)] * 3


@pytest.mark.parametrize("name", ["isobutane", "CH3NO2", "CH3CONH2", "CH3COCH3", "toluene"])
def test_like_parts_that_exchanged_places_are_named_as_they_were(name):
    """Each molecule of a batch after other turns of its rotors, one inside the other."""
    one = state_of(toluene() if name == "toluene" else ase_molecule(name))
    rng, ends = np.random.default_rng(0), []
    for _ in range(6):
        moved = one.positions
        for rotor in reversed(Molecules.of(one).rotors):  # inner ones first: outer ones carry them along
            places = moved[rotor.atoms[0].roll(int(rng.integers(rotor.atoms.shape[1])), 0)]
            moved = moved.index_copy(0, rotor.atoms.flatten(), places.flatten(0, 1))
        ends.append(one.replace(positions=_proper(one, moved)))
    x, y = State.concatenate([one] * 6), State.concatenate(ends).positions
    assert (y - x.positions).norm(dim=1).max() > 1.0
    for rotor in Molecules.of(x).rotors:
        y = rotor.nearest(x.positions, y)
    assert torch.allclose(y, x.positions, atol=1e-12)


def _proper(one: State, moved: torch.Tensor) -> torch.Tensor:
    """Positions whose methyl groups have the handedness that they had."""
    centres = tetrahedra(one.bonds, one.n_atoms)
    if not len(centres):
        return moved
    turned = signed_volumes(one.positions, centres) * signed_volumes(moved, centres) < 0
    moved = moved.clone()
    for centre in centres[turned]:
        hydrogens = [int(k) for k in centre[1:] if one.numbers[k] == 1][:2]
        moved[hydrogens] = moved[hydrogens[::-1]]
    return moved


def test_a_mirrored_group_is_not_mended():
    """Two hydrogens of one methyl group exchanged is another molecule, inside a tert-butyl group, too."""
    state = state_of(ase_molecule("CH3CONH2"))
    trio = next(rotor for rotor in Molecules.of(state).rotors if rotor.atoms.shape[1] == 3).atoms.flatten()
    moved = state.positions.clone()
    moved[trio[:2]] = moved[trio[:2].flip(0)]
    back = aligned(state, state.replace(positions=moved), Molecules.of(state).rotors)
    assert (back.positions - state.positions).norm(dim=1).max() > 0.5
