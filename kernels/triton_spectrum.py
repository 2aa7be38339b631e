"""The windowed Fourier transform inside the Triton kernels of `triton_features`.

A program takes R x N windows of P x P pixels, N neighbours in each of R token rows, as one strip of
Q = R P rows and N P columns. Two small real products give their spectra: over the columns, then,
with the strip cut into squares of Q x Q, over the rows. Windows below 16 pixels share a square,
whose basis is block diagonal. This costs 3 P^3 multiplications per window instead of the P^4 of one
product with the basis of the whole window.

The mean of each window is subtracted before and its exact response added after the products, so
that a rounded basis leaks nothing of it into the other frequencies.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from freqdiff_kernels import reference
from freqdiff_kernels.triton_launch import fold

RED, GREEN, BLUE = (tl.constexpr(weight) for weight in reference.LUMA_WEIGHTS)


@triton.jit
def _place(
    height,
    width,
    batch_stride,
    plane_stride,
    LUMA: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
):
    """What a program works on: token (row, column), number of the plane, offset of the plane."""
    program = tl.program_id(0)
    across = tl.cdiv(width // S, N)
    column = program % across * N
    program = program // across
    down = tl.cdiv(height // S, R)
    row = program % down * R
    plane = program // down
    if LUMA:
        return row, column, plane, plane.to(tl.int64) * batch_stride
    return (
        row,
        column,
        plane,
        (plane // 3).to(tl.int64) * batch_stride + (plane % 3).to(tl.int64) * plane_stride,
    )


@triton.jit
def _load_strip(
    image,
    row,
    column,
    height,
    width,
    stride_c,
    stride_y,
    stride_x,
    LUMA: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    COMPUTE: tl.constexpr,
):
    """Pixels (Q, N*P) of the windows of the tokens from (row, column) on, reflected outside.

    `image` points to the plane or, for luma, to the first of three. Bytes become [0, 1].
    """
    i = tl.arange(0, Q)
    j = tl.arange(0, N * P)
    mask = (row + i // P < height // S)[:, None] & (column + j // P < width // S)[None, :]
    if S == P:
        y = row * P + i
        x = column * P + j
    else:
        y = fold((row + i // P) * S - (P - S) // 2 + i % P, height)
        x = fold((column + j // P) * S - (P - S) // 2 + j % P, width)
    source = image + y.to(tl.int64)[:, None] * stride_y + x.to(tl.int64)[None, :] * stride_x
    unit: tl.constexpr = 1 / 255 if image.dtype.element_ty == tl.uint8 else 1.0
    strip = tl.load(source, mask=mask, other=0).to(COMPUTE)
    if LUMA:
        source += stride_c
        green = tl.load(source, mask=mask, other=0).to(COMPUTE)
        source += stride_c
        blue = tl.load(source, mask=mask, other=0).to(COMPUTE)
        strip = strip * (RED * unit) + green * (GREEN * unit) + blue * (BLUE * unit)
    else:
        strip *= unit
    return strip


@triton.jit
def operand(values, PRECISION: tl.constexpr):
    """Values rounded to nearest as the product will use them: tensor cores would cut them off."""
    if PRECISION == "tf32":
        bits = values.to(tl.int32, bitcast=True) + 0x1000
        values = (bits & -0x2000).to(tl.float32, bitcast=True)
    return values


@triton.jit
def square(table, Q: tl.constexpr, COLUMNS: tl.constexpr, TRANSPOSED: tl.constexpr):
    """One (Q, COLUMNS) factor of the basis, or its transpose."""
    i = tl.arange(0, Q)
    j = tl.arange(0, COLUMNS)
    entry = i[:, None] * COLUMNS + j[None, :]
    if TRANSPOSED:
        entry = tl.trans(entry)
    return tl.load(table + entry)


@triton.jit
def _spectrum(
    strip,
    basis,
    P: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Real and imaginary slots (R*N, P*P/2) of the windows of a strip; see `pack_half_plane`."""
    R: tl.constexpr = Q // P
    H: tl.constexpr = P // 2
    dtype: tl.constexpr = strip.dtype
    blocks = tl.reshape(strip, (R, P, N, P))
    mean = tl.sum(tl.sum(blocks, 3), 1) * (1 / (P * P))
    # What is not finite stays out of the products, in which windows share squares.
    poison = mean - mean
    blocks = tl.where((poison == 0)[:, None, :, None], blocks - mean[:, None, :, None], 0)
    strip = operand(tl.reshape(blocks, (Q, N * P)), PRECISION)

    lines: tl.constexpr = Q * N // R
    even = tl.dot(square(basis, Q, Q, False), strip, input_precision=PRECISION, out_dtype=dtype)
    odd = tl.dot(
        square(basis + Q * Q, Q, Q, False), strip, input_precision=PRECISION, out_dtype=dtype
    )
    even = operand(tl.reshape(even, (lines, Q)), PRECISION)
    odd = operand(tl.reshape(odd, (lines, Q)), PRECISION)
    cosine = square(basis + 2 * Q * Q, Q, Q // 2, False)
    sine = square(basis + 2 * Q * Q + Q * Q // 2, Q, Q // 2, False)
    ec = tl.dot(even, cosine, input_precision=PRECISION, out_dtype=dtype)
    os = tl.dot(odd, sine, input_precision=PRECISION, out_dtype=dtype)
    es = tl.dot(even, sine, input_precision=PRECISION, out_dtype=dtype)
    oc = tl.dot(odd, cosine, input_precision=PRECISION, out_dtype=dtype)

    # In the slots v = 0 the sine is that of v = P/2, which is a cosine.
    u = (tl.arange(0, lines) // (N // R) % P)[:, None]
    first = (tl.arange(0, Q // 2) % H == 0)[None, :]
    real = tl.where(first, tl.where(u > H, es, ec), ec - os)
    imag = tl.where(u % H == 0, es, tl.where(u < H, -oc, -os))
    imag = tl.where(first, imag, -(es + oc))
    real = tl.reshape(tl.permute(tl.reshape(real, (R, P, N, H)), (0, 2, 1, 3)), (R * N, P * H))
    imag = tl.reshape(tl.permute(tl.reshape(imag, (R, P, N, H)), (0, 2, 1, 3)), (R * N, P * H))

    mean = tl.reshape(mean, (R * N,))[:, None]
    poison = tl.reshape(poison, (R * N,))[:, None]
    response = basis + 3 * Q * Q + tl.arange(0, P * H)[None, :]
    real += mean * tl.load(response) + poison
    imag += mean * tl.load(response + P * H) + poison
    return real, imag


@triton.jit
def spectra(
    image,
    basis_table,
    height,
    width,
    stride_b,
    stride_c,
    stride_y,
    stride_x,
    LUMA: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Real and imaginary slots of the windows of this program, its first token and its plane."""
    R: tl.constexpr = Q // P
    row, column, plane, start = _place(height, width, stride_b, stride_c, LUMA, S, R, N)
    strip = _load_strip(
        image + start,
        row,
        column,
        height,
        width,
        stride_c,
        stride_y,
        stride_x,
        LUMA,
        P,
        S,
        Q,
        N,
        COMPUTE,
    )
    real, imag = _spectrum(strip, basis_table, P, Q, N, PRECISION)
    return real, imag, row, column, plane


@triton.jit
def tokens(
    row,
    column,
    plane,
    height,
    width,
    LUMA: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    N: tl.constexpr,
):
    """Number of (token, plane) in the order of the results, for all windows of the strip."""
    window = tl.arange(0, R * N)
    y, x = row + window // N, column + window % N
    planes: tl.constexpr = 1 if LUMA else 3
    sample, plane = plane // planes, plane % planes
    token = (sample.to(tl.int64) * (height // S) + y) * (width // S) + x
    return token * planes + plane, (y < height // S) & (x < width // S)


@triton.jit
def spectrum_backward(
    real,
    imag,
    basis,
    P: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Adjoint of `spectrum`: gradients (R*N, P*P/2) of the slots -> those of the strip."""
    R: tl.constexpr = Q // P
    H: tl.constexpr = P // 2
    dtype: tl.constexpr = real.dtype
    lines: tl.constexpr = Q * N // R
    real = tl.reshape(tl.permute(tl.reshape(real, (R, N, P, H)), (0, 2, 1, 3)), (lines, Q // 2))
    imag = tl.reshape(tl.permute(tl.reshape(imag, (R, N, P, H)), (0, 2, 1, 3)), (lines, Q // 2))
    u = (tl.arange(0, lines) // (N // R) % P)[:, None]
    first = (tl.arange(0, Q // 2) % H == 0)[None, :]

    cosine = square(basis + 2 * Q * Q, Q, Q // 2, True)
    sine = square(basis + 2 * Q * Q + Q * Q // 2, Q, Q // 2, True)
    ec = tl.where(first & (u > H), 0, real)
    es = tl.where(first, tl.where(u > H, real, tl.where(u % H == 0, imag, 0)), -imag)
    even = tl.dot(ec, cosine, input_precision=PRECISION, out_dtype=dtype)
    even += tl.dot(es, sine, input_precision=PRECISION, out_dtype=dtype)
    os = tl.where(first, tl.where(u > H, -imag, 0), -real)
    oc = tl.where(first & ((u >= H) | (u == 0)), 0, -imag)
    odd = tl.dot(os, sine, input_precision=PRECISION, out_dtype=dtype)
    odd += tl.dot(oc, cosine, input_precision=PRECISION, out_dtype=dtype)
    even = tl.reshape(even, (Q, N * P))
    odd = tl.reshape(odd, (Q, N * P))
    strip = tl.dot(square(basis, Q, Q, True), even, input_precision=PRECISION, out_dtype=dtype)
    strip += tl.dot(
        square(basis + Q * Q, Q, Q, True), odd, input_precision=PRECISION, out_dtype=dtype
    )
    return strip


def _tf32(values: Tensor) -> Tensor:
    """float32 rounded to nearest at the 10 bits that tensor cores use."""
    return ((values.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)


@lru_cache(maxsize=32)
def basis(
    window: int, side: int, taper: str, dtype: torch.dtype, tf32: bool, device: torch.device
) -> Tensor:
    """Factors of `spectrum`, flat: even and odd (Q, Q), cosine and sine (Q, Q/2), and the response
    (2, P*P/2) of a window of ones. Taper and signs of the window's centre are folded in.
    """
    cpu, half = torch.device("cpu"), window // 2
    weights = reference.taper_weights(window, taper, torch.float64, cpu)
    n = torch.arange(window)
    angle = 2 * torch.pi * (n[:, None] * n[None, :] % window).double() / window
    sign = (1 - 2 * (n % 2)).double()
    columns = [sign[:, None] * wave(angle) * weights for wave in (torch.cos, torch.sin)]
    rows = [factor.T[:, :half].clone() for factor in columns]
    rows[1][:, 0] = columns[0][half]
    repeats = side // window
    factors = [torch.block_diag(*[factor] * repeats).flatten() for factor in (*columns, *rows)]
    table = torch.cat(factors).to(dtype)
    taper_2d = weights[:, None] * weights[None, :]
    response = reference.pack_half_plane(reference.half_spectrum(taper_2d))
    return torch.cat((_tf32(table) if tf32 else table, *(r.to(dtype) for r in response))).to(device)
