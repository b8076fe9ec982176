"""Charged systems: forces, bodies and data sets, against mechanics written down a second time."""

from __future__ import annotations

import numpy as np
import pytest

from fastegnn_md.errors import DataError
from fastegnn_md.papers.datasets.nbody import ChargedSystemsRecipe, Composition, charged_systems, simulate
from fastegnn_md.papers.datasets.nbody.bodies import Hinges, Sticks, rotated
from fastegnn_md.papers.datasets.nbody.complexes import RigidBody, draw_sizes
from fastegnn_md.papers.datasets.nbody.coulomb import CoulombForces

DT = 1e-3


def generators(count, seed=0):
    return [np.random.default_rng([seed, index]) for index in range(count)]


def naive_force(x, charges):
    """Coulomb forces pair by pair, clipped."""
    force = np.zeros_like(x)
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                d = x[i] - x[j]
                force[i] += charges[i] * charges[j] * d / np.linalg.norm(d) ** 3
    return np.clip(force, -100.0, 100.0)


def energy(x, v, charges):
    potential = sum(charges[i] * charges[j] / np.linalg.norm(x[i] - x[j]) for i in range(len(x)) for j in range(i))
    return 0.5 * (v**2).sum() + potential


def constrained_acceleration(x, v, force, bonds):
    """Accelerations of unit masses with constant distances, by Lagrange's multipliers.

    With c_b = |x_i − x_j|²/2: a = f + Jᵀλ and J a = −|v_i − v_j|², one row of J per constraint.
    """
    jacobian, right = np.zeros((len(bonds), x.size)), np.zeros(len(bonds))
    for row, (i, j) in enumerate(bonds):
        jacobian[row, 3 * i : 3 * i + 3], jacobian[row, 3 * j : 3 * j + 3] = x[i] - x[j], x[j] - x[i]
        right[row] = -((v[i] - v[j]) ** 2).sum()
    f = force.ravel()
    multipliers = np.linalg.solve(jacobian @ jacobian.T, right - jacobian @ f)
    return (f + jacobian.T @ multipliers).reshape(x.shape)


def test_forces_are_those_of_every_pair_and_clipped():
    rng = np.random.default_rng(0)
    x, charges = rng.normal(size=(3, 7, 3)), rng.choice([-1.0, 1.0], size=(3, 7, 1))
    x[0, 1] = x[0, 0] + [0.02, 0.0, 0.001]  # a force of 2500 along x: clipped there, not along z
    found = CoulombForces(3, 7, 100.0)(x, charges)
    for system in range(3):
        np.testing.assert_allclose(found[system], naive_force(x[system], charges[system]), rtol=1e-8, atol=1e-9)
    assert abs(found[0, 0, 0]) == 100.0
    assert 0.0 < abs(found[0, 0, 2] - found[0, 1, 2])


def test_particles_that_meet_keep_finite_forces():
    x, charges = np.zeros((1, 2, 3)), np.ones((1, 2, 1))
    x[0] += [1.3, -0.7, 2.9]
    assert np.isfinite(CoulombForces(1, 2, 100.0)(x, charges)).all()


def test_free_particles_follow_an_independent_integrator():
    run = simulate(Composition(isolated=6), generators(3), frames=(0, 2))
    for system in range(3):
        x, v, charges = run.positions[system, 0], run.velocities[system, 0], run.charges[system]
        for _ in range(200):
            v = v + DT * naive_force(x, charges)
            x = x + DT * v
        np.testing.assert_allclose(run.positions[system, 1], x, atol=1e-9)
        np.testing.assert_allclose(run.velocities[system, 1], v, atol=1e-8)


def test_two_charges_keep_energy_and_momentum():
    frames = range(11)
    run = simulate(Composition(isolated=2), generators(24), frames=frames)
    apart = np.linalg.norm(run.positions[:, :, 0] - run.positions[:, :, 1], axis=-1).min(1)
    far = np.flatnonzero(apart > 0.5)
    assert len(far) > 8
    for system in far:
        momentum = run.velocities[system].sum(1)
        np.testing.assert_allclose(momentum, np.broadcast_to(momentum[0], momentum.shape), atol=1e-12)
        energies = [energy(run.positions[system, k], run.velocities[system, k], run.charges[system]) for k in frames]
        # symplectic Euler conserves H − (δt/2) v·F + …: with |v| < 2 and |F| < 4 that is 4e-3 at most
        assert np.ptp(energies) < 4e-3
        shadow = [
            e
            + 0.5 * DT * (run.velocities[system, k] * naive_force(run.positions[system, k], run.charges[system])).sum()
            for k, e in enumerate(energies)
        ]
        assert np.ptp(shadow) < 0.05 * np.ptp(energies) + 1e-6


