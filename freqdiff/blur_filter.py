"""Windowed filters with an estimated blur: the Wiener filter that undoes it, and the blur itself.

The Wiener filter X = Y (1 + m (W - 1)), W = (conj(K) + n) / (|K|^2 + n), inverts long motion
exactly where a small network cannot; overlap-added, X is the anchor g(y) of the diffusion. With
this W it minimises |K X - Y|^2 + n |X - Y|^2: where noise or blur left nothing to invert, the photo
stays, and so it does at m = 0.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff_kernels import portable
from freqdiff_kernels.portable import Spectrum
from freqdiff_kernels.reference import taper_weights

CELL = 32
"""Pitch of the blur estimate in pixels."""
WINDOW = 2 * CELL
PSF_RADIUS = 16
PSF_SIDE = 2 * PSF_RADIUS + 1
NOISE_BANDS = 4
_VALUES_AT_ONCE = 1 << 21
"""Window values that are filtered at once on a CPU: small results stay in the cache, and the
memory of large ones is new every time (2 cores of an AMD EPYC, 4K: 1.5 -> 0.6 s)."""
_MARGIN = (WINDOW - CELL) // 2


@dataclasses.dataclass(frozen=True)
class BlurField:
    """The estimated blur of each cell; R and C are rows and columns of cells.

    Attributes:
        log_psf: (B, R, C, 33 * 33) logarithm of the kernel, whose values sum to 1.
        log_noise: (B, R, C, 4) logarithm of the noise to signal ratio n at 0, 1/6, 1/3 and 1/2
            cycles per pixel; between them it is linear.
        trust: (B, R, C) m, 0: leave the photo, 1: the full Wiener filter.
    """

    log_psf: Tensor
    log_noise: Tensor
    trust: Tensor

    @property
    def _maps(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.log_psf, self.log_noise, self.trust

    def part(self, rows: slice, columns: slice = slice(None)) -> BlurField:
        """The estimates for some cells."""
        return BlurField(*(values[:, rows, columns] for values in self._maps))

    @staticmethod
    def joined(parts: Sequence[BlurField], axis: int) -> BlurField:
        """The estimates of parts that lie below each other (axis 1) or side by side (axis 2)."""
        maps = zip(*(part._maps for part in parts), strict=True)
        return BlurField(*(torch.cat(values, axis) for values in maps))


def wiener(y: Tensor, blur: BlurField) -> Tensor:
    """Windowed Wiener filter, g(y).

    Args:
        y: (B, 3, H, W), H and W multiples of 32, any range.
        blur: of its cells.

    Returns:
        (B, 3, H, W).
    """
    return _filter_windows(y, lambda rows: _wiener_change(blur, rows))


def reblur(x: Tensor, blur: BlurField) -> Tensor:
    """The photo x (B, 3, H, W) blurred by the estimated kernels; sizes as for `wiener`."""

    def change(rows: slice) -> Spectrum:
        transfer = _transfer(blur, rows)
        return Spectrum(transfer.real - 1, transfer.imag)

    return _filter_windows(x, change)


def _filter_windows(photo: Tensor, change: Callable[[slice], Spectrum]) -> Tensor:
    """Photo + what `change` of some rows of cells, (B, rows, C, 64, 33), makes of it.

    Hann windows of 64 px around each cell, overlap-added.
    """
    height, width = photo.shape[-2:]
    rows = height // CELL
    # Blur leaves means alone, so the filter gets what is above them: flat areas stay flat.
    means = F.avg_pool2d(F.avg_pool2d(photo, 4), CELL // 4)  # twice: for a GPU, more at once
    detail = photo - F.interpolate(means, scale_factor=CELL, mode="bilinear")
    padded = F.pad(detail, (_MARGIN,) * 4, mode="reflect")
    taper = taper_weights(WINDOW, "hann", photo.dtype, photo.device)

    def filtered(part: slice) -> Tensor:
        span = slice(part.start * CELL, part.stop * CELL + 2 * _MARGIN)
        windows = portable.unfold(padded[:, :, span], 2, WINDOW, CELL)
        windows = portable.unfold(windows, 3, WINDOW, CELL)
        spectrum = portable.rfft2(windows * (taper[:, None] * taper))
        factor = change(part)
        factor = Spectrum(factor.real[:, None], factor.imag[:, None])
        return portable.irfft2(portable.multiply(spectrum, factor))

    if portable.is_portable():
        total = _overlap_add(filtered(slice(0, rows)))
    else:
        total = torch.zeros_like(padded)
        row_values = photo.shape[:2].numel() * WINDOW**2 * (width // CELL)
        step = rows if photo.is_cuda else 2 * max(1, _VALUES_AT_ONCE // (2 * row_values))
        for first in range(0, rows, step):
            _add_windows(total, filtered(slice(first, min(first + step, rows))), first)
    # Two windows overlap everywhere but at the border of the frame.
    gains = [_border_gain(taper, length) for length in (height, width)]
    return photo + total[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN] * torch.outer(*gains)


def _add_windows(total: Tensor, filtered: Tensor, first: int) -> None:
    """Add windows (B, 3, rows, C, 64, 64) at their places in `total`, from cell row `first` on."""
    # Every other window: side by side, without overlap.
    for down, across in itertools.product((0, 1), repeat=2):
        windows = filtered[:, :, down::2, across::2].transpose(3, 4)
        top, left = (first + down) * CELL, across * CELL
        size = (windows.shape[2] * WINDOW, windows.shape[4] * WINDOW)
        total[:, :, top : top + size[0], left : left + size[1]].view_as(windows).add_(windows)


def _overlap_add(filtered: Tensor) -> Tensor:
    """The sum of windows (B, 3, R, C, 64, 64) at their places, in portable form."""
    left, right = filtered.chunk(2, -1)
    strips = F.pad(left, (0, 0, 0, 0, 0, 1)) + F.pad(right, (0, 0, 0, 0, 1, 0))
    upper, lower = strips.chunk(2, -2)
    cells = F.pad(upper, (0, 0, 0, 0, 0, 0, 0, 1)) + F.pad(lower, (0, 0, 0, 0, 0, 0, 1, 0))
    return cells.transpose(3, 4).flatten(4, 5).flatten(2, 3)


def kernels_of(log_psf: Tensor) -> Tensor:
    """`BlurField.log_psf` (..., 33 * 33) as kernels (..., 33, 33) of sum 1."""
    return log_psf.exp().reshape(*log_psf.shape[:-1], PSF_SIDE, PSF_SIDE)


def _border_gain(taper: Tensor, length: int) -> Tensor:
    """1 / the sum of the tapers along an axis."""
    edge = 1 / taper[_MARGIN:CELL]
    return torch.cat((edge, taper.new_ones(length - 2 * _MARGIN), edge.flip(0)))


def window_frequencies(device: torch.device) -> Tensor:
    """Radial frequency (64, 33) of a window's half spectrum in cycles per pixel."""

    def make() -> Tensor:
        fy = torch.fft.fftfreq(WINDOW, device=device)[:, None]
        return torch.hypot(fy, torch.fft.rfftfreq(WINDOW, device=device))

    return portable.constant(("frequencies",), make)


