"""All architectures: symmetries, batches, edge cases; what each lacks is shown, too."""

from __future__ import annotations

import pytest
import torch
from architecture_cases import CASES, CLOSE, SIZES, inputs, make, needs_e3nn, orthogonal

from fastegnn_md.models import architectures_for, available_models, build_model
from fastegnn_md.nn import edge_sums

NOT_TRANSLATED = {"mpnn"}
NOT_ROTATED = {"mpnn", "vn-egnn"}
OF_MORE_DEGREES = {"tfn of three degrees", "se3-transformer of three degrees"}
NOT_REFLECTED = {*NOT_ROTATED, *OF_MORE_DEGREES, "tfn", "fasttfn", "se3-transformer"}
WITHOUT_EDGES = {"linear"}


@pytest.fixture(autouse=True)
def _e3nn(request, require):
    if needs_e3nn(request.node.name):
        require("e3nn")


def moved(case, values, turn=None, move=None):
    """What a transformed input gives, minus the transformed output: zero for an equivariant network."""
    turn = torch.eye(3, dtype=torch.float64) if turn is None else turn
    move = torch.zeros(3, dtype=torch.float64) if move is None else move
    model = make(case)
    plain = model(**values)
    other = model(**{**values, "x": values["x"] @ turn + move, "v": values["v"] @ turn})
    errors = [other.x - (plain.x @ turn + move)]
    errors.append(other.h - plain.h)
    if plain.v is not None:
        errors.append(other.v - plain.v @ turn)
    assert float((plain.x - values["x"]).detach().norm()) > 0.01, "an identity would be equivariant too"
    return max(float(error.detach().abs().max()) for error in errors)


def test_every_architecture_is_tested_here():
    assert {name for name, _ in CASES.values()} == set(available_models())


@pytest.mark.parametrize("case", CASES)
def test_translation(case):
    move = torch.tensor([3.0, -2.0, 7.0], dtype=torch.float64)
    error = moved(case, inputs(), move=move)
    assert (error < 1e-10) == (case not in NOT_TRANSLATED), error


@pytest.mark.parametrize("case", CASES)
def test_rotation(case):
    error = moved(case, inputs(), turn=orthogonal(False))
    assert (error < 1e-10) == (case not in NOT_ROTATED), error


@pytest.mark.parametrize("case", CASES)
def test_reflection(case):
    error = moved(case, inputs(), turn=orthogonal(True))
    assert (error < 1e-10) == (case not in NOT_REFLECTED), error


def test_what_is_not_reflected_is_listed_as_handed():
    assert set(architectures_for("handed")) == NOT_REFLECTED - OF_MORE_DEGREES


@pytest.mark.parametrize("case", CASES)
def test_order_of_the_nodes_and_of_the_edges(case):
    model, values = make(case), inputs()
    starts = [sum(SIZES[:i]) for i in range(len(SIZES))]
    generator = torch.Generator().manual_seed(3)
    order = torch.cat([a + torch.randperm(n, generator=generator) for a, n in zip(starts, SIZES, strict=True)])
    edges = torch.randperm(values["edge_index"].shape[1], generator=generator)
    permuted = {name: value[order] if name in ("h", "x", "v") else value for name, value in values.items()} | {
        "edge_index": order.argsort()[values["edge_index"]][:, edges],
        "edge_attr": values["edge_attr"][edges],
    }
    plain, other = model(**values), model(**permuted)
    torch.testing.assert_close(other.x, plain.x[order], **CLOSE)
    torch.testing.assert_close(other.h, plain.h[order], **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_systems_of_a_batch_do_not_see_each_other_and_inputs_stay(case):
    model, values = make(case), inputs()
    kept = {name: value.clone() for name, value in values.items()}
    with torch.no_grad():  # where tensors may be overwritten
        together = model(**values, systems=len(SIZES))
    assert all(torch.equal(values[name], value) for name, value in kept.items())
    for system, size in enumerate(SIZES):
        start = sum(SIZES[:system])
        inside = (values["edge_index"][0] >= start) & (values["edge_index"][0] < start + size)
        alone = {name: values[name][start : start + size] for name in ("h", "x", "v")}
        edges = {"edge_index": values["edge_index"][:, inside] - start, "edge_attr": values["edge_attr"][inside]}
        output = model(**alone, **edges)
        torch.testing.assert_close(output.x.detach(), together.x[start : start + size], **CLOSE)
        torch.testing.assert_close(output.h.detach(), together.h[start : start + size], **CLOSE)


@pytest.mark.parametrize("case", CASES)
def test_no_edges_and_one_atom(case):
    model, values = make(case), inputs(sizes=(1,))
    output = model(**values)
    assert values["edge_index"].shape == (2, 0)
    assert torch.isfinite(output.x).all()
    assert output.x.shape == (1, 3)


@pytest.mark.parametrize("case", [case for case in CASES if case not in WITHOUT_EDGES])
def test_networks_without_edge_attributes(case):
    values = inputs()
    del values["edge_attr"]
    plain = make(case, edge_features=0)(**values)
    values["edge_index"] = values["edge_index"].flip(0)
    assert not torch.allclose(make(case, edge_features=0)(**values).x, plain.x)


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_finite_where_atoms_coincide(case):
    model, values = make(case), inputs(sizes=(5,))
    values["x"][1] = values["x"][0]
    values["v"][:] = 0
    for name in ("h", "x", "v"):
        values[name].requires_grad_()
    output = model(**values)
    (output.x.square().sum() + output.h.square().sum()).backward()
    for name in ("h", "x", "v"):
        assert values[name].grad is None or torch.isfinite(values[name].grad).all(), name
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.any() for p in model.parameters()) or case in WITHOUT_EDGES


