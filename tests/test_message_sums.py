"""Sums of messages: in pieces, by the C++ kernel, forward and backward, against the formulas written plainly."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from fastegnn_md.errors import ConfigError, GraphError, MissingDependencyError
from fastegnn_md.models import build_model
from fastegnn_md.nn import edge_sums
from fastegnn_md.nn.messages import cpu as cpu_kernel
from fastegnn_md.nn.messages import sums as message_sums
from fastegnn_md.nn.messages.inputs import MessageInputs
from fastegnn_md.segments import Segments

NODES, HIDDEN = 30, 16
# hidden width of the head (0: a linear one), gate, weights, edge features
KINDS = [(16, False, False, 2), (0, True, True, 5), (8, True, False, 0), (0, False, True, 13)]
IMPLEMENTATIONS = ["pieces", pytest.param("kernel", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def built(cxx):
    before = cpu_kernel._loaded
    cpu_kernel.build()
    yield
    cpu_kernel._loaded = before


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request, monkeypatch):
    """Pieces of seven edges, or the kernel; nothing kept for the backward pass."""
    if request.param == "kernel":
        request.getfixturevalue("built")
    monkeypatch.setattr(cpu_kernel, "_loaded", request.param == "kernel")
    monkeypatch.setattr(edge_sums, "PIECE", 7)
    monkeypatch.setattr(edge_sums, "KEPT", 0)
    return request.param


def case(kind, edges=700, seed=0, dtype=torch.float64, ordered=True):
    deep, gate, weight, features = kind
    generator = torch.Generator().manual_seed(seed)

    def random(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()

    receiver, steps = torch.randint(NODES - 2, (2, edges), generator=generator)
    index = torch.stack([receiver, (receiver + 1 + steps) % (NODES - 1)])  # no loops; the last node has no edges
    if ordered:
        index = index[:, index[0].argsort(stable=True)]
    inputs = MessageInputs(
        random(NODES, HIDDEN),
        random(NODES, HIDDEN),
        random(edges, features),
        random(edges, 1) if weight else None,
        random(features, HIDDEN),
        random(HIDDEN, HIDDEN, scale=0.3),
        random(HIDDEN),
        random(HIDDEN, 1, scale=0.3) if gate else None,
        random(1) if gate else None,
        random(HIDDEN, deep, scale=0.3) if deep else None,
        random(deep) if deep else None,
        random(deep or HIDDEN, 3, scale=0.3),
    )
    return inputs, index


def with_gradients(function, inputs, index):
    """Values of a function, and the gradients of a random linear form of them."""
    values = function(index, *inputs)
    generator = torch.Generator().manual_seed(9)
    form = sum((torch.randn(one.shape, generator=generator).to(one) * one).sum() for one in values)
    leaves = [one for one in inputs if one is not None]
    found = torch.autograd.grad(form, leaves, allow_unused=True)
    return [*values, *(torch.zeros_like(a) if b is None else b for a, b in zip(leaves, found, strict=True))]


def plain(index, *tensors):
    return message_sums._plain(MessageInputs(*tensors), index, Segments(index[0], NODES))


def recomputed(index, *tensors):
    return message_sums._Recomputed.apply(index, Segments(index[0], NODES), *tensors)


def forward(inputs, index):
    return message_sums._forward(inputs, index, Segments(index[0], NODES))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_values_and_gradients_equal_plain_ones(implementation, kind, ordered, dtype, bound):
    for seed in range(2):
        inputs, index = case(kind, seed=seed, dtype=dtype, ordered=ordered)
        expected = with_gradients(plain, inputs, index)
        found = with_gradients(recomputed, inputs, index)
        with torch.no_grad():
            unwatched = forward(inputs, index)
        for one, other in zip((*found, *unwatched), (*expected, *expected[:2]), strict=True):
            assert one.dtype == dtype
            scale = float(other.detach().abs().max()) if other.numel() else 0.0
            torch.testing.assert_close(one, other, rtol=0, atol=bound * max(scale, 1e-30))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(implementation, kind):
    inputs, index = case(kind, edges=20)
    given = [one is not None for one in inputs]

    def function(*tensors):
        rest = iter(tensors)
        return recomputed(index, *(next(rest) if there else None for there in given))

    assert torch.autograd.gradcheck(function, [one for one in inputs if one is not None])


def test_threads_change_nothing_but_rounding(built):
    inputs, index = case(KINDS[1], edges=3000)
    results = []
    for threads in (1, 2, 5, 5):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        results.append(with_gradients(recomputed, inputs, index))
        torch.set_num_threads(before)
    for one, two, five, again in zip(*results, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-11, atol=1e-11)
        assert torch.equal(five, again), "the same call gives the same bits"


@pytest.mark.parametrize("kind", KINDS)
def test_no_edges_give_zeros(implementation, kind):
    inputs, index = case(kind, edges=0)
    sums, outputs, *gradients = with_gradients(recomputed, inputs, index)
    assert sums.shape == (NODES, HIDDEN)
    assert outputs.shape == (0, 3)
    assert not any(one.any() for one in (sums, *gradients))


@pytest.mark.parametrize("node", [-1, NODES])
@pytest.mark.parametrize("end", [0, 1])
def test_edges_of_nodes_that_are_not_there_are_refused(implementation, node, end):
    inputs, index = case(KINDS[0])
    receivers = Segments(index[0].clone(), NODES)
    index[end, 5] = node
    if end == 0:
        with pytest.raises(GraphError, match=f"{node}.*outside the {NODES} segments"):
            Segments(index[0], NODES)
        if implementation == "pieces":
            return  # it has no other look at the receivers
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)|edges name nodes"):
        message_sums._forward(inputs, index, receivers)


def test_numbers_that_are_not_finite_stay_so(implementation):
    inputs, index = case(KINDS[0], dtype=torch.float32)
    values = inputs.at_receiver.detach().clone()
    values[3, 0], values[4, 0], values[5, 0] = float("nan"), 1e30, -1e30
    sums, outputs = forward(MessageInputs(values, *inputs[1:]), index)
    expected = plain(index, values, *inputs[1:])[1]
    assert torch.equal(outputs.isfinite(), expected.isfinite())
    assert not sums[3].isfinite().any()


@pytest.mark.parametrize("options", [{}, {"attention": True, "normalize": True}, {"vector_channels": 3}])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_a_network_gives_the_numbers_of_the_plain_one(implementation, monkeypatch, options, dtype, bound):
    generator = torch.Generator().manual_seed(7)
    average = 5.0 if "vector_channels" in options else None
    sizes = {"node_features": 2, "edge_features": 2, "hidden": 16, "virtual_nodes": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251 - initialisers take no generator
        model = build_model("fastegnn", average_neighbours=average, **sizes, **options).to(dtype)
    index = case(KINDS[0])[1]
    given = {
        "h": torch.randn(NODES, 2, generator=generator, dtype=dtype),
        "x": torch.randn(NODES, 3, generator=generator, dtype=dtype, requires_grad=True),
        "v": torch.randn(NODES, 3, generator=generator, dtype=dtype),
        "edge_attr": torch.randn(index.shape[1], 2, generator=generator, dtype=dtype),
        "edge_weight": torch.rand(index.shape[1], generator=generator, dtype=dtype),
    }

    def results():
        out = model(edge_index=index, **given)
        loss = out.x.square().sum() + out.z.square().sum() + (0 if out.v is None else out.v.square().sum())
        gradients = torch.autograd.grad(loss, [given["x"], *model.parameters()], allow_unused=True)
        with torch.no_grad():
            unwatched = model(edge_index=index, **given)
        return out.x.detach(), unwatched.x, torch.cat([one.flatten() for one in gradients if one is not None])

    found = results()
    monkeypatch.setattr(edge_sums, "KEPT", index.shape[1])
    for one, other in zip(found, results(), strict=True):
        assert float((one - other).norm() / other.norm()) < bound


def test_large_graphs_are_taken_in_blocks(implementation, monkeypatch):
    model = build_model("fastegnn", node_features=2, vector_channels=2, average_neighbours=5.0).double()
    index, generator = case(KINDS[0])[1], torch.Generator().manual_seed(1)
    x, v = torch.randn(2, NODES, 3, generator=generator, dtype=torch.float64)
    given = {"h": torch.ones(NODES, 2, dtype=torch.float64), "x": x, "v": v, "edge_index": index}
    weight = torch.rand(index.shape[1], generator=generator, dtype=torch.float64)
    with torch.no_grad():
        whole = model(**given, edge_weight=weight)
        monkeypatch.setattr("fastegnn_md.nn.edges._BLOCK", 37)
        blocks = model(**given, edge_weight=weight)
    torch.testing.assert_close(blocks.v, whole.v, rtol=1e-12, atol=1e-12)


def test_half_precision_sums_in_single(implementation):
    inputs, index = case(KINDS[0], dtype=torch.float32)
    half = MessageInputs(*(None if one is None else one.detach().bfloat16() for one in inputs))
    sums, outputs = forward(half, index)
    assert sums.dtype == outputs.dtype == torch.float32
    expected = plain(index, *inputs)[0].detach()
    assert float((sums - expected).norm() / expected.norm()) < 0.02


def test_mixed_precision_is_torch_autocast_of_inference(implementation):
    model = build_model("fastegnn", node_features=2)
    index, generator = case(KINDS[0])[1], torch.Generator().manual_seed(1)
    x, v = torch.randn(2, NODES, 3, generator=generator)
    given = {"h": torch.ones(NODES, 2), "x": x, "v": v, "edge_index": index}
    with torch.no_grad():
        exact = model(**given)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            half = model(**given)
        model(**given).x.sum().backward()
    assert half.x.dtype == torch.float32
    error = float((half.h.float() - exact.h).norm() / exact.h.norm())
    assert 1e-5 < error < 0.03
    assert all(torch.isfinite(one.grad).all() for one in model.parameters() if one.grad is not None)


@pytest.mark.slow
def test_the_kernel_is_kept_for_the_next_process(tmp_path, monkeypatch, cxx):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = "import time; from fastegnn_md.nn.messages import cpu; cpu.build(); cpu.build()"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
        (file,) = (tmp_path / "fastegnn-md" / "kernels").glob("*.so")
        first = file.stat().st_mtime_ns
    assert file.stat().st_mtime_ns == first


def test_what_hinders_a_build_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_kernel, "_loaded", False)
    monkeypatch.setattr(cpu_kernel, "_registered", lambda: False)  # as in a new process
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr("fastegnn_md.nn.compiler.shutil.which", lambda name: None)
        with pytest.raises(ConfigError, match="found none; install g"):
            cpu_kernel.build()
    with monkeypatch.context() as patch:
        patch.setattr(cpu_kernel.shutil, "which", lambda name: "there" if name != "ninja" else None)
        patch.setitem(sys.modules, "ninja", None)
        with pytest.raises(MissingDependencyError, match=r"fastegnn-md\[compile\]"):
            cpu_kernel.build()
    assert not cpu_kernel._loaded
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.slow
def test_a_compiler_that_fails_is_named(tmp_path, monkeypatch, cxx):
    monkeypatch.setattr(cpu_kernel, "_loaded", False)
    monkeypatch.setattr(cpu_kernel, "_registered", lambda: False)  # as in a new process
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu_kernel, "_FLAGS", ["--no-such-flag"])
    with pytest.raises(ConfigError, match="could not build the CPU kernel"):
        cpu_kernel.build()
    assert not cpu_kernel._loaded
    assert not list(tmp_path.rglob("*.so"))
