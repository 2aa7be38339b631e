"""Bayer mosaic: order of the colours, the published filters, no shift."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth.bayer import PATTERNS, demosaic, mosaic

PHASES = torch.tensor(list(PATTERNS.values()))


def noise_source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def colour_of(pattern: str, y: int, x: int) -> int:
    return "RGB".index(pattern[2 * (y % 2) + x % 2])


@pytest.mark.parametrize("size", [(7, 10), (8, 5), (1, 1)], ids=str)
def test_mosaic_keeps_the_colour_of_the_pattern(size: tuple[int, int]) -> None:
    image = torch.rand(4, 3, *size, generator=noise_source())
    result = mosaic(image, PHASES)
    assert result.shape == (4, 1, *size)
    for index, name in enumerate(PATTERNS):
        for y, x in np.ndindex(*size):
            assert result[index, 0, y, x] == image[index, colour_of(name, y, x), y, x]


# Figure 2 of Malvar, He and Cutler 2004, times 8.
GREEN = [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]
SIDES = [
    [0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0],
]  # fmt: skip
OPPOSITE = [
    [0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0],
]  # fmt: skip


@pytest.mark.parametrize("size", [(9, 12), (6, 7), (3, 3)], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_demosaic_is_the_published_convolution(pattern: str, size: tuple[int, int]) -> None:
    values = torch.rand(1, 1, *size, dtype=torch.float64, generator=noise_source())
    result = demosaic(values, torch.tensor([PATTERNS[pattern]]))
    sides = torch.tensor(SIDES, dtype=torch.float64)
    tables = torch.tensor([GREEN, OPPOSITE], dtype=torch.float64)
    tables = torch.cat((tables, sides[None], sides.T[None]))[:, None] / 8
    padded = F.pad(values, (2, 2, 2, 2), mode="reflect")
    green, opposite, from_sides, from_above = F.conv2d(padded, tables)[0]
    for y, x in np.ndindex(*size):
        here, beside = colour_of(pattern, y, x), colour_of(pattern, y, x + 1)
        expected = [values[0, 0, y, x]] * 3
        if here == 1:
            expected[beside], expected[2 - beside] = from_sides[y, x], from_above[y, x]
        else:
            expected[1], expected[2 - here] = green[y, x], opposite[y, x]
        torch.testing.assert_close(result[0, :, y, x], torch.stack(expected), rtol=0, atol=1e-14)


def test_demosaic_is_exact_on_constants_and_ramps() -> None:
    colour = torch.rand(4, 3, 1, 1, generator=noise_source())
    grey = colour[:, :1].expand(4, 3, 9, 11)
    assert torch.equal(demosaic(mosaic(grey, PHASES), PHASES), grey)
    flat = colour.expand(4, 3, 9, 11)
    torch.testing.assert_close(demosaic(mosaic(flat, PHASES), PHASES), flat, rtol=0, atol=2e-7)
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    ramp = (0.3 + 0.02 * y - 0.01 * x).expand(4, 3, 9, 11)
    result = demosaic(mosaic(ramp, PHASES), PHASES)
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(result[inner], ramp[inner], rtol=0, atol=2e-7)


def test_demosaic_without_correction_is_bilinear() -> None:
    values = torch.rand(2, 1, 8, 9, generator=noise_source())
    phases = PHASES[:1].expand(2, 2)
    result = demosaic(values, phases, torch.tensor([0.0, 1.0]))
    v = values[0, 0]
    assert float(result[0, 1, 2, 2]) == pytest.approx(
        float(v[1, 2] + v[3, 2] + v[2, 1] + v[2, 3]) / 4
    )
    assert float(result[0, 0, 2, 3]) == pytest.approx(float(v[2, 2] + v[2, 4]) / 2)
    assert float(result[0, 0, 3, 2]) == pytest.approx(float(v[2, 2] + v[4, 2]) / 2)
    assert float(result[0, 2, 2, 2]) == pytest.approx(float(v[1:4:2, 1:4:2].mean()))
    assert torch.equal(result[1:], demosaic(values[1:], phases[1:]))


def shift_between(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Shift of b against a in pixels: the slope of the cross spectrum's phase, by least squares."""
    window = torch.outer(torch.hann_window(a.shape[-2]), torch.hann_window(a.shape[-1]))
    cross = torch.fft.fft2(window * (b - b.mean())) * torch.fft.fft2(window * (a - a.mean())).conj()
    fy, fx = torch.meshgrid(
        torch.fft.fftfreq(a.shape[-2]), torch.fft.fftfreq(a.shape[-1]), indexing="ij"
    )
    use = (fy.abs() < 0.15) & (fx.abs() < 0.15)
    slopes = -2 * math.pi * torch.stack((fy[use], fx[use]), 1)
    weight = cross[use].abs()[:, None]
    normal = slopes.T @ (weight * slopes)
    shift = torch.linalg.solve(normal, slopes.T @ (weight[:, 0] * cross[use].angle()))
    return float(shift[0]), float(shift[1])


def chart(size: int = 128, offset: float = 0.0) -> Tensor:
    """Tinted waves of nine pixels and more (1, 3, size, size), in [0, 1]."""
    y, x = torch.meshgrid(torch.arange(size) + offset, torch.arange(size) - offset, indexing="ij")
    waves = torch.sin(2 * math.pi * (y / 11 + x / 31)) + torch.cos(2 * math.pi * (x / 9 - y / 23))
    tint = torch.sin(2 * math.pi * (x + y) / 40)
    return torch.stack([0.5 + 0.2 * waves + 0.1 * c * tint for c in (-1, 0, 1)])[None]


@pytest.mark.parametrize("correction", [0.0, 1.0], ids=["bilinear", "malvar"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_demosaic_does_not_shift(pattern: str, correction: float) -> None:
    # The measure sees a shift: a tenth of a pixel down and to the left.
    found = shift_between(chart()[0, 0], chart(offset=-0.1)[0, 0])
    assert found == pytest.approx((0.1, -0.1), abs=0.01)
    phase = torch.tensor([PATTERNS[pattern]])
    result = demosaic(mosaic(chart(), phase), phase, torch.tensor([correction]))
    for channel in range(3):
        assert max(map(abs, shift_between(chart()[0, channel], result[0, channel]))) < 0.02


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"^rgb is .*\(1, 3, H, W\)\.$"):
        mosaic(torch.zeros(1, 1, 8, 8), PHASES[:1])
    with pytest.raises(ValueError, match=r"^raw is .*\(1, 1, H, W\)\.$"):
        demosaic(torch.zeros(1, 3, 8, 8), PHASES[:1])
    with pytest.raises(ValueError, match=r"^raw is 2 x 8 pixels, expected at least 3 x 3\.$"):
        demosaic(torch.zeros(1, 1, 2, 8), PHASES[:1])
