"""Crops of sharp photos that engines blur as the parts of the frame that they are."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch import Tensor

from blursynth.camera import Camera
from blursynth.engines import Engine
from blursynth.physics import Synthesis
from blursynth.shot import Conditions
from freqdiff.errors import InputError


@dataclasses.dataclass(frozen=True)
class Crop:
    """A crop of a sharp photo.

    Attributes:
        name: of the photo.
        pixels: (3, H, W) sRGB.
        origin: position (y, x) of the crop in the frame.
        frame: height and width of the photo.
    """

    name: str
    pixels: Tensor
    origin: tuple[int, int]
    frame: tuple[int, int]

    def taken(self, engine: Engine, camera: Camera, conditions: Conditions, seed: int) -> Synthesis:
        """The crop as an engine blurs it."""
        return engine(
            self.pixels,
            camera,
            conditions=conditions,
            seed=seed,
            frame_size=self.frame,
            origin=self.origin,
        )


def crop_of(name: str, photo: Tensor, side: int) -> Crop:
    """The part of a photo with most texture all over, in which blur can be measured.

    Raises:
        InputError: the photo is smaller than that.
    """
    height, width = photo.shape[1:]
    if min(height, width) < side:
        raise InputError(f"{name!r} has {width} x {height} px at this scale, less than {side}.")

    def texture(place: tuple[int, int]) -> float:
        part = _part(name, photo, place, side).pixels
        return float(part.diff(dim=1).abs().median() + part.diff(dim=2).abs().median())

    rows, columns = (range(0, n - side + 1, max(1, side // 2)) for n in (height, width))
    places = ((row, column) for row in rows for column in columns)
    return _part(name, photo, max(places, key=texture), side)


def crops_anywhere(name: str, photo: Tensor, side: int, count: int, seed: int) -> list[Crop]:
    """Parts of a photo that is large enough for `crop_of`, at random places."""
    rng = np.random.default_rng(seed)
    rows, columns = (rng.integers(0, n - side + 1, count).tolist() for n in photo.shape[1:])
    return [_part(name, photo, place, side) for place in zip(rows, columns, strict=True)]


def _part(name: str, photo: Tensor, place: tuple[int, int], side: int) -> Crop:
    top, left = place
    pixels = photo[:, top : top + side, left : left + side]
    return Crop(name, pixels, place, (photo.shape[1], photo.shape[2]))
