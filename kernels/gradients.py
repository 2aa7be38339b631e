"""Backward formulas of the operations, in plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from freqdiff_kernels import reference


def unpack_half_plane(real: Tensor, imag: Tensor, window: int) -> Tensor:
    """Adjoint of `reference.pack_half_plane`: slots (..., P*P/2) -> spectrum (..., P, P).

    The entries that no slot holds are zero; the imaginary part of a real entry is zero too.
    """
    half = window // 2
    shape = (*real.shape[:-1], window, half)
    real, imag = real.reshape(shape), imag.reshape(shape)
    full_real = torch.nn.functional.pad(real, (0, half))
    full_imag = torch.nn.functional.pad(imag, (0, half))
    # The column v = 0 also carries the column v = P/2 (see pack_half_plane).
    for full, slots in ((full_real, real), (full_imag, imag)):
        full[..., half + 1 :, half] = slots[..., half + 1 :, 0]
        full[..., half + 1 :, 0] = 0
    for row in (0, half):
        full_real[..., row, half] = imag[..., row, 0]
        full_imag[..., row, 0] = 0
    return torch.complex(full_real, full_imag)


def fold_add(blocks: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Adjoint of `reference.windows_of`: (B, h, w, G, P, P) -> (B, G, H, W)."""
    batch, rows, columns, colours, window, _ = blocks.shape
    margin = (window - stride) // 2
    flat = blocks.permute(0, 3, 4, 5, 1, 2).reshape(batch * colours, window**2, rows * columns)
    size = (height + 2 * margin, width + 2 * margin)
    padded = torch.nn.functional.fold(flat, size, window, stride=stride)
    padded = padded.reshape(batch, colours, *size)
    index = reference.fold_index(-margin, size[0], height, blocks.device)
    folded = padded.new_zeros((batch, colours, height, size[1])).index_add(2, index, padded)
    index = reference.fold_index(-margin, size[1], width, blocks.device)
    return folded.new_zeros((batch, colours, height, width)).index_add(3, index, folded)


def windowed_spectrum_backward(
    spectrum: Tensor, image: Tensor, stride: int, weights: Tensor, layout: str
) -> Tensor:
    """Adjoint of `reference.windowed_spectrum`.

    Args:
        spectrum: (B, H/S, W/S, G, P, P) gradient, zero in the entries that are not used.
        image: (B, 3, H, W), for its shape and dtype.
        stride: S.
        weights: (P,) one axis of the taper.
        layout: "luma" or "rgb".

    Returns:
        (B, 3, H, W) in the dtype of the image.
    """
    if image.numel() == 0:
        return torch.zeros_like(image)
    window, dtype = spectrum.shape[-1], weights.dtype
    sign = 1 - 2 * (torch.arange(window, device=weights.device) % 2).to(dtype)
    spectrum = spectrum * (sign[:, None] * sign[None, :])
    blocks = torch.fft.ifft2(spectrum, norm="forward").real * (weights[:, None] * weights[None, :])
    result = fold_add(blocks, image.shape[2], image.shape[3], stride)
    if layout == "luma":
        luma = torch.tensor(reference.LUMA_WEIGHTS, dtype=dtype, device=weights.device)
        result = result * luma[:, None, None]
    return result.to(image.dtype)


