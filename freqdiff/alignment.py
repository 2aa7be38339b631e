"""Comparison up to a shift: a blur kernel has no origin, so neither has what undoes it.

Measured kernels are not centred, and the sharp photo beside a blurred one was taken at another
moment: a perfect result may lie some pixels beside the truth. Levin, Weiss, Durand, Freeman
(Understanding and evaluating blind deconvolution algorithms, 2009) compare at the best shift.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 5
"""Largest shift in pixels."""
BORDER = 15
"""Pixels along each edge that are not compared: what lies beyond the edge was not seen."""
_LUMA = (0.299, 0.587, 0.114)
_Shift = tuple[float, float]


def align(image: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, _Shift]:
    """Move an image to where it fits the truth best, in steps of a quarter of a pixel.

    Args:
        image: (3, H, W) in [0, 1].
        truth: the same shape; at least 2 `BORDER` + 1 pixels on each side.

    Returns:
        The moved image and the truth, both (3, H - 30, W - 30) without the border, and the shift
        (dy, dx) in pixels: what lies at p in the truth lies at p + shift in the image.
    """
    weights = image.new_tensor(_LUMA)[:, None, None]
    luma, wanted = ((plane * weights).sum(0, keepdim=True) for plane in (image, truth))
    wanted = _inner(wanted)

    def error(shift: _Shift) -> float:
        return float((_moved(luma, shift) - wanted).square().mean())

    whole = [float(shift) for shift in range(-REACH, REACH + 1)]
    best = min(itertools.product(whole, whole), key=error)
    for step in (0.5, 0.25):
        down, across = ([c + k * step for k in (-1, 0, 1)] for c in best)
        best = min(itertools.product(down, across), key=error)
    return _moved(image, best), _inner(truth), best


def _inner(image: Tensor) -> Tensor:
    return image[:, BORDER:-BORDER, BORDER:-BORDER]


def _moved(image: Tensor, shift: _Shift) -> Tensor:
    """The image without its border at p + shift, by cubic convolution."""
    size = [side - 2 * BORDER for side in image.shape[1:]]
    whole = [int(part // 1) for part in shift]
    if list(shift) == whole:
        top, left = BORDER + whole[0], BORDER + whole[1]
        return image[:, top : top + size[0], left : left + size[1]]
    lines = [
        (torch.arange(length, device=image.device) + BORDER + part + 0.5) * (2 / side) - 1
        for length, part, side in zip(size, shift, image.shape[1:], strict=True)
    ]
    y, x = torch.meshgrid(*lines, indexing="ij")
    grid = torch.stack((x, y), -1)[None].to(image.dtype)
    return F.grid_sample(image[None], grid, mode="bicubic", align_corners=False)[0]
