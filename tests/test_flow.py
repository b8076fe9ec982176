"""Generative propagators: who is alike, what is matched, symmetry, draws, closed forms, refusals, training, files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import MDAnalysis as mda
import numpy as np
import pytest
import torch
from ase.build import molecule as ase_molecule
from switching_molecule import FRACTION_LONG, LEAVE, LONG, SHORT, trajectory

from fastegnn_md import Committee, Propagator, State, load
from fastegnn_md.cli import main
from fastegnn_md.data import TrajectoryPairs
from fastegnn_md.engines.ase import guess_bonds
from fastegnn_md.errors import CompatibilityError, ConfigError, DataError
from fastegnn_md.graph.environments import environments
from fastegnn_md.mechanics.motion import centre_of_mass
from fastegnn_md.propagator import Domain, FlowPropagator, PropagatorConfig, permissive_domain
from fastegnn_md.propagator.alignment import aligned
from fastegnn_md.propagator.handedness import handedness, volumes
from fastegnn_md.propagator.modes import ModesOf, covariances
from fastegnn_md.propagator.molecules import Molecules
from fastegnn_md.training import TrainingConfig, fit
from fastegnn_md.training.drawn import drawn_report
from fastegnn_md.training.one_step import GAUSSIAN, error_table, one_step_errors, ratios

SMALL = {"kind": "flow", "hidden": 16, "layers": 2, "radial_functions": 6, "virtual_nodes": 2}
LAG = 10.0


def molecule(name: str, seed: int = 0) -> State:
    atoms = ase_molecule(name)
    rng = torch.Generator().manual_seed(seed)
    places = torch.tensor(atoms.positions)
    return State(
        positions=places + 0.05 * torch.randn(places.shape, generator=rng, dtype=torch.float64),
        velocities=torch.zeros_like(places),
        numbers=torch.tensor(atoms.numbers).long(),
        masses=torch.tensor(atoms.get_masses()),
        bonds=torch.as_tensor(guess_bonds(atoms)).long(),
    )


def rotation(seed: int = 0) -> torch.Tensor:
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    return turn * torch.linalg.det(turn)


def flow(*states: State, spread: float = 0.4, seed: int = 1, **settings) -> FlowPropagator:
    """An untrained flow in double precision that knows some molecules."""
    state, bonds = State.concatenate(states), settings.get("use_bonds", True)
    keys = Molecules.of(state, bonds=bonds).keys.unique().tolist()
    domain = dataclasses.replace(
        permissive_domain(state, bonds=bonds, conserves_momentum=False),
        environments={key: spread * (1 + k / len(keys)) for k, key in enumerate(keys)},
        covariances=covariances(*moved_together(states, spread), bonds=bonds),
        neighbours=8.0,
    )
    propagator = Propagator.build(PropagatorConfig(**(SMALL | settings)), LAG, domain, seed=seed).double()
    assert isinstance(propagator, FlowPropagator)
    return propagator


def moved_together(states: tuple[State, ...], spread: float) -> tuple[State, State]:
    """Many copies of molecules, and where they come to if neighbours in their list of atoms move alike."""
    start = State.concatenate([one for one in states for _ in range(50)])
    steps = torch.randn(start.n_atoms, 3, generator=seeded(9), dtype=torch.float64)
    moved = spread * (steps + 0.7 * steps.roll(1, 0))
    return start, start.replace(positions=start.positions + moved)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestEnvironments:
    def test_hydrogens_of_a_methyl_group_are_alike_and_those_of_others_are_not(self):
        ethanol = molecule("CH3CH2OH")
        keys = environments(ethanol.numbers, ethanol.bonds)
        numbers, degree = ethanol.numbers, torch.bincount(ethanol.bonds.flatten(), minlength=9)
        assert len(keys[numbers == 1].unique()) == 3  # CH3, CH2, OH
        assert len(keys[numbers == 6].unique()) == 2
        assert len(keys.unique()) == 6
        assert int(degree.max()) == 4

    def test_the_order_of_atoms_does_not_matter(self):
        ethanol = molecule("CH3CH2OH")
        order = torch.randperm(9, generator=seeded(1))
        place = order.argsort()
        mixed = environments(ethanol.numbers[order], place[ethanol.bonds])
        assert torch.equal(mixed, environments(ethanol.numbers, ethanol.bonds)[order])

    def test_the_same_surroundings_have_the_same_key_in_any_molecule(self):
        propane, butane = molecule("C3H8"), molecule("trans-butane")
        ends = [set(environments(one.numbers, one.bonds, 1)[one.numbers == 6].tolist()) for one in (propane, butane)]
        assert ends[0] == ends[1]
        further = [set(environments(one.numbers, one.bonds, 3)[one.numbers == 6].tolist()) for one in (propane, butane)]
        assert not further[0] & further[1]

    def test_a_ring_of_equal_atoms_has_one_key(self):
        benzene = molecule("C6H6")
        assert len(environments(benzene.numbers, benzene.bonds).unique()) == 2


class TestMolecules:
    def test_methyl_groups_turn_and_nothing_else(self):
        assert len(Molecules.of(molecule("CH3CH2OH")).rotors) == 1
        assert len(Molecules.of(molecule("CH4")).rotors) == 0
        assert len(Molecules.of(molecule("C2H6")).rotors) == 2
        assert len(Molecules.of(molecule("C6H6")).rotors) == 0
        (rotor,) = Molecules.of(molecule("CH3OH")).rotors
        assert (molecule("CH3OH").numbers[rotor.atoms] == 1).all()
        assert rotor.atoms.shape == (1, 3, 1)

    def test_edges_go_both_ways_and_leave_out_distant_hydrogens_on_carbon(self):
        butane = molecule("trans-butane")
        found = Molecules.of(butane)
        pairs = {tuple(pair) for pair in found.edge_index.T.tolist()}
        assert all((b, a) in pairs and a != b for a, b in pairs)
        assert (found.edge_index[0].diff() >= 0).all()
        assert len(pairs) < 14 * 13
        carbons = (butane.numbers == 6).nonzero()[:, 0].tolist()
        assert all((a, b) in pairs for a in carbons for b in carbons if a != b)

    def test_without_bonds_atoms_are_known_by_their_place_in_any_batch(self):
        water = molecule("H2O")
        one, two = Molecules.of(water, bonds=False), Molecules.of(State.concatenate([water, water]), bonds=False)
        assert len(one.keys.unique()) == 3
        assert torch.equal(two.keys, one.keys.repeat(2))
        assert one.edge_index.shape[1] == 6
        assert two.edge_index.shape[1] == 12

    def test_a_batch_is_its_molecules(self):
        states = [molecule("CH3CH2OH"), molecule("H2O"), molecule("C2H6")]
        batch, begun, edges = Molecules.of(State.concatenate(states)), 0, []
        for state in states:
            edges.append(Molecules.of(state).edge_index + begun)
            begun += state.n_atoms
        assert torch.equal(batch.edge_index, torch.cat(edges, dim=1))


class TestAlignment:
    def test_what_only_turned_drifted_and_exchanged_methyl_hydrogens_did_not_move(self):
        start = State.concatenate([molecule("CH3CH2OH"), molecule("trans-butane")])
        rotors = Molecules.of(start).rotors
        assert len(rotors) == 3
        moved = start.positions.clone()
        for rotor, turn in ((rotors[0], 1), (rotors[2], -1)):
            atoms = rotor.atoms.flatten()
            moved[atoms] = moved[atoms.roll(turn)]
        first = start.batch == 0
        moved[first] = moved[first] @ rotation(1) + 3.0
        moved[~first] = moved[~first] @ rotation(2) - 1.0
        # Turning is found before labels are: exchange of light atoms leaves a small rotation.
        back = aligned(start, start.replace(positions=moved), rotors)
        assert (back.positions - start.positions).abs().max() < 0.5
        back = aligned(start, back, rotors)
        assert (back.positions - start.positions).abs().max() < 1e-9

    def test_a_mirror_image_stays_one(self):
        state = molecule("CH3CH2OH", seed=3)
        mirrored = state.replace(positions=state.positions * torch.tensor([1.0, 1.0, -1.0]))
        back = aligned(state, mirrored, Molecules.of(state).rotors)
        assert (back.positions - state.positions).norm(dim=1).max() > 0.5

    def test_a_rotor_is_turned_and_never_reflected(self):
        state = molecule("CH3OH")
        rotors = Molecules.of(state).rotors
        pair, swapped = rotors[0].atoms.flatten()[:2], state.positions.clone()
        swapped[pair] = swapped[pair.flip(0)]  # two hydrogens exchanged: the mirror image of the group
        back = aligned(state, state.replace(positions=swapped), rotors)
        assert (back.positions - state.positions).norm(dim=1).max() > 0.5


class TestField:
    @pytest.mark.parametrize(("handedness", "collective"), [(False, False), (True, False), (True, True)])
    @pytest.mark.parametrize("reflected", [False, True])
    def test_turns_and_reflects_with_both_positions(self, reflected, handedness, collective):
        state = State.concatenate([molecule("CH3CH2OH"), molecule("H2O")])
        propagator, turn = flow(state, handedness=handedness, collective=collective), rotation()
        if reflected:
            turn = -turn
        u = 0.4 * torch.randn(state.n_atoms, 3, generator=seeded(1), dtype=torch.float64)
        turned = state.replace(positions=state.positions @ turn + 4.0)
        with torch.no_grad():
            here = propagator._velocity(propagator._place(state), u, 0.5, state)
            there = propagator._velocity(propagator._place(turned), u @ turn, 0.5, turned)
        assert torch.allclose(there, here @ turn, atol=1e-10)
        assert here.norm() > 0.1

    def test_sees_on_which_side_of_the_present_positions_a_sample_lies(self):
        state = molecule("CH3CH2OH")
        propagator = flow(state)
        u = 0.4 * torch.randn(9, 3, generator=seeded(1), dtype=torch.float64)
        with torch.no_grad():
            place = propagator._place(state)
            var = torch.ones(9, 1, dtype=torch.float64)
            there, opposite = (propagator._network(place, sign * u, var, 0.5 * var) for sign in (1, -1))
        assert not torch.allclose(opposite, -there, atol=1e-4)

    def test_atoms_beyond_the_cutoff_leave_smoothly(self):
        state, cutoff = molecule("trans-butane"), 3.0
        propagator = flow(state, cutoff=cutoff)
        carbons = (state.numbers == 6).nonzero()[:, 0]
        far = max(((state.positions[a] - state.positions[b]).norm(), a, b) for a in carbons for b in carbons)
        along = (state.positions[far[2]] - state.positions[far[1]]) / far[0]
        u = 0.1 * torch.ones(14, 3, dtype=torch.float64)

        def field(distance: float) -> torch.Tensor:
            positions = state.positions.clone()
            positions[far[2]] = positions[far[1]] + distance * along
            moved = state.replace(positions=positions)
            with torch.no_grad():
                return propagator._velocity(propagator._place(moved), u, 0.5, moved)

        assert (field(cutoff - 1e-4) - field(cutoff + 1e-4)).abs().max() < 1e-2 * field(cutoff).abs().max()
        assert (field(cutoff - 1e-6) - field(cutoff + 1e-6)).abs().max() < 1e-4 * field(cutoff).abs().max()


class TestHandedness:
    def test_is_one_where_a_centre_stands_as_it_stood_and_turns_its_sign_with_the_centre(self):
        x = molecule("CH3CH2OH").positions
        found = Molecules.of(molecule("CH3CH2OH")).tetrahedra
        present = volumes(x, found)
        assert len(found) == 2
        assert (present.abs() > 0.7).all()
        scalars, _ = handedness(x, found, present)
        assert (scalars[found[:, 0], 0] > 0.4).all()
        assert (scalars.nonzero()[:, 0].unique() == found[:, 0].sort().values).all()
        swapped = x.clone()
        swapped[found[0, 1:3]] = x[found[0, 1:3].flip(0)]
        turned = handedness(swapped, found, present)[0][found[:, 0], 0]
        assert float(turned[0]) == pytest.approx(-float(scalars[found[0, 0], 0]), rel=1e-9)
        assert float(turned[1]) > 0.4

    def test_points_along_the_gradient_and_does_so_in_mirror_images(self):
        state = State.concatenate([molecule("CH3CH2OH"), molecule("C2H6", seed=2)])
        found = Molecules.of(state).tetrahedra
        present = volumes(state.positions, found)
        y = state.positions + 0.5 * torch.randn(state.n_atoms, 3, generator=seeded(1), dtype=torch.float64)
        free = y.clone().requires_grad_()
        (volumes(free, found) * present).sum().backward()
        scalars, vectors = handedness(y, found, present)
        assert torch.allclose(vectors, free.grad, atol=1e-10)
        turn = -rotation()
        there = handedness(y @ turn, found, volumes(state.positions @ turn, found))
        assert torch.allclose(there[0], scalars, atol=1e-10)
        assert torch.allclose(there[1], vectors @ turn, atol=1e-10)

    @pytest.mark.parametrize("bonds", [True, False])
    def test_is_nothing_without_four_neighbours(self, bonds):
        state = molecule("H2O") if bonds else molecule("CH4")
        found = Molecules.of(state, bonds=bonds).tetrahedra
        scalars, vectors = handedness(state.positions, found, volumes(state.positions, found))
        assert not scalars.any()
        assert not vectors.any()
        propagator = flow(state, use_bonds=bonds)
        assert propagator.displacements(state, seeded(1)).isfinite().all()

    def test_frames_say_where_neighbours_lie(self):
        state = molecule("CH3CH2OH")
        frames = Molecules.of(state).frames(state.positions, state.numbers)
        assert frames.shape == (9, 3, 3)
        oxygen = int((state.numbers == 8).nonzero()[0])
        partners = [int(a + b) - oxygen for a, b in state.bonds if oxygen in (int(a), int(b))]
        towards = [(state.positions[k] - state.positions[oxygen]) for k in partners]
        mean = sum(int(state.numbers[k]) * one / one.norm() for k, one in zip(partners, towards, strict=True))
        assert torch.allclose(frames[oxygen, 0], mean / sum(int(state.numbers[k]) for k in partners), atol=1e-12)

    def test_reaches_the_field(self):
        """The same distances and displacements beside mirrored neighbours: only handedness tells."""
        state, mirror = molecule("CH3CH2OH"), torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
        propagator = flow(state)
        place = propagator._place(state)
        u, var = torch.zeros(9, 3, dtype=torch.float64), torch.ones(9, 1, dtype=torch.float64)
        with torch.no_grad():
            here = propagator._network(place, u, var, 0.5 * var)
            for name, other in (("volumes", -place.sides.volumes), ("frames", place.sides.frames * mirror)):
                there = propagator._network(
                    place._replace(sides=place.sides._replace(**{name: other})), u, var, 0.5 * var
                )
                assert (here - there).abs().max() > 1e-4

    def test_models_that_ship_have_none_of_what_came_after_them(self):
        for name in ("ala2-obc-10ps", "ala2-obc-100ps"):
            config = load(name).config
            assert config.vector_channels == 5
            assert (config.handedness, config.collective, config.corrections) == (False, False, 0)


class TestCollectiveNoise:
    """Displacements that are a Gaussian of known covariance, whatever the start: all about them is known."""

    @pytest.fixture
    def brownian(self):
        states = (molecule("CH3CH2OH"), molecule("H2O"))
        start, end = moved_together(states, 0.4)
        ends = end.positions - centre_of_mass(end.positions - start.positions, start)
        return flow(*states, collective=True), start, start.replace(positions=ends)

    def test_measures_how_atoms_of_a_molecule_move_together(self):
        water = molecule("H2O")
        start = State.concatenate([water] * 3000)
        mix = torch.tensor([[1.0, 0.5, 0.5], [0.0, 0.3, 0.0], [0.0, 0.0, 0.3]], dtype=torch.float64)
        steps = torch.einsum("ji,bjk->bik", mix, torch.randn(3000, 3, 3, generator=seeded(1), dtype=torch.float64))
        end = start.replace(positions=start.positions + steps.reshape(-1, 3))
        found = ModesOf(covariances(start, end), bonds=True)(water, torch.float64)
        (_, basis), variance = found.groups[0], found.variance[:, 0]
        matrix = (basis * variance) @ basis.T
        assert torch.allclose(matrix, mix.T @ mix, atol=0.05)
        assert torch.allclose(matrix[1, 0], matrix[2, 0], atol=1e-12)  # hydrogens that nothing tells apart

    def test_atoms_may_come_in_any_order(self):
        ethanol = molecule("CH3CH2OH")
        known, order = covariances(*moved_together((ethanol,), 0.4)), torch.randperm(9, generator=seeded(2))
        other = ethanol.replace(
            positions=ethanol.positions[order],
            velocities=ethanol.velocities[order],
            numbers=ethanol.numbers[order],
            masses=ethanol.masses[order],
            bonds=order.argsort()[ethanol.bonds].flip(0),
        )
        vectors = torch.randn(9, 3, generator=seeded(3), dtype=torch.float64)

        def smoothed(state, x):
            modes = ModesOf(known, bonds=True)(state, torch.float64)
            return modes.back(modes.variance * modes.into(x))

        assert torch.allclose(smoothed(other, vectors[order]), smoothed(ethanol, vectors)[order], atol=1e-12)

    def test_draws_without_a_network_have_the_covariance_of_the_data(self):
        ethanol = molecule("CH3CH2OH")
        propagator = flow(ethanol, sampling_steps=30, collective=True, corrections=0)
        state = State.concatenate([ethanol] * 2000)
        moved = propagator.displacements(state, seeded(1), network=False).view(2000, 9, 3)
        found = torch.einsum("bik,bjk->ij", moved, moved) / 6000
        modes = ModesOf(propagator.domain.covariances, bonds=True)(ethanol, torch.float64)
        basis = modes.groups[0][1]
        matrix = (basis * modes.variance[:, 0]) @ basis.T
        held = torch.eye(9, dtype=torch.float64) - (ethanol.masses / ethanol.masses.sum()).expand(9, 9)
        expected = held @ matrix @ held.T  # the centre of mass stays
        assert (found - expected).abs().max() < 0.06 * expected.diagonal().max()

    def test_of_such_data_nothing_is_left_to_learn(self, brownian):
        """What the network should say has unit variance in each mode, times its weight, and no mean."""
        propagator, start, end = brownian
        expected = propagator._place(start).modes.weight
        target = propagator.targets(start, end)
        moving = expected[:, 0] > 0.3 * expected.mean()  # modes but that of the centre of mass
        assert float((target.square().mean(1, keepdim=True) / expected)[moving].mean()) == pytest.approx(1.0, abs=0.1)
        assert float(target.mean().abs()) < 0.1

    def test_a_file_knows_it(self, tmp_path):
        states = [molecule("CH3CH2OH"), molecule("H2O")]
        propagator = flow(*states, collective=True)
        propagator.save(tmp_path / "flow.safetensors")
        read = load(tmp_path / "flow.safetensors")
        assert read.config.collective
        assert read.domain.covariances == propagator.domain.covariances
        batch = State.concatenate(states)
        ends = [one(batch, generator=seeded(1), temperature=300.0).positions for one in (propagator, read)]
        assert torch.equal(*ends)

    def test_a_molecule_that_training_did_not_have_is_refused(self):
        def chain(length: int) -> State:
            places = torch.arange(length, dtype=torch.float64)[:, None] * torch.tensor([1.3, 0.0, 0.0])
            return State(
                positions=places + 0.1 * torch.randn(length, 3, generator=seeded(1), dtype=torch.float64),
                velocities=torch.zeros(length, 3, dtype=torch.float64),
                numbers=torch.full((length,), 6),
                masses=torch.full((length,), 12.011, dtype=torch.float64),
                bonds=torch.stack([torch.arange(length - 1), torch.arange(1, length)], dim=1),
            )

        with pytest.raises(CompatibilityError, match=r"the molecule of atom 12 is none of those of the training data"):
            flow(chain(12), collective=True).check(State.concatenate([chain(12), chain(13)]))
        flow(chain(12)).check(State.concatenate([chain(12), chain(13)]))

    def test_is_an_option_of_the_kind_alone(self):
        with pytest.raises(ConfigError, match="collective is an option of kind 'flow'"):
            PropagatorConfig(kind="position", collective=True)


class TestDraws:
    def test_without_a_network_are_the_gaussian_of_the_training_data(self):
        state = State.concatenate([molecule("C6H6")] * 300)
        propagator = flow(molecule("C6H6"), sampling_steps=30)
        moved = propagator.displacements(state, seeded(1), network=False)
        # The centre of mass is held: what an atom of mass m loses by that is a share of order m / M.
        for number in (1, 6):
            chosen = state.numbers == number
            keys = Molecules.of(state).keys[chosen]
            expected = propagator.domain.environments[int(keys[0])]
            assert float(moved[chosen].square().mean().sqrt()) == pytest.approx(expected, rel=0.12)

    @pytest.mark.parametrize("collective", [False, True])
    def test_corrections_leave_what_is_right_as_it_is(self, collective):
        """But for the error of their steps, about a percent of a width each."""
        state = State.concatenate([molecule("CH3CH2OH")] * 1000)
        once, again = (
            flow(molecule("CH3CH2OH"), sampling_steps=30, corrections=count, collective=collective)
            .displacements(state, seeded(1), network=False)
            .square()
            .mean()
            .sqrt()
            for count in (0, 2)
        )
        assert 0.97 < float(again / once) < 1.0

    def test_corrections_give_what_is_narrow_its_width(self, monkeypatch):
        """Of data on a narrow Gaussian the velocity is known, and few steps from noise end beside it."""
        width, state = 0.05, State.concatenate([molecule("CH3CH2OH")] * 300)

        def exact(self, place, u, w, state, network=True):
            noise = place.noise * w
            return ((1 - w) * width**2 - w * place.noise**2) / (((1 - w) * width) ** 2 + noise**2) * u

        monkeypatch.setattr(FlowPropagator, "_velocity", exact)
        found = []
        for count in (0, 2):
            moved = flow(molecule("CH3CH2OH"), sampling_steps=2, corrections=count).displacements(state, seeded(1))
            found.append(abs(float(moved.square().mean().sqrt()) / width - 1))
        assert found[1] < 0.5 * found[0]

    def test_a_network_that_says_anything_gives_a_draw(self, monkeypatch):
        """Where it was never trained it may; a draw that is not finite would be refused, and drawn anew."""
        state = molecule("CH3CH2OH")
        propagator = flow(state)
        monkeypatch.setattr(propagator, "_network", lambda place, u, var, w: 1e30 * (1 + u.abs()))
        assert propagator.displacements(state, seeded(1)).abs().max() < 50

    def test_are_those_of_the_seed(self):
        state = molecule("CH3CH2OH")
        propagator = flow(state)
        one, again, other = (propagator(state, generator=seeded(k), temperature=300.0) for k in (1, 1, 2))
        assert torch.equal(one.positions, again.positions)
        assert torch.equal(one.velocities, again.velocities)
        assert (one.positions - other.positions).abs().max() > 0.05

    @pytest.mark.parametrize("collective", [False, True])
    def test_a_generator_for_each_molecule_gives_what_it_gives_alone(self, collective):
        states = [molecule("CH3CH2OH"), molecule("H2O"), molecule("CH3CH2OH", seed=4)]
        propagator = flow(*states, collective=collective)
        together = propagator(State.concatenate(states), generator=[seeded(k) for k in range(3)], temperature=300.0)
        for k, (state, part) in enumerate(zip(states, together.split(), strict=True)):
            alone = propagator(state, generator=seeded(k), temperature=300.0)
            assert torch.allclose(alone.positions, part.positions, atol=1e-10)
            assert torch.allclose(alone.velocities, part.velocities, atol=1e-10)

    def test_are_the_same_after_compile(self, cxx):
        """The C++ library serves the network already: nothing is left to translate."""
        state = molecule("CH3CH2OH")
        propagator = flow(state)
        before = propagator(state, generator=seeded(1), temperature=300.0).positions
        propagator.compile()
        assert torch.equal(propagator(state, generator=seeded(1), temperature=300.0).positions, before)

    def test_keep_the_centre_of_mass(self):
        state = molecule("CH3CH2OH")
        moved = flow(state)(state, generator=seeded(1), temperature=300.0).positions - state.positions
        assert (state.masses @ moved / state.masses.sum()).abs().max() < 1e-12
        assert moved.norm() > 0.1

    def test_mirror_images_draw_mirror_images(self):
        state, mirror = molecule("CH3CH2OH"), torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
        propagator = flow(state)
        u = 0.3 * torch.randn(9, 3, generator=seeded(2), dtype=torch.float64)
        mirrored = state.replace(positions=state.positions * mirror)
        with torch.no_grad():
            here = propagator._velocity(propagator._place(state), u, 0.7, state)
            there = propagator._velocity(propagator._place(mirrored), u * mirror, 0.7, mirrored)
        assert torch.allclose(there, here * mirror, atol=1e-10)


class TestRefusals:
    def test_a_molecule_that_is_bonded_otherwise(self):
        propagator = flow(molecule("CH3CH2OH"))
        with pytest.raises(CompatibilityError, match=r"atom \d+ .* is bonded otherwise .* train it with this one"):
            propagator.check(molecule("CH3OCH3"))

    def test_another_number_of_atoms_without_bonds(self):
        propagator = flow(molecule("H2O"), use_bonds=False)
        propagator.check(molecule("H2O").replace(bonds=None))
        with pytest.raises(CompatibilityError, match="has another place in its molecule"):
            propagator.check(State.concatenate([molecule("H2O2").replace(bonds=None)]))

    def test_bonds_that_training_did_not_have_are_no_reason(self):
        water = molecule("H2O")
        bare = State.concatenate([water.replace(bonds=None)])
        config = PropagatorConfig(**SMALL)
        propagator = Propagator.build(config, LAG, Domain.from_pairs(bare, bare, config)).double()
        propagator.check(bare)
        propagator.check(water)
        ends = [propagator(one, generator=seeded(1), temperature=300.0).positions for one in (bare, water)]
        assert torch.allclose(*ends, atol=1e-12)

    def test_a_jump_without_chance(self):
        propagator = flow(molecule("H2O"))
        with pytest.raises(CompatibilityError, match="give a generator"):
            propagator.predict(molecule("H2O"))

    def test_a_wrong_number_of_generators(self):
        propagator = flow(molecule("H2O"))
        with pytest.raises(CompatibilityError, match="2 generators for a batch of 1 systems"):
            propagator(molecule("H2O"), generator=[seeded(0), seeded(1)], temperature=300.0)

    def test_a_committee(self):
        with pytest.raises(ConfigError, match="the mean of draws is not a draw"):
            Committee([flow(molecule("H2O"), seed=seed) for seed in (1, 2)])

    @pytest.mark.parametrize("setting", [{"unroll": 2}, {"noise": 0.1}, {"mmd_weight": 0.5}])
    def test_settings_of_other_kinds(self, setting):
        with pytest.raises(ConfigError, match="leave unroll, noise and mmd_weight out"):
            TrainingConfig(propagator={"kind": "flow"}, **setting)

    @pytest.mark.parametrize("option", ["sampling_steps", "corrections"])
    def test_options_of_draws_of_other_kinds(self, option):
        with pytest.raises(ConfigError, match=f"{option} is an option of kind 'flow'"):
            PropagatorConfig(kind="position", **{option: 3})

    def test_handedness_without_room_for_it(self):
        with pytest.raises(ConfigError, match="handedness needs 5 or more"):
            PropagatorConfig(kind="flow", vector_channels=4)
        assert PropagatorConfig(kind="flow", vector_channels=4, handedness=False).vector_channels == 4

    def test_a_periodic_system(self):
        universe = trajectory(50, seed=0)
        universe.trajectory.dimensions_array = np.tile([20.0, 20, 20, 90, 90, 90], (50, 1)).astype(np.float32)
        pairs = TrajectoryPairs(universe, lag="1 ps", velocities="none", progress=False)
        assert pairs.periodic
        with pytest.raises(DataError, match="kind 'flow' is for isolated molecules"):
            fit(pairs, pairs, TrainingConfig(propagator=SMALL), progress=False)

    @pytest.mark.parametrize("hand", [1.0, -1.0])
    def test_a_trajectory_that_is_another_one_turned(self, hand):
        first = trajectory(40, seed=1)
        turned = first.copy()
        places = hand * first.trajectory.timeseries(order="fac") @ rotation().float().numpy() + 3.0
        turned.load_new(places.astype(np.float32), dt=1.0)
        train, validation = (
            TrajectoryPairs(one, lag="1 ps", velocities="none", progress=False) for one in (first, turned)
        )
        config = TrainingConfig(propagator=SMALL, updates=1)
        with pytest.raises(DataError, match=r"is a copy of .*, turned, shifted or mirrored"):
            fit(train, validation, config, progress=False)


class TestDefaults:
    def test_of_the_kind_and_of_others(self):
        config = TrainingConfig(propagator={"kind": "flow"})
        assert (config.updates, config.time_reversal, config.propagator.cutoff) == (20_000, False, 12.0)
        assert TrainingConfig(propagator=PropagatorConfig(kind="flow")).updates == 20_000
        assert TrainingConfig(propagator={"kind": "flow"}, updates=7).updates == 7
        assert TrainingConfig(propagator={"kind": "position"}).updates == TrainingConfig().updates
        assert config.propagator.corrections == 2
        assert PropagatorConfig().corrections == 0
        assert PropagatorConfig(kind="flow", cutoff=5.0).cutoff == 5.0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A flow that has learned the molecule with two forms."""
    folder = tmp_path_factory.mktemp("flow")
    pairs = TrajectoryPairs([trajectory(2000, 1), trajectory(2000, 2)], lag="1 ps", velocities="none", progress=False)
    validation = TrajectoryPairs(trajectory(500, 3), lag="1 ps", velocities="none", progress=False)
    config = TrainingConfig(
        propagator=SMALL | {"cutoff": 6.0}, updates=3000, batch_size=64, learning_rate=4e-3, ema_decay=0.99,
        validate_every=1000, checkpoint_every=1000, validation_pairs=256,
    )  # fmt: skip
    result = fit(pairs, validation, config, folder / "flow.safetensors", progress=False)
    return folder / "flow.safetensors", result.propagator, pairs, validation


