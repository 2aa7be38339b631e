"""Stage (ii): U-Net, ControlNet, text and camera encoder learn to blur as physics does."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blursynth.diffusion_change import Change
from blursynth.diffusion_conditions import combine
from blursynth.diffusion_load import save_pipeline, weights_digest
from blursynth.diffusion_pipeline import BlurSynthPipeline
from blursynth.diffusion_predict import predict
from blursynth.diffusion_stage import Loss, Stage, TrainingConfig
from blursynth.diffusion_stream import Batch
from freqdiff.errors import ModelError

PARTS = ("unet", "controlnet", "text_encoder", "camera_encoder")
CHECK_STEPS, CHECK_PHOTOS = 8, 4
"""Steps of DDIM for validation pictures, and photos on them."""
SURPRISE = 1.0
"""Weight of `Change.surprise`: how sure a base should be of a change is learned slowly from the
velocity, above all where it should be very sure."""
LEAST_CHANGE = 0.1
"""Photos whose mean square change is less than that, of scaled latents, count alike."""


@dataclasses.dataclass(frozen=True)
class BaseTraining(TrainingConfig):
    """Recipe of stage (ii).

    Attributes:
        parts: of the pipeline that learn; for a base that was trained by others, the ControlNet
            and the camera encoder may be enough.
        drop_physics: share of the photos whose camera is not told, for guidance.
        drop_maps: share of the others that get text and numbers but no physics map, without which
            nothing would be learned from these.
    """

    parts: tuple[str, ...] = PARTS
    drop_physics: float = 0.1
    drop_maps: float = 0.15


class Denoised(NamedTuple):
    """A prediction for noisy latents of blurred photos.

    Attributes:
        clean: z_0 of the blurred photos, (B, C, h, w).
        predicted, target: noise or velocity, as the scheduler says.
        weight: (B,) of the photos in the loss.
        change: that the prediction comes from, of a base that makes changes.
    """

    clean: Tensor
    predicted: Tensor
    target: Tensor
    weight: Tensor
    change: Change | None = None

    @property
    def loss(self) -> Tensor:
        """Mean square of what is missing."""
        missing = (self.predicted.float() - self.target.float()).square()
        return (self.weight * missing.mean((1, 2, 3))).mean()


class BaseStage(Stage):
    """The denoiser and its conditions, by the plain diffusion loss."""

    name = "base"
    config: BaseTraining

    def __init__(self, pipeline: BlurSynthPipeline, config: BaseTraining) -> None:
        self.pipeline, self.config = pipeline, config
        self.settings: dict[str, Any] = {"base": weights_digest(pipeline)}
        learns: dict[str, torch.nn.Parameter] = {}
        for part in config.parts:
            if (module := pipeline.components.get(part)) is None or part not in PARTS:
                raise ModelError(
                    f"The base has no part {part!r} that could learn: name some of "
                    f"{', '.join(PARTS)}."
                )
            module.requires_grad_(True)
            learns |= {f"{part}.{name}": value for name, value in module.named_parameters()}
        self.networks = {"denoiser": learns}

    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Iterator[Loss]:
        """Timesteps spread evenly over the batch; some photos without camera or map."""
        count, device = len(batch.sharp), batch.sharp.device
        last = self.pipeline.scheduler.config.num_train_timesteps
        timestep = spread(count, last, noise)
        draws = torch.rand(2, count, generator=noise)
        known = (draws[0] >= self.config.drop_physics).tolist()
        mapped = (draws[1] >= self.config.drop_maps).to(device)
        maps = batch.maps * mapped[:, None, None, None]
        made = denoise(self.pipeline, batch, timestep, noise, maps, known)
        total = made.loss
        told: dict[str, float | Tensor] = {"loss": total.detach()}
        if made.change is not None:
            surprise = made.change.surprise(made.clean).mean()
            total, told["surprise"] = total + SURPRISE * surprise, surprise.detach()
        yield Loss("denoiser", total, told)

    def validate(self, batch: Batch) -> tuple[dict[str, float], list[Tensor]]:
        """Loss at fixed noise; sharp, blurred by physics and generated photos."""
        noise = torch.Generator().manual_seed(0)
        last = self.pipeline.scheduler.config.num_train_timesteps
        losses = [
            float(denoise(self.pipeline, batch, timestep, noise, batch.maps).loss)
            for timestep in (spread(len(batch.sharp), last, noise) for _ in range(4))
        ]
        images = generate(self.pipeline, batch)
        shown = [batch.sharp[:CHECK_PHOTOS], batch.blurred[:CHECK_PHOTOS], images]
        return {"check": sum(losses) / len(losses)}, shown

    def save(self, folder: Path, batch: Batch) -> None:
        """The whole pipeline."""
        save_pipeline(self.pipeline, folder)


def denoise(
    pipeline: BlurSynthPipeline,
    batch: Batch,
    timestep: Tensor,
    noise: torch.Generator,
    maps: Tensor,
    known: Sequence[bool] | None = None,
) -> Denoised:
    """Add noise to the latents of the blurred photos, and predict it.

    Args:
        pipeline: that predicts.
        batch: of pairs.
        timestep: (B,) on the CPU.
        noise: on the CPU.
        maps: (B, 4, H, W) that are shown.
        known: false where the camera is not told; all are known without.
    """
    with torch.no_grad():
        content = pipeline.encode_content(batch.sharp)
        clean = pipeline.encode_blurred(batch.blurred, content, generator=noise).float()
    drawn = torch.randn(clean.shape, generator=noise).to(clean)
    timestep = timestep.to(clean.device)
    scheduler = pipeline.scheduler
    noisy = scheduler.add_noise(clean, drawn, timestep)
    target = drawn
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(clean, drawn, timestep)
    physics = pipeline.encode_physics(batch.cameras, batch.sharp, maps, known=known)
    predicted, change = predict(pipeline, noisy, timestep, combine(content, physics))
    weight = clean.new_ones(len(clean))
    if pipeline.config.change_scale is not None:
        # Else little would be learned but the noise of the noisiest photos.
        weight = (1 + LEAST_CHANGE) / (clean.square().mean((1, 2, 3)) + LEAST_CHANGE)
    return Denoised(clean, predicted, target, weight, change)


def sampled(
    pipeline: BlurSynthPipeline, batch: Batch, steps: int, noise: torch.Generator
) -> Tensor:
    """The sharp photos of a batch, blurred by the pipeline so that it can learn from the result.

    Only the last step of DDIM has a gradient, as in DRaFT-1 (Clark et al. 2024).

    Args:
        pipeline: that samples.
        batch: of pairs.
        steps: of DDIM.
        noise: on the CPU.

    Returns:
        (B, 3, H, W) float32 sRGB, not clamped.
    """
    with torch.no_grad():
        content = pipeline.encode_content(batch.sharp)
        physics = pipeline.encode_physics(batch.cameras, batch.sharp, batch.maps)
    condition = combine(content, physics)
    scheduler, z = pipeline.scheduler, pipeline.initial_latents(batch.sharp, noise)
    scheduler.set_timesteps(steps, device=z.device)
    for step, timestep in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(step == steps - 1):
            made = predict(pipeline, z, timestep, condition, sampling=True)
            z = scheduler.step(made.value, timestep, z).prev_sample
    return pipeline.decode_blurred(z, content)


def spread(count: int, last: int, noise: torch.Generator) -> Tensor:
    """(count,) timesteps below `last`, one in each of as many equal spans: less noise in the loss
    than if each were drawn alone."""
    spans = torch.randperm(count, generator=noise) + torch.rand(count, generator=noise)
    return (spans * last / count).long().clamp(max=last - 1)


def generate(pipeline: BlurSynthPipeline, batch: Batch) -> Tensor:
    """The first photos of a batch (B, 3, H, W) as the pipeline blurs them."""
    pipeline.set_progress_bar_config(disable=True)
    images: Tensor = pipeline(
        batch.sharp[:CHECK_PHOTOS],
        batch.cameras[:CHECK_PHOTOS],
        batch.maps[:CHECK_PHOTOS],
        num_inference_steps=CHECK_STEPS,
        generator=torch.Generator().manual_seed(0),
        output="pixels",
    ).images
    return images
