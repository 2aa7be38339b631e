"""What a finished data set looks like: statistics, distances from real photos, contact sheet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blursynth.build_plan import MIN_SIDE, Plan, list_photos
from blursynth.build_store import records
from blursynth.contact_sheet import spread, write_contact_sheet
from blursynth.statistics import NAMES, PhotoStatistics, distances, measure, summarise
from freqdiff.atomic import write_atomically
from freqdiff.errors import InputError, PhotoError
from freqdiff.images import in_srgb_curve, open_image
from freqdiff.photo import read_photo

STATISTICS_FILE = "statistics.json"
CONTACT_SHEET_FILE = "contact_sheet.jpg"
_LARGEST = 1024


def compare_with(folder: Path, crop: int | None) -> list[PhotoStatistics]:
    """Measure the middle of each photo of a folder, as large as the pairs or 1024 px.

    Photos that cannot be read or have less than 64 px on a side are left out.

    Raises:
        InputError: no photo can be used.
    """
    found = list(_measured(folder, min(crop or _LARGEST, _LARGEST)))
    if not found:
        raise InputError(
            f"Cannot compare with {str(folder)!r}: none of its photos can be read and has "
            f"{MIN_SIDE} px on each side, so give another folder."
        )
    return found


def write_report(
    plan: Plan, others: list[PhotoStatistics] | None
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Write statistics and contact sheet; returns the statistics, and distances from `others`.

    Raises:
        OutputError: a file cannot be written.
    """
    values = [PhotoStatistics(*(record[name] for name in NAMES)) for record in records(plan)]
    statistics = summarise(values)
    gaps = distances(values, others) if values and others else {}
    content: dict[str, Any] = {"blur": statistics}
    if others:
        content |= {"compared": summarise(others), "distances": gaps}
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(plan.output / STATISTICS_FILE, text.encode())
    if values:
        shown = set(spread(len(values)))
        some = [record for place, record in enumerate(records(plan)) if place in shown]
        write_contact_sheet(plan.output / CONTACT_SHEET_FILE, plan.output, some)
    return statistics, gaps


def _measured(folder: Path, side: int) -> Iterator[PhotoStatistics]:
    for name in list_photos(folder, leave_out=folder / "none"):
        try:
            pixels = in_srgb_curve(read_photo(folder / name)).pixels
        except PhotoError:
            continue
        top, left = (max(0, n - side) // 2 for n in pixels.shape[:2])
        middle = pixels[top : top + side, left : left + side].copy()
        if min(middle.shape[:2]) >= MIN_SIDE:
            yield measure(open_image(middle).rgb[0])
