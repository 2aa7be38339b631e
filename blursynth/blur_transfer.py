"""The blur of one picture moved to another: kernels on a grid, and what kernels cannot do.

A photo that went through the encoder and decoder of a diffusion model has lost detail, which a
deblurrer must not learn to give back. So two pictures that went through them are compared, the
generated one and the sharp one, and what lies between them is done to the photo itself. It also
tells their errors from what they share: an instrumental variable (Reiersol 1945).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth.filtering import convolve_picture
from freqdiff import gaussian
from freqdiff.errors import InputError

STEP = 128
"""Pixels between the nodes of the kernels."""
RADIUS = 32
"""Of the kernels in pixels, a quarter of the side for small pictures; longer blur is cut there."""

_WINDOW = 2 * STEP
_LEAST_WINDOW = 64
_BLOCK = 32
_LEAST_POWER = 1e-6
# Kernels end where their values, in a Gaussian of so many pixels, are not above so many deviations
# of their error, or that share of the largest.
_SMOOTH, _CERTAIN, _FAINT = 1.0, 4.0, 0.02
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
def estimate_blur(blurred: Tensor, sharp: Tensor, photo: Tensor | None = None) -> BlurEstimate:
    """The kernels k of two pictures of the same thing, blurred = k * sharp.

    K = (P* B) / (P* S) for the spectra in windows around each node. A frequency counts as far as
    its power is above that of what the photo does not explain in the blurred picture; the rest is
    told by the kernel of the whole frame, and for that one by kernels that have no negative values
    and end at `RADIUS`, first the square root of what the blurred picture has of the power.

    Args:
        blurred, sharp: (3, H, W) linear light, at least 64 pixels on a side.
        photo: the same without the errors of the sharp picture; None: it has none.

    Raises:
        InputError: other shapes, or different ones.
    """
    photo = sharp if photo is None else photo
    if not blurred.shape == sharp.shape == photo.shape or sharp.ndim != 3 or sharp.shape[0] != 3:
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
    pictures = torch.stack((blurred.float(), sharp.float(), photo.float()))
    window = (min(_WINDOW, height), min(_WINDOW, width))
    radius = min(RADIUS, min(window) // 4)
    tops, lefts = (
        [min(max(i * STEP - n // 2, 0), side - n) for i in range(-(-side // STEP) + 1)]
        for side, n in zip((height, width), window, strict=True)
    )
    # One row of windows after the other, twice: those of a large picture would fill the memory.
    rows = [functools.partial(_spectra, pictures, top, lefts, window) for top in tops]
    whole = _overall(row() for row in rows)
    overall = _least_squares(whole, whole.loss(), window, radius, 8)
    prior = torch.fft.rfft2(_as_window(overall, window))
    kernels = torch.stack(
        [_least_squares(near, prior, window, radius, 4) for near in _with_neighbours(rows)]
    )
    blurred, sharp, _ = pictures
    residual = _in_blocks(blurred - _filter(sharp, kernels))
    return BlurEstimate(_centred(kernels), residual.clamp(-_MOST_RESIDUAL, _MOST_RESIDUAL))


class _Spectra(NamedTuple):
    """Products of the spectra of a row of windows, summed over the colours, (nx, P, Q/2+1).

    Attributes:
        after, before: complex, of the blurred and of the sharp picture with that of the photo.
        power: of the photo.
        power_after: of the blurred picture.
    """

    after: Tensor
    before: Tensor
    power: Tensor
    power_after: Tensor

    def error(self) -> Tensor:
        """Power of what no filter makes of the photo, |B|^2 (1 - coherence^2), over nine
        frequencies."""
        shared = _over_nine(self.after.real).square() + _over_nine(self.after.imag).square()
        told = shared / _over_nine(self.power).clamp_min(_LEAST_POWER)
        return 9 / 8 * (_over_nine(self.power_after) - told).clamp_min(0)

    def loss(self) -> Tensor:
        """What blur leaves of the amplitude, over nine frequencies, at most 1."""
        power = _over_nine(self.power).clamp_min(_LEAST_POWER)
        return (_over_nine(self.power_after) / power).sqrt().clamp(max=1)


def _least_squares(
    spectra: _Spectra, prior: Tensor, window: tuple[int, int], radius: int, rounds: int
) -> Tensor:
    """Kernels (..., k, k) of K = (B + e K0) / (S + e): K0, first the prior, then what the kernels
    of the last round have there, fills in the frequencies that the pictures lack."""
    power = spectra.before.abs()
    cross = spectra.after * torch.polar(torch.ones_like(power), -spectra.before.angle())
    doubt = spectra.error() + _LEAST_POWER
    for _ in range(rounds):
        kernels = _kernels((cross + doubt * prior) / (power + doubt), window, radius)
        prior = torch.fft.rfft2(_as_window(kernels, window))
    return kernels


def _over_nine(values: Tensor) -> Tensor:
    """Mean over 3 x 3 frequencies; rows go round."""
    rows = values + values.roll(1, -2) + values.roll(-1, -2)
    padded = F.pad(rows, (1, 1), mode="replicate")
    return (padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]) / 9


@torch.no_grad()
def apply_blur(light: Tensor, blur: BlurEstimate) -> Tensor:
    """A picture (3, H, W), of the size of the estimate's, in linear light, blurred alike."""
    size = (light.shape[-2], light.shape[-1])
    residual = F.interpolate(blur.residual[None], size, mode="bilinear", align_corners=False)[0]
    return (_filter(light.float(), blur.kernels) + residual).clamp_min(0)


