"""Tone curves: that of sRGB, and whether a colour profile has none."""

from __future__ import annotations

import functools
import io
import math

import torch
from PIL import Image, ImageCms
from torch import Tensor

_GREY = 128
_MOST_LINEAR = 1.2
"""Exponents below it are linear light; encodings for people begin at 1.8 (ProPhoto RGB)."""


def srgb_to_linear(x: Tensor) -> Tensor:
    """Exact sRGB decoding (IEC 61966-2-1), values in [0, 1]."""
    curved = x.clamp_min(0.04045).add_(0.055).div_(1.055).pow_(2.4)
    return torch.where(x <= 0.04045, x / 12.92, curved)


def linear_to_srgb(x: Tensor) -> Tensor:
    """Exact sRGB encoding (IEC 61966-2-1), values in [0, 1]."""
    curved = x.clamp_min(0.0031308).pow_(1 / 2.4).mul_(1.055).sub_(0.055)
    return torch.where(x <= 0.0031308, x * 12.92, curved)


@functools.lru_cache(maxsize=16)
def is_linear(icc: bytes | None) -> bool:
    """Whether samples with this colour profile are proportional to light.

    Asked of the lightness that the profile gives a grey, so that it does not matter how the profile
    says it. False without a profile, and for one that cannot be used.
    """
    mode = {b"RGB ": "RGB", b"GRAY": "L"}.get(icc[16:20]) if icc else None
    if icc is None or mode is None:
        return False
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("LAB"), mode, "LAB")
    except (ImageCms.PyCMSError, OSError):
        return False
    grey = Image.new(mode, (1, 1), _GREY if mode == "L" else (_GREY,) * 3)
    lab = ImageCms.applyTransform(grey, transform)
    assert lab is not None
    lightness = lab.tobytes()[0] * 100 / 255
    light = ((lightness + 16) / 116) ** 3
    return math.log(light) / math.log(_GREY / 255) < _MOST_LINEAR
