"""Settings and lengths as people and programs read them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blursynth.camera import Camera


def landscape(camera: Camera, size: tuple[int, int]) -> Camera:
    """The camera as it describes itself: with the long side of its sensor.

    Args:
        camera: with the side along the width of the photo.
        size: width and height of the upright photo in pixels.
    """
    from blursynth.camera import RANGES
    from freqdiff.photo_exif import frame_ratio

    long_side = min(camera.sensor_width_mm / frame_ratio(size), RANGES["sensor_width_mm"][1])
    return dataclasses.replace(camera, sensor_width_mm=long_side)


def in_words(camera: Camera, names: Sequence[str] | None = None) -> str:
    """The settings of a camera, or some of them, as photographers write them."""
    words = camera.in_words()
    if names is not None:
        words["sensor_width_mm"] = f"sensor {camera.sensor_width_mm:.1f} mm wide"
        words["blades"] = f"{camera.blades} blades" if camera.blades else "round aperture"
        words = {name: words[name] for name in names}
    return ", ".join(words.values())


def in_pixels(low: float, high: float) -> str:
    """A range of lengths, or the one that both ends round to."""
    first, last = f"{low:.1f}", f"{high:.1f}"
    return f"{first} px" if first == last else f"{first} to {last} px"


def to_json(value: Any) -> str:
    """JSON, which has no infinity: "inf" stands for it."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
