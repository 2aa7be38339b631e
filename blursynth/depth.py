"""Blur by depth: a photo split into layers that are each out of focus by their own amount."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from blursynth.camera import Camera
from freqdiff.errors import InputError, PhotoError

MOST_LAYERS = 16
_FINEST_PX = 1.0
"""Steps of the circle of confusion below this are not visible."""


def read_depth(source: str | os.PathLike[str] | ArrayLike, size: tuple[int, int]) -> Tensor:
    """Depth in metres of a photo of (height, width) pixels.

    Args:
        source: an array (h, w) in metres, or a file: .npy in metres, or a 16-bit PNG or TIFF in
            millimetres. Another size than the photo's is interpolated.
        size: height and width of the photo.

    Returns:
        float32 (height, width), > 0; infinity is far away.

    Raises:
        PhotoError: the file cannot be read.
        InputError: it is not a plane of positive depths, or lies on its side.
    """
    name = "depth"
    if isinstance(source, str | os.PathLike):
        name = str(source)
        values = _read_file(Path(source))
    else:
        values = np.asarray(source)
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind not in "fiu":
        raise InputError(
            f"{name} is {values.dtype} of shape {values.shape}; expected numbers (height, width)."
        )
    height, width = values.shape
    if (height - width) * (size[0] - size[1]) < 0:
        raise InputError(
            f"{name} has {width} x {height} values and the photo {size[1]} x {size[0]} pixels; "
            "expected the depth of the upright photo, so turn it."
        )
    depth = torch.from_numpy(values.astype(np.float32))
    if not bool((depth > 0).all()):
        raise InputError(f"{name} holds depths that are zero, negative or no numbers.")
    if depth.shape != size:
        # Of the inverse, which is finite and what blur depends on.
        inverse = torch.nn.functional.interpolate(
            (1 / depth)[None, None], size, mode="bilinear", align_corners=False
        )
        depth = 1 / inverse[0, 0]
    return depth


def _read_file(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(path, allow_pickle=False))
        with Image.open(path) as file:
            return np.asarray(file, dtype=np.float32) * 1e-3
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PhotoError(f"{path} cannot be read as a depth map: {error}.") from error


def confusion_px(camera: Camera, depth: Tensor, width_px: int) -> Tensor:
    """Signed circle of confusion of every pixel (thin lens), as `camera.circle_of_confusion_px`.

    Args:
        camera: settings of the exposure.
        depth: (...) in metres.
        width_px: width of the frame in pixels.
    """
    far = camera.circle_of_confusion_px(float("inf"), width_px)
    if np.isinf(camera.focus_distance_m):
        scale = camera.circle_of_confusion_px(1.0, width_px)
        return scale / depth
    return far * (1 - camera.focus_distance_m / depth)


def layers(confusion: Tensor) -> tuple[list[float], float]:
    """Into which layers to split a photo by its circle of confusion.

    Args:
        confusion: (...) signed circle of confusion of its pixels.

    Returns:
        The circle of confusion of each layer, from near to far, and the distance between two; see
        `opacity`.
    """
    low, high = float(confusion.min()), float(confusion.max())
    count = min(MOST_LAYERS, 1 + int(np.ceil((high - low) / _FINEST_PX)))
    if count == 1:
        return [(low + high) / 2], float("inf")
    spacing = (high - low) / (count - 1)
    return [low + index * spacing for index in range(count)], spacing


def opacity(confusion: Tensor, diameter: float, spacing: float) -> Tensor:
    """Which share of each pixel belongs to a layer: 1 where it has the layer's own circle of
    confusion, and between two layers some of both, together 1."""
    return (1 - ((confusion - diameter) / spacing).abs()).clamp_min(0)
