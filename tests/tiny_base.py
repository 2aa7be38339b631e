"""A tiny untrained base of the diffusion engine, for tests."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from diffusers import AutoencoderKL

from blursynth.diffusion_base import (
    CodecConfig,
    DenoiserConfig,
    SmallBaseConfig,
    TextConfig,
    make_small_base,
    ready,
)
from blursynth.diffusion_pipeline import BlurSynthPipeline

TINY = SmallBaseConfig(
    codec=CodecConfig(width=8, latent_channels=4),
    text=TextConfig(width=16, layers=1, heads=2),
    denoiser=DenoiserConfig(widths=(8, 16), head=8, groups=4, control_widths=(8, 8, 8)),
    camera_tokens=2,
    change_scale=1.0,
)
MERGES = [("i", "s"), ("is", "o</w>"), ("f", "/</w>")]


def make_tiny(config: SmallBaseConfig = TINY) -> Any:
    """All of its layers take part: those that begin with zeros are filled."""
    pipeline = make_small_base(config, MERGES)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (pipeline.controlnet, pipeline.camera_encoder):
            for value in part.parameters():
                if not value.any():
                    fan_in = max(1, value[0].numel())
                    value.copy_(torch.randn(value.shape, generator=generator) / fan_in**0.5)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def like_stable_diffusion() -> Any:
    """The same as Stable Diffusion has it: its kind of VAE, and a U-Net for noisy latents alone."""
    parts = make_tiny(dataclasses.replace(TINY, change_scale=None)).components
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8),
            norm_num_groups=4,
            mid_block_add_attention=False,
            scaling_factor=1.0,
        )
    pipeline = ready(BlurSynthPipeline(**{**parts, "vae": vae}))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


tiny = functools.cache(make_tiny)
"""The same one for all tests that do not change it."""
