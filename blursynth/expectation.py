"""What a photo taken with some settings should look like: shake, blur width and noise."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from blursynth import physics, psf, shot
from blursynth.camera import Camera
from blursynth.sensor import srgb_to_linear
from blursynth.shot import Conditions
from blursynth.statistics import measure

SHARP_WIDTH_PX = 0.5
"""Blur width that `statistics.measure` finds in a sharp photo."""

_HANDS, _QUANTILES = 100, (0.1, 0.9)
_FLAT = 256


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What to expect of a photo; ranges hold for 8 of 10 exposures.

    Attributes:
        shake_px: motion in the middle of the frame, as in `psf.BlurField`.
        blur_width_px: what `statistics.measure` should find in it.
        noise: the same for the noise, straight from the sensor: cameras that reduce it and photos
            that were made smaller have less.
    """

    shake_px: tuple[float, float]
    blur_width_px: tuple[float, float]
    noise: float


def expect(
    camera: Camera,
    conditions: Conditions,
    size: tuple[int, int],
    *,
    brightness: float = 0.5,
    seed: int = 0,
) -> Expectation:
    """What to expect of a photo.

    The variance of the blur is that of a straight motion L, L^2 / 12 along it, that of a disk c,
    c^2 / 16 along each axis, and what a sharp photo has already.

    Args:
        camera: settings of the exposure.
        conditions: how the camera is held and how far the scene is.
        size: height and width of the frame in pixels.
        brightness: mean luma of the sRGB values, which the noise depends on.
        seed: of the hands that are tried.
    """
    motions = [_motion_px(camera, conditions, size, seed + trial) for trial in range(_HANDS)]
    low, high = (float(np.quantile(motions, share)) for share in _QUANTILES)
    defocus = 0.0
    if conditions.distance_m is not None:
        defocus = camera.circle_of_confusion_px(conditions.distance_m, size[1])
    still = SHARP_WIDTH_PX**2 + defocus**2 / 16
    widths = (math.sqrt(still + low**2 / 24), math.sqrt(still + high**2 / 24))
    return Expectation((low, high), widths, _noise(camera, conditions, brightness, seed))


def _motion_px(camera: Camera, conditions: Conditions, size: tuple[int, int], seed: int) -> float:
    scene = shot.take(np.random.default_rng(seed), camera, size, conditions)
    middle = psf.blur_field(scene, (psf.GRID, psf.GRID), (size[0] // 2, size[1] // 2))
    return float(middle.motion.norm(dim=0).mean())


def _noise(camera: Camera, conditions: Conditions, brightness: float, seed: int) -> float:
    """Noise of an even grey area that was taken with these settings."""
    scene = shot.take(np.random.default_rng(seed), camera, (_FLAT, _FLAT), conditions)
    light = srgb_to_linear(torch.full((1, 3, _FLAT, _FLAT), brightness))
    return measure(physics.develop(light, scene, torch.Generator().manual_seed(seed))[0]).noise
