"""Raw files of cameras, developed by LibRaw."""

from __future__ import annotations

import io
from typing import IO, Any

from numpy.typing import NDArray
from PIL import JpegImagePlugin

from freqdiff.errors import PhotoError
from freqdiff.photo_data import Metadata

SUFFIXES = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw"}
)
STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
"""Of raw files that are no TIFF; the others are known by their directories."""
BRAND = b"crx "
"""The box `ftyp` of Canon's newest raw files."""
_SRGB_CURVE = (2.4, 12.92)


def open_raw(stream: IO[bytes]) -> Any:
    """A raw file, not developed yet; any error but PhotoError means damage.

    Raises:
        PhotoError: the package rawpy is missing, or no camera is known that writes such files.
    """
    try:
        import rawpy
    except ImportError as error:
        raise PhotoError(
            "it is a raw file of a camera, which needs the package rawpy: install it with "
            'pip install "freqdiff-deblur[raw]", or export the photo as TIFF or JPEG'
        ) from error
    try:
        return rawpy.imread(stream)
    except rawpy.LibRawFileUnsupportedError as error:
        raise PhotoError(
            "it is a raw file of a camera that is not known; expected a developed photo, "
            "so export it as TIFF or JPEG"
        ) from error


def develop_raw(raw: Any) -> NDArray[Any]:
    """Upright sRGB samples (H, W, 3) in uint16, with the camera's white balance.

    The exposure stays as it was: LibRaw's brightening would burn out highlights.
    """
    samples: NDArray[Any] = raw.postprocess(
        output_bps=16, use_camera_wb=True, no_auto_bright=True, gamma=_SRGB_CURVE
    )
    return samples


def metadata_of_preview(raw: Any) -> Metadata:
    """Exif of the JPEG preview inside a raw file, where there is one."""
    import rawpy

    try:
        preview = raw.extract_thumb()
    except (rawpy.LibRawNoThumbnailError, rawpy.LibRawUnsupportedThumbnailError):
        return Metadata()
    if preview.format != rawpy.ThumbFormat.JPEG:
        return Metadata()
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(preview.data))
    return Metadata(exif=image.info.get("exif") or None)
