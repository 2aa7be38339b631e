"""Gaussian smoothing of planes, whose gradient torch gives."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def smooth(
    planes: Tensor, sigma: float, radius: int, outside: Literal["reflect", "constant"] = "reflect"
) -> Tensor:
    """Planes under a Gaussian, which is cut and has the sum 1.

    Args:
        planes: (N, 1, H, W).
        sigma: of the Gaussian, in pixels.
        radius: where it ends, in pixels.
        outside: what lies around the planes: their mirror image, or 0.

    Returns:
        (N, 1, H, W).
    """
    taps = torch.arange(-radius, radius + 1, dtype=planes.dtype, device=planes.device)
    taps = (-taps.square() / (2 * sigma**2)).exp()
    taps = (taps / taps.sum())[None, None]
    padded = F.pad(planes, (radius,) * 4, mode=outside)
    return F.conv2d(F.conv2d(padded, taps[:, :, None]), taps[..., None])
