"""GMN: its equations in plain NumPy, rigid objects that stay rigid, and its rows in the tables."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from architecture_cases import CLOSE, SIZES, inputs, make, orthogonal
from scipy.spatial.transform import Rotation

from fastegnn_md.models import build_model
from fastegnn_md.nn.rigid import Hinge, Stick
from fastegnn_md.papers.datasets.motion_steps import MotionSteps
from fastegnn_md.papers.datasets.nbody import ChargedSystemsRecipe, charged_systems
from fastegnn_md.papers.datasets.nbody.bodies import Sticks
from fastegnn_md.papers.tables.data import motion_graphs, object_graphs
from fastegnn_md.papers.tables.rows import Row, Settings
from fastegnn_md.papers.tables.run import chosen_rows
from fastegnn_md.papers.tables.train import RowTraining

STICKS, HINGES = [[0, 3], [9, 8]], [[2, 5, 1], [12, 19, 10]]  # within the systems of inputs()
BONDS = [(0, 3), (9, 8), (2, 5), (2, 1), (12, 19), (12, 10)]


def rigid_inputs():
    return inputs() | {"sticks": torch.tensor(STICKS), "hinges": torch.tensor(HINGES)}


def lengths(x, bonds=BONDS):
    return torch.stack([(x[i] - x[j]).norm() for i, j in bonds])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(layer, x):
    y = x @ layer.weight.detach().numpy().T
    return y if layer.bias is None else y + layer.bias.detach().numpy()


def silu(x):
    return x / (1 + np.exp(-x))


def mlp(network, x):
    return dense(network.second, silu(dense(network.first, x)))


def combined(network, *vectors):
    """Z MLP(ZᵀZ / ‖ZᵀZ‖), the columns of Z being vectors."""
    z = np.stack(vectors, axis=1)
    gram = z.T @ z
    return z @ mlp(network, gram.flatten() / np.sqrt((gram**2).sum()))


def one_layer(layer, h, x, v, edges):
    n = len(x)
    heard, force = np.zeros_like(h), np.zeros((n, 3))
    for i in range(n):
        around = [(j, attributes) for receiver, j, attributes in edges if receiver == i]
        for j, attributes in around:
            r = x[i] - x[j]
            m = silu(dense(layer.edge.first, np.concatenate([h[i], h[j], [r @ r], attributes])))
            m = silu(dense(layer.edge.second, m))
            heard[i] += m
            force[i] += r * mlp(layer.coordinate, m) / len(around)
    new_x, new_v = np.zeros((n, 3)), np.zeros((n, 3))
    for i in range(n):
        new_v[i] = mlp(layer.velocity, h[i]) * v[i] + force[i]
        new_x[i] = x[i] + new_v[i]
    for i, j in STICKS:
        whole = mlp(layer.body, h[i]) + mlp(layer.body, h[j])
        middle, half = (x[i] + x[j]) / 2, (x[i] - x[j]) / 2
        inertia = half @ half + half @ half
        spin = np.cross(half, (v[i] - v[j]) / 2) / (half @ half)
        spin = mlp(layer.spin, whole) * spin + (np.cross(half, force[i]) + np.cross(-half, force[j])) / inertia
        velocity = mlp(layer.velocity, whole) * (v[i] + v[j]) / 2
        velocity = velocity + (combined(layer.stick, force[i]) + combined(layer.stick, force[j])) / 2
        middle, half = middle + velocity, Rotation.from_rotvec(spin).apply(half)
        new_x[i], new_x[j] = middle + half, middle - half
        new_v[i], new_v[j] = velocity + np.cross(spin, half), velocity - np.cross(spin, half)
    for nodes in HINGES:
        joint, *ends = nodes
        whole = sum(mlp(layer.body, h[i]) for i in nodes)
        a = sum(combined(layer.hinge, force[i], x[i] - x[joint], v[i] - v[joint]) for i in nodes) / 3
        velocity = mlp(layer.velocity, whole) * v[joint] + a
        new_x[joint], new_v[joint] = x[joint] + velocity, velocity
        for k in ends:
            arm = x[k] - x[joint]
            spin = mlp(layer.spin, h[k]) * np.cross(arm, v[k] - v[joint]) / (arm @ arm)
            spin = spin + np.cross(arm, force[k] - a) / (arm @ arm)
            arm = Rotation.from_rotvec(spin).apply(arm)
            new_x[k], new_v[k] = x[joint] + velocity + arm, velocity + np.cross(spin, arm)
    new_h = np.stack([h[i] + mlp(layer.node, np.concatenate([h[i], heard[i]])) for i in range(n)])
    return new_h, new_x, new_v


def test_gmn_is_its_equations():
    model, values = make("gmn"), rigid_inputs()
    edges = [(i, j, a) for (i, j), a in zip(values["edge_index"].T.tolist(), values["edge_attr"].numpy(), strict=True)]
    h, x, v = dense(model.embedding, values["h"].numpy()), values["x"].numpy(), values["v"].numpy()
    for layer in model.layers:
        h, x, v = one_layer(layer, h, x, v, edges)
    output = model(**values)
    torch.testing.assert_close(output.x, torch.from_numpy(x), **CLOSE)
    torch.testing.assert_close(output.h, torch.from_numpy(h), **CLOSE)


def test_sticks_and_arms_keep_their_lengths_whatever_the_weights_are():
    values = rigid_inputs()
    for seed in range(3):
        x = make("gmn", seed)(**values).x.detach()
        torch.testing.assert_close(lengths(x), lengths(values["x"]), rtol=1e-12, atol=0)
        free = [bond for bond in [(5, 1), (0, 2), (11, 13)] if bond not in BONDS]
        assert float((lengths(x, free) - lengths(values["x"], free)).abs().min()) > 1e-3


@pytest.mark.parametrize("reflect", [False, True])
def test_sticks_and_hinges_turn_with_their_input(reflect):
    model, values, turn = make("gmn"), rigid_inputs(), orthogonal(reflect)
    moved = model(**values | {"x": values["x"] @ turn + 7.0, "v": values["v"] @ turn})
    plain = model(**values)
    torch.testing.assert_close(moved.x, plain.x @ turn + 7.0, **CLOSE)
    torch.testing.assert_close(moved.h, plain.h, **CLOSE)


def test_particles_and_objects_in_another_order():
    model, values = make("gmn"), rigid_inputs()
    plain, generator = model(**values), torch.Generator().manual_seed(2)
    starts = [sum(SIZES[:i]) for i in range(len(SIZES))]
    order = torch.cat([a + torch.randperm(n, generator=generator) for a, n in zip(starts, SIZES, strict=True)])
    place = order.argsort()
    permuted = values | {name: values[name][order] for name in ("h", "x", "v")}
    permuted |= {"edge_index": place[values["edge_index"]], "sticks": place[values["sticks"]].flip(0, 1)}
    permuted |= {"hinges": place[values["hinges"]][:, [0, 2, 1]]}  # ends of a stick or of a hinge have no order
    torch.testing.assert_close(model(**permuted).x, plain.x[order], **CLOSE)


def test_no_objects_are_isolated_particles():
    model, values = make("gmn"), inputs()
    none = {"sticks": torch.zeros(0, 2, dtype=torch.int64), "hinges": torch.zeros(0, 3, dtype=torch.int64)}
    torch.testing.assert_close(model(**values, **none).x, model(**values).x, rtol=0, atol=0)
    assert not torch.allclose(model(**rigid_inputs()).x, model(**values).x)


def derivative(function, step=1e-4):
    """Of a function of one number at 0."""
    return (function(step) - function(-step)) / (2 * step)


def jacobian(turned):
    """Of positions (..., 3) with respect to a rotation vector at 0."""
    return torch.stack([derivative(lambda t, k=k: turned(t * torch.eye(3).double()[k])) for k in range(3)], dim=-1)


def test_angular_accelerations_are_those_of_the_generalised_equations():
    """M q̈ = Jᵀ f with M = JᵀJ, J from finite differences of the forward kinematics."""
    x, v, force, rest = draw(1, 2, 3), draw(1, 2, 3, seed=1), draw(1, 2, 3, seed=2), torch.zeros(1, 3).double()
    stick = Stick.assembled(x, v)
    j = jacobian(lambda turn: stick.moved(rest, turn[None]).particles()[0][0]).reshape(6, 3)
    expected = torch.linalg.pinv(j.T @ j, rtol=1e-6) @ (j.T @ force.flatten())
    torch.testing.assert_close(stick.accelerations(force)[0], expected, rtol=0, atol=1e-6)
    x, v, force, joint = draw(1, 3, 3), draw(1, 3, 3, seed=1), draw(1, 3, 3, seed=2), draw(1, 3, seed=3)
    hinge = Hinge.assembled(x, v)
    for end in (0, 1):  # the joint is moved with the acceleration given: what is left of the force acts on the arm
        which = torch.eye(2).double()[end][:, None]
        j = jacobian(lambda turn, which=which: hinge.moved(rest, (which * turn)[None]).particles()[0][0])[1 + end]
        expected = torch.linalg.pinv(j.T @ j, rtol=1e-6) @ (j.T @ (force[0, 1 + end] - joint[0]))
        torch.testing.assert_close(hinge.accelerations(force, joint)[0, end], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "corners", "spins"), [(Stick, 2, (4, 3)), (Hinge, 3, (4, 2, 3))])
def test_velocities_are_derivatives_of_positions(kind, corners, spins):
    body = kind.assembled(draw(4, corners, 3), draw(4, corners, 3, seed=1))
    velocity, spin = draw(4, 3, seed=2), draw(*spins, seed=3)
    for moment in (0.0, 1.0):  # before the step, and after it
        found = derivative(lambda t, m=moment: body.moved((m + t) * velocity, (m + t) * spin).particles()[0])
        there = body.moved(moment * velocity, moment * spin)
        expected = kind(there[0], velocity, there[2], spin).particles()[1]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_layer_of_newtons_weights_moves_sticks_as_the_simulation_does():
    (layer,) = make("gmn", layers=1).layers
    with torch.no_grad():  # φ(f) = f, ψ = 1
        for network in (layer.stick, layer.velocity, layer.spin):
            network.second.weight.zero_()
            network.second.bias.fill_(1.0)
    x, v, force = draw(5, 2, 3), draw(5, 2, 3, seed=1), draw(5, 2, 3, seed=2)
    found = layer.move_sticks(draw(5, 2, 16, seed=3), x, v, force)
    body = Sticks.assembled(x[None].numpy(), v[None].numpy())
    body.step(force[None].numpy(), 1.0)
    for one, expected in zip(found, body.particles(), strict=True):
        torch.testing.assert_close(one.detach(), torch.from_numpy(expected[0]), **CLOSE)


def test_gradients_are_finite_where_the_ends_of_a_stick_meet_and_nothing_turns():
    model, values = make("gmn"), rigid_inputs()
    values["v"], values["edge_index"] = torch.zeros(20, 3).double(), values["edge_index"][:, :0]
    values["edge_attr"] = values["edge_attr"][:0]
    values["x"][3], values["x"][5] = values["x"][0], values["x"][2]
    values["x"].requires_grad_()
    model(**values).x.square().sum().backward()
    assert torch.isfinite(values["x"].grad).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sticks": [[0, 1, 2]]}, r"sticks has shape \(1, 3\).*expected int64 node numbers of shape \(number of sti"),
        ({"hinges": [[0.0, 1.0, 2.0]]}, "hinges has shape .* and type torch.float32; expected int64"),
        ({"sticks": [[0, 1], [1, 2]]}, "a particle is in two of the sticks and hinges"),
        ({"sticks": [[4, 1]], "hinges": [[1, 2, 3]]}, "a particle is in two of the sticks and hinges"),
        ({"sticks": [[0, 1]], "edge_vector": None}, "not kept in periodic systems"),
    ],
)
def test_objects_that_are_none_are_refused(changes, message):
    values = inputs()
    given = {name: None if one is None else torch.tensor(one) for name, one in changes.items()}
    if "edge_vector" in given:
        given["edge_vector"] = values["x"][values["edge_index"][0]] - values["x"][values["edge_index"][1]]
    with pytest.raises(ValueError, match=message):
        make("gmn")(**values, **given)


@pytest.fixture(scope="module")
def objects():
    recipe = ChargedSystemsRecipe.nbody(1, 2, 1, systems=(8, 3, 3))
    recipe = ChargedSystemsRecipe(recipe.compositions, recipe.systems, frames=(0, 2))
    return {split: object_graphs(one) for split, one in charged_systems(recipe, progress=False).items()}


def test_graphs_of_objects_name_pairs_that_stay_at_their_distance(objects):
    batch = objects["train"].batch([6, 2], objects=True)
    assert batch.sticks.tolist() == [[1, 2], [3, 4], [9, 10], [11, 12]]
    assert batch.hinges.tolist() == [[5, 6, 7], [13, 14, 15]]
    assert batch.h.shape == (16, 1)
    bonds = [*batch.sticks.tolist(), *batch.hinges[:, :2].tolist(), *batch.hinges[:, ::2].tolist()]
    torch.testing.assert_close(lengths(batch.x, bonds), lengths(batch.target, bonds), rtol=1e-5, atol=0)
    kind = {tuple(edge): float(a[-1]) for edge, a in zip(batch.edge_index.T.tolist(), batch.edge_attr, strict=True)}
    rigid = {(i, j): 1.0 if [i, j] in batch.sticks.tolist() else 2.0 for i, j in bonds}
    assert {edge for edge, one in kind.items() if one} == {*rigid, *((j, i) for i, j in rigid)}
    assert all(kind[edge] == kind[edge[::-1]] == one for edge, one in rigid.items())
    assert objects["train"].batch([6, 2]).sticks is None


def test_bones_that_gmn_takes_for_sticks_are_those_of_the_cmu_skeleton():
    parents = dict(
        enumerate([0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 13, 14, 15, 13, 17, 18, 19, 20, 21, 20], start=1)
    )
    parents |= dict(enumerate([13, 24, 25, 26, 27, 28, 27], start=24))
    bones = np.array([(parent, joint) for joint, parent in parents.items()])
    x = np.random.default_rng(0).normal(size=(3, 31, 3)).astype(np.float32)
    batch = motion_graphs(MotionSteps(x, x, x, bones)).batch([2, 0], objects=True)
    assert batch.sticks.shape == (12, 2)
    assert {tuple(pair) for pair in batch.sticks[:6].tolist()} <= {tuple(bone) for bone in bones}
    assert torch.equal(batch.sticks[6:], batch.sticks[:6] + 31)
    assert batch.hinges.shape == (0, 3)


def test_a_row_of_gmn_trains_and_keeps_every_length(objects, tmp_path):
    settings = Settings(epochs=30, batch_size=4, learning_rate=3e-3)
    row = Row("small", "objects", "gmn", {"hidden": 8, "layers": 2}, settings=settings)
    training = RowTraining(row, objects, tmp_path / "row", progress=False)
    before = training.mean_squared_error("train")
    training.run(1e9)
    assert training.mean_squared_error("train") < 0.7 * before
    batch = objects["test"].batch(range(3), objects=True)
    with torch.no_grad():
        found = training.model(**batch.inputs).x
    bonds = [*batch.sticks.tolist(), *batch.hinges[:, :2].tolist(), *batch.hinges[:, ::2].tolist()]
    torch.testing.assert_close(lengths(found, bonds), lengths(batch.x, bonds), rtol=1e-5, atol=0)


def test_rows_are_found_by_the_name_of_the_network():
    assert [row.name for row in chosen_rows("gmn", "* gmn")[1]] == ["(1, 2, 0) gmn", "(2, 0, 1) gmn", "(3, 2, 1) gmn"]
    assert {row.model for row in chosen_rows("eghn", "walk *")[1]} == {"egnn", "gmn", "eghn", "se3-transformer"}
    assert build_model("gmn", node_features=1).layers[3].hinge.first.weight.shape == (64, 9)
