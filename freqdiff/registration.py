"""Registration of a result to its truth by a homography, as the benchmarks of real blur do it.

The sharp photo of RealBlur and RSBlur comes from a second camera, so that a perfect result may
differ from it in brightness and geometry by a little. Their protocol (Rim et al. 2020, after
Koehler et al. 2012) scales the result to the truth, finds the homography of the highest enhanced
correlation coefficient (ECC; Evangelidis and Psarakis 2008), and compares where both are seen.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff import gaussian
from freqdiff.errors import InputError

ITERATIONS = 100
"""Most updates of the homography, as in the published protocol."""
SETTLED = 1e-7
"""The updates end when the coefficient changes by less."""
_LUMA = (0.299, 0.587, 0.114)
_SIGMA, _RADIUS = 1.1, 2


def match_intensity(image: Tensor, truth: Tensor) -> Tensor:
    """The image times the factor that brings it nearest to the truth in the mean square."""
    energy = image.double().square().sum()
    if energy == 0:
        return image
    return image * float((image.double() * truth.double()).sum() / energy)


def register(image: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Match an image in brightness and move it by a homography to where it fits the truth best.

    Args:
        image: (3, H, W) in [0, 1].
        truth: the same shape.

    Returns:
        The moved image (3, H, W) in float64, not clamped; the mask (1, H, W) of the pixels that it
        covers, 1 or 0; the homography (3, 3), which takes (x, y, 1) of the truth to the image.

    Raises:
        InputError: there is nothing to go by: one of them has a single colour, or the two have
            nothing in common.
    """
    matched = match_intensity(image.double(), truth.double())
    weights = matched.new_tensor(_LUMA)[:, None, None]
    grey, wanted = ((plane * weights).sum(0) for plane in (matched, truth.double()))
    homography = ecc(_smooth(grey), _smooth(wanted))
    where = _positions(homography, *grey.shape)
    moved = _sample(matched, where, "bicubic", "reflection")
    height, width = grey.shape
    x, y = where.round().unbind(-1)
    mask = ((x >= 0) & (x < width) & (y >= 0) & (y < height)).to(matched)
    return moved, mask[None], homography


def ecc(image: Tensor, truth: Tensor) -> Tensor:
    """The homography that maximises the enhanced correlation coefficient (forward additive).

    Args:
        image, truth: (H, W) float64, smoothed.

    Returns:
        (3, 3) float64; (x, y, 1) of the truth -> the image.

    Raises:
        InputError: there is nothing to go by.
    """
    height, width = truth.shape
    rows, columns = (torch.arange(n, dtype=torch.float64, device=image.device) for n in truth.shape)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    gradients = torch.stack((_slope(image, 1), _slope(image, 0)))
    planes = torch.cat((image[None], gradients))
    homography = torch.eye(3, dtype=torch.float64, device=image.device)
    last = -math.inf
    for _ in range(ITERATIONS):
        where = _positions(homography, height, width)
        seen = _sample(planes, where, "bilinear", "zeros")
        u, v = where.unbind(-1)
        inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
        scale = 1 / (homography[2, 0] * x + homography[2, 1] * y + 1)
        gx, gy = seen[1] * scale, seen[2] * scale
        turn = -(u * gx + v * gy)
        columns_of_jacobian = (gx * x, gy * x, turn * x, gx * y, gy * y, turn * y, gx, gy)
        jacobian = torch.stack([column[inside] for column in columns_of_jacobian], 1)
        warped, target = seen[0][inside], truth[inside]
        if len(warped) < 64:
            raise InputError(
                "The result cannot be registered to the sharp photo: nothing overlaps."
            )
        warped, target = warped - warped.mean(), target - target.mean()
        correlation = target @ warped
        norm = warped.norm() * target.norm()
        rho = float(correlation / norm) if norm > 0 else math.nan
        hessian = jacobian.T @ jacobian
        if not math.isfinite(rho) or torch.linalg.matrix_rank(hessian, hermitian=True) < 8:
            raise InputError(
                "The result cannot be registered to the sharp photo: one of them has too little "
                "structure, so leave this pair out."
            )
        if abs(rho - last) < SETTLED:
            break
        last = rho
        of_image, of_truth = jacobian.T @ warped, jacobian.T @ target
        projected = torch.linalg.solve(hessian, of_image)
        denominator = correlation - of_truth @ projected
        if denominator <= 0:
            raise InputError("The result cannot be registered to the sharp photo: they differ.")
        gain = (warped @ warped - of_image @ projected) / denominator
        step = torch.linalg.solve(hessian, jacobian.T @ (gain * target - warped))
        # The order of the columns above: a column of the homography after the other.
        change = torch.cat((step, step.new_zeros(1))).reshape(3, 3).T
        homography = homography + change
    return homography


def _smooth(plane: Tensor) -> Tensor:
    """Gaussian of 5 x 5 taps."""
    return gaussian.smooth(plane[None, None], _SIGMA, _RADIUS)[0, 0]


def _slope(plane: Tensor, axis: int) -> Tensor:
    """Half the difference of the neighbours along an axis."""
    size = plane.shape[axis]
    index = torch.arange(size, device=plane.device)
    after, before = (index + 1).clamp(max=size - 1), (index - 1).clamp(min=0)
    return (plane.index_select(axis, after) - plane.index_select(axis, before)) / 2


def _positions(homography: Tensor, height: int, width: int) -> Tensor:
    """Where the pixels of the truth lie in the image: (H, W, 2) as (x, y)."""
    device = homography.device
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64, device=device),
        torch.arange(width, dtype=torch.float64, device=device),
        indexing="ij",
    )
    points = torch.stack((x, y, torch.ones_like(x)), -1) @ homography.T
    return points[..., :2] / points[..., 2:]


def _sample(planes: Tensor, where: Tensor, mode: str, padding: str) -> Tensor:
    """Planes (C, H, W) at positions (H, W, 2) in pixels."""
    size = where.new_tensor([planes.shape[2], planes.shape[1]])
    grid = (2 * where + 1) / size - 1
    return F.grid_sample(
        planes[None], grid[None], mode=mode, padding_mode=padding, align_corners=False
    )[0]
