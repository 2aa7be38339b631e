"""Options for camera, hand and focus, and the settings that they and a photo's Exif make."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from freqdiff.arguments import whole_number
from freqdiff.errors import InputError, OutputError

if TYPE_CHECKING:
    from torch import Tensor

    from blursynth.camera import Camera
    from blursynth.motion import Hand
    from blursynth.shot import Conditions
    from freqdiff.images import OpenedImage

# Of options that are no settings of `Camera`, whose module is imported when one is given.
_BOUNDS = {
    "sensor_mm": (4.0, 100.0),
    "metres": (1e-3, math.inf),
    "hand": (0.0, 100.0),
    "stabilizer": (0.0, 10.0),
    "readout": (0.0, 1.0),
}
_CAMERA = ("iso", "f_number", "exposure_s", "focal_mm", "focus_distance_m", "blades")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides how a photo is blurred.

    Attributes:
        camera: as Exif says, changed by the options.
        given: names of its settings that options tell.
        assumed: names of those that neither options nor Exif tell.
        conditions: by the options.
        depth_m: (H, W) of the depth map, if one was given.
        seed: of the hand's path and of the noise.
    """

    camera: Camera
    given: tuple[str, ...]
    assumed: tuple[str, ...]
    conditions: Conditions
    depth_m: Tensor | None
    seed: int


def quantity(bounds: str, example: str, *affixes: str) -> Callable[[str], float]:
    """A type of argument: a number or a fraction, perhaps with a unit or another affix."""

    def parse(text: str) -> float:
        low, high = _bounds(bounds)
        digits = text.strip().lower()
        for affix in affixes:
            digits = digits.removeprefix(affix).removesuffix(affix).strip()
        above, slash, below = digits.partition("/")
        try:
            value = float(above) / (float(below) if slash else 1)
        except (ValueError, ZeroDivisionError):
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"expected a number such as {example} from {_written(low)} to {_written(high)}, "
                f"got {text!r}"
            )
        return value

    return parse


def _bounds(name: str) -> tuple[float, float]:
    if name in _BOUNDS:
        return _BOUNDS[name]
    from blursynth.camera import RANGES

    return RANGES[name]


def _written(bound: float) -> str:
    return f"1/{1 / bound:.0f}" if 0 < bound < 0.01 else f"{bound:g}"


def ends_in(*suffixes: str) -> Callable[[str], str]:
    """A type of argument: a file name with one of these suffixes."""

    def parse(text: str) -> str:
        if not text.lower().endswith(suffixes):
            raise argparse.ArgumentTypeError(
                f"expected a name that ends in {', '.join(suffixes)}, got {text!r}"
            )
        return text

    return parse


