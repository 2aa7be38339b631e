"""What the launchers of all Triton kernels share."""

from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in the interpreter, on the CPU too; settled when triton is imported."""


OPTIONS: dict[str, Any] = {"enable_fp_fusion": True}
"""Of every launch. Multiply-adds are fused, as nvcc does; the default differs between versions."""


@triton.jit
def cast(values, DTYPE: tl.constexpr):
    """Floating values as another floating dtype; 16 bits by way of float32, as torch does."""
    if DTYPE.is_fp64():
        return values.to(tl.float64)
    return values.to(tl.float32).to(DTYPE)


@triton.jit
def fold(index, size):
    """`reference.fold_index` for one index or many."""
    period = tl.maximum(2 * (size - 1), 1)
    index = tl.abs(index) % period
    return tl.minimum(index, tl.where(size == 1, 0, period) - index)


def runs_on(tensor: Tensor) -> bool:
    """Whether a kernel can read this tensor."""
    return tensor.is_cuda or INTERPRETED


def multiplies(tensor: Tensor) -> bool:
    """Whether a kernel of matrix products can: those in float64 need too many registers."""
    return runs_on(tensor) and (INTERPRETED or tensor.dtype != torch.float64)


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device: make that the tensor's."""
    return torch.cuda.device_of(tensor)


def compute_dtype(dtype: torch.dtype) -> tl.dtype:
    """The dtype in which a kernel computes values of `dtype`, as `reference.compute_dtype`."""
    return tl.float64 if dtype == torch.float64 else tl.float32
