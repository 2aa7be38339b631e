"""Large photos in tiles that are stitched after every step, and how large tiles may be."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from freqdiff.errors import InputError
from freqdiff.tiling import TilePlan, plan_tiles, smallest_tile
from freqdiff_kernels import ops

LARGEST = 128
"""Side of a tile in latents up to which attention, which grows with its square, is worth it."""
_HALO, _BLEND = 8, 16
_CPU_BYTES = 2 << 30
_GPU_SHARE = 0.6
# Activations that live at once, in maps of each level: for each of its blocks, and in all.
_DENOISER_MAPS, _CODEC_MAPS = 11, 4


def apply_tiled(
    function: Callable[[Tensor, tuple[int, int]], Tensor],
    frame: Tensor,
    plan: TilePlan,
    scale_in: int = 1,
    scale_out: int = 1,
) -> Tensor:
    """A function of a frame, computed tile by tile and blended by `stitch_tiles`.

    Args:
        function: of a tile (B, C, th * scale_in, tw * scale_in) and its first row and column in the
            plan; gives (B, C', th * scale_out, tw * scale_out).
        frame: (B, C, H * scale_in, W * scale_in) for a plan of (H, W).
        plan: which tiles.
        scale_in, scale_out: what a pixel of the plan is in the frame and in the result.

    Returns:
        (B, C', H * scale_out, W * scale_out).
    """
    if len(plan.positions) == 1:
        return function(frame, (0, 0))
    size, starts = _scaled(plan.tile, scale_in), _starts(plan, scale_in)
    tiles = torch.stack([ops.extract_tiles(one, size, starts) for one in frame], 1)
    made = torch.stack(
        [function(tile, place) for tile, place in zip(tiles, plan.positions, strict=True)], 1
    )
    del tiles
    whole = _scaled(plan.size, scale_out)
    starts, margin = _starts(plan, scale_out), plan.margin * scale_out
    return torch.stack([ops.stitch_tiles(one, starts, whole, margin) for one in made])


def _scaled(size: tuple[int, int], scale: int) -> tuple[int, int]:
    return size[0] * scale, size[1] * scale


def _starts(plan: TilePlan, scale: int) -> tuple[list[int], list[int]]:
    rows, columns = plan.starts
    return [scale * y for y in rows], [scale * x for x in columns]


def denoiser_tiles(unet: Any, size: tuple[int, int], largest: int) -> TilePlan:
    """Tiles of latents (H, W) for the U-Net, whose sides are multiples of `alignment`.

    Raises:
        InputError: `largest` (in latents) is too small to overlap.
    """
    return _plan(size, largest, alignment(unet))


def codec_tiles(size: tuple[int, int], largest: int) -> TilePlan:
    """Tiles of latents (H, W) for the VAE.

    Raises:
        InputError: `largest` (in latents) is too small to overlap.
    """
    return _plan(size, largest, 1)


def _plan(size: tuple[int, int], largest: int, unit: int) -> TilePlan:
    least = smallest_tile(_HALO, alignment=unit, blend=_BLEND)
    if largest < max(size) and largest // unit * unit < least:
        raise InputError(
            f"Tiles of {largest} latents are too small, this base needs {least}: "
            "give a larger tile, or None."
        )
    return plan_tiles(size, largest, _HALO, alignment=unit, blend=_BLEND)


def alignment(unet: Any) -> int:
    """What the sides of a tile of latents are multiples of: the U-Net halves them that often."""
    return int(2 ** (len(unet.config.block_out_channels) - 1))


def pitch(vae: Any) -> int:
    """Pixels that a latent stands for, on a side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def denoiser_bytes(unet: Any, dtype: torch.dtype, batch: int = 2) -> float:
    """Memory of activations for each latent in a tile, when U-Net and ControlNet are evaluated."""
    blocks = unet.config.layers_per_block
    most = blocks if isinstance(blocks, int) else max(blocks)
    maps = most * _maps(unet.config.block_out_channels)
    return float(batch * dtype.itemsize * _DENOISER_MAPS * maps)


def codec_bytes(vae: Any, dtype: torch.dtype) -> float:
    """Memory of activations for each latent in a tile, when the VAE decodes."""
    maps = getattr(vae, "maps_at_once", _CODEC_MAPS)
    return float(dtype.itemsize * maps * _maps(vae.config.block_out_channels) * pitch(vae) ** 2)


def _maps(widths: tuple[int, ...]) -> float:
    """Values for each latent in one map of every level."""
    return sum(width * 0.25**level for level, width in enumerate(widths))


def largest_tile(bytes_per_latent: float, device: torch.device, unit: int = 1) -> int:
    """Side in latents of the largest tile that the memory allows, at least the smallest one."""
    side = int(math.sqrt(free_bytes(device) / bytes_per_latent)) // unit * unit
    return max(min(side, LARGEST), smallest_tile(_HALO, alignment=unit, blend=_BLEND))


def free_bytes(device: torch.device) -> float:
    """Memory that tiles may use: a share of what is free on a GPU; on a CPU half of what is free,
    but not more than 2 GiB, beyond which nothing gets faster."""
    if device.type == "cuda":
        return _GPU_SHARE * torch.cuda.mem_get_info(device)[0]
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return _CPU_BYTES
    # Free pages do not count what the system would give back: never below a quarter of the limit.
    return max(min(free / 2, _CPU_BYTES), _CPU_BYTES / 4)
