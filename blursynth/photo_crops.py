"""Random crops of a folder's photos, which are kept in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from blursynth.photo_scale import read_at_scale
from freqdiff.errors import InputError


class Crop(NamedTuple):
    """A part of a photo.

    Attributes:
        pixels: uint8 (3, crop, crop), turned and mirrored.
        place: row and column of its first pixel in the photo.
        frame: height and width of the photo.
    """

    pixels: Tensor
    place: tuple[int, int]
    frame: tuple[int, int]


class Crops:
    """Random crops of the photos of a folder at one scale, turned and mirrored.

    Args:
        folder: of the photos.
        names: of the photos in it.
        crop: side of the crops in pixels; smaller photos are left out.
        long_side: pixels to which the longer side of larger photos is shrunk.

    Raises:
        InputError: no photo is large enough, or one cannot be read.
    """

    def __init__(self, folder: Path, names: Sequence[str], crop: int, long_side: int) -> None:
        self.crop = crop

        def read(name: str) -> Tensor | None:
            photo = read_at_scale(folder / name, long_side)
            return (photo * 255).byte() if min(photo.shape[1:]) >= crop else None

        with ThreadPoolExecutor() as pool:
            photos = dict(zip(names, pool.map(read, names), strict=True))
        large = {name: photo for name, photo in photos.items() if photo is not None}
        if not large:
            raise InputError(
                f"No photo of {str(folder)!r} has {crop} px on each side: give larger ones."
            )
        self.names = tuple(large)
        self._photos = list(large.values())

    def draw(self, rng: np.random.Generator, batch: int) -> Tensor:
        """(batch, 3, crop, crop) in [-1, 1]."""
        pixels = [self.one(rng).pixels for _ in range(batch)]
        return torch.stack(pixels).float() / 127.5 - 1

    def one(self, rng: np.random.Generator) -> Crop:
        """One crop."""
        photo = self._photos[int(rng.integers(len(self._photos)))]
        height, width = photo.shape[1:]
        top, left = (int(rng.integers(side - self.crop + 1)) for side in (height, width))
        crop = photo[:, top : top + self.crop, left : left + self.crop]
        crop = torch.rot90(crop, int(rng.integers(4)), (1, 2))
        crop = crop.flip(2) if rng.random() < 0.5 else crop
        return Crop(crop, (top, left), (height, width))
