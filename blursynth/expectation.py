"""What a photo taken with some settings should look like: shake, blur width and noise."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from blursynth import physics, psf, shot
from blursynth.camera import Camera
from blursynth.scene import Scene
from blursynth.shot import Conditions
from blursynth.statistics import blur_width, measure
from freqdiff.tone import srgb_to_linear

SHARP_WIDTH_PX = 0.5
"""Blur width of a sharp photo, see `blursynth.statistics`."""

_HANDS, _QUANTILES = 100, (0.1, 0.9)
_PER_WIDTH = 5
_SIDE = 256
_CONTRAST = 0.15


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
    """What to expect of a photo, from exposures that are drawn and a texture that they blur.

    Args:
        camera: settings of the exposure.
        conditions: how the camera is held and how far the scene is.
        size: height and width of the frame in pixels.
        brightness: mean luma of the sRGB values, which the noise depends on.
        seed: of the exposures.
    """
    scenes = [
        shot.take(np.random.default_rng(seed + trial), camera, size, conditions)
        for trial in range(_HANDS)
    ]
    noise = _noise(scenes[0], brightness)
    return Expectation(
        shake_px=_most([_motion_px(scene, size) for scene in scenes]),
        blur_width_px=_most([_width_px(scene, size, noise) for scene in scenes[::_PER_WIDTH]]),
        noise=noise,
    )


def _most(values: list[float]) -> tuple[float, float]:
    """Where most of the values lie."""
    low, high = np.quantile(values, _QUANTILES)
    return float(low), float(high)


def _motion_px(scene: Scene, size: tuple[int, int]) -> float:
    middle = psf.blur_field(scene, (psf.GRID, psf.GRID), (size[0] // 2, size[1] // 2))
    return float(middle.motion.norm(dim=0).mean())


def _noise(scene: Scene, brightness: float) -> float:
    """Noise of an even grey area."""
    light = srgb_to_linear(torch.full((1, 3, _SIDE, _SIDE), brightness))
    return measure(physics.develop(light, scene, torch.Generator().manual_seed(0))[0]).noise


def _width_px(scene: Scene, size: tuple[int, int], noise: float) -> float:
    """Blur width of a texture with the spectrum of natural photos in the middle of the frame."""
    middle = torch.tensor([[size[0] / 2, size[1] / 2]])
    radius = min(psf.reach_px(scene), _SIDE // 2 - 1)
    side = 2 * radius + 1
    kernel = torch.zeros(_SIDE, _SIDE)
    kernel[:side, :side] = psf.kernels_at(scene, middle[None], radius)[0, 0]
    transfer = torch.fft.rfft2(kernel.roll((-radius, -radius), (0, 1)))
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.fft.rfft2(torch.randn(_SIDE, _SIDE, generator=generator)) / _frequency()
    contrast = _CONTRAST / _picture(spectrum).std()
    image = 0.5 + contrast * _picture(spectrum * transfer)
    image += noise * torch.randn(_SIDE, _SIDE, generator=generator)
    return math.hypot(SHARP_WIDTH_PX, blur_width(image.expand(3, -1, -1), noise))


def _frequency() -> Tensor:
    """Cycles per pixel of `torch.fft.rfft2`; infinite at the mean, which is left out."""
    frequency = torch.hypot(torch.fft.fftfreq(_SIDE)[:, None], torch.fft.rfftfreq(_SIDE))
    frequency[0, 0] = torch.inf
    return frequency


def _picture(spectrum: Tensor) -> Tensor:
    picture: Tensor = torch.fft.irfft2(spectrum, s=(_SIDE, _SIDE))
    return picture
