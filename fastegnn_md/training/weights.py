"""What an update does to all weights at once, each as one operation on lists of tensors."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


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


@torch.no_grad()
def clip_gradients(weights: Iterable[Tensor], limit: float) -> None:
    """Scale gradients such that their common norm is ``limit`` at most; what torch's ``clip_grad_norm_`` does.

    Where they are not scaled they are not touched, which can only be known without waiting on the CPU.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients:
        return
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    share = (limit / (norm + 1e-6)).clamp(max=1.0)
    if share.device.type != "cpu" or float(share) != 1.0:
        torch._foreach_mul_(gradients, share)
