"""FastEGNN: symmetries, and the equations of the paper written out with loops."""

from __future__ import annotations

import pytest
import torch
from architecture_cases import SIZES, orthogonal
from architecture_cases import inputs as plain_inputs
from torch.nn.functional import silu

from fastegnn_md.models import FastEGNN, available_models, build_model


def make(seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251 - initialisers take no generator
        model = FastEGNN(node_features=2, edge_features=2, hidden=16, layers=3, **options).double()
        for name, parameter in model.named_parameters():
            if "coordinate" in name and name.endswith("second.weight"):
                torch.nn.init.normal_(parameter, std=0.3)  # the published start is too close to the identity to test
    return model


def inputs(seed=0, vectors=False):
    values = plain_inputs(seed)
    if vectors:
        generator = torch.Generator().manual_seed(seed + 1)
        values["vectors"] = torch.randn(sum(SIZES), 1, 3, generator=generator, dtype=torch.float64)
    return values


FORMS = {
    "paper": {},
    "published": {"form": "published", "attention": True, "tanh": True, "normalize": True},
    "half of the edges": {"edge_dropping": 0.5},
    "vectors": {"vector_channels": 4, "average_neighbours": 5.0},
    "no virtual geometry": {"virtual_geometry": False},
    "vectors, no virtual geometry": {"vector_channels": 4, "average_neighbours": 5.0, "virtual_geometry": False},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reflect", [False, True])
def test_turns_and_moves_with_its_input(form, reflect):
    model, values = make(**FORMS[form]), inputs(vectors="vector_channels" in FORMS[form])
    turn, move = orthogonal(reflect), torch.tensor([3.0, -2.0, 7.0], dtype=torch.float64)
    turned = {**values, "x": values["x"] @ turn + move, "v": values["v"] @ turn}
    if "vectors" in values:
        turned["vectors"] = values["vectors"] @ turn
    plain, other = model(**values), model(**turned)
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(other.x, plain.x @ turn + move, **close)
    torch.testing.assert_close(other.h, plain.h, **close)
    torch.testing.assert_close(other.s, plain.s, **close)
    if plain.z is not None:
        torch.testing.assert_close(other.z, plain.z @ turn + move, **close)
    if plain.v is not None:
        torch.testing.assert_close(other.v, plain.v @ turn, **close)
    assert float((plain.x - values["x"]).detach().norm()) > 0.1, "an identity would be equivariant too"


@pytest.mark.parametrize("form", FORMS)
def test_permutation_of_atoms(form):
    model, values = make(**FORMS[form]), inputs()
    order = torch.cat([start + torch.randperm(n, generator=torch.Generator().manual_seed(3)) for start, n in _ranges()])
    position = order.argsort()
    permuted = {name: value[order] if name in ("h", "x", "v") else value for name, value in values.items()} | {
        "edge_index": position[values["edge_index"]]
    }
    plain, other = model(**values), model(**permuted)
    torch.testing.assert_close(other.x, plain.x[order], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(other.h, plain.h[order], rtol=1e-10, atol=1e-10)


def _ranges():
    return [(sum(SIZES[:i]), size) for i, size in enumerate(SIZES)]


@pytest.mark.parametrize("form", FORMS)
def test_systems_of_a_batch_do_not_see_each_other(form):
    model, values = make(**FORMS[form]), inputs()
    together = model(**values)
    for system, (start, size) in enumerate(_ranges()):
        inside = (values["edge_index"][0] >= start) & (values["edge_index"][0] < start + size)
        alone = {name: values[name][start : start + size] for name in ("h", "x", "v")}
        output = model(
            **alone, edge_index=values["edge_index"][:, inside] - start, edge_attr=values["edge_attr"][inside]
        )
        torch.testing.assert_close(output.x, together.x[start : start + size], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(output.s[0], together.s[system], rtol=1e-10, atol=1e-10)


def test_equations_of_the_paper_written_with_loops():
    model, values = make(virtual_nodes=2), inputs()
    output = model(**values)
    start, n = _ranges()[2]
    h = model.embedding(values["h"][start:])
    x, v = values["x"][start:], values["v"][start:]
    edges = [
        (i - start, j - start, e)
        for (i, j), e in zip(values["edge_index"].T.tolist(), values["edge_attr"], strict=True)
        if i >= start
    ]
    z = x.mean(0).expand(2, 3)
    s = model.virtual_features
    for layer in model.layers:
        x_bar = x.mean(0)
        mixing = (z - x_bar) @ (z - x_bar).T
        new_x, new_h = [], []
        virtual = [[None] * 2 for _ in range(n)]
        for i in range(n):
            messages, pull = [], []
            for a, j, e in edges:
                if a != i:
                    continue
                square = ((x[i] - x[j]) ** 2).sum()
                m = torch.cat([h[i], h[j], square[None], e])
                m = silu(layer.edge.second(silu(layer.edge.first(m))))
                messages.append(m)
                pull.append((x[i] - x[j]) * layer.coordinate(m))
            zero_m, zero_x = torch.zeros(16, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
            received = sum(messages, zero_m) / max(1, len(messages))
            moved = x[i] + sum(pull, zero_x) / max(1, len(pull))
            for c in range(2):
                square = ((x[i] - z[c]) ** 2).sum()
                m = torch.cat([h[i], s[c], square[None], mixing[:, c]])
                virtual[i][c] = silu(layer.virtual.second(silu(layer.virtual.first(m))))
                moved = moved + (x[i] - z[c]) * layer.coordinate_virtual(virtual[i][c]) / 2
            moved = moved + layer.velocity(h[i]) * v[i]
            new_x.append(moved)
            new_h.append(h[i] + layer.node(torch.cat([h[i], received, *virtual[i]])))
        new_z, new_s = [], []
        for c in range(2):
            step = sum((z[c] - x[i]) * layer.virtual.coordinate(virtual[i][c]) for i in range(n)) / n
            mean = sum(virtual[i][c] for i in range(n)) / n
            new_z.append(z[c] + step)
            new_s.append(s[c] + layer.virtual.feature(torch.cat([s[c], mean])))
        x, h, z, s = torch.stack(new_x), torch.stack(new_h), torch.stack(new_z), torch.stack(new_s)
    for mine, theirs in ((x, output.x[start:]), (h, output.h[start:]), (z, output.z[2]), (s, output.s[2])):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_gradients_are_finite_where_an_atom_sits_on_its_virtual_nodes():
    model = make(form="published")
    values = {name: value[7:8] for name, value in inputs().items() if name in ("h", "x", "v")}
    model(
        **values, edge_index=torch.zeros(2, 0, dtype=torch.int64), edge_attr=torch.zeros(0, 2).double()
    ).x.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_vector_channels_are_continuous_at_the_cutoff():
    model, values = make(**FORMS["vectors"]), inputs()
    with torch.no_grad():  # biases that start at zero are anything after training
        for parameter in model.parameters():
            parameter.add_(0.1)
    weight = torch.ones(values["edge_index"].shape[1], dtype=torch.float64)
    weight[4] = 0.0
    without = {
        **values,
        "edge_index": _without(values["edge_index"], 4, 1),
        "edge_attr": _without(values["edge_attr"], 4, 0),
    }
    kept = model(**values, edge_weight=weight)
    torch.testing.assert_close(kept.x, model(**without, edge_weight=weight[1:].fill_(1.0)).x, rtol=1e-12, atol=1e-12)


def _without(tensor, index, dim):
    return torch.cat([tensor.narrow(dim, 0, index), tensor.narrow(dim, index + 1, tensor.shape[dim] - index - 1)], dim)


@pytest.mark.parametrize("share", [0.25, 0.75, 1.0])
def test_edge_dropping_is_the_model_without_its_longest_edges(share):
    model, values = make(edge_dropping=share), inputs()
    plain = make()
    plain.load_state_dict(model.state_dict())
    i, j = values["edge_index"]
    length = (values["x"][i] - values["x"][j]).norm(dim=1)
    keep = torch.zeros(len(length), dtype=torch.bool)
    for system in range(len(SIZES)):
        inside = (values["batch"][i] == system).nonzero()[:, 0]
        count = round((1 - share) * len(inside))
        if count:  # as many, and those as long as the longest of them
            keep[inside[length[inside] <= length[inside].sort().values[count - 1]]] = True
    fewer = {**values, "edge_index": values["edge_index"][:, keep], "edge_attr": values["edge_attr"][keep]}
    dropped, expected = model(**values), plain(**fewer)
    torch.testing.assert_close(dropped.x, expected.x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dropped.h, expected.h, rtol=1e-12, atol=1e-12)


def test_registry_lists_what_it_knows():
    assert "fastegnn" in available_models()
    model = build_model("fastegnn", node_features=1, edge_features=0, hidden=4, layers=1, virtual_nodes=1)
    assert isinstance(model, FastEGNN)
    with pytest.raises(ValueError, match=r"unknown model 'fastegn'; available: .*fastegnn"):
        build_model("fastegn")
    with pytest.raises(ValueError, match="no hyper-parameter width; it has: node_features"):
        build_model("fastegnn", node_features=1, width=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"virtual_nodes": 0}, "virtual_nodes is 0"),
        ({"form": "thesis"}, "expected 'paper' or 'published'"),
        ({"vector_channels": 3}, "needs average_neighbours"),
        ({"edge_dropping": 1.5}, "expected a share from 0 to 1"),
    ],
)
def test_wrong_hyperparameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FastEGNN(node_features=1, **options)


def test_wrong_inputs_are_refused():
    model, values = make(), inputs()
    with pytest.raises(ValueError, match="edge_attr has 1 columns; this model has 2"):
        model(**{**values, "edge_attr": values["edge_attr"][:, :1]})
    with pytest.raises(ValueError, match="do not fit into 4 vector channels"):
        make(**FORMS["vectors"])(**values, vectors=torch.zeros(20, 5, 3, dtype=torch.float64))
