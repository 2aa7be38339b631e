"""An exposure as it follows from the camera's settings, in contrast to `scene.sample_scene`, which
chooses how far the blur shall reach."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blursynth.camera import SENSORS_MM, Camera, log_uniform
from blursynth.motion import Hand, Subject, between
from blursynth.raw import Development, sample_development
from blursynth.scene import MASK_WAVES, PATH_POINTS, Scene, draw_bias, draw_waves
from blursynth.sensor import iso_of_frame

WAVELENGTH_MM = 550e-6
LEAST_BLUR_PX, MOST_BLUR_PX = 1.5, 40.0
"""Limits of `sample_shot`."""
INDEPENDENT_PX = 0.5, 40.0
"""Limits of `sample_independent`."""
_MOST_DRAWS, _MOST_PARTS = 1000, 16


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What a photo's blur depends on beside the camera's settings; each part can be switched off.

    Attributes:
        hand: how the camera is held; None: on a tripod.
        readout_s: time in which a rolling shutter runs over the frame; 0: all rows at once.
        distance_m: of the scene from the camera where no depth map tells it; None: in focus.
        cat_eye: how far the lens barrel cuts into the aperture in the frame's corners, in radii.
        diffraction: whether the aperture bends light.
        softness_px: sigma of the lens's own blur.
        highlights: light that the sensor clipped, in white levels, given back before the blur.
        mosaic: whether the sensor sees one colour per pixel, with all that the development of its
            raw brings: white balance, demosaicing, colour matrix, an S-curve.
        tone: exponent of the camera's tone curve beyond sRGB's.
        noise: whether light is counted in photons, at the camera's ISO.
        jpeg_quality: of the camera's file, 1 to 100; 0: not compressed.
        subject: something in front of the scene that moves; None: nothing.
        spherical_px: how far spherical aberration moves the rays from the aperture's edge: with the
            sign of the circle of confusion it makes a soft disk of it, with the other one a ring.
        coma_px: how far coma does so in the frame's corners, outwards.
    """

    hand: Hand | None = dataclasses.field(default_factory=Hand)
    readout_s: float = 0.0
    distance_m: float | None = None
    cat_eye: float = 0.0
    diffraction: bool = True
    softness_px: float = 0.0
    highlights: float = 0.5
    mosaic: bool = True
    tone: float = 1.0
    noise: bool = True
    jpeg_quality: int = 0
    subject: Subject | None = None
    spherical_px: float = 0.0
    coma_px: float = 0.0

    def __post_init__(self) -> None:
        ranges = {
            "readout_s": (0.0, 1.0),
            "cat_eye": (0.0, 1.5),
            "softness_px": (0.0, 20.0),
            "highlights": (0.0, 100.0),
            "tone": (0.5, 3.0),
            "spherical_px": (-50.0, 50.0),
            "coma_px": (-50.0, 50.0),
            "jpeg_quality": (0, 100),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"Conditions.{name} is {value}, expected {low:g} to {high:g}.")
        if self.distance_m is not None and not self.distance_m > 0:
            raise ValueError(f"Conditions.distance_m is {self.distance_m}, expected above 0.")


def sample_shot(
    rng: np.random.Generator,
    width_px: int,
    prior: Sequence[Camera] | None = None,
    moving: float = 0.0,
) -> tuple[Camera, Conditions]:
    """Draw a photo that somebody would call blurred: settings, hand and distance that cause it.

    Most real exposures are sharp. One whose shake and defocus stay below `LEAST_BLUR_PX` gets a
    longer exposure at the same brightness (lower ISO, then a smaller aperture), as far as there
    are such settings; what is still sharp, or blurred beyond recognition, is drawn again.

    Args:
        rng: source of the settings.
        width_px: width of the frame in pixels.
        prior: exposures to draw from, see `Camera.sample`.
        moving: share of the photos with a subject that moves, from a slow gesture to a cyclist.

    Raises:
        ValueError: no exposure of the prior can be blurred.
    """
    for _ in range(_MOST_DRAWS):
        camera = Camera.sample(rng, prior)
        conditions = _sample_conditions(rng, camera)
        assert conditions.hand is not None
        speed = conditions.hand.speed_deg_s()
        wanted = log_uniform(rng, LEAST_BLUR_PX, MOST_BLUR_PX)
        shake = camera.expected_shake_px(width_px, speed)
        if shake < wanted and conditions.distance_m is None:
            try:
                longer = min(camera.exposure_s * wanted / shake, 1.0)
                camera = camera.equivalent_exposure(exposure_s=longer)
            except ValueError:
                continue
        if LEAST_BLUR_PX <= _blur_px(camera, conditions, width_px) <= MOST_BLUR_PX:
            if moving and rng.random() < moving:
                subject = _sample_subject(rng, camera, conditions, width_px)
                conditions = dataclasses.replace(conditions, subject=subject)
            return camera, conditions
    raise ValueError("prior holds no exposure that could blur a photo; give another one.")


