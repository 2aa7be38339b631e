"""`blursynth synthesize`: blurs a sharp photo as a camera with these settings would have."""

from __future__ import annotations

import argparse
import dataclasses
import io
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blursynth.cli_base import ENGINE_HELP
from blursynth.cli_camera import add_camera_options, ends_in, refuse_to_replace, settings_for
from blursynth.cli_text import in_pixels, in_words, landscape, to_json
from freqdiff.arguments import whole_number
from freqdiff.errors import InputError, PhotoError

if TYPE_CHECKING:
    from blursynth.camera import Camera
    from blursynth.certificate import Certificate
    from blursynth.psf import BlurField
    from freqdiff.photo import Photo

SUMMARY = "blur a sharp photo as a camera with these settings would"
USAGE = "PHOTO -o OUT [options]"
EXAMPLES = """\
examples:
  blursynth synthesize photo.jpg -o out.jpg --exposure 1/4 --focal 85 --seed 7"""

# Settings in XMP, which would contradict the new ones.
_XMP_SETTINGS = re.compile(
    rb"exif(EX)?:(ExposureTime|FNumber|ISOSpeedRatings|PhotographicSensitivity|ShutterSpeedValue"
    rb"|ApertureValue|FocalLength|FocalLengthIn35mmFilm|SubjectDistance)\b"
)

