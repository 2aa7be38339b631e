"""What happens during one exposure: motion of camera and objects, focus, light; drawn at random."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blursynth.camera import Camera, log_uniform
from blursynth.raw import Development, sample_development
from blursynth.sensor import iso_of_frame

PATH_POINTS = 64
MASK_WAVES = 6


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How often and how strongly `sample_scene` blurs; lengths in pixels, the rest probabilities.

    `shake`, `video`, `defocus`, `mixed`, `unblurred` and `gaussian` are relative frequencies of the
    kinds of blur: hand shake, frames of a video averaged, out of focus, shake and out of focus,
    none at all, and a Gaussian kernel (its lengths are standard deviations).
    """

    shake: float = 0.36
    video: float = 0.32
    defocus: float = 0.20
    mixed: float = 0.05
    unblurred: float = 0.07
    gaussian: float = 0.0
    min_motion_px: float = 1.5
    max_motion_px: float = 32.0
    min_defocus_px: float = 1.2
    max_defocus_px: float = 12.0
    min_gaussian_px: float = 0.5
    max_gaussian_px: float = 6.0
    layer: float = 0.15
    softness: float = 0.25
    max_softness_px: float = 0.6
    signal_domain: float = 0.5
    tone: float = 0.5
    max_tone: float = 1.6
    mosaic: float = 0.0
    highlights: float = 0.3
    noise: float = 0.25
    jpeg: float = 0.25
    min_quality: float = 80.0