def test_starts_are_those_of_the_published_generator():
    run = simulate(Composition(isolated=100), generators(200), frames=(0,))
    assert abs(run.positions.std() / (20.0 ** (1 / 3) + 0.1) - 1.0) < 0.01
    assert set(np.unique(run.charges)) == {-1.0, 1.0}
    assert abs(run.charges.mean()) < 0.03
    for system in (0, 1):  # the velocity before the first step
        x = run.positions[system, 0] - DT * run.velocities[system, 0]
        v = run.velocities[system, 0] - DT * naive_force(x, run.charges[system])
        np.testing.assert_allclose(np.linalg.norm(v, axis=1), 0.5, atol=1e-8)


def test_sticks_and_hinges_keep_their_lengths_and_their_velocities_agree():
    composition = Composition(isolated=1, sticks=2, hinges=2)
    run = simulate(composition, generators(4), frames=(0, 5, 10))
    assert list(composition.bodies) == [0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4]
    for i, j in ((1, 2), (3, 4), (5, 6), (5, 7), (8, 9), (8, 10)):
        d = run.positions[:, :, i] - run.positions[:, :, j]
        lengths = np.linalg.norm(d, axis=-1)
        np.testing.assert_allclose(lengths, np.broadcast_to(lengths[:, :1], lengths.shape), rtol=1e-11)
        closing = (d * (run.velocities[:, :, i] - run.velocities[:, :, j])).sum(-1)
        np.testing.assert_allclose(closing, 0.0, atol=1e-11)


@pytest.mark.parametrize(("kind", "corners", "bonds"), [(Sticks, 2, [(0, 1)]), (Hinges, 3, [(0, 1), (0, 2)])])
def test_bodies_accelerate_as_constraints_demand(kind, corners, bonds):
    rng = np.random.default_rng(1)
    x, v, force = (rng.normal(size=(2, 2, corners, 3)) for _ in range(3))
    body = kind.assembled(x, v)
    before, velocities = body.particles()
    np.testing.assert_allclose(before, x, atol=1e-14)
    dt = 1e-7
    body.step(force, dt)
    found = (body.particles()[1] - velocities) / dt
    for system in range(2):
        for one in range(2):
            wanted = constrained_acceleration(before[system, one], velocities[system, one], force[system, one], bonds)
            np.testing.assert_allclose(found[system, one], wanted, atol=2e-5)


def test_a_stick_left_alone_turns_uniformly():
    x = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])[None, None] + 5.0
    v = np.array([[0.0, 0.3, 0.0], [0.0, -0.3, 0.0]])[None, None] + [0.1, 0.0, -0.2]
    stick = Sticks.assembled(x, v)
    for _ in range(1000):
        stick.step(np.zeros((1, 1, 2, 3)), 0.01)
    angle, centre = 0.3 * 10.0, np.array([5.0, 5.0, 5.0]) + 10.0 * np.array([0.1, 0.0, -0.2])
    arm = np.array([np.cos(angle), np.sin(angle), 0.0])
    np.testing.assert_allclose(stick.particles()[0][0, 0], [centre + arm, centre - arm], atol=1e-11)


def test_rotation_about_an_axis_and_no_rotation():
    turned = rotated(np.array([[1.0, 0.0, 2.0]]), np.array([[0.0, 0.0, np.pi / 2]]), 1.0)
    np.testing.assert_allclose(turned, [[0.0, 1.0, 2.0]], atol=1e-15)
    np.testing.assert_array_equal(rotated(np.ones((1, 3)), np.zeros((1, 3)), 1.0), np.ones((1, 3)))


def test_complexes_are_rigid():
    run = simulate(Composition(complexes=(2, 4, 3)), generators(3), frames=(0, 4))
    for begin, end in ((0, 2), (2, 6), (6, 9)):
        body = run.positions[:, :, begin:end]
        distances = np.linalg.norm(body[:, :, :, None] - body[:, :, None], axis=-1)
        np.testing.assert_allclose(distances[:, 1], distances[:, 0], atol=1e-11)


def test_the_centre_of_a_complex_moves_by_the_published_rule():
    rng = np.random.default_rng(2)
    body = RigidBody.assembled(rng.normal(size=(1, 4, 3)), rng.normal(size=(1, 4, 3)))
    force, velocity = rng.normal(size=(1, 4, 3)), body.velocity
    body.step(force, 0.5)
    np.testing.assert_allclose(body.velocity - velocity, 0.5 * force.sum(1, keepdims=True) / 16)


@pytest.mark.parametrize("composition", [Composition(isolated=9, sticks=1, hinges=1), Composition(isolated=100)])
def test_a_system_depends_on_its_seed_alone(composition):
    together = simulate(composition, generators(5), frames=(0, 1))
    for index in range(5):
        alone = simulate(composition, [generators(5)[index]], frames=(0, 1))
        np.testing.assert_array_equal(alone.positions[0], together.positions[index])
        np.testing.assert_array_equal(alone.velocities[0], together.velocities[index])
    other = simulate(composition, generators(5, seed=1), frames=(0, 1))
    assert not np.isclose(other.positions, together.positions).any()


