"""Decoding of photo files, and conversion of Pillow images to arrays."""

from __future__ import annotations

import dataclasses
import io
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)
from PIL import WebPImagePlugin as WebpImagePlugin
from PIL.ImageFile import ImageFile

from freqdiff import photo_heif, photo_raw
from freqdiff.errors import PhotoError
from freqdiff.photo_data import JpegSettings, Metadata, Photo
from freqdiff.photo_metadata import turn_upright, upright_metadata
from freqdiff.photo_tiff_read import decode_deep_tiff, read_tiff_header

_EXPECTED = "expected a JPEG, PNG, WebP, TIFF, BMP, HEIC, AVIF or raw file"
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STARTS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "TIFF": _TIFF_STARTS,
    "BMP": (b"BM",),
    "RAW": photo_raw.STARTS,
}
_OTHER_STARTS = {b"GIF8": "a GIF", b"%PDF": "a PDF", b"8BPS": "a Photoshop document"}
_BRANDS = dict.fromkeys(photo_heif.BRANDS, "HEIF") | {b"avif": "AVIF", photo_raw.BRAND: "RAW"}


class PillowSamples(NamedTuple):
    """Samples of a Pillow image.

    Attributes:
        pixels: (H, W, 1) or (H, W, 3), uint8 or uint16.
        alpha: (H, W) or None.
        icc: the colour profile that fits the samples, or None.
        notes: conversions that were needed.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None
    icc: bytes | None
    notes: tuple[str, ...]


def decode(stream: IO[bytes], max_pixels: int) -> Photo:
    """Return the photo in an open file; any error other than PhotoError means a damaged file.

    Raises:
        PhotoError: with a reason that is a part of a sentence.
    """
    kind = _detect(stream.read(32))
    stream.seek(0)
    if kind == "TIFF":
        return _decode_tiff(stream, max_pixels)
    if kind == "HEIF":
        return _decode_heif(stream, max_pixels)
    if kind == "RAW":
        return _decode_raw(stream, max_pixels, Metadata())
    # The plugin classes and not Image.open: that holds a limit of its own on the number of pixels,
    # in a global variable, and turns the second picture of a JPEG into an animation.
    plugins: dict[str, type[ImageFile]] = {
        "JPEG": JpegImagePlugin.JpegImageFile,
        "PNG": PngImagePlugin.PngImageFile,
        "WEBP": WebpImagePlugin.WebPImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "AVIF": AvifImagePlugin.AvifImageFile,
    }
    image = plugins[kind](stream)
    _check_size(image.size, max_pixels)
    _check_single(getattr(image, "n_frames", 1))
    image.load()
    deep = kind == "PNG" and _png_depth(stream) == 16
    samples = _decode_deep_png(stream, image) if deep else samples_from_pillow(image)
    metadata, orientation, notes = upright_metadata(_stored_metadata(image), image.size)
    if "mp" in image.info:
        notes += ("only the first picture of a multi-picture JPEG was read",)
    if kind == "AVIF" and _is_deep_avif(stream):
        notes += ("rounded from 10 or 12 to 8 bits",)
    return Photo(
        pixels=turn_upright(samples.pixels, orientation),
        alpha=None if samples.alpha is None else turn_upright(samples.alpha, orientation),
        format=kind,
        metadata=dataclasses.replace(metadata, icc=samples.icc),
        jpeg=_jpeg_settings(image) if isinstance(image, JpegImagePlugin.JpegImageFile) else None,
        notes=samples.notes + notes,
    )


def samples_from_pillow(image: Image.Image) -> PillowSamples:
    """Return the samples of a Pillow image; palettes, CMYK and bilevel are converted with a note.

    Raises:
        PhotoError: a mode that is not one of a photo; any other error means a damaged image.
    """
    image.load()
    icc = image.info.get("icc_profile") or None
    notes: tuple[str, ...] = ()
    transparent = "transparency" in image.info
    if image.mode == "I;16":
        return PillowSamples(np.array(image)[..., None], None, icc, notes)
    if image.mode == "P":
        image, notes = (
            image.convert("RGBA" if transparent else "RGB"),
            ("converted from a palette",),
        )
    elif image.mode == "CMYK":
        image, icc, notes = _rgb_from_cmyk(image, icc), None, ("converted from CMYK",)
    elif image.mode == "YCbCr":
        image, notes = image.convert("RGB"), ("converted from YCbCr",)
    elif image.mode == "1":
        image, notes = image.convert("LA" if transparent else "L"), ("converted from one bit",)
    elif image.mode in ("L", "RGB") and transparent:
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    elif image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise PhotoError(
            f"expected a picture of mode L, LA, RGB, RGBA, P, CMYK, 1 or I;16, got {image.mode}: "
            "convert it first"
        )
    pixels, alpha = _split_alpha(np.array(image))
    return PillowSamples(pixels, alpha, icc, notes)


def _detect(start: bytes) -> str:
    """Return the format by the first bytes of a file, whatever its name says."""
    if not start:
        raise PhotoError(f"the file is empty; {_EXPECTED}")
    for kind, starts in _STARTS.items():
        if start.startswith(starts):
            return kind
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    other = _OTHER_STARTS.get(start[:4])
    if start[4:8] == b"ftyp":
        if start[8:12] in _BRANDS:
            return _BRANDS[start[8:12]]
        other = "a film"
    found = f"it is {other} file" if other else "it is not a picture"
    raise PhotoError(f"{found}; {_EXPECTED}")


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise PhotoError(
            f"it has {size[0]} x {size[1]} pixels; expected at most {max_pixels}, "
            "so raise max_pixels if you trust the file"
        )


def _check_single(frames: int) -> None:
    if frames > 1:
        raise PhotoError(
            f"it holds {frames} pictures; expected one, so save the one that you mean to a file"
        )


def _decode_tiff(stream: IO[bytes], max_pixels: int) -> Photo:
    header = read_tiff_header(stream)
    _check_size(header.size, max_pixels)
    if header.raw:
        return _decode_raw(stream, max_pixels, header.metadata)
    _check_single(header.pages)
    if header.deep:
        array, notes = decode_deep_tiff(stream)
        pixels, alpha = _split_alpha(turn_upright(array, header.orientation))
        samples = PillowSamples(pixels, alpha, header.metadata.icc, notes)
    else:
        stream.seek(0)
        image = TiffImagePlugin.TiffImageFile(stream)
        # Pillow turns TIFF pictures upright by itself.
        samples = samples_from_pillow(image)
    metadata, _, notes = upright_metadata(header.metadata, header.size, header.orientation)
    return Photo(
        pixels=samples.pixels,
        alpha=samples.alpha,
        format="TIFF",
        metadata=dataclasses.replace(metadata, icc=samples.icc),
        notes=samples.notes + header.notes + notes,
    )


def _decode_heif(stream: IO[bytes], max_pixels: int) -> Photo:
    file = photo_heif.open_heif(stream)
    _check_size(file.size, max_pixels)
    array, stored, notes = photo_heif.decode_heif(file)
    pixels, alpha = _split_alpha(array)
    metadata, more = _metadata_of_upright(stored, file.size)
    return Photo(pixels, alpha, "HEIF", metadata, notes=notes + more)


def _decode_raw(stream: IO[bytes], max_pixels: int, stored: Metadata) -> Photo:
    """`stored`: what the directories of a raw file say that is a TIFF file."""
    stream.seek(0)
    with photo_raw.open_raw(stream) as raw:
        _check_size((raw.sizes.width, raw.sizes.height), max_pixels)
        if stored.exif is None:
            stored = photo_raw.metadata_of_preview(raw)
        pixels = photo_raw.develop_raw(raw)
    # Resolution and colour profile would be those of the preview.
    stored = Metadata(exif=stored.exif, xmp=stored.xmp)
    metadata, notes = _metadata_of_upright(stored, pixels.shape[1::-1])
    notes = ("developed from a raw file with the camera's white balance", *notes)
    return Photo(pixels, None, "RAW", metadata, notes=notes)


def _metadata_of_upright(
    stored: Metadata, size: tuple[int, ...]
) -> tuple[Metadata, tuple[str, ...]]:
    """Metadata for pixels of width and height `size` that a decoder has turned already."""
    _, orientation, _ = upright_metadata(stored, (0, 0))
    width, height = size if orientation < 5 else size[::-1]
    metadata, _, notes = upright_metadata(stored, (width, height))
    return metadata, notes


def _is_deep_avif(stream: IO[bytes]) -> bool:
    """Whether the header of the first coded picture says more than 8 bits."""
    stream.seek(0)
    _, found, header = stream.read(1 << 16).partition(b"av1C")
    return bool(found) and len(header) > 2 and bool(header[2] & 0x40)


def _png_depth(stream: IO[bytes]) -> int:
    stream.seek(24)
    return stream.read(1)[0]


def _decode_deep_png(stream: IO[bytes], image: Image.Image) -> PillowSamples:
    """Decode 16-bit PNG, which Pillow cuts to 8 bits."""
    try:
        import imagecodecs
    except ImportError as error:
        raise PhotoError(
            "16-bit PNG needs the package imagecodecs, "
            'so install it with pip install "freqdiff-deblur[io]"'
        ) from error
    stream.seek(0)
    pixels, alpha = _split_alpha(imagecodecs.png_decode(stream.read()))
    return PillowSamples(pixels, alpha, image.info.get("icc_profile") or None, ())


def _split_alpha(samples: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Split samples (H, W) or (H, W, C) into pixels and alpha."""
    samples = samples.reshape(*samples.shape[:2], -1)
    if samples.shape[2] in (2, 4):
        return samples[..., :-1].copy(), samples[..., -1].copy()
    return samples, None


def _stored_metadata(image: Image.Image) -> Metadata:
    """Return the metadata blocks that Pillow found, Exif as stored."""
    exif = image.info.get("exif")
    dpi = image.info.get("dpi")
    valid = isinstance(dpi, tuple) and len(dpi) == 2 and min(dpi) > 0
    return Metadata(
        exif=exif or None,
        xmp=image.info.get("xmp") or None,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi is not None and valid else None,
    )


def _jpeg_settings(image: JpegImagePlugin.JpegImageFile) -> JpegSettings:
    tables = tuple(tuple(table) for _, table in sorted(image.quantization.items()))
    subsampling = JpegImagePlugin.get_sampling(image)
    # Pillow cannot write the rare other ways of subsampling; none loses nothing.
    return JpegSettings(tables[:2], max(subsampling, 0))


def _rgb_from_cmyk(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Return the picture in sRGB, through its colour profile if that is usable."""
    if icc is not None:
        try:
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, io.BytesIO(icc), srgb, outputMode="RGB")
        except (ImportError, OSError, ImageCms.PyCMSError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")