@pytest.mark.slow
class TestTraining:
    def test_beats_the_gaussian(self, trained):
        _, propagator, _, validation = trained
        errors = one_step_errors(propagator, validation)
        assert set(errors) == {"learned", GAUSSIAN}
        assert ratios(errors)["x"] < 0.85
        assert "field" in error_table(errors)
        assert propagator.metrics["over_best_baseline"]["x"] == pytest.approx(ratios(errors)["x"], rel=0.1)

    def test_validation_tells_what_is_drawn(self, trained):
        path, propagator, _, _ = trained
        drawn = propagator.metrics["drawn"]
        assert set(drawn) == {"bonds", "bonds data"}  # three atoms have no torsion
        assert drawn["bonds"] == pytest.approx(drawn["bonds data"], rel=0.25)
        assert "drawn bonds data" in (path.with_suffix(".training") / "history.csv").read_text().splitlines()[0]

    def test_draws_from_the_distribution_that_each_form_leads_to(self, trained):
        """The mean of the two forms, which a deterministic map would give, is where no molecule is."""
        _, propagator, pairs, _ = trained
        starts = pairs.batch(np.arange(0, len(pairs), 4))[0]
        before = _lengths(starts.positions)
        after = _lengths(propagator(starts, generator=seeded(5), temperature=300.0).positions)
        middle = (SHORT + LONG) / 2
        for form, chosen in (("short", before < middle), ("long", before > middle)):
            switched = (after[chosen] > middle) if form == "short" else (after[chosen] < middle)
            error = math.sqrt(0.25 / int(chosen.sum()))
            assert float(switched.float().mean()) == pytest.approx(LEAVE[form], abs=0.06 + 3 * error)
        without = _lengths(starts.positions + propagator.displacements(starts, seeded(5), network=False))
        assert _share_between(after) < 0.4 * _share_between(without)
        assert float(after[after < middle].mean()) == pytest.approx(SHORT, abs=0.04)
        assert float(after[after > middle].mean()) == pytest.approx(LONG, abs=0.04)

    def test_a_chain_of_jumps_stays_at_equilibrium(self, trained):
        _, propagator, pairs, _ = trained
        state, generator = pairs.batch(np.arange(0, len(pairs), 8))[0], seeded(6)
        for _ in range(30):
            state = propagator(state, generator=generator, temperature=300.0)
        lengths = _lengths(state.positions)
        assert float((lengths > (SHORT + LONG) / 2).float().mean()) == pytest.approx(FRACTION_LONG, abs=0.1)
        assert float(lengths.min()) > 0.8
        assert float(lengths.max()) < 2.5

    def test_a_file_gives_the_same_draws(self, trained):
        path, propagator, pairs, _ = trained
        state = pairs.batch([0, 100])[0]
        read = load(path)
        assert read.kind == "flow"
        assert read.stochastic
        assert read.domain.environments == propagator.domain.environments
        ends = [one(state, generator=seeded(1), temperature=300.0).positions for one in (propagator, read)]
        assert torch.equal(*ends)


