"""FastEGNN by the C++ library against the same by torch: values, gradients, their gradients, weights that change."""

from __future__ import annotations

import copy
import ctypes

import pytest
import torch
from torch import Tensor

from fastegnn_md.errors import GraphError
from fastegnn_md.models import build_model
from fastegnn_md.models.fastegnn import FastEGNN
from fastegnn_md.nn.native.jump import Jump
from fastegnn_md.nn.native.library import answer, library
from fastegnn_md.nn.native.network import _Call, plan_for
from fastegnn_md.nn.native.potential import _Energies
from fastegnn_md.nn.native.symplectic import _Half

NAMES = ("x", "v", "vectors", "edge_attr", "edge_vector", "edge_weight")
FORMS = [
    pytest.param({"vector_channels": 4, "average_neighbours": 7.0}, id="vectors"),
    pytest.param(
        {"vector_channels": 5, "average_neighbours": 7.0, "virtual_geometry": False}, id="5 vectors, periodic"
    ),
    pytest.param({"vector_channels": 3, "average_neighbours": 3.0, "form": "published"}, id="3 vectors, distances"),
    pytest.param({}, id="positions"),
    pytest.param({"form": "published", "average_neighbours": 5.0}, id="positions, published"),
    pytest.param({"virtual_geometry": False}, id="positions, periodic"),
    pytest.param({"edge_dropping": 0.5}, id="half of the edges"),
    pytest.param({"edge_dropping": 1.0, "virtual_nodes": 1}, id="one virtual node, no edges"),
]
TIGHT = {torch.float64: 1e-11, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def _there() -> None:
    assert library() is not None, "the C++ library could not be built"


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def case(options: dict, sizes=(9, 22, 5), dtype=torch.float64, *, hidden=16, layers=2, seed=0) -> tuple[FastEGNN, dict]:
    """A network and inputs of several systems."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    options = {"virtual_nodes": 3, **options}
    model = build_model("fastegnn", node_features=3, edge_features=6, hidden=hidden, layers=layers, **options).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * normal(*parameter.shape)
    nodes, edges, first = sum(sizes), [], 0
    for size in sizes:
        near = torch.rand((size, size), generator=generator) < 0.4
        near = (near | near.T).fill_diagonal_(False)
        edges.append(near.nonzero().T + first)
        first += size
    index = torch.cat(edges, dim=1)
    count = index.shape[1]
    x = normal(nodes, 3)
    inputs = {
        "h": normal(nodes, 3),
        "x": x,
        "v": normal(nodes, 3),
        "edge_index": index,
        "edge_attr": normal(count, 6),
        "edge_vector": x[index[0]] - x[index[1]] + 0.1 * normal(count, 3),
        "edge_weight": torch.rand(count, generator=generator, dtype=torch.float64).to(dtype),
        "batch": torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        "systems": len(sizes),
    }
    if options.get("vector_channels"):
        inputs["vectors"] = normal(nodes, 1, 3)
    return model, inputs


def by_torch(model: FastEGNN) -> FastEGNN:
    """The same network, which the library does not know."""
    other = copy.deepcopy(model)
    other.shape = None
    return other


def outputs(model: FastEGNN, inputs: dict) -> list[Tensor]:
    found = model(**inputs)
    return [one for one in (found.x, found.v, found.h, found.z, found.s) if one is not None]


def gradients(model: FastEGNN, inputs: dict, *, twice: bool = False) -> list[Tensor]:
    """Gradients of inputs and weights, of a random sum of the outputs, or of the square of its gradient."""
    leaves = {name: inputs[name].clone().requires_grad_() for name in NAMES if name in inputs}
    generator = torch.Generator().manual_seed(1)
    total = torch.zeros((), dtype=inputs["x"].dtype)
    for one in outputs(model, {**inputs, **leaves}):
        total = total + (one * torch.randn(one.shape, generator=generator, dtype=torch.float64).to(one)).sum()
    wanted = [*leaves.values(), *model.parameters()]
    if twice:
        force = torch.autograd.grad(total, [leaves["x"], leaves["edge_vector"]], create_graph=True)
        total = sum((one.square().sum() for one in force), torch.zeros(()))
    found = torch.autograd.grad(total, wanted, allow_unused=True)
    return [torch.zeros_like(one) if of is None else of for one, of in zip(wanted, found, strict=True)]


def assert_same(found: list[Tensor], expected: list[Tensor], bound: float) -> None:
    assert len(found) == len(expected)
    found, expected = [one.detach() for one in found], [one.detach() for one in expected]
    unit = max(float(one.abs().max()) for one in expected if one.numel())
    for one, other in zip(found, expected, strict=True):
        scale = max(float(other.abs().max()) if other.numel() else 0.0, 1e-3 * unit)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", TIGHT, ids=["double", "single"])
@pytest.mark.parametrize("options", FORMS)
def test_values_and_gradients_are_those_of_torch(options, dtype, threads):
    model, inputs = case(options, dtype=dtype, hidden=32)
    assert plan_for(model.shape, model.virtual_features) is not None
    assert_same(outputs(model, inputs), outputs(by_torch(model), inputs), TIGHT[dtype])
    with torch.no_grad():
        assert_same(outputs(model, inputs), outputs(by_torch(model), inputs), TIGHT[dtype])
    assert_same(gradients(model, inputs), gradients(by_torch(model), inputs), 10 * TIGHT[dtype])


@pytest.mark.parametrize("sizes", [(1,), (2, 1, 30), (170,), (9,) * 40], ids=str)
@pytest.mark.parametrize("options", FORMS[:4])
def test_any_number_of_atoms_and_systems(options, sizes, threads):
    model, inputs = case(options, sizes)
    assert_same(gradients(model, inputs), gradients(by_torch(model), inputs), 1e-10)


@pytest.mark.parametrize("options", FORMS[:6])
def test_gradients_of_gradients(options):
    """An energy whose forces are fitted."""
    model, inputs = case(options, sizes=(6, 4))
    assert_same(gradients(model, inputs, twice=True), gradients(by_torch(model), inputs, twice=True), 1e-10)


@pytest.mark.parametrize("options", [FORMS[0], FORMS[3], FORMS[6]])
def test_edges_may_come_in_any_order(options):
    model, inputs = case(options)
    order = torch.randperm(inputs["edge_index"].shape[1], generator=torch.Generator().manual_seed(3))
    mixed = {**inputs, "edge_index": inputs["edge_index"][:, order]}
    mixed |= {name: inputs[name][order] for name in ("edge_attr", "edge_vector", "edge_weight")}
    assert_same(outputs(model, mixed), outputs(by_torch(model), inputs), 1e-11)
    assert_same(gradients(model, mixed), gradients(by_torch(model), mixed), 1e-10)


def test_edges_that_name_no_atom_are_refused_as_by_torch():
    model, inputs = case({})
    inputs["edge_index"] = inputs["edge_index"].clone()
    inputs["edge_index"][1, 3] = 1000
    for network in (model, by_torch(model)):
        with pytest.raises((GraphError, IndexError), match=r"1000|out of"):
            network(**inputs)


def test_the_same_call_gives_the_same_bits(threads):
    model, inputs = case(FORMS[0].values[0], sizes=(150, 9, 9), dtype=torch.float32)
    for one, other in zip(gradients(model, inputs), gradients(model, inputs), strict=True):
        assert torch.equal(one, other)


def _by_fused_adam(model: FastEGNN, inputs: dict) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    outputs(model, inputs)[0].sum().backward()
    with torch.no_grad():
        outputs(model, inputs)  # packs the weights that are about to change
    optimizer.step()


def _by_hand(model: FastEGNN, inputs: dict) -> None:
    with torch.no_grad():
        model.layers[1].node.second.bias[2] += 1.0


def _by_data(model: FastEGNN, inputs: dict) -> None:
    torch.nn.utils.vector_to_parameters(
        torch.nn.utils.parameters_to_vector(model.parameters()).detach() * 1.1, model.parameters()
    )


def _by_replacement(model: FastEGNN, inputs: dict) -> None:
    layer = model.layers[0].edge.second
    layer.weight = torch.nn.Parameter(2 * layer.weight.detach())


def _by_loading(model: FastEGNN, inputs: dict) -> None:
    model.load_state_dict({name: 1.1 * value for name, value in model.state_dict().items()})


@pytest.mark.parametrize("change", [_by_fused_adam, _by_hand, _by_data, _by_replacement, _by_loading])
def test_weights_that_change_are_noticed(change):
    model, inputs = case(FORMS[0].values[0])
    with torch.no_grad():
        before = outputs(model, inputs)[0]
    change(model, inputs)
    with torch.no_grad():
        after = outputs(model, inputs)
        assert not torch.allclose(after[0], before)
        assert_same(after, outputs(by_torch(model), inputs), 1e-11)


def test_another_precision_is_another_plan():
    model, inputs = case(FORMS[0].values[0])
    with torch.no_grad():
        outputs(model, inputs)
        single = {
            key: one.float() if isinstance(one, Tensor) and one.is_floating_point() else one
            for key, one in inputs.items()
        }
        model = model.float()
        assert_same(outputs(model, single), outputs(by_torch(model), single), 1e-5)


def test_values_that_are_not_finite_stay_so():
    model, inputs = case(FORMS[0].values[0])
    inputs["edge_attr"] = inputs["edge_attr"].clone()
    inputs["edge_attr"][5, 0] = float("nan")
    with torch.no_grad():
        assert not model(**inputs).v.isfinite().all()


@pytest.mark.parametrize("dtype", TIGHT, ids=["double", "single"])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_large_values_do_not_overflow(size, dtype):
    """exp(-x) alone would."""
    model, inputs = case(FORMS[0].values[0], dtype=dtype, layers=1)
    inputs["edge_attr"] = size * inputs["edge_attr"].sign()
    inputs["edge_weight"] = inputs["edge_weight"] / size
    with torch.no_grad():
        found, expected = outputs(model, inputs), outputs(by_torch(model), inputs)
    finite = [bool(one.isfinite().all()) for one in expected]
    assert [bool(one.isfinite().all()) for one in found] == finite
    if all(finite):
        assert_same(found, expected, 10 * TIGHT[dtype])


@pytest.mark.parametrize(
    "options", [{"attention": True}, {"tanh": True}, {"ordered": False}, {"normalize": True}, {"gravity": (0, 0, -1)}]
)
def test_options_that_the_library_lacks_are_left_to_torch(options):
    model, inputs = case(options)
    assert model.shape is None
    model(**inputs)


def test_without_the_library_everything_works(without_library):
    model, inputs = case(FORMS[0].values[0])
    assert plan_for(model.shape, model.virtual_features) is None
    assert_same(outputs(model, inputs), outputs(by_torch(model), inputs), 1e-14)


@pytest.mark.parametrize("name", ["h", "v", "edge_attr", "edge_vector", "edge_weight", "vectors"])
def test_inputs_of_other_sizes_are_refused_as_by_torch(name):
    """The library would read beyond their ends."""
    model, inputs = case(FORMS[0].values[0])
    short = {**inputs, name: inputs[name][:-1]}
    for network in (model, by_torch(model)):
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            network(**short)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_want_of_memory_is_an_error_like_any_other(dtype: torch.dtype) -> None:
    model = build_model("fastegnn", node_features=3, hidden=16, layers=2, **FORMS[0].values[0])
    plan = plan_for(model.shape, torch.zeros(1, dtype=dtype))
    assert plan is not None
    begin = torch.tensor([0, 1 << 55])
    for structure, call in (
        (_Call(nodes=1 << 55, systems=1, threads=1), plan.library.fastegnn_forward),
        (Jump(nodes=1 << 55, systems=1, edges=-1, threads=1, kicks=1), plan.library.fastegnn_jump),
        (_Energies(nodes=1 << 55, systems=1, edges=-1, threads=2), plan.library.fastegnn_energies),
        (_Half(nodes=1 << 55, systems=1, edges=-1, threads=2, kicks=3), plan.library.fastegnn_half),
    ):
        structure.begin = begin.data_ptr()
        with pytest.raises(MemoryError, match="take fewer systems"):
            answer(call(plan.handle, None, ctypes.byref(structure)))
