"""What a photo is in memory: samples, alpha, metadata and how its file was compressed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freqdiff.errors import InputError

SAMPLE_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32))

# ITU-T T.81, table K.1: the luminance table that quality 50 of libjpeg stands for.
_LUMINANCE_TABLE = np.array(
    [
        *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    ]
)


@dataclasses.dataclass(frozen=True)
class Metadata:
    """Metadata blocks of a photo, as bytes that go from file to file.

    Attributes:
        exif: the Exif block from its byte order mark on ("II" or "MM"), orientation 1.
        icc: the ICC colour profile.
        xmp: the XMP packet, UTF-8.
        dpi: horizontal and vertical resolution in pixels per inch.
    """

    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class JpegSettings:
    """How a JPEG file was compressed.

    Attributes:
        tables: quantisation tables, 64 steps each in row order, first luminance, then colour.
        subsampling: colour subsampling, 0 for 4:4:4, 1 for 4:2:2, 2 for 4:2:0.
    """

    tables: tuple[tuple[int, ...], ...]
    subsampling: int

    @property
    def quality(self) -> int:
        """Quality in [1, 100] on libjpeg's scale whose luminance table is nearest to the file's."""
        quality = np.arange(1, 101)[:, None]
        scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
        tables = np.clip((_LUMINANCE_TABLE * scale + 50) // 100, 1, 255)
        return 1 + int(np.abs(tables - np.array(self.tables[0])).sum(axis=1).argmin())


@dataclasses.dataclass(frozen=True, eq=False)
class Photo:
    """A photo as read from a file, or to be written to one.

    Attributes:
        pixels: (H, W, 3) colour or (H, W, 1) grey; uint8, uint16, or float32 with white at 1.
        alpha: (H, W) opacity in the same sample type, or None. Colours are not multiplied by it.
        format: of the source file: "JPEG", "PNG", "WEBP", "TIFF", "BMP", "HEIF", "AVIF" or "RAW".
        metadata: Exif, ICC, XMP and resolution.
        jpeg: compression of the source file if that was a JPEG.
        path: the source file, absolute.
        notes: what was changed when the file was read, for people.

    Raises:
        InputError: pixels or alpha of another shape or sample type.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    format: str = "PNG"
    metadata: Metadata = Metadata()
    jpeg: JpegSettings | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape or dtype not in SAMPLE_TYPES:
            raise InputError(
                "Expected pixels of shape (H, W, 1) or (H, W, 3) in uint8, uint16 or float32, "
                f"got shape {shape} in {dtype}: convert them first."
            )
        alpha = self.alpha
        if alpha is not None and (alpha.shape != shape[:2] or alpha.dtype != dtype):
            raise InputError(
                f"Expected alpha of shape {shape[:2]} in {dtype} like the pixels, "
                f"got shape {alpha.shape} in {alpha.dtype}: convert it first."
            )

    def with_pixels(self, pixels: NDArray[Any]) -> Photo:
        """Return a copy with other pixels, of the same shape and sample type.

        Raises:
            InputError: another shape or sample type.
        """
        if pixels.shape != self.pixels.shape or pixels.dtype != self.pixels.dtype:
            raise InputError(
                f"Expected pixels of shape {self.pixels.shape} in {self.pixels.dtype} like the "
                f"photo's, got shape {pixels.shape} in {pixels.dtype}: convert them first."
            )
        return dataclasses.replace(self, pixels=pixels)
