"""Alignment certificate, statistics and categories, on photos whose truth is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import photo

from blursynth.camera import Camera
from blursynth.category import scene_category
from blursynth.certificate import MAX_SHIFT_PX, certify
from blursynth.physics import synthesize
from blursynth.scene import Recipe
from blursynth.statistics import (
    PhotoStatistics,
    distances,
    measure,
    summarise,
    table,
    wasserstein,
)
from freqdiff.errors import InputError
from freqdiff.tone import linear_to_srgb, srgb_to_linear

SHARP = photo(320, 320)
MOTION = Recipe(shake=1, video=0, defocus=0, mixed=0, unblurred=0, layer=0, min_motion_px=12)
DEFOCUS = Recipe(shake=0, video=0, defocus=1, mixed=0, unblurred=0, layer=0, min_defocus_px=6)
LITTLE = dataclasses.replace(DEFOCUS, min_defocus_px=1.2, max_defocus_px=4)


def moved(image: Tensor, dy: float, dx: float) -> Tensor:
    """Moved by a part of a pixel, exactly."""
    size = (image.shape[1], image.shape[2])
    fy, fx = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])
    spectrum = torch.fft.rfft2(image) * torch.exp(-2j * math.pi * (fy * dy + fx * dx))
    return torch.fft.irfft2(spectrum, s=size)


def inner(image: Tensor) -> Tensor:
    return image[:, 32:-32, 32:-32]


def gaussian(image: Tensor, sigma: float) -> Tensor:
    reach = int(4 * sigma) + 1
    taps = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    padded = F.pad(image[None], (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, taps, groups=3), taps.mT, groups=3)[0]


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.0), (-0.3, 0.4), (0.0, -4.0)])
@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_a_shift_is_measured(shift: tuple[float, float], sigma: float) -> None:
    # A lens blurs light, not sRGB values.
    light = gaussian(srgb_to_linear(SHARP), sigma)
    blurred = inner(linear_to_srgb(moved(light, *shift).clamp(0, 1)))
    certificate = certify(inner(SHARP), blurred)
    assert certificate.shift_px == pytest.approx(math.hypot(*shift), abs=0.06, rel=0.05)
    assert certificate.passed == (shift == (0.0, 0.0))
    assert certificate.low_band_psnr_db > 30


@pytest.mark.parametrize("recipe", [MOTION, DEFOCUS], ids=["motion", "defocus"])
def test_strong_centred_blur_of_the_physics_engine_passes(recipe: Recipe) -> None:
    results = [synthesize(SHARP, seed=seed, recipe=recipe).blurred for seed in range(12)]
    passed = [certify(inner(SHARP), inner(blurred)).passed for blurred in results]
    assert np.mean(passed) >= 0.9


@pytest.mark.parametrize(("recipe", "share"), [(LITTLE, 1.0), (DEFOCUS, 0.7)])
def test_half_a_pixel_fails_under_defocus(recipe: Recipe, share: float) -> None:
    failed = []
    for seed in range(10):
        blurred = synthesize(SHARP, seed=seed, recipe=recipe).blurred
        certificate = certify(inner(moved(SHARP, 0.3, -0.4)), inner(blurred))
        assert certificate.shift_px > MAX_SHIFT_PX
        failed.append(not certificate.passed)
    assert np.mean(failed) >= share


def test_other_content_fails() -> None:
    assert not certify(inner(SHARP), inner(photo(320, 320, "coffee"))).passed
    darker = certify(inner(SHARP), 0.7 * inner(SHARP))
    assert darker.shift_px < 0.05
    assert darker.low_band_psnr_db < 20
    assert not darker.passed


def test_flat_photos_have_no_shift() -> None:
    flat = torch.full((3, 64, 64), 0.5)
    certificate = certify(flat, flat)
    assert (certificate.shift_px, certificate.low_band_psnr_db) == (0, 99)
    assert certificate.passed


@pytest.mark.parametrize("shape", [(3, 64, 80), (1, 80, 80), (3, 80)])
def test_pairs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="give a pair"):
        certify(torch.zeros(3, 80, 80), torch.zeros(shape))


def test_small_pairs_are_refused() -> None:
    with pytest.raises(InputError, match="at least 64"):
        certify(torch.zeros(3, 63, 80), torch.zeros(3, 63, 80))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea"])
def test_blur_width_follows_the_blur(name: str) -> None:
    image = photo(256, 256, name)
    widths = [measure(gaussian(image, sigma)).blur_width_px for sigma in (1.0, 2.0, 4.0)]
    assert measure(image).blur_width_px < widths[0]
    for width, sigma in zip(widths, (1.0, 2.0, 4.0), strict=True):
        assert 0.75 * sigma < width < 1.6 * sigma + 0.3


def test_blur_width_sees_motion_in_one_direction() -> None:
    image = photo(256, 256)
    streaked = torch.stack([image.roll(shift, 2) for shift in range(-6, 7)]).mean(0)
    assert measure(streaked).blur_width_px > measure(image).blur_width_px + 1


@pytest.mark.parametrize("level", [0.01, 0.03])
def test_noise_is_measured(level: float) -> None:
    noise = torch.randn(3, 256, 256, generator=torch.Generator().manual_seed(0))
    noisy = gaussian(photo(256, 256, "coffee"), 4) + level * noise
    of_luma = level * math.sqrt(0.299**2 + 0.587**2 + 0.114**2)
    assert measure(noisy.clamp(0, 1)).noise == pytest.approx(of_luma, rel=0.2)


def test_brightness_and_extremes() -> None:
    assert measure(torch.full((3, 64, 100), 0.25)).brightness == pytest.approx(0.25)
    for level in (0.0, 1.0):
        values = measure(torch.full((3, 64, 64), level))
        assert all(math.isfinite(value) for value in dataclasses.astuple(values))
    with pytest.raises(InputError, match="at least 64"):
        measure(torch.zeros(3, 63, 64))


def test_summary_and_distances() -> None:
    a = [PhotoStatistics(k, 0.1, 0.5) for k in range(5)]
    b = [PhotoStatistics(k + 2, 0.1, 0.25) for k in range(5)]
    summary = summarise(a)
    assert summary["blur_width_px"] == {
        "count": 5, "mean": 2.0, "p05": 0.2, "p25": 1.0, "p50": 2.0, "p75": 3.0, "p95": 3.8
    }  # fmt: skip
    gaps = distances(a, b)
    assert gaps == {"blur_width_px": 2.0, "noise": 0.0, "brightness": 0.25}
    assert "distance" in table(summary, gaps)
    assert summarise([]) == {}
    with pytest.raises(InputError, match="empty"):
        distances(a, [])


def test_wasserstein_of_sets_of_different_size() -> None:
    assert wasserstein(np.array([0.0, 1.0]), np.array([0.5])) == pytest.approx(0.5)
    assert wasserstein(np.array([0.0]), np.array([0.0, 0.0, 3.0])) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("settings", "brightness", "category"),
    [
        (Camera(exposure_s=1 / 500, f_number=8), 0.5, "outdoor"),
        (Camera(exposure_s=1 / 30, f_number=2.8, iso=400), 0.5, "indoor"),
        (Camera(exposure_s=1 / 4, f_number=2, iso=1600), 0.4, "night"),
        (Camera(exposure_s=1 / 30, f_number=2.8, iso=400), 0.1, "night"),
        (Camera(exposure_s=1 / 500, f_number=8, focus_distance_m=0.2), 0.5, "close-up"),
    ],
)
def test_categories(settings: Camera, brightness: float, category: str) -> None:
    assert scene_category("photo.jpg", settings, brightness) == category
    assert scene_category("harbour/deep/photo.jpg", settings, brightness) == "harbour"
