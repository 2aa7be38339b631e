"""A picture of how points are blurred all over a frame."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from blursynth import psf
from blursynth.physics import LONGEST_REACH
from blursynth.scene import Scene

ACROSS = 9
"""Kernels along the long side of the frame."""
CELL, GAP, CAPTION = 120, 4, 20
"""Room for a kernel, between kernels, and for the text below them, in pixels."""

_FAINTEST = 0.03
_LARGEST_SCALE = 16


def draw_kernels(
    scene: Scene, size: tuple[int, int], confusion: Tensor | None = None
) -> Image.Image:
    """Draw the background's kernels at points that are evenly spread over the frame.

    All are enlarged alike, by a whole number where they are small enough; their brightness is the
    square root of the light.

    Args:
        scene: one exposure (a batch of one).
        size: height and width of the frame in pixels.
        confusion: (H, W) circle of confusion of each pixel instead of `scene.defocus_px`.

    Returns:
        An 8-bit grey picture of `picture_size(size)`.
    """
    rows, columns = _grid(size)
    kernels = _kernels(scene, _points(size), confusion)
    side = kernels.shape[-1]
    scale = min(CELL // side, _LARGEST_SCALE)
    sheet = Image.new("L", picture_size(size), 32)
    shades = (kernels / kernels.amax((1, 2), keepdim=True)).sqrt()
    for index, shade in enumerate((255 * shades).round().byte().numpy()):
        row, column = divmod(index, columns)
        kernel = Image.fromarray(np.ascontiguousarray(shade))
        if scale:
            kernel = kernel.resize((side * scale,) * 2, Image.Resampling.NEAREST)
        else:
            kernel = kernel.resize((CELL, CELL), Image.Resampling.BOX)
        cell = Image.new("L", (CELL, CELL))
        cell.paste(kernel, ((CELL - kernel.width) // 2,) * 2)
        sheet.paste(cell, (GAP + column * (CELL + GAP), GAP + row * (CELL + GAP)))
    text = (
        f"{rows * columns} points of {size[1]} x {size[0]} px; "
        f"each square shows {CELL / scale if scale else side:.0f} px"
    )
    ImageDraw.Draw(sheet).text((GAP, GAP + rows * (CELL + GAP)), text, fill=220, font_size=13)
    return sheet


def picture_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the picture for a frame of (height, width)."""
    rows, columns = _grid(size)
    return GAP + columns * (CELL + GAP), GAP + rows * (CELL + GAP) + CAPTION


def _grid(size: tuple[int, int]) -> tuple[int, int]:
    rows, columns = (max(1, round(ACROSS * side / max(size))) for side in size)
    return rows, columns


def _points(size: tuple[int, int]) -> Tensor:
    """Middles (K, 2) of the cells, (y, x) in the frame."""
    lines = [
        (torch.arange(count) + 0.5) * side / count
        for count, side in zip(_grid(size), size, strict=True)
    ]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, 1)


def _kernels(scene: Scene, points: Tensor, confusion: Tensor | None) -> Tensor:
    """Kernels (K, side, side), cut to what the faintest light of any of them reaches."""
    diameters = [scene.defocus_px[:, :1]]
    groups = [points]
    if confusion is not None:
        y, x = points.long().unbind(1)
        diameters, groups = list(confusion[y, x].view(-1, 1, 1)), list(points[:, None])
    most = torch.stack(diameters).abs().amax().expand(1, 2)
    reach = min(psf.reach_px(dataclasses.replace(scene, defocus_px=most)), LONGEST_REACH)
    kernels = torch.cat(
        [
            psf.kernels_at(
                dataclasses.replace(scene, defocus_px=diameter.expand(1, 2)), group[None], reach
            )[0]
            for diameter, group in zip(diameters, groups, strict=True)
        ]
    )
    bright = (kernels > _FAINTEST * kernels.amax((1, 2), keepdim=True)).any(0)
    distance = (torch.arange(2 * reach + 1) - reach).abs()
    radius = int(torch.where(bright, torch.maximum(distance[:, None], distance), 0).max())
    radius = min(reach, math.ceil(1.1 * radius) + 1)
    inner = slice(reach - radius, reach + radius + 1)
    return kernels[:, inner, inner]
