"""All weights as one tensor, so that what an update does to them is a few operations, however many they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps
_ALIGNED = 16  # values; a weight begins where vectors of the machine do


class WeightBlock:
    """The weights of a network side by side in one parameter, which an optimiser steps; the network's are views of it.

    Gradients come to the weights, as always, and :meth:`gather` brings them to the block. A weight that no gradient
    reaches has one of zero. Make it when the network is on its device.

    Parameters
    ----------
    network : nn.Module

    Attributes
    ----------
    values : nn.Parameter, shape (n,)
    """

    def __init__(self, network: nn.Module):
        self._named = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._weights = list(self._named.values())
        self._sizes = [-(-weight.numel() // _ALIGNED) * _ALIGNED for weight in self._weights]
        first = self._weights[0]
        self.values: nn.Parameter = nn.Parameter(first.new_zeros(sum(self._sizes)))
        self._gradient = torch.zeros_like(self.values, requires_grad=False)
        self._gradients = self._views(self._gradient)
        with torch.no_grad():
            for weight, view in zip(self._weights, self._views(self.values.detach()), strict=True):
                weight.data = view.copy_(weight)

    def _views(self, block: Tensor) -> list[Tensor]:
        return [
            part[: weight.numel()].view_as(weight)
            for part, weight in zip(block.split(self._sizes), self._weights, strict=True)
        ]

    def forget(self) -> None:
        """Take the gradients off the weights."""
        for weight in self._weights:
            weight.grad = None

    @torch.no_grad()
    def gather(self) -> None:
        """Bring the gradients of the weights to the block."""
        found = [weight.grad for weight in self._weights]
        there = [gradient for gradient in found if gradient is not None]
        if len(there) == len(found):
            torch._foreach_copy_(self._gradients, there)
        elif there:
            self._gradient.zero_()
            views = [view for view, gradient in zip(self._gradients, found, strict=True) if gradient is not None]
            torch._foreach_copy_(views, there)
        self.values.grad = self._gradient if there else None

    @torch.no_grad()
    def clip(self, limit: float) -> None:
        """Scale the gradient such that its norm is ``limit`` at most; what torch's ``clip_grad_norm_`` does."""
        if self.values.grad is None:
            return
        share = (limit / (torch.linalg.vector_norm(self._gradient) + 1e-6)).clamp(max=1.0)
        if share.device.type != "cpu" or float(share) != 1.0:  # on the CPU nobody waits for the answer
            self._gradient.mul_(share)

    def moments(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What Adam keeps of the block (n,), by weight: ``"exp_avg/NAME"``."""
        named: dict[str, Tensor] = {}
        for key, value in state.items():
            parts = [value.clone() for _ in self._named] if key == "step" else self._views(value)
            named |= {f"{key}/{name}": part for name, part in zip(self._named, parts, strict=True)}
        return named

    def state(self, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The opposite of :meth:`moments`; those that are missing are zero."""
        found = {key: torch.zeros_like(self._gradient) for key in MOMENTS[1:]}
        for key, block in found.items():
            for name, view in zip(self._named, self._views(block), strict=True):
                if f"{key}/{name}" in moments:
                    view.copy_(moments[f"{key}/{name}"])
        steps = [value for name, value in moments.items() if name.startswith("step/")]
        return {"step": torch.stack(steps).max(), **found}


class MovingAverage:
    """Move the weights of one network towards those of another, a twin of it, and copy its buffers.

    Tensors are looked up once: make it when both networks are on their device.

    Parameters
    ----------
    average, followed : nn.Module
        The network that is moved, and the one it follows.
    """

    def __init__(self, average: nn.Module, followed: nn.Module):
        self._means: list[Tensor] = list(average.parameters())
        self._weights: list[Tensor] = list(followed.parameters())
        self._copies, self._buffers = list(average.buffers()), list(followed.buffers())

    @torch.no_grad()
    def move(self, decay: float) -> None:
        """Make each mean the ``decay`` part of itself and the rest of the weight."""
        torch._foreach_lerp_(self._means, self._weights, 1.0 - decay)
        if self._copies:
            torch._foreach_copy_(self._copies, self._buffers)
