"""Device code of the tile operations, run by the CPU emulation, against the reference."""

import pytest
import torch
from emulated import DTYPE_CODES, Library, operation_library
from precision import interleaved, photo
from torch import Tensor

from freqdiff_kernels import reference

operations = torch.ops.freqdiff_emulated_tiles
DTYPES = list(DTYPE_CODES)
STARTS = ([-3, 15, 30], [0, 20, 41])
TILE, SIZE = (24, 32), (50, 70)
Starts = tuple[list[int], list[int]]


@pytest.fixture(scope="module")
def compiled() -> Library:
    return operation_library("tiles")


def extract(
    library: Library,
    image: Tensor,
    tile: tuple[int, int],
    starts: Starts,
    dtype: torch.dtype,
    scale: float = 1.0,
    shift: float = 0.0,
) -> Tensor:
    result: Tensor = operations.extract_tiles(image, tile, *starts, dtype, scale, shift)
    return result


def stitch(
    library: Library,
    tiles: Tensor,
    starts: Starts,
    size: tuple[int, int],
    margin: int,
    dtype: torch.dtype,
    scale: float = 1.0,
    shift: float = 0.0,
    last: bool = False,
) -> Tensor:
    result: Tensor = operations.stitch_tiles(
        tiles, *starts, size, margin, dtype, scale, shift, last
    )
    return result


def same_bits(result: Tensor, expected: Tensor) -> bool:
    return torch.equal(result.double(), expected.double())


def assert_as_precise(result: Tensor, expected: Tensor, exact: Tensor) -> None:
    """Kernel, reference, and the reference in float64 before the rounding of the result."""
    if result.is_floating_point():
        rounding = torch.finfo(result.dtype).eps / 2 * exact.norm()
        bound = 2 * (expected.double() - exact).norm() + rounding
        assert (result.double() - exact).norm() <= bound
    else:
        # Rounded to the nearest: half a step, and what float32 is off before that.
        clamped = exact.clamp(0, torch.iinfo(result.dtype).max)
        slack = 8 * torch.finfo(torch.float32).eps * torch.iinfo(result.dtype).max
        assert (result.double() - clamped).abs().max() <= 0.5 + slack


