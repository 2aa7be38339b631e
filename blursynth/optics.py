"""Blur as transfer functions of kernels on the pixel grid, on any device.

A path of shifts becomes a kernel by splitting each shift between its four nearest pixels, a
defocus disk one with an edge of one pixel: kernels without negative values. (Exact fractional
shifts, exp(-2 pi i f d), ring at hard edges; a real camera does not, and a deblurrer would read the
blur off the ringing.) Blur that varies over the frame is interpolated between the four corners of
each block (efficient filter flow, Hirsch et al. 2010).
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
    return (weights[..., None, :] * _shift_transfer(fy, dy)) @ _shift_transfer(fx, dx).mT


def _shift_transfer(frequency: Tensor, shift: Tensor) -> Tensor:
    """Transfer (..., F, N) of shifts (..., N) along one axis, split between two pixels each."""
    whole = shift.floor()
    part = (shift - whole)[..., None, :]
    turn = -2j * math.pi * frequency[:, None]
    return torch.exp(turn * whole[..., None, :]) * (1 - part + part * torch.exp(turn))


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
    y, x = (n * torch.fft.fftfreq(n, device=device, dtype=dtype) for n in size)
    distance = torch.hypot(y[:, None], x)
    # An edge that falls over one pixel adds 5/12 of a square pixel to the second moment of a disk.
    radius = (0.25 * diameter_px**2 - 5 / 12).clamp_min(0).sqrt()
    disk = (radius[..., None, None] + 0.5 - distance).clamp(0, 1)
    transfer: Tensor = torch.fft.rfft2(disk / disk.sum((-2, -1), keepdim=True)).real
    softness = torch.exp(
        -2 * (math.pi * sigma_px[..., None, None] * torch.hypot(fy[:, None], fx)) ** 2
    )
    return transfer * softness


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
