"""Cases of fft_features and fft_bands (K1)."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import SETS, Case, assert_as_precise
from freqdiff_kernels import gradients, ops, reference

HEIGHT, WIDTH = 2160, 3840
WINDOW = 16
RADIAL, ANGULAR = 8, 4


def random_image(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    """Uniform noise in the range of a photo."""
    if dtype == torch.uint8:
        return torch.randint(0, 256, shape, dtype=dtype, device=device)
    return torch.rand(shape, device=device).to(dtype)


def taper_of(stride: int) -> str:
    return "none" if stride == WINDOW else "hann"


def windows(image: Tensor, stride: int) -> Tensor:
    """Tapered windows in float32, as short as torch allows: (B, rows, columns, 3, P, P)."""
    values = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    if stride < WINDOW:
        values = F.pad(values, ((WINDOW - stride) // 2,) * 4, mode="reflect")
    blocks = values.unfold(2, WINDOW, stride).unfold(3, WINDOW, stride).permute(0, 2, 3, 1, 4, 5)
    if stride < WINDOW:
        taper = reference.taper_weights(WINDOW, "hann", values.dtype, values.device)
        blocks = blocks * (taper[:, None] * taper)
    return blocks


def log_and_phase(real: Tensor, imag: Tensor, dtype: torch.dtype) -> Tensor:
    rho = torch.sqrt(real.square() + imag.square() + reference.noise_floor(WINDOW) ** 2)
    return torch.stack((rho.log(), real / rho, imag / rho), dim=-2).flatten(-3).to(dtype)


def features_eager(image: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
    spectrum = reference.half_spectrum(windows(image, stride))
    return log_and_phase(*reference.pack_half_plane(spectrum), dtype)


def packed_basis(stride: int, dtype: torch.dtype, device: str) -> Tensor:
    """(P*P, P*P): pixels to the real slots, then the imaginary ones; taper included."""
    impulses = torch.eye(WINDOW**2, dtype=torch.float64).reshape(-1, WINDOW, WINDOW)
    taper = reference.taper_weights(WINDOW, taper_of(stride), torch.float64, impulses.device)
    spectrum = reference.half_spectrum(impulses * (taper[:, None] * taper))
    return torch.cat(reference.pack_half_plane(spectrum), dim=-1).to(device, dtype)


def features_gemm(image: Tensor, basis: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
    """The same as one matrix product over the windows, in the dtype of the basis."""
    values = image.to(basis.dtype)
    values = values / 255 if image.dtype == torch.uint8 else values
    if stride < WINDOW:
        values = F.pad(values, ((WINDOW - stride) // 2,) * 4, mode="reflect")
    blocks = values.unfold(2, WINDOW, stride).unfold(3, WINDOW, stride).permute(0, 2, 3, 1, 4, 5)
    real, imag = (blocks.reshape(*blocks.shape[:4], WINDOW**2) @ basis).float().chunk(2, dim=-1)
    return log_and_phase(real, imag, dtype)


def features_conv(image: Tensor, basis: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
    """The same as a strided convolution with the basis."""
    values = image.to(basis.dtype)
    values = values / 255 if image.dtype == torch.uint8 else values
    if stride < WINDOW:
        values = F.pad(values, ((WINDOW - stride) // 2,) * 4, mode="reflect")
    kernels = basis.mT.reshape(-1, 1, WINDOW, WINDOW)
    spectrum = F.conv2d(values.flatten(0, 1)[:, None], kernels, stride=stride)
    spectrum = spectrum.unflatten(0, image.shape[:2]).permute(0, 3, 4, 1, 2).float()
    return log_and_phase(*spectrum.chunk(2, dim=-1), dtype)


def bands_eager(image: Tensor, shares: Tensor, dtype: torch.dtype) -> Tensor:
    power = torch.fft.rfft2(windows(image, WINDOW)).abs().square().flatten(-2)
    return torch.log(power @ shares + reference.BAND_FLOOR).flatten(-2).to(dtype)


def features(device: str, source: torch.dtype, dtype: torch.dtype, stride: int) -> Case:
    """A 4K photo to features."""
    images = [random_image(1, 3, HEIGHT, WIDTH, dtype=source, device=device) for _ in range(SETS)]
    basis = packed_basis(stride, dtype if device != "cpu" else torch.float32, device)
    options = (WINDOW, stride, taper_of(stride), "rgb")
    compiled = torch.compile(features_eager, fullgraph=True)
    gemm, conv = (torch.compile(f, fullgraph=True) for f in (features_gemm, features_conv))
    competitors: dict[str, Callable[[int], Any] | str] = {
        "eager": lambda n: features_eager(images[n % SETS], stride, dtype),
        "compiled_gemm": lambda n: gemm(images[n % SETS], basis, stride, dtype),
    }
    if device != "cpu":
        competitors["compiled"] = lambda n: compiled(images[n % SETS], stride, dtype)
        competitors["conv"] = lambda n: conv(images[n % SETS], basis, stride, dtype)
    small = images[0][..., :256, :256].contiguous()
    wide = small.double() / 255 if source == torch.uint8 else small.double()

    def check() -> float:
        exact = reference.fft_features(wide, *options, torch.float64)
        plain = reference.fft_features(small, *options, dtype)
        assert_as_precise(features_eager(small, stride, dtype), plain, exact)
        ours = ops.fft_features(small, *options, dtype)
        error = assert_as_precise(ours, plain, exact)
        assert error <= 1e-6 or dtype != torch.float32
        return error

    tokens = (HEIGHT // stride) * (WIDTH // stride)
    values = tokens * 3 * 3 * WINDOW**2 // 2
    per_window = 2.5 * WINDOW**2 * math.log2(WINDOW**2) + 20 * WINDOW**2 / 2
    return Case(
        op="fft_features",
        case=f"1x3x2160x3840, P16 S{stride}, rgb, taper {taper_of(stride)}",
        direction="forward",
        device=device,
        dtype=arrow(source, dtype),
        ours=lambda n: ops.fft_features(images[n % SETS], *options, dtype),
        competitors=competitors,
        check=check,
        bytes_moved=images[0].nbytes + values * dtype.itemsize,
        flops=tokens * 3 * per_window,
    )


def bands(device: str) -> Case:
    """A 4K photo of bytes to 32 bands of each window and colour."""
    images = [
        random_image(1, 3, HEIGHT, WIDTH, dtype=torch.uint8, device=device) for _ in range(SETS)
    ]
    options = (WINDOW, WINDOW, "none", "rgb", RADIAL, ANGULAR)
    dtype = torch.bfloat16
    ones = reference.taper_weights(WINDOW, "none", torch.float32, images[0].device)
    shares = reference.band_shares(WINDOW, RADIAL, ANGULAR, ones)
    compiled = torch.compile(bands_eager, fullgraph=True)
    competitors: dict[str, Callable[[int], Any] | str] = {
        "eager": lambda n: bands_eager(images[n % SETS], shares, dtype)
    }
    if device != "cpu":
        competitors["compiled"] = lambda n: compiled(images[n % SETS], shares, dtype)
    small = images[0][..., :256, :256].contiguous()

    def ours(image: Tensor) -> Tensor:
        window, stride, taper, layout, radial, angular = options
        return ops.fft_bands(image, window, stride, radial, angular, taper, layout, dtype)

    def check() -> float:
        exact = reference.fft_bands(small.double() / 255, *options, torch.float64)
        plain = reference.fft_bands(small, *options, dtype)
        assert_as_precise(bands_eager(small, shares, dtype), plain, exact)
        return assert_as_precise(ours(small), plain, exact)

    tokens = (HEIGHT // WINDOW) * (WIDTH // WINDOW)
    return Case(
        op="fft_bands",
        case="1x3x2160x3840, P16 S16, rgb, 32 bands",
        direction="forward",
        device=device,
        dtype=arrow(torch.uint8, dtype),
        ours=lambda n: ours(images[n % SETS]),
        competitors=competitors,
        check=check,
        bytes_moved=images[0].nbytes + tokens * 3 * RADIAL * ANGULAR * dtype.itemsize,
        flops=tokens * 3 * (2.5 * WINDOW**2 * math.log2(WINDOW**2) + 2 * WINDOW**2),
    )


def features_backward(device: str) -> Case:
    """Forward and backward on training crops."""
    images = [torch.rand(8, 3, 256, 256, device=device, requires_grad=True) for _ in range(SETS)]
    options = (WINDOW, WINDOW, "none", "rgb")
    grad = torch.randn(8, 16, 16, 3 * 3 * WINDOW**2 // 2, device=device)

    def differentiate(function: Callable[[Tensor], Tensor], number: int) -> Tensor:
        image = images[number % SETS]
        (result,) = torch.autograd.grad(function(image), image, grad)
        return result

    def ours(image: Tensor) -> Tensor:
        return ops.fft_features(image, *options)

    def eager(image: Tensor) -> Tensor:
        return features_eager(image, WINDOW, torch.float32)

    def check() -> float:
        exact = gradients.fft_features_backward(
            grad.double(), images[0].detach().double(), *options
        )
        return assert_as_precise(differentiate(ours, 0), differentiate(eager, 0), exact)

    values = images[0].numel()
    per_window = 2.5 * WINDOW**2 * math.log2(WINDOW**2) + 20 * WINDOW**2 / 2
    return Case(
        op="fft_features",
        case="8x3x256x256, P16 S16, rgb, taper none",
        direction="forward+backward",
        device=device,
        dtype="float32",
        ours=lambda n: differentiate(ours, n),
        competitors={"eager": lambda n: differentiate(eager, n)},
        check=check,
        # The image and the features are written or read once in each direction.
        bytes_moved=4 * (2 * values + 2 * 1.5 * values),
        flops=3 * values / WINDOW**2 * per_window,
    )


def arrow(source: torch.dtype, target: torch.dtype) -> str:
    """ "float32 -> uint8" """
    names = [str(dtype).removeprefix("torch.") for dtype in (source, target)]
    return " -> ".join(names)


def cases(device: str) -> Iterator[Case]:
    """All cases of this operation for a device."""
    single, half, byte = torch.float32, torch.bfloat16, torch.uint8
    yield features(device, single, single, WINDOW)
    if device != "cpu":
        yield features(device, half, half, WINDOW)
        yield features(device, byte, half, WINDOW)
        yield features(device, half, half, WINDOW // 2)
    yield bands(device)
    yield features_backward(device)