def _share_between(lengths: torch.Tensor) -> float:
    return float(((lengths > SHORT + 0.25) & (lengths < LONG - 0.25)).float().mean())


def _lengths(positions: torch.Tensor) -> torch.Tensor:
    return (positions[0::3] - positions[1::3]).norm(dim=1)


@pytest.mark.parametrize("collective", [False, True])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(collective, tmp_path):
    pairs = TrajectoryPairs(trajectory(200, 1), lag="1 ps", velocities="none", progress=False)
    whole = TrainingConfig(
        propagator=SMALL | {"collective": collective},
        updates=20,
        batch_size=8,
        validate_every=10,
        checkpoint_every=5,
        validation_pairs=16,
    )
    full = fit(pairs, pairs, whole, tmp_path / "whole.safetensors", progress=False).propagator

    class Stopped(Exception):
        pass

    import fastegnn_md.training.module as module

    original, seen = module.PropagatorModule.training_step, []

    def failing(self, batch, index):
        seen.append(index)
        if len(seen) == 13:
            raise Stopped
        return original(self, batch, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.PropagatorModule, "training_step", failing)
        with pytest.raises(Stopped):
            fit(pairs, pairs, whole, tmp_path / "part.safetensors", progress=False)
    part = fit(pairs, pairs, whole, tmp_path / "part.safetensors", resume=True, progress=False).propagator
    assert all(torch.equal(a, b) for a, b in zip(full.state_dict().values(), part.state_dict().values(), strict=True))


