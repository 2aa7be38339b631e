"""How fast the operations are, beside what one would write with torch alone.

python -m benchmarks.kernels [--threads 1 2] [--quick]

On a machine that is busy with other work, believe the rows of one thread: threads of the
competitors that wait for each other on a shared core make those look slower than they are.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.attention import attention
from benchmarks.harness import Row, copy_rate, measure, provenance, row, show, write
from freqdiff_kernels import gradients, native, ops, reference

HEIGHT, WIDTH = 2160, 3840
SETS = 3
WINDOW = 16


def spectra_eager(image: Tensor) -> Tensor:
    """The features without taper and overlap, as short as torch allows."""
    blocks = image.unfold(2, WINDOW, WINDOW).unfold(3, WINDOW, WINDOW).permute(0, 2, 3, 1, 4, 5)
    return log_and_phase(*reference.pack_half_plane(reference.half_spectrum(blocks)))


def log_and_phase(real: Tensor, imag: Tensor) -> Tensor:
    rho = torch.sqrt(real.square() + imag.square() + reference.noise_floor(WINDOW) ** 2)
    return torch.stack((rho.log(), real / rho, imag / rho), dim=-2).flatten(-3)


def packed_basis() -> Tensor:
    """(P*P, P*P): pixels to the real slots, then the imaginary ones."""
    impulses = torch.eye(WINDOW**2, dtype=torch.float64).reshape(-1, WINDOW, WINDOW)
    slots = reference.pack_half_plane(reference.half_spectrum(impulses))
    return torch.cat(slots, dim=-1).float()


def spectra_gemm(image: Tensor, basis: Tensor) -> Tensor:
    """The same as one matrix product over the windows."""
    batch, colours, height, width = image.shape
    rows, columns = height // WINDOW, width // WINDOW
    blocks = image.reshape(batch, colours, rows, WINDOW, columns, WINDOW)
    blocks = blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows, columns, colours, WINDOW**2)
    return log_and_phase(*(blocks @ basis).chunk(2, dim=-1))


def relative_error(values: Tensor, exact: Tensor) -> float:
    return float((values.double() - exact).norm() / exact.norm())


def features_forward(runs: int, rate: float) -> Row:
    images = [torch.rand(1, 3, HEIGHT, WIDTH) for _ in range(SETS)]
    basis = packed_basis()
    compiled = torch.compile(spectra_gemm, fullgraph=True)
    contestants: dict[str, Callable[[int], Any]] = {
        "cpp": lambda n: ops.fft_features(images[n % SETS], WINDOW, WINDOW, "none", "rgb"),
        "eager": lambda n: spectra_eager(images[n % SETS]),
        "compiled GEMM": lambda n: compiled(images[n % SETS], basis),
    }
    small = images[0][..., :256, :256].contiguous()
    exact = reference.fft_features(small.double(), WINDOW, WINDOW, "none", "rgb", torch.float64)
    error = relative_error(ops.fft_features(small, WINDOW, WINDOW, "none", "rgb"), exact)
    assert error < 1e-6
    assert relative_error(spectra_eager(small), exact) < 1e-5
    assert relative_error(spectra_gemm(small, basis), exact) < 1e-4
    timings = measure(contestants, {"cpp": runs, "eager": runs // 6, "compiled GEMM": runs // 4})
    return row(
        timings,
        "cpp",
        bytes_moved=images[0].numel() * 4 * 2.5,
        rate=rate,
        op="fft_features",
        case="1x3x2160x3840, P16 S16, rgb, no taper",
        direction="forward",
        backend="cpp " + native.cpu_level(),
        device="cpu",
        dtype="float32",
        max_error=error,
    )


def features_backward(runs: int) -> Row:
    images = [torch.rand(8, 3, 256, 256, requires_grad=True) for _ in range(SETS)]
    options = (WINDOW, WINDOW, "none", "rgb")
    grad = torch.randn(8, 16, 16, 3 * 3 * WINDOW**2 // 2)

    def plain(image: Tensor, *options: Any) -> Tensor:
        return reference.fft_features(image, *options, image.dtype)

    def run(function: Callable[..., Tensor], number: int) -> Tensor:
        image = images[number % SETS]
        (result,) = torch.autograd.grad(function(image, *options), image, grad)
        return result

    exact = gradients.fft_features_backward(grad.double(), images[0].detach().double(), *options)
    error = relative_error(run(ops.fft_features, 0), exact)
    assert error <= 2 * relative_error(run(plain, 0), exact)
    timings = measure(
        {
            "cpp": lambda n: run(ops.fft_features, n),
            "autograd": lambda n: run(plain, n),
        },
        {"cpp": runs, "autograd": runs // 2},
    )
    return row(
        timings,
        "cpp",
        bytes_moved=0,
        rate=None,
        op="fft_features",
        case="8x3x256x256, P16 S16, rgb, no taper",
        direction="forward+backward",
        backend="cpp " + native.cpu_level(),
        device="cpu",
        dtype="float32",
        max_error=error,
    )


def against_reference(
    name: str,
    case: str,
    dtype: str,
    calls: dict[str, Callable[[int], Tensor]],
    exact: Tensor,
    runs: int,
) -> Row:
    """A forward of an operation whose only competitor is its reference."""
    error = relative_error(calls["cpp"](0), exact)
    assert error <= 2 * relative_error(calls["eager"](0), exact) + torch.finfo(torch.float32).eps
    return row(
        measure(calls, {"cpp": runs, "eager": runs // 6}),
        "cpp",
        bytes_moved=0,
        rate=None,
        op=name,
        case=case,
        direction="forward",
        backend="cpp " + native.cpu_level(),
        device="cpu",
        dtype=dtype,
        max_error=error,
    )


def bands(runs: int) -> Row:
    images = [torch.rand(1, 3, HEIGHT // 2, WIDTH // 2)[..., : 67 * WINDOW, :] for _ in range(SETS)]
    options = (WINDOW, WINDOW, "hann", "rgb", 4, 8)
    calls: dict[str, Callable[[int], Tensor]] = {
        "cpp": lambda n: ops.fft_bands(images[n % SETS], WINDOW, WINDOW, 4, 8, "hann", "rgb"),
        "eager": lambda n: reference.fft_bands(images[n % SETS], *options, torch.float32),
    }
    exact = reference.fft_bands(images[0].double(), *options, torch.float64)
    case = "1x3x1072x1920, P16 S16, rgb, 4x8 bands"
    return against_reference("fft_bands", case, "float32", calls, exact, runs)


def step(runs: int) -> Row:
    shape = (1, 3, HEIGHT, WIDTH)
    pairs = [(torch.randn(shape), torch.randn(shape, dtype=torch.bfloat16)) for _ in range(SETS)]
    coefficients = torch.tensor([[1.1, -0.4, 0.0, 0.7, 0.3]])
    calls: dict[str, Callable[[int], Tensor]] = {
        "cpp": lambda n: ops.ddim_step(*pairs[n % SETS], None, coefficients),
        "eager": lambda n: reference.ddim_step(*pairs[n % SETS], None, coefficients, True),
    }
    x, f = pairs[0]
    exact = reference.ddim_step(x.double(), f.double(), None, coefficients.double(), True)
    case = "1x3x2160x3840, epsilon, clamped"
    return against_reference("ddim_step", case, "float32, bfloat16 -> float32", calls, exact, runs)


def even_starts(size: int, tile: int, overlap: int) -> list[int]:
    count = -(-(size - overlap) // (tile - overlap))
    return [round(i * (size - tile) / (count - 1)) for i in range(count)]


STARTS = (even_starts(HEIGHT, 512, 64), even_starts(WIDTH, 512, 64))


def to_bytes(image: Tensor) -> Tensor:
    return (image * 255).clamp_(0, 255).round_().to(torch.uint8)


def ramp(tile: int, overlap: int) -> Tensor:
    k = torch.arange(tile, dtype=torch.float64)
    edge = torch.minimum(k, k.flip(0))
    return (
        (0.5 - 0.5 * torch.cos(torch.pi * (edge + 0.5) / overlap)).where(edge < overlap, 1).float()
    )


def scatter_loop(tiles: Tensor) -> Tensor:
    """Accumulate weighted tiles and divide by the accumulated weights."""
    weight = ramp(512, 64)[:, None] * ramp(512, 64)
    total, weights = torch.zeros(3, HEIGHT, WIDTH), torch.zeros(1, HEIGHT, WIDTH)
    for number, tile in enumerate(tiles):
        y, x = STARTS[0][number // len(STARTS[1])], STARTS[1][number % len(STARTS[1])]
        total[:, y : y + 512, x : x + 512] += tile * weight
        weights[:, y : y + 512, x : x + 512] += weight
    return total / weights


def fold_tiles(tiles: Tensor, weights: Tensor) -> Tensor:
    """The same with torch.nn.functional.fold, the accumulated weights computed beforehand."""
    weight = ramp(512, 64)[:, None] * ramp(512, 64)
    columns = (tiles * weight).reshape(1, len(tiles), -1).mT
    stride = (STARTS[0][1], STARTS[1][1])
    return F.fold(columns, (HEIGHT, WIDTH), 512, stride=stride)[0] / weights


def stitch(runs: int, rate: float, dtype: torch.dtype) -> Row:
    images = [torch.rand(3, HEIGHT, WIDTH) for _ in range(SETS)]
    tiles = [ops.extract_tiles(image, (512, 512), STARTS).contiguous() for image in images]
    weights = fold_tiles(torch.ones_like(tiles[0]), torch.ones(1))
    whole = dtype != torch.float32
    scale = 255.0 if whole else 1.0
    finish: Callable[[Tensor], Tensor] = to_bytes if whole else (lambda image: image)
    contestants: dict[str, Callable[[int], Tensor]] = {
        "cpp": lambda n: ops.stitch_tiles(
            tiles[n % SETS], STARTS, (HEIGHT, WIDTH), dtype=dtype, scale=scale
        ),
        "scatter loop": lambda n: finish(scatter_loop(tiles[n % SETS])),
        "F.fold": lambda n: finish(fold_tiles(tiles[n % SETS], weights)),
    }
    expected = finish(images[0])
    error = float((contestants["cpp"](0).double() - expected.double()).abs().max())
    assert error == 0
    for name in ("scatter loop", "F.fold"):
        difference = (contestants[name](0).double() - expected.double()).abs().max()
        assert difference <= (1 if whole else 1e-5)
    timings = measure(contestants, {"cpp": runs, "scatter loop": runs // 4, "F.fold": runs // 4})
    return row(
        timings,
        "cpp",
        bytes_moved=tiles[0].numel() * 4 + images[0].numel() * dtype.itemsize,
        rate=rate,
        op="stitch_tiles",
        case="3x2160x3840, 45 tiles of 512, overlap 64",
        direction="forward",
        backend="cpp " + native.cpu_level(),
        device="cpu",
        dtype=f"float32 -> {str(dtype).removeprefix('torch.')}",
        max_error=error,
    )


def cases(runs: int, rate: float) -> Iterator[Row]:
    yield features_forward(runs, rate)
    yield features_backward(runs)
    yield bands(runs)
    yield attention(runs, backward=False)
    yield attention(runs, backward=True)
    yield step(runs)
    yield stitch(runs, rate, torch.float32)
    yield stitch(runs, rate, torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="a third of the runs")
    arguments = parser.parse_args()
    if native.status != "loaded":
        raise SystemExit(f"the compiled kernels are {native.status}: nothing to compare")
    torch.manual_seed(0)
    runs = 18 if arguments.quick else 51
    facts = provenance()
    rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        rate = copy_rate()
        print(f"{threads} threads, copy {rate / 1e9:.1f} GB/s")
        for entry in cases(runs, rate):
            rows.append(entry)
            show(entry)
    print(f"wrote {write('kernels_cpu', rows, facts)}")


if __name__ == "__main__":
    main()
