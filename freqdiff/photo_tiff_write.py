"""TIFF writing, with the whole Exif block."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from freqdiff.photo_data import Photo
from freqdiff.photo_metadata import ORIENTATION, byte_order, directory, lies_inside
from freqdiff.photo_tiff_read import DESCRIPTIVE_TAGS, ICC_TAG, XMP_TAG

_BLACK_IS_ZERO, _RGB = 1, 2
_BYTE, _SHORT, _LONG, _RATIONAL, _UNDEFINED = 1, 3, 4, 5, 7
_CODES = {_BYTE: "B", _SHORT: "H", _LONG: "I", _RATIONAL: "I", _UNDEFINED: "B"}
_STRIP_BYTES = 1 << 20


def encode_tiff(photo: Photo) -> bytes:
    """Return the photo as a TIFF file in its own sample type: deflated, floats plain.

    The Exif block stands at the very start of the file, so that all offsets inside it, maker notes
    included, stay right; the directory of the picture is appended and takes its entries over, less
    damaged ones: readers give up at the first of these.
    """
    exif = photo.metadata.exif
    order = "<" if exif is None else byte_order(exif)
    block = bytearray(struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8))
    entries: dict[int, bytes] = {}
    if exif is not None:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        for entry in directory(exif, order, start):
            if entry.tag in DESCRIPTIVE_TAGS and lies_inside(exif, order, entry):
                entries[entry.tag] = exif[entry.position : entry.position + 12]
        block = bytearray(exif)
    for tag, (kind, values) in _picture_tags(photo, order, block).items():
        entries[tag] = _entry(block, order, tag, kind, values)
    block += b"\0" * (len(block) % 2)
    struct.pack_into(order + "I", block, 4, len(block))
    block += struct.pack(order + "H", len(entries))
    block += b"".join(entries[tag] for tag in sorted(entries)) + b"\0\0\0\0"
    return bytes(block)


def _picture_tags(photo: Photo, order: str, block: bytearray) -> dict[int, tuple[int, Any]]:
    """Append the pixels to ``block``; return type and values of the tags that describe them."""
    samples = photo.pixels
    if photo.alpha is not None:
        samples = np.concatenate([samples, photo.alpha[..., None]], axis=2)
    height, width, channels = samples.shape
    depth, is_float = 8 * samples.itemsize, samples.dtype.kind == "f"
    rows = max(1, _STRIP_BYTES // (width * channels * samples.itemsize))
    offsets, sizes = [], []
    for top in range(0, height, rows):
        strip = samples[top : top + rows]
        if not is_float:
            strip = np.diff(strip, axis=1, prepend=np.zeros_like(strip[:, :1]))
        data = strip.astype(strip.dtype.newbyteorder(order)).tobytes()  # type: ignore[arg-type]
        offsets.append(len(block) + len(block) % 2)
        block += b"\0" * (len(block) % 2) + (data if is_float else zlib.compress(data))
        sizes.append(len(block) - offsets[-1])
    tags: dict[int, tuple[int, Any]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [depth] * channels),
        259: (_SHORT, [1 if is_float else 8]),
        262: (_SHORT, [_RGB if channels >= 3 else _BLACK_IS_ZERO]),
        273: (_LONG, offsets),
        ORIENTATION: (_SHORT, [1]),
        277: (_SHORT, [channels]),
        278: (_LONG, [rows]),
        279: (_LONG, sizes),
        284: (_SHORT, [1]),
        317: (_SHORT, [1 if is_float else 2]),
        339: (_SHORT, [3 if is_float else 1] * channels),
    }
    if photo.alpha is not None:
        tags[338] = (_SHORT, [2])
    if photo.metadata.dpi is not None:
        for tag, dpi in zip((282, 283), photo.metadata.dpi, strict=True):
            tags[tag] = (_RATIONAL, [round(dpi * 10000), 10000])
        tags[296] = (_SHORT, [2])
    if photo.metadata.xmp is not None:
        tags[XMP_TAG] = (_BYTE, photo.metadata.xmp)
    if photo.metadata.icc is not None:
        tags[ICC_TAG] = (_UNDEFINED, photo.metadata.icc)
    return tags


def _entry(block: bytearray, order: str, tag: int, kind: int, values: Any) -> bytes:
    """Return a directory entry; values of more than four bytes are appended to ``block``."""
    content = struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values)
    count = len(values) // 2 if kind == _RATIONAL else len(values)
    if len(content) > 4:
        block += b"\0" * (len(block) % 2)
        position = struct.pack(order + "I", len(block))
        block += content
        content = position
    return struct.pack(order + "HHI", tag, kind, count) + content.ljust(4, b"\0")
