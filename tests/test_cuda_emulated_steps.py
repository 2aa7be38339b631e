"""Device code of ddim_step, run by the CPU emulation, against the reference."""

import pytest
import torch
from emulated import DTYPE_CODES, Library
from torch import Tensor

from freqdiff_kernels import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.fixture(scope="module")
def compiled() -> Library:
    return Library("ddim_step.cpp")


def run(
    library: Library, x: Tensor, f: Tensor, y: Tensor | None, coefficients: Tensor, clamp: bool
) -> tuple[Tensor, bool]:
    """x' and whether its memory was seen as dense."""
    like = torch.empty_like(x)
    out = library.empty((like.numel(),), x.dtype).as_strided(like.size(), like.stride())
    anchor = x if y is None else y
    layout = [*x.shape, *x.stride(), *f.stride(), *anchor.stride(), *out.stride()]
    dense = torch.zeros(1, dtype=torch.int64)
    library.call(
        "run_step",
        *(x, DTYPE_CODES[x.dtype], f, DTYPE_CODES[f.dtype], y, DTYPE_CODES[anchor.dtype], out),
        *(torch.tensor(layout), coefficients, coefficients.dtype == torch.float64, clamp, dense),
    )
    return out, bool(dense)


def check(
    library: Library, x: Tensor, f: Tensor, y: Tensor | None, clamp: bool = True
) -> tuple[Tensor, bool]:
    wide = x.dtype == torch.float64
    generator = torch.Generator().manual_seed(5)
    coefficients = torch.randn(len(x), 5, generator=generator, dtype=torch.float64)
    coefficients = coefficients if wide else coefficients.float()
    result, dense = run(library, x, f, y, coefficients, clamp)
    expected = reference.ddim_step(x, f, y, coefficients, clamp)
    exact = reference.ddim_step(
        x.double(), f.double(), None if y is None else y.double(), coefficients.double(), clamp
    )
    assert result.stride() == expected.stride()
    rounding = torch.finfo(x.dtype).eps / 2 * exact.norm()
    assert (result - exact).norm() <= 2 * (expected - exact).norm() + rounding
    return result, dense


def images(shape: tuple[int, ...], *dtypes: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    return [torch.randn(shape, generator=generator).to(dtype) for dtype in dtypes]


@pytest.mark.parametrize("anchored", [False, True], ids=["free", "anchored"])
@pytest.mark.parametrize("f_type", DTYPES, ids=str)
@pytest.mark.parametrize("x_type", DTYPES, ids=str)
def test_dtypes(library: Library, x_type: torch.dtype, f_type: torch.dtype, anchored: bool) -> None:
    x, f, y = map(library.guarded, images((2, 3, 12, 20), x_type, f_type, torch.float32))
    _, dense = check(library, x, f, y if anchored else None)
    assert dense


@pytest.mark.parametrize("width", [1, 7, 8], ids=lambda width: f"width{width}")
@pytest.mark.parametrize("clamp", [False, True], ids=["open", "clamped"])
def test_odd_sizes(library: Library, width: int, clamp: bool) -> None:
    for batch in (1, 3):
        x, f, y = map(library.guarded, images((batch, 3, 5, width), *DTYPES[:2], torch.float32))
        check(library, x, f, y, clamp)


def test_strides(library: Library) -> None:
    x, f, y = images((2, 3, 6, 10), torch.float32, torch.bfloat16, torch.float32)
    last = torch.channels_last
    expected, dense = check(library, x, f, y)
    assert dense
    for inputs, is_dense in (
        ((x.to(memory_format=last), f.to(memory_format=last), y.to(memory_format=last)), True),
        ((x.to(memory_format=last), f, y), False),
        ((x, f, y.to(memory_format=last)), False),
        ((x[..., ::2], f[..., ::2], y[..., ::2]), False),
        ((x, f, y[:1].expand_as(x)), True),
    ):
        result, dense = check(library, *inputs)
        assert dense == is_dense
        if inputs[0].shape == x.shape and inputs[2].stride(0):
            torch.testing.assert_close(result, expected)


def test_empty_and_nan(library: Library) -> None:
    x, f = images((0, 3, 4, 4), torch.float32, torch.float32)
    check(library, x, f, None)
    x, f = images((1, 3, 4, 4), torch.float32, torch.float32)
    x[0, 1, 2, 3] = f[0, 0, 0, 1] = torch.nan
    result, _ = run(library, x, f, None, torch.ones(1, 5), True)
    assert torch.equal(result.isnan(), x.isnan() | f.isnan())