@pytest.mark.parametrize("case", CASES)
def test_edge_vectors_given_take_the_place_of_differences(case):
    """The difference of the positions given as edge_vector changes nothing; another vector does."""
    model, values = make(case), inputs()
    i, j = values["edge_index"]
    plain = model(**values)
    vector = values["x"][i] - values["x"][j]
    torch.testing.assert_close(model(**values, edge_vector=vector).x, plain.x, **CLOSE)
    other = model(**values, edge_vector=2 * vector.roll(1, dims=1))
    ignored = {"linear", "mpnn", "eghn", "eghn, not normalised"}  # the only ones that see no geometry of edges
    assert torch.allclose(other.x, plain.x) == (case in ignored)


@pytest.mark.parametrize("case", [case for case in CASES if case not in WITHOUT_EDGES])
def test_an_edge_of_weight_zero_sends_nothing(case):
    """Compared by sums, so that the edge does not count as a neighbour either: its receiver has no other."""
    model, values = make(case), inputs()
    receiver = int(values["edge_index"][0, 0])
    single = (values["edge_index"][0] != receiver) | (torch.arange(values["edge_index"].shape[1]) == 0)
    values = {**values, "edge_index": values["edge_index"][:, single], "edge_attr": values["edge_attr"][single]}
    weight = torch.ones(values["edge_index"].shape[1], dtype=torch.float64)
    weight[0] = 0.0
    without = {**values, "edge_index": values["edge_index"][:, 1:], "edge_attr": values["edge_attr"][1:]}
    torch.testing.assert_close(model(**values, edge_weight=weight).x, model(**without).x, **CLOSE)
    assert not torch.allclose(model(**values).x, model(**without).x)


@pytest.mark.parametrize("case", [case for case in CASES if case not in WITHOUT_EDGES])
def test_wrong_inputs_are_refused(case):
    model, values = make(case), inputs()
    with pytest.raises(ValueError, match="edge_attr has 1 columns; this model has 2"):
        model(**{**values, "edge_attr": values["edge_attr"][:, :1]})
    too_many = CASES[case][1].get("vector_channels", 1)
    message = "takes no vectors beside v" if too_many == 1 else f"do not fit into {too_many} vector channels"
    with pytest.raises(ValueError, match=message):
        model(**values, vectors=torch.zeros(20, too_many, 3, dtype=torch.float64))


@pytest.mark.parametrize("case", CASES)
def test_edges_in_pieces_give_the_same_gradients(case, monkeypatch):
    """What a piece uses and does not name would get none."""
    model, values = make(case), inputs()
    values["edge_weight"] = torch.linspace(0.1, 1.0, values["edge_index"].shape[1], dtype=torch.float64)
    found = []
    for piece, kept in ((10**6, 10**6), (7, 0)):
        monkeypatch.setattr(edge_sums, "PIECE", piece)
        monkeypatch.setattr(edge_sums, "KEPT", kept)
        x = values["x"].clone().requires_grad_()
        output = model(**{**values, "x": x})
        loss = output.x.square().sum() + output.h.square().sum()
        found.append(torch.autograd.grad(loss, [x, *model.parameters()], allow_unused=True))
    for once, in_pieces in zip(*found, strict=True):
        if once is None:  # of what plays no part in the result
            assert in_pieces is None or not in_pieces.any()
        else:
            torch.testing.assert_close(in_pieces, once, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_lower_precision(case):
    expected, values = make(case)(**inputs()).x.detach(), inputs()
    values = {name: value.float() if value.is_floating_point() else value for name, value in values.items()}
    model = make(case).float()
    single = model(**values).x
    assert single.dtype == torch.float32
    assert float((single.detach() - expected).abs().max()) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(**values).x
        with torch.no_grad():
            unwatched = model(**values).x
    for one in (mixed, unwatched):
        assert float((one.detach() - expected).abs().max()) < 0.1
    mixed.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("case", CASES)
def test_tensors_are_made_where_the_inputs_are(case):
    """On the device "meta", which computes nothing and refuses to be mixed with another."""
    values = {name: value.to("meta") for name, value in inputs().items()}
    output = make(case).to("meta")(**values, systems=len(SIZES))
    output.x.sum().backward()
    assert output.x.device.type == "meta"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("egnn", {"node_features": 0}, "node_features is 0; expected at least 1"),
        ("egnn", {"node_features": 1, "form": "thesis"}, "expected 'paper' or 'published'"),
        ("egnn", {"node_features": 1, "form": "published", "tanh": True}, "form 'published' has neither"),
        ("egnn", {"node_features": 1, "vector_channels": 2}, "needs average_neighbours"),
        ("eghn", {"node_features": 1, "clusters": 0}, "clusters is 0; expected at least 1"),
        ("eghn", {"node_features": 1, "decoder_layers": 2}, "decoder_layers is 2; form 'paper' has 1"),
        ("eghn", {"node_features": 1, "form": "published", "normalize": False}, "normalize=False is for form 'paper'"),
        ("rf", {"hidden": 0}, "hidden is 0"),
        ("rf", {"node_features": 1}, "rf has no hyper-parameter node_features; it has: edge_features"),
        ("linear", {"hidden": 3}, "linear has no hyper-parameter hidden; it has: none"),
        ("schnet", {"node_features": 1, "gaussians": 1}, "gaussians is 1"),
        ("gmn", {"node_features": 1, "layers": 0}, "layers is 0; expected at least 1"),
        ("se3-transformer", {"node_features": 1, "degrees": 1}, "degrees is 1; expected at least 2"),
        (
            "se3-transformer",
            {"node_features": 1, "hidden": 8, "heads": 3},
            "heads is 3; expected a divisor of hidden=8",
        ),
    ],
)
def test_wrong_hyperparameters_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, **options)
