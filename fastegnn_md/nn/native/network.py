"""FastEGNN as one call of the C++ library, with gradients."""

from __future__ import annotations

import ctypes
import itertools
import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from .library import answer, library

_TYPES = (torch.float32, torch.float64)
_version = operator.attrgetter("_version")
_WIDTH = 16  # of which the width of messages is a multiple: that of the longest vectors


class Shape(NamedTuple):
    """Sizes of a network; names as in ``plan.h``."""

    features: int
    hidden: int
    layers: int
    virtuals: int
    vectors: int
    attributes: int
    geometry: bool
    squared: bool
    neighbours: float  # 0: as many as there are
    energy: bool = False  # whether an energy is made of h


_POINTERS = (
    *("begin", "receiver", "sender", "features", "x", "u", "attributes", "vector", "weight"),
    *("h_out", "x_out", "z_out", "s_out", "change", "values"),
)
_BACK = ("h", "x", "z", "s", "change", "of_x", "of_u", "of_attributes", "of_vector", "of_weight", "parameters")


class _Call(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("nodes", "systems", "edges", "threads")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


class _Back(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _BACK]


class Plan:
    """Where weights are within one buffer; a call of the library for each task."""

    shape: Shape
    dtype: torch.dtype
    library: ctypes.CDLL
    weights: Any
    transposes: Any
    parameters: Any

    def __init__(self, made: ctypes.CDLL, shape: Shape, dtype: torch.dtype):
        self.shape, self.dtype, self.library = shape, dtype, made
        made.fastegnn_plan.restype = ctypes.c_void_p
        made.fastegnn_values.restype = ctypes.c_int64
        sizes = (ctypes.c_int64 * 9)(*map(int, shape[:8]), int(shape.energy))
        self.handle: ctypes.c_void_p = ctypes.c_void_p(
            made.fastegnn_plan(sizes, ctypes.c_double(shape.neighbours), int(dtype == torch.float64))
        )
        answer(0 if self.handle else -1)
        found = (ctypes.c_int64 * 3)()
        made.fastegnn_plan_sizes(self.handle, found)
        self.weights, self.transposes, self.parameters = found

    def pack(self, parameters: Sequence[Tensor], *, transposed: bool) -> Tensor:
        """Weights as the library wants them, with their transposes for gradients."""
        if len(parameters) != self.parameters or any(one.dtype != self.dtype for one in parameters):
            raise RuntimeError(f"weights are not the {self.parameters} of {self.dtype} of a network of {self.shape}")
        buffer = torch.zeros(self.weights + (self.transposes if transposed else 0), dtype=self.dtype)
        given = [one.detach().contiguous() for one in parameters]
        pointers = (ctypes.c_void_p * len(given))(*(one.data_ptr() for one in given))
        self.library.fastegnn_pack(self.handle, pointers, ctypes.c_void_p(buffer.data_ptr()), int(transposed))
        return buffer


@lru_cache(maxsize=64)
def _plan(shape: Shape, dtype: torch.dtype) -> Plan | None:
    made = library()
    return None if made is None else Plan(made, shape, dtype)


def plan_for(shape: Shape, like: Tensor) -> Plan | None:
    """The plan of a network of this shape, for values like these; None where the library does not serve them."""
    if like.device.type != "cpu" or like.dtype not in _TYPES or shape.hidden % _WIDTH:
        return None
    return _plan(shape, like.dtype)


_steps = itertools.count(1)
_stepped = [0]  # changes whenever an optimiser of torch has changed weights: fused ones leave no trace in them


def _note_step(*_: object) -> None:
    _stepped[0] = next(_steps)


class Weights:
    """The parameters of one network, or of several in a row, packed anew only when one of them has changed."""

    def __init__(self, *networks: nn.Module):
        if not _stepped[0]:
            register_optimizer_step_post_hook(_note_step)
            _note_step()
        modules = [module for network in networks for module in network.modules()]
        self._places = [(module._parameters, name) for module in modules for name in module._parameters]
        self._known: Any = None
        self._packed: Tensor | None = None

    def parameters(self) -> list[Tensor]:
        """In the order of ``network.parameters()``."""
        return [one for held, name in self._places if (one := held[name]) is not None]

    def packed(self, plan: Plan) -> Tensor:
        """For calls without gradients of the weights; with transposes where there is an energy to differentiate."""
        parameters = self.parameters()
        now = plan, _stepped[0], [*map(_version, parameters)], [*map(Tensor.data_ptr, parameters)]
        if self._packed is None or now != self._known:
            self._packed, self._known = plan.pack(parameters, transposed=plan.shape.energy), now
        return self._packed


_weights: WeakKeyDictionary[nn.Module, Weights] = WeakKeyDictionary()


def weights_of(network: nn.Module) -> Weights:
    """The packed weights that are kept for a network."""
    if network not in _weights:
        _weights[network] = Weights(network)
    return _weights[network]


class Outputs(NamedTuple):
    """After the last layer."""

    h: Tensor  # (N, H)
    x: Tensor  # (N, 3), where layers move positions
    z: Tensor  # (B, C, 3)
    s: Tensor  # (B, C, H)
    change: Tensor  # (N, 2, 3): with vector channels, what is read out of them for x and v


class Inputs(NamedTuple):
    """Of the network."""

    features: Tensor  # (N, F)
    x: Tensor  # (N, 3)
    u: Tensor  # (N, K, 3), or v (N, 3)
    attributes: Tensor  # (E, A)
    vector: Tensor | None  # (E, 3)
    weight: Tensor | None  # (E)


class _Made:
    """One call: what the library is told, and the tensors that live as long."""

    def __init__(self, plan: Plan, packed: Tensor, begin: Tensor, edge_index: Tensor, inputs: Inputs):
        nodes, systems, shape = len(inputs.x), len(begin) - 1, plan.shape
        new = inputs.x.new_empty
        self.plan, self.packed = plan, packed
        self.outputs = Outputs(
            new((nodes, shape.hidden)),
            new((0 if shape.vectors else nodes, 3)),
            new((systems, shape.virtuals, 3)),
            new((systems, shape.virtuals, shape.hidden)),
            new((nodes, 2 if shape.vectors else 0, 3)),
        )
        self.inputs = [None if one is None else one.detach().contiguous() for one in inputs]
        self._index, self._begin = edge_index.contiguous(), begin
        edges = self._index.shape[1]
        self.call = _Call(
            nodes,
            systems,
            edges,
            torch.get_num_threads(),
            begin.data_ptr(),
            self._index.data_ptr(),
            self._index.data_ptr() + 8 * edges,
            *(_pointer(one) for one in (*self.inputs, *self.outputs)),
            None,
        )

    def forward(self) -> Outputs:
        library, plan = self.plan.library, self.plan
        packed = ctypes.c_void_p(self.packed.data_ptr())
        if answer(library.fastegnn_forward(plan.handle, packed, ctypes.byref(self.call))):
            raise IndexError("edges are not sorted by receiver, or name nodes that are not there")
        return self.outputs


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def forward(plan: Plan, packed: Tensor, begin: Tensor, edge_index: Tensor, inputs: Inputs) -> Outputs:
    """Run the network without gradients.

    Parameters
    ----------
    plan : Plan
    packed : Tensor
        Of :meth:`Plan.pack`.
    begin : Tensor of int64, shape (B + 1,)
        First node of each system.
    edge_index : Tensor of int64, shape (2, E)
        Sorted by receiver.
    inputs : Inputs

    Raises
    ------
    IndexError
        If edges are not sorted, or name nodes that are not there.
    """
    return _Made(plan, packed, begin, edge_index, inputs).forward()


def differentiable(
    plan: Plan,
    begin: Tensor,
    edge_index: Tensor,
    inputs: Inputs,
    parameters: Sequence[Tensor],
    plain: Callable[..., Outputs],
) -> Outputs:
    """:func:`forward` with gradients of positions, vectors, what belongs to edges, and parameters.

    Parameters
    ----------
    plan, begin, edge_index, inputs
        As there; features get no gradient.
    parameters : sequence of Tensor
        In the order of ``network.parameters()``.
    plain : callable
        The same function of ``*inputs`` by torch, with the same parameters: gradients of gradients are its.
    """
    return Outputs(*_Differentiable.apply(plan, begin, edge_index, plain, *inputs, *parameters))


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Plan, begin: Tensor, edge_index: Tensor, plain: Callable[..., Outputs], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        count = len(Inputs._fields)
        inputs, parameters = Inputs(*tensors[:count]), tensors[count:]  # type: ignore[arg-type]
        made = _Made(plan, plan.pack(parameters, transposed=True), begin, edge_index, inputs)  # type: ignore[arg-type]
        values = made.packed.new_empty(answer(plan.library.fastegnn_values(plan.handle, ctypes.byref(made.call))))
        made.call.values = values.data_ptr()
        outputs = made.forward()
        made.outputs = None  # type: ignore[assignment]  # or what is returned would hold itself
        ctx.made, ctx.values, ctx.plain, ctx.count = made, values, plain, count
        ctx.save_for_backward(*tensors)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        nothing = (None,) * 4
        if torch.is_grad_enabled():
            return *nothing, *_gradients_by_torch(ctx, given)
        made, count, tensors = ctx.made, ctx.count, ctx.saved_tensors
        needed = ctx.needs_input_grad[4:]
        _, of_x, of_u, *of_edges = (
            # Those of x and u are written anyway, and what belongs to edges is added to zero.
            None if one is None else torch.zeros(one.shape, dtype=one.dtype) if need or k in (1, 2) else None
            for k, (one, need) in enumerate(zip(tensors[:count], needed, strict=False))
        )
        of_parameters = [
            torch.zeros(one.shape, dtype=one.dtype) if need else None
            for one, need in zip(tensors[count:], needed[count:], strict=True)
        ]
        pointers = (ctypes.c_void_p * len(of_parameters))(*(_pointer(one) for one in of_parameters))
        held = [None if one is None else one.contiguous() for one in given]
        back = _Back(
            *(_pointer(one) for one in (*held, of_x, of_u, *of_edges)),
            ctypes.addressof(pointers),
        )
        plan = made.plan
        packed = ctypes.c_void_p(made.packed.data_ptr())
        answer(plan.library.fastegnn_backward(plan.handle, packed, ctypes.byref(made.call), ctypes.byref(back)))
        found = [one if need else None for one, need in zip((None, of_x, of_u, *of_edges), needed, strict=False)]
        return *nothing, *found, *of_parameters


def _gradients_by_torch(ctx: Any, given: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients that can be differentiated again."""
    tensors, needed = list(ctx.saved_tensors), ctx.needs_input_grad[4:]
    # One input may have been made from another; a view is a variable of its own.
    tensors[: ctx.count] = [None if one is None else one.view_as(one) for one in tensors[: ctx.count]]
    outputs = [
        (one, of)
        for one, of in zip(ctx.plain(*tensors[: ctx.count]), given, strict=True)
        if of is not None and one.requires_grad
    ]
    asked = [one for one, need in zip(tensors, needed, strict=True) if need]
    found = iter(
        torch.autograd.grad(
            [one for one, _ in outputs], asked, [of for _, of in outputs], create_graph=True, allow_unused=True
        )
    )
    return [next(found) if need else None for need in needed]
