"""What U-Net and ControlNet make of noisy latents, for sampling and for training."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from blursynth.diffusion_change import Change, change_of, velocity
from blursynth.diffusion_conditions import CONTENT_CHANNELS, Condition, map_noise


class Prediction(NamedTuple):
    """What a network tells of z_t.

    Attributes:
        value: (B, C, h, w) noise or velocity, as `scheduler.config.prediction_type` says.
        change: from which the velocity follows, of a base that makes changes.
    """

    value: Tensor
    change: Change | None = None


def predict(
    pipeline: Any,
    latents: Tensor,
    timestep: Tensor,
    condition: Condition,
    scale: float = 1.0,
    *,
    sampling: bool = False,
) -> Prediction:
    """Ask the networks of a pipeline.

    Args:
        pipeline: `BlurSynthPipeline`.
        latents: z_t, (B, C, h, w).
        timestep: (B,) or one for all.
        condition: c, of `combine`.
        scale: of what the ControlNet adds.
        sampling: draw what the network told, `Change.without_grain`.
    """
    known, seen = condition.latents, latents
    if known is not None:
        seen = torch.cat((latents, known.to(latents)), 1)
    residuals: dict[str, Any] = {}
    if scale != 0:
        down, middle = pipeline.controlnet(
            seen,
            timestep,
            encoder_hidden_states=condition.tokens,
            controlnet_cond=condition.control,
            conditioning_scale=scale,
            return_dict=False,
        )
        residuals = {
            "down_block_additional_residuals": down,
            "mid_block_additional_residual": middle,
        }
    made: Tensor = pipeline.unet(
        seen, timestep, encoder_hidden_states=condition.tokens, return_dict=False, **residuals
    )[0]
    if known is None:
        return Prediction(made)
    noise = map_noise(condition.control[:, CONTENT_CHANNELS:], (made.shape[-2], made.shape[-1]))
    change = change_of(made, known, noise, pipeline.config.change_scale)
    if sampling:
        change = change.without_grain(noise, pipeline.config.change_scale)
    share = pipeline.scheduler.alphas_cumprod.to(latents.device)[timestep]
    return Prediction(velocity(change, latents, share), change)
