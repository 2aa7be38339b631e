"""The blurred photo that a physics map foretells."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blursynth import optics
from blursynth.diffusion_conditions import map_lengths
from blursynth.filtering import convolve_picture
from freqdiff.tone import linear_to_srgb, srgb_to_linear
from freqdiff_kernels import ops

STEP = 128
"""Pixels between the nodes of the kernels."""
_PATH_POINTS = 64


@torch.no_grad()
def foretell(sharp: Tensor, maps: Tensor) -> Tensor:
    """Photos (B, 3, H, W), sRGB in [0, 1], blurred as their maps say, without noise.

    By even straight motion and a round aperture, with kernels at nodes `STEP` pixels apart.

    Args:
        sharp: (B, 3, H, W) sRGB in [0, 1].
        maps: (B, 4, H, W) of `physics_map`.
    """
    rows, columns = (
        (torch.arange(-(-side // STEP) + 1, device=maps.device) * STEP).clamp(max=side - 1)
        for side in maps.shape[-2:]
    )
    motion, defocus = map_lengths(maps[:, :, rows][..., columns].float())
    extent = torch.hypot(*motion.unbind(-1)) + defocus.abs()
    radius = 16 * math.ceil((float(extent.max()) / 2 + 2) / 16)
    line = (torch.arange(_PATH_POINTS, device=maps.device) + 0.5) / _PATH_POINTS - 0.5
    weights = torch.full(line.shape, 1 / len(line), device=maps.device)
    paths = motion[..., None, :] * line[:, None]
    kernels = ops.rasterize_paths(paths, weights.expand(paths.shape[:-1]), radius)
    kernels = optics.convolve_kernels(kernels, optics.aperture_kernel(defocus, radius))
    light = convolve_picture(srgb_to_linear(sharp.float()), kernels, STEP)
    return linear_to_srgb(light.clamp(0, 1)).to(sharp.dtype)
