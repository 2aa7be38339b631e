"""halo_attention in Triton.

A program takes some or all queries of one window and walks over the keys around it, with a running
maximum and sum. Pixels are found by their place in the frame's grid, so that ragged edges and
halos need masks but no copies.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from freqdiff_kernels import reference, reference_attention
from freqdiff_kernels.triton_launch import (
    INTERPRETED,
    OPTIONS,
    compute_dtype,
    device_of,
    multiplies,
)

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def place(rows, columns, heads, top, left, WINDOW: tl.constexpr, PARTS: tl.constexpr):
    """What a program works on: part of a window, head, sample, and the window's first pixel."""
    program = tl.program_id(0)
    part, program = program % PARTS, program // PARTS
    head, program = program % heads, program // heads
    column, program = program % columns, program // columns
    row, sample = program % rows, program // rows
    # 64 bits for what is multiplied by the largest strides.
    head, sample = head.to(tl.int64), sample.to(tl.int64)
    return part, head, sample, row * WINDOW - top, column * WINDOW - left


@triton.jit
def inside(y, x, height, width):
    """Which pixels lie in the image."""
    return (y >= 0) & (y < height) & (x >= 0) & (x < width)


@triton.jit
def vectors(values, y, x, mask, stride_y, stride_x, DEPTH: tl.constexpr):
    """The vectors (pixels, d) of one sample and head; 0 where masked."""
    source = values + y.to(tl.int64)[:, None] * stride_y + x.to(tl.int64)[:, None] * stride_x
    return tl.load(source + tl.arange(0, DEPTH)[None, :], mask=mask[:, None], other=0)


@triton.jit
def pair_bias(bias, dy, dx, mask, REACH: tl.constexpr, COMPUTE: tl.constexpr):
    """Bias of pairs whose key lies (dy, dx) from the query, times log2(e)."""
    entry = (dy + REACH // 2) * REACH + dx + REACH // 2
    return tl.load(bias + entry, mask=mask, other=0).to(COMPUTE) * LOG2_E


@triton.jit
def _forward_kernel(
    q,
    k,
    v,
    bias,
    out,
    lse,
    height,
    width,
    heads,
    rows,
    columns,
    top,
    left,
    q_b,
    q_y,
    q_x,
    q_h,
    k_b,
    k_y,
    k_x,
    k_h,
    v_b,
    v_y,
    v_x,
    v_h,
    scale: tl.float64,
    HAS_BIAS: tl.constexpr,
    WINDOW: tl.constexpr,
    HALO: tl.constexpr,
    DEPTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    COMPUTE: tl.constexpr,
    DOT: tl.constexpr,
):
    SIDE: tl.constexpr = WINDOW + 2 * HALO
    REACH: tl.constexpr = 2 * (WINDOW + HALO) - 1
    part, head, sample, y0, x0 = place(
        rows, columns, heads, top, left, WINDOW, WINDOW * WINDOW // QUERIES
    )
    factor = tl.full((1, 1), scale * LOG2_E, COMPUTE)
    m = part * QUERIES + tl.arange(0, QUERIES)
    y, x = y0 + m // WINDOW, x0 + m % WINDOW
    mask = inside(y, x, height, width)
    queries = vectors(q + sample * q_b + head * q_h, y, x, mask, q_y, q_x, DEPTH).to(DOT)
    k += sample * k_b + head * k_h
    v += sample * v_b + head * v_h
    if HAS_BIAS:
        bias += head * REACH * REACH

    largest = tl.full((QUERIES,), -float("inf"), COMPUTE)
    total = tl.zeros((QUERIES,), COMPUTE)
    result = tl.zeros((QUERIES, DEPTH), COMPUTE)
    for start in range(0, SIDE * SIDE, KEYS):
        n = start + tl.arange(0, KEYS)
        key_y, key_x = y0 - HALO + n // SIDE, x0 - HALO + n % SIDE
        seen = (n < SIDE * SIDE) & inside(key_y, key_x, height, width)
        keys = vectors(k, key_y, key_x, seen, k_y, k_x, DEPTH).to(DOT)
        values = vectors(v, key_y, key_x, seen, v_y, v_x, DEPTH).to(DOT)
        logits = tl.dot(queries, tl.trans(keys), input_precision="ieee", out_dtype=COMPUTE)
        logits *= factor
        if HAS_BIAS:
            dy = key_y[None, :] - y[:, None]
            dx = key_x[None, :] - x[:, None]
            logits += pair_bias(bias, dy, dx, seen[None, :], REACH, COMPUTE)
        logits = tl.where(seen[None, :], logits, -float("inf"))
        above = tl.maximum(largest, tl.max(logits, 1))
        shift = tl.where(above == -float("inf"), 0.0, above)
        weights = tl.exp2(logits - shift[:, None])
        shrink = tl.exp2(largest - shift)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None]
        result += tl.dot(weights.to(DOT), values, input_precision="ieee", out_dtype=COMPUTE)
        largest = above

    pixel = ((sample * height + y) * width + x) * heads + head
    result = (result / total[:, None]).to(out.dtype.element_ty)
    target = out + pixel[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :]
    tl.store(target, result, mask=mask[:, None])
    tl.store(lse + pixel, (largest + tl.log2(total)) / LOG2_E, mask=mask)


