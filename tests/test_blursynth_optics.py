"""Blur as transfer functions: against direct computations in space and textbook formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from blursynth import optics

DOUBLE = torch.float64


def random_path(*shape: int, scale: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    displacements = scale * torch.randn((*shape, 2), generator=generator, dtype=DOUBLE)
    weights = torch.rand(shape, generator=generator, dtype=DOUBLE)
    return displacements, weights / weights.sum(-1, keepdim=True)


def kernel_of(transfer: Tensor, size: tuple[int, int]) -> Tensor:
    """The point spread function, its origin moved to pixel (H // 2, W // 2)."""
    return torch.fft.fftshift(torch.fft.irfft2(transfer, s=size), dim=(-2, -1))


def moments(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid (y, x) and variance along y and x, in pixels."""
    axes = [torch.arange(n, dtype=DOUBLE) - n // 2 for n in kernel.shape]
    shares = (kernel.sum(1), kernel.sum(0))
    centre = [(share * axis).sum() for share, axis in zip(shares, axes, strict=True)]
    spread = [
        (share * (axis - c) ** 2).sum() for share, axis, c in zip(shares, axes, centre, strict=True)
    ]
    return torch.stack(centre), torch.stack(spread)


@pytest.mark.parametrize("size", [(16, 18), (15, 21)], ids=["even", "odd"])
def test_path_of_whole_pixels_is_a_sum_of_shifted_images(size: tuple[int, int]) -> None:
    displacements, weights = random_path(7, scale=4)
    displacements = displacements.round()
    image = torch.rand(size, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    transfer = optics.path_transfer(displacements, weights, size)
    result = torch.fft.irfft2(torch.fft.rfft2(image) * transfer, s=size)
    expected = torch.zeros_like(image)
    for (dy, dx), weight in zip(displacements.int().tolist(), weights, strict=True):
        expected += weight * torch.roll(image, (dy, dx), (0, 1))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-13)


def test_transfer_functions_are_passive_and_keep_the_mean() -> None:
    size = (32, 40)
    path = optics.path_transfer(*random_path(3, 64, scale=6), size)
    diameter = torch.tensor([0.0, 3.0, 16.0], dtype=DOUBLE)
    disk = optics.disk_transfer(diameter, torch.tensor([0.5, 0.0, 0.7], dtype=DOUBLE), size)
    for transfer in (path, disk):
        at_zero = transfer[:, 0, 0]
        # The argument of the disk's Bessel function starts at 1e-4: 1 - 1e-8 / 8.
        torch.testing.assert_close(at_zero, torch.ones_like(at_zero), rtol=0, atol=2e-9)
        assert float(transfer.abs().max()) <= 1 + 1e-12
        kernels = torch.fft.irfft2(transfer, s=size)
        sums = kernels.sum((1, 2))
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=2e-9)


def test_path_kernel_has_the_moments_of_the_path() -> None:
    displacements, weights = random_path(64, scale=3)
    # A Gaussian of 2 px leaves nothing at the Nyquist frequency, which has no direction.
    sigma = torch.tensor(2.0, dtype=DOUBLE)
    softness = optics.disk_transfer(torch.zeros_like(sigma), sigma, (64, 64))
    kernel = kernel_of(optics.path_transfer(displacements, weights, (64, 64)) * softness, (64, 64))
    centre, spread = moments(kernel)
    expected = weights @ displacements
    torch.testing.assert_close(centre, expected, rtol=0, atol=1e-5)
    part = displacements - displacements.floor()  # each shift is split between two pixels
    variance = weights @ ((displacements - expected) ** 2 + part * (1 - part)) + sigma**2
    torch.testing.assert_close(spread, variance, rtol=1e-5, atol=0)


def test_kernels_are_never_negative() -> None:
    """No ringing: a deblurrer would read the blur off it."""
    size = (48, 48)
    path = optics.path_transfer(*random_path(3, 64, scale=6), size)
    disk = optics.disk_transfer(
        torch.tensor([0.6, 2.7, 7.3], dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE), size
    )
    for transfer in (path, disk, path * disk):
        assert float(torch.fft.irfft2(transfer, s=size).min()) > -1e-12


@pytest.mark.parametrize("diameter", [4.0, 9.0, 16.0])
def test_disk_has_its_diameter(diameter: float) -> None:
    """A disk of diameter c has the variance c^2 / 16 along each axis, a Gaussian sigma^2."""
    sigma = 1.0
    transfer = optics.disk_transfer(
        torch.tensor(diameter, dtype=DOUBLE), torch.tensor(sigma, dtype=DOUBLE), (96, 96)
    )
    kernel = kernel_of(transfer, (96, 96))
    _, spread = moments(kernel)
    measured = 4 * (spread - sigma**2).sqrt()
    assert measured.tolist() == pytest.approx([diameter, diameter], rel=0.05)
    # Round: along the diagonal as along the axes.
    radius = torch.hypot(*torch.meshgrid(*[torch.arange(96.0) - 48] * 2, indexing="ij"))
    inside = kernel[radius <= diameter / 2 - 2 * sigma]
    if len(inside) > 1:
        share = 4 / (math.pi * diameter**2)
        assert inside.tolist() == pytest.approx([share] * len(inside), rel=0.1)
    assert float(kernel[radius > diameter / 2 + 4 * sigma].abs().sum()) < 0.01


def homography(rotation: Tensor, focal: float) -> Tensor:
    """K R K^-1 with R = Rz Ry Rx, for points (x, y, 1)."""
    pitch, yaw, roll = (float(angle) for angle in rotation)
    rx = torch.tensor(
        [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]],
        dtype=DOUBLE,
    )
    ry = torch.tensor(
        [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]],
        dtype=DOUBLE,
    )
    rz = torch.tensor(
        [[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]],
        dtype=DOUBLE,
    )
    k = torch.diag(torch.tensor([focal, focal, 1.0], dtype=DOUBLE))
    return k @ rz @ ry @ rx @ torch.linalg.inv(k)


def test_rotations_move_points_by_the_homography() -> None:
    generator = torch.Generator().manual_seed(2)
    rotations = 0.05 * torch.randn((2, 5, 3), generator=generator, dtype=DOUBLE)
    points = 800 * torch.randn((2, 4, 2), generator=generator, dtype=DOUBLE)
    focal = torch.tensor([900.0, 5000.0], dtype=DOUBLE)
    result = optics.rotation_displacements(rotations, points, focal)
    assert result.shape == (2, 4, 5, 2)
    for sample in range(2):
        for instant in range(5):
            h = homography(rotations[sample, instant], float(focal[sample]))
            ones = torch.ones(4, dtype=DOUBLE)
            moved = h @ torch.stack((points[sample, :, 1], points[sample, :, 0], ones))
            expected = (moved[:2] / moved[2]).flip(0).T - points[sample]
            torch.testing.assert_close(result[sample, :, instant], expected, rtol=1e-10, atol=1e-9)


def test_roll_turns_around_the_centre() -> None:
    rotations = torch.tensor([[[0.0, 0.0, 0.02]]], dtype=DOUBLE)
    points = torch.tensor([[[0.0, 0.0], [0.0, 1000.0]]], dtype=DOUBLE)
    result = optics.rotation_displacements(rotations, points, torch.tensor([3000.0]).double())
    assert torch.equal(result[0, 0], torch.zeros(1, 2, dtype=DOUBLE))
    expected = [1000 * math.sin(0.02), 1000 * (math.cos(0.02) - 1)]
    assert result[0, 1, 0].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("focal_mm", "exposure_s", "degrees_per_s", "expected_px"),
    [(50, 1 / 15, 1, 6.2), (200, 1 / 60, 3, 18.6)],
)
def test_shake_is_focal_length_times_angle(
    focal_mm: float, exposure_s: float, degrees_per_s: float, expected_px: float
) -> None:
    """px = (W_px / W_sensor) f omega t, on a 4K frame of a 36 mm sensor."""
    focal_px = torch.tensor([3840 * focal_mm / 36], dtype=DOUBLE)
    angle = math.radians(degrees_per_s) * exposure_s
    yaw = torch.linspace(-angle / 2, angle / 2, 9, dtype=DOUBLE)
    rotations = torch.stack((torch.zeros_like(yaw), yaw, torch.zeros_like(yaw)), -1)[None]
    path = optics.rotation_displacements(rotations, torch.zeros(1, 1, 2, dtype=DOUBLE), focal_px)
    length = path[0, 0].diff(dim=0).norm(dim=-1).sum()
    assert float(length) == pytest.approx(expected_px, abs=0.05)


def test_corners_of_neighbouring_blocks_agree() -> None:
    """Bilinear weights reproduce positions, inside the block and beyond its edge."""
    margin, height, width = 8, 32, 48
    weights = optics.corner_weights((height, width), margin, torch.device("cpu"))
    torch.testing.assert_close(weights.sum(0), torch.ones(height, width), rtol=0, atol=1e-6)
    bottom, right = height - 2 * margin, width - 2 * margin
    corners = torch.tensor([[0.0, 0.0], [0, right], [bottom, 0], [bottom, right]])
    y, x = torch.einsum("khw,kc->chw", weights, corners)
    expected_y = (torch.arange(height) + 0.5 - margin)[:, None].expand(height, width)
    expected_x = (torch.arange(width) + 0.5 - margin).expand(height, width)
    torch.testing.assert_close(y, expected_y, rtol=0, atol=1e-4)
    torch.testing.assert_close(x, expected_x, rtol=0, atol=1e-4)


def test_equal_corners_are_one_blur() -> None:
    size = (40, 48)
    image = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(0))
    path, weights = random_path(2, 1, 9, scale=2)
    transfer = optics.path_transfer(path.float(), weights.float(), size)
    one = optics.apply_transfer(image, transfer, 8)
    four = optics.apply_transfer(image, transfer.expand(2, 4, *transfer.shape[2:]), 8)
    torch.testing.assert_close(four, one, rtol=0, atol=2e-6)