def fft_features_backward(
    grad: Tensor, image: Tensor, window: int, stride: int, taper: str, layout: str
) -> Tensor:
    """Gradient of `fft_features` with respect to its image (B, 3, H, W).

    The spectra are computed again from the image: cheaper than reading saved features, and exact
    for 16-bit ones. With c = Re/rho and s = Im/rho, t = gL - gc c - gs s and the gradient of the
    slot is (t (c, s) + (gc, gs)) / rho; then follow the adjoints of the transform, the taper, the
    windows and the luma.
    """
    spectrum, weights = reference.windowed_spectrum(image, window, stride, taper, layout)
    assert isinstance(spectrum, Tensor)  # portable graphs have no gradients
    real, imag = reference.pack_half_plane(spectrum)
    rho = torch.sqrt(real.square() + imag.square() + reference.noise_floor(window) ** 2)
    cosine, sine = real / rho, imag / rho
    colours = spectrum.shape[-3]
    log_grad, cosine_grad, sine_grad = (
        grad.to(weights.dtype).reshape(*grad.shape[:-1], colours, 3, window**2 // 2).unbind(-2)
    )
    radial = log_grad - cosine_grad * cosine - sine_grad * sine
    slots = unpack_half_plane(
        (radial * cosine + cosine_grad) / rho, (radial * sine + sine_grad) / rho, window
    )
    return windowed_spectrum_backward(slots, image, stride, weights, layout)


def fft_bands_backward(
    grad: Tensor,
    image: Tensor,
    window: int,
    stride: int,
    taper: str,
    layout: str,
    radial: int,
    angular: int,
) -> Tensor:
    """Gradient of `fft_bands` with respect to its image (B, 3, H, W).

    A band is log(sum of c |X|^2 + floor), so X gets 2 c X times the band's gradient over its power.
    """
    spectrum, weights = reference.windowed_spectrum(image, window, stride, taper, layout)
    assert isinstance(spectrum, Tensor)  # portable graphs have no gradients
    shares = reference.band_shares(window, radial, angular, weights)
    energy = (spectrum.real.square() + spectrum.imag.square()).flatten(-2) @ shares
    band_grad = grad.to(weights.dtype).reshape(energy.shape) / (energy + reference.BAND_FLOOR)
    factor = (2 * band_grad @ shares.mT).reshape(spectrum.shape)
    full = torch.nn.functional.pad(spectrum * factor, (0, window - spectrum.shape[-1]))
    return windowed_spectrum_backward(full, image, stride, weights, layout)


def extract_tiles_backward(
    grad: Tensor,
    size: Sequence[int],
    ys: Sequence[int],
    xs: Sequence[int],
    dtype: torch.dtype,
    scale: float,
) -> Tensor:
    """Gradient of `extract_tiles` with respect to its image (C, H, W) of `dtype`."""
    height, width = size
    channels, tile_height, tile_width = grad.shape[1:]
    grid = grad.to(reference.compute_dtype(grad.dtype)) * scale
    grid = grid.reshape(len(ys), len(xs), channels, tile_height, tile_width)
    cut = grid.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    rows = torch.cat([reference.fold_index(y, tile_height, height, grad.device) for y in ys])
    columns = torch.cat([reference.fold_index(x, tile_width, width, grad.device) for x in xs])
    image = cut.new_zeros((channels, height, cut.shape[2])).index_add(1, rows, cut)
    return cut.new_zeros((channels, height, width)).index_add(2, columns, image).to(dtype)


def stitch_tiles_backward(
    grad: Tensor,
    ys: Sequence[int],
    xs: Sequence[int],
    tile: Sequence[int],
    margin: int,
    dtype: torch.dtype,
    scale: float,
) -> Tensor:
    """Gradient of `stitch_tiles` with respect to its tiles (N, C, th, tw) of `dtype`."""
    height, width = tile
    values = grad.to(reference.compute_dtype(grad.dtype)) * scale
    channels = values.shape[0]
    for axis, (begins, side) in enumerate(((ys, height), (xs, width)), start=1):
        first, second, weight = reference.blend_plan(
            begins, side, values.shape[axis], margin, grad.device
        )
        weight = weight.to(values.dtype).reshape((-1, 1) if axis == 1 else (-1,))
        shape = list(values.shape)
        shape[axis] = len(begins) * side
        spread = values.new_zeros(shape).index_add(axis, first, values * (1 - weight))
        values = spread.index_add(axis, second, values * weight)
    grid = values.reshape(channels, len(ys), height, len(xs), width)
    return grid.permute(1, 3, 0, 2, 4).flatten(0, 1).to(dtype)


def ddim_step_backward(
    grad: Tensor, x: Tensor, f: Tensor, y: Tensor | None, coefficients: Tensor, clamp: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Gradients of `ddim_step` with respect to x, f, y and the coefficients.

    None pass where the estimate was clamped.
    """
    cx, cf, cy, kx, k0 = reference.split_coefficients(coefficients, x)
    estimate = reference.combine(x, f, y, cx, cf, cy)
    estimate_grad = k0 * grad
    if clamp:
        estimate_grad = torch.where(estimate.abs() <= 1, estimate_grad, 0)
        estimate = estimate.clamp(-1, 1)

    def sum_of(gradient: Tensor, factor: Tensor | None) -> Tensor:
        return gradient.new_zeros(len(x)) if factor is None else (gradient * factor).sum((1, 2, 3))

    wide = grad.to(reference.compute_dtype(x.dtype))
    sums = [sum_of(estimate_grad, factor) for factor in (x, f, y)]
    sums += [sum_of(wide, x), sum_of(wide, estimate)]
    y_grad = None if y is None else (cy * estimate_grad).to(y.dtype)
    x_grad = (kx * grad + cx * estimate_grad).to(x.dtype)
    coefficients_grad = torch.stack(sums, 1).to(coefficients.dtype)
    return x_grad, (cf * estimate_grad).to(f.dtype), y_grad, coefficients_grad