# Demosaicing looks at neighbours of the same colour.
_LEAST_SIDE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("photo", metavar="PHOTO", help="sharp photo")
    add(
        "-o",
        "--output",
        required=True,
        type=_photo_name,
        metavar="OUT",
        help="JPEG, PNG, WebP or TIFF file",
    )
    add_camera_options(parser)
    add("--engine", default="physics", metavar="NAME", help=ENGINE_HELP)
    add("--no-noise", action="store_true", help="leave out the noise of the sensor")
    add("--no-mosaic", action="store_true", help="a sensor with all colours in each pixel")
    add(
        "--jpeg",
        type=whole_number(1, 100),
        metavar="Q",
        help="quality from 1 to 100; simulated if OUT is no JPEG",
    )
    add("--field", type=ends_in(".npz"), metavar="FILE", help="write the blur field (.npz)")
    add("--json", action="store_true", help="print the settings as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Blur the photo; returns the exit code."""
    from blursynth.certificate import certify
    from blursynth.engines import synthesize
    from freqdiff.images import open_image
    from freqdiff.photo import write_photo

    refuse_to_replace(arguments.output, arguments.photo, arguments.depth)
    started = time.perf_counter()
    opened = open_image(arguments.photo)
    assert opened.photo is not None
    _check(opened.photo)
    settings = settings_for(opened, arguments)
    is_jpeg = Path(arguments.output).suffix.lower() in (".jpg", ".jpeg")
    conditions = dataclasses.replace(
        settings.conditions,
        noise=not arguments.no_noise,
        mosaic=not arguments.no_mosaic,
        # A JPEG file is compressed when it is written, once.
        jpeg_quality=0 if is_jpeg else arguments.jpeg or 0,
    )
    result = synthesize(
        opened.rgb[0],
        settings.camera,
        engine=arguments.engine,
        seed=settings.seed,
        conditions=conditions,
        depth_m=settings.depth_m,
    )
    certificate = None
    if arguments.engine != "physics":
        certificate = certify(opened.rgb[0], result.blurred)
    photo, notes = _with_camera(opened.restore_photo(result.blurred[None]), settings.camera)
    quality = arguments.jpeg if is_jpeg else None
    notes = (*opened.notes, *notes, *write_photo(arguments.output, photo, quality=quality))
    if arguments.field:
        _write_field(arguments.field, result.field, photo.pixels.shape[:2])
    report = {
        "input": arguments.photo,
        "output": arguments.output,
        "width": photo.pixels.shape[1],
        "height": photo.pixels.shape[0],
        "camera": settings.camera,
        "given": settings.given,
        "assumed": settings.assumed,
        "conditions": conditions,
        "depth": arguments.depth,
        "seed": settings.seed,
        **_extent(result.field),
        "engine": arguments.engine,
        "certificate": certificate and dataclasses.asdict(certificate),
        "notes": (*notes, *_faintness(result.field), *_misfit(certificate)),
        "seconds": round(time.perf_counter() - started, 3),
    }
    print(to_json(report) if arguments.json else _text(report))
    return 0


def _photo_name(text: str) -> str:
    """A type of argument: a file name whose suffix is that of a photo."""
    from freqdiff.photo import OUTPUT_SUFFIXES

    return ends_in(*OUTPUT_SUFFIXES)(text)


def _check(photo: Photo) -> None:
    """Raise PhotoError for a picture that no camera could take."""
    height, width = photo.pixels.shape[:2]
    if min(height, width) < _LEAST_SIDE:
        raise PhotoError(
            f"Cannot blur {str(photo.path)!r}: it has {width} x {height} pixels and a mosaic of "
            f"colours needs {_LEAST_SIDE} on each side, so use a larger photo."
        )
    if photo.alpha is not None and bool((photo.alpha != photo.alpha.max()).any()):
        raise PhotoError(
            f"Cannot blur {str(photo.path)!r}: parts of it are transparent and what lies behind "
            "them is not known, so lay it on a background first."
        )


def _with_camera(photo: Photo, camera: Camera) -> tuple[Photo, tuple[str, ...]]:
    """The photo with the settings in its Exif block, and notes on metadata that were left out."""
    from blursynth.exif import write_camera

    notes: tuple[str, ...] = ()
    metadata = photo.metadata
    size = (photo.pixels.shape[1], photo.pixels.shape[0])
    try:
        exif = write_camera(camera, metadata.exif, size)
    except InputError:
        exif, notes = write_camera(camera, size=size), ("damaged Exif left out",)
    xmp = metadata.xmp
    if xmp is not None and _XMP_SETTINGS.search(xmp):
        xmp, notes = None, (*notes, "XMP left out, as it tells the old settings")
    return dataclasses.replace(
        photo, metadata=dataclasses.replace(metadata, exif=exif, xmp=xmp)
    ), notes


def _write_field(path: str, field: BlurField, size: tuple[int, int]) -> None:
    """Write the blur field as NumPy arrays: motion (2, h, w), defocus (h, w), grid, size."""
    import numpy as np

    from blursynth.psf import GRID
    from freqdiff.atomic import write_atomically

    stream = io.BytesIO()
    np.savez(
        stream,
        motion=field.motion.numpy(),
        defocus=field.defocus.numpy(),
        grid=np.array(GRID),
        size=np.array(size),
    )
    write_atomically(path, stream.getvalue())


def _extent(field: BlurField) -> dict[str, tuple[float, float]]:
    """Smallest and largest blur over the photo, in pixels."""
    parts = {"motion_px": field.motion.norm(dim=0), "defocus_px": field.defocus}
    return {
        # 0 is added to make -0 positive.
        name: (round(float(values.min()), 2) + 0.0, round(float(values.max()), 2) + 0.0)
        for name, values in parts.items()
    }


def _faintness(field: BlurField) -> tuple[str, ...]:
    """A note if nobody will see the blur."""
    from blursynth.shot import LEAST_BLUR_PX

    most = float((field.motion.square().sum(0) + field.defocus.square()).amax().sqrt())
    if most >= LEAST_BLUR_PX:
        return ()
    return (
        f"shake and defocus reach {most:.1f} px at most, which is hardly visible: give a longer "
        "--exposure or --focal, or a --distance out of focus",
    )


def _misfit(certificate: Certificate | None) -> tuple[str, ...]:
    """A note if the result does not lie on the photo."""
    if certificate is None or certificate.passed:
        return ()
    return (
        f"the result is {certificate.shift_px:.1f} px off the photo, and its coarse content "
        f"{certificate.low_band_psnr_db:.1f} dB from it: not fit for training",
    )


def _text(report: dict[str, Any]) -> str:
    camera = landscape(report["camera"], (report["width"], report["height"]))
    lines = [
        "{input} -> {output} ({width}x{height}, {seconds:.1f} s)".format(**report),
        f"  {in_words(camera)}",
        f"  motion {in_pixels(*report['motion_px'])}, defocus {in_pixels(*report['defocus_px'])}",
    ]
    if report["assumed"]:
        lines.append(f"  assumed: {in_words(camera, report['assumed'])}")
    return "\n".join([*lines, *(f"  note: {note}" for note in report["notes"])])
