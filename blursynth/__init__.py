"""BlurSynth: blurs sharp photos as cameras do.

`blursynth.synthesize(sharp, blursynth.Camera(...))` blurs one photo, `blursynth.build(sharp, out)`
makes a data set of pairs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blursynth.camera import Camera
    from blursynth.dataset import build
    from blursynth.diffusion_config import DiffusionConfig
    from blursynth.engines import synthesize
    from blursynth.exif import read_camera, write_camera
    from blursynth.motion import Hand
    from blursynth.shot import Conditions

__all__ = [
    "Camera",
    "Conditions",
    "DiffusionConfig",
    "Hand",
    "build",
    "read_camera",
    "synthesize",
    "write_camera",
]

# Loaded when they are first used: torch and the image formats take seconds, which the command
# line's help should not pay.
_HOMES = {
    "Camera": "blursynth.camera",
    "Conditions": "blursynth.shot",
    "DiffusionConfig": "blursynth.diffusion_config",
    "Hand": "blursynth.motion",
    "build": "blursynth.dataset",
    "read_camera": "blursynth.exif",
    "synthesize": "blursynth.engines",
    "write_camera": "blursynth.exif",
}

if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