class TestDrawnReport:
    def test_of_draws_that_are_the_data_and_of_others(self, monkeypatch):
        """Torsions and bonds of butane that turns by chance, drawn rightly, not at all, and by one angle only."""
        butane = molecule("trans-butane")
        rng = np.random.default_rng(0)

        def turned(angle: float) -> State:
            """One end of the chain turned about the middle bond."""
            x, axis = butane.positions.clone(), butane.positions[2] - butane.positions[1]
            axis = axis / axis.norm()
            moving = [k for k in range(14) if _side(butane, k)]
            d = x[moving] - x[2]
            across = torch.linalg.cross(axis.expand_as(d), d)
            along = (d @ axis)[:, None] * axis
            x[moving] = x[2] + along + math.cos(angle) * (d - along) + math.sin(angle) * across
            return butane.replace(positions=x.float().double())

        states = [turned(rng.choice([0.0, 2.0]) + 0.2 * rng.standard_normal()) for _ in range(801)]

        class Pairs:
            def batch(self, indices):
                return tuple(State.concatenate([states[k + ahead] for k in indices]) for ahead in (0, 1))

        propagator, ends = flow(butane), {}

        def displacements(state, generator, *, network=True):
            return ends["right"] - state.positions if network else torch.zeros_like(state.positions)

        chosen = list(range(800))
        again = [states[k] for k in rng.permutation(800)[: len(chosen[::2])]]
        ends["right"] = State.concatenate(again).positions
        monkeypatch.setattr(propagator, "displacements", displacements)
        report = drawn_report(propagator, Pairs(), chosen)
        assert report["torsions"] < 2 * report["torsions floor"]
        assert report["changed"] == pytest.approx(report["changed data"], abs=0.1)
        assert report["bonds"] == pytest.approx(report["bonds data"], abs=1e-3)
        ends["right"] = State.concatenate([states[k] for k in chosen[::2]]).positions  # x' = x
        assert drawn_report(propagator, Pairs(), chosen)["changed"] == 0
        ends["right"] = State.concatenate([butane] * len(chosen[::2])).positions
        assert drawn_report(propagator, Pairs(), chosen)["torsions"] > 3 * report["torsions floor"]