@pytest.mark.parametrize("last", [False, True], ids=["planes", "interleaved"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_identity_is_bit_exact(library: Library, dtype: torch.dtype, last: bool) -> None:
    image = photo(3, *SIZE, dtype=dtype)
    source = interleaved(image) if last else image
    tiles = extract(library, library.guarded(source) if not last else source, TILE, STARTS, dtype)
    assert same_bits(tiles, reference.extract_tiles(image, TILE, *STARTS, dtype, 1.0, 0.0))
    for stored in (tiles, library.guarded(tiles)):
        result = stitch(library, stored, STARTS, SIZE, 2, dtype, last=last)
        assert same_bits(result, image)


@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_dtype_pairs(compiled: Library, source: torch.dtype, target: torch.dtype) -> None:
    top = 1.0 if source.is_floating_point else float(torch.iinfo(source).max)
    scale = 1.2 * (1.0 if target.is_floating_point else torch.iinfo(target).max) / top
    shift = -0.08 * scale * top
    starts = ([-3, 18], [-1, 24])
    image = photo(3, 40, 50, dtype=source)
    expected = reference.extract_tiles(image, (30, 28), *starts, target, scale, shift)
    exact = reference.extract_tiles(image.double(), (30, 28), *starts, torch.float64, scale, shift)
    for layout in (image, interleaved(image)):
        tiles = extract(compiled, layout, (30, 28), starts, target, scale, shift)
        assert_as_precise(tiles, expected, exact)
    stored = photo(4, 3, 30, 28, dtype=source)
    options = (*starts, (40, 50), 1)
    expected = reference.stitch_tiles(stored, *options, target, scale, shift, False)
    exact = reference.stitch_tiles(stored.double(), *options, torch.float64, scale, shift, False)
    for values in (stored, stored.contiguous(memory_format=torch.channels_last)):
        for last in (False, True):
            result = stitch(compiled, values, starts, (40, 50), 1, target, scale, shift, last)
            assert_as_precise(result, expected, exact)


@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("source", [torch.float32, torch.bfloat16, torch.uint8], ids=str)
def test_several_columns_at_a_time(
    compiled: Library, source: torch.dtype, target: torch.dtype
) -> None:
    """Everything begins at multiples of four, but for one of the starts, a row or the pointer."""
    top = 1.0 if source.is_floating_point else float(torch.iinfo(source).max)
    scale = 1.2 * (1.0 if target.is_floating_point else torch.iinfo(target).max) / top
    for ys, xs, size, margin in (
        ([0, 7], [0, 12, 28], (19, 48), 0),
        ([-4, 0], [-4, 8], (8, 24), 4),
        ([0, 8], [0, 13, 28], (20, 48), 0),
    ):
        stored = photo(2 * len(xs), 3, 12, 20, dtype=source)
        shifted = torch.zeros(stored.numel() + 1, dtype=source)
        shifted[1:] = stored.flatten()
        options = ((ys, xs), size, margin)
        plain = (ys, xs, size, margin)
        expected = reference.stitch_tiles(stored, *plain, target, scale, -0.1, False)
        exact = reference.stitch_tiles(stored.double(), *plain, torch.float64, scale, -0.1, False)
        for values in (
            stored,
            shifted[1:].view(stored.shape),
            torch.nn.functional.pad(stored.double(), (0, 1)).to(source)[..., :-1],
        ):
            guarded = compiled.guarded(values) if values is stored else values
            result = stitch(compiled, guarded, *options, target, scale, -0.1)
            assert_as_precise(result, expected, exact)


def test_infinity_beside_a_blend_of_several_columns(compiled: Library) -> None:
    tiles = photo(6, 2, 12, 20)
    tiles[0, 0, 3, 11] = torch.inf
    tiles[4, 1, 5, 0] = torch.nan
    plain = ([0, 8], [0, 12, 28], (20, 48), 0, torch.float32)
    result = stitch(compiled, tiles, ([0, 8], [0, 12, 28]), (20, 48), 0, torch.float32)
    expected = reference.stitch_tiles(tiles, *plain, 1.0, 0.0, False)
    torch.testing.assert_close(result, expected, equal_nan=True)
    assert bool(result.isinf().any() | result.isnan().any())


def test_half_is_rounded_to_even(library: Library) -> None:
    image = torch.tensor([-1.0, 0.5, 1.5, 2.5, 254.5, 255.5, 1e9, torch.nan]).reshape(1, 1, 8)
    for size in (torch.uint8, torch.uint16):
        tiles = extract(library, image, (1, 8), ([0], [0]), size)
        top = torch.iinfo(size).max
        assert tiles.flatten().tolist() == [0, 0, 2, 2, 254, min(256, top), top, 0]


def test_infinity_and_nan_stay_where_they_are(library: Library) -> None:
    tiles = photo(9, 2, *TILE)
    tiles[4, 0, 12, 16] = torch.inf
    tiles[0, 1, 12, 5] = torch.nan
    result = stitch(library, tiles, STARTS, SIZE, 2, torch.float32)
    expected = reference.stitch_tiles(tiles, *STARTS, SIZE, 2, torch.float32, 1.0, 0.0, False)
    torch.testing.assert_close(result, expected, equal_nan=True)
    assert result.isinf().any()
    assert result.isnan().any()


@pytest.mark.parametrize("channels", [1, 4, 17], ids=lambda channels: f"channels{channels}")
def test_channels_and_strides(library: Library, channels: int) -> None:
    wide = photo(channels + 1, 60, 150)
    image = wide[1:, 5:55, 3:143:2]
    for last in (False, True):
        tiles = extract(library, image, TILE, STARTS, torch.float32)
        assert same_bits(tiles, reference.extract_tiles(image, TILE, *STARTS, *KEEP))
        parts = torch.empty(9, channels, 24, 64)[..., ::2].copy_(tiles)
        assert same_bits(stitch(library, parts, STARTS, SIZE, 0, torch.float32, last=last), image)


KEEP = (torch.float32, 1.0, 0.0)


def test_reflection_as_often_as_needed(library: Library) -> None:
    for shape in ((1, 3, 4), (2, 1, 5), (1, 2, 1)):
        image = photo(*shape)
        starts = ([-9, 0], [-20, 3])
        tiles = extract(library, image, (20, 30), starts, torch.float32)
        assert same_bits(tiles, reference.extract_tiles(image, (20, 30), *starts, *KEEP))


def test_more_tiles_than_one_launch_takes(compiled: Library) -> None:
    image = photo(1, 4, 900)
    starts = ([0], list(range(0, 894, 6)))
    tiles = extract(compiled, image, (4, 8), starts, torch.float32)
    assert same_bits(tiles, reference.extract_tiles(image, (4, 8), *starts, *KEEP))
    assert same_bits(stitch(compiled, tiles, starts, (4, 896), 0, torch.float32), image[..., :896])
    tall = tiles.transpose(2, 3)
    result = stitch(compiled, tall, (starts[1], [0]), (896, 4), 0, torch.float32)
    assert same_bits(result, image[..., :896].transpose(1, 2))


def test_large_tiles(compiled: Library) -> None:
    """Several blocks along each side."""
    image = photo(3, 100, 400)
    starts = ([0, 36], [0, 100])
    tiles = extract(compiled, image, (64, 300), starts, torch.bfloat16)
    expected = reference.extract_tiles(image, (64, 300), *starts, torch.bfloat16, 1.0, 0.0)
    assert same_bits(tiles, expected)
    for last in (False, True):
        result = stitch(compiled, tiles, starts, (100, 400), 4, torch.uint8, 255.0, last=last)
        assert same_bits(result, (image.bfloat16().float() * 255).round())
