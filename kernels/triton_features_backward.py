"""Gradients of fft_features and fft_bands in Triton.

Each window's gradient is computed on its own; then every pixel of the image gathers those that lie
over it, always in the same order: the result is the same bit for bit in every run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from freqdiff_kernels import gradients, reference
from freqdiff_kernels.triton_features import (
    fft_bands,
    geometry,
    launch_grid,
    precision,
    slot_shares,
)
from freqdiff_kernels.triton_launch import OPTIONS, cast, compute_dtype, device_of, multiplies
from freqdiff_kernels.triton_spectrum import (
    BLUE,
    GREEN,
    RED,
    basis,
    spectra,
    spectrum_backward,
    tokens,
)


@triton.jit
def _windows_kernel(
    grad,
    image,
    basis_table,
    windows,
    height,
    width,
    stride_b,
    stride_c,
    stride_y,
    stride_x,
    floor: tl.float64,
    BANDS: tl.constexpr,
    LUMA: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the windows, side by side as an image (B, planes, H/S*P, W/S*P).

    `grad` is that of the features or, with BANDS, what each slot is to be multiplied by.
    """
    R: tl.constexpr = Q // P
    SLOTS: tl.constexpr = P * P // 2
    real, imag, row, column, plane = spectra(
        image,
        basis_table,
        height,
        width,
        stride_b,
        stride_c,
        stride_y,
        stride_x,
        LUMA,
        P,
        S,
        Q,
        N,
        COMPUTE,
        PRECISION,
    )
    token, mask = tokens(row, column, plane, height, width, LUMA, S, R, N)
    parts: tl.constexpr = 2 if BANDS else 3
    source = grad + token[:, None] * (parts * SLOTS) + tl.arange(0, SLOTS)[None, :]
    first = tl.load(source, mask=mask[:, None], other=0).to(COMPUTE)
    second = tl.load(source + SLOTS, mask=mask[:, None], other=0).to(COMPUTE)
    if BANDS:
        real *= first
        imag *= second
    else:
        third = tl.load(source + 2 * SLOTS, mask=mask[:, None], other=0).to(COMPUTE)
        power = real * real + imag * imag + tl.full((1, 1), floor * floor, COMPUTE)
        inverse = 1 / tl.sqrt(power)
        real *= inverse
        imag *= inverse
        radial = first - second * real - third * imag
        real = (radial * real + second) * inverse
        imag = (radial * imag + third) * inverse
    strip = spectrum_backward(real, imag, basis_table, P, Q, N, PRECISION)

    y = row * P + tl.arange(0, Q)
    x = column * P + tl.arange(0, N * P)
    length, lines = width // S * P, height // S * P
    target = (plane.to(tl.int64) * lines + y.to(tl.int64))[:, None] * length + x[None, :]
    tl.store(windows + target, strip, mask=(y < lines)[:, None] & (x < length)[None, :])


