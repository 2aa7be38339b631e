"""Whether a blurred photo still lies on its sharp one: the alignment certificate of a pair."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff.errors import InputError
from freqdiff.tone import srgb_to_linear

MAX_SHIFT_PX = 0.3
MIN_LOW_BAND_DB = 20.0
# Measured on crops of 256 px from 4K photos: 99 % of the centred pairs of the physics engine pass,
# 100 % of those with motion of 12 to 32 px. Of pairs moved by 0.5 px, 70 % fail under defocus up to
# 4 px (all where the crop is full of texture), and none under strong motion, which has no exact
# middle to measure.
_DOUBT = 1.5

_BANDS = (1 / 24, 1 / 12, 1 / 8)
_BLOCK = 64
_LUMINANCE = (0.2126, 0.7152, 0.0722)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """How well a pair is aligned.

    Attributes:
        shift_px: length of the shift between the photos by phase correlation, in pixels.
        doubt_px: how far the shifts of single frequency bands are from it: small for a photo that
            was moved, large for a blur that is not symmetric.
        low_band_psnr_db: PSNR of the means over blocks of 64 px, at most 99 dB: colour and content.
    """

    shift_px: float
    doubt_px: float
    low_band_psnr_db: float

    @property
    def passed(self) -> bool:
        """Whether the pair can be used for training."""
        certain_shift = self.shift_px - _DOUBT * self.doubt_px
        return certain_shift <= MAX_SHIFT_PX and self.low_band_psnr_db >= MIN_LOW_BAND_DB


def certify(sharp: Tensor, blurred: Tensor) -> Certificate:
    """Measure how well a pair is aligned.

    Blur that is centred leaves the phase of low frequencies as it is, and a shift d turns it by
    -2 pi f.d. The slope is fitted below 1/8 cycles per pixel, weighted by the cross power.

    Args:
        sharp, blurred: (3, H, W) sRGB in [0, 1], at least 64 px on a side.

    Raises:
        InputError: other shapes, or different ones.
    """
    if sharp.shape != blurred.shape or sharp.ndim != 3 or sharp.shape[0] != 3:
        raise InputError(
            f"Expected two photos (3, H, W) of one size, got {tuple(sharp.shape)} and "
            f"{tuple(blurred.shape)}: give a pair."
        )
    if min(sharp.shape[1:]) < 64:
        raise InputError(
            f"Expected photos of at least 64 px on a side, got {tuple(sharp.shape)}: take more."
        )
    height, width = sharp.shape[1:]
    fy = torch.fft.fftfreq(height, device=sharp.device)[:, None].expand(-1, width // 2 + 1)
    fx = torch.fft.rfftfreq(width, device=sharp.device).expand(height, -1)
    radius = torch.hypot(fy, fx)
    # Of a frequency and its negative, which lie both in the first column, one is enough.
    used = (radius < _BANDS[-1]) & ~((fx == 0) & (fy <= 0))
    cross = (_spectrum(blurred)[used] * _spectrum(sharp)[used].conj()).to(torch.complex128)
    frequency, radius = torch.stack((fy[used], fx[used]), 1).double(), radius[used]
    low = radius < _BANDS[0]
    # From coarse to fine, so that a shift of several pixels does not wrap around.
    shift = _slope(cross[low], frequency[low], cross.real.new_zeros(2))
    shift = _slope(cross, frequency, shift)
    doubt = 0.0
    for inner, outer in zip((0.0, *_BANDS), _BANDS, strict=False):
        band = (radius >= inner) & (radius < outer)
        own = _slope(cross[band], frequency[band], torch.zeros_like(shift))
        doubt = max(doubt, float((own - shift).norm()))
    difference = F.avg_pool2d((sharp - blurred).float()[None], _BLOCK).square().mean()
    low_band = 10 * math.log10(1 / max(float(difference), 10**-9.9))
    return Certificate(float(shift.norm()), doubt, low_band)


def _spectrum(image: Tensor) -> Tensor:
    """Spectrum of the luminance without its mean, tapered to the edges.

    Lenses blur light, not sRGB values: there every bright edge seems to move into the dark.
    """
    weights = image.new_tensor(_LUMINANCE, dtype=torch.float32)
    luma = torch.einsum("c,chw->hw", weights, srgb_to_linear(image.float()))
    rows, columns = (torch.hann_window(n, periodic=False, device=luma.device) for n in luma.shape)
    taper = rows[:, None] * columns
    spectrum: Tensor = torch.fft.rfft2((luma - (luma * taper).sum() / taper.sum()) * taper)
    return spectrum


def _slope(cross: Tensor, frequency: Tensor, start: Tensor) -> Tensor:
    """The shift (y, x) whose phases -2 pi f.d fit a cross spectrum best, weighted by its power."""
    shift = start
    directions = -2 * math.pi * frequency
    for _ in range(4):
        rest = cross * torch.exp(-1j * (directions @ shift))
        phase = rest.angle()
        # Phases on the far side of the circle say nothing about a small remaining shift.
        weight = rest.abs() * phase.cos().clamp_min(0)
        weighted = directions * weight[:, None]
        normal = weighted.mT @ directions
        ridge = 1e-9 * normal.trace() + 1e-30
        normal = normal + ridge * torch.eye(2, dtype=normal.dtype, device=normal.device)
        shift = shift + torch.linalg.solve(normal, weighted.mT @ phase)
    return shift
