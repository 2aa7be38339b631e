"""Photo files to damage, and how they are damaged."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freqdiff.photo import Metadata, Photo
from freqdiff.photo_encode import encode

_INTEGERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def corpus() -> dict[str, bytes]:
    """Small whole files of every format that is read, with metadata; by name with its suffix."""
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(40), np.arange(56))[..., None] * np.array([2, 1, 2])
    pixels = np.clip(ramp + rng.integers(0, 40, ramp.shape), 0, 255).astype(np.uint8)
    alpha = pixels[..., 1]
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif[0x8769] = {0x829A: (1, 50), 0x927C: b"maker" * 9, 0xA002: 56, 0xA003: 40}
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.5)}
    block = exif.tobytes()
    metadata = Metadata(
        block.removeprefix(b"Exif\0\0"), b"profile" * 30, b"<x:xmpmeta/>", (300, 300)
    )
    deep = pixels.astype(np.uint16) * 257
    ours = {
        "grey.jpg": Photo(pixels[..., :1], metadata=metadata),
        "colour.jpg": Photo(pixels, metadata=metadata),
        "alpha.png": Photo(pixels, alpha, metadata=metadata),
        "deep.png": Photo(deep, metadata=metadata),
        "lossy.webp": Photo(pixels, alpha, metadata=metadata),
        "colour.tif": Photo(pixels, metadata=metadata),
        "deep.tif": Photo(deep, deep[..., 1], metadata=metadata),
        "float.tif": Photo((pixels / 255).astype(np.float32), metadata=metadata),
    }
    kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF"}
    files = {name: encode(p, kinds[name.split(".")[1]], None)[0] for name, p in ours.items()}
    image = Image.fromarray(pixels)
    files |= {
        "progressive.jpg": _saved(image, "JPEG", progressive=True, exif=block),
        "cmyk.jpg": _saved(image.convert("CMYK"), "JPEG"),
        "palette.png": _saved(image.quantize(17), "PNG", transparency=3),
        "bits.png": _saved(image.convert("1"), "PNG"),
        "lossless.webp": _saved(image, "WEBP", lossless=True),
        "lzw.tif": _saved(image, "TIFF", compression="tiff_lzw"),
        "colour.bmp": _saved(image, "BMP"),
        "palette.bmp": _saved(image.quantize(200), "BMP"),
        "colour.avif": _saved(image, "AVIF", exif=block),
        "raw.dng": _raw_file(pixels),
    }
    try:
        import pillow_heif
    except ImportError:
        return files
    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, exif=block)
    return files | {"colour.heic": stream.getvalue()}


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _raw_file(pixels: NDArray[np.uint8]) -> bytes:
    """The least of a DNG file that is developed, 12 bits as they come from the sensor."""
    height, width = pixels.shape[:2]
    matrix = (3.24, -1.54, -0.5, -0.97, 1.88, 0.04, 0.06, -0.2, 1.06)
    rationals = b"".join(struct.pack("<ii", round(v * 10000), 10000) for v in matrix)
    neutral = struct.pack("<6I", 1, 1, 1, 1, 1, 1)
    entries: list[tuple[int, int, int, int | bytes]] = [
        *((254, 4, 1, 0), (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16)),
        *((259, 3, 1, 1), (262, 3, 1, 32803), (271, 2, 4, 0x00726143), (272, 2, 4, 0x00786F42)),
        *((273, 4, 1, -1), (274, 3, 1, 6), (277, 3, 1, 1), (278, 4, 1, height)),
        *((279, 4, 1, 2 * width * height), (33421, 3, 2, 2 | 2 << 16)),
        *((33422, 1, 4, 0x02010100), (50706, 1, 4, 0x00000401), (50708, 2, 4, 0x00786F42)),
        *((50714, 3, 1, 256), (50717, 3, 1, 4336), (50721, 10, 9, rationals)),
        *((50728, 5, 3, neutral), (50778, 3, 1, 21)),
    ]
    end = 8 + 2 + 12 * len(entries) + 4
    extra = b""
    table = struct.pack("<H", len(entries))
    samples_at = end + len(rationals) + len(neutral)
    for tag, kind, count, value in entries:
        if isinstance(value, bytes):
            extra, value = extra + value, end + len(extra)
        table += struct.pack("<HHII", tag, kind, count, samples_at if value == -1 else value)
    samples = (pixels[..., 1].astype(np.uint16) * 16 + 256).tobytes()
    return b"II*\0" + struct.pack("<I", 8) + table + bytes(4) + extra + samples


def damaged(rng: np.random.Generator, files: dict[str, bytes]) -> tuple[str, bytes]:
    """A file of the corpus with one to four kinds of damage, and its name."""
    names = sorted(files)
    name = names[int(rng.integers(len(names)))]
    data = bytearray(files[name])
    for _ in range(int(rng.integers(1, 5))):
        _DAMAGES[int(rng.integers(len(_DAMAGES)))](rng, data)
    if rng.random() < 0.05:
        other = files[names[int(rng.integers(len(names)))]]
        cut = int(rng.integers(len(data) + 1))
        data = data[:cut] + other[cut:]
    return name, bytes(data)


def _place(rng: np.random.Generator, data: bytearray, size: int = 1) -> slice:
    """Of `size` bytes; half of them in the first 256, where the headers are."""
    reach = len(data) if rng.random() < 0.5 else min(256, len(data))
    start = int(rng.integers(max(1, reach)))
    return slice(start, min(start + size, len(data)))


def _flip_bits(rng: np.random.Generator, data: bytearray) -> None:
    for _ in range(int(rng.integers(1, 9))):
        for at in range(len(data))[_place(rng, data)]:
            data[at] ^= 1 << int(rng.integers(8))


def _overwrite(rng: np.random.Generator, data: bytearray) -> None:
    place = _place(rng, data, int(rng.integers(1, 65)))
    fills = (rng.bytes(64), bytes(64), b"\xff" * 64)
    data[place] = fills[int(rng.integers(3))][: place.stop - place.start]


def _set_integer(rng: np.random.Generator, data: bytearray) -> None:
    """An extreme number in 2 or 4 bytes of either order: sizes, counts, offsets."""
    size = int(rng.choice([2, 4]))
    place = _place(rng, data, size)
    value = _INTEGERS[int(rng.integers(len(_INTEGERS)))] & (256**size - 1)
    order: Literal["little", "big"] = "little" if rng.random() < 0.5 else "big"
    content = value.to_bytes(size, order)
    data[place] = content[: place.stop - place.start]


def _delete(rng: np.random.Generator, data: bytearray) -> None:
    del data[_place(rng, data, int(rng.integers(1, 129)))]


def _repeat(rng: np.random.Generator, data: bytearray) -> None:
    place = _place(rng, data, int(rng.integers(1, 129)))
    data[place.start : place.start] = data[place] * int(rng.integers(1, 9))


def _cut_off(rng: np.random.Generator, data: bytearray) -> None:
    del data[_place(rng, data).start :]


_DAMAGES: tuple[Callable[[np.random.Generator, bytearray], None], ...] = (
    _flip_bits,
    _overwrite,
    _set_integer,
    _set_integer,
    _delete,
    _repeat,
    _cut_off,
)
