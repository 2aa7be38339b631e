"""rasterize_paths and filter_grid: the kernels against their references and float64."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from precision import assert_as_precise
from torch import Tensor

from freqdiff_kernels import ops

kernel = torch.ops.freqdiff
plain = torch.ops.freqdiff_reference
DOUBLE = torch.float64
DTYPES = [torch.float32, DOUBLE]


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_paths(
    *shape: int, scale: float = 4, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Displacements around 0 and weights that sum to 1."""
    weights = random(*shape, seed=1, dtype=dtype)
    return (random(*shape, 2, dtype=dtype) - 0.5) * 2 * scale, weights / weights.sum(-1)[..., None]


def sparse_kernels(*shape: int, share: float = 0.2, dtype: torch.dtype = torch.float32) -> Tensor:
    """Non-negative kernels of which this share is not 0, normalised."""
    values = random(*shape, seed=2, dtype=dtype)
    values = torch.where(random(*shape, seed=3, dtype=dtype) < share, values, 0)
    values[..., shape[-2] // 2, shape[-1] // 2] += 0.1
    return values / values.sum((-2, -1), keepdim=True)


def nodes(size: int, step: int) -> int:
    return -(-size // step) + 1


def grid_input(
    height: int, width: int, step: int, side: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Two images of three channels, and one grid of kernels for each."""
    image = random(2, 3, height + side - 1, width + side - 1, dtype=dtype)
    grid = sparse_kernels(2, nodes(height, step), nodes(width, step), side, side, dtype=dtype)
    return image, grid


def assert_precise(result: Tensor, expected: Tensor, exact: Tensor) -> None:
    """The rule for float32; `expected` in float64 is `exact` itself."""
    assert result.is_contiguous()
    if result.dtype == DOUBLE:
        torch.testing.assert_close(result, exact, rtol=0, atol=1e-14)
    else:
        assert_as_precise(result, expected, exact)


def assert_filter_as_precise(image: Tensor, grid: Tensor, step: int) -> None:
    result = kernel.filter_grid(image, grid, step)
    exact = plain.filter_grid(image.double(), grid.double(), step)
    assert_precise(result, plain.filter_grid(image, grid, step), exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("points", "radius", "scale"), [(64, 9, 6), (5, 2, 6), (3, 0, 1)])
def test_paths(level: str, points: int, radius: int, scale: float, dtype: torch.dtype) -> None:
    displacements, weights = random_paths(2, 3, points, scale=scale, dtype=dtype)
    result = kernel.rasterize_paths(displacements, weights, radius)
    expected = plain.rasterize_paths(displacements, weights, radius)
    exact = plain.rasterize_paths(displacements.double(), weights.double(), radius)
    assert_precise(result, expected, exact)
    torch.testing.assert_close(result.sum((-2, -1)), weights.sum(-1))
    assert float(result.min()) >= 0


def test_whole_shifts_and_the_edge_are_exact(level: str) -> None:
    shifts = torch.tensor([[0.0, 0.0], [-2.0, 1.0], [2.0, 2.0], [9.0, -9.0], [0.5, 0.0]])
    result = ops.rasterize_paths(shifts[:, None], torch.ones(5, 1), 2)
    expected = torch.zeros(5, 5, 5)
    for number, (y, x) in enumerate([(2, 2), (0, 3), (4, 4), (4, 0)]):
        expected[number, y, x] = 1
    expected[4, 2:4, 2] = 0.5
    assert torch.equal(result, expected)


def test_paths_of_any_strides_without_points_and_without_paths(level: str) -> None:
    displacements, weights = random_paths(4, 3, 7)
    expected = ops.rasterize_paths(displacements, weights, 5)
    turned = ops.rasterize_paths(displacements.transpose(0, 1), weights.transpose(0, 1), 5)
    assert torch.equal(turned, expected.transpose(0, 1))
    shared = ops.rasterize_paths(displacements, weights[:1].expand(4, -1, -1), 5)
    assert torch.equal(shared[2], ops.rasterize_paths(displacements[2], weights[0], 5))
    assert torch.equal(
        ops.rasterize_paths(torch.zeros(2, 0, 2), torch.zeros(2, 0), 1).sum(), torch.tensor(0.0)
    )
    assert ops.rasterize_paths(torch.zeros(0, 4, 2), torch.zeros(0, 4), 1).shape == (0, 3, 3)


def test_a_path_with_nan_gives_nan_and_spoils_no_other(level: str) -> None:
    displacements, weights = random_paths(3, 8)
    expected = ops.rasterize_paths(displacements, weights, 5)
    displacements[1, 3, 0] = float("nan")
    result = ops.rasterize_paths(displacements, weights, 5)
    assert torch.equal(result[::2], expected[::2])
    assert result[1].isnan().any()


def test_infinite_shifts_are_clamped(level: str) -> None:
    shifts = torch.tensor([[[float("inf"), -float("inf")]]])
    result = ops.rasterize_paths(shifts, torch.ones(1, 1), 1)
    assert result[0].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


# Blocks wider than the registers, narrower than a vector, with ragged ends; tiles within a block.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("height", "width", "step", "side"),
    [
        (50, 71, 32, 7),
        (9, 430, 210, 5),
        (230, 13, 110, 3),
        (33, 100, 100, 1),
        (40, 45, 16, 33),
        (3, 5, 1, 3),
    ],
)
def test_grids(
    level: str, height: int, width: int, step: int, side: int, dtype: torch.dtype
) -> None:
    image, grid = grid_input(height, width, step, side, dtype)
    assert_filter_as_precise(image, grid, step)
    # Kernels that do not change along one axis or both.
    assert_filter_as_precise(image, grid[:, :, :1], step)
    assert_filter_as_precise(image, grid[:, :1], step)
    assert_filter_as_precise(image, grid[:1, :1, :1], step)


def test_dense_kernels(level: str) -> None:
    image = random(1, 1, 60 + 32, 90 + 32)
    assert_filter_as_precise(image, sparse_kernels(1, 3, 4, 33, 33, share=1), 32)
    assert_filter_as_precise(image, sparse_kernels(1, 1, 1, 33, 33, share=1), 32)


def test_reference_is_the_sum_that_its_docstring_gives() -> None:
    step, side, size = 3, 3, (5, 7)
    image, grid = grid_input(*size, step, side, DOUBLE)
    expected = torch.zeros(2, 3, *size, dtype=DOUBLE)
    for y in range(size[0]):
        for x in range(size[1]):
            for row in range(grid.shape[1]):
                for column in range(grid.shape[2]):
                    v, u = (
                        1 - abs(y + 0.5 - row * step) / step,
                        1 - abs(x + 0.5 - column * step) / step,
                    )
                    seen = image[:, :, y : y + side, x : x + side].flip(2, 3)
                    sums = (seen * grid[:, row, column][:, None]).sum((2, 3))
                    expected[:, :, y, x] += max(0, v) * max(0, u) * sums
    torch.testing.assert_close(plain.filter_grid(image, grid, step), expected)


def test_one_tap_moves_the_image(level: str) -> None:
    image = random(2, 14, 16)
    moved = torch.zeros(1, 1, 5, 5)
    moved[0, 0, 3, 1] = 1  # one pixel down, one to the left
    # The reference transforms; what is computed in space is exact.
    tolerance = 1e-6 if level == "reference" else 0
    torch.testing.assert_close(
        ops.filter_grid(image, moved), image[:, 1:11, 3:15], rtol=0, atol=tolerance
    )


def test_equal_kernels_need_no_blending(level: str) -> None:
    image, one = random(1, 2, 47, 61), sparse_kernels(1, 1, 5, 5)
    grid = one.expand(nodes(43, 10), nodes(57, 10), 5, 5)
    # Of numbers of about 1; the reference transforms.
    torch.testing.assert_close(
        ops.filter_grid(image, grid, 10), ops.filter_grid(image, one), rtol=1e-6, atol=1e-6
    )


LAYOUTS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "columns inside": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "gaps": lambda x: torch.cat((x, x), dim=3)[..., : x.shape[3]],
    "every second row": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "expanded": lambda x: x[:, :1].expand(-1, x.shape[1], -1, -1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(level: str, layout: str) -> None:
    image, grid = grid_input(21, 35, 8, 5)
    arranged = LAYOUTS[layout](image)
    expected = ops.filter_grid(arranged.contiguous(), grid, 8)
    assert torch.equal(ops.filter_grid(arranged, grid, 8), expected)
    turned = grid.mT.contiguous().mT
    assert torch.equal(ops.filter_grid(arranged, turned, 8), expected)


def test_a_single_image_and_no_image(level: str) -> None:
    image, grid = grid_input(20, 30, 16, 5)
    batch = ops.filter_grid(image, grid, 16)
    assert torch.equal(ops.filter_grid(image[1], grid[1], 16), batch[1])
    assert torch.equal(ops.filter_grid(image, grid[0], 16)[0], batch[0])
    assert ops.filter_grid(image[:0], grid[:0], 16).shape == (0, 3, 20, 30)
    assert ops.filter_grid(image[:0], grid[0], 16).shape == (0, 3, 20, 30)
    assert ops.filter_grid(image[:, :0], grid[0], 16).shape == (2, 0, 20, 30)


def test_results_too_large_for_the_caches(level: str) -> None:
    image = random(3, 1210, 1222)
    grid = sparse_kernels(nodes(1200, 300), nodes(1212, 300), 11, 11, share=0.1)
    result = ops.filter_grid(image, grid, 300)
    assert result.numel() * 4 > 2**24
    with ops.use_backend("reference"):
        torch.testing.assert_close(result, ops.filter_grid(image, grid, 300), rtol=0, atol=2e-6)


def test_threads_share_the_work_and_disturb_nobody() -> None:
    image, grid = grid_input(150, 170, 32, 9)
    expected = ops.filter_grid(image, grid, 32)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: ops.filter_grid(image, grid, 32), range(8)))
    assert all(torch.equal(result, expected) for result in results)