def sample_independent(rng: np.random.Generator, width_px: int) -> tuple[Camera, Conditions]:
    """Draw settings that tell little of each other, and shake and defocus of any extent.

    In real photos the settings go together (a slow shutter and a small aperture, dim light and high
    ISO), so a network could read one in place of another. Half of these photos are hand-held and
    half are out of focus, by `INDEPENDENT_PX`; some are both or neither.

    Args:
        rng: source of the settings.
        width_px: width of the frame in pixels.
    """
    sensor = float(rng.choice(SENSORS_MM))
    camera = Camera(
        iso=log_uniform(rng, 100, 25600),
        f_number=log_uniform(rng, 1.4, 16),
        exposure_s=log_uniform(rng, 1 / 2000, 1 / 2),
        focal_mm=sensor * log_uniform(rng, 0.5, 5),
        sensor_width_mm=sensor,
        focus_distance_m=log_uniform(rng, 0.8, 30),
    )
    conditions = _sample_conditions(rng, camera)
    hand, distance = conditions.hand, None
    assert hand is not None
    if rng.random() < 0.5:
        wanted = log_uniform(rng, *INDEPENDENT_PX)
        a_second = camera.expected_shake_px(width_px, hand.speed_deg_s()) / camera.exposure_s
        camera = dataclasses.replace(camera, exposure_s=float(np.clip(wanted / a_second, 1e-4, 2)))
    else:
        hand = None
    if rng.random() < 0.5:
        wanted = log_uniform(rng, *INDEPENDENT_PX)
        share = wanted / camera.circle_of_confusion_px(math.inf, width_px)
        # c = (1 - s / d) c_inf, solved for d; behind the focus c is less than c_inf.
        behind = share < 1 and rng.random() < 0.5
        distance = camera.focus_distance_m / (1 - share if behind else 1 + share)
    mosaic = bool(rng.random() < 0.7)
    return camera, dataclasses.replace(conditions, hand=hand, distance_m=distance, mosaic=mosaic)


def _blur_px(camera: Camera, conditions: Conditions, width_px: int) -> float:
    """Expected extent of shake and defocus together."""
    shake = defocus = 0.0
    if conditions.hand is not None:
        shake = camera.expected_shake_px(width_px, conditions.hand.speed_deg_s())
    if conditions.distance_m is not None:
        defocus = float(camera.circle_of_confusion_px(conditions.distance_m, width_px))
    return math.hypot(shake, defocus)


def _sample_conditions(rng: np.random.Generator, camera: Camera) -> Conditions:
    hand = Hand(
        drift_deg_s=math.exp(rng.normal(0, 0.5)),
        tremor_deg_s=0.5 * math.exp(rng.normal(0, 0.5)),
        stabilizer_stops=float(rng.uniform(0, 4) if rng.random() < 0.4 else 0),
    )
    distance = None
    if rng.random() < 0.4:
        focus = min(camera.focus_distance_m, 100.0)
        distance = focus * math.exp(rng.normal(0, 0.7))
    return Conditions(
        hand=hand,
        readout_s=float(rng.choice([0.0, 1 / 100, 1 / 60, 1 / 30])),
        distance_m=distance,
        cat_eye=float(rng.uniform(0, 0.8) if camera.f_number < 4 else 0),
        softness_px=float(rng.uniform(0, 0.6)),
        highlights=float(rng.uniform(0.25, 1.75)),
        tone=float(rng.uniform(1, 1.6) if rng.random() < 0.5 else 1),
        jpeg_quality=int(rng.integers(80, 99)),
    )


def _sample_subject(
    rng: np.random.Generator, camera: Camera, conditions: Conditions, width_px: int
) -> Subject:
    """Draw a speed from a slow gesture to a cyclist, as far as the blur stays recognisable."""
    distance = conditions.distance_m or camera.focus_distance_m
    most = MOST_BLUR_PX * distance / (camera.focal_px(width_px) * camera.exposure_s)
    return Subject(min(log_uniform(rng, 0.1, 8), most))


