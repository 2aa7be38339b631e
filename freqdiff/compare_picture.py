"""Pictures of a photo beside its result: the whole of both, and a detail of both in full size."""

from __future__ import annotations

import io
import math

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

PANEL = 960
"""Longest side of each of the four pictures, in pixels."""
_CELL = 16
_GAP, _TITLE = 8, 26
_FRAME = (255, 160, 0)


def most_changed(before: Tensor, after: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """Where a window of a size changes most in the mean.

    Args:
        before, after: (3, H, W).
        size: (height, width) of the window in pixels, at most that of the pictures.

    Returns:
        (top, left) of the window, which lies inside.
    """
    change = (after - before).abs_().mean(0, keepdim=True)
    cells = F.avg_pool2d(change, _CELL, ceil_mode=True)
    window = [
        min(max(1, length // _CELL), count)
        for length, count in zip(size, cells.shape[1:], strict=True)
    ]
    means = F.avg_pool2d(cells, window, stride=1)[0]
    row, column = divmod(int(means.argmax()), means.shape[1])
    height, width = before.shape[1:]
    return min(row * _CELL, height - size[0]), min(column * _CELL, width - size[1])


def to_picture(image: Tensor) -> Image.Image:
    """An 8-bit picture of (3, H, W) in [0, 1]."""
    pixels = (image * 255).round_().clamp_(0, 255).byte().permute(1, 2, 0).contiguous()
    return Image.fromarray(pixels.numpy())


def to_fit(picture: Image.Image, longest: int) -> Image.Image:
    """A picture shrunk to a longest side; smaller ones stay as they are."""
    scale = longest / max(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def encode_small(image: Tensor, longest: int, icc: bytes | None) -> bytes:
    """A JPEG file of (3, H, W) in [0, 1], shrunk to a longest side, with a colour profile."""
    buffer = io.BytesIO()
    to_fit(to_picture(image), longest).save(buffer, "JPEG", quality=92, icc_profile=icc)
    return buffer.getvalue()


def draw_comparison(before: Tensor, after: Tensor) -> Image.Image:
    """Before and after side by side, and below them the place that changed most.

    The detail is shown pixel by pixel, or twice as large for a photo that fits a panel.

    Args:
        before, after: (3, H, W) in [0, 1].
    """
    height, width = before.shape[1:]
    # A detail as large as the panel above it, or half of a photo that is shown in full size there.
    zoom = 1 if max(height, width) > PANEL else 2
    shrink = max(height, width) / PANEL if zoom == 1 else zoom
    size = (max(1, math.ceil(height / shrink)), max(1, math.ceil(width / shrink)))
    top, left = most_changed(before, after, size)
    part = (slice(None), slice(top, top + size[0]), slice(left, left + size[1]))
    rows: list[list[tuple[str, Image.Image]]] = [[], []]
    for name, image in (("before", before), ("after", after)):
        whole = to_fit(to_picture(image), PANEL)
        scale = whole.width / width
        box = [round(value * scale) for value in (left, top, left + size[1], top + size[0])]
        ImageDraw.Draw(whole).rectangle(box, outline=_FRAME, width=2)
        detail = to_picture(image[part])
        detail = detail.resize(
            (zoom * detail.width, zoom * detail.height), Image.Resampling.NEAREST
        )
        rows[0].append((name, whole))
        rows[1].append((f"{name}, detail at {zoom}00%", detail))
    return _sheet(rows)


def _sheet(rows: list[list[tuple[str, Image.Image]]]) -> Image.Image:
    """Pictures with a title above each, in rows and columns."""
    widths = np.max([[picture.width for _, picture in row] for row in rows], 0).tolist()
    heights = [max(picture.height for _, picture in row) + _TITLE for row in rows]
    size = (sum(widths) + _GAP * (len(widths) - 1), sum(heights) + _GAP * (len(heights) - 1))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        y = sum(heights[:index]) + _GAP * index
        for column, (title, picture) in enumerate(row):
            x = sum(widths[:column]) + _GAP * column
            draw.text((x + 4, y + 4), title, fill="black", font_size=15)
            sheet.paste(picture, (x, y + _TITLE))
    return sheet
