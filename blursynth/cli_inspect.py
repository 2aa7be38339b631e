"""`blursynth inspect`: what a photo's settings are and what blur and noise follow from them."""

from __future__ import annotations

import argparse
import io
import math
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blursynth.cli_base import complain
from blursynth.cli_camera import (
    Settings,
    add_camera_options,
    ends_in,
    refuse_to_replace,
    settings_for,
)
from blursynth.cli_text import in_pixels, in_words, landscape, to_json
from freqdiff.errors import sentence

if TYPE_CHECKING:
    from blursynth.camera import Camera

SUMMARY = "show the settings of photos, and the blur and noise to expect"
USAGE = "PHOTO... [options]"
EXAMPLES = """\
examples:
  blursynth inspect photo.jpg
  blursynth inspect photo.jpg --exposure 1/8 --hand 2 --psf kernels.png

Options change what Exif says, so that settings can be tried."""

# Where the defocus is told, in focus distances; in metres if the focus is at infinity.
_SHARES = (0.5, 0.8, 1.25, 2.0, 5.0, math.inf)
_METRES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTO", help="photos, with or without Exif")
    add_camera_options(parser)
    add("--psf", type=ends_in(".png"), metavar="FILE", help="draw how points are blurred (.png)")
    add("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Tell what is known about each photo; returns the exit code."""
    if arguments.psf and len(arguments.photos) > 1:
        arguments.fail("argument --psf: draws the kernels of one photo, so give one")
    reports: list[dict[str, Any]] = []
    failed = False
    for name in arguments.photos:
        try:
            report = _inspect(name, arguments)
        # Not only errors of our own: whatever one photo leads to, the others can be done.
        except Exception as error:
            if arguments.debug:
                traceback.print_exc()
            failed = True
            about = sentence(error)
            about = about if Path(name).name in about else f"{name}: {about}"
            complain(about)
            reports.append({"input": name, "error": about})
            continue
        reports.append(report)
        if not arguments.json:
            print(_text(report), flush=True)
    if arguments.json:
        print(to_json({"photos": reports}))
    return 1 if failed else 0


def _inspect(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All that is told about a photo; draws its kernels too if that is asked for."""
    from blursynth.build_plan import MIN_SIDE
    from blursynth.expectation import expect
    from blursynth.statistics import measure
    from freqdiff.images import open_image

    opened = open_image(name)
    assert opened.photo is not None
    settings = settings_for(opened, arguments)
    camera, conditions = settings.camera, settings.conditions
    height, width = opened.size
    measured = measure(opened.rgb[0]) if min(height, width) >= MIN_SIDE else None
    if arguments.psf:
        refuse_to_replace(arguments.psf, name, arguments.depth)
        _draw(arguments.psf, settings, (height, width))
    near, far = camera.depth_of_field_m(width)
    described = landscape(camera, (width, height))
    return {
        "input": name,
        "width": width,
        "height": height,
        "camera": camera,
        "given": settings.given,
        "assumed": settings.assumed,
        "conditions": conditions,
        "focal35_mm": described.focal35_mm,
        "exposure_value": camera.exposure_value(),
        "sharp_m": (near, far),
        "hyperfocal_m": camera.hyperfocal_m(width),
        "defocus": [
            {"distance_m": metres, "diameter_px": camera.circle_of_confusion_px(metres, width)}
            for metres in _distances(camera)
        ],
        "diffraction_px": camera.diffraction_px(width),
        "prompt": described.prompt(),
        "measured": measured,
        "expected": expect(
            camera,
            conditions,
            (height, width),
            brightness=measured.brightness if measured else 0.5,
            seed=settings.seed,
        ),
        "psf": arguments.psf,
        "error": None,
    }


def _distances(camera: Camera) -> list[float]:
    if math.isinf(camera.focus_distance_m):
        return list(_METRES)
    return [share * camera.focus_distance_m for share in _SHARES]


def _draw(path: str, settings: Settings, size: tuple[int, int]) -> None:
    """Draw the kernels of the exposure that `blursynth synthesize` makes of these settings."""
    import numpy as np

    from blursynth import shot
    from blursynth.depth import confusion_px
    from blursynth.psf_picture import draw_kernels
    from freqdiff.atomic import write_atomically

    rng = np.random.default_rng(settings.seed)
    scene = shot.take(rng, settings.camera, size, settings.conditions)
    confusion = None
    if settings.depth_m is not None:
        confusion = confusion_px(settings.camera, settings.depth_m, size[1])
    stream = io.BytesIO()
    draw_kernels(scene, size, confusion).save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def _text(report: dict[str, Any]) -> str:
    from blursynth.camera import BLUR_PX, FILM_WIDTH_MM

    camera = landscape(report["camera"], (report["width"], report["height"]))
    expected, measured = report["expected"], report["measured"]
    where = " in focus" if report["conditions"].distance_m is None else ""
    near, far = report["sharp_m"]
    defocus = [
        f"{abs(point['diameter_px']):.1f} px at {_metres(point['distance_m'])}"
        for point in report["defocus"]
    ]
    lines = {
        "settings": in_words(camera),
        "by options": in_words(camera, report["given"]),
        "assumed": in_words(camera, report["assumed"]),
        "equivalent": f"{camera.focal35_mm:.0f} mm on {FILM_WIDTH_MM:.0f} mm film",
        "light": f"EV {report['exposure_value']:.1f} at ISO 100",
        "sharp": f"{_metres(near)} to {_metres(far)} (blur up to {BLUR_PX:.0f} px), "
        f"hyperfocal distance {_metres(report['hyperfocal_m'])}",
        "defocus": ", ".join(defocus),
        "diffraction": f"{report['diffraction_px']:.1f} px (Airy disk)",
        "hand shake": f"{in_pixels(*expected.shake_px)} in 8 of 10 exposures",
        "expected": f"blur width {in_pixels(*expected.blur_width_px)}{where}, "
        f"noise {255 * expected.noise:.1f}/255",
        "measured": measured
        and f"blur width {measured.blur_width_px:.1f} px, noise {255 * measured.noise:.1f}/255",
        "prompt": report["prompt"],
        "kernels": report["psf"],
    }
    head = f"{report['input']} ({report['width']}x{report['height']})"
    return "\n".join([head, *(f"  {name:13}{text}" for name, text in lines.items() if text)])


def _metres(distance: float) -> str:
    return "infinity" if math.isinf(distance) else f"{distance:.3g} m"
