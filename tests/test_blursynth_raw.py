"""From light to a raw file and back: mosaic, noise, colours, tone."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import photo

from blursynth import raw, sensor
from blursynth.bayer import PATTERNS
from blursynth.raw import Development, develop_raw, sample_development
from freqdiff import tone


def noise_source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def settings(count: int, **changes: object) -> Development:
    """Everything switched off but what is given, one value per sample or one for all."""
    plain = Development.plain(count)
    given = {
        name: torch.as_tensor(value, dtype=torch.float32).expand(getattr(plain, name).shape)
        for name, value in changes.items()
    }
    return dataclasses.replace(plain, **given)


def joined(parts: list[Development]) -> Development:
    names = [field.name for field in dataclasses.fields(Development)]
    return Development(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})


def light(*size: int, name: str = "astronaut") -> Tensor:
    return tone.srgb_to_linear(photo(*size, name))[None]


@pytest.mark.parametrize("level", [0.0, 0.0005, 0.02, 0.4])
@pytest.mark.parametrize("iso", [100.0, 800.0, 12000.0])
def test_noise_has_the_moments_of_the_model(iso: float, level: float) -> None:
    flat = torch.full((2, 1, 600, 600), level)
    noise = raw.add_noise(flat, torch.tensor([iso, iso]), noise_source(1)).double() - level
    shot = 1e-6 * iso
    variance = shot * level + math.exp(2.18 * math.log(shot) + 1.20)
    assert abs(float(noise.mean())) < 5 * (variance / noise.numel()) ** 0.5
    assert float(noise.square().mean()) == pytest.approx(variance, rel=0.03)
    # Third moment of shot noise: light times the squared gain; five standard errors, sqrt(15 / n).
    third = float((noise**3).mean()) / variance**1.5
    tolerance = 5 * (15 / noise.numel()) ** 0.5
    assert third == pytest.approx(level * shot**2 / variance**1.5, abs=1.5 * tolerance)


@pytest.mark.parametrize("electrons", [0.3, 1.0, 5.0, 40.0])
@pytest.mark.parametrize("iso", [100.0, 12000.0])
def test_noise_is_distributed_as_poisson_and_gaussian_numbers(iso: float, electrons: float) -> None:
    """Kolmogorov distance to the exact distribution, at light where single electrons matter."""
    shot = 1e-6 * iso
    read = math.exp(0.5 * (2.18 * math.log(shot) + 1.20)) / shot
    flat = torch.full((1, 1, 500, 800), electrons * shot)
    noisy = raw.add_noise(flat, torch.tensor([iso]), noise_source(2)).double().flatten() / shot
    steps = torch.linspace(-3 * read, electrons + 6 * (electrons + read) ** 0.5, 200).double()
    counts = torch.arange(200.0).double()
    probability = torch.exp(counts * math.log(electrons) - electrons - torch.lgamma(counts + 1))
    exact = (torch.special.ndtr((steps[:, None] - counts) / read) * probability).sum(1)
    drawn = torch.searchsorted(noisy.sort().values, steps) / noisy.numel()
    # 0.003 is the distance that this many numbers of the exact distribution reach by chance.
    assert float((exact - drawn).abs().max()) < 0.003 + 0.004


def test_noise_is_seeded_and_spares_iso_zero() -> None:
    flat = torch.full((3, 1, 33, 47), 0.3)
    iso = torch.tensor([400.0, 0.0, 400.0])
    first, again, other = (raw.add_noise(flat, iso, noise_source(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], first[2])
    assert torch.equal(first[1], flat[1])
    assert torch.equal(flat, torch.full_like(flat, 0.3))
    half = raw.add_noise(0 * flat, iso, noise_source(5), torch.tensor([1.0, 1.0, 0.25]))
    assert float(half[2].std() / half[0].std()) == pytest.approx(0.5, abs=0.04)


def test_everything_off_is_the_srgb_curve() -> None:
    image = torch.rand(3, 3, 61, 47, generator=noise_source()) * 1.4 - 0.1
    result = develop_raw(image, Development.plain(3), noise_source())
    expected = (tone.linear_to_srgb(image.clamp(0, 1)) * 255).round() / 255
    assert torch.equal(result, expected)


def test_samples_of_a_batch_do_not_touch_each_other() -> None:
    parts = [
        settings(1),
        settings(1, mosaic=1, pattern=[[1, 0]]),
        settings(1, bits=12, tone=1.4),
        settings(1, gains=[[2.1, 1.6]], contrast=0.3),
        sample_development(np.random.default_rng(3), 0.0, 1.2),
        settings(1, mosaic=1, correction=0, gains=[[1.7, 2.2]]),
        settings(1, iso=3200),
    ]
    image = light(45, 39).expand(len(parts), 3, 45, 39)
    together = develop_raw(image, joined(parts), noise_source())
    plain = develop_raw(image[:1], parts[0], noise_source())[0]
    for index, part in enumerate(parts):
        alone = develop_raw(image[:1], part, noise_source())[0]
        assert torch.equal(together[index], alone), index
        assert (index in (0,)) == torch.equal(alone, plain), index
    assert torch.equal(together, develop_raw(image, joined(parts), noise_source()))
    assert not torch.equal(together[6], develop_raw(image, joined(parts), noise_source(1))[6])


def test_flat_light_keeps_its_mean() -> None:
    """Through mosaic, noise, white balance and colour matrix, and the 8 bits dithered by noise."""
    rng = np.random.default_rng(0)
    for iso in (200.0, 1600.0):
        many = joined([sample_development(rng, iso, 1.3) for _ in range(6)])
        colour = torch.as_tensor(rng.uniform(0.15, 0.6, (6, 3, 1, 1)), dtype=torch.float32)
        flat = colour.expand(6, 3, 301, 300)
        linear = raw.capture(flat, many, noise_source())
        torch.testing.assert_close(linear.mean((2, 3)), colour[..., 0, 0], rtol=0, atol=1e-3)
        photos = develop_raw(flat, many, noise_source())
        linear = raw.inverse_tone_curve(photos, many.tone, many.contrast)
        torch.testing.assert_close(linear.mean((2, 3)), colour[..., 0, 0], rtol=0, atol=1e-3)


def test_noise_of_the_photo_grows_with_iso() -> None:
    flat = torch.full((4, 3, 256, 256), 0.2)
    iso = torch.tensor([100.0, 400.0, 1600.0, 6400.0])
    shot, read = sensor.noise_levels(iso)
    gains = torch.tensor([2.0, 1.0, 1.5])
    white = settings(4, gains=[2.0, 1.5])
    white = dataclasses.replace(white, iso=iso)
    found = raw.capture(flat, white, noise_source()).var((2, 3))
    # A gain g leaves 1 / g of the light on the sensor and multiplies its variance by g^2.
    expected = shot[:, None] * 0.2 * gains + read[:, None] * gains**2
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0)
    bayer = dataclasses.replace(white, mosaic=torch.ones(4))
    deviations = develop_raw(flat, bayer, noise_source()).std((2, 3))
    assert bool((deviations[1:] > 1.5 * deviations[:-1]).all())


def test_demosaicing_correlates_the_noise() -> None:
    flat = torch.full((2, 3, 256, 256), 0.3)
    both = settings(2, iso=1600, mosaic=[0, 1])
    noise = raw.capture(flat, both, noise_source()) - 0.3
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean((2, 3)) / noise.square().mean((2, 3))
    channels = (noise[:, 0] * noise[:, 1]).mean((1, 2)) / noise[:, 1].square().mean((1, 2))
    # Five standard errors of a correlation of independent numbers, 1 / 256.
    assert float(neighbours[0].abs().max()) < 5 / 256
    assert abs(float(channels[0])) < 5 / 256
    assert float(neighbours[1].min()) > 0.1
    assert float(channels[1]) > 0.1


def test_overexposed_light_is_white_and_dark_noise_is_not_lifted() -> None:
    rng = np.random.default_rng(1)
    many = joined([sample_development(rng, 0.0) for _ in range(5)])
    bright = torch.full((5, 3, 12, 13), 2.5)
    assert torch.equal(develop_raw(bright, many, noise_source()), torch.ones_like(bright))
    white = develop_raw(torch.ones_like(bright), many, noise_source())
    assert torch.equal(white, torch.ones_like(bright))
    # With bits off, one channel after the other saturates: green at 1, red and blue at their gains.
    balance = settings(1, gains=[2.0, 1.6], colour_matrix=torch.tensor(raw._COLOUR_MATRICES[0]))
    colour = torch.tensor([1.8, 0.9, 0.4])[None, :, None, None].expand(1, 3, 8, 8)
    seen = torch.linalg.solve(balance.colour_matrix[0], colour[0, :, 0, 0])
    expected = (balance.colour_matrix[0] @ seen.clamp_max(1)).clamp(0, 1)
    found = raw.capture(colour, balance, noise_source())[0, :, 3, 3]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    dark = settings(1, iso=3200, mosaic=1)
    level = float(raw.capture(torch.full((1, 3, 256, 256), 0.02), dark, noise_source()).mean())
    assert level == pytest.approx(0.02, abs=1e-3)


def test_raw_values_are_quantised() -> None:
    image = light(40, 40).expand(2, 3, 40, 40)
    linear = raw.capture(image, settings(2, bits=[12, 14]), noise_source())
    for index, levels in enumerate((4095, 16383)):
        values = linear[index].double() * levels
        torch.testing.assert_close(values, values.round(), rtol=0, atol=2e-3)
        error = (linear[index] - image[index]).abs().max()
        assert 0.3 / levels < float(error) <= 0.51 / levels


@pytest.mark.parametrize("tone", [0.8, 1.0, 1.6])
@pytest.mark.parametrize("contrast", [-0.3, 0.0, 0.34])
def test_tone_curve_is_monotone_and_has_an_inverse(tone: float, contrast: float) -> None:
    linear = torch.linspace(0, 1, 20001, dtype=torch.float64).expand(1, 3, 1, -1)
    tones, contrasts = torch.tensor([tone]).double(), torch.tensor([contrast]).double()
    signal = raw.tone_curve(linear, tones, contrasts)
    assert bool((signal.diff(dim=-1) > 0).all())
    assert float(signal.min()) == 0
    assert float(signal.max()) == pytest.approx(1, abs=1e-15)
    again = raw.inverse_tone_curve(signal, tones, contrasts)
    torch.testing.assert_close(again, linear, rtol=0, atol=1e-7)
    single = raw.tone_curve(linear.float(), tones.float(), contrasts.float())
    torch.testing.assert_close(single.double(), signal, rtol=0, atol=1e-6)


def test_contrast_is_the_slope_at_middle_grey() -> None:
    signal = torch.tensor([0.0, 1e-5, 0.4999, 0.5, 0.5001, 1.0], dtype=torch.float64)
    linear = tone.srgb_to_linear(signal).expand(1, 3, 1, -1)
    one, contrast = torch.ones(1).double(), torch.tensor([0.3]).double()
    curved = raw.tone_curve(linear, one, contrast)[0, 0, 0]
    assert float(curved[3]) == pytest.approx(0.5, abs=1e-9)
    assert float(curved[4] - curved[2]) / 2e-4 == pytest.approx(math.exp(0.3), rel=1e-3)
    assert float(curved[1]) / 1e-5 == pytest.approx(math.exp(-0.3), rel=1e-3)


def test_drawn_cameras_are_plausible() -> None:
    rng = np.random.default_rng(0)
    many = joined([sample_development(rng, 800.0, 1.2) for _ in range(200)])
    again = np.random.default_rng(0)
    assert torch.equal(sample_development(again, 800.0, 1.2).gains, many.gains[:1])
    sums = many.colour_matrix.sum(2)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)
    # Colours of the camera are mixtures of those of sRGB: the inverse has no negative entry.
    assert float(torch.linalg.inv(many.colour_matrix).min()) >= 0
    assert 1.3 < float(many.gains.min()) < 1.6
    assert 2.2 < float(many.gains.max()) < 2.9
    red, blue = many.gains.log().T
    assert float(torch.corrcoef(torch.stack((red, blue)))[0, 1]) < -0.8
    assert float(many.read_factor.log().std()) == pytest.approx(0.26, abs=0.05)
    assert {tuple(p.tolist()) for p in many.pattern.int()} == set(PATTERNS.values())
    assert set(many.bits.tolist()) == {12.0, 14.0}
    assert many.mosaic.bool().all()
    assert set(many.iso.tolist()) == {800.0}


def test_photo_stays_close_to_the_light() -> None:
    """A camera without noise: the mosaic costs detail, nothing else changes."""
    image = photo(192, 224)[None]
    camera = sample_development(np.random.default_rng(0), 0.0, 1.3)
    linear = raw.inverse_tone_curve(image, camera.tone, camera.contrast)
    losses = []
    for correction in (0.0, 1.0):
        camera = dataclasses.replace(camera, correction=torch.tensor([correction]))
        result = develop_raw(linear, camera, noise_source())
        losses.append(float(-10 * (result - image).square().mean().log10()))
    assert losses[0] > 25
    assert losses[1] > losses[0] + 2
    without = dataclasses.replace(camera, mosaic=torch.zeros(1), bits=torch.zeros(1))
    result = develop_raw(linear, without, noise_source())
    assert float((result - image).abs().max()) < 1.01 / 255
    assert result.dtype == torch.float32


def test_no_gradient_flows() -> None:
    image = light(16, 16).requires_grad_()
    assert not develop_raw(image, settings(1, iso=100, mosaic=1), noise_source()).requires_grad


def test_errors() -> None:
    plain = Development.plain(2)
    for wrong in (torch.zeros(2, 1, 8, 8), torch.zeros(3, 3, 8, 8), torch.zeros(3, 8, 8)):
        with pytest.raises(ValueError, match=r"^light is .*expected a floating-point \(2, 3, H, W"):
            develop_raw(wrong, plain, noise_source())
    with pytest.raises(ValueError, match=r"^light is torch.uint8"):
        develop_raw(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), plain, noise_source())
