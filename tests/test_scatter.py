"""Segment sums and means: both back-ends against a loop, their gradients, and what they refuse."""

from __future__ import annotations

import sys

import pytest
import torch

from fastegnn_md.errors import GraphError, MissingDependencyError
from fastegnn_md.segments import BACKENDS, available_backends, segment_mean, segment_sum

SIZE = 7


@pytest.fixture(params=BACKENDS)
def backend(request, require):
    if request.param != "native":
        require(request.param)
    return request.param


def edges(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unordered edges to all segments but 2 and the last."""
    generator = torch.Generator().manual_seed(5)
    index = torch.tensor([0, 1, 3, 4, 5])[torch.randint(5, (40,), generator=generator)]
    return torch.randn(40, *shape, generator=generator, dtype=torch.float64), index


@pytest.mark.parametrize("shape", [(), (3,), (4, 3)])
def test_sum_and_mean_equal_a_loop_over_edges(backend, shape):
    values, index = edges(*shape)
    rows: list[list[torch.Tensor]] = [[] for _ in range(SIZE)]
    for value, i in zip(values, index.tolist(), strict=True):
        rows[i].append(value)
    zero = torch.zeros(shape, dtype=torch.float64)
    total = torch.stack([sum(row, zero) for row in rows])
    mean = torch.stack([sum(row, zero) / len(row) if row else zero for row in rows])
    torch.testing.assert_close(segment_sum(values, index, SIZE, backend), total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(segment_mean(values, index, SIZE, backend), mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduce", [segment_sum, segment_mean])
def test_gradients_are_those_of_finite_differences(backend, reduce):
    values, index = edges(2)
    assert torch.autograd.gradcheck(lambda v: reduce(v, index, SIZE, backend), values.requires_grad_())


@pytest.mark.parametrize("reduce", [segment_sum, segment_mean])
def test_no_edges_give_zeros_and_a_gradient(backend, reduce):
    values = torch.zeros(0, 3, requires_grad=True)
    result = reduce(values, torch.zeros(0, dtype=torch.int64), SIZE, backend)
    assert torch.equal(result, torch.zeros(SIZE, 3))
    result.sum().backward()
    assert values.grad is not None


def test_input_is_left_as_it_was(backend):
    values, index = edges(3)
    before = values.clone(), index.clone()
    segment_mean(values, index, SIZE, backend)
    assert torch.equal(values, before[0])
    assert torch.equal(index, before[1])


def test_dtype_is_kept(backend):
    values, index = edges(3)
    assert segment_mean(values.float(), index, SIZE, backend).dtype == torch.float32


@pytest.mark.parametrize("wrong", [-1, SIZE])
def test_index_outside_the_segments_is_refused_with_its_range(backend, wrong):
    values, index = edges(3)
    index[11] = wrong
    with pytest.raises(GraphError, match=rf"{wrong}.*outside the 7 segments"):
        segment_sum(values, index, SIZE, backend)


@pytest.mark.parametrize(
    "index",
    [torch.zeros(39, dtype=torch.int64), torch.zeros(40, 1, dtype=torch.int64), torch.zeros(40, dtype=torch.int32)],
    ids=["length", "two-dimensional", "int32"],
)
def test_index_of_the_wrong_form_is_refused(backend, index):
    with pytest.raises(GraphError, match=r"int64 index \(n_edges,\)"):
        segment_sum(edges(3)[0], index, SIZE, backend)


def test_unknown_backend_lists_the_names():
    with pytest.raises(ValueError, match=r"'torchscatter'.*native, torch_scatter"):
        segment_sum(*edges(3), SIZE, backend="torchscatter")


def test_backend_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    with pytest.raises(MissingDependencyError, match=r"fastegnn-md\[scatter\]"):
        segment_sum(*edges(3), SIZE, backend="torch_scatter")


def test_available_backends_are_those_that_work(require):
    assert available_backends()[0] == "native"
    require("torch_scatter")
    assert available_backends() == BACKENDS