@triton.jit
def _gather_row(line, x, mask, width, near, P: tl.constexpr, S: tl.constexpr):
    """Sum of all that one row of the windows holds for the pixels x of the image."""
    margin: tl.constexpr = (P - S) // 2
    total = tl.zeros(x.shape, line.dtype.element_ty)
    for mirror in tl.static_range(3):
        # Behind the border, the windows hold mirror images.
        if mirror == 0:
            place, valid = x + margin, mask
        elif mirror == 1:
            place, valid = margin - x, mask & (x > 0) & (x <= margin)
        else:
            place = 2 * (width - 1) - x + margin
            valid = mask & (x < width - 1) & (place < width + 2 * margin)
        if (mirror == 0) | near:
            for back in tl.static_range(2):
                window = place // S - back
                inside = valid & (window >= 0) & (window < width // S)
                offset = window * P + place % S + back * S
                total += tl.load(line + offset, mask=inside, other=0)
    return total


@triton.jit
def _gather_kernel(
    windows,
    out,
    height,
    width,
    blocks,
    LUMA: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The gradient of the image from those of its windows: each pixel sums what lies over it."""
    margin: tl.constexpr = (P - S) // 2
    program = tl.program_id(0)
    begin = program % blocks * BLOCK
    y = program // blocks % height
    plane = (program // blocks // height).to(tl.int64)
    x = begin + tl.arange(0, BLOCK)
    mask = x < width
    length = width // S * P
    windows += plane * (height // S * P) * length
    if S == P:
        total = tl.load(windows + y.to(tl.int64) * length + x, mask=mask, other=0)
    else:
        near = (begin <= margin) | (begin + BLOCK >= width - margin)
        total = tl.zeros((BLOCK,), windows.dtype.element_ty)
        for mirror in tl.static_range(3):
            if mirror == 0:
                place, valid = y + margin, y >= 0
            elif mirror == 1:
                place, valid = margin - y, (y > 0) & (y <= margin)
            else:
                place = 2 * (height - 1) - y + margin
                valid = (y < height - 1) & (place < height + 2 * margin)
            for back in tl.static_range(2):
                window = place // S - back
                if valid & (window >= 0) & (window < height // S):
                    row = (window * P + place % S + back * S).to(tl.int64)
                    total += _gather_row(windows + row * length, x, mask, width, near, P, S)
    dtype: tl.constexpr = out.dtype.element_ty
    area = height.to(tl.int64) * width
    target = out + y.to(tl.int64) * width + x
    if LUMA:
        target += plane * 3 * area
        tl.store(target, cast(total * RED, dtype), mask=mask)
        tl.store(target + area, cast(total * GREEN, dtype), mask=mask)
        tl.store(target + 2 * area, cast(total * BLUE, dtype), mask=mask)
    else:
        tl.store(target + plane * area, cast(total, dtype), mask=mask)


def _image_gradient(
    grad: Tensor, image: Tensor, window: int, stride: int, taper: str, layout: str, bands: bool
) -> Tensor:
    """Gradient of the image from `grad`, which `_windows_kernel` explains."""
    batch, _, height, width = image.shape
    planes = 3 if layout == "rgb" else 1
    wide = reference.compute_dtype(image.dtype)
    # Squares of 32, because their halves are the inner side of products of at least 16.
    side, across = geometry(window, 32)
    lines, length = height // stride * window, width // stride * window
    windows = image.new_empty((batch, planes, lines, length), dtype=wide)
    out = image.new_empty(image.shape)
    block = min(1024, triton.next_power_of_2(width))
    blocks = triton.cdiv(width, block)
    with device_of(image):
        _windows_kernel[launch_grid(image, stride, layout, side // window, across)](
            grad.contiguous(),
            image,
            basis(window, side, taper, wide, False, image.device),
            windows,
            height,
            width,
            *image.stride(),
            reference.noise_floor(window),
            BANDS=bands,
            LUMA=layout == "luma",
            P=window,
            S=stride,
            Q=side,
            N=across,
            COMPUTE=compute_dtype(image.dtype),
            PRECISION=precision(side, wide),
            **OPTIONS,
        )
        _gather_kernel[(batch * planes * height * blocks,)](
            windows,
            out,
            height,
            width,
            blocks,
            LUMA=layout == "luma",
            P=window,
            S=stride,
            BLOCK=block,
            **OPTIONS,
        )
    return out


def fft_features_backward(
    grad: Tensor, image: Tensor, window: int, stride: int, taper: str, layout: str
) -> Tensor:
    """See `gradients.fft_features_backward`."""
    if not multiplies(image):
        return gradients.fft_features_backward(grad, image, window, stride, taper, layout)
    if image.numel() == 0:
        return torch.zeros_like(image)
    return _image_gradient(grad, image, window, stride, taper, layout, bands=False)


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
    """See `gradients.fft_bands_backward`; the bands are computed again, to divide by them."""
    options = (window, stride, taper, layout)
    if not multiplies(image):
        return gradients.fft_bands_backward(grad, image, *options, radial, angular)
    if image.numel() == 0:
        return torch.zeros_like(image)
    wide = reference.compute_dtype(image.dtype)
    bands = fft_bands(image, *options, radial, angular, wide)
    shares = slot_shares(window, radial, angular, taper, wide, image.device)
    factors = (2 * grad.to(wide) / bands.exp()).reshape(-1, radial * angular) @ shares.flatten(1)
    return _image_gradient(factors, image, *options, bands=True)