def _side(state: State, atom: int) -> bool:
    """Whether an atom of butane hangs on carbon 2 and not on carbon 1."""
    near, far = ((state.positions[atom] - state.positions[k]).norm() for k in (2, 1))
    return bool(near < far)


class TestSoluteOfABox:
    @pytest.fixture
    def boxed(self):
        """The switching molecule wrapped atom by atom into a box that it crosses, and the same without."""
        free = trajectory(40, seed=5)
        places = free.trajectory.timeseries(order="fac") + np.linspace(0, 30, 40)[:, None, None]
        box = np.array([8.0, 8.5, 9.0, 90, 90, 90], dtype=np.float32)
        boxed = free.copy()
        boxed.load_new((places % box[:3]).astype(np.float32), dt=1.0, dimensions=np.tile(box, (40, 1)))
        return boxed, places

    @pytest.mark.parametrize("bonds", [True, False])
    def test_is_the_molecule_put_together(self, boxed, bonds):
        universe, places = boxed
        if not bonds:
            universe.del_TopologyAttr("bonds")
        pairs = TrajectoryPairs(universe, lag="1 ps", velocities="none", isolated=True, progress=False)
        assert not pairs.periodic
        found = pairs.stores[0].positions[:]
        inner = found - found[:, :1]
        assert np.abs(inner - (places - places[:, :1])).max() < 1e-4
        assert pairs.has_bonds is bonds

    def test_must_be_one_molecule(self, boxed):
        universe, _ = boxed
        universe.del_TopologyAttr("bonds")
        universe.add_TopologyAttr("bonds", [(0, 1)])
        with pytest.raises(DataError, match="3 atoms are 2 molecules"):
            TrajectoryPairs(universe, lag="1 ps", velocities="none", isolated=True, progress=False)

    def test_is_not_the_store_of_the_whole_box(self, boxed, tmp_path):
        universe, _ = boxed
        common = {"lag": "1 ps", "velocities": "none", "store": tmp_path / "one.h5md", "progress": False}
        TrajectoryPairs(universe, **common)
        with pytest.raises(DataError, match="made from other frames, atoms or settings"):
            TrajectoryPairs(universe, isolated=True, **common)

    @pytest.mark.slow
    def test_is_trained_and_evaluated_from_the_command_line(self, boxed, tmp_path, capsys):
        universe, places = boxed
        topology, frames, model = (str(tmp_path / name) for name in ("mol.xyz", "mol.xtc", "flow.safetensors"))
        short = places[np.linalg.norm(places[:, 0] - places[:, 1], axis=1).argmin()]
        rows = [f"{name} {x:.5f} {y:.5f} {z:.5f}" for name, (x, y, z) in zip("OCN", short, strict=True)]
        Path(topology).write_text("\n".join(["3", "", *rows, ""]))
        with mda.Writer(frames, 3) as writer:
            for _ in universe.trajectory:
                writer.write(universe.atoms)
        small = [f"propagator.{key}={value}" for key, value in SMALL.items() if key != "kind"]
        settings = [f"--set={one}" for one in (*small, "updates=20", "validate_every=10", "batch_size=4")]

        def said(*arguments: str) -> str:
            with pytest.raises(SystemExit) as ended:
                main(list(arguments))
            out, err = capsys.readouterr()
            assert ended.value.code == 0, err
            return out

        arguments = [
            "--bonds",
            "guess",
            "--kind",
            "flow",
            "--lag",
            "2 ps",
            "-o",
            model,
            "--temperature",
            "310",
            *settings,
        ]
        assert "Gaussian" in said("train", topology, frames, *arguments)
        assert "Gaussian" in said("evaluate", model, topology, frames, "--bonds", "guess")
        assert "flow" in said("inspect", model)
        assert load(model).provenance.temperature_K == (310.0, 310.0)
