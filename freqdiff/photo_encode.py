"""Encoding of photos: JPEG, PNG, WebP and TIFF."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqdiff.errors import OutputError
from freqdiff.photo_data import Photo
from freqdiff.photo_metadata import png_with_metadata
from freqdiff.photo_tiff_write import encode_tiff

_DEFAULT_QUALITY = 95
_JPEG_LIMIT, _WEBP_LIMIT = 65500, 16383
# A JPEG segment holds 65533 bytes, less the mark that each kind of block starts with.
_JPEG_EXIF_LIMIT, _JPEG_XMP_LIMIT = 65533 - 6, 65533 - 29


def encode(photo: Photo, kind: str, quality: int | None) -> tuple[bytes, tuple[str, ...]]:
    """Return the photo as a file of ``kind`` (JPEG, PNG, WEBP or TIFF), and what was lost.

    Raises:
        OutputError: with a reason that is a part of a sentence.
    """
    if kind == "TIFF":
        return encode_tiff(photo), ()
    if photo.pixels.dtype == np.float32 and not np.isfinite(photo.pixels).all():
        raise OutputError(f"it holds values that are not finite, which {kind} cannot hold")
    if kind == "PNG":
        return _encode_png(photo)
    samples, notes = _to_bytes(photo.pixels)
    if kind == "JPEG":
        data, more = _encode_jpeg(photo, samples, quality)
    else:
        data, more = _encode_webp(photo, samples, quality)
    return data, notes + more


def _encode_jpeg(
    photo: Photo, samples: NDArray[np.uint8], quality: int | None
) -> tuple[bytes, tuple[str, ...]]:
    _check_size(photo, "JPEG", _JPEG_LIMIT)
    metadata = photo.metadata
    notes: tuple[str, ...] = ()
    options: dict[str, Any] = {"subsampling": photo.jpeg.subsampling if photo.jpeg else 0}
    if quality is None and photo.jpeg is not None and _tables_fit(photo):
        options["qtables"] = [list(table) for table in photo.jpeg.tables]
    elif quality is None and photo.jpeg is not None:
        options["quality"] = photo.jpeg.quality
    else:
        options["quality"] = quality or _DEFAULT_QUALITY
    if photo.alpha is not None:
        notes += ("alpha left out, which JPEG cannot hold",)
    if metadata.icc is not None:
        options["icc_profile"] = metadata.icc
    if metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    if metadata.exif is not None and len(metadata.exif) <= _JPEG_EXIF_LIMIT:
        options["exif"] = b"Exif\0\0" + metadata.exif
    elif metadata.exif is not None:
        notes += ("Exif left out, too large for JPEG",)
    if metadata.xmp is not None and len(metadata.xmp) <= _JPEG_XMP_LIMIT:
        options["xmp"] = metadata.xmp
    elif metadata.xmp is not None:
        notes += ("XMP left out, too large for JPEG",)
    return _save(samples, "JPEG", **options), notes


def _encode_webp(
    photo: Photo, samples: NDArray[np.uint8], quality: int | None
) -> tuple[bytes, tuple[str, ...]]:
    _check_size(photo, "WebP", _WEBP_LIMIT)
    metadata = photo.metadata
    notes: tuple[str, ...] = ()
    quality = quality or _DEFAULT_QUALITY
    if photo.alpha is not None:
        alpha, _ = _to_bytes(photo.alpha[..., None])
        samples = np.concatenate([samples, alpha], axis=2)
    # exact: colours under full transparency are kept, which the encoder replaces otherwise.
    options: dict[str, Any] = {"quality": quality, "lossless": quality == 100, "exact": True}
    grey_profile = metadata.icc is not None and metadata.icc[16:20] == b"GRAY"
    if grey_profile:
        notes += ("grey colour profile left out, as WebP is always RGB",)
    if metadata.icc is not None and not grey_profile:
        options["icc_profile"] = metadata.icc
    if metadata.exif is not None:
        options["exif"] = metadata.exif
    if metadata.xmp is not None:
        options["xmp"] = metadata.xmp
    return _save(samples, "WEBP", **options), notes


def _encode_png(photo: Photo) -> tuple[bytes, tuple[str, ...]]:
    samples = photo.pixels
    notes: tuple[str, ...] = ()
    if photo.alpha is not None:
        samples = np.concatenate([samples, photo.alpha[..., None]], axis=2)
    if samples.dtype == np.uint8:
        return png_with_metadata(_save(samples, "PNG"), photo.metadata), notes
    if samples.dtype == np.float32:
        samples = np.rint(np.clip(samples, 0, 1) * 65535).astype(np.uint16)
        notes += ("rounded from floats to 16 bits",)
    try:
        import imagecodecs
    except ImportError as error:
        raise OutputError(
            "16-bit PNG needs the package imagecodecs, so install it with "
            'pip install "freqdiff-deblur[io]" or write a .tif file'
        ) from error
    # The encoder's own guess of the room that it needs is too small for narrow pictures of noise:
    # a filter byte per row, and the frames of blocks that do not shrink.
    room = samples.nbytes + samples.nbytes // 64 + samples.shape[0] + 4096
    samples = np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    png = imagecodecs.png_encode(samples, out=room)
    return png_with_metadata(bytes(png), photo.metadata), notes


def _to_bytes(samples: NDArray[Any]) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return samples rounded half to even to 8 bits, and a note if they were anything else."""
    if samples.dtype == np.uint16:
        return np.rint(samples / np.float32(257)).astype(np.uint8), ("rounded from 16 to 8 bits",)
    if samples.dtype == np.float32:
        rounded = np.rint(np.clip(samples, 0, 1) * 255).astype(np.uint8)
        return rounded, ("rounded from floats to 8 bits",)
    return samples, ()


def _tables_fit(photo: Photo) -> bool:
    """Whether the source's tables belong to the channels that will be written."""
    return photo.jpeg is not None and (photo.pixels.shape[2] == 1 or len(photo.jpeg.tables) == 2)


def _check_size(photo: Photo, name: str, limit: int) -> None:
    height, width = photo.pixels.shape[:2]
    if max(height, width) > limit:
        raise OutputError(
            f"{name} holds at most {limit} pixels on a side and the photo has {width} x {height}, "
            "so write a .png or .tif file"
        )


def _save(samples: NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    image.save(stream, kind, **options)
    return stream.getvalue()