def supported(q: Tensor, window: int, halo: int) -> bool:
    """Whether the kernels cover these arguments; the reference covers all."""
    depths = (16, 32, 64, 128)
    return multiplies(q) and window in (8, 16) and halo <= window and q.shape[4] in depths


def dot_dtype(dtype: torch.dtype) -> tl.dtype:
    """The dtype of the factors of products: 16 bits for tensor cores, but not in the interpreter,
    whose products of bfloat16 are wrong."""
    if INTERPRETED or dtype not in (torch.bfloat16, torch.float16):
        return compute_dtype(dtype)
    return tl.bfloat16 if dtype == torch.bfloat16 else tl.float16


def dense(values: Tensor) -> Tensor:
    """The same values; each vector lies in one piece, the rest as it was."""
    return values if values.stride(-1) == 1 else values.contiguous()


def grid_of(
    q: Tensor, window: int, origin: Sequence[int]
) -> tuple[int, int, int, int, int, int, int]:
    """Height, width, heads, rows and columns of windows, and how far the first one sticks out."""
    height, width, heads = q.shape[1:4]
    top, left = origin[0] % window, origin[1] % window
    rows, columns = triton.cdiv(top + height, window), triton.cdiv(left + width, window)
    return height, width, heads, rows, columns, top, left


def is_wide(values: Tensor) -> bool:
    """Whether products are computed in full float32, which takes more registers."""
    return values.dtype in (torch.float32, torch.float64)


# Here and in the backward: chosen by register count of the sm_90 build, not timed. Nothing spills,
# and 8 warps or more fit on a multiprocessor, 16 in the forward of 16 bits without bias.
def forward_launch(window: int, depth: int, wide: bool, biased: bool) -> dict[str, int]:
    """Queries per program, keys per step, and how many warps share them."""
    queries = 128 if window == 16 and depth <= 64 and not wide else 64
    return {
        "QUERIES": queries,
        "KEYS": 32 if wide or biased or queries == 128 else 64,
        "num_warps": 8 if wide or queries == 128 or (biased and depth == 128) else 4,
        "num_stages": 2 if wide else 3,
    }


def halo_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    window: int,
    halo: int,
    scale: float,
    origin: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """See `reference_attention.halo_attention`."""
    if not supported(q, window, halo):
        return reference_attention.halo_attention(q, k, v, bias, window, halo, scale, origin)
    out = q.new_empty(q.shape)
    lse = q.new_empty(q.shape[:4], dtype=reference.compute_dtype(q.dtype))
    if out.numel() == 0:
        return out, lse
    q, k, v = dense(q), dense(k), dense(v)
    geometry = grid_of(q, window, origin)
    _, _, heads, rows, columns, _, _ = geometry
    launch = forward_launch(window, q.shape[4], is_wide(q), bias is not None)
    programs = len(q) * rows * columns * heads * (window**2 // launch["QUERIES"])
    with device_of(q):
        _forward_kernel[(programs,)](
            q,
            k,
            v,
            q if bias is None else bias.contiguous(),
            out,
            lse,
            *geometry,
            *q.stride()[:4],
            *k.stride()[:4],
            *v.stride()[:4],
            scale,
            HAS_BIAS=bias is not None,
            WINDOW=window,
            HALO=halo,
            DEPTH=q.shape[4],
            COMPUTE=compute_dtype(q.dtype),
            DOT=dot_dtype(q.dtype),
            **launch,
            **OPTIONS,
        )
    return out, lse
