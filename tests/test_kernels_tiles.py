"""extract_tiles and stitch_tiles: the kernels against the reference, and exactness."""

import pytest
import torch
from precision import interleaved, photo
from torch import Tensor

from freqdiff_kernels import ops

STARTS = ([-3, 15, 30], [0, 20, 41])
TILE, SIZE = (24, 32), (50, 70)
DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.uint8,
    torch.uint16,
]


def assert_same_up_to_rounding(result: Tensor, expected: Tensor, computed: torch.dtype) -> None:
    """Equal up to the rounding of the computation and of the result: a fused multiply-add moves a
    value by one unit in the last place of either, an integer by one step."""
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert result.stride() == expected.stride()
    unit = torch.finfo(torch.float64 if computed == torch.float64 else torch.float32).eps
    if result.is_floating_point():
        largest = float(expected.double().abs().max())
        limit = 2 * max(torch.finfo(result.dtype).eps, unit) * largest
    else:
        limit = 1
    assert (result.double() - expected.double()).abs().max() <= limit


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_identity_is_bit_exact(level: str, dtype: torch.dtype, channels_last: bool) -> None:
    image = photo(3, *SIZE, dtype=dtype)
    source = interleaved(image) if channels_last else image
    tiles = ops.extract_tiles(source, TILE, STARTS, dtype=dtype)
    assert tiles.is_contiguous(memory_format=torch.channels_last)
    for stored in (tiles, tiles.contiguous()):
        result = ops.stitch_tiles(stored, STARTS, SIZE, margin=2, channels_last=channels_last)
        assert torch.equal(result.to(torch.float64), image.to(torch.float64))
        assert result.is_contiguous() != channels_last


@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_dtype_pairs(level: str, source: torch.dtype, target: torch.dtype) -> None:
    image = photo(3, 40, 50, dtype=source)
    top = 1.0 if source.is_floating_point else float(torch.iinfo(source).max)
    scale = (1.0 if target.is_floating_point else torch.iinfo(target).max) / top
    starts = ([-3, 18], [-1, 24])
    for layout in (image, interleaved(image)):
        tiles = ops.extract_tiles(layout, (30, 28), starts, target, scale * 1.2, -0.1 * scale)
        with ops.use_backend("reference"):
            expected = ops.extract_tiles(image, (30, 28), starts, target, scale * 1.2, -0.1 * scale)
        assert_same_up_to_rounding(tiles, expected, source)
    stored = photo(4, 3, 30, 28, dtype=source)
    for values in (stored, stored.contiguous(memory_format=torch.channels_last)):
        for last in (False, True):
            options = (starts, (40, 50), 1, target, scale * 1.2, -0.1 * scale, last)
            result = ops.stitch_tiles(values, *options)
            with ops.use_backend("reference"):
                expected = ops.stitch_tiles(values, *options)
            assert_same_up_to_rounding(result, expected, source)


@pytest.mark.parametrize("channels", [1, 2, 3, 17, 0])
@pytest.mark.parametrize(
    ("starts", "tile", "size", "margin"),
    [
        (([0], [0]), (7, 9), (7, 9), 0),
        (([0], [0]), (1, 1), (1, 1), 3),
        (([-5], [-20]), (19, 61), (11, 1), 0),
        (([0, 5], [0, 7]), (5, 7), (10, 14), 0),
        (([0, 3], [0, 4]), (8, 9), (10, 13), 2),
        (([0, 4], [0, 5]), (8, 9), (10, 13), 2),
    ],
    ids=str,
)
def test_odd_shapes(
    level: str,
    starts: tuple[list[int], list[int]],
    tile: tuple[int, int],
    size: tuple[int, int],
    margin: int,
    channels: int,
) -> None:
    image = photo(channels, *size)
    tiles = ops.extract_tiles(image, tile, starts)
    with ops.use_backend("reference"):
        expected = ops.extract_tiles(image, tile, starts)
    assert torch.equal(tiles, expected)
    noisy = tiles + 0.1 * photo(*tiles.shape)
    result = ops.stitch_tiles(noisy, starts, size, margin)
    with ops.use_backend("reference"):
        expected = ops.stitch_tiles(noisy, starts, size, margin)
    if result.numel():
        assert_same_up_to_rounding(result, expected, result.dtype)
    assert torch.equal(ops.stitch_tiles(tiles, starts, size, margin), image)


def test_rows_longer_than_the_buffer_of_the_kernel(level: str) -> None:
    image, starts = photo(1, 60, 3200), ([0, 30], [0, 1500])
    tiles = ops.extract_tiles(image, (40, 1700), starts)
    assert torch.equal(ops.stitch_tiles(tiles, starts, (60, 3200), margin=4), image)
    noisy = tiles + 0.1 * photo(*tiles.shape)
    result = ops.stitch_tiles(noisy, starts, (60, 3200), margin=4)
    with ops.use_backend("reference"):
        expected = ops.stitch_tiles(noisy, starts, (60, 3200), margin=4)
    assert_same_up_to_rounding(result, expected, result.dtype)


@pytest.mark.parametrize("stored", [torch.channels_last, torch.contiguous_format], ids=str)
def test_results_too_large_for_the_caches(level: str, stored: torch.memory_format) -> None:
    image = photo(3, 1201, 1203)
    starts = ([-5, 700], [-3, 600])
    tiles = ops.extract_tiles(image, (720, 640), starts)
    assert tiles.numel() * 4 > 2**24
    assert image.numel() * 4 > 2**24
    stitched = ops.stitch_tiles(tiles.contiguous(memory_format=stored), starts, image.shape[1:])
    assert torch.equal(stitched, image)