def _transfer(blur: BlurField, rows: slice) -> Tensor | Spectrum:
    """K of some rows of cells: (B, rows, C, 64, 33) complex."""
    kernels = kernels_of(blur.log_psf[:, rows])
    pad = WINDOW - PSF_SIDE
    centred = F.pad(kernels, (0, pad, 0, pad)).roll((-PSF_RADIUS, -PSF_RADIUS), (-2, -1))
    return portable.rfft2(centred)


def _wiener_change(blur: BlurField, rows: slice) -> Spectrum:
    """m (W - 1) = m (conj(K) - |K|^2) / (|K|^2 + n) of some rows of cells: (B, rows, C, 64, 33)."""
    log_noise, trust = blur.log_noise[:, rows], blur.trust[:, rows]
    transfer = _transfer(blur, rows)
    knots = torch.arange(NOISE_BANDS, device=trust.device)[:, None, None]
    position = (2 * (NOISE_BANDS - 1) * window_frequencies(trust.device)).clamp(max=NOISE_BANDS - 1)
    hats = (1 - (position - knots).abs()).clamp_min(0)
    noise = torch.exp(torch.tensordot(log_noise, hats, 1).clamp(-12, 8))
    power = transfer.real.square() + transfer.imag.square()
    share = trust[..., None, None] / (power + noise)
    return Spectrum((transfer.real - power) * share, -transfer.imag * share)
