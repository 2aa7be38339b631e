"""Camera settings in the Exif block of photos: reading what it tells, and writing it."""

from __future__ import annotations

import dataclasses
import io
import os
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from blursynth.camera import FILM_WIDTH_MM, Camera
from blursynth.exif_write import write_camera
from freqdiff.errors import PhotoError
from freqdiff.photo import Photo
from freqdiff.photo_exif import (
    MARK,
    block_numbers,
    frame_ratio,
    is_turned,
    tag_numbers,
    upright_size,
)
from freqdiff.photo_settings import exif_settings

__all__ = ["CameraReading", "read_camera", "write_camera"]

_BLOCK_STARTS = (MARK, b"II*\0", b"MM\0*")
_SETTINGS = ("iso", "f_number", "exposure_s", "focal_mm", "sensor_width_mm")


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
    photo without Exif. See `freqdiff.photo_settings.exif_settings` for the rest.

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
    found = exif_settings(numbers, size)
    known: dict[str, Any] = {name: found[name] for name in _SETTINGS if name in found}
    assumed = tuple(name for name in _SETTINGS if name not in found)
    known.setdefault("sensor_width_mm", FILM_WIDTH_MM * frame_ratio(size))
    camera = Camera(**known)
    distance = found.get("focus_distance_m", 0.0)
    if distance < 2e-3 * camera.focal_mm:
        return CameraReading(camera, (*assumed, "focus_distance_m"))
    return CameraReading(dataclasses.replace(camera, focus_distance_m=distance), assumed)
