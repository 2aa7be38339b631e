"""Small models with random weights and textured pictures, for tests."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from blursynth.scene import Recipe
from freqdiff.data import DataConfig
from freqdiff.deblurrer import Deblurrer
from freqdiff.denoiser import Denoiser
from freqdiff.model import ModelConfig

TOY = ModelConfig(
    "toy",
    channels=(16, 16),
    encoder_blocks=(1, 1),
    decoder_blocks=(1,),
    embedding=16,
    anchor="input",
)
"""Two levels: alignment 8, receptive radius 56, so that tiles of 304 px are possible."""

DEEP_TOY = ModelConfig(
    "deep toy",
    channels=(16, 16, 16),
    encoder_blocks=(1, 1, 1),
    decoder_blocks=(1, 1),
    embedding=16,
    anchor="input",
)
ATTENTION_TOY = ModelConfig(
    "attention toy",
    channels=(16, 32),
    encoder_blocks=(1, 1),
    decoder_blocks=(1,),
    attention=(1,),
    embedding=16,
    anchor="input",
)
CAMERA_TOY = dataclasses.replace(TOY, name="camera toy", camera=True)
WIENER_TOY = dataclasses.replace(
    TOY, name="Wiener toy", anchor="wiener", blur_channels=(8, 8, 8, 8), blur_blocks=(0, 0, 0, 1)
)
"""Estimates the blur: alignment 32."""

CALM = Recipe(
    shake=0, video=0, defocus=0, mixed=0, unblurred=1, layer=0, softness=0, highlights=0, noise=0,
    jpeg=0, tone=0,
)  # fmt: skip
"""Changes nothing; replace the fields that a test is about."""


SMALL_PAIRS = DataConfig(crop=16, pairs_per_block=8, reuse=2, candidates=1)


def random_denoiser(config: ModelConfig = TOY, seed: int = 0) -> Denoiser:
    """A model without zeros: every layer takes part in the result."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = Denoiser(config)
    with torch.no_grad():
        for value in model.parameters():
            if not value.any():
                fan_in = max(1, value[0].numel())
                value.copy_(torch.randn(value.shape, generator=generator) / fan_in**0.5)
    return model.eval().requires_grad_(False)


def random_deblurrer(config: ModelConfig = TOY, seed: int = 0) -> Deblurrer:
    return Deblurrer(random_denoiser(config, seed), config.name).eval()


def untrained_deblurrer(config: ModelConfig = TOY) -> Deblurrer:
    return Deblurrer(Denoiser(config), config.name).eval().requires_grad_(False)


@functools.cache
def _picture(name: str) -> np.ndarray:
    picture = getattr(data, name)()
    return np.ascontiguousarray(picture[..., :3])


def picture(height: int, width: int, name: str = "astronaut") -> np.ndarray:
    """A photo of scikit-image, uint8 (height, width, 3), repeated by reflection."""
    pixels = _picture(name)
    rows, columns = (max(0, n - m) for n, m in zip((height, width), pixels.shape[:2], strict=True))
    pixels = np.pad(pixels, ((0, rows), (0, columns), (0, 0)), mode="reflect")
    return pixels[:height, :width].copy()


def photo(height: int, width: int, name: str = "astronaut") -> Tensor:
    """The same as float32 (3, height, width) in [0, 1]."""
    return torch.from_numpy(picture(height, width, name)).permute(2, 0, 1).contiguous() / 255


def write_photos(folder: Path) -> Path:
    """Two photos, one of them deeper down, and a file that is none."""
    (folder / "inner").mkdir()
    Image.fromarray(picture(300, 400, "coffee")).save(folder / "coffee.png")
    Image.fromarray(picture(256, 256)).save(folder / "inner" / "astronaut.JPG", quality=95)
    (folder / "notes.txt").write_text("not a photo", encoding="utf-8")
    return folder
