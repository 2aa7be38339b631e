"""Cases of extract_tiles and stitch_tiles (K3)."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import SETS, Case
from benchmarks.kernels_features import arrow, random_image
from freqdiff_kernels import ops, reference

HEIGHT, WIDTH, TILE, OVERLAP = 2160, 3840, 512, 64


def even_starts(size: int) -> list[int]:
    """Evenly spread tiles that overlap by at least 64 pixels."""
    count = -(-(size - OVERLAP) // (TILE - OVERLAP))
    return [round(i * (size - TILE) / (count - 1)) for i in range(count)]


STARTS = (even_starts(HEIGHT), even_starts(WIDTH))


def finish(image: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """float values to the dtype of the result, in place where that is possible."""
    if dtype.is_floating_point:
        return image.to(dtype)
    return (image * scale).clamp_(0, scale).round_().to(dtype)


def ramp(device: torch.device) -> Tensor:
    """Weights of a tile along one axis."""
    k = torch.arange(TILE, dtype=torch.float64, device=device)
    edge = torch.minimum(k, k.flip(0))
    rising = 0.5 - 0.5 * torch.cos(torch.pi * (edge + 0.5) / OVERLAP)
    return rising.where(edge < OVERLAP, 1).float()


def scatter_loop(tiles: Tensor) -> Tensor:
    """Accumulate weighted tiles and divide by the accumulated weights."""
    weight = ramp(tiles.device)[:, None] * ramp(tiles.device)
    total = torch.zeros((3, HEIGHT, WIDTH), device=tiles.device)
    weights = torch.zeros((1, HEIGHT, WIDTH), device=tiles.device)
    for number, tile in enumerate(tiles):
        y, x = STARTS[0][number // len(STARTS[1])], STARTS[1][number % len(STARTS[1])]
        total[:, y : y + TILE, x : x + TILE] += tile * weight
        weights[:, y : y + TILE, x : x + TILE] += weight
    return total / weights


def fold_tiles(tiles: Tensor, weights: Tensor) -> Tensor:
    """The same with torch.nn.functional.fold, the accumulated weights computed beforehand."""
    weight = ramp(tiles.device)[:, None] * ramp(tiles.device)
    columns = (tiles * weight).reshape(1, len(tiles), -1).mT
    stride = (STARTS[0][1], STARTS[1][1])
    return F.fold(columns, (HEIGHT, WIDTH), TILE, stride=stride)[0] / weights


def diffusers_blend(tiles: Tensor) -> Tensor:
    """The blending of diffusers' tiled autoencoder: linear ramps, tile after tile."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL.__new__(AutoencoderKL)
    steps = (STARTS[0][1], STARTS[1][1])
    grid = tiles.clone().unflatten(0, (len(STARTS[0]), len(STARTS[1])))
    rows = []
    for i in range(len(grid)):
        parts = []
        for j, tile in enumerate(grid[i]):
            tile = tile[None]
            if i:
                tile = model.blend_v(grid[i - 1, j][None], tile, TILE - steps[0])
            if j:
                tile = model.blend_h(grid[i, j - 1][None], tile, TILE - steps[1])
            grid[i, j] = tile[0]
            last = (
                TILE if i + 1 == len(grid) else steps[0],
                TILE if j + 1 == len(grid[i]) else steps[1],
            )
            parts.append(tile[0, :, : last[0], : last[1]])
        rows.append(torch.cat(parts, dim=2))
    return torch.cat(rows, dim=1)


def largest_difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def stitch(device: str, source: torch.dtype, dtype: torch.dtype) -> Case:
    """45 tiles that agree, to the image that they were cut from."""
    scale = float(torch.iinfo(dtype).max) if not dtype.is_floating_point else 1.0
    images = [random_image(3, HEIGHT, WIDTH, dtype=source, device=device) for _ in range(SETS)]
    tiles = [ops.extract_tiles(x, (TILE, TILE), STARTS).contiguous() for x in images]
    weights = fold_tiles(torch.ones_like(tiles[0], dtype=torch.float32), torch.ones(1).to(device))

    def ours(n: int) -> Tensor:
        return ops.stitch_tiles(tiles[n % SETS], STARTS, (HEIGHT, WIDTH), dtype=dtype, scale=scale)

    competitors: dict[str, Callable[[int], Any] | str] = {
        "scatter": lambda n: finish(scatter_loop(tiles[n % SETS]), dtype, scale),
        "fold": lambda n: finish(fold_tiles(tiles[n % SETS].float(), weights), dtype, scale),
        "diffusers": "not installed",
    }
    if importlib.util.find_spec("diffusers"):
        competitors["diffusers"] = lambda n: finish(
            diffusers_blend(tiles[n % SETS]).float(), dtype, scale
        )

    def check() -> float:
        expected = finish(images[0].float(), dtype, scale)
        for name, competitor in competitors.items():
            if not isinstance(competitor, str):
                # Rounding, and for diffusers that of its 16-bit ramps.
                allowed = scale * (2**-7 if name == "diffusers" else 2**-16) + (scale > 1)
                assert largest_difference(competitor(0), expected) <= allowed, name
        error = largest_difference(ours(0), expected)
        assert error == 0
        return error

    return Case(
        op="stitch_tiles",
        case="3x2160x3840, 45 tiles of 512, overlap 64",
        direction="forward",
        device=device,
        dtype=arrow(source, dtype),
        ours=ours,
        competitors=competitors,
        check=check,
        bytes_moved=tiles[0].nbytes + images[0].numel() * dtype.itemsize,
        flops=9.0 * images[0].numel(),
    )


def extract(device: str) -> Case:
    """A 4K photo of bytes to 45 normalised tiles."""
    byte, dtype = torch.uint8, torch.bfloat16
    images = [random_image(3, HEIGHT, WIDTH, dtype=byte, device=device) for _ in range(SETS)]
    arguments = ((TILE, TILE), STARTS, dtype, 2 / 255, -1.0)

    def eager(image: Tensor) -> Tensor:
        cut = [
            image[:, y : y + TILE, x : x + TILE] * (2 / 255) - 1
            for y in STARTS[0]
            for x in STARTS[1]
        ]
        return torch.stack(cut).to(dtype, memory_format=torch.channels_last)

    def check() -> float:
        expected = eager(images[0])
        error = largest_difference(ops.extract_tiles(images[0], *arguments), expected)
        assert error <= torch.finfo(dtype).eps
        return error

    tile_bytes = len(STARTS[0]) * len(STARTS[1]) * 3 * TILE**2 * dtype.itemsize
    return Case(
        op="extract_tiles",
        case="3x2160x3840, 45 tiles of 512, overlap 64",
        direction="forward",
        device=device,
        dtype=arrow(byte, dtype),
        ours=lambda n: ops.extract_tiles(images[n % SETS], *arguments),
        competitors={
            "eager": lambda n: eager(images[n % SETS]),
            "reference": lambda n: reference.extract_tiles(
                images[n % SETS], (TILE, TILE), *STARTS, dtype, 2 / 255, -1.0
            ),
        },
        check=check,
        bytes_moved=images[0].nbytes + tile_bytes,
        flops=2.0 * tile_bytes / dtype.itemsize,
    )


def cases(device: str) -> Iterator[Case]:
    """All cases of these operations for a device."""
    single, half = torch.float32, torch.bfloat16
    yield stitch(device, single, single)
    yield stitch(device, single, torch.uint8)
    if device != "cpu":
        yield stitch(device, half, torch.uint8)
        yield stitch(device, half, torch.uint16)
    yield extract(device)
