"""extract_tiles and stitch_tiles in Triton: every program writes a piece of one row, in order."""

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from freqdiff_kernels import reference
from freqdiff_kernels.triton_launch import (
    OPTIONS,
    cast,
    compute_dtype,
    device_of,
    fold,
    runs_on,
)

BLOCK = 1024
"""Most values of a row per program: 8 per thread of 4 warps, so that 16-bit results leave in
16-byte stores. Chosen for rows of 512 RGB pixels and more, not timed."""
GROUP = 16
"""Most planes per program of `stitch_tiles`; they share the indices and weights."""


@triton.jit
def _finish(values, scale, shift, AFFINE: tl.constexpr, TOP: tl.constexpr, DTYPE: tl.constexpr):
    """`reference.finish`. TOP is the largest value of an integer DTYPE, 0 for a floating one."""
    if AFFINE:
        scale = tl.full((1,), scale, values.dtype)
        shift = tl.full((1,), shift, values.dtype)
        values = values * scale + shift
    if TOP == 0:
        return cast(values, DTYPE)
    values = tl.minimum(tl.maximum(values, 0.0), TOP)
    # Adding and taking away 1.5 * 2^(mantissa bits) rounds half to even.
    magic = tl.full((1,), 1.5, values.dtype) * (2**52 if values.dtype == tl.float64 else 2**23)
    return ((values + magic) - magic).to(tl.int32).to(DTYPE)


