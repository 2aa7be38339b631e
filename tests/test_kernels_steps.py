"""ddim_step: the kernel against its reference and against float64."""

import pytest
import torch
from precision import assert_as_precise
from torch import Tensor

from freqdiff_kernels import ops

kernel = torch.ops.freqdiff
plain = torch.ops.freqdiff_reference
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype)


def assert_step_as_precise(x: Tensor, f: Tensor, y: Tensor | None, clamp: bool = True) -> None:
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    coefficients = random(len(x), 5, seed=9, dtype=dtype)
    result = kernel.ddim_step(x, f, y, coefficients, clamp)
    expected = plain.ddim_step(x, f, y, coefficients, clamp)
    y_wide = None if y is None else y.double()
    exact = plain.ddim_step(x.double(), f.double(), y_wide, coefficients.double(), clamp)
    assert_as_precise(result, expected, exact)
    assert result.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("y", [None, *DTYPES], ids=str)
@pytest.mark.parametrize("f", DTYPES, ids=str)
@pytest.mark.parametrize("x", DTYPES, ids=str)
def test_dtypes(x: torch.dtype, f: torch.dtype, y: torch.dtype | None, clamp: bool) -> None:
    shape = (2, 3, 5, 7)
    anchor = None if y is None else random(*shape, seed=2, dtype=y)
    assert_step_as_precise(
        random(*shape, dtype=x), random(*shape, seed=1, dtype=f), anchor, clamp=clamp
    )


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "batch inside": lambda x: x.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2),
    "slice": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "gaps": lambda x: torch.cat((x, x), dim=3)[..., : x.shape[3]],
    "expanded": lambda x: x[:, :1].expand(-1, x.shape[1], -1, -1),
}


@pytest.mark.parametrize("other", LAYOUTS)
@pytest.mark.parametrize("own", LAYOUTS)
def test_layouts(level: str, own: str, other: str) -> None:
    x, f, y = (random(2, 3, 33, 50, seed=seed) for seed in range(3))
    assert_step_as_precise(LAYOUTS[own](x), LAYOUTS[other](f), LAYOUTS[own](y))


@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 1, 1, 7), (2, 3, 37, 1), (0, 3, 4, 5)], ids=str
)
def test_shapes(level: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    f = random(*shape, seed=1, dtype=torch.bfloat16)
    assert_step_as_precise(random(*shape, dtype=dtype), f, None)


def test_results_too_large_for_the_caches(level: str) -> None:
    x, f = random(2, 3, 900, 1000), random(2, 3, 900, 1000, seed=1, dtype=torch.bfloat16)
    coefficients = random(2, 5, seed=9)
    result = ops.ddim_step(x, f, x, coefficients)
    assert result.numel() * 4 > 2**24
    for number in range(2):
        one = slice(number, number + 1)
        alone = ops.ddim_step(x[one], f[one], x[one], coefficients[one])
        assert torch.equal(result[one], alone)


def test_not_a_number_stays(level: str) -> None:
    x, f = random(1, 3, 4, 50), random(1, 3, 4, 50, seed=1)
    f[0, 1, 2, 20] = float("nan")
    result = ops.ddim_step(x, f, None, torch.ones(1, 5))
    assert torch.equal(result.isnan(), f.isnan())


@pytest.mark.parametrize("clamp", [False, True])
def test_gradcheck(clamp: bool) -> None:
    x, f, y = (random(2, 3, 4, 5, seed=s, dtype=torch.float64).requires_grad_() for s in range(3))
    coefficients = random(2, 5, seed=9, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *inputs: ops.ddim_step(*inputs, coefficients, clamp), (x, f, y)
    )
