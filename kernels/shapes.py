"""Shapes of the results, for tracing without data."""

from typing import Any

import torch
from torch import Tensor

from freqdiff_kernels.reference import compute_dtype
from freqdiff_kernels.registry import NAMESPACES


def _token_grid(image: Tensor, stride: int) -> tuple[int, int, int]:
    batch, _, height, width = image.shape
    return batch, height // stride, width // stride


def _fft_features(
    image: Tensor, window: int, stride: int, taper: str, layout: str, dtype: torch.dtype
) -> Tensor:
    planes = 3 if layout == "rgb" else 1
    shape = (*_token_grid(image, stride), planes * 3 * window**2 // 2)
    return image.new_empty(shape, dtype=dtype)


def _fft_bands(
    image: Tensor,
    window: int,
    stride: int,
    taper: str,
    layout: str,
    radial: int,
    angular: int,
    dtype: torch.dtype,
) -> Tensor:
    planes = 3 if layout == "rgb" else 1
    return image.new_empty((*_token_grid(image, stride), planes * radial * angular), dtype=dtype)


def _image_gradient(grad: Tensor, image: Tensor, *options: Any) -> Tensor:
    return image.new_empty(image.shape)


def _extract_tiles(
    image: Tensor,
    tile: list[int],
    ys: list[int],
    xs: list[int],
    dtype: torch.dtype,
    scale: float,
    shift: float,
) -> Tensor:
    shape = (len(ys) * len(xs), image.shape[0], tile[0], tile[1])
    return torch.empty(shape, dtype=dtype, device=image.device, memory_format=torch.channels_last)


def _stitch_tiles(
    tiles: Tensor,
    ys: list[int],
    xs: list[int],
    size: list[int],
    margin: int,
    dtype: torch.dtype,
    scale: float,
    shift: float,
    channels_last: bool,
) -> Tensor:
    channels, (height, width) = tiles.shape[1], size
    if channels_last:
        return tiles.new_empty((height, width, channels), dtype=dtype).permute(2, 0, 1)
    return tiles.new_empty((channels, height, width), dtype=dtype)


def _halo_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *options: Any
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:4], dtype=compute_dtype(q.dtype))


def _halo_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *options: Any
) -> tuple[Tensor, ...]:
    bias_grad = q.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), bias_grad


def _ddim_step(x: Tensor, *arguments: Any) -> Tensor:
    return torch.empty_like(x)


def _rasterize_paths(displacements: Tensor, weights: Tensor, radius: int) -> Tensor:
    side = 2 * radius + 1
    return displacements.new_empty((*weights.shape[:-1], side, side))


def _filter_grid(image: Tensor, kernels: Tensor, step: int) -> Tensor:
    border = kernels.shape[-1] - 1
    batch, channels, height, width = image.shape
    return image.new_empty((batch, channels, height - border, width - border))


for _namespace in NAMESPACES:
    for _name, _shape in (
        ("fft_features", _fft_features),
        ("fft_features_backward", _image_gradient),
        ("fft_bands", _fft_bands),
        ("fft_bands_backward", _image_gradient),
        ("extract_tiles", _extract_tiles),
        ("stitch_tiles", _stitch_tiles),
        ("halo_attention", _halo_attention),
        ("halo_attention_backward", _halo_attention_backward),
        ("ddim_step", _ddim_step),
        ("rasterize_paths", _rasterize_paths),
        ("filter_grid", _filter_grid),
    ):
        torch.library.register_fake(f"{_namespace}::{_name}", _shape)
