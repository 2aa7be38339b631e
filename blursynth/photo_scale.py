"""Photos of different cameras at one scale: as large as a screen shows them."""

from __future__ import annotations

import os

import torch.nn.functional as F
from torch import Tensor

from freqdiff.images import open_image


def read_at_scale(path: str | os.PathLike[str], long_side: int) -> Tensor:
    """A photo whose longer side has at most `long_side` pixels: (3, H, W) sRGB, on 256 levels.

    Larger ones are shrunk by a bicubic filter without aliases, smaller ones stay as they are.

    Raises:
        PhotoError: the file cannot be read.
    """
    rgb = open_image(path).rgb
    height, width = rgb.shape[2:]
    if (longest := max(height, width)) > long_side:
        size = [max(1, round(side * long_side / longest)) for side in (height, width)]
        rgb = F.interpolate(rgb, size, mode="bicubic", antialias=True)
    return (rgb[0].clamp(0, 1) * 255).round() / 255
