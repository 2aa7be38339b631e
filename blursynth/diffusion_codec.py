"""Stage (i): the VAE learns to keep photos, sharp and blurred ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth.diffusion_load import save_pipeline, weights_digest
from blursynth.diffusion_pipeline import BlurSynthPipeline
from blursynth.diffusion_stage import Loss, Stage, TrainingConfig
from blursynth.diffusion_stream import Batch

_SCALES = 3
_WINDOW = 16


@dataclasses.dataclass(frozen=True)
class CodecTraining(TrainingConfig):
    """Recipe of stage (i).

    Attributes:
        gradient: weight of the L1 distance of gradients at three scales, which sees edges and
            texture where the L1 distance of values sees colour.
        spectrum: weight of the L1 distance of the amplitudes of 16 px windows, which sees texture
            and noise that are missing.
        kl: weight of the divergence of the latents from a normal distribution, per value.
    """

    batch: int = 16
    crop: int = 128
    learning_rate: float = 2e-4
    gradient: float = 1.0
    spectrum: float = 0.5
    kl: float = 1e-4


class CodecStage(Stage):
    """The VAE of a pipeline: L1, gradients, spectra, and a small KL."""

    name = "codec"
    config: CodecTraining

    def __init__(self, pipeline: BlurSynthPipeline, config: CodecTraining) -> None:
        self.pipeline, self.config = pipeline, config
        self.settings: dict[str, Any] = {"base": weights_digest(pipeline)}
        pipeline.vae.requires_grad_(True)
        self.networks = {"vae": dict(pipeline.vae.named_parameters())}

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Iterator[Loss]:
        """Sharp and blurred photos in turns."""
        even = torch.arange(len(batch.sharp), device=batch.sharp.device) % 2 == 0
        images = 2 * torch.where(even[:, None, None, None], batch.sharp, batch.blurred) - 1
        posterior = self.pipeline.vae.encode(images).latent_dist
        latents = posterior.sample(noise)
        made = self.pipeline.vae.decode(latents, return_dict=False)[0].float()
        value = (made - images).abs().mean()
        gradient, spectrum = gradient_distance(made, images), spectrum_distance(made, images)
        kl = posterior.kl().float().mean() * len(latents) / latents.numel()
        config = self.config
        total = value + config.gradient * gradient + config.spectrum * spectrum + config.kl * kl
        told = {"loss": total, "l1": value, "gradient": gradient, "spectrum": spectrum, "kl": kl}
        yield Loss("vae", total, {name: one.detach() for name, one in told.items()})

    def validate(self, batch: Batch) -> tuple[dict[str, float], list[Tensor]]:
        """PSNR of sharp and of blurred photos that went through the VAE."""
        vae, numbers, pictures = self.pipeline.vae, {}, []
        for name, images in (("sharp", batch.sharp), ("blurred", batch.blurred)):
            made = vae.decode(vae.encode(2 * images - 1).latent_dist.mode()).sample.float()
            made = ((made + 1) / 2).clamp(0, 1)
            error = float((made - images).square().mean())
            numbers[f"psnr_{name}"] = -10 * math.log10(max(error, 1e-10))
            pictures += [images, made]
        return numbers, pictures

    def save(self, folder: Path, batch: Batch) -> None:
        """The whole pipeline, whose latents get unit power by their scaling factor."""
        vae = self.pipeline.vae
        latents = vae.encode(2 * torch.cat((batch.sharp, batch.blurred)) - 1).latent_dist.mode()
        vae.register_to_config(scaling_factor=float(latents.float().square().mean().rsqrt()))
        save_pipeline(self.pipeline, folder)


def gradient_distance(made: Tensor, images: Tensor) -> Tensor:
    """Mean L1 distance of horizontal and vertical differences, at 1, 1/2 and 1/4 of the size."""
    difference = made - images
    total = difference.new_zeros(())
    for scale in range(_SCALES):
        reduced = F.avg_pool2d(difference, 2**scale)
        total = total + reduced.diff(dim=2).abs().mean() + reduced.diff(dim=3).abs().mean()
    return total / _SCALES


def spectrum_distance(made: Tensor, images: Tensor) -> Tensor:
    """Mean L1 distance of the amplitudes of windows, whatever their phases."""
    amplitudes = [_amplitudes(one) for one in (made, images)]
    return (amplitudes[0] - amplitudes[1]).abs().mean()


def _amplitudes(images: Tensor) -> Tensor:
    """(B, N, 16, 9) of the luma in N windows that overlap by half."""
    windows = images.mean(1).unfold(1, _WINDOW, _WINDOW // 2).unfold(2, _WINDOW, _WINDOW // 2)
    taper = torch.hann_window(_WINDOW, device=images.device)
    windows = windows.flatten(1, 2) * torch.outer(taper, taper)
    # The square root has no slope at 0.
    power = torch.fft.rfft2(windows, norm="ortho").abs().square()
    amplitudes: Tensor = (power + 1e-8).sqrt()
    return amplitudes
