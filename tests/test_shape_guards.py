"""Guards of maps that redraw whole molecules: handedness, and torsions where training never was."""

from __future__ import annotations

import json
import math
from importlib.resources import as_file, files

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import read

from fastegnn_md.engines.ase.atoms import state_from_atoms
from fastegnn_md.engines.ase.stepper import guess_bonds
from fastegnn_md.errors import CheckpointError, DataError
from fastegnn_md.graph.stereo import dihedral_angles, signed_volumes, stereocentres, torsions
from fastegnn_md.integrators import step
from fastegnn_md.integrators.engine import Classical
from fastegnn_md.integrators.guards import PASSED, GuardSettings, check_jump, check_shape
from fastegnn_md.integrators.ranges import Ranges
from fastegnn_md.mechanics.constraints import no_constraints
from fastegnn_md.propagator.fake import FakePropagator, permissive_domain
from fastegnn_md.propagator.limits import JumpLimits
from fastegnn_md.state import State

WIDE = GuardSettings(displacement_factor=1e3, bond_margin=0.9)


def with_bonds(atoms) -> State:
    return state_from_atoms(atoms).replace(bonds=torch.from_numpy(guess_bonds(atoms)))


@pytest.fixture(scope="module")
def dipeptide() -> State:
    with as_file(files("fastegnn_md") / "assets" / "ala2.pdb") as path:
        return with_bonds(read(path))


def mirrored(state: State) -> State:
    return state.replace(positions=state.positions * torch.tensor([1.0, 1.0, -1.0], dtype=state.dtype))


def turned(state: State, chain, degrees: float) -> State:
    """The state with the atoms behind the bond chain[1]-chain[2] turned about it."""
    _, b, c, _ = chain
    behind, grown = {c}, True
    while grown:
        more = {k for pair in state.bonds.tolist() for k in pair if behind & set(pair) and set(pair) != {b, c}} - {b}
        grown = bool(more - behind)
        behind |= more
    place = sorted(behind)
    axis = torch.nn.functional.normalize(state.positions[c] - state.positions[b], dim=0)
    arm, angle = state.positions[place] - state.positions[b], math.radians(degrees)
    along = (arm @ axis)[:, None] * axis
    positions = state.positions.clone()
    across = torch.linalg.cross(axis.expand_as(arm), arm)
    positions[place] = state.positions[b] + along + math.cos(angle) * (arm - along) + math.sin(angle) * across
    return state.replace(positions=positions)


def peptide_bond(state: State) -> list[int]:
    """Carbon, carbonyl carbon, nitrogen, carbon: a torsion that is near 180°."""
    chains = torsions(state.bonds).tolist()
    for chain in chains + [chain[::-1] for chain in chains]:
        beside = {k for pair in state.bonds.tolist() if chain[1] in pair for k in pair}
        if state.numbers[chain].tolist() == [6, 6, 7, 6] and 8 in state.numbers[list(beside)]:
            return chain
    raise AssertionError("no peptide bond")


def test_a_stereocentre_has_four_different_neighbours(dipeptide):
    centres = stereocentres(dipeptide.numbers, dipeptide.bonds)
    assert len(centres) == 1  # Cα; methyls have hydrogens alike
    assert sorted(dipeptide.numbers[centres[0]].tolist()) == [1, 6, 6, 6, 7]
    assert not len(stereocentres(*_of(with_bonds(molecule("C3H8")))))
    # Far ends tell neighbours apart: bromine five bonds away.
    chain = torch.tensor([6] * 7 + [1, 35])
    bonds = torch.tensor([[3, 2], [2, 1], [1, 0], [3, 4], [4, 5], [5, 6], [3, 7], [6, 8]])
    assert not len(stereocentres(chain, bonds))  # three neighbours
    both = torch.cat([chain, torch.tensor([17])]), torch.cat([bonds, torch.tensor([[3, 9]])])
    assert stereocentres(*both)[0, 0] == 3
    alike = both[0].clone()
    alike[8] = 1
    ends = torch.cat([both[1], torch.tensor([[0, 10]])])
    assert not len(stereocentres(torch.cat([alike, torch.tensor([1])]), ends))


def _of(state: State):
    return state.numbers, state.bonds


def test_volumes_change_sign_in_the_mirror_and_dihedrals_too(dipeptide):
    centres, chains = stereocentres(*_of(dipeptide)), torsions(dipeptide.bonds)
    other = mirrored(dipeptide)
    torch.testing.assert_close(signed_volumes(other.positions, centres), -signed_volumes(dipeptide.positions, centres))
    here, there = (dihedral_angles(one.positions, chains) for one in (dipeptide, other))
    torch.testing.assert_close(here.cos(), there.cos())
    torch.testing.assert_close(here.sin(), -there.sin())


def test_dihedrals_are_those_of_ase(dipeptide):
    with as_file(files("fastegnn_md") / "assets" / "ala2.pdb") as path:
        atoms = read(path)
    chains = torsions(dipeptide.bonds)
    expected = torch.tensor([atoms.get_dihedral(*map(int, chain)) for chain in chains], dtype=torch.float64)
    found = torch.rad2deg(dihedral_angles(dipeptide.positions, chains)) % 360
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def ranges(state: State, limits: JumpLimits) -> Ranges:
    return Ranges.of(state, limits, 1e3, 0.9, redrawn=True)


