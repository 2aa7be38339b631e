"""Camera settings: the numbers that decide how a photo is blurred and how noisy it is."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from freqdiff.photo_settings import FILM_WIDTH_MM, RANGES, VECTOR, camera_vector

__all__ = [
    "BLUR_PX",
    "FILM_WIDTH_MM",
    "RANGES",
    "SENSORS_MM",
    "VECTOR",
    "Camera",
    "load_prior",
    "log_uniform",
]

BLUR_PX = 2.0
"""Diameter of the blur disk up to which a point counts as sharp, in pixels."""

SENSORS_MM = (36.0, 23.5, 17.3, 13.2, 7.6, 6.2)
"""Widths of the sensors of common cameras, from film to phones."""

_UHD = 3840

# What common cameras offer, in the order in which settings compensate each other.
_OFFERED = {"iso": (50.0, 102400.0), "exposure_s": (1 / 8000, 30.0), "f_number": (1.4, 22.0)}

_Distance = TypeVar("_Distance", float, NDArray[Any], Tensor)


@dataclasses.dataclass(frozen=True)
class Camera:
    """Settings of one exposure.

    Blur in pixels is that of a frame whose width, `width_px`, shows the whole `sensor_width_mm`.

    Attributes:
        iso: sensitivity, 25 .. 409600.
        f_number: focal length over aperture diameter, 0.7 .. 64.
        exposure_s: exposure time in seconds, 1/32000 .. 60.
        focal_mm: focal length in millimetres, 1 .. 2000.
        sensor_width_mm: extent of the sensor along the width of the frame in millimetres, 1 .. 100;
            the short side of the sensor for an upright frame in portrait format.
        focus_distance_m: distance in focus in metres, from twice the focal length to infinity.
        focus_mode: "auto" or "manual".
        blades: of the aperture, 3 .. 18, or 0 for a round one.

    Raises:
        ValueError: a setting is not a number or outside its range.
    """

    iso: float = 100.0
    f_number: float = 5.6
    exposure_s: float = 1 / 125
    focal_mm: float = 35.0
    sensor_width_mm: float = 36.0
    focus_distance_m: float = 5.0
    focus_mode: Literal["auto", "manual"] = "auto"
    blades: int = 0

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            _check_range(name, getattr(self, name), low, high)
        _check_range("focus_distance_m", self.focus_distance_m, 2e-3 * self.focal_mm, math.inf)
        if self.focus_mode not in ("auto", "manual"):
            raise ValueError(f"Camera.focus_mode is {self.focus_mode}, expected auto or manual.")
        if self.blades not in (0, *range(3, 19)):
            raise ValueError(f"Camera.blades is {self.blades}, expected 0 (round) or 3 to 18.")

    @property
    def focal35_mm(self) -> float:
        """Focal length that shows the same width on 36 mm film, in millimetres."""
        return self.focal_mm * FILM_WIDTH_MM / self.sensor_width_mm

    def focal_px(self, width_px: int) -> float:
        """Focal length in pixels of a frame that is `width_px` pixels wide."""
        return width_px * self.focal_mm / self.sensor_width_mm

    def exposure_value(self) -> float:
        """EV at ISO 100: log2(N^2 / t) - log2(ISO / 100)."""
        return math.log2(self.f_number**2 / self.exposure_s) - math.log2(self.iso / 100)

    def equivalent_exposure(
        self,
        *,
        iso: float | None = None,
        exposure_s: float | None = None,
        f_number: float | None = None,
    ) -> Camera:
        """Change some settings of the exposure triangle and keep the brightness.

        The settings that are not given compensate: ISO first, what it cannot do the exposure time,
        and the rest the f-number; each within what common cameras offer (ISO 50 .. 102400,
        1/8000 .. 30 s, f/1.4 .. f/22) or at its present value where that lies beyond.

        Raises:
            ValueError: a setting is out of range, or the others cannot compensate.
        """
        given = {"iso": iso, "exposure_s": exposure_s, "f_number": f_number}
        changes: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
        camera = dataclasses.replace(self, **changes)
        for name, (low, high) in _OFFERED.items():
            if given[name] is None:
                value = getattr(camera, name)
                factor = 2.0 ** (camera.exposure_value() - self.exposure_value())
                wanted = value * (factor**-0.5 if name == "f_number" else factor)
                possible = min(max(wanted, min(low, value)), max(high, value))
                changes[name] = possible
                camera = dataclasses.replace(self, **changes)
        stops = camera.exposure_value() - self.exposure_value()
        if abs(stops) > 1e-6:
            tone = "dark" if stops > 0 else "bright"
            raise ValueError(
                f"The photo would be {abs(stops):.1f} stops too {tone}, which the other settings "
                "cannot compensate: choose values nearer to the present ones."
            )
        return camera

    def circle_of_confusion_px(self, distance_m: _Distance, width_px: int) -> _Distance:
        """Diameter of the blur disk of points at `distance_m` > 0, in pixels (thin lens).

        c = (d - s) / d * f^2 / (N (s - f)), with s the focus distance; negative sign for points in
        front of the focus. Takes a number, an array or a tensor of distances, infinity included,
        and returns the same.
        """
        focal_m, s = 1e-3 * self.focal_mm, self.focus_distance_m
        scale_px = focal_m**2 / self.f_number * 1e3 / self.sensor_width_mm * width_px
        if math.isinf(s):
            return -scale_px / distance_m
        return (1 - s / distance_m) * (scale_px / (s - focal_m))

    def depth_of_field_m(self, width_px: int, blur_px: float = BLUR_PX) -> tuple[float, float]:
        """Nearest and farthest distance in metres whose blur disk is at most `blur_px` pixels.

        Raises:
            ValueError: `blur_px` is not greater than 0.
        """
        _check_blur(blur_px)
        if math.isinf(self.focus_distance_m):
            return -self.circle_of_confusion_px(1.0, width_px) / blur_px, math.inf
        background_px = self.circle_of_confusion_px(math.inf, width_px)
        scaled = self.focus_distance_m * background_px
        far = scaled / (background_px - blur_px) if background_px > blur_px else math.inf
        return scaled / (background_px + blur_px), far

    def hyperfocal_m(self, width_px: int, blur_px: float = BLUR_PX) -> float:
        """Focus distance in metres at which everything behind is sharp: f^2 / (N c) + f.

        Raises:
            ValueError: `blur_px` is not greater than 0.
        """
        _check_blur(blur_px)
        blur_mm = blur_px * self.sensor_width_mm / width_px
        return 1e-3 * (self.focal_mm**2 / (self.f_number * blur_mm) + self.focal_mm)

    def expected_shake_px(self, width_px: int, deg_per_s: float = 1.0) -> float:
        """Length of the trace that a camera turning at `deg_per_s` draws: f_px omega t."""
        return self.focal_px(width_px) * math.radians(deg_per_s) * self.exposure_s

    def diffraction_px(self, width_px: int, wavelength_nm: float = 550.0) -> float:
        """Diameter of the Airy disk to its first dark ring, 2.44 lambda N, in pixels."""
        return 2.44e-6 * wavelength_nm * self.f_number / self.sensor_width_mm * width_px

    def prompt(self) -> str:
        """Describe the settings and the blur and noise to expect, for a text encoder like CLIP's.

        One English sentence of at most 75 CLIP tokens. The words for the effects hold for a frame
        of 3840 pixels; a hand is taken to turn the camera by 1 degree per second.
        """
        settings, effects = ", ".join(self.in_words().values()), ", ".join(self._effects())
        return f"Photo taken at {settings}: {effects}."

    def in_words(self) -> dict[str, str]:
        """Exposure time, aperture, ISO, focal length and focus as photographers write them."""
        mm = f"{_short(self.focal_mm)} mm"
        if abs(self.sensor_width_mm - FILM_WIDTH_MM) > 0.5:
            mm += f" ({self.focal35_mm:.0f} mm equivalent)"
        t, s = self.exposure_s, self.focus_distance_m
        focus = "infinity" if math.isinf(s) else f"{s:.2f} m" if s < 1 else f"{_short(s)} m"
        return {
            "exposure_s": f"{t:.2g} s" if t > 0.3 else f"1/{1 / t:.0f} s",
            "f_number": f"f/{_short(self.f_number)}",
            "iso": f"ISO {self.iso:.0f}",
            "focal_mm": f"focal length {mm}",
            "focus_distance_m": f"{self.focus_mode} focus at {focus}",
        }

    def _effects(self) -> list[str]:
        near, far = self.depth_of_field_m(_UHD)
        light, shake = self.exposure_value(), self.expected_shake_px(_UHD)
        words = {
            "slow shutter": self.exposure_s >= 1 / 30,
            "fast shutter": self.exposure_s <= 1 / 1000,
            "strong hand shake": shake >= 10,
            "hand shake": 3 <= shake < 10,
            "steady": shake < 3,
            "shallow depth of field": far - near < 0.3 * self.focus_distance_m,
            "deep focus": near < 3 and far == math.inf,
            "very noisy high ISO": self.iso >= 6400,
            "noisy high ISO": 1600 <= self.iso < 6400,
            "clean low ISO": self.iso <= 200,
            "dim light": light < 5,
            "bright sunlight": light >= 13,
        }
        return [word for word, holds in words.items() if holds]

    def vector(self) -> NDArray[np.float32]:
        """The settings as numbers for a network: (6,), see `freqdiff.photo_settings.camera_vector`.

        Cameras that blur alike have like vectors: shake goes with the equivalent focal length,
        defocus with the sensor width too.
        """
        return camera_vector({name: getattr(self, name) for name in (*VECTOR, "focus_distance_m")})

    @classmethod
    def sample(cls, rng: np.random.Generator, prior: Sequence[Camera] | None = None) -> Camera:
        """Draw settings that agree with each other.

        With a `prior` (see `load_prior`) one of its exposures is drawn and the light is moved by up
        to one stop; without, a scene brightness is drawn and an automatic program is imitated
        (long exposures and high ISO when it is dark).
        """
        if prior:
            camera = prior[int(rng.integers(len(prior)))]
            stop = 2.0 ** rng.uniform(-1, 1)
            return dataclasses.replace(
                camera,
                exposure_s=float(np.clip(camera.exposure_s * stop, 1 / 8000, 30)),
                iso=float(np.clip(camera.iso / stop, 25, 409600)),
            )
        sensor = float(rng.choice(SENSORS_MM))
        focal = sensor * log_uniform(rng, 0.5, 5)
        f_number = log_uniform(rng, 1.6, 11)
        light = rng.uniform(2, 15)
        iso = float(np.clip(100 * 2 ** rng.uniform(0, max(0.1, 0.6 * (15 - light))), 50, 25600))
        exposure = f_number**2 / 2 ** (light + math.log2(iso / 100))
        return cls(
            iso=iso,
            f_number=f_number,
            exposure_s=float(np.clip(exposure, 1 / 8000, 2)),
            focal_mm=focal,
            sensor_width_mm=sensor,
            focus_distance_m=max(0.01 * focal, log_uniform(rng, 0.5, 30)),
        )


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two positive ones, each octave as likely as the others."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    if not isinstance(value, int | float | np.number) or not low <= value <= high:
        raise ValueError(f"Camera.{name} is {value}, expected {low:g} to {high:g}.")


def _check_blur(blur_px: float) -> None:
    if not blur_px > 0:
        raise ValueError(f"blur_px is {blur_px}, expected a diameter greater than 0.")


def _short(value: float) -> str:
    """Two digits, or all that stand before the point."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}"


def load_prior(path: str | os.PathLike[str]) -> list[Camera]:
    """Read a table of real exposures (CSV with iso, f_number, exposure_s, focal_mm, focal35_mm).

    Rows with a missing or impossible setting are left out.

    Raises:
        ValueError: a column is missing, or no row is usable.
    """
    cameras = []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"iso", "f_number", "exposure_s", "focal_mm"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: columns {sorted(missing)} are missing from the prior table.")
        for row in reader:
            try:
                focal, focal35 = float(row["focal_mm"]), float(row.get("focal35_mm") or 0)
                cameras.append(
                    Camera(
                        iso=float(row["iso"]),
                        f_number=float(row["f_number"]),
                        exposure_s=float(row["exposure_s"]),
                        focal_mm=focal,
                        sensor_width_mm=FILM_WIDTH_MM * focal / focal35 if focal35 else 23.5,
                    )
                )
            except (ValueError, ZeroDivisionError):
                continue
    if not cameras:
        raise ValueError(f"{path}: no row holds a usable exposure.")
    return cameras
