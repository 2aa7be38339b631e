"""A picture of a self-check: how the photo is blurred, and where its result is to be trusted."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from freqdiff.blur_filter import CELL
from freqdiff.self_check import SelfCheck

LONG_SIDE = 960
"""Of each of the two panels, in pixels."""
GAP = 8
_LINES = 24
_LOW, _HIGH = (215, 48, 39), (26, 152, 80)
"""Colours of confidence 0 and 1."""


def draw_check(photo: Tensor, check: SelfCheck) -> Image.Image:
    """Two panels: lines along the blur, as long as it is in the picture and never shorter than
    their points; and the photo in grey, coloured from red (not to be trusted) to green.

    Args:
        photo: (3, H, W) in [0, 1].
        check: of that photo.
    """
    height, width = photo.shape[1:]
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = (photo * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    small = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BOX)
    sheet = Image.new("RGB", (2 * size[0] + GAP, size[1]), (255, 255, 255))
    sheet.paste(_lines(small, check, scale), (0, 0))
    sheet.paste(_confidence(small, check, scale), (size[0] + GAP, 0))
    return sheet


def _lines(picture: Image.Image, check: SelfCheck, scale: float) -> Image.Image:
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    cells = max(1, round(max(check.length_px.shape) / _LINES))
    # Directions are averaged with doubled angles, for which 0 and 180 degrees are one.
    turn = torch.deg2rad(2 * check.angle_deg)
    extent = check.length_px - check.width_px
    x, y, length, width = (
        F.avg_pool2d(plane[None], cells, ceil_mode=True)[0]
        for plane in (
            extent * turn.cos(),
            extent * turn.sin(),
            check.length_px,
            check.width_px,
        )
    )
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            angle = math.atan2(float(y[row, column]), float(x[row, column])) / 2
            at = [(index + 0.5) * cells * CELL * scale for index in (column, row)]
            half = float(length[row, column]) * scale / 2
            dx, dy = half * math.cos(angle), half * math.sin(angle)
            ends = [(at[0] - dx, at[1] - dy), (at[0] + dx, at[1] + dy)]
            thick = max(1, round(float(width[row, column]) * scale))
            draw.line(ends, fill=(0, 0, 0), width=thick + 2)
            draw.line(ends, fill=(255, 221, 0), width=thick)
    return picture


def _confidence(picture: Image.Image, check: SelfCheck, scale: float) -> Image.Image:
    size = [max(1, round(count * CELL * scale)) for count in check.confidence.shape]
    share = F.interpolate(check.confidence[None, None], size=size, mode="bilinear")
    missing = (picture.width - size[1], picture.height - size[0])  # negative: cut
    share = F.pad(share, (0, missing[0], 0, missing[1]), mode="replicate")[0, 0, ..., None]
    colour = share * torch.tensor(_HIGH) + (1 - share) * torch.tensor(_LOW)
    grey = torch.from_numpy(np.array(picture.convert("L"), np.float32))[..., None]
    return Image.fromarray((0.45 * colour + 0.55 * grey).round().byte().numpy())
