"""One photo of the web page: deblurred into the file that `freqdiff deblur` would write, with small
pictures of what was done."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from freqdiff.api import Details
from freqdiff.atomic import write_atomically
from freqdiff.batch import Settings, deblur_by_settings, result_name, write_result
from freqdiff.check_picture import draw_check
from freqdiff.compare_picture import encode_small, most_changed
from freqdiff.deblurrer import Deblurrer
from freqdiff.errors import FreqDiffError
from freqdiff.images import open_image
from freqdiff.self_check import summary

PREVIEW = 1600
"""Longest side of the pictures that the page shows, in pixels."""
DETAIL = (540, 800)
"""(height, width) of the detail in full size, in pixels."""
_READ, _MEASURED, _DEBLURRED, _CHECKED, _WRITTEN = 0.03, 0.3, 0.7, 0.9, 0.95
"""Shares of the time that are gone after each part of the work (12 megapixels, two CPU cores)."""
_LONGEST_NAME = 80
_DIRECTIONS = (
    "mostly sideways",
    "mostly slanting down to the right",
    "mostly up and down",
    "mostly slanting up to the right",
)
"""By the nearest multiple of 45 degrees."""

Report = Callable[[float, str], None]


class Cancelled(Exception):
    """Somebody does not want the result any more."""


@dataclasses.dataclass(frozen=True)
class Sharpened:
    """What the page shows of a photo; all files lie in the folder of the job.

    Attributes:
        result: the file to download.
        whole, detail: JPEGs of the photo and of its result: all of them, made smaller, and the
            place that changed most, pixel by pixel.
        maps: PNG of `freqdiff inspect`, for models that estimate the blur.
        lines: what was done, for people.
    """

    result: Path
    whole: tuple[Path, Path]
    detail: tuple[Path, Path]
    maps: Path | None
    lines: tuple[str, ...]


def sharpen(
    photo: Path, folder: Path, model: Deblurrer, settings: Settings, max_pixels: int, report: Report
) -> Sharpened:
    """Deblur one photo.

    Args:
        photo: the file that was sent; its name is harmless, see `safe_name`.
        folder: an empty one for the results.
        model: which to use.
        settings: as of the command line.
        max_pixels: limit for the size of the photo.
        report: called with the share done, in [0, 1], and what is being done; what it raises ends
            the work.

    Raises:
        FreqDiffError: the photo cannot be used.
    """
    report(0.0, "Reading the photo")
    try:
        opened = open_image(photo, max_pixels=max_pixels)
    except FreqDiffError as error:
        # Where the file lies on the server is nobody's business.
        shown = repr(safe_name(photo.name))
        raise type(error)(str(error).replace(repr(str(photo)), shown)) from error
    assert opened.photo is not None
    report(_READ, "Measuring the blur")

    def tiles(done: int, total: int) -> None:
        what = "Checking the result" if done == total else f"Sharpening part {done + 1} of {total}"
        report(_MEASURED + (_DEBLURRED - _MEASURED) * done / total, what)

    silent = dataclasses.replace(settings, progress=False)
    rgb, details = deblur_by_settings(opened, model, silent, callback=tiles, check=True)
    report(_CHECKED, "Writing the file")
    result = folder / sharp_name(photo.name)
    notes = write_result(result, opened, rgb, changed=details.changed, settings=settings)
    report(_WRITTEN, "Drawing the pictures")
    before, after = opened.rgb[0], rgb[0]
    height, width = (min(*pair) for pair in zip(DETAIL, before.shape[1:], strict=True))
    top, left = most_changed(before, after, (height, width))
    part = (slice(None), slice(top, top + height), slice(left, left + width))
    pictures = {
        "before": (before, PREVIEW),
        "after": (after, PREVIEW),
        "before-detail": (before[part], max(DETAIL)),
        "after-detail": (after[part], max(DETAIL)),
    }
    paths = [folder / f"{name}.jpg" for name in pictures]
    for path, (image, longest) in zip(paths, pictures.values(), strict=True):
        write_atomically(path, encode_small(image, longest, opened.profile))
    maps = None
    if details.check is not None:
        maps = folder / "maps.png"
        draw_check(before, details.check).save(maps)
    return Sharpened(
        result,
        (paths[0], paths[1]),
        (paths[2], paths[3]),
        maps,
        tuple(describe(details, (before.shape[2], before.shape[1]), notes)),
    )


def safe_name(name: str) -> str:
    """A name of letters, digits and a few signs, which no file system, page or shell minds."""
    path = Path(name)
    stem, suffix = (re.sub(r"[^\w .()+-]", "_", part) for part in (path.stem, path.suffix))
    stem = stem.strip(" .-")[:_LONGEST_NAME].rstrip(" .") or "photo"
    return stem + suffix[:10].rstrip(" .")


def sharp_name(name: str) -> str:
    """The name of the result for a photo of a name; formats that cannot be written become PNG."""
    result = result_name(Path(safe_name(name)))
    return f"{result.stem}_sharp{result.suffix}"


def describe(details: Details, size: tuple[int, int], notes: tuple[str, ...] = ()) -> list[str]:
    """What was done to a photo of (width, height), and how far to trust it, in sentences."""
    width, height = size
    done = f"{width} x {height} pixels in {details.seconds:.1f} s"
    if details.changed:
        done += f"; {100 * details.changed_share:.0f}% of the photo changed"
    lines = [f"{done}."]
    if details.check is not None:
        lines += _explain(summary(details.check), details.changed)
    return lines + [f"{note[0].upper()}{note[1:]}." for note in (*details.notes, *notes)]


def _explain(facts: dict[str, Any], changed: bool) -> list[str]:
    blur = (
        f"The photo looks blurred by about {facts['length_px']:.0f} pixels along "
        f"and {facts['width_px']:.0f} across"
    )
    if facts["agreement"] > 0.5:
        blur += f", {_DIRECTIONS[round(facts['angle_deg'] / 45) % 4]}"
    trust = (
        f"In {100 * facts['confident_share']:.0f}% of the photo (green in the map) the result is "
        "likely to be right; look closely at the rest (red)"
    )
    return [f"{blur}.", f"{trust}."] if changed else [f"{blur}."]
