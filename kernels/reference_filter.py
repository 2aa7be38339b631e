"""What rasterize_paths and filter_grid mean, in plain torch.

Like `reference`: specification, fallback and oracle, here in float32 and float64.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_SINGLE_BLOCK = 256
"""Pixels along an axis that are filtered at once where no step says so."""


def rasterize_paths(displacements: Tensor, weights: Tensor, radius: int) -> Tensor:
    """Kernels of motion paths: every shift splits its weight between its four nearest pixels.

    A pixel gets max(0, 1 - |distance|) along each axis, and the weights are summed up as a product
    of two matrices, one per axis.

    Args:
        displacements: (..., N, 2) shifts (dy, dx) in pixels, clamped to [-radius, radius].
        weights: (..., N).
        radius: r.

    Returns:
        (..., 2r+1, 2r+1), no shift at (r, r).
    """
    position = torch.arange(
        -radius, radius + 1, device=displacements.device, dtype=displacements.dtype
    )
    limited = displacements.clamp(-radius, radius)
    rows, columns = (
        (1 - (position[:, None] - shift[..., None, :]).abs()).clamp_min(0)
        for shift in limited.unbind(-1)
    )
    return (rows * weights[..., None, :]) @ columns.mT


def filter_grid(image: Tensor, kernels: Tensor, step: int) -> Tensor:
    """Convolution with a kernel that is interpolated between the nodes of a grid.

    out[y, x] = sum over nodes n of w_n(y, x) sum over taps (i, j) of
    kernels[n, i, j] image[y + k - 1 - i, x + k - 1 - j], with the bilinear weights w_n of the four
    nodes around the centre (y + 0.5, x + 0.5) of the pixel. Node (i, j) lies at (i step, j step).

    Args:
        image: (B, C, H + k - 1, W + k - 1).
        kernels: (1 or B, ny, nx, k, k), ny = ceil(H / step) + 1 and nx alike; or 1 along an axis,
            for the same kernels all along it.
        step: in pixels.

    Returns:
        (B, C, H, W).
    """
    border = kernels.shape[-1] - 1
    height, width = image.shape[-2] - border, image.shape[-1] - border
    result = image.new_empty((*image.shape[:2], height, width))
    if result.numel() == 0:
        return result
    for top, bottom, rows in _blocks(height, kernels.shape[1], step, image):
        for left, right, columns in _blocks(width, kernels.shape[2], step, image):
            patch = image[..., top : bottom + border, left : right + border]
            size = (patch.shape[-2], patch.shape[-1])
            spectrum = torch.fft.rfft2(patch)
            block = torch.zeros_like(result[..., top:bottom, left:right])
            for row, v in rows:
                for column, u in columns:
                    # The wrapped part of the convolution is all in the border.
                    transfer = torch.fft.rfft2(kernels[:, row, column], s=size)[:, None]
                    filtered = torch.fft.irfft2(spectrum * transfer, s=size)
                    block += v[:, None] * u * filtered[..., border:, border:]
            result[..., top:bottom, left:right] = block
    return result


def _blocks(
    size: int, nodes: int, step: int, like: Tensor
) -> Iterator[tuple[int, int, list[tuple[int, Tensor]]]]:
    """The blocks of one axis: first and last pixel, and the nodes with their weights there."""
    length = _SINGLE_BLOCK if nodes == 1 else step
    for number in range(-(-size // length)):
        begin, end = number * length, min((number + 1) * length, size)
        centre = torch.arange(begin, end, device=like.device, dtype=like.dtype) + 0.5
        if nodes == 1:
            yield begin, end, [(0, torch.ones_like(centre))]
        else:
            share = (centre - begin) / step
            yield begin, end, [(number, 1 - share), (number + 1, share)]
