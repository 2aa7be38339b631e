"""The Triton kernels of extract_tiles, stitch_tiles and ddim_step against the reference."""

import functools

import precision
import pytest
import torch
from precision import interleaved
from torch import Tensor

from freqdiff_kernels import ops

pytest.importorskip("triton", reason="needs Triton")
pytestmark = pytest.mark.usefixtures("triton_backend")

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.uint16]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
photo = functools.partial(precision.photo, device=DEVICE)


def assert_same_up_to_rounding(result: Tensor, expected: Tensor, computed: torch.dtype) -> None:
    """Equal up to the rounding of the computation and of the result: a fused multiply-add moves a
    value by one unit in the last place of either, an integer by one step."""
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    sides = [size > 1 for size in result.shape]
    for got, want, counts in zip(result.stride(), expected.stride(), sides, strict=True):
        assert got == want or not counts
    unit = torch.finfo(torch.float64 if computed == torch.float64 else torch.float32).eps
    limit = 1.0
    if result.is_floating_point():
        largest = float(expected.double().abs().max())
        limit = 2 * max(torch.finfo(result.dtype).eps, unit) * largest
    assert (result.double() - expected.double()).abs().max() <= limit


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_identity_is_bit_exact(dtype: torch.dtype, channels_last: bool) -> None:
    image, starts = photo(3, 10, 33, dtype=dtype), ([-1, 3, 6], [0, 10, 19])
    source = interleaved(image) if channels_last else image
    tiles = ops.extract_tiles(source, (6, 15), starts, dtype=dtype)
    assert tiles.is_contiguous(memory_format=torch.channels_last)
    for stored in (tiles, tiles.contiguous()):
        result = ops.stitch_tiles(stored, starts, (10, 33), margin=1, channels_last=channels_last)
        assert torch.equal(result.double(), image.double())
        assert result.is_contiguous() != channels_last


@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_dtype_pairs(source: torch.dtype, target: torch.dtype) -> None:
    image, starts, margin = photo(3, 5, 22, dtype=source), ([-1, 2], [-1, 9]), 0
    top = 1.0 if source.is_floating_point else float(torch.iinfo(source).max)
    scale = (1.0 if target.is_floating_point else torch.iinfo(target).max) / top
    affine = (target, scale * 1.2, -0.1 * scale)
    stored = photo(4, 3, 4, 13, dtype=source)
    results = []
    for backend in ("triton", "reference"):
        with ops.use_backend(backend):
            results.append(
                (
                    ops.extract_tiles(image, (4, 13), starts, *affine),
                    ops.stitch_tiles(stored, starts, (5, 22), margin, *affine),
                    ops.stitch_tiles(stored, starts, (5, 22), margin, *affine, True),
                )
            )
    for result, expected in zip(*results, strict=True):
        assert_same_up_to_rounding(result, expected, source)


@pytest.mark.parametrize("channels", [1, 3, 0])
@pytest.mark.parametrize(
    ("starts", "tile", "size", "margin"),
    [
        (([0], [0]), (3, 9), (3, 9), 0),
        (([0], [0]), (1, 1), (1, 1), 3),
        (([-5], [-20]), (8, 61), (2, 1), 0),
        (([0, 3], [0, 7]), (3, 7), (6, 14), 0),
        (([0, 2], [0, 4]), (6, 9), (7, 13), 2),
        (([0, 2], [0, 5]), (6, 9), (7, 13), 2),
    ],
    ids=str,
)
def test_odd_shapes(
    starts: tuple[list[int], list[int]],
    tile: tuple[int, int],
    size: tuple[int, int],
    margin: int,
    channels: int,
) -> None:
    image = photo(channels, *size)
    tiles = ops.extract_tiles(image, tile, starts)
    with ops.use_backend("reference"):
        assert torch.equal(tiles, ops.extract_tiles(image, tile, starts))
    noisy = tiles + 0.1 * photo(*tiles.shape)
    for last in (False, True):
        result = ops.stitch_tiles(noisy, starts, size, margin, channels_last=last)
        with ops.use_backend("reference"):
            expected = ops.stitch_tiles(noisy, starts, size, margin, channels_last=last)
        if result.numel():
            assert_same_up_to_rounding(result, expected, result.dtype)
    assert torch.equal(ops.stitch_tiles(tiles, starts, size, margin), image)


def test_more_channels_than_a_program_takes() -> None:
    image, starts = photo(2 * 16 + 1, 2, 5), ([0], [0, 2])
    tiles = ops.extract_tiles(image, (2, 3), starts)
    for last in (False, True):
        assert torch.equal(ops.stitch_tiles(tiles, starts, (2, 5), channels_last=last), image)


def test_rows_longer_than_a_block() -> None:
    image, starts = photo(1, 3, 2500), ([0, 1], [0, 1000])
    tiles = ops.extract_tiles(image, (2, 1500), starts)
    assert torch.equal(ops.stitch_tiles(tiles, starts, (3, 2500)), image)


