"""A tiny untrained base of the diffusion engine, for tests."""

from __future__ import annotations

import functools
from typing import Any

import torch

from blursynth.diffusion_base import (
    CodecConfig,
    DenoiserConfig,
    SmallBaseConfig,
    TextConfig,
    make_small_base,
)

TINY = SmallBaseConfig(
    codec=CodecConfig(widths=(8, 8, 8), groups=4),
    text=TextConfig(width=16, layers=1, heads=2),
    denoiser=DenoiserConfig(widths=(8, 16), head=8, groups=4, control_widths=(8, 8, 8)),
    camera_tokens=2,
)
MERGES = [("i", "s"), ("is", "o</w>"), ("f", "/</w>")]


def make_tiny() -> Any:
    """All of its layers take part: those that begin with zeros are filled."""
    pipeline = make_small_base(TINY, MERGES)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in (pipeline.controlnet, pipeline.camera_encoder):
            for value in part.parameters():
                if not value.any():
                    fan_in = max(1, value[0].numel())
                    value.copy_(torch.randn(value.shape, generator=generator) / fan_in**0.5)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


tiny = functools.cache(make_tiny)
"""The same one for all tests that do not change it."""