@dataclasses.dataclass(frozen=True)
class Scene:
    """A batch of exposures as tensors (B samples, N instants, M = 6 mask waves).

    Attributes:
        frame_size: (B, 2) height and width of the frame in pixels; its middle is the optical axis.
        rotations: (B, N, 3) camera rotation pitch, yaw, roll in radians, weighted mean 0.
        shutter: (B,) exposure over the time that `rotations` spans: 1 for a global shutter, less
            for one that rolls from the first row to the last.
        weights: (B, N) share of the light that each instant collects, sum 1.
        focal_px: (B,) focal length in pixels.
        object_shift: (B, N, 2) own motion (dy, dx) of the front layer in pixels.
        defocus_px: (B, 2) circle of confusion of background and front layer, negative in front of
            the focus.
        blades, blade_turn: (B,) straight edges of the aperture (0: round), and their angle.
        cat_eye: (B,) how far the lens barrel cuts into the aperture in the frame's corners, in
            radii of the aperture.
        spherical_px: (B,) how far spherical aberration moves the rays from the aperture's edge.
        coma_px: (B,) how far coma does so in the frame's corners, outwards; see `aberration`.
        cutoff: (B,) cycles per pixel beyond which diffraction passes nothing; infinite: none.
        softness_px: (B,) sigma of the lens softness.
        mask_waves: (B, M, 4) frequency y, x (cycles per pixel), phase, amplitude of the front
            layer's shape; amplitude 0 everywhere and bias -inf where there is no layer.
        mask_bias: (B,) threshold of that shape.
        signal_domain: (B,) 1 where light is averaged after the tone curve, as GoPro's `blur` does.
        highlight_gain: (B,) light of the saturated channels beyond white.
        development: how the camera makes a photo of the light.
        jpeg_quality: (B,) 0: no compression.
        jpeg_subsample: 4:2:0 colour for the whole batch.
    """

    frame_size: Tensor
    rotations: Tensor
    shutter: Tensor
    weights: Tensor
    focal_px: Tensor
    object_shift: Tensor
    defocus_px: Tensor
    blades: Tensor
    blade_turn: Tensor
    cat_eye: Tensor
    spherical_px: Tensor
    coma_px: Tensor
    cutoff: Tensor
    softness_px: Tensor
    mask_waves: Tensor
    mask_bias: Tensor
    signal_domain: Tensor
    highlight_gain: Tensor
    development: Development
    jpeg_quality: Tensor
    jpeg_subsample: bool = True

    def map(self, function: Callable[[Tensor], Tensor]) -> Scene:
        """The same scenes with every tensor replaced by `function(tensor)`."""
        changes: dict[str, Any] = {
            field.name: function(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        development = self.development.map(function)
        return dataclasses.replace(self, development=development, **changes)

    def expand(self, count: int) -> Scene:
        """A batch of one repeated `count` times."""
        return self.map(lambda value: value.expand(count, *value.shape[1:]))

    @property
    def has_layer(self) -> bool:
        """Whether any sample of the batch has a front layer."""
        return bool(torch.isfinite(self.mask_bias).any())


def sample_scene(
    rng: np.random.Generator, camera: Camera, frame_size: tuple[int, int], recipe: Recipe
) -> Scene:
    """Draw one exposure (a batch of one) with `camera` on a frame of (height, width) pixels.

    The settings give focal length, exposure time and ISO; the recipe gives the extent of the blur
    in pixels, and the angular speed of the hand follows from it: px = f_px * omega * t.
    """
    kinds = ("shake", "video", "defocus", "mixed", "unblurred", "gaussian")
    odds = np.array([getattr(recipe, kind) for kind in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=odds / odds.sum()))]
    width_px = frame_size[1]
    focal_px = camera.focal_px(width_px)
    weights = _instants(rng, frames=kind == "video")
    rotations = np.zeros((PATH_POINTS, 3))
    if kind in ("shake", "video", "mixed"):
        motion = log_uniform(rng, recipe.min_motion_px, recipe.max_motion_px)
        tremor = 0.1 if kind == "video" else 1.0
        rotations = _hand_path(rng, camera.exposure_s, tremor)
        extent = np.ptp(rotations[:, :2], axis=0).max() * focal_px
        rotations *= motion / extent
        rotations -= weights @ rotations
    layered = kind != "unblurred" and rng.random() < recipe.layer
    shift = np.zeros((PATH_POINTS, 2))
    defocus = np.zeros(2)
    if kind in ("defocus", "mixed"):
        defocus[:] = log_uniform(rng, recipe.min_defocus_px, recipe.max_defocus_px)
    if layered:
        if kind in ("defocus", "mixed"):
            defocus[int(rng.integers(2))] *= rng.uniform(0, 0.6)
        if kind in ("video", "shake"):
            angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(0, recipe.max_motion_px / 2)
            line = np.linspace(-0.5, 0.5, PATH_POINTS)
            shift = length * line[:, None] * np.array([math.sin(angle), math.cos(angle)])
            shift -= weights @ shift
    waves = draw_waves(rng) if layered else np.zeros((MASK_WAVES, 4))
    softness = recipe.softness if kind != "unblurred" else 0.0

    def maybe(probability: float, low: float, high: float) -> float:
        return rng.uniform(low, high) if rng.random() < probability else 0.0

    def tensor(value: object) -> Tensor:
        return torch.as_tensor(np.asarray(value), dtype=torch.float32)[None]

    soft = maybe(softness, 0.1, recipe.max_softness_px)
    bias = draw_bias(rng) if layered else -math.inf
    if kind == "gaussian":
        soft = log_uniform(rng, recipe.min_gaussian_px, recipe.max_gaussian_px)
    signal = kind in ("video", "gaussian") and rng.random() < recipe.signal_domain
    tone = max(1.0, maybe(recipe.tone, 1.0, recipe.max_tone))
    highlights = maybe(recipe.highlights, 0.25, 1.75)
    iso = iso_of_frame(camera.iso, frame_size) if rng.random() < recipe.noise else 0.0
    if rng.random() < recipe.mosaic:
        development = sample_development(rng, iso, tone)
    else:
        changes = {"iso": tensor(iso), "tone": tensor(tone)}
        development = dataclasses.replace(Development.plain(1), **changes)
    return Scene(
        frame_size=tensor(frame_size),
        rotations=tensor(rotations),
        shutter=tensor(1.0),
        weights=tensor(weights),
        focal_px=tensor(focal_px),
        object_shift=tensor(shift),
        defocus_px=tensor(defocus),
        blades=tensor(0.0),
        blade_turn=tensor(0.0),
        cat_eye=tensor(0.0),
        spherical_px=tensor(0.0),
        coma_px=tensor(0.0),
        cutoff=tensor(math.inf),
        softness_px=tensor(soft),
        mask_waves=tensor(waves),
        mask_bias=tensor(bias),
        signal_domain=tensor(float(signal)),
        highlight_gain=tensor(highlights),
        development=development,
        jpeg_quality=tensor(float(round(maybe(recipe.jpeg, recipe.min_quality, 99)))),
        jpeg_subsample=bool(rng.random() < 0.5),
    )


def stack_scenes(scenes: list[Scene]) -> Scene:
    """Join batches of scenes; the colour subsampling of the first one holds for all."""

    def joined(parts: Sequence[Any]) -> dict[str, Any]:
        names = [field.name for field in dataclasses.fields(parts[0])]
        columns = {name: [getattr(part, name) for part in parts] for name in names}
        return {k: torch.cat(v) for k, v in columns.items() if isinstance(v[0], Tensor)}

    development = Development(**joined([scene.development for scene in scenes]))
    return dataclasses.replace(scenes[0], development=development, **joined(scenes))


def draw_waves(rng: np.random.Generator) -> NDArray[Any]:
    """Draw the shape of a front layer, see `Scene.mask_waves`."""
    waves = np.empty((MASK_WAVES, 4))
    wavelength = np.exp(rng.uniform(math.log(120), math.log(1200), MASK_WAVES))
    angles = rng.uniform(0, 2 * math.pi, MASK_WAVES)
    waves[:, 0], waves[:, 1] = np.sin(angles) / wavelength, np.cos(angles) / wavelength
    waves[:, 2], waves[:, 3] = rng.uniform(0, 2 * math.pi, MASK_WAVES), 30.0
    return waves


def draw_bias(rng: np.random.Generator) -> float:
    """Draw how much of the frame a front layer covers, see `Scene.mask_bias`."""
    return rng.normal(0, 20)


def _instants(rng: np.random.Generator, frames: bool) -> NDArray[Any]:
    """Light collected at each instant: constant, or in the frames of a video with gaps between."""
    if not frames or rng.random() < 0.4:
        return np.full(PATH_POINTS, 1 / PATH_POINTS)
    count, duty = int(rng.integers(7, 14)), rng.uniform(0.2, 0.9)
    phase = (np.arange(PATH_POINTS) + 0.5) / PATH_POINTS * count
    open_shutter = (phase % 1) <= max(duty, 1.01 * count / PATH_POINTS)
    return np.asarray(open_shutter / open_shutter.sum())


def _hand_path(rng: np.random.Generator, exposure_s: float, tremor: float) -> NDArray[Any]:
    """Rotation (N, 3) of a hand-held camera: drift, its slow change, and 8-12 Hz tremor.

    Gavant et al. 2011 measured the tremor; roll is half as strong as pitch and yaw.
    """
    time = np.linspace(-0.5, 0.5, PATH_POINTS)[:, None]
    drift, change = rng.normal(size=3), rng.normal(size=3) * rng.uniform(0, 1.5)
    path = drift * time + change * time**2
    for _ in range(3):
        hertz, phase = rng.uniform(8, 12, 3), rng.uniform(0, 2 * math.pi, 3)
        cycles = hertz * max(exposure_s, 0.02)
        amplitude = tremor * rng.normal(size=3) * 0.5 / np.maximum(1, 2 * math.pi * cycles)
        path += amplitude * np.sin(2 * math.pi * cycles * time + phase)
    path += 0.15 * tremor * np.cumsum(rng.normal(size=path.shape), 0) / PATH_POINTS**0.5
    return np.asarray(path * np.array([1.0, 1.0, 0.5]))