def small(**options):
    recipe = ChargedSystemsRecipe.nbody(100, systems=(18, 2, 3), **options)
    return ChargedSystemsRecipe(recipe.compositions, recipe.systems, frames=(0, 1), seed=recipe.seed)


@pytest.mark.slow
def test_a_data_set_does_not_depend_on_the_number_of_processes():
    alone, shared = (charged_systems(small(), processes=count, progress=False) for count in (1, 2))
    for name in ("train", "valid", "test"):
        for array in ("x", "v", "target", "charges", "bodies", "counts"):
            np.testing.assert_array_equal(getattr(alone[name], array), getattr(shared[name], array))
    assert not np.isclose(alone["train"].x[:100], alone["valid"].x[:100]).any()


def test_training_systems_stay_and_test_systems_are_turned():
    data = charged_systems(small(), progress=False)
    recipe = small()
    for split, name in ((0, "train"), (2, "test")):
        sequence = np.random.SeedSequence(recipe.seed, spawn_key=(split, 0))
        rng = np.random.Generator(np.random.PCG64(sequence))
        rng.integers(1)  # the type of the system
        run = simulate(recipe.compositions[0], [rng], recipe.frames)
        plain, found = run.positions[0, 0], data[name].x[:100].astype(np.float64)
        # the rotation between them, by Kabsch's method (both about the origin)
        left, _, right = np.linalg.svd(found.T @ plain)
        turn = left @ right
        np.testing.assert_allclose(plain @ turn.T, found, atol=1e-5)
        np.testing.assert_allclose(run.velocities[0, 0] @ turn.T, data[name].v[:100], atol=1e-5)
        np.testing.assert_allclose(run.positions[0, 1] @ turn.T, data[name].target[:100], atol=1e-5)
        assert np.linalg.det(turn) == pytest.approx(1.0)
        assert np.allclose(turn, np.eye(3), atol=1e-5) == (name == "train")


def test_types_of_mcomplex_systems():
    recipe = ChargedSystemsRecipe.mcomplex(3, 3, 5, systems=(12, 1, 1))
    assert all(sorted(one.complexes) == [2, 3, 4] for one in recipe.compositions)
    data = charged_systems(
        ChargedSystemsRecipe(recipe.compositions, recipe.systems, frames=(0, 1), seed=0), progress=False
    )
    assert list(data["train"].counts) == [9] * 12
    sizes = draw_sizes(np.random.default_rng(0), 5, 10, 40)
    assert all(len(set(one)) == 5 and min(one) >= 2 and max(one) <= 18 for one in sizes)
    assert len(set(sizes)) > 30
    with pytest.raises(DataError, match="cannot all differ"):
        draw_sizes(np.random.default_rng(0), 5, 3, 1)


def test_a_file_is_read_back_and_another_recipe_refused(tmp_path):
    path = tmp_path / "folder" / "systems.h5"
    made = charged_systems(small(), path, progress=False)
    read = charged_systems(small(), path, progress=False)
    for name in made:
        np.testing.assert_array_equal(read[name].target, made[name].target)
        assert list(read[name].offsets) == list(made[name].offsets)
    with pytest.raises(DataError, match="other settings"):
        charged_systems(small(seed=1), path, progress=False)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.98])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "systems.h5"
    charged_systems(small(), path, progress=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="not a readable data set"):
        charged_systems(small(), path, progress=False)
    assert path.stat().st_size == int(share * len(content))


def test_a_foreign_file_is_refused(tmp_path):
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1.0
    with pytest.raises(DataError, match="no data set of charged systems"):
        charged_systems(small(), tmp_path / "other.h5", progress=False)


@pytest.mark.parametrize(
    "options",
    [{"isolated": 1}, {"isolated": 4, "sticks": -1}, {"isolated": 2, "complexes": (3,)}, {"complexes": (1, 3)}],
)
def test_impossible_compositions_are_refused(options):
    with pytest.raises(DataError):
        Composition(**options)


@pytest.mark.parametrize("frames", [(), (3, 2), (-1, 2)])
def test_impossible_frames_are_refused(frames):
    with pytest.raises(DataError, match="must ascend"):
        simulate(Composition(isolated=2), generators(1), frames=frames)


def test_impossible_data_sets_are_refused():
    with pytest.raises(DataError, match="at least one type"):
        ChargedSystemsRecipe.nbody(systems=(1, 0, 1))
    with pytest.raises(DataError, match="expected three numbers"):
        ChargedSystemsRecipe.nbody(systems=(1, 2))
