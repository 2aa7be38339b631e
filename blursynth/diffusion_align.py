"""Stage (iii): LoRA weights make generated blur look like that of real photos, of other things."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth.blur_discriminator import (
    UNDECIDED,
    AdversarialLoss,
    BlurDiscriminator,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    views,
)
from blursynth.collapse import collapsed
from blursynth.diffusion_denoise import CHECK_PHOTOS, denoise, generate, sampled, spread
from blursynth.diffusion_load import add_lora, save_lora, weights_digest
from blursynth.diffusion_pipeline import BlurSynthPipeline
from blursynth.diffusion_stage import Loss, Stage, TrainingConfig
from blursynth.diffusion_stream import Batch

LOW_BAND = 16
"""Side in pixels of the blocks whose means keep the content."""


@dataclasses.dataclass(frozen=True)
class AlignTraining(TrainingConfig):
    """Recipe of stage (iii).

    Attributes:
        rank: of the LoRA weights on U-Net and ControlNet.
        decoder: whether the decoder of the VAE gets some too.
        adversarial: hinge or relativistic loss.
        sample_steps: of DDIM, for photos that are judged.
        weight: of the adversarial loss.
        content: of the L1 distance of means of 16x16 px from those of the physics engine's photo.
        denoise: of the loss of stage (ii), without which control by the camera would be forgotten.
        lead: learning rate of the discriminator over that of the LoRA weights (Heusel et al. 2017).
        r1, r1_every: weight of the gradient penalty on real photos, and steps from one to the next.
    """

    steps: int = 4000
    batch: int = 8
    learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.99)
    rank: int = 8
    decoder: bool = False
    adversarial: AdversarialLoss = "hinge"
    sample_steps: int = 8
    weight: float = 0.3
    content: float = 10.0
    denoise: float = 0.5
    lead: float = 5.0
    r1: float = 3.0
    r1_every: int = 8


class AlignStage(Stage):
    """LoRA of U-Net, ControlNet and decoder against a discriminator."""

    name = "align"
    config: AlignTraining

    def __init__(self, pipeline: BlurSynthPipeline, config: AlignTraining) -> None:
        self.pipeline, self.config = pipeline, config
        self.settings: dict[str, Any] = {"base": weights_digest(pipeline)}
        self.parts = ("unet", "controlnet", *(["vae"] if config.decoder else []))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            add_lora(pipeline, config.rank, self.parts)
            self.discriminator = BlurDiscriminator()
        self.others = (self.discriminator,)
        self.networks = {
            "generator": {
                f"{part}.{name}": value
                for part in self.parts
                for name, value in getattr(pipeline, part).named_parameters()
                if value.requires_grad
            },
            "discriminator": dict(self.discriminator.named_parameters()),
        }

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Iterator[Loss]:
        """The discriminator's, then the generator's, on photos that the pipeline makes."""
        config = self.config
        assert batch.real is not None
        images = sampled(self.pipeline, batch, config.sample_steps, noise)
        seen = views(images)
        with torch.no_grad():
            real = views(batch.real)

        scores = self.discriminator(real), self.discriminator([view.detach() for view in seen])
        apart = discriminator_loss(*scores, config.adversarial)
        total = apart
        if step % config.r1_every == 0:
            penalty = gradient_penalty(self.discriminator, real)
            total = apart + config.r1 * config.r1_every * penalty
        told: dict[str, float | Tensor] = {
            "discriminator": apart.detach(),
            "real": torch.stack([one.mean() for one in scores[0]]).mean().detach(),
            "made": torch.stack([one.mean() for one in scores[1]]).mean().detach(),
        }
        yield Loss("discriminator", total, told, config.lead)

        self.discriminator.requires_grad_(False)
        scores = self.discriminator(real), self.discriminator(seen)
        self.discriminator.requires_grad_(True)
        adversarial = generator_loss(*scores, config.adversarial)
        timestep = spread(len(images), self.pipeline.scheduler.config.num_train_timesteps, noise)
        made = denoise(self.pipeline, batch, timestep, noise, batch.maps)
        content = (F.avg_pool2d(images, LOW_BAND) - F.avg_pool2d(batch.blurred, LOW_BAND)).abs()
        total = config.weight * adversarial
        total = total + config.content * content.mean() + config.denoise * made.loss
        parts = {"generator": adversarial, "content": content.mean(), "denoise": made.loss}
        yield Loss("generator", total, {name: value.detach() for name, value in parts.items()})

    def stopped(self, recent: list[dict[str, float]]) -> str | None:
        """Whether one of the networks collapsed."""
        return collapsed(recent, UNDECIDED[self.config.adversarial])

    def validate(self, batch: Batch) -> tuple[dict[str, float], list[Tensor]]:
        """Sharp, blurred by physics, generated and real photos; the scores of the last two."""
        assert batch.real is not None
        images = generate(self.pipeline, batch)
        real = batch.real[:CHECK_PHOTOS]
        numbers = {
            f"score_{name}": float(
                torch.stack([one.mean() for one in self.discriminator(views(photos))]).mean()
            )
            for name, photos in (("generated", images), ("real", real))
        }
        return numbers, [batch.sharp[:CHECK_PHOTOS], batch.blurred[:CHECK_PHOTOS], images, real]

    def save(self, folder: Path, batch: Batch) -> None:
        """The LoRA weights, for `load_lora`."""
        save_lora(self.pipeline, folder, self.parts)