def add_camera_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that decide how a photo is blurred."""
    add = parser.add_argument
    metres = quantity("metres", "2.5 or inf", "m")
    add(
        "--exposure",
        dest="exposure_s",
        type=quantity("exposure_s", "1/15, 0.5 or 2s", "s", '"'),
        metavar="S",
        help="exposure time: 1/15, 0.5 or 2s (Exif, or 1/125)",
    )
    add(
        "--aperture",
        dest="f_number",
        type=quantity("f_number", "2.8 or f/2.8", "f/", "f"),
        metavar="N",
        help="f-number: 2.8 or f/2.8 (Exif, or 5.6)",
    )
    add("--iso", type=quantity("iso", "800"), metavar="N", help="sensitivity (Exif, or 100)")
    add(
        "--focal",
        dest="focal_mm",
        type=quantity("focal_mm", "85", "mm"),
        metavar="MM",
        help="focal length, not its equivalent (Exif, or 35)",
    )
    add(
        "--sensor",
        dest="sensor_mm",
        type=quantity("sensor_mm", "23.5", "mm"),
        metavar="MM",
        help="long side of the sensor (Exif, or 36)",
    )
    add(
        "--focus",
        dest="focus_distance_m",
        type=metres,
        metavar="M",
        help="distance in focus: 2.5 or inf (Exif, or 5)",
    )
    add(
        "--blades",
        type=int,
        choices=(0, *range(3, 19)),
        metavar="N",
        help="straight edges of the aperture, 3 to 18 (round)",
    )
    where = parser.add_mutually_exclusive_group().add_argument
    where("--distance", type=metres, metavar="M", help="of the scene (in focus)")
    where("--depth", metavar="FILE", help="of each pixel: .npy in metres, 16-bit PNG in mm")
    where(
        "--depth-model",
        metavar="MODEL",
        help="estimate it: folder or hub name, of transformers",
    )
    hold = parser.add_mutually_exclusive_group().add_argument
    hold(
        "--hand",
        type=quantity("hand", "1.5"),
        metavar="DEG_S",
        help="speed of its shake in degrees per second (1.1)",
    )
    hold("--tripod", action="store_true", help="no hand shake")
    add(
        "--stabilizer",
        type=quantity("stabilizer", "3"),
        default=0.0,
        metavar="STOPS",
        help="stops that it wins: 3 is an eighth of the shake",
    )
    add(
        "--readout",
        type=quantity("readout", "1/30 or 0.02", "s"),
        default=0.0,
        metavar="S",
        help="time of a rolling shutter for the frame (0)",
    )
    add("--no-diffraction", action="store_true", help="leave out diffraction")
    add(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="of the hand's path and the noise (0)",
    )


def settings_for(opened: OpenedImage, arguments: argparse.Namespace) -> Settings:
    """The settings for a photo file: those of its Exif, changed by the options.

    Raises:
        InputError: they contradict each other, or the depth map cannot be used.
    """
    from blursynth.depth import read_depth
    from blursynth.exif import read_camera
    from blursynth.shot import Conditions
    from freqdiff.photo_exif import frame_ratio

    height, width = opened.size
    assert opened.photo is not None
    reading = read_camera(opened.photo)
    changes = {name: value for name in _CAMERA if (value := getattr(arguments, name)) is not None}
    if arguments.sensor_mm is not None:
        changes["sensor_width_mm"] = arguments.sensor_mm * frame_ratio((width, height))
    focal = changes.get("focal_mm", reading.camera.focal_mm)
    focus = changes.get("focus_distance_m", reading.camera.focus_distance_m)
    if focus < 2e-3 * focal:
        raise InputError(
            f"A lens of {focal:g} mm cannot focus at {focus:g} m: "
            f"give --focus {2e-3 * focal:g} or more."
        )
    depth = arguments.depth and read_depth(arguments.depth, (height, width))
    if arguments.depth_model is not None:
        from blursynth.depth_model import estimate_depth

        depth = estimate_depth(opened.rgb[0], arguments.depth_model, near_m=min(focus / 2, 5.0))
    return Settings(
        camera=dataclasses.replace(reading.camera, **changes),
        given=tuple(changes),
        assumed=tuple(name for name in reading.assumed if name not in changes),
        conditions=Conditions(
            hand=None if arguments.tripod else _hand(arguments.hand, arguments.stabilizer),
            readout_s=arguments.readout,
            distance_m=arguments.distance,
            diffraction=not arguments.no_diffraction,
        ),
        depth_m=depth,
        seed=arguments.seed,
    )


def _hand(speed_deg_s: float | None, stabilizer_stops: float) -> Hand:
    """A typical hand, made faster or slower."""
    from blursynth.motion import Hand

    hand = Hand(stabilizer_stops=stabilizer_stops)
    if speed_deg_s is None:
        return hand
    factor = speed_deg_s / Hand().speed_deg_s()
    return dataclasses.replace(
        hand, drift_deg_s=factor * hand.drift_deg_s, tremor_deg_s=factor * hand.tremor_deg_s
    )


def refuse_to_replace(path: str, *inputs: str | os.PathLike[str] | None) -> None:
    """Raise OutputError if a result would be written over a file that it is made from."""
    for source in inputs:
        if source is not None and os.path.realpath(path) == os.path.realpath(source):
            raise OutputError(
                f"Cannot write {path!r}: this command reads it, so choose another name."
            )
