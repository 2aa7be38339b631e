"""After the lens: tone curve, highlights, noise and JPEG."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import photo, picture

from blursynth import sensor
from freqdiff import tone


def decibels(a: Tensor, b: Tensor) -> float:
    return float(-10 * (a - b).square().mean().log10())


def test_srgb_values_of_the_standard() -> None:
    # IEC 61966-2-1: 12.92 below the knee, then the 2.4 power; 50% signal is 21.404% light.
    signal = torch.tensor([0.0, 0.02, 0.04045, 0.5, 1.0], dtype=torch.float64)
    light = [0.0, 0.02 / 12.92, 0.04045 / 12.92, ((0.5 + 0.055) / 1.055) ** 2.4, 1.0]
    expected = torch.tensor(light, dtype=torch.float64)
    torch.testing.assert_close(tone.srgb_to_linear(signal), expected, rtol=1e-15, atol=0)
    assert float(tone.srgb_to_linear(signal)[3]) == pytest.approx(0.2140411, abs=5e-8)
    # The knees that the standard prints, 0.04045 and 0.0031308, miss each other by 3e-8.
    torch.testing.assert_close(tone.linear_to_srgb(expected), signal, rtol=1e-12, atol=3e-8)


def test_srgb_round_trip() -> None:
    signal = torch.linspace(0, 1, 65536, dtype=torch.float64)
    linear = tone.srgb_to_linear(signal)
    assert bool((linear.diff() > 0).all())
    torch.testing.assert_close(tone.linear_to_srgb(linear), signal, rtol=0, atol=1e-12)
    levels = torch.arange(65536) / 65535
    again = tone.linear_to_srgb(tone.srgb_to_linear(levels)) * 65535
    torch.testing.assert_close(again.round(), levels * 65535, rtol=0, atol=0.01)


def test_highlights_get_light_back_only_where_saturated() -> None:
    linear = torch.tensor([0.2, 0.98, 0.99, 1.0]).expand(2, 3, 1, 4).clone()
    linear[:, 2] = 0.5
    result = sensor.restore_highlights(linear, torch.tensor([0.0, 1.5]))
    assert torch.equal(result[0], linear[0])
    expected = torch.tensor([0.2, 0.98, 0.99 + 0.75, 2.5])
    for channel in range(2):
        torch.testing.assert_close(result[1, channel, 0], expected, rtol=0, atol=5e-6)
    assert torch.equal(result[1, 2], linear[1, 2])


def test_jpeg_tables_are_those_of_libjpeg() -> None:
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
        expected = Image.open(file).quantization  # type: ignore[attr-defined]
        tables = sensor.quantisation_tables(torch.tensor([float(quality)]))
        assert [table.flatten().tolist() for table in tables] == [expected[0], expected[1]], quality


@pytest.mark.parametrize("subsample", [True, False], ids=["4:2:0", "4:4:4"])
@pytest.mark.parametrize("quality", [40, 75, 92])
def test_jpeg_loses_what_libjpeg_loses(quality: int, subsample: bool) -> None:
    pixels = picture(141, 203)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2 if subsample else 0)
    expected = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)[None] / 255
    result = sensor.jpeg(image, torch.tensor([float(quality)]), subsample)
    assert torch.equal((result * 255).round() / 255, result)
    loss = decibels(expected, image)
    # libjpeg also rounds luma and chroma to 8 bits, and these flip a few coefficients: a quarter
    # of the power of the loss; with another table or sampling the two losses were independent.
    assert decibels(result, image) == pytest.approx(loss, abs=0.25)
    assert decibels(result, expected) > loss + 6


def test_jpeg_quality_is_of_each_image() -> None:
    images = torch.stack([photo(48, 64), photo(48, 64, "coffee")])
    together = sensor.jpeg(images, torch.tensor([30.0, 95.0]))
    for index, quality in enumerate((30.0, 95.0)):
        alone = sensor.jpeg(images[index : index + 1], torch.tensor([quality]))
        assert torch.equal(together[index], alone[0])
