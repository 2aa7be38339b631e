"""Camera settings of a photo: what its Exif block tells, and these as numbers for a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.ExifTags import Base

from freqdiff.photo_exif import (
    INCH_IN_MM,
    UNIT_IN_MM,
    UNKNOWN_ISO,
    block_numbers,
    frame_ratio,
    upright_size,
)

RANGES = {
    "iso": (25.0, 409600.0),
    "f_number": (0.7, 64.0),
    "exposure_s": (1 / 32000, 60.0),
    "focal_mm": (1.0, 2000.0),
    "sensor_width_mm": (1.0, 100.0),
}
"""Smallest and largest value of the settings that do not depend on others."""

FILM_WIDTH_MM = 36.0
"""Width of a frame of 35 mm film, which equivalent focal lengths refer to."""

VECTOR = {
    "iso": (50.0, 51200.0),
    "exposure_s": (1 / 8000, 30.0),
    "f_number": (1.0, 32.0),
    "focal35_mm": (10.0, 1000.0),
    "sensor_width_mm": (4.0, 64.0),
}
"""First numbers of `camera_vector`, and the values that become -1 and 1."""

VECTOR_SIZE = len(VECTOR) + 1


@runtime_checkable
class CameraSettings(Protocol):
    """What knows the settings of an exposure: a `blursynth.Camera`."""

    def vector(self) -> NDArray[np.float32]:
        """(6,) as of `camera_vector`."""


def camera_vector(settings: Mapping[str, float]) -> NDArray[np.float32]:
    """Settings as numbers for a network: (6,), not a number for those that are not given.

    First the logarithms of those in `VECTOR` and in its order, which run from -1 to 1 over the
    ranges there and go on beyond; then the distance s in focus, `focus_distance_m`, as
    (1 - s) / (1 + s), which is 1 near the lens and -1 at infinity.
    """
    logs = [
        math.log(settings.get(name, math.nan) ** 2 / (low * high)) / math.log(high / low)
        for name, (low, high) in VECTOR.items()
    ]
    focus = 2 / (1 + settings.get("focus_distance_m", math.nan)) - 1
    return np.array([*logs, focus], dtype=np.float32)


def photo_vector(exif: bytes | None, size: tuple[int, int]) -> NDArray[np.float32]:
    """`camera_vector` of what an Exif block tells; a damaged block is like none.

    Args:
        exif: the block, with or without its leading mark.
        size: width and height of the upright photo in pixels.
    """
    try:
        numbers = block_numbers(exif or b"")
    # Damaged data leads Pillow to OSError, SyntaxError, struct.error, KeyError, ...
    except Exception:
        numbers = {}
    return camera_vector(exif_settings(numbers, size))


def exif_settings(numbers: Mapping[int, float], size: tuple[int, int] | None) -> dict[str, float]:
    """Those of a camera's settings that Exif tells.

    The sensor width is that along the width of the upright photo, which is taken to show the whole
    sensor. It comes from the resolution of the focal plane, or from the 35 mm equivalent focal
    length where there is none or it differs by more than that is rounded: editors that resize
    photos leave the resolution as it was.

    Args:
        numbers: see `photo_exif.tag_numbers`.
        size: width and height of the upright photo in pixels, if known.

    Returns:
        iso, f_number, exposure_s, focal_mm, sensor_width_mm within `RANGES`; focal35_mm, the focal
        length that shows the same width on 36 mm film; and focus_distance_m > 0.
    """
    portrait = frame_ratio(size)
    focal = _first("focal_mm", numbers.get(Base.FocalLength))
    film = _first("focal_mm", numbers.get(Base.FocalLengthIn35mmFilm))
    widths = [side * portrait for side in _long_sides(numbers, focal, film)]
    width = _first("sensor_width_mm", *widths)
    if focal is None and film is not None:
        long_side = FILM_WIDTH_MM if width is None else width / portrait
        focal = _first("focal_mm", film * long_side / FILM_WIDTH_MM)
    equivalent = focal * FILM_WIDTH_MM / width if focal and width else film and film / portrait
    distance = numbers.get(Base.SubjectDistance, 0.0)
    found = {
        "iso": _first("iso", *_sensitivities(numbers)),
        "f_number": _first(
            "f_number", numbers.get(Base.FNumber), _from_apex(numbers, Base.ApertureValue, 0.5)
        ),
        "exposure_s": _first(
            "exposure_s",
            numbers.get(Base.ExposureTime),
            _from_apex(numbers, Base.ShutterSpeedValue, -1),
        ),
        "focal_mm": focal,
        "sensor_width_mm": width,
        "focal35_mm": equivalent,
        "focus_distance_m": distance if distance > 0 else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _first(name: str, *values: float | None) -> float | None:
    """The first value that a camera can have for this setting."""
    low, high = RANGES[name]
    return next((value for value in values if value is not None and low <= value <= high), None)


def _from_apex(numbers: Mapping[int, float], tag: int, power: float) -> float | None:
    """2 to the power of an APEX value; 0 stands for an unknown one, for instance of old lenses."""
    value = numbers.get(tag, 0.0)
    return 2.0 ** (power * value) if 0 < abs(value) < 64 else None


def _sensitivities(numbers: Mapping[int, float]) -> list[float | None]:
    """ISO from the tags that may hold it; in the main one 65535 means that or more."""
    main = numbers.get(Base.ISOSpeedRatings)
    others = (
        Base.RecommendedExposureIndex,
        Base.StandardOutputSensitivity,
        Base.ISOSpeed,
        Base.ExposureIndex,
    )
    values = [None if main == UNKNOWN_ISO else main, *(numbers.get(tag) for tag in others)]
    return [*values, main]


def _long_sides(
    numbers: Mapping[int, float], focal: float | None, film: float | None
) -> Iterator[float]:
    """Long side of the sensor in millimetres, the best estimate first."""
    stored = upright_size(numbers)
    resolution = numbers.get(Base.FocalPlaneXResolution, 0.0)
    from_film = FILM_WIDTH_MM * focal / film if focal and film else None
    if stored and 0 < resolution < math.inf:
        unit = UNIT_IN_MM.get(numbers.get(Base.FocalPlaneResolutionUnit, 0), INCH_IN_MM)
        from_plane = max(stored) / resolution * unit
        # The equivalent is a whole number, and often compares diagonals, which differ by less.
        tolerance = 0.5 / film + 0.1 if film else 0.0
        if from_film is None or abs(from_film / from_plane - 1) <= tolerance:
            yield from_plane
    if from_film is not None:
        yield from_film
