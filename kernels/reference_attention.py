"""What `halo_attention` and its gradient mean, in plain torch; see `reference`."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff_kernels.portable import unfold
from freqdiff_kernels.reference import compute_dtype


def attention_blocks(values: Tensor, window: int, extra: int, origin: Sequence[int]) -> Tensor:
    """Cut (B, H, W, heads, d) into the blocks of the frame's grid, each with `extra` pixels around.

    Pixels outside the image are 0.

    Returns:
        (B, rows, columns, heads, side, side, d), side = window + 2 extra.
    """
    height, width = values.shape[1:3]
    top, left = origin[0] % window, origin[1] % window
    bottom, right = -(top + height) % window, -(left + width) % window
    pad = (left + extra, right + extra, top + extra, bottom + extra)
    side = window + 2 * extra
    padded = F.pad(values, (0, 0, 0, 0, *pad))
    blocks = unfold(unfold(padded, 1, side, window), 2, side, window)
    return blocks.permute(0, 1, 2, 3, 5, 6, 4)


def join_blocks(blocks: Tensor, window: int, size: Sequence[int], origin: Sequence[int]) -> Tensor:
    """(B, rows, columns, heads, window^2, d) -> the image (B, H, W, heads, d)."""
    top, left = origin[0] % window, origin[1] % window
    batch, rows, columns, heads, _, depth = blocks.shape
    blocks = blocks.reshape(batch, rows, columns, heads, window, window, depth)
    image = blocks.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)
    return image[:, top : top + size[0], left : left + size[1]].contiguous()


def relative_index(window: int, halo: int, device: torch.device) -> Tensor:
    """Entry of the flat bias table for each pair of query and key: (window^2, (window+2 halo)^2).

    The table of one head is (2 (window + halo) - 1)^2; its centre is the query's own position.
    """
    query = torch.arange(window, device=device)
    key = torch.arange(-halo, window + halo, device=device)
    offset = key[None, :] - query[:, None] + window + halo - 1
    span = 2 * (window + halo) - 1
    index = offset[:, None, :, None] * span + offset[None, :, None, :]
    return index.flatten(2, 3).flatten(0, 1)


def attention_logits(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    window: int,
    halo: int,
    scale: float,
    origin: Sequence[int],
) -> Tensor:
    """Scaled products of all pairs plus bias, -inf for keys outside the image.

    Returns:
        (B, rows, columns, heads, window^2, (window + 2 halo)^2).
    """
    queries = attention_blocks(q, window, 0, origin).flatten(4, 5)
    keys = attention_blocks(k, window, halo, origin).flatten(4, 5)
    logits = queries @ keys.mT * scale
    if bias is not None:
        table = bias.to(logits.dtype).flatten(1)
        logits = logits + table[:, relative_index(window, halo, q.device)]
    inside = torch.ones((1, *q.shape[1:3], 1, 1), dtype=torch.bool, device=q.device)
    visible = attention_blocks(inside, window, halo, origin).flatten(4, 6)
    return logits.masked_fill(~visible[..., None, :], -math.inf)


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
    """Attention of each window x window block of queries to its block plus `halo` pixels around.

    Args:
        q, k, v: (B, H, W, heads, d).
        bias: (heads, 2 (window + halo) - 1, the same), added to the logits of the pairs whose key
            lies that far below and to the right of the query, or None.
        window, halo: in pixels. Keys outside the image are masked.
        scale: factor of the logits.
        origin: (y, x) of pixel (0, 0) in the frame; the grid of blocks is anchored to the frame.

    Returns:
        (B, H, W, heads, d), and the log of the sum of the exponentials of the logits,
        (B, H, W, heads) in float32 (float64 for float64).
    """
    dtype, size = q.dtype, q.shape[1:3]
    q, k, v = (x.to(compute_dtype(dtype)) for x in (q, k, v))
    logits = attention_logits(q, k, bias, window, halo, scale, origin)
    lse = logits.logsumexp(-1, keepdim=True)
    values = attention_blocks(v, window, halo, origin).flatten(4, 5)
    result = torch.exp(logits - lse) @ values
    return join_blocks(result, window, size, origin).to(dtype), join_blocks(
        lse, window, size, origin
    ).squeeze(-1)


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
    """Gradients of `halo_attention` with respect to q, k, v and bias (empty without bias).

    With P = exp(logits - lse) and D = sum(grad out) per query: dV = P^T grad, dP = grad V^T,
    dS = P (dP - D), dQ = scale dS K, dK = scale dS^T Q, and the bias gets the sums of dS.
    """
    size = q.shape[1:3]
    dtype = compute_dtype(q.dtype)
    dots = (grad.to(dtype) * out.to(dtype)).sum(-1, keepdim=True)
    q32, k32, v32, grad32 = (x.to(dtype) for x in (q, k, v, grad))
    logits = attention_logits(q32, k32, bias, window, halo, scale, origin)

    def own(x: Tensor) -> Tensor:
        return attention_blocks(x, window, 0, origin).flatten(4, 5)

    # Queries beyond the border have no sum; the 0 there would only make infinities.
    outside = own(torch.ones_like(lse)[..., None]) == 0
    weights = torch.exp(logits - own(lse[..., None]).masked_fill(outside, math.inf))
    values = attention_blocks(v32, window, halo, origin).flatten(4, 5)
    keys = attention_blocks(k32, window, halo, origin).flatten(4, 5)
    logit_grad = weights * (own(grad32) @ values.mT - own(dots))
    q_grad = join_blocks(logit_grad @ keys * scale, window, size, origin)
    k_grad = _add_blocks(logit_grad.mT @ own(q32) * scale, window, halo, size, origin)
    v_grad = _add_blocks(weights.mT @ own(grad32), window, halo, size, origin)
    bias_grad = q.new_empty(0)
    if bias is not None:
        index = relative_index(window, halo, q.device).flatten()
        pairs = logit_grad.sum(dim=(0, 1, 2)).flatten(1)
        bias_grad = torch.zeros_like(bias, dtype=dtype).flatten(1).index_add(1, index, pairs)
        bias_grad = bias_grad.reshape(bias.shape).to(bias.dtype)
    return q_grad.to(q.dtype), k_grad.to(k.dtype), v_grad.to(v.dtype), bias_grad


def _add_blocks(
    blocks: Tensor, window: int, halo: int, size: Sequence[int], origin: Sequence[int]
) -> Tensor:
    """Adjoint of `attention_blocks`: overlapping blocks are summed up, (B, H, W, heads, d)."""
    batch, rows, columns, heads, _, depth = blocks.shape
    side = window + 2 * halo
    flat = blocks.permute(0, 3, 5, 4, 1, 2).reshape(batch, heads * depth * side**2, rows * columns)
    padded = (rows * window + 2 * halo, columns * window + 2 * halo)
    image = F.fold(flat, padded, side, stride=window)
    top, left = origin[0] % window + halo, origin[1] % window + halo
    image = image[:, :, top : top + size[0], left : left + size[1]]
    image = image.reshape(batch, heads, depth, *size)
    return image.permute(0, 3, 4, 1, 2).contiguous()