def take(
    rng: np.random.Generator,
    camera: Camera,
    frame_size: tuple[int, int],
    conditions: Conditions,
) -> Scene:
    """Draw one exposure (a batch of one) of a frame of (height, width) pixels.

    Motion: px = f_px * angle, the angle by the hand's path over the exposure (Whyte et al. 2010);
    that of a subject is px = f_px * v * t / d. Focus: `Camera.circle_of_confusion_px`.
    Diffraction: cut-off at pitch / (lambda N).
    """
    width_px = frame_size[1]
    focal_px = camera.focal_px(width_px)
    rotations = np.zeros((PATH_POINTS, 3))
    if conditions.hand is not None:
        duration = camera.exposure_s + conditions.readout_s
        rotations = conditions.hand.path(rng, duration, PATH_POINTS)
        rotations -= rotations.mean(0)
    defocus = [0.0, 0.0]
    if conditions.distance_m is not None:
        defocus = [camera.circle_of_confusion_px(conditions.distance_m, width_px)] * 2
    cutoff = math.inf
    if conditions.diffraction:
        cutoff = camera.sensor_width_mm / width_px / (WAVELENGTH_MM * camera.f_number)

    iso = iso_of_frame(camera.iso, frame_size) if conditions.noise else 0.0
    development = sample_development(rng, iso, conditions.tone)
    if not conditions.mosaic:
        changes = {"iso": development.iso, "tone": development.tone}
        development = dataclasses.replace(Development.plain(1), **changes)
    blade_turn = rng.uniform(0, 2 * math.pi)

    shift = np.zeros((PATH_POINTS, 2))
    waves, bias = np.zeros((MASK_WAVES, 4)), -math.inf
    if (subject := conditions.subject) is not None:
        distance = subject.distance_m or conditions.distance_m or camera.focus_distance_m
        defocus[1] = camera.circle_of_confusion_px(distance, width_px)
        angle = rng.uniform(0, 2 * math.pi)
        if subject.direction_deg is not None:
            angle = math.radians(subject.direction_deg)
        length = focal_px * subject.speed_m_s * camera.exposure_s / distance
        line = np.linspace(-length / 2, length / 2, PATH_POINTS)
        shift = line[:, None] * np.array([math.sin(angle), math.cos(angle)])
        waves, bias = draw_waves(rng), draw_bias(rng)

    share = camera.exposure_s / (camera.exposure_s + conditions.readout_s)
    parts = _parts(rotations * share, shift, focal_px, frame_size)
    if parts > 1:
        rotations, shift = between(rotations, parts), between(shift, parts)
        rotations -= rotations.mean(0)

    def tensor(value: object) -> Tensor:
        return torch.as_tensor(np.asarray(value), dtype=torch.float32)[None]

    return Scene(
        frame_size=tensor(frame_size),
        rotations=tensor(rotations),
        shutter=tensor(share),
        weights=tensor(np.full(len(shift), 1 / len(shift))),
        focal_px=tensor(focal_px),
        object_shift=tensor(shift),
        defocus_px=tensor(defocus),
        blades=tensor(float(camera.blades)),
        blade_turn=tensor(blade_turn),
        cat_eye=tensor(conditions.cat_eye),
        spherical_px=tensor(conditions.spherical_px),
        coma_px=tensor(conditions.coma_px),
        cutoff=tensor(cutoff),
        softness_px=tensor(conditions.softness_px),
        mask_waves=tensor(waves),
        mask_bias=tensor(bias),
        signal_domain=tensor(0.0),
        highlight_gain=tensor(conditions.highlights),
        development=development,
        jpeg_quality=tensor(float(conditions.jpeg_quality)),
    )


def _parts(
    rotations: NDArray[Any], shift: NDArray[Any], focal_px: float, frame_size: tuple[int, int]
) -> int:
    """Into how many parts to divide the steps of a path, so that none leaves a gap in a kernel."""
    turns = np.abs(np.diff(rotations, axis=0))
    steps = np.hypot(turns[:, 0], turns[:, 1]) * focal_px
    steps += turns[:, 2] * math.hypot(*frame_size) / 2
    steps += np.hypot(*np.diff(shift, axis=0).T)
    return min(math.ceil(float(steps.max())), _MOST_PARTS)
