"""TIFF reading: what a file holds, and samples of more than 8 bits."""

from __future__ import annotations

import dataclasses
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from freqdiff.errors import PhotoError
from freqdiff.photo_data import Metadata
from freqdiff.photo_metadata import EXIF_IFD, GPS_IFD, ORIENTATION

# Tags of the first directory that describe the photo; all others describe its storage.
DESCRIPTIVE_TAGS = frozenset(
    {270, 271, 272, 305, 306, 315, 316, 18246, 18249, 33432, EXIF_IFD, GPS_IFD}
    | set(range(40091, 40096))
)
XMP_TAG, ICC_TAG = 700, 34675
_DNG_VERSION, _INTEROP_IFD = 50706, 40965
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class TiffHeader:
    """What the first directory of a TIFF file says.

    Attributes:
        size: width and height as stored, before turning.
        deep: samples of more than 8 bits, which Pillow would cut or refuse.
        pages: number of full pictures; reduced copies do not count.
        raw: a camera's raw file, whose first picture is only a preview.
        orientation: in [1, 8].
        metadata: Exif (with the orientation of the file), ICC, XMP and resolution.
        notes: what could not be read.
    """

    size: tuple[int, int]
    deep: bool
    pages: int
    raw: bool
    orientation: int
    metadata: Metadata
    notes: tuple[str, ...]


def read_tiff_header(stream: IO[bytes]) -> TiffHeader:
    """Read the directories of a TIFF file, not its pixels; any error means a damaged file."""
    stream.seek(0)
    start = stream.read(16)
    head = start if 43 in (start[2], start[3]) else start[:8]
    offset, seen = ImageFileDirectory_v2(head).next, set[int]()
    directories = []
    while offset and offset not in seen:
        seen.add(offset)
        directories.append(_read_directory(stream, head, offset))
        offset = directories[-1].next
    first = directories[0]
    orientation = first.get(ORIENTATION, 1)
    notes: tuple[str, ...] = ()
    try:
        exif = _collect_exif(stream, head, first)
    except Exception:  # Pillow raises many kinds of errors on values that do not fit their tags.
        exif, notes = None, ("damaged Exif block left out",)
    return TiffHeader(
        size=(first[256], first[257]),
        deep=max(first.get(258, (1,))) > 8,
        pages=sum(not page.get(254, 0) & 1 for page in directories),
        raw=_DNG_VERSION in first or first.get(254, 0) & 1 == 1 or start[8:10] == b"CR",
        orientation=orientation if orientation in range(1, 9) else 1,
        metadata=Metadata(
            exif=exif,
            icc=_as_bytes(first.get(ICC_TAG)),
            xmp=_as_bytes(first.get(XMP_TAG)),
            dpi=_resolution(first),
        ),
        notes=notes,
    )


def decode_deep_tiff(stream: IO[bytes]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return samples (H, W, C) of a 16-bit or floating-point TIFF file, C in 1 to 4, and notes.

    Raises:
        PhotoError: a kind of TIFF that is not a photo, or the package tifffile is missing.
    """
    try:
        import tifffile
    except ImportError as error:
        raise PhotoError(
            "16-bit TIFF needs the packages tifffile and imagecodecs: "
            'install them with pip install "freqdiff-deblur[io]"'
        ) from error
    stream.seek(0)
    with tifffile.TiffFile(stream) as file:
        page = file.pages.first
        kinds = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB)
        kind = page.dtype.str[1:] if page.dtype is not None else ""
        if kind not in ("u2", "f2", "f4", "f8") or page.bitspersample != 8 * int(kind[1]):
            raise PhotoError(
                f"expected TIFF samples of 8 or 16 bits or floats, got {page.bitspersample} bits "
                f"({page.dtype}): convert it to 16 bits first"
            )
        if int(page.photometric) not in kinds or page.samplesperpixel not in (1, 2, 3, 4):
            raise PhotoError(
                f"expected a grey or RGB TIFF, got {page.samplesperpixel} channels of "
                f"photometric kind {int(page.photometric)}: convert it to RGB first"
            )
        samples = np.asarray(page.asarray()).reshape(page.shape)
        if page.axes.startswith("S"):
            samples = np.moveaxis(samples, 0, -1)
        samples = samples.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
        premultiplied = tuple(map(int, page.extrasamples)) == (1,)
        inverted = int(page.photometric) == _WHITE_IS_ZERO
    notes: tuple[str, ...] = ()
    if samples.dtype.kind == "f":
        if samples.dtype.itemsize > 4:
            notes += ("converted from 64-bit to 32-bit floats",)
        samples = samples.astype(np.float32)
    white = 65535 if samples.dtype.kind == "u" else 1
    if inverted:
        samples[..., 0] = white - samples[..., 0]
    if premultiplied:
        samples = _divide_by_alpha(samples, white)
        notes += ("colours divided by the alpha that they were multiplied with",)
    return samples, notes


def _read_directory(
    stream: IO[bytes], head: bytes, offset: int, group: int | None = None
) -> ImageFileDirectory_v2:
    entries = ImageFileDirectory_v2(head, group=group)
    stream.seek(offset)
    entries.load(stream)
    return entries


def _collect_exif(stream: IO[bytes], head: bytes, first: ImageFileDirectory_v2) -> bytes | None:
    """Build an Exif block from what a TIFF file keeps in several places; None if it has nothing."""
    tags = DESCRIPTIVE_TAGS & set(first)
    if not tags:
        return None
    exif = Image.Exif()
    for tag in tags:
        if tag in (EXIF_IFD, GPS_IFD):
            part = dict(_read_directory(stream, head, first[tag], group=tag))
            # An offset into the old file, to a directory that only says "R98".
            part.pop(_INTEROP_IFD, None)
            exif[tag] = part
        else:
            exif[tag] = first[tag]
    exif[ORIENTATION] = first.get(ORIENTATION, 1)
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _resolution(first: ImageFileDirectory_v2) -> tuple[float, float] | None:
    factor = {2: 1.0, 3: 2.54}.get(first.get(296, 2))
    if factor is None or 282 not in first or 283 not in first:
        return None
    x, y = float(first[282]) * factor, float(first[283]) * factor
    return (x, y) if x > 0 and y > 0 else None


def _as_bytes(value: Any) -> bytes | None:
    """Return the content of a tag that holds bytes under one of several tag types."""
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, bytes) and value else None


def _divide_by_alpha(samples: NDArray[Any], white: int) -> NDArray[Any]:
    """Return the colours as they were before they were multiplied by the last channel."""
    alpha = samples[..., -1:].astype(np.float32)
    colours = samples[..., :-1] * (white / np.maximum(alpha, 1 if white > 1 else 1e-6))
    colours = np.minimum(np.rint(colours) if white > 1 else colours, white)
    return np.concatenate([colours.astype(samples.dtype), samples[..., -1:]], axis=2)
