"""A learned energy of each system of a batch and its gradients by the C++ library (``potential.cpp``).

U = unit · Σ_i φ(h_i), where h are the features of FastEGNN after the last layer, for zero vectors, and φ is an
:class:`~fastegnn_md.nn.mlp.MLP`. Positions go in about the mean of each system and in units of the cutoff, or not at
all where virtual nodes have no coordinates, as in periodic systems; edges as in
:mod:`fastegnn_md.propagator.edge_inputs`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..mlp import MLP
from .jump import Near, two_apart
from .library import answer
from .network import Plan, Shape, plan_for

# Å by which an atom is displaced for derivatives of gradients: where rounding and curvature err about as much.
_STEP = {torch.float32: 5e-3, torch.float64: 1e-5}
_POINTERS = ("positions", "seeds", "direction", "features")
_OUTPUTS = ("energies", "gradient", "parameters")


class _Energies(Near):
    _fields_ = [  # noqa: RUF012 - of a structure
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_double) for name in ("unit", "step")),
        *((name, ctypes.c_void_p) for name in _OUTPUTS),
    ]


def potential_plan(shape: Shape | None, head: MLP, like: Tensor) -> Plan | None:
    """The plan of an energy; None where the library does not serve it.

    Its parameters are those of the network, then those of the head.

    Parameters
    ----------
    shape : Shape or None
        Of the network (:attr:`FastEGNN.shape`), with vector channels.
    head : MLP
        φ, hidden → hidden → 1 with a bias.
    like : Tensor
        On the device and of the type of the weights.
    """
    if shape is None or not shape.vectors:
        return None
    widths = head.first.in_features, head.first.out_features, head.second.out_features
    if type(head) is not MLP or widths != (shape.hidden, shape.hidden, 1) or head.second.bias is None:
        return None
    return plan_for(shape._replace(energy=True), like)


class Energies:
    """The energies of the systems of one batch, as functions of positions and weights.

    Parameters
    ----------
    plan : Plan
        Of :func:`potential_plan`.
    begin : Tensor of int64, shape (B + 1,)
        First node of each system, none of which is empty.
    features : Tensor, shape (N, F)
        Of nodes, in the type of the weights.
    cutoff : float, Å
    radial : int
        Number of radial functions.
    unit : float
        Unit of the energy.
    partners : dict of Tensor, optional
        Of :meth:`fastegnn_md.graph.BondDistance.partners`; where it is given edges know of bonds.
    edge_index : Tensor of int64, shape (2, E), optional
        Edges sorted by receiver, at least all within the cutoff; by default all pairs of a system are compared.
    shift : Tensor of float64, shape (E, 3), Å, optional
        Of edges to periodic images: what x_i - x_j lacks.

    Raises
    ------
    ValueError
        If shapes do not fit.
    """

    plan: Plan
    systems: int

    def __init__(
        self,
        plan: Plan,
        begin: Tensor,
        features: Tensor,
        *,
        cutoff: float,
        radial: int,
        unit: float = 1.0,
        partners: dict[str, Tensor] | None = None,
        edge_index: Tensor | None = None,
        shift: Tensor | None = None,
    ):
        shape = plan.shape
        if features.shape[1:] != (shape.features,) or features.dtype != plan.dtype or radial + 4 != shape.attributes:
            raise ValueError(
                f"features are {tuple(features.shape)} of {features.dtype} and edges have {radial} + 4 attributes, "
                f"expected (N, {shape.features}) of {plan.dtype} and {shape.attributes} attributes"
            )
        self.plan, self.systems = plan, len(begin) - 1
        self._held: dict[str, Tensor | None] = {"begin": begin.contiguous(), "features": features.detach().contiguous()}
        self._held |= partners or {}
        self._call = _Energies(
            nodes=len(features),
            systems=self.systems,
            edges=-1,
            radial=radial,
            bonded=partners is not None,
            cutoff=cutoff,
            unit=unit,
            step=_STEP[plan.dtype],
        )
        if edge_index is not None:
            self._held |= {"receiver": edge_index[0].contiguous(), "sender": edge_index[1].contiguous()}
            self._held["shift"] = None if shift is None else shift.contiguous()
            self._call.edges = edge_index.shape[1]
        self._call.set(**self._held)

    def energy(self, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """U of each system, with first derivatives.

        Parameters
        ----------
        x : Tensor of float64, shape (N, 3), Å
        parameters : sequence of Tensor
            Of the network, then of the head.

        Returns
        -------
        Tensor of float64, shape (B,)

        Raises
        ------
        GraphError
            If two atoms lie on each other.
        """
        return _Energy.apply(self, x, *parameters)

    def gradient(self, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        """∂U/∂x, shape (N, 3), with first derivatives; parameters, types and errors as for :meth:`energy`.

        For a cotangent w both derivatives of ⟨w, ∂U/∂x⟩ are directional derivatives of first ones: H w and
        ∂_θ⟨w, ∂U/∂x⟩ are d/dε of ∂_x U and ∂_θ U at x + ε w. They are taken as central differences: a gradient and its
        derivatives are three passes forward and back through the same code, where second derivatives written by hand
        would be as much arithmetic and twice the code. The largest displacement of an atom is 0.005 Å in single
        precision (an error of about 5e-4 of the derivative, from rounding and curvature) and 1e-5 Å in double (1e-9).
        """
        return _Gradient.apply(self, x, *parameters)

    def call(
        self,
        packed: Tensor,
        x: Tensor,
        *,
        seeds: Tensor | None = None,
        direction: Tensor | None = None,
        energies: Tensor | None = None,
        gradient: Tensor | None = None,
        parameters: Sequence[Tensor | None] | None = None,
    ) -> None:
        """One call of the library, without gradients.

        Parameters
        ----------
        packed : Tensor
            Weights, of :meth:`Plan.pack` with transposes.
        x : Tensor of float64, shape (N, 3), Å
        seeds : Tensor of float64, shape (B,), optional
            Factor of each system's energy in what gradients are of; 1 by default.
        direction : Tensor of float64, shape (N, 3), optional
            Where given, gradients are derivatives of gradients along it.
        energies, gradient : Tensor of float64, shapes (B,) and (N, 3), optional
            Filled.
        parameters : sequence of Tensor or None, optional
            Gradients of the parameters are added to these.

        Raises
        ------
        GraphError
            If two atoms lie on each other.
        """
        if x.shape != (self._call.nodes, 3):
            raise ValueError(f"positions are {tuple(x.shape)}, expected ({self._call.nodes}, 3)")
        call = _Energies.from_buffer_copy(self._call)
        call.threads = torch.get_num_threads()
        held = [None if one is None else _double(one) for one in (x, seeds, direction)]
        call.set(positions=held[0], seeds=held[1], direction=held[2], energies=energies, gradient=gradient)
        if parameters is not None:
            pointers = (ctypes.c_void_p * len(parameters))(
                *(one if one is None else one.data_ptr() for one in parameters)
            )
            call.parameters = ctypes.addressof(pointers)
        plan = self.plan
        if answer(plan.library.fastegnn_energies(plan.handle, ctypes.c_void_p(packed.data_ptr()), ctypes.byref(call))):
            raise two_apart(call, x)


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of: Energies, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.of, ctx.packed = of, of.plan.pack(parameters, transposed=True)
        ctx.save_for_backward(x, *parameters)
        found = torch.empty(of.systems, dtype=torch.float64)
        of.call(ctx.packed, x, energies=found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, seeds: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, seeds=seeds)


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of: Energies, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.of, ctx.packed = of, of.plan.pack(parameters, transposed=True)
        ctx.save_for_backward(x, *parameters)
        found = torch.empty(x.shape, dtype=torch.float64)
        of.call(ctx.packed, x, gradient=found)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, direction=direction)


def _backward(ctx: Any, **given: Tensor) -> tuple[Tensor | None, ...]:
    x, *parameters = ctx.saved_tensors
    _, needed, *others = ctx.needs_input_grad
    gradient = torch.empty(x.shape, dtype=torch.float64) if needed else None
    found = [
        torch.zeros(one.shape, dtype=one.dtype) if need else None for one, need in zip(parameters, others, strict=True)
    ]
    ctx.of.call(ctx.packed, x, gradient=gradient, parameters=found if any(others) else None, **given)
    return None, None if gradient is None else gradient.to(x.dtype), *found


def _double(values: Tensor) -> Tensor:
    return values.detach().to(torch.float64).contiguous()
