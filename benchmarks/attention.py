"""The cases of `halo_attention` of benchmarks.kernels: against SDPA on unfolded windows."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Row, measure, row
from freqdiff_kernels import native, ops
from freqdiff_kernels.reference_attention import attention_blocks, join_blocks

SIZE, HEADS, DEPTH = (135, 240), 4, 32
WINDOW, HALO = 8, 4
SETS = 3
ORIGIN = (0, 0)


def outside_mask() -> Tensor:
    """(blocks, 1, 1, keys): -inf for keys outside the image, else 0."""
    inside = attention_blocks(torch.ones(1, *SIZE, 1, 1), WINDOW, HALO, ORIGIN)
    keys = inside.flatten(4).flatten(0, 2)
    return torch.zeros_like(keys).masked_fill(keys == 0, -math.inf)[:, None]


def unfolded_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same with the blocks copied out and F.scaled_dot_product_attention."""
    blocks = [
        attention_blocks(x, WINDOW, extra, ORIGIN).flatten(4, 5)
        for x, extra in ((q, 0), (k, HALO), (v, HALO))
    ]
    result = F.scaled_dot_product_attention(*(x.flatten(0, 2) for x in blocks), attn_mask=mask)
    return join_blocks(result.reshape(blocks[0].shape), WINDOW, SIZE, ORIGIN)


def largest_error(values: Tensor, exact: Tensor) -> float:
    return float((values - exact).abs().max() / exact.abs().max())


def attention(runs: int, backward: bool) -> Row:
    inputs = [
        [x.requires_grad_(backward) for x in torch.randn(3, 1, *SIZE, HEADS, DEPTH).unbind()]
        for _ in range(SETS)
    ]
    mask = outside_mask()
    results = {
        "cpp": [ops.halo_attention(*qkv, WINDOW, HALO) for qkv in inputs],
        "unfold + SDPA": [unfolded_sdpa(*qkv, mask) for qkv in inputs],
    }
    grad = torch.randn(1, *SIZE, HEADS, DEPTH)

    def run(name: str, number: int) -> Any:
        qkv = inputs[number % SETS]
        if backward:
            result = results[name][number % SETS]
            return torch.autograd.grad(result, qkv, grad, retain_graph=True)
        if name == "cpp":
            return (ops.halo_attention(*qkv, WINDOW, HALO),)
        return (unfolded_sdpa(*qkv, mask),)

    with ops.use_backend("reference"):
        wide = [x.detach().double().requires_grad_(backward) for x in inputs[0]]
        exact = (ops.halo_attention(*wide, WINDOW, HALO),)
        if backward:
            exact = torch.autograd.grad(exact[0], wide, grad.double())
    errors = {
        name: max(largest_error(*pair) for pair in zip(run(name, 0), exact, strict=True))
        for name in results
    }
    assert max(errors.values()) < 1e-5
    timings = measure(
        {name: lambda n, name=name: run(name, n) for name in results},
        {"cpp": runs, "unfold + SDPA": runs // 3},
    )
    return row(
        timings,
        "cpp",
        bytes_moved=0,
        rate=None,
        op="halo_attention",
        case=f"1x{SIZE[0]}x{SIZE[1]}, {HEADS} heads of {DEPTH}, window {WINDOW}, halo {HALO}",
        direction="backward" if backward else "forward",
        backend="cpp " + native.cpu_level(),
        device="cpu",
        dtype="float32",
        max_error=errors["cpp"],
    )