def test_a_jump_that_changes_the_hand_is_refused_and_a_mirrored_molecule_is_not(dipeptide):
    limits = JumpLimits({})
    report = check_shape(dipeptide, mirrored(dipeptide), ranges(dipeptide, limits))
    centre = int(stereocentres(*_of(dipeptide))[0, 0])
    assert (report.ok, report.guard, report.atom) == (False, "chirality", centre)
    other = mirrored(dipeptide)
    assert check_shape(other, other, ranges(other, limits)).ok
    # Two neighbours exchanged by one jump, all else as it was.
    hydrogen, methyl = (k for k in stereocentres(*_of(dipeptide))[0, 1:].tolist() if _leaf(dipeptide, k))
    swapped = dipeptide.positions.clone()
    swapped[[hydrogen, methyl]] = swapped[[methyl, hydrogen]]
    assert check_shape(dipeptide, dipeptide.replace(positions=swapped), ranges(dipeptide, limits)).guard == "chirality"


def _leaf(state: State, atom: int) -> bool:
    """Hydrogen, or the carbon of a methyl group."""
    others = [k for pair in state.bonds.tolist() if atom in pair for k in pair if k != atom]
    return state.numbers[atom] == 1 or sum(int(state.numbers[k]) == 1 for k in others) == 3


def test_a_cis_peptide_bond_is_refused_where_training_had_none(dipeptide):
    omega = peptide_bond(dipeptide)
    trained = [turned(dipeptide, omega, angle) for angle in (-12.0, 0.0, 12.0)]
    limits = JumpLimits.from_pairs(trained[0], trained[1], torsions=True).with_torsions(trained[1], trained[2])
    limits = JumpLimits({}, torsions=limits.torsions)
    cis = turned(dipeptide, omega, 180.0)
    report = check_jump(dipeptide, cis, limits, WIDE)
    assert (report.ok, report.guard) == (False, "torsion")
    assert "where training never was" in report.message
    assert check_jump(dipeptide, turned(dipeptide, omega, 20.0), limits, WIDE).ok  # the next bin
    # A mirror image is at home as well, and its cis bond is refused as well.
    assert check_jump(mirrored(dipeptide), mirrored(trained[2]), limits, WIDE).ok
    assert check_jump(mirrored(dipeptide), mirrored(cis), limits, WIDE).guard == "torsion"


def test_torsions_are_those_of_a_kind_in_any_molecule(dipeptide):
    """Atoms in another order, and two molecules in one batch, are held against the same table."""
    limits = JumpLimits.from_pairs(dipeptide, dipeptide, torsions=True)
    n = dipeptide.n_atoms
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    shuffled = State(
        positions=dipeptide.positions[order],
        velocities=dipeptide.velocities[order],
        numbers=dipeptide.numbers[order],
        masses=dipeptide.masses[order],
        bonds=place[dipeptide.bonds].flip(1),
    )
    assert JumpLimits.from_pairs(shuffled, shuffled, torsions=True).torsions == limits.torsions
    twice = State.concatenate([dipeptide, shuffled])
    assert JumpLimits.from_pairs(twice, twice, torsions=True).torsions == limits.torsions
    assert check_jump(shuffled, shuffled, limits, WIDE).ok
    bad = turned(shuffled, peptide_bond(shuffled), 90.0)
    assert check_jump(shuffled, bad, JumpLimits({}, torsions=limits.torsions), WIDE).guard == "torsion"


def test_the_table_is_plain_json_and_absent_from_old_files(dipeptide):
    limits = JumpLimits.from_pairs(dipeptide, dipeptide, torsions=True)
    assert JumpLimits.from_dict(json.loads(json.dumps(limits.to_dict()))) == limits
    assert "torsions" not in JumpLimits.from_pairs(dipeptide, dipeptide).to_dict()
    with pytest.raises(CheckpointError, match="cannot be read"):
        JumpLimits.from_dict({**limits.to_dict(), "torsions": [[1, 2, 3]]})
    with pytest.raises(DataError, match="visited the bins"):
        JumpLimits({}, torsions={(1, 2, 3, 4): 0})


def test_without_bonds_nothing_is_looked_at():
    state = state_from_atoms(molecule("CH3OH"))
    assert JumpLimits.from_pairs(state, state, torsions=True).torsions == {}
    assert check_shape(state, state, ranges(state, JumpLimits({}))).ok


def test_a_centre_that_turns_over_in_the_relaxation_is_drawn_anew(dipeptide, monkeypatch):
    propagator = FakePropagator(
        lambda state: (state.positions, state.velocities), 10.0, permissive_domain(dipeptide, bonds=True), kind="flow"
    )
    guarded = step.GuardedStep(propagator, temperature=300.0)
    monkeypatch.setattr(step, "relax", lambda ended, *rest: (mirrored(ended), PASSED))
    engine = Classical(lambda x: x, lambda x: 0.0, lambda x, steps: x)
    given = dipeptide, no_constraints(dipeptide.masses), np.random.default_rng(0), engine
    _, report = guarded.propose(*given, None)
    assert (report.ok, report.guard) == (False, "chirality")
    monkeypatch.setattr(step, "relax", lambda ended, *rest: (ended, PASSED))
    assert guarded.propose(*given, None)[1].ok
