"""Cases of ddim_step (K4)."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import SETS, Case, assert_as_precise
from freqdiff_kernels import ops, reference

HEIGHT, WIDTH = 2160, 3840


def eager(x: Tensor, f: Tensor, y: Tensor | None, c: Tensor) -> Tensor:
    """The step as one writes it."""
    cx, cf, cy, kx, k0 = c[0]
    estimate = cx * x + cf * f
    if y is not None:
        estimate = estimate + cy * y
    return kx * x + k0 * estimate.clamp(-1, 1)


def step(device: str, dtype: torch.dtype, anchored: bool) -> Case:
    """A 4K frame one step on."""
    size = (1, 3, HEIGHT, WIDTH)
    xs = [torch.randn(size, device=device) for _ in range(SETS)]
    fs = [torch.randn(size, device=device).to(dtype) for _ in range(SETS)]
    ys = [torch.rand(size, device=device) * 2 - 1 if anchored else None for _ in range(SETS)]
    coefficients = torch.tensor([[0.02, 0.1, 0.9, 0.7, 0.3]], device=device)
    compiled = torch.compile(eager, fullgraph=True)

    def arguments(n: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        return xs[n % SETS], fs[n % SETS], ys[n % SETS], coefficients

    competitors: dict[str, Callable[[int], Any] | str] = {
        "eager": lambda n: eager(*arguments(n)),
        "compiled": lambda n: compiled(*arguments(n)),
    }

    def check() -> float:
        part = [None if t is None else t[..., :256, :256] for t in arguments(0)[:3]]
        x, f, y = part
        assert x is not None
        assert f is not None
        wide = None if y is None else y.double()
        exact = reference.ddim_step(x.double(), f.double(), wide, coefficients.double(), True)
        plain = eager(x, f, y, coefficients)
        return assert_as_precise(ops.ddim_step(x, f, y, coefficients), plain, exact)

    return Case(
        op="ddim_step",
        case="1x3x2160x3840, " + ("anchored" if anchored else "epsilon"),
        direction="forward",
        device=device,
        dtype=f"x float32, F {str(dtype).removeprefix('torch.')}",
        ours=lambda n: ops.ddim_step(*arguments(n)),
        competitors=competitors,
        check=check,
        bytes_moved=xs[0].nbytes * (3 if anchored else 2) + fs[0].nbytes,
        flops=8.0 * xs[0].numel(),
    )


def cases(device: str) -> Iterator[Case]:
    """All cases of this operation for a device."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    for anchored in (True, False):
        yield step(device, dtype, anchored)