@triton.jit
def _extract_kernel(
    image,
    starts_y,
    starts_x,
    out,
    height,
    width,
    stride_c,
    stride_y,
    stride_x,
    columns,
    tile_height,
    row_length,
    blocks,
    scale: tl.float64,
    shift: tl.float64,
    CHANNELS: tl.constexpr,
    AFFINE: tl.constexpr,
    TOP: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    row = program // blocks
    tile = row // tile_height
    element = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = element < row_length
    y = fold(tl.load(starts_y + tile // columns) + row % tile_height, height)
    first = tl.load(starts_x + tile % columns)
    x = first + element // CHANNELS
    # Most tiles lie inside the image, and dividing each index takes longer than the rest.
    if (first < 0) | (first + row_length // CHANNELS > width):
        x = fold(x, width)
    source = y.to(tl.int64) * stride_y + x.to(tl.int64) * stride_x
    source += (element % CHANNELS).to(tl.int64) * stride_c
    values = tl.load(image + source, mask=mask, other=0).to(COMPUTE)
    target = row.to(tl.int64) * row_length + element
    result = _finish(values, scale, shift, AFFINE, TOP, out.dtype.element_ty)
    tl.store(out + target, result, mask=mask)


@lru_cache(maxsize=32)
def _starts(starts: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(starts, dtype=torch.int32).to(device)


def _top(dtype: torch.dtype) -> int:
    return 0 if dtype.is_floating_point else torch.iinfo(dtype).max


def extract_tiles(
    image: Tensor,
    tile: Sequence[int],
    ys: Sequence[int],
    xs: Sequence[int],
    dtype: torch.dtype,
    scale: float,
    shift: float,
) -> Tensor:
    """See `reference.extract_tiles`."""
    if not runs_on(image):
        return reference.extract_tiles(image, tile, ys, xs, dtype, scale, shift)
    channels, height, width = image.shape
    out = torch.empty(
        (len(ys) * len(xs), channels, *tile),
        dtype=dtype,
        device=image.device,
        memory_format=torch.channels_last,
    )
    if out.numel() == 0:
        return out
    row_length = tile[1] * channels
    block = min(BLOCK, triton.next_power_of_2(row_length))
    blocks = triton.cdiv(row_length, block)
    with device_of(image):
        _extract_kernel[(len(ys) * len(xs) * tile[0] * blocks,)](
            image,
            _starts(tuple(ys), image.device),
            _starts(tuple(xs), image.device),
            out,
            height,
            width,
            *image.stride(),
            len(xs),
            tile[0],
            row_length,
            blocks,
            scale,
            shift,
            CHANNELS=channels,
            AFFINE=scale != 1.0 or shift != 0.0,
            TOP=_top(dtype),
            COMPUTE=compute_dtype(image.dtype),
            BLOCK=block,
            **OPTIONS,
        )
    return out


@triton.jit
def _blend_x(row, left, right, weight, mask, banded, COMPUTE: tl.constexpr):
    """One row of a strip of tiles: at most two values per column, blended."""
    first = tl.load(row + left, mask=mask, other=0).to(COMPUTE)
    if banded:
        two = mask & (weight != 0)
        second = tl.load(row + right, mask=two, other=0).to(COMPUTE)
        first = tl.where(two, first + weight * (second - first), first)
    return first


@triton.jit
def _stitch_kernel(
    tiles,
    first_y,
    second_y,
    weight_y,
    first_x,
    second_x,
    weight_x,
    out,
    width,
    height,
    stride_c,
    groups,
    blocks,
    scale: tl.float64,
    shift: tl.float64,
    INTERLEAVED: tl.constexpr,
    CHANNELS: tl.constexpr,
    PLANES: tl.constexpr,
    AFFINE: tl.constexpr,
    TOP: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    group = (program // blocks) % groups
    y = program // blocks // groups
    element = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    if INTERLEAVED:
        channel, x = element % CHANNELS, element // CHANNELS
    else:
        channel, x = tl.zeros((BLOCK,), tl.int32), element
    inside = x < width

    # Where columns and rows lie: in one tile or, where the weight is not 0, in two.
    left = tl.load(first_x + x, mask=inside, other=0)
    right = tl.load(second_x + x, mask=inside, other=0)
    weight = tl.load(weight_x + x, mask=inside, other=0)
    banded = tl.max(weight, 0) > 0
    weight = weight.to(COMPUTE)
    upper = tiles + tl.load(first_y + y)
    lower = tiles + tl.load(second_y + y)
    weight_down = tl.load(weight_y + y)
    down = weight_down.to(COMPUTE)

    for plane in tl.static_range(PLANES):
        number = channel + group * PLANES + plane
        mask = inside & (number < CHANNELS)
        shift_c = number.to(tl.int64) * stride_c
        values = _blend_x(upper, left + shift_c, right + shift_c, weight, mask, banded, COMPUTE)
        if weight_down != 0:
            below = _blend_x(lower, left + shift_c, right + shift_c, weight, mask, banded, COMPUTE)
            values = values + down * (below - values)
        result = _finish(values, scale, shift, AFFINE, TOP, out.dtype.element_ty)
        if INTERLEAVED:
            target = y.to(tl.int64) * width * CHANNELS + element
        else:
            target = (number.to(tl.int64) * height + y) * width + x
        tl.store(out + target, result, mask=mask)


@lru_cache(maxsize=32)
def _plan(
    starts: tuple[int, ...],
    tile: int,
    size: int,
    margin: int,
    strides: tuple[int, int],
    device: torch.device,
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.blend_plan` on the device, with the places in memory instead of the indices.

    Args:
        starts, tile, size, margin: of one axis.
        strides: from tile to tile and from pixel to pixel along the axis.
        device: of the tiles.
    """
    *indices, weight = reference.blend_plan(starts, tile, size, margin, torch.device("cpu"))
    first, second = (index // tile * strides[0] + index % tile * strides[1] for index in indices)
    return first.to(device), second.to(device), weight.to(device)


def stitch_tiles(
    tiles: Tensor,
    ys: Sequence[int],
    xs: Sequence[int],
    size: Sequence[int],
    margin: int,
    dtype: torch.dtype,
    scale: float,
    shift: float,
    channels_last: bool,
) -> Tensor:
    """See `reference.stitch_tiles`."""
    if not runs_on(tiles):
        return reference.stitch_tiles(
            tiles, ys, xs, size, margin, dtype, scale, shift, channels_last
        )
    channels, tile_height, tile_width = tiles.shape[1:]
    height, width = size
    if channels_last:
        out = tiles.new_empty((height, width, channels), dtype=dtype).permute(2, 0, 1)
    else:
        out = tiles.new_empty((channels, height, width), dtype=dtype)
    if out.numel() == 0:
        return out
    row_length = width * channels if channels_last else width
    block = min(BLOCK, triton.next_power_of_2(row_length))
    blocks = triton.cdiv(row_length, block)
    planes = 1 if channels_last else min(GROUP, channels)
    groups = 1 if channels_last else triton.cdiv(channels, planes)
    stride_n, stride_c, stride_y, stride_x = tiles.stride()
    down, across = (stride_n * len(xs), stride_y), (stride_n, stride_x)
    with device_of(tiles):
        _stitch_kernel[(height * groups * blocks,)](
            tiles,
            *_plan(tuple(ys), tile_height, height, margin, down, tiles.device),
            *_plan(tuple(xs), tile_width, width, margin, across, tiles.device),
            out,
            width,
            height,
            stride_c,
            groups,
            blocks,
            scale,
            shift,
            INTERLEAVED=channels_last,
            CHANNELS=channels,
            PLANES=planes,
            AFFINE=scale != 1.0 or shift != 0.0,
            TOP=_top(dtype),
            COMPUTE=compute_dtype(tiles.dtype),
            BLOCK=block,
            **OPTIONS,
        )
    return out