def test_margin_keeps_the_borders_of_tiles_out() -> None:
    tiles = torch.zeros(2, 1, 4, 24, device=DEVICE)
    tiles[0, ..., 20:] = tiles[1, ..., :4] = float("nan")
    assert ops.stitch_tiles(tiles, ([0], [0, 14]), (4, 38), margin=4).eq(0).all()
    assert ops.stitch_tiles(tiles, ([0], [0, 14]), (4, 38), margin=3).isnan().any()


def test_rounds_half_to_even_and_clamps() -> None:
    values = torch.tensor([-1.0, 0.5, 1.5, 2.5, 254.5, 255.4, 300.0, torch.inf, -torch.inf])
    for dtype in (torch.float32, torch.float64):
        tiles = values.to(DEVICE, dtype).reshape(1, 1, 1, -1)
        stitched = ops.stitch_tiles(tiles, ([0], [0]), (1, len(values)), dtype=torch.uint8)
        assert stitched.flatten().tolist() == [0, 0, 2, 2, 254, 255, 255, 255, 0]


def test_gradcheck_of_tiles() -> None:
    image, starts = photo(2, 5, 4, dtype=torch.float64).requires_grad_(), ([-2, 1], [-1, 1])
    assert torch.autograd.gradcheck(
        lambda values: ops.extract_tiles(values, (5, 4), starts, None, 3.0, -1.0),
        (image,),
        fast_mode=True,
    )
    tiles = photo(4, 2, 5, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda values: ops.stitch_tiles(values, starts, (5, 4), 1, None, 3.0, -1.0),
        (tiles,),
        fast_mode=True,
    )


def step_inputs(dtype: torch.dtype, other: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, f, y = (2 * photo(3, 2, 3, 17, 5) - 1).unbind()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return x.to(dtype), f.to(other), y.to(dtype), 2 * photo(2, 5).to(wide) - 0.5


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("other", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_step(dtype: torch.dtype, other: torch.dtype, clamp: bool) -> None:
    x, f, y, coefficients = step_inputs(dtype, other)
    for anchor in (y, None):
        for source in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(0, 1)):
            swap = source.shape[0] == 3
            arguments = [source, *(t if t is None or not swap else t.mT.mT for t in (f, anchor))]
            if swap:
                arguments[1:] = [t if t is None else t.transpose(0, 1) for t in arguments[1:]]
            row = coefficients[:1].expand(len(source), 5)
            result = ops.ddim_step(*arguments, row, clamp)
            with ops.use_backend("reference"):
                expected = ops.ddim_step(*arguments, row, clamp)
            assert_same_up_to_rounding(result, expected, dtype)


def test_step_of_several_samples_blocks_and_nans() -> None:
    x, f = photo(3, 1, 50, 60), photo(3, 1, 50, 60) - 0.5
    x[1, 0, 3, 4] = float("nan")
    coefficients = photo(3, 5)
    result = ops.ddim_step(x, f, None, coefficients)
    with ops.use_backend("reference"):
        expected = ops.ddim_step(x, f, None, coefficients)
    torch.testing.assert_close(result, expected, equal_nan=True)
    assert ops.ddim_step(x[:0], f[:0], None, coefficients[:0]).shape == (0, 1, 50, 60)


def test_gradcheck_of_step() -> None:
    x, f, y, coefficients = step_inputs(torch.float64, torch.float64)
    values = [t[:, :1, :2].clone().requires_grad_() for t in (x, f, y)]
    assert torch.autograd.gradcheck(lambda *t: ops.ddim_step(*t, coefficients, False), values)


@pytest.mark.parametrize("case", ["extract", "stitch", "stitch to bytes", "step"])
def test_opcheck(case: str) -> None:
    triton_ops, starts = torch.ops.freqdiff_triton, ([-1, 3], [0, 30])
    image, tiles = photo(3, 8, 50).requires_grad_(), photo(4, 3, 5, 32).requires_grad_()
    x, f, y, coefficients = step_inputs(torch.float32, torch.bfloat16)
    operation, arguments = {
        "extract": (
            triton_ops.extract_tiles.default,
            (image, [5, 28], *starts, torch.float32, 2.0, -1.0),
        ),
        "stitch": (
            triton_ops.stitch_tiles.default,
            (tiles, *starts, [8, 50], 1, torch.float32, 1.0, 0.0, False),
        ),
        "stitch to bytes": (
            triton_ops.stitch_tiles.default,
            (tiles.detach(), *starts, [8, 50], 0, torch.uint8, 255.0, 0.0, True),
        ),
        "step": (
            triton_ops.ddim_step.default,
            (x.requires_grad_(), f.requires_grad_(), y, coefficients, True),
        ),
    }[case]
    torch.library.opcheck(operation, arguments)
