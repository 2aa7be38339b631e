"""The blur of one picture moved to another: kernels on a grid, and what kernels cannot do.

A photo that went through the encoder and decoder of a diffusion model has lost detail, which a
deblurrer must not learn to give back. So two pictures that went through them are compared, the
generated one and the sharp one, and what lies between them is done to the photo itself.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth.filtering import convolve_picture
from freqdiff.errors import InputError

STEP = 128
"""Pixels between the nodes of the kernels."""
RADIUS = 32
"""Of the kernels in pixels, a quarter of the side for small pictures; longer blur is cut there."""

_WINDOW = 2 * STEP
_LEAST_WINDOW = 64
_BLOCK = 32
# What may be error of the decoder: shares of the mean power and of the power of the noise.
_DOUBT, _DOUBT_NOISE = 1e-3, 10.0
_LEAST_POWER = 1e-6
# Values of kernels that count: above so many deviations of their error, and share of the largest.
_CERTAIN, _FAINT = 3.0, 0.02
_MOST_RESIDUAL = 0.25


@dataclasses.dataclass(frozen=True)
class BlurEstimate:
    """What was done to a picture, in linear light.

    Attributes:
        kernels: (ny, nx, 2r+1, 2r+1) at nodes `STEP` pixels apart, none negative, each with sum 1
            and its centre of gravity in the middle, so that the blurred picture stays in place.
        residual: (3, h, w) light added, one value for a block of 32 x 32 pixels.
    """

    kernels: Tensor
    residual: Tensor

    def to(self, device: torch.device) -> BlurEstimate:
        """The same on another device."""
        return BlurEstimate(self.kernels.to(device), self.residual.to(device))


@torch.no_grad()
def estimate_blur(blurred: Tensor, sharp: Tensor) -> BlurEstimate:
    """The kernels k of least squares between two pictures of the same thing, blurred = k * sharp.

    Estimated in windows around each node. Where a frequency is missing in the sharp picture, the
    kernel of the whole frame tells it, and where that is not known, kernels that have no negative
    values and end at `RADIUS`; the first guess is no blur.

    Args:
        blurred, sharp: (3, H, W) linear light, at least 64 pixels on a side.

    Raises:
        InputError: other shapes, or different ones.
    """
    if blurred.shape != sharp.shape or sharp.ndim != 3 or sharp.shape[0] != 3:
        raise InputError(
            f"Expected two pictures (3, H, W) of one size, got {tuple(blurred.shape)} and "
            f"{tuple(sharp.shape)}."
        )
    height, width = sharp.shape[1:]
    if min(height, width) < _LEAST_WINDOW:
        raise InputError(
            f"Expected pictures of at least {_LEAST_WINDOW} px on a side, got "
            f"{tuple(sharp.shape)}: take larger ones."
        )
    blurred, sharp = blurred.float(), sharp.float()
    window = (min(_WINDOW, height), min(_WINDOW, width))
    radius = min(RADIUS, min(window) // 4)
    cross, power = _spectra(blurred, sharp, window)
    doubt = _DOUBT * power.mean() + _DOUBT_NOISE * _noise_power(power, window) + _LEAST_POWER
    mean_cross, mean_power = (x.mean((0, 1), keepdim=True) for x in (cross, power))
    unblurred = torch.ones_like(mean_cross)
    overall = _least_squares(mean_cross, mean_power, doubt, unblurred, window, radius, 8)
    # Neighbours know a little of each other's blur: it changes slowly over the frame.
    cross, power = torch.complex(_smoothed(cross.real), _smoothed(cross.imag)), _smoothed(power)
    prior = torch.fft.rfft2(_as_window(overall, window))
    kernels = _least_squares(cross, power, doubt, prior, window, radius, 2)
    residual = _in_blocks(blurred - _filter(sharp, kernels))
    return BlurEstimate(_centred(kernels), residual.clamp(-_MOST_RESIDUAL, _MOST_RESIDUAL))


def _least_squares(
    cross: Tensor,
    power: Tensor,
    doubt: Tensor,
    prior: Tensor,
    window: tuple[int, int],
    radius: int,
    rounds: int,
) -> Tensor:
    """Kernels (..., k, k) of K = (conj(S) B + e K0) / (|S|^2 + e): K0, first the prior, then what
    the kernels of the last round have there, fills in the frequencies that the pictures lack."""
    for _ in range(rounds):
        kernels = _kernels((cross + doubt * prior) / (power + doubt), window, radius)
        prior = torch.fft.rfft2(_as_window(kernels, window))
    return kernels


@torch.no_grad()
def apply_blur(light: Tensor, blur: BlurEstimate) -> Tensor:
    """A picture (3, H, W), of the size of the estimate's, in linear light, blurred alike."""
    size = (light.shape[-2], light.shape[-1])
    residual = F.interpolate(blur.residual[None], size, mode="bilinear", align_corners=False)[0]
    return (_filter(light.float(), blur.kernels) + residual).clamp_min(0)


