"""Cases of filter_grid and rasterize_paths, which synthesise blur."""

import importlib.util
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.harness import SETS, Case, assert_as_precise
from freqdiff_kernels import ops, reference_filter

HEIGHT, WIDTH, STEP = 2160, 3840, 192
PATHS, POINTS, RADIUS = 1000, 64, 16


def grid_shape() -> tuple[int, int]:
    return -(-HEIGHT // STEP) + 1, -(-WIDTH // STEP) + 1


def shake(seed: int) -> Tensor:
    """Displacements (ny, nx, N, 2) at all nodes: a trembling shift and a roll about the middle, as
    of a hand that moves the frame by about 16 pixels."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.linspace(-0.5, 0.5, POINTS)
    direction, phase = 2 * math.pi * torch.rand(2, generator=generator)
    tremor = torch.stack((torch.sin(9 * time + phase), torch.cos(7 * time)), -1)
    shift = 15 * time[:, None] * torch.stack((direction.sin(), direction.cos())) + tremor
    rows, columns = grid_shape()
    y, x = torch.meshgrid(
        torch.arange(rows) * STEP - HEIGHT / 2, torch.arange(columns) * STEP - WIDTH / 2,
        indexing="ij",
    )  # fmt: skip
    roll = 0.002 * time[:, None] * torch.stack((x, -y), -1)[:, :, None]
    return shift + roll


def disk(diameter: float) -> Tensor:
    """A defocus disk (k, k) with an edge of one pixel, as blursynth makes it."""
    position = torch.arange(-RADIUS, RADIUS + 1.0)
    inside = (diameter / 2 + 0.5 - torch.hypot(position[:, None], position)).clamp(0, 1)
    return inside / inside.sum()


def blocks() -> Iterator[tuple[int, int]]:
    """First row and column of all blocks."""
    rows, columns = grid_shape()
    for row in range(rows - 1):
        for column in range(columns - 1):
            yield row, column


def corners_of(grid: Tensor, row: int, column: int) -> Tensor:
    """The four kernels around a block, or the only one."""
    if len(grid) == 1:
        return grid[0]
    return grid[row : row + 2, column : column + 2].flatten(0, 1)


def whole_blocks(image: Tensor) -> Tensor:
    """The image, extended to whole blocks."""
    rows, columns = grid_shape()
    down, right = (rows - 1) * STEP - HEIGHT, (columns - 1) * STEP - WIDTH
    return F.pad(image, (0, right, 0, down), mode="replicate")


def corner_weights(device: torch.device) -> Tensor:
    """Bilinear weights (4, STEP, STEP) of the nodes at the corners of a block."""
    share = (torch.arange(STEP, device=device) + 0.5) / STEP
    v, u = share[:, None], share
    return torch.stack(((1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u))


def by_block(image: Tensor, grid: Tensor, filtered: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Blends what filtered(patch (C, h, w), kernels (K, k, k)) -> (K, C, h', w') gives."""
    padded, span = whole_blocks(image), STEP + 2 * RADIUS
    result = torch.empty_like(padded[:, 2 * RADIUS :, 2 * RADIUS :])
    weights = corner_weights(image.device)[:, None]
    for r, c in blocks():
        patch = padded[:, r * STEP : r * STEP + span, c * STEP : c * STEP + span]
        parts = filtered(patch, corners_of(grid, r, c))
        block = parts[0] if len(parts) == 1 else (weights * parts).sum(0)
        result[:, r * STEP : (r + 1) * STEP, c * STEP : (c + 1) * STEP] = block
    return result[:, :HEIGHT, :WIDTH]


def conv2d(patch: Tensor, kernels: Tensor) -> Tensor:
    """Grouped: all kernels on each channel."""
    channels = len(patch)
    weight = kernels.flip(1, 2)[:, None].repeat(channels, 1, 1, 1)
    result = F.conv2d(patch[None], weight, groups=channels)
    return result.unflatten(1, (channels, len(kernels)))[0].transpose(0, 1)


def scipy_fft(patch: Tensor, kernels: Tensor) -> Tensor:
    """scipy.signal.fftconvolve with each kernel."""
    from scipy.signal import fftconvolve

    results = [
        fftconvolve(patch.numpy(), kernel[None].numpy(), "valid", (1, 2)) for kernel in kernels
    ]
    return torch.from_numpy(np.stack(results))


def scipy_whole(image: Tensor, kernel: Tensor) -> Tensor:
    """One kernel for the whole frame, by overlapping and adding."""
    from scipy.signal import oaconvolve

    return torch.from_numpy(oaconvolve(image.numpy(), kernel[None].numpy(), "valid", (1, 2)))


def filter_frame(name: str, grids: list[Tensor]) -> Case:
    """A 4K frame; `grids` (ny, nx, k, k) are taken in turn."""
    side = 2 * RADIUS
    images = [torch.rand(3, HEIGHT + side, WIDTH + side) for _ in range(SETS)]
    single = len(grids[0]) == 1

    def arguments(n: int) -> tuple[Tensor, Tensor]:
        return images[n % SETS], grids[n % len(grids)]

    def fft_way(n: int) -> Tensor:
        image, grid = arguments(n)
        return reference_filter.filter_grid(image[None], grid[None], STEP)[0]

    def scipy_way(n: int) -> Tensor:
        image, grid = arguments(n)
        return scipy_whole(image, grid[0, 0]) if single else by_block(image, grid, scipy_fft)

    def conv2d_way(n: int) -> Tensor:
        image, grid = arguments(n)
        return conv2d(image, grid[0])[0] if single else by_block(image, grid, conv2d)

    competitors: dict[str, Callable[[int], Any] | str] = {
        "fft_blocks": fft_way,
        "scipy": scipy_way if importlib.util.find_spec("scipy") else "not installed",
        "conv2d": conv2d_way,
    }

    def check() -> float:
        image, grid = arguments(0)
        ours = ops.filter_grid(image, grid, STEP)
        for competitor_name, competitor in competitors.items():
            if not isinstance(competitor, str):
                difference = float((competitor(0) - ours).abs().max())
                assert difference <= 1e-5, f"{competitor_name} differs by {difference:.1e}"
        part, some = image[:, : STEP + side, : STEP + side], grid[:2, :2]
        plain = reference_filter.filter_grid(part[None], some[None], STEP)
        exact = reference_filter.filter_grid(part[None].double(), some[None].double(), STEP)
        return assert_as_precise(ours[:, :STEP, :STEP], plain[0], exact[0])

    taps = sum(float((grid != 0).sum()) / (grid.shape[0] * grid.shape[1]) for grid in grids)
    taps /= len(grids)
    return Case(
        op="filter_grid",
        case=f"3x{HEIGHT}x{WIDTH}, {name}, {taps:.0f} taps",
        direction="forward",
        device="cpu",
        dtype="float32",
        ours=lambda n: ops.filter_grid(*arguments(n), STEP),
        competitors=competitors,
        check=check,
        bytes_moved=2.0 * images[0].nbytes,
        flops=2.0 * taps * 3 * HEIGHT * WIDTH,
    )


def raster_add_at(displacements: NDArray[np.float32], weights: NDArray[np.float32]) -> Any:
    """All paths at once with numpy.add.at."""
    whole = np.floor(displacements).astype(np.int64)
    part = displacements - whole
    result = np.zeros((len(weights), 2 * RADIUS + 2, 2 * RADIUS + 2), np.float32)
    number = np.arange(len(weights))[:, None]
    for dy in (0, 1):
        for dx in (0, 1):
            v = part[..., 0] if dy else 1 - part[..., 0]
            u = part[..., 1] if dx else 1 - part[..., 1]
            y, x = whole[..., 0] + RADIUS + dy, whole[..., 1] + RADIUS + dx
            np.add.at(result, (number, y, x), weights * v * u)
    return result[:, :-1, :-1]


def raster_histogram(displacements: NDArray[np.float32], weights: NDArray[np.float32]) -> Any:
    """Path by path with numpy.histogram2d, the split between pixels as four weighted points."""
    whole = np.floor(displacements)
    part = displacements - whole
    side = 2 * RADIUS + 1
    limits = ((-RADIUS - 0.5, RADIUS + 0.5),) * 2
    v = np.stack((1 - part[..., 0], part[..., 0]), -1)[..., :, None]
    u = np.stack((1 - part[..., 1], part[..., 1]), -1)[..., None, :]
    shares = (weights[..., None, None] * v * u).reshape(len(weights), -1)
    corner = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    points = (whole[:, :, None] + corner).reshape(len(weights), -1, 2)
    return np.stack(
        [
            np.histogram2d(p[:, 0], p[:, 1], side, limits, weights=w)[0]
            for p, w in zip(points, shares, strict=True)
        ]
    ).astype(np.float32)


def rasterize() -> Case:
    """Many paths to kernels."""
    frames = -(-PATHS // math.prod(grid_shape()))
    paths = [
        torch.cat([shake(n * frames + i).flatten(0, 1) for i in range(frames)])[:PATHS]
        for n in range(SETS)
    ]
    weights = torch.full((len(paths[0]), POINTS), 1 / POINTS)
    arrays = [path.numpy() for path in paths]

    def check() -> float:
        ours = ops.rasterize_paths(paths[0], weights, RADIUS)
        for way in (raster_add_at, raster_histogram):
            other = torch.from_numpy(way(arrays[0], weights.numpy()))
            assert float((other - ours).abs().max()) <= 1e-6, way.__name__
        plain = reference_filter.rasterize_paths(paths[0], weights, RADIUS)
        exact = reference_filter.rasterize_paths(paths[0].double(), weights.double(), RADIUS)
        return assert_as_precise(ours, plain, exact)

    return Case(
        op="rasterize_paths",
        case=f"{len(paths[0])} paths of {POINTS} shifts, radius {RADIUS}",
        direction="forward",
        device="cpu",
        dtype="float32",
        ours=lambda n: ops.rasterize_paths(paths[n % SETS], weights, RADIUS),
        competitors={
            "add_at": lambda n: raster_add_at(arrays[n % SETS], weights.numpy()),
            "histogram2d": lambda n: raster_histogram(arrays[n % SETS], weights.numpy()),
            "reference": lambda n: reference_filter.rasterize_paths(
                paths[n % SETS], weights, RADIUS
            ),
        },
        check=check,
        bytes_moved=12.0 * weights.numel() + 4.0 * len(weights) * (2 * RADIUS + 1) ** 2,
        flops=10.0 * weights.numel(),
    )


def cases(device: str) -> Iterator[Case]:
    """All cases of these operations for a device: they have kernels for the CPU alone."""
    if device != "cpu":
        return
    weights = torch.full((*grid_shape(), POINTS), 1 / POINTS)
    grids = [ops.rasterize_paths(shake(seed), weights, RADIUS) for seed in range(SETS)]
    yield filter_frame("hand shake of 16 px", grids)
    yield filter_frame("disk of 12 px", [disk(12)[None, None]])
    yield rasterize()
