"""The lens, as kernels on the pixel grid and their transfer functions, on any device.

No kernel has negative values: exact fractional shifts, exp(-2 pi i f d), ring at hard edges; a real
camera does not, and a deblurrer would read the blur off the ringing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_SMALLEST_TAP = 1e-5
"""Of the largest: less is rounding of the Fourier transform, and zeros cost no time."""


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
    # An edge that falls over one pixel adds 5/12 of a square pixel to the second moment of a disk.
    size = (0.25 * diameter_px**2 - 5 / 12).clamp_min(0).sqrt()[..., None, None]
    outside = torch.hypot(y, x) - size
    if blades is not None and bool((blades > 0).any()):
        turned = torch.zeros_like(diameter_px) if turn is None else turn
        polygon = _polygon_distance(y, x, size, blades, turned)
        outside = torch.where(blades[..., None, None] > 0, polygon, outside)
    if cat_eye is not None:
        shift = cat_eye[..., None, None] * size[..., None, :, :]
        barrel = torch.hypot(y - shift[..., 0, :, :], x - shift[..., 1, :, :]) - size
        cut = (cat_eye != 0).any(-1)[..., None, None]
        outside = torch.where(cut, torch.maximum(outside, barrel), outside)
    kernel = (0.5 - outside).clamp(0, 1)
    normal: Tensor = kernel / kernel.sum((-2, -1), keepdim=True)
    return normal


def _polygon_distance(y: Tensor, x: Tensor, size: Tensor, blades: Tensor, turn: Tensor) -> Tensor:
    """Signed distance in pixels from the edges of regular polygons with the area of a disk."""
    count = blades.clamp_min(3)[..., None, None]
    step = 2 * math.pi / count
    apothem = size * (step.cos() + 1).div(2).sqrt() * (2 * math.pi / (count * step.sin())).sqrt()
    angle = torch.atan2(y, x) - turn[..., None, None]
    # Every direction is turned into the sector of the edge that it meets.
    folded = torch.remainder(angle + step / 2, step) - step / 2
    return torch.hypot(y, x) * folded.cos() - apothem


def diffraction_transfer(cutoff: Tensor, size: tuple[int, int]) -> Tensor:
    """Transfer function of a round aperture's diffraction (Goodman, Fourier Optics, section 6.4).

    Args:
        cutoff: (...) cycles per pixel beyond which nothing passes: pixel pitch / (lambda N);
            infinite for no diffraction.
        size: (H, W) of the spectrum's image.

    Returns:
        real (..., H, W // 2 + 1), 1 at frequency zero.
    """
    share = (_frequency(size, cutoff) / cutoff[..., None, None]).clamp(max=1)
    transfer: Tensor = 2 / math.pi * (share.acos() - share * (1 - share**2).sqrt())
    return transfer


def softness_transfer(sigma_px: Tensor, size: tuple[int, int]) -> Tensor:
    """Transfer function (..., H, W // 2 + 1) of Gaussians with `sigma_px` (...)."""
    frequency = _frequency(size, sigma_px)
    return torch.exp(-2 * (math.pi * sigma_px[..., None, None] * frequency) ** 2)


def _frequency(size: tuple[int, int], like: Tensor) -> Tensor:
    """Cycles per pixel (H, W // 2 + 1)."""
    fy = torch.fft.fftfreq(size[0], device=like.device, dtype=like.dtype)
    fx = torch.fft.rfftfreq(size[1], device=like.device, dtype=like.dtype)
    return torch.hypot(fy[:, None], fx)


def convolve_kernels(kernel: Tensor, other: Tensor, transfer: Tensor | None = None) -> Tensor:
    """Kernels one after the other, cut to their common size, without negative values, sum 1.

    Args:
        kernel, other: (..., 2 r + 1, 2 r + 1), the centre in the middle.
        transfer: (..., H, W // 2 + 1) of a further blur, for H = W = `transform_size(r)`.
    """
    side = kernel.shape[-1]
    size = transform_size(side // 2)
    spectrum = torch.fft.rfft2(kernel, s=(size, size)) * torch.fft.rfft2(other, s=(size, size))
    if transfer is not None:
        spectrum = spectrum * transfer
    full = torch.fft.irfft2(spectrum, s=(size, size))
    middle = slice(side // 2, side // 2 + side)
    result = full[..., middle, middle]
    smallest = _SMALLEST_TAP * result.amax((-2, -1), keepdim=True)
    result = torch.where(result > smallest, result, 0)
    normal: Tensor = result / result.sum((-2, -1), keepdim=True)
    return normal


def transform_size(radius: int) -> int:
    """Side of the transform in which two kernels of this radius do not wrap around."""
    return 4 * radius + 4
