"""The gradient of halo_attention in Triton.

Nothing is added up by several programs at once: one kernel gives each query its gradient, one gives
each key and value theirs by walking over the windows that see it, and the bias sums partial tables
in a fixed order. So the result is the same bit for bit in every run.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from freqdiff_kernels import reference_attention
from freqdiff_kernels.triton_attention import (
    LOG2_E,
    dense,
    dot_dtype,
    grid_of,
    inside,
    is_wide,
    pair_bias,
    place,
    supported,
    vectors,
)
from freqdiff_kernels.triton_attention_bias import bias_gradient
from freqdiff_kernels.triton_launch import OPTIONS, compute_dtype, device_of


@triton.jit
def _query_kernel(
    grad,
    q,
    k,
    v,
    bias,
    out,
    lse,
    dots,
    q_grad,
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
    """Gradients of the queries, and `dots`: sum(grad out) of each query."""
    SIDE: tl.constexpr = WINDOW + 2 * HALO
    REACH: tl.constexpr = 2 * (WINDOW + HALO) - 1
    part, head, sample, y0, x0 = place(
        rows, columns, heads, top, left, WINDOW, WINDOW * WINDOW // QUERIES
    )
    factor = tl.full((1, 1), scale * LOG2_E, COMPUTE)
    m = part * QUERIES + tl.arange(0, QUERIES)
    y, x = y0 + m // WINDOW, x0 + m % WINDOW
    mask = inside(y, x, height, width)
    pixel = ((sample * height + y) * width + x) * heads + head
    packed = pixel[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :]
    queries = vectors(q + sample * q_b + head * q_h, y, x, mask, q_y, q_x, DEPTH).to(DOT)
    grads = tl.load(grad + packed, mask=mask[:, None], other=0)
    outs = tl.load(out + packed, mask=mask[:, None], other=0)
    dot = tl.sum(grads.to(COMPUTE) * outs.to(COMPUTE), 1)
    tl.store(dots + pixel, dot, mask=mask)
    grads = grads.to(DOT)
    level = tl.load(lse + pixel, mask=mask, other=0) * LOG2_E
    k += sample * k_b + head * k_h
    v += sample * v_b + head * v_h
    if HAS_BIAS:
        bias += head * REACH * REACH

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
        both = mask[:, None] & seen[None, :]
        weights = tl.exp2(tl.where(both, logits - level[:, None], -float("inf")))
        pulls = tl.dot(grads, tl.trans(values), input_precision="ieee", out_dtype=COMPUTE)
        slopes = (weights * (pulls - dot[:, None])).to(DOT)
        result += tl.dot(slopes, keys, input_precision="ieee", out_dtype=COMPUTE)
    result *= tl.full((1, 1), scale, COMPUTE)
    tl.store(q_grad + packed, result.to(q_grad.dtype.element_ty), mask=mask[:, None])


@triton.jit
def _key_kernel(
    grad,
    q,
    k,
    v,
    bias,
    lse,
    dots,
    k_grad,
    v_grad,
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
    BLOCK: tl.constexpr,
    NEAR: tl.constexpr,
    QUERIES: tl.constexpr,
    COMPUTE: tl.constexpr,
    DOT: tl.constexpr,
):
    """Gradients of a BLOCK x BLOCK part of the keys and values of one window.

    NEAR x NEAR windows see it: its own, with 2 that on the part's side, with 3 those on both.
    """
    REACH: tl.constexpr = 2 * (WINDOW + HALO) - 1
    PARTS: tl.constexpr = WINDOW // BLOCK
    CHUNKS: tl.constexpr = WINDOW * WINDOW // QUERIES
    part, head, sample, y0, x0 = place(rows, columns, heads, top, left, WINDOW, PARTS * PARTS)
    factor = tl.full((1, 1), scale * LOG2_E, COMPUTE)
    n = tl.arange(0, BLOCK * BLOCK)
    key_y = y0 + part // PARTS * BLOCK + n // BLOCK
    key_x = x0 + part % PARTS * BLOCK + n % BLOCK
    mask = inside(key_y, key_x, height, width)
    keys = vectors(k + sample * k_b + head * k_h, key_y, key_x, mask, k_y, k_x, DEPTH).to(DOT)
    values = vectors(v + sample * v_b + head * v_h, key_y, key_x, mask, v_y, v_x, DEPTH).to(DOT)
    q += sample * q_b + head * q_h
    if HAS_BIAS:
        bias += head * REACH * REACH

    keys_grad = tl.zeros((BLOCK * BLOCK, DEPTH), COMPUTE)
    values_grad = tl.zeros((BLOCK * BLOCK, DEPTH), COMPUTE)
    for step in range(NEAR * NEAR * CHUNKS):
        near = step // CHUNKS
        down, across = near // NEAR, near % NEAR
        if NEAR == 2:
            down *= 2 * (part // PARTS) - 1
            across *= 2 * (part % PARTS) - 1
        if NEAR == 3:
            down -= 1
            across -= 1
        first_y, first_x = y0 + down * WINDOW, x0 + across * WINDOW
        seen = mask & inside(
            key_y - first_y + HALO, key_x - first_x + HALO, WINDOW + 2 * HALO, WINDOW + 2 * HALO
        )
        m = step % CHUNKS * QUERIES + tl.arange(0, QUERIES)
        y, x = first_y + m // WINDOW, first_x + m % WINDOW
        own = inside(y, x, height, width)
        pixel = ((sample * height + y) * width + x) * heads + head
        queries = vectors(q, y, x, own, q_y, q_x, DEPTH).to(DOT)
        packed = pixel[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :]
        grads = tl.load(grad + packed, mask=own[:, None], other=0).to(DOT)
        level = tl.load(lse + pixel, mask=own, other=0) * LOG2_E
        dot = tl.load(dots + pixel, mask=own, other=0)
        logits = tl.dot(keys, tl.trans(queries), input_precision="ieee", out_dtype=COMPUTE)
        logits *= factor
        both = seen[:, None] & own[None, :]
        if HAS_BIAS:
            dy = key_y[:, None] - y[None, :]
            dx = key_x[:, None] - x[None, :]
            logits += pair_bias(bias, dy, dx, both, REACH, COMPUTE)
        weights = tl.exp2(tl.where(both, logits - level[None, :], -float("inf")))
        values_grad += tl.dot(weights.to(DOT), grads, input_precision="ieee", out_dtype=COMPUTE)
        pulls = tl.dot(values, tl.trans(grads), input_precision="ieee", out_dtype=COMPUTE)
        slopes = (weights * (pulls - dot[None, :])).to(DOT)
        keys_grad += tl.dot(slopes, queries, input_precision="ieee", out_dtype=COMPUTE)

    pixel = ((sample * height + key_y) * width + key_x) * heads + head
    packed = pixel[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :]
    keys_grad *= tl.full((1, 1), scale, COMPUTE)
    tl.store(k_grad + packed, keys_grad.to(k_grad.dtype.element_ty), mask=mask[:, None])
    tl.store(v_grad + packed, values_grad.to(v_grad.dtype.element_ty), mask=mask[:, None])


def backward_launch(depth: int, wide: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Launch of the kernel of queries and of that of keys; see `forward_launch`."""
    of_queries = {
        "QUERIES": 64,
        "KEYS": 32 if wide or depth == 128 else 64,
        "num_warps": 8 if wide else 4,
        "num_stages": 2 if wide else 3,
    }
    of_keys = {
        "QUERIES": 16 if wide and depth == 128 else 32 if wide or depth > 32 else 64,
        "num_warps": 8 if wide or depth == 128 else 4,
        "num_stages": of_queries["num_stages"],
    }
    return of_queries, of_keys


