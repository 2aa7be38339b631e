"""`freqdiff inspect`: how a photo is blurred, and how far its result is to be trusted."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

from freqdiff.cli_base import add_model_options
from freqdiff.errors import InputError, OutputError

SUMMARY = "tell how a photo is blurred and how far its result is to be trusted"
USAGE = "PHOTO [-o MAPS.png] [options]"
EXAMPLES = """\
examples:
  freqdiff inspect photo.jpg
  freqdiff inspect photo.jpg -o maps.png --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("photo", metavar="PHOTO", help="the photo to look at")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PNG",
        help="draw the blur, and the confidence from red to green",
    )
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Deblur, check, report; returns the exit code."""
    from freqdiff.api import deblur_opened
    from freqdiff.atomic import write_atomically
    from freqdiff.check_picture import draw_check
    from freqdiff.deblurrer import load
    from freqdiff.images import open_image
    from freqdiff.self_check import summary

    if arguments.output is not None and arguments.output.suffix.lower() != ".png":
        raise OutputError(
            f"Cannot write {str(arguments.output)!r}: the maps are a PNG picture, so choose a name "
            "that ends in .png."
        )
    opened = open_image(arguments.photo)
    model = load(arguments.model, arguments.device)
    _, details = deblur_opened(
        opened,
        model=model,
        steps=arguments.steps,
        seed=arguments.seed,
        tile=arguments.tile,
        ensemble=arguments.ensemble,
        check=True,
    )
    if details.check is None:
        raise InputError(
            f"Model {model.name!r} does not estimate the blur: choose one whose anchor is 'wiener'."
        )
    facts = {
        "photo": arguments.photo,
        "width": opened.size[1],
        "height": opened.size[0],
        "model": model.name,
        "changed": details.changed,
        **summary(details.check),
        "maps": None if arguments.output is None else str(arguments.output),
        "notes": list(details.notes),
    }
    if arguments.output is not None:
        buffer = io.BytesIO()
        draw_check(opened.rgb[0], details.check).save(buffer, "PNG")
        write_atomically(arguments.output, buffer.getvalue())
    print(json.dumps(facts, indent=2) if arguments.json else describe(facts))
    return 0


def describe(facts: dict[str, Any]) -> str:
    """The summary for people."""
    lines = [f"{facts['photo']} ({facts['width']}x{facts['height']}), model {facts['model']}"]
    along = f"{facts['length_px']:.1f} px along, {facts['width_px']:.1f} px across"
    if facts["agreement"] > 0.5:
        along += f", mostly at {facts['angle_deg']:.0f} degrees (0: level, 90: upright)"
    lines.append(f"blur     {along}")
    lines.append(
        f"result   expected to be {facts['expected_error']:.1f} levels of 255 off on average, and "
        f"less than 5 in {100 * facts['confident_share']:.0f}% of the photo"
    )
    if facts["maps"]:
        lines.append(f"maps     {facts['maps']}")
    return "\n".join([*lines, *(f"note     {note}" for note in facts["notes"])])
