"""Metadata blocks: making Exif and XMP upright, and placing blocks in a PNG file."""

from __future__ import annotations

import dataclasses
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from freqdiff.photo_data import Metadata

ORIENTATION = 0x0112
EXIF_IFD = 0x8769
GPS_IFD = 0x8825
_WIDTH_TAGS = (0x0100, 0xA002)
_HEIGHT_TAGS = (0x0101, 0xA003)
_SHORT, _LONG = 3, 4
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_INCH_IN_METRES = 0.0254


class Entry(NamedTuple):
    """One entry of a TIFF directory: where it stands in the block, and its head."""

    position: int
    tag: int
    kind: int
    length: int


def byte_order(block: bytes | bytearray) -> str:
    """Return the struct prefix, "<" or ">", of an Exif or TIFF block.

    Raises:
        ValueError: the block does not start like TIFF.
    """
    orders = {b"II*\0": "<", b"MM\0*": ">"}
    if bytes(block[:4]) not in orders:
        raise ValueError("not a TIFF block")
    return orders[bytes(block[:4])]


def directory(block: bytes | bytearray, order: str, start: int) -> list[Entry]:
    """Return the entries of the TIFF directory at ``start``.

    Raises:
        struct.error: the directory reaches beyond the block.
    """
    (count,) = struct.unpack_from(order + "H", block, start)
    positions = range(start + 2, start + 2 + 12 * count, 12)
    struct.unpack_from(order + "I", block, positions.stop)
    return [Entry(at, *struct.unpack_from(order + "HHI", block, at)) for at in positions]


def lies_inside(block: bytes | bytearray, order: str, entry: Entry) -> bool:
    """Whether the value of an entry, or the directory that it points to, starts and ends inside."""
    size = _VALUE_BYTES.get(entry.kind, 1 << 32) * entry.length
    if entry.tag in (EXIF_IFD, GPS_IFD):
        size = 6  # the count and the end of a directory, at least
    elif size <= 4:
        return True
    (offset,) = struct.unpack_from(order + "I", block, entry.position + 8)
    return bool(offset + size <= len(block))


def upright_exif(exif: bytes, size: tuple[int, int]) -> tuple[bytes, int]:
    """Return the Exif block for upright pixels, and the orientation that the pixels still need.

    The block is changed in place: maker notes hold offsets into it, and a block that is built anew
    breaks them. The embedded thumbnail shows the old pixels, turned, and is unlinked.

    Args:
        exif: Exif block, with or without the leading "Exif" mark.
        size: width and height in pixels as stored, before turning.

    Returns:
        The block without the mark and with orientation 1, and the old orientation in [1, 8].

    Raises:
        ValueError, struct.error: the block is damaged.
    """
    block = bytearray(exif.removeprefix(b"Exif\0\0"))
    order = byte_order(block)
    (start,) = struct.unpack_from(order + "I", block, 4)
    entries = directory(block, order, start)
    struct.pack_into(order + "I", block, start + 2 + 12 * len(entries), 0)
    orientation = 1
    for entry in entries:
        if entry.tag == ORIENTATION and entry.kind in (_SHORT, _LONG) and entry.length == 1:
            orientation = _get_integer(block, order, entry)
            _set_integer(block, order, entry, 1)
    if orientation not in range(1, 9):
        orientation = 1
    if orientation >= 5:
        for entry in _with_exif_entries(block, order, entries):
            if entry.tag in _WIDTH_TAGS + _HEIGHT_TAGS and entry.kind in (_SHORT, _LONG):
                value = size[1] if entry.tag in _WIDTH_TAGS else size[0]
                _set_integer(block, order, entry, value)
    return bytes(block), orientation


def upright_metadata(
    metadata: Metadata, size: tuple[int, int], orientation: int = 1
) -> tuple[Metadata, int, tuple[str, ...]]:
    """Return the metadata for upright pixels, the orientation of the stored ones, and notes.

    Args:
        metadata: as stored in the file.
        size: width and height in pixels as stored, before turning.
        orientation: what the file says outside its Exif block, in [1, 8].
    """
    exif, xmp = metadata.exif, metadata.xmp
    notes: tuple[str, ...] = ()
    if exif is not None:
        try:
            exif, orientation = upright_exif(exif, size)
        except (ValueError, struct.error):
            exif, notes = None, ("damaged Exif block left out",)
    if xmp is not None and orientation != 1:
        xmp = upright_xmp(xmp)
    return dataclasses.replace(metadata, exif=exif, xmp=xmp), orientation, notes


def upright_xmp(xmp: bytes) -> bytes:
    """Return the XMP packet with orientation 1, same length."""
    return re.sub(rb"""(tiff:Orientation(?:\s*=\s*["']|>)\s*)[1-8]""", rb"\g<1>1", xmp)


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return ``pixels`` (H, W, ...) turned and mirrored as Exif ``orientation`` in [1, 8] asks."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def png_with_metadata(png: bytes, metadata: Metadata) -> bytes:
    """Return the PNG file with the metadata placed behind its header chunk."""
    header_end = 33
    return png[:header_end] + b"".join(_png_chunks(metadata)) + png[header_end:]


def _png_chunks(metadata: Metadata) -> Iterator[bytes]:
    if metadata.icc is not None:
        yield _png_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata.icc))
    if metadata.dpi is not None:
        per_metre = [round(dpi / _INCH_IN_METRES) for dpi in metadata.dpi]
        yield _png_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1))
    if metadata.exif is not None:
        yield _png_chunk(b"eXIf", metadata.exif)
    if metadata.xmp is not None:
        yield _png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp)


def _png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def _with_exif_entries(block: bytearray, order: str, entries: list[Entry]) -> Iterator[Entry]:
    """Yield ``entries`` and those of the Exif directory that they point to."""
    for entry in entries:
        yield entry
        if entry.tag == EXIF_IFD:
            yield from directory(block, order, _get_integer(block, order, entry))


def _get_integer(block: bytearray, order: str, entry: Entry) -> int:
    code = "H" if entry.kind == _SHORT else "I"
    return int(struct.unpack_from(order + code, block, entry.position + 8)[0])


def _set_integer(block: bytearray, order: str, entry: Entry, value: int) -> None:
    code = "H" if entry.kind == _SHORT else "I"
    struct.pack_into(order + code, block, entry.position + 8, value)
