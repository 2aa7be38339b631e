"""Aperture, diffraction and softness, against textbook formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from blursynth import optics

DOUBLE = torch.float64
RADIUS = 24


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


def moments(kernel: Tensor) -> tuple[list[float], list[float]]:
    """Centroid (y, x) and variance along y and x, in pixels."""
    line = torch.arange(kernel.shape[-1], dtype=DOUBLE) - kernel.shape[-1] // 2
    shares = (kernel.sum(1), kernel.sum(0))
    centre = [float(share @ line) for share in shares]
    spread = [float(s @ (line - c) ** 2) for s, c in zip(shares, centre, strict=True)]
    return centre, spread


@pytest.mark.parametrize("diameter", [0.3, 1.2, 1.7, 2.0, 3.0, 4.0, 9.0, 16.0, 40.0])
def test_disk_has_its_diameter(diameter: float) -> None:
    """A disk of diameter c has the variance c^2 / 16 along each axis."""
    kernel = optics.aperture_kernel(number(diameter), RADIUS)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    centre, spread = moments(kernel)
    assert centre == pytest.approx([0, 0], abs=1e-12)
    assert [4 * math.sqrt(value) for value in spread] == pytest.approx([diameter] * 2, rel=0.02)
    line = torch.arange(-RADIUS, RADIUS + 1)
    distance = torch.hypot(line[:, None].double(), line.double())
    assert bool((kernel[distance > diameter / 2 + 1] == 0).all())
    inside = kernel[distance < diameter / 2 - 2]
    if len(inside):
        assert inside.unique().tolist() == pytest.approx(
            [4 / (math.pi * diameter**2)] * len(inside.unique()), rel=0.1
        )


def test_in_focus_nothing_happens() -> None:
    kernel = optics.aperture_kernel(torch.tensor(0.0), 3)
    expected = torch.zeros(7, 7)
    expected[3, 3] = 1
    assert torch.equal(kernel, expected)


@pytest.mark.parametrize("blades", [3, 5, 6, 8])
def test_polygons_have_the_area_of_the_disk(blades: int) -> None:
    kernel = optics.aperture_kernel(number(30.0), RADIUS, blades=number(blades), turn=number(0.3))
    area = float(kernel.sum() / kernel.max())
    assert area == pytest.approx(math.pi * 15**2, rel=0.03)
    # As many corners as blades: they stand out of the disk.
    line = torch.arange(-RADIUS, RADIUS + 1, dtype=DOUBLE)
    angle = torch.atan2(line[:, None], line)
    ring = torch.hypot(line[:, None], line)
    outside = (kernel > 0) & (ring > 15.4)
    share = (torch.exp(1j * blades * angle[outside])).mean().abs()
    assert float(share) > 0.7


def test_in_front_of_the_focus_the_aperture_stands_upside_down() -> None:
    options = {"blades": number(3), "turn": number(0.2), "cat_eye": torch.tensor([0.3, 0.6])}
    behind = optics.aperture_kernel(number(20.0), RADIUS, **options)
    front = optics.aperture_kernel(number(-20.0), RADIUS, **options)
    torch.testing.assert_close(front, behind.flip(0, 1))
    assert not torch.allclose(front, behind)


def test_cat_eye_cuts_across_the_shift() -> None:
    """Two disks whose centres lie s radii apart share 2 acos(s/2) - s/2 sqrt(4 - s^2) r^2."""
    shift = 0.8
    round_one = optics.aperture_kernel(number(36.0), RADIUS)
    cut = optics.aperture_kernel(number(36.0), RADIUS, cat_eye=torch.tensor([0.0, shift]).double())
    areas = [float(kernel.sum() / kernel.max()) for kernel in (cut, round_one)]
    lens = 2 * math.acos(shift / 2) - shift / 2 * math.sqrt(4 - shift**2)
    assert areas[0] / areas[1] == pytest.approx(lens / math.pi, rel=0.03)
    _, (along_y, along_x) = moments(cut)
    assert along_y > 1.5 * along_x


def test_diffraction_is_the_airy_disk() -> None:
    """Its dark rings lie at 1.22 and 2.233 lambda N and hold 83.8% and 91.0% of the light."""
    lambda_n = 10.0  # in pixels
    kernel = optics.diffraction_kernel(number(1 / lambda_n), 100)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
    profile = kernel[100, 100:116]
    assert int(profile.argmin()) == pytest.approx(1.22 * lambda_n, abs=0.6)
    line = torch.arange(-100, 101, dtype=DOUBLE)
    distance = torch.hypot(line[:, None], line)
    inner, outer = (kernel[distance <= ring * lambda_n].sum() for ring in (1.22, 2.233))
    assert float(inner / outer) == pytest.approx(0.838 / 0.910, abs=2e-3)
    # The faint rings that are left out hold 3% of the light.
    assert float(outer) == pytest.approx(0.910, abs=0.03)
    assert float(kernel.min()) >= 0
    still = optics.diffraction_kernel(number(math.inf), 5)
    assert still.argmax() == 60
    assert float(still.max()) == pytest.approx(1, abs=1e-12)


def test_softness_is_a_gaussian() -> None:
    """Averaging over pixels adds 1/12 of a square pixel."""
    kernels = optics.softness_kernel(torch.tensor([0.0, 0.6, 2.0], dtype=DOUBLE), 12)
    assert moments(kernels[0])[1] == [0, 0]
    for kernel, sigma in zip(kernels[1:], (0.6, 2.0), strict=True):
        assert float(kernel.sum()) == pytest.approx(1, abs=1e-12)
        assert moments(kernel)[1] == pytest.approx([sigma**2 + 1 / 12] * 2, rel=5e-3)


def test_kernels_one_after_the_other_add_their_variances() -> None:
    one = optics.aperture_kernel(number(9.0), RADIUS)
    other = optics.aperture_kernel(number(14.0), RADIUS, blades=number(6), turn=number(0.5))
    both = optics.convolve_kernels(one, other)
    assert both.shape == one.shape
    assert float(both.sum()) == pytest.approx(1, abs=1e-12)
    assert float(both.min()) == 0
    expected = [a + b for a, b in zip(moments(one)[1], moments(other)[1], strict=True)]
    assert moments(both)[0] == pytest.approx([0, 0], abs=1e-12)
    assert moments(both)[1] == pytest.approx(expected, rel=1e-12)


def test_diffraction_that_is_not_visible_leaves_a_point() -> None:
    """At f/1.8 on 36 mm and 3840 px the Airy disk is a quarter of a pixel across."""
    centre = [
        float(optics.diffraction_kernel(number(cutoff), 8)[8, 8]) for cutoff in (1.0, 9.5, 60.0)
    ]
    assert centre == sorted(centre)
    assert centre[1] > 0.85
    assert centre[2] > 0.97


@pytest.mark.parametrize("cutoff", [0.2, 0.5])
def test_diffraction_has_the_transfer_function_of_a_round_aperture(cutoff: float) -> None:
    """Goodman, Introduction to Fourier Optics, section 6.4; and linear interpolation's."""
    kernel = optics.diffraction_kernel(number(cutoff), 60)
    torch.testing.assert_close(kernel, kernel.mT, rtol=0, atol=1e-12)
    torch.testing.assert_close(kernel, kernel.flip(0), rtol=0, atol=1e-12)
    line = torch.arange(-60, 61, dtype=DOUBLE)
    for frequency in (0.05, 0.1, 0.15):
        share = min(frequency / cutoff, 1)
        expected = 2 / math.pi * (math.acos(share) - share * math.sqrt(1 - share**2))
        expected *= (math.sin(math.pi * frequency) / (math.pi * frequency)) ** 2
        found = float(kernel.sum(0) @ (2 * math.pi * frequency * line).cos())
        assert found == pytest.approx(expected, abs=0.02)
