"""How a camera that is held by hand turns during an exposure, and what that does to the picture."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Hand:
    """How steadily a camera is held.

    Drift wanders: its speed forgets itself within `memory_s`. Tremor swings at 8 to 12 Hz (Gavant
    et al., A physiological camera shake model for image stabilization systems, 2011). Roll is half
    as strong as pitch and yaw.

    Attributes:
        drift_deg_s: standard deviation of the angular speed of the drift around each axis.
        tremor_deg_s: the same of the tremor.
        memory_s: correlation time of the drift's speed.
        stabilizer_stops: how much weaker a stabilizer makes both, in powers of two.
    """

    drift_deg_s: float = 1.0
    tremor_deg_s: float = 0.5
    memory_s: float = 0.3
    stabilizer_stops: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low = 1e-3 if field.name == "memory_s" else 0.0
            if not low <= value < math.inf:
                raise ValueError(f"Hand.{field.name} is {value}, expected {low:g} or more.")

    def speed_deg_s(self) -> float:
        """Root mean square of the angular speed around each axis that moves the picture."""
        return math.hypot(self.drift_deg_s, self.tremor_deg_s) / math.pow(2, self.stabilizer_stops)

    def path(self, rng: np.random.Generator, duration_s: float, points: int) -> NDArray[Any]:
        """Draw pitch, yaw and roll over time.

        Args:
            rng: source of the path.
            duration_s: from the first to the last point.
            points: how many, evenly spaced.

        Returns:
            (points, 3) in radians, 0 in the middle of the time.
        """
        step = duration_s / (points - 1)
        keep = math.exp(-step / self.memory_s)
        speed = np.empty((points, 3))
        speed[0] = rng.normal(size=3)
        for now in range(1, points):
            speed[now] = keep * speed[now - 1] + math.sqrt(1 - keep**2) * rng.normal(size=3)
        angle = np.zeros((points, 3))
        angle[1:] = np.cumsum((speed[1:] + speed[:-1]) / 2, 0) * step * self.drift_deg_s
        time = np.linspace(0, duration_s, points)[:, None]
        hertz, phase = rng.uniform(8, 12, (3, 3)), rng.uniform(0, 2 * math.pi, (3, 3))
        for omega, start in zip(2 * math.pi * hertz, phase, strict=True):
            amplitude = self.tremor_deg_s * math.sqrt(2 / 3) / omega
            angle += amplitude * np.sin(omega * time + start)
        angle -= angle[points // 2]
        scale = 2.0**-self.stabilizer_stops * np.array([1.0, 1.0, 0.5])
        return np.asarray(np.radians(angle) * scale)


@dataclasses.dataclass(frozen=True)
class Subject:
    """Something in front of the scene that moves by itself while the photo is exposed.

    Attributes:
        speed_m_s: across the view.
        distance_m: from the camera; None: as far as the scene.
        direction_deg: in the picture, 0 to the right, 90 downwards; None: drawn at random.
    """

    speed_m_s: float
    distance_m: float | None = None
    direction_deg: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.speed_m_s < math.inf:
            raise ValueError(f"Subject.speed_m_s is {self.speed_m_s}, expected 0 or more.")
        if self.distance_m is not None and not self.distance_m > 0:
            raise ValueError(f"Subject.distance_m is {self.distance_m}, expected above 0.")
        if self.direction_deg is not None and not math.isfinite(self.direction_deg):
            raise ValueError(f"Subject.direction_deg is {self.direction_deg}, expected a number.")


def between(path: NDArray[Any], parts: int) -> NDArray[Any]:
    """A path (N, C) with `parts` even steps for each of its own, ((N - 1) parts + 1, C)."""
    points = np.arange(len(path))
    fine = np.linspace(0, len(path) - 1, (len(path) - 1) * parts + 1)
    return np.stack([np.interp(fine, points, column) for column in path.T], -1)


def rolling_shutter(values: Tensor, start: Tensor, share: Tensor, count: int) -> Tensor:
    """What each row sees of a path during its own exposure.

    Args:
        values: (B, N, C) path at N even points from the first row's first to the last row's last
            moment.
        start: (B, K) when the exposure of K rows begins, 0 for the frame's first, 1 for its last.
        share: (B,) exposure over the time of the whole path, 1 for a global shutter.
        count: of instants in each exposure.

    Returns:
        (B, K, count, C) by linear interpolation.
    """
    points = values.shape[1]
    line = torch.linspace(0, 1, count, device=values.device, dtype=values.dtype)
    first = start * (1 - share)[:, None]
    at = (first[..., None] + share[:, None, None] * line) * (points - 1)
    low = at.floor().clamp(0, points - 2).long()
    part = (at - low)[..., None]
    batch = torch.arange(len(values), device=values.device)[:, None, None]
    return values[batch, low] * (1 - part) + values[batch, low + 1] * part


def rotation_displacements(rotations: Tensor, points: Tensor, focal_px: Tensor) -> Tensor:
    """Where the homographies K R K^-1 move image points.

    Args:
        rotations: (B, 1 or K, N, 3) pitch, yaw, roll in radians, composed as Rz Ry Rx.
        points: (B, K, 2) pixel positions (y, x) relative to the principal point.
        focal_px: (B,) focal length in pixels.

    Returns:
        (B, K, N, 2) displacements (dy, dx) in pixels.
    """
    pitch, yaw, roll = rotations.unbind(-1)
    y, x = (points[:, :, None] / focal_px[:, None, None, None]).unbind(-1)
    y1 = y * pitch.cos() - pitch.sin()
    z1 = y * pitch.sin() + pitch.cos()
    x2 = x * yaw.cos() + z1 * yaw.sin()
    z2 = z1 * yaw.cos() - x * yaw.sin()
    x3 = x2 * roll.cos() - y1 * roll.sin()
    y3 = x2 * roll.sin() + y1 * roll.cos()
    moved = torch.stack((y3 / z2, x3 / z2), -1)
    return (moved - torch.stack((y, x), -1)) * focal_px[:, None, None, None]
