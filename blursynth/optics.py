"""The lens, as kernels on the pixel grid, on any device.

No kernel has negative values: exact fractional shifts, exp(-2 pi i f d), ring at hard edges; a real
camera does not, and a deblurrer would read the blur off the ringing.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from freqdiff_kernels import ops

FAINTEST = 1e-4
"""Of a kernel's largest tap: fainter ones, such as far rings, cost time and are not seen."""

_SMALLEST_DRAWN = 2.0
"""Diameter in pixels of the smallest aperture that is drawn."""
_AIRY_POINTS, _GOLDEN = 1024, (5**0.5 - 1) / 2
"""Points in an eighth of an Airy disk, and the part of a turn that spreads them evenly."""


def aperture_kernel(
    diameter_px: Tensor,
    radius: int,
    *,
    blades: Tensor | None = None,
    turn: Tensor | None = None,
    cat_eye: Tensor | None = None,
) -> Tensor:
    """Image of a point out of focus: the aperture, as large as its circle of confusion.

    Args:
        diameter_px: (...) signed circle of confusion in pixels (thin lens, `Camera`); negative in
            front of the focus, where the image of the aperture stands upside down.
        radius: of the kernels in pixels.
        blades: (...) number of straight edges, 0 for a round aperture. A polygon has the area of
            the disk, because area is what the f-number counts.
        turn: (...) angle of the polygon in radians.
        cat_eye: (..., 2) shift (dy, dx) of the lens barrel's edge, in radii of the aperture, which
            cuts the aperture towards the corners of the frame; 0 is no cut.

    Returns:
        (..., 2 radius + 1, 2 radius + 1), each with sum 1.
    """
    line = torch.arange(-radius, radius + 1, device=diameter_px.device, dtype=diameter_px.dtype)
    sign = torch.where(diameter_px < 0, -1.0, 1.0)[..., None, None]
    y, x = sign * line[:, None], sign * line
    drawn = diameter_px.abs().clamp_min(_SMALLEST_DRAWN)
    # An edge that falls over one pixel adds 5/12 of a square pixel to the second moment of a disk.
    size = (0.25 * drawn**2 - 5 / 12).sqrt()[..., None, None]
    outside = torch.hypot(y, x) - size
    if blades is not None and bool((blades > 0).any()):
        turned = torch.zeros_like(diameter_px) if turn is None else turn
        polygon = polygon_distance(y, x, size, blades, turned)
        outside = torch.where(blades[..., None, None] > 0, polygon, outside)
    if cat_eye is not None:
        shift = cat_eye[..., None, None] * size[..., None, :, :]
        barrel = torch.hypot(y - shift[..., 0, :, :], x - shift[..., 1, :, :]) - size
        cut = (cat_eye != 0).any(-1)[..., None, None]
        outside = torch.where(cut, torch.maximum(outside, barrel), outside)
    kernel = (0.5 - outside).clamp(0, 1)
    kernel = kernel / kernel.sum((-2, -1), keepdim=True)
    # A smaller one spreads a part of the light like the smallest: its second moment is d^2 / 16.
    share = (diameter_px / drawn).square()[..., None, None]
    kernel = share * kernel
    kernel[..., radius, radius] += 1 - share[..., 0, 0]
    return kernel


def polygon_distance(y: Tensor, x: Tensor, size: Tensor, blades: Tensor, turn: Tensor) -> Tensor:
    """Signed distance in pixels from the edges of regular polygons with the area of a disk."""
    count = blades.clamp_min(3)[..., None, None]
    step = 2 * math.pi / count
    apothem = size * (step.cos() + 1).div(2).sqrt() * (2 * math.pi / (count * step.sin())).sqrt()
    angle = torch.atan2(y, x) - turn[..., None, None]
    # Every direction is turned into the sector of the edge that it meets.
    folded = torch.remainder(angle + step / 2, step) - step / 2
    return torch.hypot(y, x) * folded.cos() - apothem


def diffraction_kernel(cutoff: Tensor, radius: int) -> Tensor:
    """The Airy disk: diffraction by a round aperture.

    Its light within a distance r is 1 - J0(v)^2 - J1(v)^2, v = pi r cutoff (Born and Wolf,
    Principles of Optics, section 8.5.2). It is drawn as points of equal light, each shared among
    the pixels around it, so that a disk much smaller than a pixel leaves a photo as it is.

    Args:
        cutoff: (...) cycles per pixel beyond which nothing passes: pixel pitch / (lambda N);
            infinite for no diffraction.
        radius: of the kernels in pixels; the faint rings beyond are cut off.

    Returns:
        (..., 2 radius + 1, 2 radius + 1), each with sum 1.
    """
    v = torch.linspace(0, 200, 20_001, device=cutoff.device, dtype=torch.float64)
    light = 1 - torch.special.bessel_j0(v) ** 2 - torch.special.bessel_j1(v) ** 2
    per_pixel = math.pi * cutoff.double()[..., None]
    seen = light[(radius * per_pixel / v[1]).clamp(max=len(v) - 1).long()]
    number = torch.arange(_AIRY_POINTS, device=cutoff.device, dtype=torch.float64)
    place = torch.searchsorted(light, seen * (number + 0.5) / _AIRY_POINTS)
    distance = v[place.clamp(max=len(v) - 1)] / per_pixel
    # Points of a sunflower in an eighth of the turn, and their mirror images.
    angle = math.pi / 4 * torch.remainder(number * _GOLDEN, 1)
    short, long = distance * angle.sin(), distance * angle.cos()
    signs = itertools.product((-1, 1), (-1, 1), ((short, long), (long, short)))
    points = torch.cat([torch.stack((a * y, b * x), -1) for a, b, (y, x) in signs], -2)
    weights = points.new_full(points.shape[:-1], 1 / points.shape[-2])
    return ops.rasterize_paths(points, weights, radius).to(cutoff.dtype)


def softness_kernel(sigma_px: Tensor, radius: int) -> Tensor:
    """Gaussians with `sigma_px` (...), integrated over pixels, (..., 2 radius + 1, 2 radius + 1),
    each with sum 1."""
    edge = torch.arange(-radius, radius + 2, device=sigma_px.device, dtype=sigma_px.dtype) - 0.5
    width = sigma_px[..., None].clamp_min(1e-6)
    line = (edge / (2**0.5 * width)).erf().diff()
    line = torch.where(edge[:-1].abs() > 5 * width + 1, 0, line)
    kernel = line[..., :, None] * line[..., None, :]
    normal: Tensor = kernel / kernel.sum((-2, -1), keepdim=True)
    return normal


def convolve_kernels(kernel: Tensor, other: Tensor) -> Tensor:
    """Kernels (..., 2 r + 1, 2 r + 1) one after the other, cut to their size, each with sum 1.

    In space, tap by tap, because a Fourier transform leaves rounding noise in all taps, which
    would cost time later and depends on where the memory lies. It is fast where many taps of
    `other` are 0, such as those of a path.
    """
    side = kernel.shape[-1]
    padded = torch.nn.functional.pad(kernel, (side // 2,) * 4).reshape(-1, 1, *(2 * side - 1,) * 2)
    taps = other.expand_as(kernel).reshape(-1, 1, 1, side, side)
    result = ops.filter_grid(padded, taps).view(kernel.shape)
    result = torch.where(result > FAINTEST * result.amax((-2, -1), keepdim=True), result, 0)
    return result / result.sum((-2, -1), keepdim=True)
