"""Segment sums, means and gathers: both back-ends against a loop, their gradients, what chooses them and is refused."""

from __future__ import annotations

import sys

import pytest
import torch

from fastegnn_md.errors import ConfigError, GraphError, MissingDependencyError
from fastegnn_md.segments import (
    BACKENDS,
    VARIABLE,
    Segments,
    available_backends,
    segment_backend,
    segment_mean,
    segment_sum,
)

SIZE = 7


@pytest.fixture(params=BACKENDS)
def backend(request, require):
    if request.param != "native":
        require(request.param)
    return request.param


def edges(*shape: int, ordered: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges to all segments but 2 and the last."""
    generator = torch.Generator().manual_seed(5)
    index = torch.tensor([0, 1, 3, 4, 5])[torch.randint(5, (40,), generator=generator)]
    assert not bool((index.diff() >= 0).all())
    values = torch.randn(40, *shape, generator=generator, dtype=torch.float64)
    return values, index.sort().values if ordered else index


@pytest.fixture
def calls(require, monkeypatch):
    """Names of the functions of torch-scatter that were called."""
    module, names = require("torch_scatter"), []

    def counted(name):
        function = getattr(module, name)

        def call(*given, **options):
            names.append(name)
            return function(*given, **options)

        return call

    for name in ("segment_csr", "gather_csr", "scatter_add"):
        monkeypatch.setattr(module, name, counted(name))
    return names


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (0,)])
def test_sum_and_mean_equal_a_loop_over_edges(backend, shape, ordered):
    values, index = edges(*shape, ordered=ordered)
    rows: list[list[torch.Tensor]] = [[] for _ in range(SIZE)]
    for value, i in zip(values, index.tolist(), strict=True):
        rows[i].append(value)
    zero = torch.zeros(shape, dtype=torch.float64)
    total = torch.stack([sum(row, zero) for row in rows])
    mean = torch.stack([sum(row, zero) / len(row) if row else zero for row in rows])
    torch.testing.assert_close(segment_sum(values, index, SIZE, backend), total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(segment_mean(values, index, SIZE, backend), mean, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (0,)])
def test_each_member_is_given_the_value_of_its_segment(backend, shape, ordered):
    _, index = edges(ordered=ordered)
    values = torch.randn(SIZE, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    segments = Segments(index, SIZE, backend)
    assert torch.equal(segments.gather(values), values[index])
    assert torch.equal(segments.spread(values), values[index])


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("reduce", [segment_sum, segment_mean])
def test_gradients_are_those_of_finite_differences(backend, reduce, ordered):
    values, index = edges(2, ordered=ordered)
    values.requires_grad_()

    def function(given):
        return reduce(given, index, SIZE, backend).sin()

    assert torch.autograd.gradcheck(function, values)
    assert torch.autograd.gradgradcheck(function, values)


@pytest.mark.parametrize("ordered", [True, False])
def test_gradients_of_gathers_are_those_of_finite_differences(backend, ordered):
    segments = Segments(edges(ordered=ordered)[1], SIZE, backend)
    values = torch.randn(SIZE, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)

    def function(given):
        return segments.gather(given).sin()

    assert torch.autograd.gradcheck(function, values)
    assert torch.autograd.gradgradcheck(function, values)


@pytest.mark.parametrize("ordered", [True, False])
def test_pieces_together_are_the_whole(backend, ordered):
    values, index = edges(3, ordered=ordered)
    whole, pieces = Segments(index, SIZE, backend), [slice(0, 7), slice(7, 8), slice(8, 33), slice(33, 40)]
    start = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    total = start.clone()
    for piece, part in zip(pieces, whole.parts(pieces), strict=True):
        assert part.add_to(total, values[piece]) is total
        assert torch.equal(part.gather(start), start[index[piece]])
        torch.testing.assert_close(part.sum(values[piece]), segment_sum(values[piece], index[piece], SIZE, "native"))
    torch.testing.assert_close(total, start + whole.sum(values), rtol=1e-12, atol=1e-12)
    half = whole.parts([slice(5, 33)])[0]
    again = torch.zeros(SIZE, 3, dtype=torch.float64)
    for piece, part in zip(pieces[:2], half.parts(pieces[:2]), strict=True):
        part.add_to(again, values[5:][piece])
    torch.testing.assert_close(again, segment_sum(values[5:13], index[5:13], SIZE), rtol=1e-12, atol=1e-12)
    assert whole.parts([]) == []


@pytest.mark.parametrize("ordered", [True, False])
def test_rows_are_used_where_the_index_does_not_decrease(calls, ordered):
    values, index = edges(3, ordered=ordered)
    segments = Segments(index, SIZE, "torch_scatter")
    segments.sum(values.requires_grad_()).sum().backward()
    segments.gather(values[:SIZE])
    assert calls == (["segment_csr", "gather_csr", "gather_csr"] if ordered else ["scatter_add"])


def test_values_that_are_too_few_are_refused(require):
    """By us: torch-scatter itself reads on in memory that is not theirs."""
    require("torch_scatter")
    _, index = edges(ordered=True)
    segments, values = Segments(index, SIZE, "torch_scatter"), torch.zeros(SIZE - 2, 3)
    with pytest.raises(GraphError, match=r"expected values of 40 members, got \(5, 3\)"):
        segments.sum(values)
    with pytest.raises(GraphError, match=r"expected values of 7 segments, got \(5, 3\)"):
        segments.gather(values)


@pytest.mark.parametrize("reduce", [segment_sum, segment_mean])
def test_no_edges_give_zeros_and_a_gradient(backend, reduce):
    values = torch.zeros(0, 3, requires_grad=True)
    result = reduce(values, torch.zeros(0, dtype=torch.int64), SIZE, backend)
    assert torch.equal(result, torch.zeros(SIZE, 3))
    result.sum().backward()
    assert values.grad is not None


class TestChoice:
    @pytest.fixture(autouse=True)
    def _nothing_chosen(self, monkeypatch):
        monkeypatch.delenv(VARIABLE, raising=False)

    def test_by_default_torch_sums(self):
        assert Segments(edges()[1], SIZE).backend == "native"
        assert Segments(edges()[1], SIZE, "auto").backend == "native"

    def test_an_argument_counts_before_a_context_and_that_before_the_environment(self, monkeypatch, require):
        require("torch_scatter")
        index = edges()[1]
        monkeypatch.setenv(VARIABLE, "torch_scatter")
        assert Segments(index, SIZE).backend == "torch_scatter"
        with segment_backend("native"):
            assert Segments(index, SIZE).backend == "native"
            with segment_backend("torch_scatter"):
                assert Segments(index, SIZE).backend == "torch_scatter"
                assert Segments(index, SIZE, "native").backend == "native"
            assert Segments(index, SIZE).backend == "native"
        assert Segments(index, SIZE).backend == "torch_scatter"

    def test_a_context_ends_with_an_error_too(self, require):
        require("torch_scatter")
        with pytest.raises(ZeroDivisionError), segment_backend("torch_scatter"):
            raise ZeroDivisionError
        assert Segments(edges()[1], SIZE).backend == "native"

    def test_an_unknown_name_in_the_environment_is_refused_with_the_variable(self, monkeypatch):
        monkeypatch.setenv(VARIABLE, "scatter")
        with pytest.raises(ConfigError, match=rf"'scatter' of the environment variable {VARIABLE}.*auto, native"):
            Segments(edges()[1], SIZE)

    def test_an_unknown_name_in_the_code_is_refused(self):
        with pytest.raises(ConfigError, match=r"'scatter'; expected"), segment_backend("scatter"):
            pass

    def test_what_is_compiled_is_native_and_one_graph(self, calls):
        values, index = edges(3, ordered=True)

        @torch.compile(fullgraph=True, backend="eager")
        def function(given, index):
            segments = Segments(index, SIZE)
            return segments.gather(segments.mean(given)), segment_sum(given, index, SIZE, "torch_scatter")

        with segment_backend("torch_scatter"):
            mean, total = function(values, index)
        assert calls == []
        assert torch.equal(mean, segment_mean(values, index, SIZE)[index])
        assert torch.equal(total, segment_sum(values, index, SIZE))


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
    with pytest.raises(ConfigError, match=r"'torchscatter'.*native, torch_scatter"):
        segment_sum(*edges(3), SIZE, backend="torchscatter")


def test_backend_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    with pytest.raises(MissingDependencyError, match=r"fastegnn-md\[scatter\]"):
        segment_sum(*edges(3), SIZE, backend="torch_scatter")


def test_available_backends_are_those_that_work(require):
    assert available_backends()[0] == "native"
    require("torch_scatter")
    assert available_backends() == BACKENDS
