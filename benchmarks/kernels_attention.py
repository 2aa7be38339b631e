"""Cases of halo_attention (K2)."""

import functools
import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import SETS, Case, assert_as_precise
from freqdiff_kernels import ops, reference_attention


@dataclass(frozen=True)
class Shape:
    """Sizes of one case of kernels for images of `height` x `width` positions."""

    name: str
    height: int
    width: int
    heads: int
    depth: int
    window: int
    halo: int

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.height}x{self.width}, {self.heads} heads of {self.depth}, "
            f"window {self.window}, halo {self.halo}"
        )

    @property
    def values(self) -> int:
        return self.height * self.width * self.heads * self.depth

    @property
    def flops(self) -> float:
        """Of the forward: two products of each query with the keys of its block."""
        return 4.0 * self.values * (self.window + 2 * self.halo) ** 2


GPU_SHAPES = (
    Shape("A1", 270, 480, 8, 32, 8, 4),
    Shape("A2", 135, 240, 8, 64, 16, 8),
    Shape("A3", 540, 960, 3, 32, 8, 0),
    Shape("A4", 270, 480, 4, 64, 16, 8),
)
CPU_SHAPES = (Shape("A5", 135, 240, 4, 32, 8, 4),)


@functools.cache
def block_mask(
    height: int, width: int, window: int, halo: int, dtype: torch.dtype, device: str
) -> Tensor:
    """0 for keys inside the image and -inf for others: (blocks, 1, 1, side^2)."""
    inside = torch.ones((1, height, width, 1, 1), dtype=torch.bool, device=device)
    visible = reference_attention.attention_blocks(inside, window, halo, (0, 0)).flatten(4, 6)
    visible = visible.flatten(0, 2)[..., None, :]
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill(~visible, -math.inf)


def unfolded(x: Tensor, window: int, halo: int) -> Tensor:
    """(B, H, W, heads, d) -> (B * blocks, heads, side^2, d)."""
    return reference_attention.attention_blocks(x, window, halo, (0, 0)).flatten(4, 5).flatten(0, 2)


