"""HEIC photos, as phones write them."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from freqdiff.errors import PhotoError
from freqdiff.photo_data import Metadata

BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1"})
"""What the box `ftyp` of such a file names first."""


def open_heif(stream: IO[bytes]) -> Any:
    """The main picture of a file, not decoded yet; any error but PhotoError means damage.

    Raises:
        PhotoError: the package pillow-heif is missing.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise PhotoError(
            "HEIC needs the package pillow-heif, "
            'so install it with pip install "freqdiff-deblur[io]"'
        ) from error
    return pillow_heif.open_heif(stream, convert_hdr_to_8bit=False)


def decode_heif(file: Any) -> tuple[NDArray[Any], Metadata, tuple[str, ...]]:
    """Upright samples (H, W) or (H, W, C), the metadata as stored, and notes.

    More than 8 bits come as 16. What else such files hold (depth, gain maps, bursts) is left out.
    """
    samples = np.array(file)
    notes: tuple[str, ...] = ()
    if len(file) > 1:
        notes += (f"only the main one of {len(file)} pictures was read",)
    if file.has_alpha and file.premultiplied_alpha:
        notes += ("colours are still multiplied by alpha",)
    info = file.info
    metadata = Metadata(
        exif=info.get("exif") or None,
        icc=info.get("icc_profile") or None,
        xmp=info.get("xmp") or None,
    )
    return samples, metadata, notes