def test_margin_keeps_the_borders_of_tiles_out(level: str) -> None:
    tiles = torch.zeros(4, 1, 24, 24)
    inner = (slice(None), slice(None))
    tiles[0][inner][:, 20:] = tiles[0][..., 20:] = float("nan")
    tiles[1][:, 20:] = tiles[1][..., :4] = float("nan")
    tiles[2][:, :4] = tiles[2][..., 20:] = float("nan")
    tiles[3][:, :4] = tiles[3][..., :4] = float("nan")
    starts = ([0, 12], [0, 14])
    assert ops.stitch_tiles(tiles, starts, (36, 38), margin=4).eq(0).all()
    assert ops.stitch_tiles(tiles, starts, (36, 38), margin=3).isnan().any()


def test_weights_are_a_raised_cosine(level: str) -> None:
    tiles = torch.stack((torch.zeros(1, 1, 12), torch.ones(1, 1, 12)))
    row = ops.stitch_tiles(tiles, ([0], [0, 6]), (1, 18), margin=1)[0, 0]
    k = torch.arange(4, dtype=torch.float64)
    weights = (0.5 - 0.5 * torch.cos(torch.pi * (k + 0.5) / 4)).float()
    expected = torch.cat((torch.zeros(7), weights, torch.ones(7)))
    assert torch.equal(row, expected)


def test_rounds_half_to_even_and_clamps(level: str) -> None:
    values = torch.tensor([-1.0, 0.5, 1.5, 2.5, 254.5, 255.4, 300.0, torch.inf, -torch.inf])
    stitched = ops.stitch_tiles(
        values.reshape(1, 1, 1, -1), ([0], [0]), (1, values.numel()), dtype=torch.uint8
    )
    assert stitched.flatten().tolist() == [0, 0, 2, 2, 254, 255, 255, 255, 0]


def test_gradcheck() -> None:
    image = photo(2, 9, 7, dtype=torch.float64).requires_grad_()
    starts = ([-2, 4], [-1, 3])
    assert torch.autograd.gradcheck(
        lambda values: ops.extract_tiles(values, (7, 6), starts, None, 3.0, -1.0), (image,)
    )
    tiles = photo(4, 2, 7, 6, dtype=torch.float64).requires_grad_()
    for margin in (0, 1):
        assert torch.autograd.gradcheck(
            lambda values, margin=margin: ops.stitch_tiles(
                values, ([-2, 3], [-1, 2]), (9, 7), margin, None, 3.0, -1.0
            ),
            (tiles,),
        )


@pytest.mark.parametrize(
    ("starts", "size", "margin", "message"),
    [
        (([0, 9], [0]), (16, 8), 0, "overlap by -1 pixels, expected at least twice the margin, 0"),
        (([0, 4], [0]), (12, 8), 3, "overlap by 4 pixels, expected at least twice the margin, 6"),
        (([1, 4], [0]), (12, 8), 0, r"along y span \[1, 12\), expected at least \[0, 12\)"),
        (([0, 4], [0]), (13, 8), 0, r"along y span \[0, 12\), expected at least \[0, 13\)"),
        (([0], [4, 0]), (8, 8), 0, "along x span"),
        (([0], [0, 0]), (8, 8), 0, "along x are .*, expected increasing"),
        (([0, 4, 8], [0]), (8, 8), 0, "tiles holds 2 tiles, expected 3"),
        (([0, 4], [0]), (0, 8), 0, r"size is \(0, 8\), expected a positive"),
        (([0, 4], [0]), (12, 8), -1, "margin is -1, expected at least 0"),
    ],
)
def test_stitch_errors(
    starts: tuple[list[int], list[int]], size: tuple[int, int], margin: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ops.stitch_tiles(torch.zeros(2, 3, 8, 8), starts, size, margin)


def test_three_tiles_over_a_pixel() -> None:
    with pytest.raises(ValueError, match="tiles 0 and 2 along x overlap, expected at most two"):
        ops.stitch_tiles(torch.zeros(3, 1, 8, 8), ([0], [0, 3, 6]), (8, 14))


def test_other_errors() -> None:
    image = torch.zeros(3, 8, 8)
    with pytest.raises(TypeError, match="dtype of image is int64, expected one of float32"):
        ops.extract_tiles(image.long(), (4, 4), ([0], [0]))
    with pytest.raises(TypeError, match="image is a list, expected a torch"):
        ops.extract_tiles([[0.0]], (4, 4), ([0], [0]))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dtype is int8, expected one of"):
        ops.extract_tiles(image, (4, 4), ([0], [0]), dtype=torch.int8)
    with pytest.raises(ValueError, match=r"image has shape \(8, 8\), expected \(C, H, W\)"):
        ops.extract_tiles(image[0], (4, 4), ([0], [0]))
    with pytest.raises(ValueError, match=r"tile is \(0, 4\), expected a positive"):
        ops.extract_tiles(image, (0, 4), ([0], [0]))
    with pytest.raises(ValueError, match="starts is empty along one axis"):
        ops.extract_tiles(image, (4, 4), ([], [0]))
