"""Comparison up to a shift: shifts are found, and nothing but shifts is forgiven."""

from __future__ import annotations

import math

import pytest
import torch
from toys import photo

from freqdiff.alignment import BORDER, align
from freqdiff.metrics import psnr


def shifted(image: torch.Tensor, dy: float, dx: float) -> torch.Tensor:
    """What lies at p comes to p + (dy, dx), exactly, around the edges."""
    fy = torch.fft.fftfreq(image.shape[1])[:, None]
    fx = torch.fft.rfftfreq(image.shape[2])
    turn = torch.exp(-2j * math.pi * (fy * dy + fx * dx))
    return torch.fft.irfft2(torch.fft.rfft2(image) * turn, s=image.shape[1:])


def smooth(height: int, width: int) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(photo(height, width), 5, 1, 2)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.0, -5.0), (-0.75, 2.25), (5.0, 0.5)])
def test_the_shift_is_found(shift: tuple[float, float]) -> None:
    truth = smooth(120, 150)
    moved, wanted, found = align(shifted(truth, *shift), truth)
    assert found == shift
    assert moved.shape == wanted.shape == (3, 120 - 2 * BORDER, 150 - 2 * BORDER)
    assert psnr(moved, wanted) > 38
    assert torch.equal(wanted, truth[:, BORDER:-BORDER, BORDER:-BORDER])


def test_an_aligned_pair_stays_as_it_is() -> None:
    truth = photo(100, 90)
    image = truth + 0.02 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    moved, _, found = align(image, truth)
    assert found == (0, 0)
    assert torch.equal(moved, image[:, BORDER:-BORDER, BORDER:-BORDER])


def test_blur_is_not_forgiven_and_far_shifts_are_not_found() -> None:
    truth = photo(120, 150)
    blurred = torch.nn.functional.avg_pool2d(truth, 9, 1, 4)
    assert psnr(*align(blurred, truth)[:2]) < 30
    _, _, (dy, dx) = align(shifted(truth, 0.0, 9.0), truth)
    assert max(abs(dy), abs(dx)) < 6
