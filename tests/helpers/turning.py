"""A stand-in for a flow model of alanine dipeptide: it turns the two torsions of the backbone by chance."""

from __future__ import annotations

import torch

from fastegnn_md.propagator import FakePropagator
from fastegnn_md.state import State

_AXES = ((6, 8, range(9, 22)), (8, 14, range(15, 22)))  # φ and ψ of assets/ala2.pdb, and the atoms behind them


def turner(spread: float = 1.0, seed: int = 5) -> FakePropagator:
    """Turns by normally distributed angles of this width, in radians."""
    source = torch.Generator().manual_seed(seed)

    def move(state: State) -> State:
        x = state.positions.reshape(-1, 22, 3).clone()
        for first, second, behind in _AXES:
            axis = x[:, second] - x[:, first]
            axis = axis / axis.norm(dim=-1, keepdim=True)
            angle = spread * torch.randn(len(x), generator=source, dtype=x.dtype)
            arm = x[:, list(behind)] - x[:, second, None]
            c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
            along = axis[:, None].expand_as(arm)
            turned = (
                c * arm + s * torch.linalg.cross(along, arm) + (1 - c) * (along * arm).sum(-1, keepdim=True) * along
            )
            x[:, list(behind)] = x[:, second, None] + turned
        return state.replace(positions=x.reshape(-1, 3))

    return FakePropagator(move, 10.0, kind="flow")
