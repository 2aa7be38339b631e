"""The plain GAN that blur synthesis is compared with: a generator that learned from unpaired real
blurred photos how blur looks, knowing nothing of cameras."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from freqdiff.atomic import make_folder, write_atomically
from freqdiff.errors import InputError, ModelError

PITCH = 4
NOISE_CHANNELS = 4
_CONFIG, _WEIGHTS = "config.json", "generator.safetensors"


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Architecture of a generator and the scale of its photos; saved with its weights.

    Attributes:
        channels, blocks: width and number of the residual blocks, at a quarter of the resolution.
        long_side: pixels that the longer side of the photos had at most.
    """

    channels: int = 48
    blocks: int = 4
    long_side: int = 960


class Generator(nn.Module):
    """Sharp photo and noise -> blurred photo: the photo plus a residual; starts as the identity.

    A U-Net with residual blocks at a quarter of the resolution. It grows by interpolation, as
    PixelShuffle and transposed convolutions leave a grid in the photo.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        wide = config.channels
        half, full = wide * 2 // 3, wide // 3
        self.enter = nn.Conv2d(3, full, 3, padding=1)
        self.down_half = nn.Conv2d(full, half, 4, stride=2, padding=1)
        self.down_quarter = nn.Conv2d(half, wide, 4, stride=2, padding=1)
        self.noise = nn.Conv2d(NOISE_CHANNELS, wide, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(),
                nn.Conv2d(wide, wide, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(wide, wide, 3, padding=1),
            )
            for _ in range(config.blocks)
        )
        self.up_half = nn.Conv2d(wide, half, 3, padding=1)
        self.up_full = nn.Conv2d(half, full, 3, padding=1)
        self.last = nn.Conv2d(full, 3, 3, padding=1)
        for value in self.last.parameters():
            nn.init.zeros_(value)

    def forward(self, sharp: Tensor, noise: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] and (B, 4, H/4, W/4) -> (B, 3, H, W), not clipped."""
        full = self.enter(sharp)
        half = self.down_half(F.silu(full))
        x = self.down_quarter(F.silu(half)) + self.noise(noise)
        for block in self.blocks:
            x = x + block(x)
        x = half + self.up_half(_double(F.silu(x)))
        x = full + self.up_full(_double(F.silu(x)))
        residual: Tensor = self.last(F.silu(x))
        return sharp + residual


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear")


class Discriminator(nn.Sequential):
    """PatchGAN (Isola et al. 2017): (B, C, H, W) -> scores of overlapping patches of 46 px, above
    0 for real ones."""

    def __init__(self, channels: int = 32, colours: int = 3) -> None:
        layers: list[nn.Module] = []
        before = colours
        for wide in (channels, 2 * channels, 4 * channels):
            layers += [nn.Conv2d(before, wide, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            before = wide
        super().__init__(*layers, nn.Conv2d(before, 1, 4, padding=1))


def draw_noise(batch: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(batch, 4, H/4, W/4) for photos of (H, W): two numbers per photo, two per position."""
    rows, columns = (side // PITCH for side in size)
    half = NOISE_CHANNELS // 2
    whole = torch.randn(batch, half, 1, 1, generator=generator).expand(-1, -1, rows, columns)
    return torch.cat((whole, torch.randn(batch, half, rows, columns, generator=generator)), 1)


def blur(generator: Generator, sharp: Tensor, seed: int) -> Tensor:
    """Blur a photo at the generator's scale.

    Args:
        generator: on the CPU.
        sharp: (3, H, W) sRGB in [0, 1], at least 8 px on a side.
        seed: the same seed gives the same photo.

    Returns:
        (3, H, W) sRGB in [0, 1] on 256 levels.

    Raises:
        InputError: another shape.
    """
    if sharp.ndim != 3 or sharp.shape[0] != 3 or min(sharp.shape[1:]) < 2 * PITCH:
        raise InputError(
            f"Expected a photo (3, H, W) of at least {2 * PITCH} px on a side, "
            f"got {tuple(sharp.shape)}: give a larger one."
        )
    height, width = sharp.shape[1:]
    padded = F.pad(sharp[None].float(), (0, -width % PITCH, 0, -height % PITCH), mode="replicate")
    noise = draw_noise(1, (padded.shape[2], padded.shape[3]), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        made: Tensor = generator(2 * padded - 1, noise)
    return ((made[0, :, :height, :width] + 1) * 127.5).round().clamp(0, 255) / 255


def save_generator(
    folder: str | os.PathLike[str], generator: Generator, training: dict[str, Any]
) -> None:
    """Write weights, and last the configuration that names them by their sha256.

    Args:
        folder: made if it is missing.
        generator: what to save.
        training: facts about the training, kept in `config.json`.

    Raises:
        OutputError: the folder cannot be written.
    """
    root = Path(folder)
    make_folder(root)
    content = save({k: v.detach().contiguous() for k, v in generator.state_dict().items()})
    write_atomically(root / _WEIGHTS, content)
    config = {
        "generator": dataclasses.asdict(generator.config),
        "sha256": hashlib.sha256(content).hexdigest(),
        "training": training,
    }
    write_atomically(root / _CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def load_generator(folder: str | os.PathLike[str]) -> tuple[Generator, dict[str, Any]]:
    """A trained generator in eval mode, and the facts about its training.

    Raises:
        ModelError: no generator there, a damaged file, or weights of another architecture.
    """
    root = Path(folder)
    try:
        config = json.loads((root / _CONFIG).read_text(encoding="utf-8"))
        content = (root / _WEIGHTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != config["sha256"]:
            raise ValueError(f"{_WEIGHTS} is damaged")
        generator = Generator(GeneratorConfig(**config["generator"]))
        generator.load_state_dict(load(content))
        training: dict[str, Any] = dict(config["training"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"The folder {str(root)!r} holds no usable generator ({str(error).splitlines()[0]}): "
            "make one with 'blursynth train-gan'."
        ) from error
    return generator.eval().requires_grad_(False), training
