"""A picture of some pairs side by side, to see at a glance what a data set is like."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from freqdiff.atomic import write_atomically
from freqdiff.photo import read_photo

_CROP, _GAP, _CAPTION, _COLUMNS = 192, 12, 44, 3
_PAPER, _INK = (245, 245, 245), (30, 30, 30)
MAX_PAIRS = 12


def write_contact_sheet(path: Path, folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write crops of pairs at 100 %, sharp on the left, blurred on the right, settings below.

    Args:
        path: the JPEG file.
        folder: the data set.
        records: metadata of one to `MAX_PAIRS` pairs.

    Raises:
        PhotoError: a pair cannot be read.
        OutputError: the sheet cannot be written.
    """
    columns = min(_COLUMNS, len(records))
    rows = -(-len(records) // columns)
    width, height = 2 * _CROP + _GAP, _CROP + _CAPTION
    sheet = Image.new(
        "RGB", (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    for number, record in enumerate(records):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (width + _GAP), _GAP + row * (height + _GAP)
        sharp, blurred = (
            read_photo(folder / record[f"{side}_file_name"]).pixels for side in ("sharp", "blur")
        )
        y, x = _most_textured(sharp)
        for offset, pixels in ((0, sharp), (_CROP + _GAP // 2, blurred)):
            crop = Image.fromarray(np.ascontiguousarray(pixels[y : y + _CROP, x : x + _CROP]))
            sheet.paste(crop, (left + offset, top))
        draw.text((left, top + _CROP + 4), _caption(record), fill=_INK)
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=90)
    write_atomically(path, stream.getvalue())


def spread(count: int) -> list[int]:
    """Positions of at most `MAX_PAIRS` pairs, evenly spread over a data set."""
    shown = min(count, MAX_PAIRS)
    return [k * count // shown for k in range(shown)]


def _most_textured(pixels: np.ndarray) -> tuple[int, int]:
    """Top left corner of the crop with the strongest gradients, on a grid of half crops."""
    grey = pixels.mean(2, dtype=np.float32)
    height, width = grey.shape
    best = max(
        (
            (
                float(np.abs(np.diff(part, axis=0)).mean() + np.abs(np.diff(part, axis=1)).mean()),
                y,
                x,
            )
            for y in range(0, max(1, height - _CROP + 1), _CROP // 2)
            for x in range(0, max(1, width - _CROP + 1), _CROP // 2)
            if (part := grey[y : y + _CROP, x : x + _CROP]).size
        ),
        key=lambda item: item[0],
    )
    return best[1], best[2]


def _caption(record: dict[str, Any]) -> str:
    camera = record["camera"]
    exposure = camera["exposure_s"]
    time = f"1/{1 / exposure:.0f} s" if exposure < 0.5 else f"{exposure:.1f} s"
    return (
        f"{record['index']:06d}  {record['category']}  {time}  f/{camera['f_number']:.1f}  "
        f"ISO {camera['iso']:.0f}  {camera['focal_mm']:.0f} mm\n"
        f"blur {record['blur_width_px']:.1f} px  noise {255 * record['noise']:.1f}/255  "
        f"shift {record['shift_px']:.2f} px"
    )
