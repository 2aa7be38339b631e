"""What the estimated blur tells of a result: where and how the photo is blurred, and how far the
result is to be trusted.

Blurred again by the estimated kernels, a good result is the photo that came in. What is left of the
difference, and how much was changed at all, predict the error of the result.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff.blur_filter import CELL, PSF_RADIUS, BlurField, kernels_of, reblur

_FLOOR = 1e-3
_CHANGE_POWER, _RESIDUAL_POWER, _FACTOR = 0.27, 0.77, 3.1
"""Least squares in logarithms over the cells of 64 blurred crops of training photos, shipped tiny;
on held-out ones the rank correlation with the true error is 0.88 (residual alone 0.85)."""
_HALF = 5 / 255
_ROWS_AT_ONCE, _ROWS_AROUND = 16, 3
"""Cells: the windows of a row reach into its neighbours, and see the means one cell farther on."""


@dataclasses.dataclass(frozen=True)
class SelfCheck:
    """Maps with one value for each cell of 32 px of a photo, (h, w) float32 on the CPU.

    The kernels are taken for even straight paths, so that an out-of-focus disk of diameter d has a
    length and a width of 0.87 d.

    Attributes:
        length_px: extent of the estimated blur along its longest axis, in pixels.
        width_px: extent across it.
        angle_deg: direction of the longest axis in the picture, 0 .. 180: 0 is horizontal, 90
            vertical, 45 falls to the right. Arbitrary where length and width are alike.
        expected_error: root mean square of the result's error, in [0, 1] of the range of values.
        confidence: 1 where no error is expected, 0.5 where it is 5 levels of 255.
    """

    length_px: Tensor
    width_px: Tensor
    angle_deg: Tensor
    expected_error: Tensor
    confidence: Tensor


def check(photo: Tensor, result: Tensor, blur: BlurField) -> SelfCheck:
    """Compare a result, blurred again, with the photo that it was made of.

    Args:
        photo, result: (1, 3, H, W) in [0, 1], on the device of `blur`.
        blur: what the model estimated for the photo, a cell for each 32 px begun.
    """
    rows = blur.trust.shape[1]
    strips = []
    for first in range(0, rows, _ROWS_AT_ONCE):
        last = min(first + _ROWS_AT_ONCE, rows)
        seen = slice(max(0, first - _ROWS_AROUND), min(last + _ROWS_AROUND, rows))
        maps = _check_rows(photo, result, blur, seen)
        strips.append([values[first - seen.start : last - seen.start] for values in maps])
    return SelfCheck(*(torch.cat(values).float().cpu() for values in zip(*strips, strict=True)))


def _check_rows(photo: Tensor, result: Tensor, blur: BlurField, rows: slice) -> tuple[Tensor, ...]:
    """The maps of some rows of cells; those next to a cut know less than they should."""
    pixels = slice(rows.start * CELL, rows.stop * CELL)
    photo, result, blur = photo[..., pixels, :], result[..., pixels, :], blur.part(rows)
    height, width = (CELL * count for count in blur.trust.shape[1:])
    padding = (0, width - photo.shape[-1], 0, height - photo.shape[-2])
    photo, result = (F.pad(values, padding, mode="replicate") for values in (photo, result))
    residual = cell_rms(reblur(result, blur) - photo)
    change = cell_rms(result - photo)
    factors = (change + _FLOOR) ** _CHANGE_POWER * (residual + _FLOOR) ** _RESIDUAL_POWER
    error = (_FACTOR * factors - _FACTOR * _FLOOR ** (_CHANGE_POWER + _RESIDUAL_POWER)).clamp_min(0)
    return (*_axes(blur.log_psf[0]), error, _HALF / (_HALF + error))


def summary(check: SelfCheck) -> dict[str, Any]:
    """Numbers of the whole photo.

    Returns:
        Medians of the blur's length and width in pixels, the mean direction in degrees and how
        much the directions agree (0 to 1), the mean expected error in levels of 255, and the share
        of the photo where the confidence is above one half.
    """
    turn = torch.deg2rad(2 * check.angle_deg)
    extent = check.length_px - check.width_px
    x, y = float((extent * turn.cos()).sum()), float((extent * turn.sin()).sum())
    mean = torch.rad2deg(torch.atan2(torch.tensor(y), torch.tensor(x))) / 2 % 180
    return {
        "length_px": round(float(check.length_px.median()), 1),
        "width_px": round(float(check.width_px.median()), 1),
        "angle_deg": round(float(mean), 0),
        "agreement": round((x * x + y * y) ** 0.5 / max(float(extent.sum()), 1e-9), 2),
        "expected_error": round(255 * float(check.expected_error.mean()), 2),
        "confident_share": round(float((check.confidence > 0.5).float().mean()), 3),
    }


def cell_rms(values: Tensor) -> Tensor:
    """(1, 3, H, W) -> root mean squares of the cells (h, w)."""
    return F.avg_pool2d(values.square().mean(1, keepdim=True), CELL)[0, 0].sqrt()


def _axes(log_psf: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Length, width and angle (h, w) of kernels (h, w, 33 * 33) by their second moments."""
    kernels = kernels_of(log_psf)
    line = torch.arange(-PSF_RADIUS, PSF_RADIUS + 1, device=kernels.device, dtype=kernels.dtype)
    down, across = kernels.sum(-1), kernels.sum(-2)
    y, x = ((sums * line).sum(-1) for sums in (down, across))
    yy, xx = ((sums * line**2).sum(-1) for sums in (down, across))
    yx = (kernels * (line[:, None] * line)).sum((-2, -1)) - y * x
    yy, xx = yy - y * y, xx - x * x
    spread = torch.hypot(yy - xx, 2 * yx)
    length, width = ((6 * (yy + xx + sign * spread)).clamp_min(0).sqrt() for sign in (1, -1))
    angle = torch.rad2deg(torch.atan2(2 * yx, xx - yy) / 2)
    return length, width, torch.remainder(angle, 180)
