"""The gradient of halo_attention in Triton.

Nothing is added up by several programs at once: one kernel gives each query its gradient, one gives
each key and value theirs by walking over the windows that see it, and the bias sums partial tables
in a fixed order. So the result is the same bit for bit in every run.
"""

from collections.abc import Sequence
from functools import lru_cache

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
    pair_bias,
    place,
    supported,
    vectors,
)
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


@triton.jit
def _bias_kernel(
    grad,
    q,
    k,
    v,
    bias,
    lse,
    dots,
    sums,
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
    windows,
    scale: tl.float64,
    WINDOW: tl.constexpr,
    HALO: tl.constexpr,
    DEPTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    COUNT: tl.constexpr,
    COMPUTE: tl.constexpr,
    DOT: tl.constexpr,
):
    """Sums of the slopes of pairs over COUNT windows: (groups, heads, w^2, (w + 2 halo)^2)."""
    SIDE: tl.constexpr = WINDOW + 2 * HALO
    REACH: tl.constexpr = 2 * (WINDOW + HALO) - 1
    ACROSS: tl.constexpr = (SIDE * SIDE + KEYS - 1) // KEYS
    DOWN: tl.constexpr = WINDOW * WINDOW // QUERIES
    program = tl.program_id(0)
    n = program % ACROSS * KEYS + tl.arange(0, KEYS)
    m = program // ACROSS % DOWN * QUERIES + tl.arange(0, QUERIES)
    head = program // (ACROSS * DOWN) % heads
    group = program // (ACROSS * DOWN) // heads
    factor = tl.full((1, 1), scale * LOG2_E, COMPUTE)
    inner_y, inner_x = m // WINDOW, m % WINDOW
    outer_y, outer_x = n // SIDE - HALO, n % SIDE - HALO
    listed = n < SIDE * SIDE
    table = pair_bias(
        bias + head * REACH * REACH,
        outer_y[None, :] - inner_y[:, None],
        outer_x[None, :] - inner_x[:, None],
        listed[None, :],
        REACH,
        COMPUTE,
    )
    total = tl.zeros((QUERIES, KEYS), COMPUTE)
    for step in range(COUNT):
        window = group * COUNT + step
        sample = (window // (rows * columns)).to(tl.int64)
        # Windows beyond the last one lie below the image, where all is masked.
        y0 = tl.where(window < windows, window // columns % rows * WINDOW - top, height + HALO)
        x0 = window % columns * WINDOW - left
        y, x = y0 + inner_y, x0 + inner_x
        own = inside(y, x, height, width)
        key_y, key_x = y0 + outer_y, x0 + outer_x
        seen = listed & inside(key_y, key_x, height, width)
        pixel = ((sample * height + y) * width + x) * heads + head
        queries = vectors(q + sample * q_b + head * q_h, y, x, own, q_y, q_x, DEPTH).to(DOT)
        packed = pixel[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :]
        grads = tl.load(grad + packed, mask=own[:, None], other=0).to(DOT)
        level = tl.load(lse + pixel, mask=own, other=0) * LOG2_E
        dot = tl.load(dots + pixel, mask=own, other=0)
        keys = vectors(k + sample * k_b + head * k_h, key_y, key_x, seen, k_y, k_x, DEPTH)
        values = vectors(v + sample * v_b + head * v_h, key_y, key_x, seen, v_y, v_x, DEPTH)
        logits = tl.dot(queries, tl.trans(keys.to(DOT)), input_precision="ieee", out_dtype=COMPUTE)
        logits = logits * factor + table
        both = own[:, None] & seen[None, :]
        weights = tl.exp2(tl.where(both, logits - level[:, None], -float("inf")))
        pulls = tl.dot(grads, tl.trans(values.to(DOT)), input_precision="ieee", out_dtype=COMPUTE)
        total += weights * (pulls - dot[:, None])
    line = (group.to(tl.int64) * heads + head) * (WINDOW * WINDOW) + m
    target = sums + line[:, None] * (SIDE * SIDE) + n[None, :]
    tl.store(target, total, mask=listed[None, :])


# Chosen by register count of the sm_90 build (no spills; see the test that compiles the kernels),
# not timed.
def _tiles(window: int, depth: int, wide: bool) -> tuple[int, int]:
    """Queries and keys per step of the kernels of queries and of the bias."""
    return 64, 32 if wide or depth > 64 else 64


def _parts(window: int, halo: int) -> tuple[int, int]:
    """BLOCK and NEAR of `_key_kernel`: at most 64 keys, seen by as few windows as possible."""
    if halo == 0:
        return 8, 1
    return (window // 2, 2) if 2 * halo <= window else (8, 3)


@lru_cache(maxsize=32)
def _pairs_of_entries(window: int, halo: int, device: torch.device) -> Tensor:
    """Pair of query and key, or their number, for each entry of the table and each query."""
    index = reference_attention.relative_index(window, halo, torch.device("cpu"))
    reach = 2 * (window + halo) - 1
    pairs = torch.full((reach**2, window**2), index.numel())
    queries = torch.arange(window**2)[:, None].expand_as(index)
    pairs[index, queries] = torch.arange(index.numel()).reshape(index.shape)
    return pairs.to(device)


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
    queries, keys = _tiles(window, depth, q.dtype in (torch.float32, torch.float64))
    block, near = _parts(window, halo)
    bias_grad = q.new_empty(0)
    with device_of(q):
        _query_kernel[(windows * heads * (window**2 // queries),)](
            grad,
            q,
            k,
            v,
            table,
            out,
            lse,
            dots,
            q_grad,
            *shared,
            scale,
            HAS_BIAS=bias is not None,
            QUERIES=queries,
            KEYS=keys,
            **options,
        )
        _key_kernel[(windows * heads * (window // block) ** 2,)](
            grad,
            q,
            k,
            v,
            table,
            lse,
            dots,
            k_grad,
            v_grad,
            *shared,
            scale,
            HAS_BIAS=bias is not None,
            BLOCK=block,
            NEAR=near,
            QUERIES=keys,
            **options,
        )
        if bias is not None:
            side = window + 2 * halo
            tiles = window**2 // queries * triton.cdiv(side**2, keys)
            # About 1024 programs: a few for each multiprocessor of an H100.
            groups = min(max(1024 // (heads * tiles), 1), windows)
            count = triton.next_power_of_2(triton.cdiv(windows, groups))
            groups = triton.cdiv(windows, count)
            sums = lse.new_empty((groups, heads, window**2, side**2))
            _bias_kernel[(groups * heads * tiles,)](
                grad,
                q,
                k,
                v,
                table,
                lse,
                dots,
                sums,
                *shared,
                windows,
                scale,
                QUERIES=queries,
                KEYS=keys,
                COUNT=count,
                **options,
            )
            slopes = torch.nn.functional.pad(sums.sum(0).flatten(1), (0, 1))
            entries = slopes[:, _pairs_of_entries(window, halo, q.device)].sum(-1)
            bias_grad = entries.reshape(bias.shape).to(bias.dtype)
    return q_grad, k_grad, v_grad, bias_grad