def key_parts(window: int, halo: int) -> tuple[int, int]:
    """BLOCK and NEAR of `_key_kernel`: at most 64 keys, seen by as few windows as possible."""
    if halo == 0:
        return 8, 1
    return (window // 2, 2) if 2 * halo <= window else (8, 3)


def halo_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    lse: Tensor,
    window: int,
    halo: int,
    scale: float,
    origin: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `reference_attention.halo_attention_backward`."""
    if not supported(q, window, halo):
        return reference_attention.halo_attention_backward(
            grad, q, k, v, bias, out, lse, window, halo, scale, origin
        )
    q_grad, k_grad, v_grad = (x.new_empty(x.shape) for x in (q, k, v))
    if q.numel() == 0:
        return q_grad, k_grad, v_grad, q.new_empty(0) if bias is None else torch.zeros_like(bias)
    q, k, v = dense(q), dense(k), dense(v)
    grad, out, lse = grad.contiguous(), out.contiguous(), lse.contiguous()
    table = q if bias is None else bias.contiguous()
    dots = torch.empty_like(lse)
    geometry = grid_of(q, window, origin)
    _, _, heads, rows, columns, _, _ = geometry
    windows, depth = len(q) * rows * columns, q.shape[4]
    shared = (*geometry, *q.stride()[:4], *k.stride()[:4], *v.stride()[:4])
    options = OPTIONS | {
        "WINDOW": window,
        "HALO": halo,
        "DEPTH": depth,
        "COMPUTE": compute_dtype(q.dtype),
        "DOT": dot_dtype(q.dtype),
    }
    of_queries, of_keys = backward_launch(depth, is_wide(q))
    block, near = key_parts(window, halo)
    parts = window**2 // of_queries["QUERIES"]
    bias_grad = q.new_empty(0)
    with device_of(q):
        _query_kernel[(windows * heads * parts,)](
            *(grad, q, k, v, table, out, lse, dots, q_grad),
            *shared,
            scale,
            HAS_BIAS=bias is not None,
            **of_queries,
            **options,
        )
        _key_kernel[(windows * heads * (window // block) ** 2,)](
            *(grad, q, k, v, table, lse, dots, k_grad, v_grad),
            *shared,
            scale,
            HAS_BIAS=bias is not None,
            BLOCK=block,
            NEAR=near,
            **of_keys,
            **options,
        )
        if bias is not None:
            bias_grad = bias_gradient(
                (grad, q, k, v, table, lse, dots), shared, windows, scale, of_queries | options
            )
            bias_grad = bias_grad.reshape(bias.shape).to(bias.dtype)
    return q_grad, k_grad, v_grad, bias_grad
