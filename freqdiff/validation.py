"""Validation while training: a fixed set of blurred crops, PSNR and a strip of pictures."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blursynth.scene import Recipe
from freqdiff.data import DataConfig, PairBlocks
from freqdiff.denoiser import Denoiser
from freqdiff.diffusion import TRAIN_STEPS

_STRIP = 6


class Validation:
    """Blurred crops of held-out photos, the same ones every time."""

    def __init__(
        self, folder: str | os.PathLike[str], *, count: int = 48, crop: int = 256, seed: int = 1234
    ) -> None:
        recipe = dataclasses.replace(Recipe(), unblurred=0.0)
        config = DataConfig(crop=crop, pairs_per_block=count, reuse=1, seed=seed, recipe=recipe)
        pairs = PairBlocks(folder, config).pairs(0)
        self.blurred, self.sharp = (v.float() / 127.5 - 1 for v in (pairs.blurred, pairs.sharp))

    @torch.no_grad()
    def measure(self, model: Denoiser, picture: Path | None = None) -> dict[str, float]:
        """PSNR of one-step results in dB: `input`, `output`, their `gain`, and of sharp photos.

        `unharmed` is the PSNR between the sharp crops and the model's result for them.
        """
        results = torch.cat([_one_step(model, y[None]) for y in self.blurred])
        unharmed = torch.cat([_one_step(model, x[None]) for x in self.sharp[::4]])
        before, after = _psnr(self.blurred, self.sharp), _psnr(results, self.sharp)
        if picture is not None:
            self._draw(results, picture)
        return {
            "input": round(before, 3),
            "output": round(after, 3),
            "gain": round(after - before, 3),
            "unharmed": round(_psnr(unharmed, self.sharp[::4]), 2),
        }

    def _draw(self, results: Tensor, path: Path) -> None:
        """Save columns of blurred | result | sharp."""
        rows = [torch.cat(list(v[:_STRIP]), 2) for v in (self.blurred, results, self.sharp)]
        strip = ((torch.cat(rows, 1) + 1) * 127.5).round().clamp(0, 255).byte()
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(strip.permute(1, 2, 0))).save(path)


def _one_step(model: Denoiser, y: Tensor) -> Tensor:
    device = next(model.parameters()).device
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    y, noise = (v.to(device).contiguous(memory_format=torch.channels_last) for v in (y, noise))
    t = torch.full((len(y),), TRAIN_STEPS - 1, device=device)
    return model.denoise(noise, t, model.condition(y)).clamp(-1, 1).cpu()


def _psnr(a: Tensor, b: Tensor) -> float:
    a, b = (((v + 1) * 127.5).round() / 255 for v in (a, b))
    error = (a - b).square().mean((1, 2, 3)).clamp_min(1e-9)
    return float((-10 * error.log10()).mean())