def _filter(light: Tensor, kernels: Tensor) -> Tensor:
    return convolve_picture(light[None], kernels[None], STEP)[0]


def _spectra(pictures: Tensor, top: int, lefts: list[int], window: tuple[int, int]) -> _Spectra:
    """Of the blurred picture, the sharp one and the photo, (3, 3, H, W), in windows of a row."""
    taper = torch.outer(*(torch.hann_window(n, device=pictures.device) for n in window))
    parts = torch.stack(
        [pictures[..., top : top + window[0], left : left + window[1]] for left in lefts]
    )
    # Without its mean, whose taper would look like a structure that was not blurred.
    mean = (parts * taper).sum((-2, -1), keepdim=True) / taper.sum()
    after, before, own = torch.fft.rfft2((parts - mean) * taper).unbind(1)
    products = (own.conj() * after, own.conj() * before)
    powers = (own.abs().square(), after.abs().square())
    return _Spectra(*(one.sum(1) for one in (*products, *powers)))


def _overall(rows: Iterable[_Spectra]) -> _Spectra:
    """Mean of all windows, (1, P, Q/2+1)."""
    sums, count = [torch.zeros(())] * len(_Spectra._fields), 0
    for row in rows:
        sums = [total + one.sum(0, keepdim=True) for total, one in zip(sums, row, strict=True)]
        count += len(row.power)
    return _Spectra(*(total / count for total in sums))


def _with_neighbours(rows: Sequence[Callable[[], _Spectra]]) -> Iterator[_Spectra]:
    """Each row plus half of the four neighbours of its windows: they know a little of each other's
    blur, which changes slowly over the frame."""
    above, here = None, rows[0]()
    for number in range(len(rows)):
        below = rows[number + 1]() if number + 1 < len(rows) else None
        totals = []
        for place, one in enumerate(here):
            total = one.clone()
            total[1:] += 0.5 * one[:-1]
            total[:-1] += 0.5 * one[1:]
            for other in (above, below):
                if other is not None:
                    total += 0.5 * other[place]
            totals.append(total)
        yield _Spectra(*totals)
        above, here = here, below or here


def _kernels(transfer: Tensor, window: tuple[int, int], radius: int) -> Tensor:
    """Kernels (..., k, k) that light can have, nearest to transfer functions (..., P, Q/2+1).

    What lies outside of the support is error alone; the part inside that could be so too goes.
    """
    side = 2 * radius + 1
    picture = torch.fft.irfft2(transfer, s=window).roll((radius, radius), (-2, -1))
    kernels = picture[..., :side, :side]
    power = picture.square().sum((-2, -1)) - kernels.square().sum((-2, -1))
    error = (power.clamp_min(0) / (window[0] * window[1] - side * side)).sqrt()
    # White error shrinks so in the Gaussian.
    error = error / (2 * math.sqrt(math.pi) * _SMOOTH)
    planes = kernels.reshape(-1, 1, side, side)
    smooth = gaussian.smooth(planes, _SMOOTH, round(3 * _SMOOTH), "constant").view(kernels.shape)
    faint = torch.maximum(_CERTAIN * error, _FAINT * smooth.amax((-2, -1)))[..., None, None]
    kernels = torch.where(smooth > faint, kernels.clamp_min(0), 0.0)
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
