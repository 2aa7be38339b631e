"""Blur as optical transfer functions: exact for band-limited images, on any device.

A blur that shifts the image by d_1 .. d_N during the exposure has the transfer function
mean_n w_n exp(-2 pi i f . d_n); a defocus disk of diameter c has 2 J1(pi c |f|) / (pi c |f|).
Multiplying spectra avoids the extra softness of interpolated warps, which a deblurrer would
learn to remove. Blur that varies over the frame is interpolated between the four corners of each
block (efficient filter flow, Hirsch et al. 2010).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def rotation_displacements(rotations: Tensor, points: Tensor, focal_px: Tensor) -> Tensor:
    """Where the homographies K R K^-1 move image points.

    Args:
        rotations: (B, N, 3) pitch, yaw, roll in radians, small angles composed as Rz Ry Rx.
        points: (B, K, 2) pixel positions (y, x) relative to the principal point.
        focal_px: (B,) focal length in pixels.

    Returns:
        (B, K, N, 2) displacements (dy, dx) in pixels.
    """
    pitch, yaw, roll = rotations[:, None].unbind(-1)
    y, x = (points[:, :, None] / focal_px[:, None, None, None]).unbind(-1)
    y1 = y * pitch.cos() - pitch.sin()
    z1 = y * pitch.sin() + pitch.cos()
    x2 = x * yaw.cos() + z1 * yaw.sin()
    z2 = z1 * yaw.cos() - x * yaw.sin()
    x3 = x2 * roll.cos() - y1 * roll.sin()
    y3 = x2 * roll.sin() + y1 * roll.cos()
    moved = torch.stack((y3 / z2, x3 / z2), -1)
    return (moved - torch.stack((y, x), -1)) * focal_px[:, None, None, None]


def path_transfer(displacements: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Transfer function of a motion path.

    Args:
        displacements: (..., N, 2) shifts (dy, dx) in pixels.
        weights: (..., N) share of the exposure spent at each shift, summing to 1.
        size: (H, W) of the spectrum's image.

    Returns:
        complex (..., H, W // 2 + 1).
    """
    device, dtype = displacements.device, displacements.dtype
    fy = torch.fft.fftfreq(size[0], device=device, dtype=dtype)
    fx = torch.fft.rfftfreq(size[1], device=device, dtype=dtype)
    dy, dx = displacements.unbind(-1)
    rows = weights[..., None, :] * torch.exp(-2j * math.pi * fy[:, None] * dy[..., None, :])
    columns = torch.exp(-2j * math.pi * fx[:, None] * dx[..., None, :])
    return rows @ columns.mT


def disk_transfer(diameter_px: Tensor, sigma_px: Tensor, size: tuple[int, int]) -> Tensor:
    """Transfer function of a defocus disk and a Gaussian softness.

    Args:
        diameter_px: (...) circle of confusion in pixels, >= 0.
        sigma_px: (...) standard deviation of the Gaussian in pixels, >= 0.
        size: (H, W) of the spectrum's image.

    Returns:
        real (..., H, W // 2 + 1), 1 at frequency zero.
    """
    device, dtype = diameter_px.device, diameter_px.dtype
    fy = torch.fft.fftfreq(size[0], device=device, dtype=dtype)
    fx = torch.fft.rfftfreq(size[1], device=device, dtype=dtype)
    radius = torch.hypot(fy[:, None], fx)
    argument = (math.pi * diameter_px[..., None, None] * radius).clamp_min(1e-4)
    disk: Tensor = 2 * torch.special.bessel_j1(argument) / argument
    softness = torch.exp(-2 * (math.pi * sigma_px[..., None, None] * radius) ** 2)
    return disk * softness


def corner_weights(size: tuple[int, int], margin: int, device: torch.device) -> Tensor:
    """Bilinear weights (4, H, W) of the corners (top left, top right, bottom left, bottom right).

    The corners are those of the block without its margin, so that neighbouring blocks agree on
    their common edge.
    """
    v, u = (
        (torch.arange(length, device=device, dtype=torch.float32) + 0.5 - margin)
        / (length - 2 * margin)
        for length in size
    )
    v = v[:, None]
    return torch.stack(((1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u))


def apply_transfer(image: Tensor, transfer: Tensor, margin: int) -> Tensor:
    """Blur a batch by one transfer function, or by four interpolated between the corners.

    Args:
        image: (B, C, H, W) with `margin` pixels around; the margin of the result is meaningless.
        transfer: (B, K, H, W // 2 + 1) with K = 1 or 4.
        margin: pixels around that the blur may reach into.
    """
    spectrum = torch.fft.rfft2(image)
    size = (image.shape[-2], image.shape[-1])
    if transfer.shape[1] == 1:
        blurred: Tensor = torch.fft.irfft2(spectrum * transfer, s=size)
        return blurred
    weights = corner_weights(size, margin, image.device)
    result = torch.zeros_like(image)
    for corner in range(4):
        result += weights[corner] * torch.fft.irfft2(spectrum * transfer[:, corner, None], s=size)
    return result
