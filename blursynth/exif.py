"""Camera settings in the Exif block of photos: reading what it tells, and writing it."""

from __future__ import annotations

import dataclasses
import io
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from blursynth.camera import FILM_WIDTH_MM, RANGES, Camera
from blursynth.exif_tags import (
    INCH_IN_MM,
    MARK,
    UNIT_IN_MM,
    UNKNOWN_ISO,
    block_numbers,
    frame_ratio,
    is_turned,
    tag_numbers,
    upright_size,
)
from blursynth.exif_write import write_camera
from freqdiff.errors import PhotoError
from freqdiff.photo import Photo

__all__ = ["CameraReading", "read_camera", "write_camera"]

_BLOCK_STARTS = (MARK, b"II*\0", b"MM\0*")


@dataclasses.dataclass(frozen=True)
class CameraReading:
    """Settings of a photo.

    Attributes:
        camera: what the Exif block tells, completed by the defaults of `Camera`.
        assumed: names of the settings for which a default stands, in the order of `Camera`. Focus
            mode and blades are never among them, because Exif has no words for them.
    """

    camera: Camera
    assumed: tuple[str, ...]


def read_camera(source: str | os.PathLike[str] | bytes | Image.Image | Photo) -> CameraReading:
    """Read the settings that a photo was taken with from its Exif block.

    What is missing, damaged or impossible is assumed to be as in `Camera()`: the whole of it for a
    photo without Exif. The sensor width is that along the width of the upright photo, which is
    taken to show the whole sensor. It comes from the resolution of the focal plane, or from the
    35 mm equivalent focal length where there is none or it differs by more than that is rounded:
    editors that resize photos leave the resolution as it was.

    Args:
        source: path or content of a photo file, an Exif block with or without its leading mark,
            a Pillow image, or a photo as `freqdiff.photo.read_photo` returns it.

    Raises:
        PhotoError: the file is missing or not a photo, or the bytes are neither that nor Exif.
    """
    with warnings.catch_warnings():
        # Pillow warns about small faults in metadata, which count as missing here.
        warnings.simplefilter("ignore")
        if isinstance(source, Image.Image):
            return _interpret(*_image_numbers(source))
        if isinstance(source, Photo):
            height, width = source.pixels.shape[:2]
            return _interpret(_photo_numbers(source), (width, height))
        what, file = "the photo", None
        try:
            if isinstance(source, bytes):
                if source.startswith(_BLOCK_STARTS):
                    numbers = block_numbers(source)
                    return _interpret(numbers, upright_size(numbers))
                file = io.BytesIO(source)
            else:
                what = repr(os.fspath(source))
                # A pipe or a device would block or never end, so the kind is checked first.
                if not Path(source).is_file():
                    raise FileNotFoundError("there is no such file")
            with Image.open(file or source) as image:
                return _interpret(*_image_numbers(image))
        # Damaged data leads Pillow to OSError, SyntaxError, struct.error, KeyError, ...
        except Exception as error:
            # Pillow names a file that it does not know by its address in memory.
            reason = "it is neither" if isinstance(error, UnidentifiedImageError) else error
            raise PhotoError(
                f"Cannot read the camera settings of {what}: expected a photo file or an Exif "
                f"block, but {reason}."
            ) from error


def _photo_numbers(photo: Photo) -> dict[int, float]:
    """Numbers in the tags of a photo."""
    try:
        return block_numbers(photo.metadata.exif or b"")
    # A damaged block in a good photo is like none.
    except Exception:
        return {}


def _image_numbers(image: Image.Image) -> tuple[dict[int, float], tuple[int, int]]:
    """Numbers in the tags of a Pillow image, and the size of its upright picture."""
    try:
        numbers = tag_numbers(image.getexif())
    # A damaged block in a good photo is like none.
    except Exception:
        numbers = {}
    # Pillow turns TIFF pictures upright by itself.
    turned = is_turned(numbers) and image.format != "TIFF"
    return numbers, (image.height, image.width) if turned else image.size


def _interpret(numbers: dict[int, float], size: tuple[int, int] | None) -> CameraReading:
    """Settings that the numbers tell, for an upright picture of `size` if that is known."""
    portrait = frame_ratio(size)
    focal = _first("focal_mm", numbers.get(Base.FocalLength))
    film = _first("focal_mm", numbers.get(Base.FocalLengthIn35mmFilm))
    widths = [side * portrait for side in _long_sides(numbers, focal, film)]
    width = _first("sensor_width_mm", *widths)
    if focal is None and film is not None:
        long_side = FILM_WIDTH_MM if width is None else width / portrait
        focal = _first("focal_mm", film * long_side / FILM_WIDTH_MM)
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
    }
    known: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
    assumed = tuple(name for name in found if name not in known)
    known.setdefault("sensor_width_mm", FILM_WIDTH_MM * portrait)
    camera = Camera(**known)
    distance = numbers.get(Base.SubjectDistance, 0.0)
    if distance < 2e-3 * camera.focal_mm:
        return CameraReading(camera, (*assumed, "focus_distance_m"))
    return CameraReading(dataclasses.replace(camera, focus_distance_m=distance), assumed)


def _first(name: str, *values: float | None) -> float | None:
    """The first value that a camera can have for this setting."""
    low, high = RANGES[name]
    return next((value for value in values if value is not None and low <= value <= high), None)


def _from_apex(numbers: dict[int, float], tag: int, power: float) -> float | None:
    """2 to the power of an APEX value; 0 stands for an unknown one, for instance of old lenses."""
    value = numbers.get(tag, 0.0)
    return 2.0 ** (power * value) if 0 < abs(value) < 64 else None


def _sensitivities(numbers: dict[int, float]) -> list[float | None]:
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
    numbers: dict[int, float], focal: float | None, film: float | None
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
