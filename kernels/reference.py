"""What each operation means, in plain torch.

This file is the specification, the fallback where no kernel is built, and the oracle of the tests.
It works for every floating dtype; 16-bit inputs are computed in float32. Arguments are checked by
the public functions of `freqdiff_kernels.ops`, not here.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff_kernels import portable
from freqdiff_kernels.portable import Spectrum

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Rec. 601 weights of red, green and blue."""


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which values of `dtype` are computed: float64 stays, the rest is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def fold_index(start: int, count: int, size: int, device: torch.device) -> Tensor:
    """Indices of `count` pixels from `start` on, reflected into [0, size).

    The border pixel is not repeated. The reflection folds as often as needed; an axis of one pixel
    always gives 0.
    """
    index = torch.arange(start, start + count, device=device)
    if size == 1:
        return torch.zeros_like(index)
    period = 2 * (size - 1)
    index = torch.remainder(index, period)
    return torch.minimum(index, period - index)


def noise_floor(window: int) -> float:
    """RMS magnitude that 8-bit rounding noise gives to a DFT bin of a window x window block."""
    return window / (255 * math.sqrt(12))


def taper_weights(window: int, taper: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One axis of the separable taper, shape (window,)."""
    if taper == "none":
        return torch.ones(window, dtype=dtype, device=device)
    n = torch.arange(window, dtype=torch.float64, device=device)
    return (0.5 - 0.5 * torch.cos(2 * math.pi * (n + 0.5) / window)).to(dtype)


def planes(image: Tensor, layout: str) -> Tensor:
    """The analysed planes of an RGB image (B, 3, H, W): (B, 1, H, W) for luma, else all three."""
    values = image.to(compute_dtype(image.dtype))
    if image.dtype == torch.uint8:
        values = values / 255
    if layout == "rgb":
        return values
    red, green, blue = LUMA_WEIGHTS
    return (red * values[:, 0] + green * values[:, 1] + blue * values[:, 2])[:, None]


def windows_of(values: Tensor, window: int, stride: int) -> Tensor:
    """Windows centred on the tokens: (B, G, H, W) -> (B, H/S, W/S, G, P, P), reflected outside."""
    height, width = values.shape[-2:]
    margin = (window - stride) // 2
    if portable.is_portable():
        padded = F.pad(values, (margin,) * 4, mode="reflect")
    else:
        rows = fold_index(-margin, height + 2 * margin, height, values.device)
        columns = fold_index(-margin, width + 2 * margin, width, values.device)
        padded = values.index_select(2, rows).index_select(3, columns)
    blocks = portable.unfold(portable.unfold(padded, 2, window, stride), 3, window, stride)
    return blocks.permute(0, 2, 3, 1, 4, 5)


def centre_signs(window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(-1)^(u+v) for the half spectrum (P, P/2+1): moves the phase origin to the window centre."""
    sign = 1 - 2 * (torch.arange(window, device=device) % 2)
    return (sign[:, None] * sign[None, : window // 2 + 1]).to(dtype)


def pack_half_plane(spectrum: Tensor | Spectrum) -> tuple[Tensor, Tensor]:
    """Half spectrum (..., P, P/2+1) -> real and imaginary slots, each (..., P*P/2).

    Slot u*(P/2)+v holds X(u, v). The columns v = 0 and v = P/2 are each their own mirror image, so
    both fit in the slots v = 0: rows below P/2 keep X(u, 0), rows above take X(u, P/2), and the
    four purely real entries share the rows 0 and P/2.
    """
    real, imag = spectrum.real, spectrum.imag
    half = real.shape[-2] // 2
    first, last = real[..., 0], real[..., half]
    real_column = torch.cat((first[..., : half + 1], last[..., half + 1 :]), dim=-1)
    imag_column = torch.cat(
        (
            last[..., :1],
            imag[..., 1:half, 0],
            last[..., half : half + 1],
            imag[..., half + 1 :, half],
        ),
        dim=-1,
    )
    real = torch.cat((real_column[..., None], real[..., 1:half]), dim=-1)
    imag = torch.cat((imag_column[..., None], imag[..., 1:half]), dim=-1)
    return real.flatten(-2), imag.flatten(-2)


def half_spectrum(blocks: Tensor) -> Tensor | Spectrum:
    """Spectrum (..., P, P/2+1) of blocks (..., P, P) with its phase origin at their centre."""
    window = blocks.shape[-1]
    if blocks.numel() == 0:  # some FFT libraries refuse that
        return torch.complex(blocks, blocks)[..., : window // 2 + 1]
    spectrum = portable.rfft2(blocks)
    signs = centre_signs(window, blocks.dtype, blocks.device)
    if isinstance(spectrum, Tensor):
        return spectrum * signs
    return Spectrum(spectrum.real * signs, spectrum.imag * signs)


def features_dtype(image: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of spectral features: `dtype`, else that of the image, float32 for uint8."""
    if dtype is not None:
        return dtype
    return image.dtype if image.dtype.is_floating_point else torch.float32


def windowed_spectrum(
    image: Tensor, window: int, stride: int, taper: str, layout: str
) -> tuple[Tensor | Spectrum, Tensor]:
    """Half spectra (B, H/S, W/S, G, P, P/2+1) of the tapered windows, and one axis of the taper."""
    values = planes(image, layout)
    weights = taper_weights(window, taper, values.dtype, values.device)
    blocks = windows_of(values, window, stride) * (weights[:, None] * weights[None, :])
    return half_spectrum(blocks), weights


def fft_features(
    image: Tensor, window: int, stride: int, taper: str, layout: str, dtype: torch.dtype
) -> Tensor:
    """Log magnitude and phase of windowed Fourier spectra, one token per stride x stride block.

    Args:
        image: (B, 3, H, W), floating in [0, 1] or uint8; H and W are multiples of `stride`.
        window: P, side of the analysed window in pixels.
        stride: S, pitch of the tokens in pixels; P or P/2.
        taper: "hann" or "none".
        layout: "luma" (one spectrum per token) or "rgb" (three).
        dtype: of the result.

    Returns:
        (B, H/S, W/S, G*3*P*P/2) with blocks [log rho | Re/rho | Im/rho] per plane, where
        rho = sqrt(|X|^2 + e^2) and e is the 8-bit noise floor.
    """
    spectrum, _ = windowed_spectrum(image, window, stride, taper, layout)
    real, imag = pack_half_plane(spectrum)
    rho = torch.sqrt(real.square() + imag.square() + noise_floor(window) ** 2)
    features = torch.stack((rho.log(), real / rho, imag / rho), dim=-2)
    return features.flatten(-3).to(dtype)


BAND_FLOOR = 1 / (255**2 * 12)
"""Power per pixel of 8-bit rounding noise, added to every band."""


def band_shares(window: int, radial: int, angular: int, weights: Tensor) -> Tensor:
    """What each entry of a half spectrum, squared, adds to the mean power of each frequency band.

    DC is excluded; frequencies above 0.5 cycles per pixel fall in the last radial band; the angle
    is that of the wave vector in [0, pi). White noise of variance s^2 gives s^2 in every band.

    Args:
        window: P.
        radial, angular: number of bands.
        weights: (P,) one axis of the taper.

    Returns:
        (P*(P/2+1), radial*angular), one nonzero number per row, in the dtype of the weights.
    """
    fu = torch.fft.fftfreq(window, dtype=torch.float64, device=weights.device)[:, None]
    fv = torch.fft.rfftfreq(window, dtype=torch.float64, device=weights.device)[None, :]
    ring = (radial * torch.hypot(fu, fv) / 0.5).floor().clamp(max=radial - 1)
    angle = torch.remainder(torch.atan2(fu, fv), math.pi)
    sector = (angular * angle / math.pi).floor().clamp(max=angular - 1)
    band = (ring * angular + sector).long().flatten()
    # The columns 0 < v < P/2 stand for two mirrored entries of the full plane.
    count = torch.full_like(ring, 2.0)
    count[:, 0] = count[:, -1] = 1
    count[0, 0] = 0
    shares = count.flatten()[:, None] * F.one_hot(band, radial * angular)
    gain = window**2 * weights.double().square().mean() ** 2
    return (shares / (shares.sum(0).clamp(min=1) * gain)).to(weights.dtype)


def fft_bands(
    image: Tensor,
    window: int,
    stride: int,
    taper: str,
    layout: str,
    radial: int,
    angular: int,
    dtype: torch.dtype,
) -> Tensor:
    """Log of the mean power in radial x angular frequency bands of each window.

    The power is per pixel and normalised by the taper; see `band_shares`. Every band adds the power
    of 8-bit rounding noise, which is all that a band without entries holds.

    Args:
        image, window, stride, taper, layout: as for `fft_features`.
        radial, angular: number of bands along each.
        dtype: of the result.

    Returns:
        (B, H/S, W/S, G*radial*angular), the angular bands of one radial band side by side.
    """
    spectrum, weights = windowed_spectrum(image, window, stride, taper, layout)
    power = (spectrum.real.square() + spectrum.imag.square()).flatten(-2)
    shares = portable.constant(
        ("bands", window, taper, radial, angular, weights.dtype),
        lambda: band_shares(window, radial, angular, weights),
    )
    energy = power @ shares
    return torch.log(energy + BAND_FLOOR).flatten(-2).to(dtype)


def finish(values: Tensor, dtype: torch.dtype, scale: float, shift: float) -> Tensor:
    """values*scale + shift as `dtype`; integers are clamped and rounded half to even."""
    if scale != 1.0 or shift != 0.0:
        values = values * scale + shift
    if not dtype.is_floating_point:
        values = values.clamp(0, torch.iinfo(dtype).max).round()
    return values.to(dtype)


def extract_tiles(
    image: Tensor,
    tile: Sequence[int],
    ys: Sequence[int],
    xs: Sequence[int],
    dtype: torch.dtype,
    scale: float,
    shift: float,
) -> Tensor:
    """Cut (C, H, W) into tiles (len(ys)*len(xs), C, th, tw), channels last, row-major.

    Pixels outside the image are reflected; every value becomes value*scale + shift.
    """
    height, width = tile
    values = image.to(compute_dtype(image.dtype))
    rows = [fold_index(y, height, image.shape[1], image.device) for y in ys]
    columns = [fold_index(x, width, image.shape[2], image.device) for x in xs]
    cut = values.index_select(1, torch.cat(rows)).index_select(2, torch.cat(columns))
    blocks = cut.reshape(image.shape[0], len(ys), height, len(xs), width).permute(1, 3, 0, 2, 4)
    tiles = finish(blocks.flatten(0, 1), dtype, scale, shift)
    return tiles.contiguous(memory_format=torch.channels_last)


def blend_plan(
    starts: Sequence[int], tile: int, size: int, margin: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """How each of `size` pixels of one axis is made from at most two tiles.

    Returns:
        Two index tensors into the tiles laid end to end (tile number * tile + offset), and the
        float32 weight of the second, computed in float64. Equal indices mean one tile alone.
    """
    first = torch.empty(size, dtype=torch.long)
    second = torch.empty(size, dtype=torch.long)
    weight = torch.zeros(size, dtype=torch.float64)
    position = torch.arange(size)
    for number, start in enumerate(starts):
        own = number * tile + position - start
        if number == 0:
            first[:] = second[:] = own
            continue
        # This tile owns everything after the band in which it takes over from the previous one.
        end = starts[number - 1] + tile
        band = end - start - 2 * margin
        low = min(max(start + margin, 0), size)
        high = min(max(end - margin, 0), size)
        second[low:] = own[low:]
        first[high:] = own[high:]
        k = position[low:high].double() - (start + margin)
        weight[low:high] = 0.5 - 0.5 * torch.cos(math.pi * (k + 0.5) / max(band, 1))
    return first.to(device), second.to(device), weight.float().to(device)


def blend(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """first + weight (second - first); where the weight is 0, `first` alone, infinities as well."""
    return torch.where(weight == 0, first, first + weight * (second - first))


def stitch_tiles(
    tiles: Tensor,
    ys: Sequence[int],
    xs: Sequence[int],
    size: Sequence[int],
    margin: int,
    dtype: torch.dtype,
    scale: float,
    shift: float,
    channels_last: bool,
) -> Tensor:
    """Blend overlapping tiles (N, C, th, tw) into (C, H, W), exact where the tiles agree.

    Neighbours are blended as t0 + w (t1 - t0) with a raised-cosine w, first along x, then along y.
    Every result becomes value*scale + shift. `channels_last` lays the memory out as (H, W, C).
    """
    height, width = size
    channels, tile_height, tile_width = tiles.shape[1:]
    values = tiles.to(compute_dtype(tiles.dtype))
    grid = values.reshape(len(ys), len(xs), channels, tile_height, tile_width)
    strips = grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)

    first, second, weight = blend_plan(xs, tile_width, width, margin, tiles.device)
    left, right = strips.index_select(2, first), strips.index_select(2, second)
    rows = blend(left, right, weight.to(values.dtype))
    first, second, weight = blend_plan(ys, tile_height, height, margin, tiles.device)
    upper, lower = rows.index_select(1, first), rows.index_select(1, second)
    blended = blend(upper, lower, weight.to(values.dtype)[:, None])
    image = finish(blended, dtype, scale, shift)
    if channels_last:
        return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return image.contiguous()


def split_coefficients(coefficients: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """The five columns of (B, 5), each (B, 1, 1, 1) in the dtype in which x is computed."""
    return coefficients.to(compute_dtype(x.dtype))[:, :, None, None, None].unbind(1)


def combine(x: Tensor, f: Tensor, y: Tensor | None, cx: Tensor, cf: Tensor, cy: Tensor) -> Tensor:
    """The estimate cx x + cf f + cy y."""
    estimate = cx * x + cf * f
    return estimate if y is None else estimate + cy * y


def ddim_step(x: Tensor, f: Tensor, y: Tensor | None, coefficients: Tensor, clamp: bool) -> Tensor:
    """x' = kx x + k0 x0^ with x0^ = cx x + cf f + cy y, clamped to [-1, 1] if wanted.

    Args:
        x: (B, C, H, W) the noisy image x_t.
        f: (B, C, H, W) output of the network.
        y: (B, C, H, W) what the preconditioning is anchored to, or None where cy = 0.
        coefficients: (B, 5): cx, cf, cy, kx, k0.
        clamp: whether to clamp x0^.

    Returns:
        (B, C, H, W) in dtype and memory format of x.
    """
    cx, cf, cy, kx, k0 = split_coefficients(coefficients, x)
    estimate = combine(x, f, y, cx, cf, cy)
    if clamp:
        estimate = estimate.clamp(-1, 1)
    return torch.empty_like(x).copy_(kx * x + k0 * estimate)
