"""Camera settings: the numbers that decide how a photo is blurred and how noisy it is."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Camera:
    """Settings of one exposure.

    Attributes:
        iso: sensitivity, 25 .. 409600.
        f_number: focal length over aperture diameter, 0.7 .. 64.
        exposure_s: exposure time in seconds, 1/32000 .. 60.
        focal_mm: focal length in millimetres, 1 .. 2000.
        sensor_width_mm: width of the sensor in millimetres, 1 .. 100.
        focus_distance_m: distance in focus in metres, from twice the focal length to infinity.

    Raises:
        ValueError: a setting is not a number or outside its range.
    """

    iso: float = 100.0
    f_number: float = 5.6
    exposure_s: float = 1 / 125
    focal_mm: float = 35.0
    sensor_width_mm: float = 36.0
    focus_distance_m: float = 5.0

    def __post_init__(self) -> None:
        ranges = {
            "iso": (25.0, 409600.0),
            "f_number": (0.7, 64.0),
            "exposure_s": (1 / 32000, 60.0),
            "focal_mm": (1.0, 2000.0),
            "sensor_width_mm": (1.0, 100.0),
            "focus_distance_m": (2e-3 * self.focal_mm, math.inf),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"Camera.{name} is {value}, expected {low:g} to {high:g}.")

    def focal_px(self, width_px: int) -> float:
        """Focal length in pixels of a frame that is `width_px` pixels wide."""
        return width_px * self.focal_mm / self.sensor_width_mm

    def exposure_value(self) -> float:
        """EV at ISO 100: log2(N^2 / t) - log2(ISO / 100)."""
        return math.log2(self.f_number**2 / self.exposure_s) - math.log2(self.iso / 100)

    def circle_of_confusion_px(self, distance_m: float, width_px: int) -> float:
        """Diameter of the blur disk of a point at `distance_m`, in pixels (thin lens).

        c = |d - s| / d * f^2 / (N (s - f)), with s the focus distance; negative sign for points
        in front of the focus.
        """
        focal_m = 1e-3 * self.focal_mm
        numerator = focal_m**2 / self.f_number
        if math.isinf(self.focus_distance_m):
            diameter_m = -numerator / distance_m
        else:
            s = self.focus_distance_m
            relative = 1.0 if math.isinf(distance_m) else (distance_m - s) / distance_m
            diameter_m = relative * numerator / (s - focal_m)
        return diameter_m * 1e3 / self.sensor_width_mm * width_px

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
        sensor = float(rng.choice([36.0, 23.5, 17.3, 13.2, 7.6, 6.2]))
        focal = sensor * math.exp(rng.uniform(math.log(0.5), math.log(5)))
        f_number = math.exp(rng.uniform(math.log(1.6), math.log(11)))
        light = rng.uniform(2, 15)
        iso = float(np.clip(100 * 2 ** rng.uniform(0, max(0.1, 0.6 * (15 - light))), 50, 25600))
        exposure = f_number**2 / 2 ** (light + math.log2(iso / 100))
        return cls(
            iso=iso,
            f_number=f_number,
            exposure_s=float(np.clip(exposure, 1 / 8000, 2)),
            focal_mm=focal,
            sensor_width_mm=sensor,
            focus_distance_m=max(0.01 * focal, math.exp(rng.uniform(math.log(0.5), math.log(30)))),
        )


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
                        sensor_width_mm=36 * focal / focal35 if focal35 else 23.5,
                    )
                )
            except (ValueError, ZeroDivisionError):
                continue
    if not cameras:
        raise ValueError(f"{path}: no row holds a usable exposure.")
    return cameras
