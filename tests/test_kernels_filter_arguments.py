"""rasterize_paths and filter_grid: what they refuse, and how they say it."""

import pytest
import torch
from torch import Tensor

from freqdiff_kernels import ops

kernel = torch.ops.freqdiff


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (TypeError, "displacements is a list, expected a torch.Tensor", ([], torch.ones(1), 1)),
        (
            TypeError,
            "dtype of displacements is bfloat16, expected one of float32, float64",
            (torch.zeros(4, 2).bfloat16(), torch.ones(4), 1),
        ),
        (
            TypeError,
            "dtype of weights is float64, expected that of displacements, float32",
            (torch.zeros(4, 2), torch.ones(4).double(), 1),
        ),
        (
            ValueError,
            r"displacements has shape \(4, 3\), expected \(..., N, 2\)",
            (torch.zeros(4, 3), torch.ones(4), 1),
        ),
        (
            ValueError,
            r"weights has shape \(3,\), expected \(4,\)",
            (torch.zeros(4, 2), torch.ones(3), 1),
        ),
        (ValueError, "radius is -1, expected at least 0", (torch.zeros(4, 2), torch.ones(4), -1)),
    ],
)
def test_wrong_paths(error: type[Exception], message: str, arguments: tuple[object, ...]) -> None:
    with pytest.raises(error, match=message):
        ops.rasterize_paths(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "message", "image", "grid", "step"),
    [
        (TypeError, "dtype of image is uint8, expected", torch.zeros(1, 9, 9).byte(), (3, 3), 8),
        (TypeError, "dtype of kernels is float32, expected that of image, float64",
         torch.zeros(1, 9, 9).double(), (1, 1, 3, 3), 8),
        (ValueError, r"image has shape \(9, 9\), expected \(C, H, W\)", (9, 9), (1, 1, 3, 3), 8),
        (ValueError, r"kernels has shape \(3, 3\), expected \(ny, nx, k, k\)$",
         (1, 9, 9), (3, 3), 8),
        (ValueError, r"kernels has shape \(1, 3\), expected .* or \(B, ny, nx, k, k\)",
         (1, 1, 9, 9), (1, 3), 8),
        (ValueError, "kernels holds 3 grids, expected one per image, 2",
         (2, 1, 9, 9), (3, 1, 1, 3, 3), 8),
        (ValueError, "kernels are 3 x 5 pixels, expected a square", (1, 9, 9), (1, 1, 3, 5), 8),
        (ValueError, "kernels are 4 x 4 pixels, expected", (1, 9, 9), (1, 1, 4, 4), 8),
        (ValueError, "step is 0, expected at least 1", (1, 9, 9), (1, 1, 3, 3), 0),
        (ValueError, "image is 2 x 9 pixels, expected at least the size of the kernels, 3",
         (1, 2, 9), (1, 1, 3, 3), 8),
        (ValueError, r"kernels has 2 nodes along x, expected 1 or 3 \(9 pixels, step 8\)",
         (1, 10, 11), (2, 2, 3, 3), 8),
    ],
)  # fmt: skip
def test_wrong_grids(
    error: type[Exception],
    message: str,
    image: Tensor | tuple[int, ...],
    grid: tuple[int, ...],
    step: int,
) -> None:
    values = image if isinstance(image, Tensor) else torch.zeros(image)
    with pytest.raises(error, match=message):
        ops.filter_grid(values, torch.zeros(grid), step)


def test_the_kernels_check_what_they_read(level: str) -> None:
    image, grid = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 1, 3, 3)
    if level == "reference":
        pytest.skip("needs the compiled kernels")
    for bad in (grid[0], grid[..., :2], grid.double(), grid.expand(2, 1, 1, 3, 3)):
        with pytest.raises(RuntimeError, match="expected"):
            kernel.filter_grid(image, bad, 8)
    with pytest.raises(RuntimeError, match="kernels has 3 nodes along y, expected 1 or 2"):
        kernel.filter_grid(image, grid.expand(1, 3, 1, 3, 3), 8)
    with pytest.raises(RuntimeError, match="weights has size 3 in dimension 0, expected 4"):
        kernel.rasterize_paths(torch.zeros(4, 2), torch.zeros(3), 1)
    with pytest.raises(RuntimeError, match="rank of displacements is 1, expected at least 2"):
        kernel.rasterize_paths(torch.zeros(2), torch.tensor(0.0), 1)


def test_gradients_are_refused() -> None:
    displacements, weights = torch.rand(8, 2), torch.rand(8)
    with pytest.raises(NotImplementedError, match="rasterize_paths has no gradient"):
        ops.rasterize_paths(displacements, weights.requires_grad_(), 4).sum().backward()
    image, grid = torch.rand(1, 9, 9), torch.rand(1, 1, 3, 3)
    with pytest.raises(NotImplementedError, match="filter_grid has no gradient"):
        ops.filter_grid(image.requires_grad_(), grid, 8).sum().backward()
