"""Photo files: reading and writing with nothing lost that the formats can hold."""

from __future__ import annotations

import dataclasses
import os
import stat
import warnings
from pathlib import Path

from freqdiff.atomic import write_atomically
from freqdiff.errors import InputError, OutputError, PhotoError
from freqdiff.photo_data import JpegSettings, Metadata, Photo
from freqdiff.photo_decode import decode
from freqdiff.photo_encode import encode
from freqdiff.photo_raw import SUFFIXES as RAW_SUFFIXES

__all__ = [
    "INPUT_SUFFIXES",
    "MAX_PIXELS",
    "OUTPUT_SUFFIXES",
    "JpegSettings",
    "Metadata",
    "Photo",
    "read_photo",
    "write_photo",
]

MAX_PIXELS = 400_000_000
OUTPUT_SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
INPUT_SUFFIXES = frozenset(OUTPUT_SUFFIXES) | {".avif", ".bmp", ".heic", ".heif"} | RAW_SUFFIXES


def read_photo(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a JPEG, PNG, WebP, TIFF, BMP, HEIC or AVIF file, or the raw file of a camera.

    The pixels are turned upright as Exif asks, and the orientation in the metadata is reset. CMYK
    and palettes are converted to RGB with a note; 16 bits, floats, grey and alpha stay. HEIC of
    more than 8 bits and raw files become 16 bits; raw files are developed to sRGB.

    Args:
        path: the file; its content counts, not its suffix.
        max_pixels: limit against files that claim absurd sizes.

    Raises:
        PhotoError: the file is missing, unreadable, damaged, or not a single photo.
    """
    source = Path(path)
    try:
        # A pipe or a device would block or never end, so the kind is checked before opening.
        if not stat.S_ISREG(source.stat().st_mode):
            what = "a folder" if source.is_dir() else "not a regular file"
            raise PhotoError(f"it is {what}; expected a photo, so give the path of a file")
        with source.open("rb") as stream, warnings.catch_warnings():
            # Decoders warn about small faults in metadata, which are handled or harmless.
            warnings.simplefilter("ignore")
            photo = decode(stream, max_pixels)
    except PhotoError as error:
        raise PhotoError(f"Cannot read {str(path)!r}: {error}.") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PhotoError(f"Cannot read {str(path)!r}: no such file, so check the path.") from error
    except PermissionError as error:
        raise PhotoError(
            f"Cannot read {str(path)!r}: no permission, so change the rights of the file."
        ) from error
    except MemoryError as error:
        raise PhotoError(
            f"Cannot read {str(path)!r}: it does not fit in memory, so use a smaller photo."
        ) from error
    # Decoders raise whatever damaged data leads them to: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        reason = " ".join(str(error).split())
        raise PhotoError(
            f"Cannot read {str(path)!r}: the file is damaged or cut off ({reason}); "
            "expected a whole photo, so copy it again from its source."
        ) from error
    return dataclasses.replace(photo, path=source.absolute())


def write_photo(
    path: str | os.PathLike[str],
    photo: Photo,
    *,
    quality: int | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write a photo whole or not at all, in the format that the suffix of ``path`` names.

    Args:
        path: .jpg, .jpeg, .png, .webp, .tif or .tiff; an existing file is replaced.
        photo: what to write, with its metadata.
        quality: of JPEG and WebP in [1, 100]; 100 makes WebP lossless. None: as compressed as the
            source for JPEG from JPEG, 95 otherwise.
        overwrite: allow the source file of the photo to be replaced.

    Returns:
        Notes on what the format could not hold; empty if nothing was lost.

    Raises:
        InputError: quality out of range.
        OutputError: unknown suffix, the source file itself, or the file cannot be written.
    """
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"Expected a quality from 1 to 100, got {quality}: choose one in range.")
    kind = OUTPUT_SUFFIXES.get(Path(path).suffix.lower())
    if kind is None:
        raise OutputError(
            f"Cannot write {str(path)!r}: expected a name that ends in "
            f"{', '.join(OUTPUT_SUFFIXES)}, so choose one of these."
        )
    if not overwrite and photo.path is not None and _is_same_file(Path(path), photo.path):
        raise OutputError(
            f"Cannot write {str(path)!r}: it is the photo's own source file, "
            "so choose another name or allow overwriting."
        )
    try:
        data, notes = encode(photo, kind, quality)
    except OutputError as error:
        raise OutputError(f"Cannot write {str(path)!r}: {error}.") from error
    # Each encoder has its own errors: OSError, struct.error, RuntimeError, MemoryError, ...
    except Exception as error:
        raise OutputError(
            f"Cannot write {str(path)!r}: encoding failed ({error}), so try another format."
        ) from error
    write_atomically(path, data)
    return notes


def _is_same_file(path: Path, other: Path) -> bool:
    """Whether both paths lead to one file, also through links."""
    try:
        return path.samefile(other)
    except OSError:
        return False
