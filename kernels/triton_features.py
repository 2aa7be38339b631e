"""fft_features and fft_bands in Triton."""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from freqdiff_kernels import reference
from freqdiff_kernels.triton_launch import OPTIONS, cast, compute_dtype, device_of, multiplies
from freqdiff_kernels.triton_spectrum import basis, spectra, tokens


@triton.jit
def _features_kernel(
    image,
    basis_table,
    out,
    height,
    width,
    stride_b,
    stride_c,
    stride_y,
    stride_x,
    floor: tl.float64,
    LUMA: tl.constexpr,
    P: tl.constexpr,
    S: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    COMPUTE: tl.constexpr,
    PRECISION: tl.constexpr,
):
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
    power = real * real + imag * imag + tl.full((1, 1), floor * floor, COMPUTE)
    inverse = 1 / tl.sqrt(power)

    token, mask = tokens(row, column, plane, height, width, LUMA, S, R, N)
    target = out + token[:, None] * (3 * SLOTS) + tl.arange(0, SLOTS)[None, :]
    dtype: tl.constexpr = out.dtype.element_ty
    tl.store(target, cast(0.5 * tl.log(power), dtype), mask=mask[:, None])
    tl.store(target + SLOTS, cast(real * inverse, dtype), mask=mask[:, None])
    tl.store(target + 2 * SLOTS, cast(imag * inverse, dtype), mask=mask[:, None])


@triton.jit
def _bands_kernel(
    image,
    basis_table,
    shares,
    out,
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
    real, imag = real * real, imag * imag

    token, mask = tokens(row, column, plane, height, width, LUMA, S, R, N)
    target = out + token * BANDS
    share = shares + tl.arange(0, SLOTS)[None, :]
    for band in range(BANDS):
        power = real * tl.load(share) + imag * tl.load(share + SLOTS)
        energy = tl.sum(power, 1) + tl.full((1,), floor, COMPUTE)
        tl.store(target + band, cast(tl.log(energy), out.dtype.element_ty), mask=mask)
        share += 2 * SLOTS


# Values per strip, by the side of its squares. Chosen by register count of the sm_90 build with 4
# warps (no spills, at least 3 programs per multiprocessor below 64), not timed.
STRIPS = {16: 2048, 32: 1024, 64: 4096}


def geometry(window: int, least: int) -> tuple[int, int]:
    """Q, at least `least`, and N: the side of the squares, and windows side by side in a strip."""
    side = max(window, least)
    return side, STRIPS[side] // (side * window)


def precision(side: int, dtype: torch.dtype) -> str:
    """How products are computed whose result is to be as precise as `dtype`.

    At a side of 64, products in full float32 would spill. Those of three tf32 parts on tensor cores
    stay within twice the error of torch: 5.7e-7 against 2.9e-7 with every sum cut off, emulated.
    """
    if uses_tf32(dtype):
        return "tf32"
    return "tf32x3" if side == 64 and dtype != torch.float64 else "ieee"


def launch_grid(image: Tensor, stride: int, layout: str, rows: int, columns: int) -> tuple[int]:
    batch, _, height, width = image.shape
    tokens = triton.cdiv(height // stride, rows) * triton.cdiv(width // stride, columns)
    return (batch * tokens * (3 if layout == "rgb" else 1),)


def uses_tf32(dtype: torch.dtype) -> bool:
    """Whether tensor cores are precise enough: 10 bits lie well below the rounding of bfloat16."""
    return dtype == torch.bfloat16


def fft_features(
    image: Tensor, window: int, stride: int, taper: str, layout: str, dtype: torch.dtype
) -> Tensor:
    """See `reference.fft_features`."""
    if not multiplies(image):
        return reference.fft_features(image, window, stride, taper, layout, dtype)
    batch, _, height, width = image.shape
    planes = 3 if layout == "rgb" else 1
    shape = (batch, height // stride, width // stride, planes * 3 * window**2 // 2)
    out = image.new_empty(shape, dtype=dtype)
    if out.numel() == 0:
        return out
    side, across = geometry(window, 16)
    wide = reference.compute_dtype(image.dtype)
    with device_of(image):
        _features_kernel[launch_grid(image, stride, layout, side // window, across)](
            image,
            basis(window, side, taper, wide, uses_tf32(dtype), image.device),
            out,
            height,
            width,
            *image.stride(),
            reference.noise_floor(window),
            LUMA=layout == "luma",
            P=window,
            S=stride,
            Q=side,
            N=across,
            COMPUTE=compute_dtype(image.dtype),
            PRECISION=precision(side, dtype),
            **OPTIONS,
        )
    return out


@lru_cache(maxsize=32)
def slot_shares(
    window: int, radial: int, angular: int, taper: str, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """`reference.band_shares` of the real and imaginary slots: (radial*angular, 2, P*P/2)."""
    cpu, half = torch.device("cpu"), window // 2
    weights = reference.taper_weights(window, taper, torch.float64, cpu)
    shares = reference.band_shares(window, radial, angular, weights)
    shares = shares.T.reshape(radial * angular, window, half + 1)
    real, imag = shares[..., :half].clone(), shares[..., :half].clone()
    # The slots v = 0 hold halves of two columns, each of which is its own mirror image.
    mirrored = shares + shares.roll(-1, 1).flip(1)
    for slots in (real, imag):
        slots[:, 1:half, 0] = mirrored[:, 1:half, 0]
        slots[:, half + 1 :, 0] = mirrored[:, half + 1 :, half]
    for row in (0, half):
        real[:, row, 0], imag[:, row, 0] = shares[:, row, 0], shares[:, row, half]
    return torch.stack((real, imag), 1).flatten(2).to(dtype).to(device)


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
    """See `reference.fft_bands`."""
    if not multiplies(image):
        return reference.fft_bands(image, window, stride, taper, layout, radial, angular, dtype)
    batch, _, height, width = image.shape
    bands = radial * angular
    shape = (batch, height // stride, width // stride, (3 if layout == "rgb" else 1) * bands)
    out = image.new_empty(shape, dtype=dtype)
    if out.numel() == 0:
        return out
    side, across = geometry(window, 16)
    wide = reference.compute_dtype(image.dtype)
    with device_of(image):
        _bands_kernel[launch_grid(image, stride, layout, side // window, across)](
            image,
            basis(window, side, taper, wide, uses_tf32(dtype), image.device),
            slot_shares(window, radial, angular, taper, wide, image.device),
            out,
            height,
            width,
            *image.stride(),
            reference.BAND_FLOOR,
            BANDS=bands,
            LUMA=layout == "luma",
            P=window,
            S=stride,
            Q=side,
            N=across,
            COMPUTE=compute_dtype(image.dtype),
            PRECISION=precision(side, dtype),
            **OPTIONS,
        )
    return out
