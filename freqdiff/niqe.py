"""NIQE: how far the statistics of a photo's blocks are from those of pristine photos.

Mittal, Soundararajan, Bovik: Making a "completely blind" image quality analyzer, IEEE SPL 2013.
The pristine statistics come as a file, since published numbers depend on which ones were used.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff.errors import InputError

FEATURES = 36
_BLOCK = 96
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_LUMA = (65.481, 128.553, 24.966)
_GRID = torch.arange(0.2, 10.001, 0.001, dtype=torch.float64)
"""Shapes of generalised Gaussians that are looked through."""


@dataclasses.dataclass(frozen=True)
class Pristine:
    """Mean (36,) and covariance (36, 36) of the features of pristine photos, float64."""

    mean: Tensor
    covariance: Tensor

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Pristine:
        """Read an .npz file with `mu_pris_param` and `cov_pris_param`.

        Raises:
            InputError: no such file, or other content.
        """
        try:
            with np.load(Path(path), allow_pickle=False) as file:
                values = [np.asarray(file[name]) for name in ("mu_pris_param", "cov_pris_param")]
            mean, covariance = (torch.from_numpy(value.astype(np.float64)) for value in values)
            return cls(mean.reshape(FEATURES), covariance.reshape(FEATURES, FEATURES))
        except (OSError, KeyError, ValueError, RuntimeError, AttributeError) as error:
            raise InputError(
                f"{str(path)!r} is not a file of NIQE parameters: give an .npz file with "
                "mu_pris_param (36) and cov_pris_param (36 x 36)."
            ) from error


def niqe(image: Tensor, pristine: Pristine) -> float:
    """Natural image quality evaluator; lower is better, about 3 for a good photo.

    Computed on the rounded BT.601 studio luma, in whole blocks of 96 x 96 pixels from the upper
    left corner, at two scales.

    Args:
        image: (3, H, W) sRGB in [0, 1], at least 192 px on a side.
        pristine: what to compare with.

    Raises:
        InputError: another shape.
    """
    if image.ndim != 3 or image.shape[0] != 3 or min(image.shape[1:]) < 2 * _BLOCK:
        raise InputError(
            f"NIQE needs a photo (3, H, W) of at least {2 * _BLOCK} pixels on a side, "
            f"got {tuple(image.shape)}: give a larger one."
        )
    weights = image.new_tensor(_LUMA, dtype=torch.float64)
    luma = (torch.einsum("c,chw->hw", weights, image.double()) + 16).round()
    rows = features(luma)
    rows = rows[rows.isfinite().all(1)]
    if len(rows) < 2:
        raise InputError("NIQE needs a photo with texture; this one is flat.")
    gap = pristine.mean.to(rows) - rows.mean(0)
    spread = (pristine.covariance.to(rows) + rows.T.cov()) / 2
    return float((gap @ torch.linalg.pinv(spread, hermitian=True) @ gap).sqrt())


def features(luma: Tensor) -> Tensor:
    """Statistics of natural scenes of every block of 96 x 96 pixels.

    Args:
        luma: (H, W) float64 in [0, 255], at least one block; what is left of whole blocks at the
            right and the bottom is not looked at.

    Returns:
        (blocks, 36): 18 at each of two scales; not a number where a block is flat.
    """
    height, width = (side // _BLOCK * _BLOCK for side in luma.shape)
    plane = luma[:height, :width]
    scales = []
    for block in (_BLOCK, _BLOCK // 2):
        blocks = normalise_contrast(plane / 255).unfold(0, block, block).unfold(1, block, block)
        scales.append(_block_features(blocks.flatten(0, 1)))
        plane = F.interpolate(
            plane[None, None], scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False
        )[0, 0]
    return torch.cat(scales, 1)


def normalise_contrast(luma: Tensor) -> Tensor:
    """Mean-subtracted contrast-normalised values (Mittal et al. 2012, equation 1).

    Args:
        luma: (H, W) float64 in [0, 1]; in float32 the variance of a bright flat area cancels.

    Returns:
        (H, W): (luma - mean) / (deviation + 1/255), both in a Gaussian of 7 x 7 pixels.
    """
    offsets = torch.arange(-3, 4, dtype=luma.dtype, device=luma.device)
    taps = torch.exp(-(offsets**2) / (2 * (7 / 6) ** 2))
    taps = taps / taps.sum()
    both = F.pad(torch.stack((luma, luma.square())), (3,) * 4, mode="replicate")
    for axis in (1, 2):  # float64 convolutions of torch are many times slower
        length = luma.shape[axis - 1]
        filtered = torch.zeros_like(both.narrow(axis, 0, length))
        for number, tap in enumerate(taps.tolist()):
            filtered.add_(both.narrow(axis, number, length), alpha=tap)
        both = filtered
    mean, square = both.unbind()
    return (luma - mean) / ((square - mean.square()).abs().sqrt() + 1 / 255)


def _block_features(blocks: Tensor) -> Tensor:
    """(n, 18) of blocks (n, side, side): the values, and products with four neighbours."""
    alpha, left, right, _ = _asymmetric_gaussian(blocks)
    columns = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        alpha, left, right, mean = _asymmetric_gaussian(blocks * blocks.roll(shift, (1, 2)))
        columns += [alpha, mean, left, right]
    return torch.stack(columns, 1)


def _asymmetric_gaussian(values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shape, left and right scale and mean of asymmetric generalised Gaussians, by moments.

    Lasmar, Stitou, Berthoumieu: Multiscale skewed heavy tailed model for texture analysis, 2009.
    """
    flat = values.flatten(1)
    square = flat.square()
    left, right = (((square * side).sum(1) / side.sum(1)).sqrt() for side in (flat < 0, flat > 0))
    ratio = left / right
    moments = flat.abs().mean(1).square() / square.mean(1)
    wanted = moments * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square()
    grid = _GRID.to(flat)
    # Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)) grows with a.
    curve = (2 * (2 / grid).lgamma() - (1 / grid).lgamma() - (3 / grid).lgamma()).exp()
    above = torch.searchsorted(curve, wanted.nan_to_num()).clamp(1, len(grid) - 1)
    nearer = wanted - curve[above - 1] < curve[above] - wanted
    alpha = grid[above - nearer.long()]
    scale = ((1 / alpha).lgamma() - (3 / alpha).lgamma()).exp().sqrt()
    left, right = left * scale, right * scale
    mean = (right - left) * ((2 / alpha).lgamma() - (1 / alpha).lgamma()).exp()
    return alpha, left, right, mean
