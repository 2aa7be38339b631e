"""ddim_step in Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from freqdiff_kernels import reference
from freqdiff_kernels.triton_launch import OPTIONS, cast, compute_dtype, device_of, runs_on

BLOCK = 1024
"""Elements per program: 8 per thread of 4 warps, two 16-byte loads each of fp32. Not timed."""


@triton.jit
def _step_kernel(
    x,
    f,
    y,
    coefficients,
    out,
    size,
    blocks,
    HAS_Y: tl.constexpr,
    CLAMP: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    sample = program // blocks
    inside = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = inside < size
    offset = sample.to(tl.int64) * size + inside
    row = coefficients + sample * 5
    noisy = tl.load(x + offset, mask=mask, other=0).to(COMPUTE)
    network = tl.load(f + offset, mask=mask, other=0).to(COMPUTE)
    estimate = tl.load(row).to(COMPUTE) * noisy + tl.load(row + 1).to(COMPUTE) * network
    if HAS_Y:
        anchor = tl.load(y + offset, mask=mask, other=0).to(COMPUTE)
        estimate += tl.load(row + 2).to(COMPUTE) * anchor
    if CLAMP:  # by comparisons, which let a NaN through
        estimate = tl.where(estimate > 1, 1.0, tl.where(estimate < -1, -1.0, estimate))
    result = tl.load(row + 3).to(COMPUTE) * noisy + tl.load(row + 4).to(COMPUTE) * estimate
    tl.store(out + offset, cast(result, out.dtype.element_ty), mask=mask)


def _like(values: Tensor, out: Tensor) -> Tensor:
    """The same values laid out in memory as `out`."""
    if values.stride() == out.stride():
        return values
    return torch.empty_like(out, dtype=values.dtype).copy_(values)


def ddim_step(x: Tensor, f: Tensor, y: Tensor | None, coefficients: Tensor, clamp: bool) -> Tensor:
    """See `reference.ddim_step`."""
    out = torch.empty_like(x)
    size = out[:1].numel()
    # The kernel walks over samples that are dense and follow each other.
    if not runs_on(x) or (len(x) > 1 and out.stride(0) != size):
        return reference.ddim_step(x, f, y, coefficients, clamp)
    if out.numel() == 0:
        return out
    x, f = _like(x, out), _like(f, out)
    blocks = triton.cdiv(size, BLOCK)
    with device_of(x):
        _step_kernel[(blocks * len(x),)](
            x,
            f,
            x if y is None else _like(y, out),
            coefficients.contiguous(),
            out,
            size,
            blocks,
            HAS_Y=y is not None,
            CLAMP=clamp,
            COMPUTE=compute_dtype(x.dtype),
            BLOCK=BLOCK,
            **OPTIONS,
        )
    return out