def _filter(light: Tensor, kernels: Tensor) -> Tensor:
    return convolve_picture(light[None], kernels[None], STEP)[0]


def _spectra(blurred: Tensor, sharp: Tensor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cross spectra (ny, nx, P, Q/2+1) of both pictures around the nodes, and power of the sharp
    one, summed over the colours. Windows stay within the picture."""
    taper = torch.outer(*(torch.hann_window(n, device=sharp.device) for n in window))
    rows, columns = (
        [min(max(i * STEP - n // 2, 0), side - n) for i in range(-(-side // STEP) + 1)]
        for side, n in zip(sharp.shape[1:], window, strict=True)
    )

    def spectrum(picture: Tensor, top: int, left: int) -> Tensor:
        # Without its mean, whose taper would look like a structure that was not blurred.
        part = picture[:, top : top + window[0], left : left + window[1]]
        mean = (part * taper).sum((1, 2), keepdim=True) / taper.sum()
        transformed: Tensor = torch.fft.rfft2((part - mean) * taper)
        return transformed

    cross, power = [], []
    for top in rows:
        for left in columns:
            before, after = (spectrum(picture, top, left) for picture in (sharp, blurred))
            cross.append((before.conj() * after).sum(0))
            power.append(before.abs().square().sum(0))
    grid = (len(rows), len(columns), *power[0].shape)
    return torch.stack(cross).view(grid), torch.stack(power).view(grid)


def _noise_power(power: Tensor, window: tuple[int, int]) -> Tensor:
    """Mean power (ny, nx, P, Q/2+1) where photos have next to none: above 0.45 cycles a pixel."""
    rows = torch.fft.fftfreq(window[0], device=power.device).abs()
    columns = torch.fft.rfftfreq(window[1], device=power.device)
    fine = torch.maximum(rows[:, None], columns) > 0.45
    return power[..., fine].mean()


def _smoothed(grid: Tensor) -> Tensor:
    """Values (ny, nx, P, Q) on the grid plus half of those of their four neighbours."""
    total = grid.clone()
    total[1:] += 0.5 * grid[:-1]
    total[:-1] += 0.5 * grid[1:]
    total[:, 1:] += 0.5 * grid[:, :-1]
    total[:, :-1] += 0.5 * grid[:, 1:]
    return total


def _kernels(transfer: Tensor, window: tuple[int, int], radius: int) -> Tensor:
    """Kernels (..., k, k) that light can have, nearest to transfer functions (..., P, Q/2+1).

    What lies outside of the support is error alone; the part inside that could be so too goes.
    """
    side = 2 * radius + 1
    picture = torch.fft.irfft2(transfer, s=window).roll((radius, radius), (-2, -1))
    kernels = picture[..., :side, :side]
    power = picture.square().sum((-2, -1)) - kernels.square().sum((-2, -1))
    error = (power.clamp_min(0) / (window[0] * window[1] - side * side)).sqrt()
    faint = torch.maximum(_CERTAIN * error, _FAINT * kernels.amax((-2, -1)))[..., None, None]
    kernels = torch.where(kernels > faint, kernels, 0.0)
    empty = kernels.sum((-2, -1)) <= 0
    kernels[..., radius, radius] += empty
    normal: Tensor = kernels / kernels.sum((-2, -1), keepdim=True)
    return normal


def _centred(kernels: Tensor) -> Tensor:
    """The same kernels moved by parts of a pixel, so that their centre of gravity is the middle."""
    side = kernels.shape[-1]
    line = torch.linspace(-1, 1, side, device=kernels.device)
    x, y = (kernels.sum(axis) @ line for axis in (-2, -1))
    rows = [torch.stack(row, -1) for row in ((x * 0 + 1, x * 0, x), (y * 0, y * 0 + 1, y))]
    flat = kernels.reshape(-1, 1, side, side)
    grid = F.affine_grid(torch.stack(rows, -2).reshape(-1, 2, 3), list(flat.shape), True)
    moved = F.grid_sample(flat, grid, align_corners=True).view(kernels.shape)
    normal: Tensor = moved / moved.sum((-2, -1), keepdim=True)
    return normal


def _as_window(kernels: Tensor, window: tuple[int, int]) -> Tensor:
    """Kernels (..., k, k) as pictures of the window's size with their middle at its corner."""
    side = kernels.shape[-1]
    padded = F.pad(kernels, (0, window[1] - side, 0, window[0] - side))
    return padded.roll((-(side // 2), -(side // 2)), (-2, -1))


def _in_blocks(picture: Tensor) -> Tensor:
    rows, columns = (max(1, side // _BLOCK) for side in picture.shape[1:])
    return F.adaptive_avg_pool2d(picture[None], (rows, columns))[0]
