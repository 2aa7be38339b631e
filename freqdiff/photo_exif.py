"""Exif tags of camera settings, and the numbers that a block holds for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.ExifTags import Base

from freqdiff.photo_metadata import EXIF_IFD, ORIENTATION

UNIT_IN_MM = {3.0: 10.0, 4.0: 1.0, 5.0: 1e-3}
"""Units of the focal plane's resolution by the number that Exif has for them; else inches."""

INCH_IN_MM = 25.4
CENTIMETRE = 3
INFINITY = 0xFFFFFFFF
UNKNOWN_ISO = 0xFFFF
MARK = b"Exif\0\0"


def block_numbers(block: bytes) -> dict[int, float]:
    """As `tag_numbers`, of an Exif block; any error means that it is damaged."""
    exif = Image.Exif()
    exif.load(block)
    return tag_numbers(exif)


def tag_numbers(exif: Image.Exif) -> dict[int, float]:
    """Numbers in the tags of both directories, the first of each; infinite where Exif says so.

    Tags without a usable number are left out: text, zero denominators, nothing at all.
    """
    tags = {**dict(exif), **exif.get_ifd(EXIF_IFD)}
    return {tag: number for tag in tags if (number := _number(tags[tag])) is not None}


def _number(value: Any) -> float | None:
    """The number that is meant by what Pillow makes of a tag: rational, tuple, text, ..."""
    if isinstance(value, tuple):
        value = value[0] if value else None
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if getattr(value, "numerator", 0) == INFINITY:
        return math.inf
    try:
        if isinstance(value, str):
            above, _, below = value.strip("\0 ").partition("/")
            value = float(above) / float(below or 1)
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def is_turned(numbers: Mapping[int, float]) -> bool:
    """Whether the stored picture lies on its side."""
    return numbers.get(ORIENTATION) in (5, 6, 7, 8)


def upright_size(numbers: Mapping[int, float]) -> tuple[int, int] | None:
    """Width and height of the upright picture that the block is about."""
    for tags in ((Base.ExifImageWidth, Base.ExifImageHeight), (Base.ImageWidth, Base.ImageLength)):
        width, height = (numbers.get(tag, 0.0) for tag in tags)
        if 1 <= width < INFINITY and 1 <= height < INFINITY:
            size = int(width), int(height)
            return size[::-1] if is_turned(numbers) else size
    return None


def frame_ratio(size: tuple[int, int] | None) -> float:
    """Width of a whole frame over its long side; flatter strips than 1:4 are not whole frames."""
    return min(1.0, max(0.25, size[0] / size[1])) if size else 1.0
