"""Camera settings written into the Exif block of a photo."""

from __future__ import annotations

import struct
from fractions import Fraction

from PIL.ExifTags import Base

from blursynth.camera import FILM_WIDTH_MM, Camera
from freqdiff.errors import InputError
from freqdiff.photo_exif import (
    CENTIMETRE,
    INFINITY,
    MARK,
    UNIT_IN_MM,
    UNKNOWN_ISO,
    block_numbers,
    frame_ratio,
    is_turned,
    upright_size,
)
from freqdiff.photo_metadata import EXIF_IFD, byte_order, directory, lies_inside

# Other words for what `write_camera` sets: they would contradict it.
_STALE = frozenset(
    {
        Base.StandardOutputSensitivity,
        Base.ISOSpeed,
        Base.ISOSpeedLatitudeyyy,
        Base.ISOSpeedLatitudezzz,
        Base.ShutterSpeedValue,
        Base.ApertureValue,
        Base.FocalPlaneXResolution,
        Base.FocalPlaneYResolution,
        Base.FocalPlaneResolutionUnit,
        Base.ExposureIndex,
        Base.FocalLengthIn35mmFilm,
        Base.SubjectDistanceRange,
    }
)
_RECOMMENDED = 2
_FORMATS = {"H": 3, "I": 4, "II": 5, "ii": 10}
_APEX_OF_ISO_100 = 5.0
_LONGEST_SIDE = 2**31 - 1

# A little-endian block with nothing but an Exif directory that holds the version, 2.32.
_EMPTY = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, EXIF_IFD, 4, 1, 26, 0) + struct.pack(
    "<HHHI4sI", 1, Base.ExifVersion, 7, 4, b"0232", 0
)


def write_camera(
    camera: Camera, exif: bytes | None = None, size: tuple[int, int] | None = None
) -> bytes:
    """Return an Exif block that tells the settings.

    Nothing else changes: the old block stays as it is, and new directories are added to its end,
    because maker notes hold offsets into it. ISO is rounded to a whole number. Exif has no place
    for the sensor width: it follows from the resolution of the focal plane where the size is
    known, else from the 35 mm equivalent focal length, which is rounded to millimetres. Focus mode
    and blades are not written.

    Args:
        camera: the settings.
        exif: the block to write over, with or without its leading mark; a new one without.
        size: width and height of the upright photo in pixels; as the block says without.

    Returns:
        The block without the mark, from its byte order on.

    Raises:
        InputError: the old block is damaged, or the size is impossible.
    """
    if size is not None and not all(1 <= side <= _LONGEST_SIDE for side in size):
        raise InputError(
            f"size is {size}, expected two numbers of pixels from 1 to {_LONGEST_SIDE}."
        )
    old = (_EMPTY if exif is None else exif).removeprefix(MARK)
    try:
        numbers = block_numbers(old)
        order = byte_order(old)
        (start,) = struct.unpack_from(order + "I", old, 4)
        entries, following = _entries(old, order, start)
        inner: dict[int, bytes] = {}
        if EXIF_IFD in entries:
            (at,) = struct.unpack(order + "I", entries[EXIF_IFD][8:])
            inner, _ = _entries(old, order, at)
    # Damaged directories lead Pillow to SyntaxError, KeyError, struct.error, ...
    except Exception as error:
        raise InputError(
            f"Cannot write the camera settings into the Exif block: it is damaged ({error}), "
            "so give none to start a new one."
        ) from error
    settings = _settings(camera, size or upright_size(numbers), is_turned(numbers))
    kept = {tag: entry for tag, entry in inner.items() if tag not in _STALE}
    block = bytearray(old + b"\0" * (len(old) % 2))
    at = _append_directory(block, order, kept, settings, following=0)
    start = _append_directory(block, order, entries, {EXIF_IFD: ("I", (at,))}, following)
    struct.pack_into(order + "I", block, 4, start)
    return bytes(block)


def _settings(
    camera: Camera, size: tuple[int, int] | None, turned: bool
) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Format and numbers of the tags that tell the settings."""
    iso = round(camera.iso)
    brightness = Fraction(camera.exposure_value() - _APEX_OF_ISO_100).limit_denominator(10**4)
    tags: dict[int, tuple[str, tuple[int, ...]]] = {
        Base.ExposureTime: ("II", _rational(camera.exposure_s)),
        Base.FNumber: ("II", _rational(camera.f_number)),
        Base.ISOSpeedRatings: ("H", (min(iso, UNKNOWN_ISO),)),
        Base.SensitivityType: ("H", (_RECOMMENDED,)),
        Base.RecommendedExposureIndex: ("I", (iso,)),
        Base.BrightnessValue: ("ii", (brightness.numerator, brightness.denominator)),
        Base.SubjectDistance: ("II", _rational(camera.focus_distance_m)),
        Base.FocalLength: ("II", _rational(camera.focal_mm)),
    }
    long_side = camera.sensor_width_mm / frame_ratio(size)
    film = round(FILM_WIDTH_MM * camera.focal_mm / long_side)
    if 1 <= film < UNKNOWN_ISO:
        tags[Base.FocalLengthIn35mmFilm] = ("H", (film,))
    if size is not None:
        width, height = size[::-1] if turned else size
        resolution = _rational(max(size) / long_side * UNIT_IN_MM[CENTIMETRE])
        tags[Base.ExifImageWidth], tags[Base.ExifImageHeight] = ("I", (width,)), ("I", (height,))
        tags[Base.FocalPlaneXResolution] = tags[Base.FocalPlaneYResolution] = ("II", resolution)
        tags[Base.FocalPlaneResolutionUnit] = ("H", (CENTIMETRE,))
    return tags


def _rational(value: float) -> tuple[int, int]:
    """The nearest fraction of 32-bit numbers; for infinity what Exif says for it."""
    if value >= INFINITY - 1:
        return INFINITY, 1
    limit = min(10**9, int((INFINITY - 1) // max(value, 1)))
    return Fraction(value).limit_denominator(limit).as_integer_ratio()


def _entries(block: bytes, order: str, start: int) -> tuple[dict[int, bytes], int]:
    """Entries of the directory at `start` as stored, and the position of the following one.

    Without those whose values are not in the block: Pillow reads nothing of a directory with one.
    """
    found = directory(block, order, start)
    entries = {
        entry.tag: block[entry.position : entry.position + 12]
        for entry in found
        if lies_inside(block, order, entry)
    }
    return entries, struct.unpack_from(order + "I", block, start + 2 + 12 * len(found))[0]


def _append_directory(
    block: bytearray,
    order: str,
    old: dict[int, bytes],
    new: dict[int, tuple[str, tuple[int, ...]]],
    following: int,
) -> int:
    """Append a directory of stored entries and new ones, which win; return its position."""
    entries, start = dict(old), len(block)
    values_at = start + 6 + 12 * len(old.keys() | new.keys())
    values = b""
    for tag, (code, numbers) in new.items():
        data = struct.pack(order + code, *numbers)
        if len(data) > 4:
            values += data
            data = struct.pack(order + "I", values_at + len(values) - len(data))
        entries[tag] = struct.pack(order + "HHI4s", tag, _FORMATS[code], 1, data)
    block += struct.pack(order + "H", len(entries))
    block += b"".join(entries[tag] for tag in sorted(entries))
    block += struct.pack(order + "I", following) + values
    return start
