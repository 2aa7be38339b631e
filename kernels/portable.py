"""Fourier transforms and windows in a form that every runtime knows.

Inside the context `portable` all operations are traced as plain torch, transforms as products with
DFT matrices and windows as slices side by side: a graph that `torch.export` makes there holds
neither complex numbers nor operations of ours, and the height and width of its photo may be
dynamic.
"""

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

_active = False
_constants: dict[tuple[Hashable, ...], Tensor] = {}


class Spectrum(NamedTuple):
    """Real and imaginary part of what would otherwise be one complex tensor."""

    real: Tensor
    imag: Tensor


@contextmanager
def portable() -> Iterator[None]:
    """Trace in portable form inside this context; see `freqdiff.export`."""
    global _active
    before, _active = _active, True
    try:
        yield
    finally:
        _active = before
        _constants.clear()


def is_portable() -> bool:
    """Whether `portable` is on."""
    return _active


def unfold(values: Tensor, dim: int, size: int, step: int) -> Tensor:
    """`values.unfold(dim, size, step)`, dim >= 0: windows along an axis, their pixels last."""
    if not _active or size % step:
        return values.unfold(dim, size, step)
    cells: Tensor = values.unflatten(dim, (-1, step))  # type: ignore[no-untyped-call]
    count = cells.shape[dim] - size // step + 1
    parts = [cells.narrow(dim, first, count) for first in range(size // step)]
    return torch.cat(parts, dim + 1).movedim(dim + 1, -1)


def rfft2(blocks: Tensor) -> Tensor | Spectrum:
    """Half spectrum (..., P, P/2+1) of real (..., P, P), as `torch.fft.rfft2`."""
    if not _active:
        spectrum: Tensor = torch.fft.rfft2(blocks)
        return spectrum
    half = blocks.shape[-1] // 2 + 1
    cosine, sine = _waves(blocks.shape[-1], blocks.dtype)
    both = blocks @ torch.cat((cosine[:, :half], -sine[:, :half]), 1)
    both = torch.cat((cosine, -sine)) @ both
    # e^(-i a) e^(-i b): products of the real parts, of the imaginary parts, and mixed.
    upper, lower = both.chunk(2, -2)
    return Spectrum(
        upper[..., :half] - lower[..., half:],
        upper[..., half:] + lower[..., :half],
    )


def irfft2(spectrum: Tensor | Spectrum) -> Tensor:
    """Real (..., P, P) of a half spectrum (..., P, P/2+1), as `torch.fft.irfft2`.

    Args:
        spectrum: as of `rfft2`, or a tensor of real numbers alone.
    """
    if not _active:
        assert isinstance(spectrum, Tensor)
        side = spectrum.shape[-2]
        values: Tensor = torch.fft.irfft2(spectrum, s=(side, side))
        return values
    if isinstance(spectrum, Tensor):
        spectrum = Spectrum(spectrum, torch.zeros_like(spectrum))
    side, half = spectrum.real.shape[-2:]
    cosine, sine = _waves(side, spectrum.real.dtype)
    both = torch.cat((cosine, sine)) @ torch.cat((spectrum.real, spectrum.imag), -1)
    upper, lower = both.chunk(2, -2)
    real = upper[..., :half] - lower[..., half:]
    imag = upper[..., half:] + lower[..., :half]
    # The columns 0 < v < P/2 stand for two mirrored entries of the full plane.
    share = cosine.new_full((half, 1), 2 / side**2)
    share[0] = share[-1] = 1 / side**2
    return torch.cat((real, imag), -1) @ torch.cat((share * cosine[:half], -share * sine[:half]))


def multiply(spectrum: Tensor | Spectrum, factor: Spectrum) -> Tensor | Spectrum:
    """The product of complex numbers."""
    if isinstance(spectrum, Tensor):
        return spectrum * torch.complex(factor.real, factor.imag)
    return Spectrum(
        spectrum.real * factor.real - spectrum.imag * factor.imag,
        spectrum.real * factor.imag + spectrum.imag * factor.real,
    )


def _waves(side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi u n / P, (P, P)."""

    def make() -> Tensor:
        n = torch.arange(side)
        angle = 2 * math.pi * (n[:, None] * n % side).double() / side
        return torch.stack((angle.cos(), angle.sin())).to(dtype)

    cosine, sine = constant(("waves", side, dtype), make)
    return cosine, sine


def constant(key: tuple[Hashable, ...], make: Callable[[], Tensor]) -> Tensor:
    """What `make` gives, as a constant in the trace of code that ran in this context before.

    Runtimes then need not know how it is made.
    """
    if not _active or (torch.compiler.is_exporting() and key not in _constants):
        return make()
    if key not in _constants:
        _constants[key] = make()
    return _constants[key]
