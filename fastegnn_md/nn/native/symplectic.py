"""Half a jump as one call of the C++ library (``symplectic.cpp``): kicks along gradients of a learned energy."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .jump import AROUND, Around, Near, two_apart
from .library import answer
from .network import Plan

_TENSORS = ("positions", "velocities", "forces", "masses", "features")


class _Half(Near):
    _fields_ = [  # noqa: RUF012 - of a structure
        *((name, ctypes.c_void_p) for name in _TENSORS),
        ("kicks", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("unit", "timestep")),
        *((name, ctypes.c_void_p) for name in ("displacement", "moved")),
        *AROUND,
    ]


class Halves:
    """Both halves of jumps of the same isolated systems.

    Parameters
    ----------
    plan : Plan
        Of :func:`fastegnn_md.nn.native.potential.potential_plan`.
    begin : Tensor of int64, shape (B + 1,)
        First node of each system, none of which is empty.
    features : Tensor, shape (N, F)
        Of nodes, in the type of the weights; the last one is the place of a kick, and is filled here.
    masses : Tensor of float64, shape (N,), amu
    cutoff : float, Å
    radial : int
        Number of radial functions.
    unit : float, amu Å²/ps²
        Of the energy.
    timestep : float, ps
    kicks : int
        K, odd.
    partners : dict of Tensor, optional
        Of :meth:`fastegnn_md.graph.BondDistance.partners`; where it is given edges know of bonds.
    around : Around, optional
        Surroundings of training.
    """

    plan: Plan

    def __init__(
        self,
        plan: Plan,
        begin: Tensor,
        features: Tensor,
        masses: Tensor,
        *,
        cutoff: float,
        radial: int,
        unit: float,
        timestep: float,
        kicks: int,
        partners: dict[str, Tensor] | None = None,
        around: Around | None = None,
    ):
        self.plan, self._around = plan, around
        self._held: dict[str, Tensor | None] = {
            "begin": begin.contiguous(),
            "features": features.detach().to(plan.dtype).contiguous(),
            "masses": _double(masses),
            **(partners or {}),
        }
        self._half = _Half(
            nodes=len(features),
            systems=len(begin) - 1,
            edges=-1,
            radial=radial,
            bonded=partners is not None,
            cutoff=cutoff,
            kicks=kicks,
            unit=unit,
            timestep=timestep,
        )
        self._half.set(**self._held)

    def first(self, packed: Tensor, positions: Tensor, velocities: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """From the start to the middle, before the kick there.

        Parameters
        ----------
        packed : Tensor
            Weights, of :meth:`fastegnn_md.nn.native.network.Weights.packed`.
        positions, velocities : Tensor, shape (N, 3), Å and Å/ps

        Returns
        -------
        displacement, velocities : Tensor of float64, shape (N, 3)
        unlike : Tensor or None, shape (N,)
            How unlike those of training the surroundings at the start are, where these are known.

        Raises
        ------
        GraphError
            If two atoms lie on each other.
        """
        half = _Half.from_buffer_copy(self._half)
        unlike = None
        if self._around is not None:
            unlike = positions.new_empty(len(positions), dtype=self.plan.dtype)
            half.set_around(self._around, unlike)
        return *self._run(half, packed, positions, velocities, None), unlike

    def second(self, packed: Tensor, positions: Tensor, velocities: Tensor, forces: Tensor) -> tuple[Tensor, Tensor]:
        """From the middle, where :meth:`first` leads, to the end.

        Parameters
        ----------
        packed, positions, velocities : Tensor
            As there.
        forces : Tensor, shape (N, 3), amu Å/ps²
            Of the engine at these positions.

        Returns
        -------
        displacement, velocities : Tensor of float64, shape (N, 3)
            The displacement is that from the middle.

        Raises
        ------
        GraphError
            If two atoms lie on each other.
        """
        return self._run(_Half.from_buffer_copy(self._half), packed, positions, velocities, forces)

    def _run(
        self, half: _Half, packed: Tensor, positions: Tensor, velocities: Tensor, forces: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        held = [_double(positions), _double(velocities), None if forces is None else _double(forces)]
        displacement, moved = torch.empty((2, half.nodes, 3), dtype=torch.float64).unbind(0)
        half.set(positions=held[0], velocities=held[1], forces=held[2], displacement=displacement, moved=moved)
        half.threads = torch.get_num_threads()
        library, weights = self.plan.library, ctypes.c_void_p(packed.data_ptr())
        if answer(library.fastegnn_half(self.plan.handle, weights, ctypes.byref(half))):
            raise two_apart(half, positions)
        return displacement, moved


def _double(values: Tensor) -> Tensor:
    return values.detach().to(torch.float64).contiguous()
