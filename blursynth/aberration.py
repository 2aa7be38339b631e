"""Lenses that do not bring all rays to one point, as kernels on the pixel grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blursynth.optics import polygon_distance
from freqdiff_kernels import ops

_RAYS_PER_PIXEL, _MOST_RAYS = 4, 200_000


def aberrated_kernel(
    diameter_px: Tensor,
    radius: int,
    *,
    spherical_px: Tensor,
    coma_px: Tensor,
    blades: Tensor,
    turn: Tensor,
    cat_eye: Tensor,
) -> Tensor:
    """Image of a point: where the rays land that fill the aperture evenly.

    A ray that passes the aperture at p, in radii from its middle, lands at
    (c / 2 + s |p|^2 + 2 k p) p + |p|^2 k: third-order spherical aberration and coma (Born and Wolf,
    Principles of Optics, section 5.3). The one gathers light in a ring or in the middle, the other
    draws it to one side.

    Args:
        diameter_px: (...) signed circle of confusion c in pixels, as in `optics.aperture_kernel`.
        radius: of the kernels in pixels; what lies beyond is drawn in to it.
        spherical_px: (...) s.
        coma_px: (..., 2) k as (dy, dx).
        blades, turn, cat_eye: (...), (...), (..., 2) as in `optics.aperture_kernel`.

    Returns:
        (..., 2 radius + 1, 2 radius + 1), each with sum 1.
    """
    numbers = torch.stack((diameter_px, spherical_px, blades, turn), -1)
    lenses = torch.cat((numbers, coma_px, cat_eye), -1).view(-1, 8)
    kernels = [_spot_diagram(lens, radius) for lens in lenses]
    return torch.stack(kernels).view(*diameter_px.shape, *kernels[0].shape)


def _spot_diagram(lens: Tensor, radius: int) -> Tensor:
    (diameter, spherical, blades, turn), coma, cat_eye = lens[:4], lens[4:6], lens[6:]
    # The split between pixels adds 1/6 of a square pixel to the variance along each axis.
    focus = diameter.sign() * (diameter**2 / 4 - 2 / 3).clamp_min(0).sqrt()
    widest = 1.6 if blades > 0 else 1.0  # up to the corners of a triangle
    reach = 1 + widest * float(focus.abs() + spherical.abs() + 3 * coma.norm())
    count = min(math.ceil(_RAYS_PER_PIXEL * math.pi * reach**2), _MOST_RAYS)
    # A sunflower's seeds (Vogel 1979) are as even as a grid and have no rows that would show.
    number = torch.arange(count, device=lens.device, dtype=torch.float64) + 0.5
    distance, angle = widest * (number / count).sqrt(), number * (math.pi * (3 - 5**0.5))
    p = torch.stack((distance * angle.sin(), distance * angle.cos()), -1).to(lens)
    passes = torch.ones_like(p[:, 0])
    if blades > 0:
        edge = polygon_distance(p[:, :1], p[:, 1:], torch.ones_like(p[:1, :1]), blades, turn)
        passes *= edge[:, 0] <= 0
    if bool(cat_eye.any()):
        passes *= (p - cat_eye).norm(dim=-1) <= 1
    square = p.square().sum(-1, keepdim=True)
    landing = (focus + spherical * square + 2 * p @ coma[:, None]) * p + square * coma
    return ops.rasterize_paths(landing, passes / passes.sum(), radius)