def unfold_sdpa(q: Tensor, k: Tensor, v: Tensor, window: int, halo: int) -> Tensor:
    """Unfold the windows, attend, fold back: what one writes with torch alone."""
    batch, height, width, heads, depth = q.shape
    mask = block_mask(height, width, window, halo, q.dtype, str(q.device))
    out = F.scaled_dot_product_attention(
        unfolded(q, window, 0), unfolded(k, window, halo), unfolded(v, window, halo), attn_mask=mask
    )
    rows, columns = -(-height // window), -(-width // window)
    out = out.reshape(batch, rows, columns, heads, window**2, depth)
    return reference_attention.join_blocks(out, window, (height, width), (0, 0))


def flex(shape: Shape, device: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Compiled FlexAttention on positions in window order, with the permutes that this needs."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    window, halo = shape.window, shape.halo
    rows, columns = -(-shape.height // window), -(-shape.width // window)
    area = window * window

    def place(index: Tensor) -> tuple[Tensor, Tensor]:
        block, inner = index // area, index % area
        return (
            block // columns * window + inner // window,
            block % columns * window + inner % window,
        )

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        (qy, qx), (ky, kx) = place(query), place(key)
        top, left = qy // window * window - halo, qx // window * window - halo
        side = window + 2 * halo
        near = (ky >= top) & (ky < top + side) & (kx >= left) & (kx < left + side)
        return near & (ky < shape.height) & (kx < shape.width)

    length = rows * columns * area
    mask = create_block_mask(sees, None, None, length, length, device=device, _compile=True)

    def order(x: Tensor) -> Tensor:
        return unfolded(x, window, 0).transpose(0, 1).flatten(1, 2)[None]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = flex_attention(order(q), order(k), order(v), block_mask=mask)
        assert isinstance(out, Tensor)
        blocks = out[0].reshape(shape.heads, rows, columns, area, shape.depth)
        blocks = blocks.permute(1, 2, 0, 3, 4)[None]
        return reference_attention.join_blocks(blocks, window, (shape.height, shape.width), (0, 0))

    return torch.compile(run, fullgraph=True)


def natten(shape: Shape) -> Callable[[Tensor, Tensor, Tensor], Any]:
    """Neighbourhood attention of about the same reach: not the same result, the same task."""
    from natten import na2d

    reach = (shape.window + 2 * shape.halo) // 2 * 2 - 1
    return lambda q, k, v: na2d(q, k, v, kernel_size=reach)


def attention(shape: Shape, device: str, dtype: torch.dtype, backward: bool) -> Case:
    """Self-attention in one direction."""
    size = (1, shape.height, shape.width, shape.heads, shape.depth)
    inputs = [
        [torch.randn(size, device=device).to(dtype).requires_grad_(backward) for _ in range(3)]
        for _ in range(SETS)
    ]
    grad = torch.randn(size, device=device).to(dtype)
    window, halo = shape.window, shape.halo

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ops.halo_attention(q, k, v, window, halo)

    def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return unfold_sdpa(q, k, v, window, halo)

    def run(function: Callable[..., Any], number: int) -> Any:
        values = inputs[number % SETS]
        if not backward:
            return function(*values)
        return torch.autograd.grad(function(*values), values, grad)

    competitors: dict[str, Callable[[int], Any] | str] = {"unfold_sdpa": lambda n: run(sdpa, n)}
    if not backward:
        mask = block_mask(shape.height, shape.width, window, halo, dtype, device)
        blocks = [
            [unfolded(x, window, 0 if i == 0 else halo).contiguous() for i, x in enumerate(values)]
            for values in inputs
        ]
        competitors["sdpa"] = lambda n: F.scaled_dot_product_attention(
            *blocks[n % SETS], attn_mask=mask
        )
    if device == "cpu":
        competitors |= {"flex": "measured on GPUs alone", "natten": "GPUs alone"}
    else:
        flexible = flex(shape, device)
        competitors["flex"] = lambda n: run(flexible, n)
        competitors["natten"] = "not installed"
        if importlib.util.find_spec("natten"):
            neighbours = natten(shape)
            competitors["natten"] = lambda n: run(neighbours, n)

    def check() -> float:
        part = [x.detach()[:, : 3 * window + 1, : 4 * window + 3] for x in inputs[0]]
        exact = ops_exact(part, window, halo)
        plain = unfold_sdpa(*part, window, halo)
        error = assert_as_precise(ours(*part), plain, exact)
        assert error <= (1e-5 if dtype == torch.float32 else 1e-2)
        if backward:
            gradients = [
                differentiate(function, part, dtype)
                for function in (ours, sdpa, lambda *x: ops_exact(x, window, halo))
            ]
            for mine, theirs, true in zip(*gradients, strict=True):
                error = max(error, assert_as_precise(mine, theirs, true))
        return error

    # q, k, v and the result; backwards the gradients of all four and the sums of the forward.
    moved = 4 * shape.values * dtype.itemsize
    if backward:
        moved += (8 * shape.values * dtype.itemsize) + 8 * shape.values // shape.depth
    return Case(
        op="halo_attention",
        case=str(shape),
        direction="forward+backward" if backward else "forward",
        device=device,
        dtype=str(dtype).removeprefix("torch."),
        ours=lambda n: run(ours, n),
        competitors=competitors,
        check=check,
        bytes_moved=moved,
        flops=shape.flops * (3.5 if backward else 1),
    )


def ops_exact(inputs: Any, window: int, halo: int) -> Tensor:
    """The reference in float64."""
    q, k, v = (x.double() for x in inputs)
    scale = q.shape[4] ** -0.5
    return reference_attention.halo_attention(q, k, v, None, window, halo, scale, (0, 0))[0]


def differentiate(
    function: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Gradients of the sum of squares of the result."""
    values = [x.clone().requires_grad_() for x in inputs]
    out = function(*values)
    weight = torch.linspace(-1, 1, out.numel(), device=out.device).to(dtype).reshape(out.shape)
    return torch.autograd.grad(out, values, weight.to(out.dtype))


def cases(device: str) -> Iterator[Case]:
    """All cases of this operation for a device."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    for shape in CPU_SHAPES if device == "cpu" else GPU_SHAPES:
        yield attention(shape, device, dtype, backward=False)
        yield attention(shape, device, dtype, backward=True)
