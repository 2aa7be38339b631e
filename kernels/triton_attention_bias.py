"""The gradient of the relative position bias of halo_attention in Triton.

Each program adds up the slopes of some pairs of query and key over many windows; then the sums of
the programs are added up, and those of all pairs with one entry of the table: always in the same
order.
"""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from freqdiff_kernels import reference_attention
from freqdiff_kernels.triton_attention import LOG2_E, inside, pair_bias, vectors


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
    head = (program // (ACROSS * DOWN) % heads).to(tl.int64)
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


@lru_cache(maxsize=32)
def _pairs_of_entries(window: int, halo: int, device: torch.device) -> Tensor:
    """Pair of query and key, or their number, for each entry of the table and each query."""
    index = reference_attention.relative_index(window, halo, torch.device("cpu"))
    reach = 2 * (window + halo) - 1
    pairs = torch.full((reach**2, window**2), index.numel())
    queries = torch.arange(window**2)[:, None].expand_as(index)
    pairs[index, queries] = torch.arange(index.numel()).reshape(index.shape)
    return pairs.to(device)


def bias_gradient(
    tensors: tuple[Tensor, ...],
    geometry: tuple[int, ...],
    windows: int,
    scale: float,
    options: dict[str, Any],
) -> Tensor:
    """Gradient of the bias, (heads, entries of the table).

    Args:
        tensors: grad, q, k, v, bias, lse and dots.
        geometry: the whole numbers that all kernels of attention take.
        windows: their number over all samples.
        scale: factor of the logits.
        options: constants of the kernel, and its launch.
    """
    lse = tensors[5]
    window, halo, heads = options["WINDOW"], options["HALO"], lse.shape[3]
    side = window + 2 * halo
    tiles = window**2 // options["QUERIES"] * triton.cdiv(side**2, options["KEYS"])
    # About 1024 programs: several for each of the 132 multiprocessors of an H100; not timed.
    groups = min(max(1024 // (heads * tiles), 1), windows)
    count = triton.next_power_of_2(triton.cdiv(windows, groups))
    groups = triton.cdiv(windows, count)
    sums = lse.new_empty((groups, heads, window**2, side**2))
    _bias_kernel[(groups * heads * tiles,)](
        *tensors, sums, *geometry, windows, scale, COUNT=count, **options
    )
    slopes = torch.nn.functional.pad(sums.sum(0).flatten(1), (0, 1))
    return slopes[:, _pairs_of_entries(window, halo, lse.device)].sum(-1)
