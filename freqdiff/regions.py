"""Frames that are too large for the memory: regions that are sampled one after the other.

A region sees so far beyond its own pixels that these come out as in the whole frame.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from freqdiff import memory, spectral
from freqdiff.anchor import GROUP_PIXELS, estimate_radius
from freqdiff.blur_filter import CELL, WINDOW, BlurField
from freqdiff.errors import InputError
from freqdiff.model import PITCH, ModelConfig
from freqdiff.sampler import FrameSampler, Place, Progress, Request, Sample

BYTES_PER_PIXEL = {"result": 18, "turned": 24, "written": 30, "region": 140}
"""With `tiny` on a CPU (measured, 1 to 24 megapixels): what the result of a photo takes, what
versions of it that are turned take on top, the result while it is written, and a region while it is
sampled."""


class Region(NamedTuple):
    """Rows and columns of the pixels that a region sees, and of those that it gives."""

    seen: tuple[slice, slice]
    given: tuple[slice, slice]


def reach(config: ModelConfig, steps: int) -> int:
    """Pixels around a region's own that it has to see, a multiple of the grid of regions."""
    radius = 2 * PITCH << (len(config.channels) - 1)  # the windows of the spectra
    if config.anchor == "wiener":
        radius = max(radius, estimate_radius(config.blur_blocks) + WINDOW)
    grid = _grid(config)
    return -(-(radius + steps * config.receptive_radius) // grid) * grid


def plan_regions(
    size: tuple[int, int], pixels: float, config: ModelConfig, steps: int
) -> list[Region]:
    """Regions of at most about `pixels` each; one, the whole frame, if that has no more.

    Args:
        size: (height, width) of the frame.
        pixels: that a region may see.
        config: of the model.
        steps: sampling steps, each of which lets a pixel see farther.

    Raises:
        InputError: even the smallest regions see more.
    """
    height, width = size
    if height * width <= pixels:
        whole = (slice(0, height), slice(0, width))
        return [Region(whole, whole)]
    grid, around = _grid(config), reach(config, steps)
    choices = []
    for rows in range(grid, height + grid, grid):
        seen = min(height, rows + 2 * around)
        room = int(pixels / seen)
        columns = width if room >= width else (room - 2 * around) // grid * grid
        if columns > 0:
            count = math.ceil(height / rows) * math.ceil(width / columns)
            choices.append((count * seen * min(width, columns + 2 * around), rows, columns))
    if not choices:
        least = min(height, grid + 2 * around) * min(width, grid + 2 * around)
        raise InputError(
            f"There is memory for {pixels / 1e6:.1f} megapixels at once, and in {steps} steps this "
            f"model needs {least / 1e6:.1f}: allow more, or take fewer steps."
        )
    _, rows, columns = min(choices)  # what is computed in all decides
    axes = (_cut(height, rows, around), _cut(width, columns, around))
    return [Region((y[0], x[0]), (y[1], x[1])) for y, x in itertools.product(*axes)]


def sample_regions(
    sampler: FrameSampler,
    image: Tensor,
    regions: list[Region],
    request: Request,
    progress: Progress,
) -> Sample:
    """Sample a frame by its regions; `image` is (1, 3, H, W), `regions` those of `plan_regions`."""
    if len(regions) == 1:
        return sampler(image, request, progress)
    alignment = sampler.denoiser.config.alignment
    rows, columns = (-(-n // alignment) * alignment for n in image.shape[-2:])
    spectrum = spectral.frame_features(image, (rows, columns))
    result, blurs, tiles = torch.empty_like(image), [], 0
    with memory.giving_back():
        for index, region in enumerate(regions):

            def report(part: int, parts: int, index: int = index) -> None:
                progress(index * parts + part, len(regions) * parts)

            (y, x), (rows_given, columns_given) = region.seen, region.given
            place = Place((y.start, x.start), spectrum)
            sample = sampler(image[..., y, x], request, report, place)
            own = (_within(rows_given, y), _within(columns_given, x))
            result[..., rows_given, columns_given] = sample.image[..., own[0], own[1]]
            tiles += sample.tiles
            if sample.blur is not None:
                blurs.append(
                    sample.blur.part(*(slice(s.start // CELL, -(-s.stop // CELL)) for s in own))
                )
            del sample
            memory.give_back()  # the next region may have another size
    across = sum(region.given[0].start == 0 for region in regions)
    blur = None
    if blurs:
        strips = [BlurField.joined(blurs[i : i + across], 2) for i in range(0, len(blurs), across)]
        blur = BlurField.joined(strips, 1)
    return Sample(result, blur, tiles)


def _within(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def region_pixels(frame: tuple[int, int], max_memory: int | None, *, turned: bool = False) -> float:
    """Pixels that a region may see on a CPU.

    Args:
        frame: (height, width) of the photo, which is in memory already.
        max_memory: bytes that this process is to aim at; None: a share of what is free.
        turned: it is sampled several times, turned.

    Raises:
        InputError: the photo itself takes more.
    """
    pixels = frame[0] * frame[1]
    kept = pixels * (BYTES_PER_PIXEL["result"] + turned * BYTES_PER_PIXEL["turned"])
    if max_memory is None:
        available = memory.available()
        if available is None:
            return math.inf
        return max(0.0, available - kept) / BYTES_PER_PIXEL["region"]
    used = memory.used_memory()
    least = used + max(kept, pixels * BYTES_PER_PIXEL["written"])
    if max_memory <= least:
        raise InputError(
            f"max_memory is {max_memory / 1e9:.1f} GB, but a photo of {frame[1]}x{frame[0]} takes "
            f"{least / 1e9:.1f} GB with its result alone: allow more."
        )
    return (max_memory - used - kept) / BYTES_PER_PIXEL["region"]


def _grid(config: ModelConfig) -> int:
    """Regions begin at multiples of it, so that all windows and groups lie as in the frame."""
    return math.lcm(config.alignment, GROUP_PIXELS if config.anchor == "wiener" else 1)


def _cut(length: int, own: int, around: int) -> list[tuple[slice, slice]]:
    """Seen and given parts along one axis."""
    starts = range(0, length, own)
    return [
        (
            slice(max(0, start - around), min(length, start + own + around)),
            slice(start, min(length, start + own)),
        )
        for start in starts
    ]
