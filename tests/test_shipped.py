"""What the shipped weights do: they deblur, leave sharp photos alone, and do not mind tiles."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import pytest
import torch
from toys import CALM, photo

import freqdiff
from blursynth.physics import synthesize
from freqdiff.checkpoint import shipped_models
from freqdiff.metrics import psnr

NAMES = ["astronaut", "coffee", "chelsea", "rocket"]


@cache
def tiny() -> freqdiff.Deblurrer:
    return freqdiff.load("tiny", device="cpu")


def test_the_model_card_lies_beside_the_weights() -> None:
    for name, folder in shipped_models().items():
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert f"# Model card: {name}" in card
        assert "licence" in card
        assert max(path.stat().st_size for path in Path(folder).iterdir()) <= 15_000_000


def test_blurred_photos_get_closer_to_the_truth() -> None:
    recipe = dataclasses.replace(CALM, unblurred=0, shake=1, min_motion_px=4, max_motion_px=8)
    gains = []
    for name in NAMES:
        sharp = photo(256, 256, name)
        for seed in range(3):
            blurred = synthesize(sharp, seed=seed, recipe=recipe).blurred
            result = tiny().restore(blurred[None]).image[0]
            gains.append(psnr(result, sharp) - psnr(blurred, sharp))
    assert min(gains) > 0
    assert sum(gains) / len(gains) > 0.4


@pytest.mark.parametrize("name", NAMES)
def test_a_sharp_photo_comes_back_unharmed(name: str) -> None:
    sharp = photo(256, 256, name)
    result = tiny().restore(sharp[None]).image[0]
    assert psnr(result, sharp) >= 38
    shift = (result.mean((1, 2)) - sharp.mean((1, 2))).abs().max() * 255
    assert float(shift) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "steps"), [(1501, 1613, 1), (731, 1901, 2)])
def test_tiles_give_the_result_of_the_whole_photo(height: int, width: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand((1, 3, height // 8 + 1, width // 8 + 1), generator=generator)
    image = torch.nn.functional.interpolate(coarse, scale_factor=8.0, mode="bicubic")
    image = image[..., :height, :width].clamp(0, 1)
    whole = tiny().restore(image, steps=steps, tile=4096)
    assert whole.tiles == 1
    assert whole.changed
    for tile in (1408, 1600):
        tiled = tiny().restore(image, steps=steps, tile=tile)
        assert tiled.tiles > 1
        levels = (tiled.image * 255).round() - (whole.image * 255).round()
        assert float(levels.abs().max()) <= 1
    assert torch.equal(tiny().restore(image, steps=steps, tile=1600).image, tiled.image)
