"""Whether what runs is recorded, and may not look at the values of tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def is_recording(tensor: Tensor) -> bool:
    """Whether calls with a tensor on a GPU are being translated or recorded in a CUDA graph."""
    # Asked of GPUs alone: a torch that was built without CUDA has no answer.
    return tensor.is_cuda and (torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing())
