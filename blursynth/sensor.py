"""What happens after the lens: tone curve, highlights, noise and JPEG; batched, on any device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NATIVE_PX = 4000
"""Long side of the frames of a camera, in pixels; smaller ones were shrunk."""


def restore_highlights(linear: Tensor, gain: Tensor) -> Tensor:
    """Give saturated channels back the light that the sensor clipped (RSBlur, Rim et al. 2022).

    Args:
        linear: (B, 3, H, W) linear light in [0, 1].
        gain: (B,) light to add where a channel is saturated, >= 0.
    """
    if not bool(gain.any()):
        return linear
    saturated = (linear - 0.98).div_(0.02).clamp_(0, 1)
    return saturated.mul_(gain[:, None, None, None]).add_(linear)


def noise_levels(iso: Tensor) -> tuple[Tensor, Tensor]:
    """Shot gain and read variance of linear light at a sensitivity.

    Shot gain 1e-4 at ISO 100, proportional to ISO; read variance from the fit of Brooks et al.
    2019, log read = 2.18 log shot + 1.20.
    """
    shot = 1e-6 * iso
    return shot, torch.exp(2.18 * torch.log(shot) + 1.20)


def iso_of_frame(iso: float, frame_size: tuple[int, int]) -> float:
    """The sensitivity at which a camera's own pixels are as noisy as those of a frame.

    A frame whose long side has fewer than `NATIVE_PX` is a photo that was made smaller, which
    averages its noise: as with less ISO, in proportion. (Independent noise would fall faster; that
    of neighbours is alike after demosaicing and JPEG.)

    Args:
        iso: sensitivity of the camera; 0: no noise.
        frame_size: height and width of the frame, in pixels.
    """
    return iso * min(1.0, max(frame_size) / NATIVE_PX)


_LUMA_TABLE = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99"""
_CHROMA_TABLE = """
17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""


def dct_matrix(side: int, device: torch.device | None = None) -> Tensor:
    """The orthonormal cosine transform (side, side) of as many values; wave k is row k."""
    n = torch.arange(side, device=device, dtype=torch.float32)
    matrix = math.sqrt(2 / side) * torch.cos(math.pi * (2 * n + 1) * n[:, None] / (2 * side))
    matrix[0] /= math.sqrt(2)
    return matrix


def quantisation_tables(quality: Tensor) -> tuple[Tensor, Tensor]:
    """The steps (B, 8, 8) of luma and chroma that libjpeg uses at a quality (B,) of 1 .. 100."""
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)[:, None, None]
    luma, chroma = (
        torch.tensor([float(q) for q in text.split()], device=quality.device).view(8, 8)
        for text in (_LUMA_TABLE, _CHROMA_TABLE)
    )
    luma, chroma = (((t * scale + 50) / 100).floor().clamp(1, 255) for t in (luma, chroma))
    return luma, chroma


def _quantise_plane(plane: Tensor, table: Tensor) -> Tensor:
    batch, height, width = plane.shape
    matrix = dct_matrix(8, plane.device)
    blocks = plane.view(batch, height // 8, 8, width // 8, 8).transpose(2, 3)
    table = table[:, None, None]
    coefficients = torch.round(matrix @ blocks @ matrix.mT / table) * table
    return (matrix.mT @ coefficients @ matrix).transpose(2, 3).reshape(batch, height, width)


def jpeg(image: Tensor, quality: Tensor, subsample: bool = True) -> Tensor:
    """The loss of a baseline JPEG, without the file (ITU-T T.81, tables of Annex K).

    Args:
        image: (B, 3, H, W) in [0, 1]; any size (edge blocks are padded by replication).
        quality: (B,) 1 .. 100 on the scale of libjpeg.
        subsample: halve the colour resolution (4:2:0).
    """
    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 16, 0, -height % 16), mode="replicate") * 255
    r, g, b = padded.unbind(1)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = torch.stack(((b - luma) / 1.772, (r - luma) / 1.402), 1)
    if subsample:
        chroma = F.avg_pool2d(chroma, 2)
    tables = quantisation_tables(quality)
    luma = _quantise_plane(luma - 128, tables[0]) + 128
    chroma = torch.stack([_quantise_plane(plane, tables[1]) for plane in chroma.unbind(1)], 1)
    if subsample:
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    cb, cr = chroma.unbind(1)
    red, blue = luma + 1.402 * cr, luma + 1.772 * cb
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    result = torch.stack((red, green, blue), 1)[..., :height, :width]
    return (result.round() / 255).clamp(0, 1)
