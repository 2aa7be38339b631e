"""Hand shake, homographies and the rolling shutter, against textbook formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from blursynth import motion
from blursynth.motion import Hand

DOUBLE = torch.float64


def homography(rotation: Tensor, focal: float) -> Tensor:
    """K R K^-1 with R = Rz Ry Rx, for points (x, y, 1)."""
    pitch, yaw, roll = (float(angle) for angle in rotation)
    rx = torch.tensor(
        [[1, 0, 0], [0, math.cos(pitch), -math.sin(pitch)], [0, math.sin(pitch), math.cos(pitch)]],
        dtype=DOUBLE,
    )
    ry = torch.tensor(
        [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]],
        dtype=DOUBLE,
    )
    rz = torch.tensor(
        [[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]],
        dtype=DOUBLE,
    )
    k = torch.diag(torch.tensor([focal, focal, 1.0], dtype=DOUBLE))
    return k @ rz @ ry @ rx @ torch.linalg.inv(k)


def test_rotations_move_points_by_the_homography() -> None:
    generator = torch.Generator().manual_seed(2)
    rotations = 0.05 * torch.randn((2, 5, 3), generator=generator, dtype=DOUBLE)
    points = 800 * torch.randn((2, 4, 2), generator=generator, dtype=DOUBLE)
    focal = torch.tensor([900.0, 5000.0], dtype=DOUBLE)
    result = motion.rotation_displacements(rotations[:, None], points, focal)
    assert result.shape == (2, 4, 5, 2)
    for sample in range(2):
        for instant in range(5):
            h = homography(rotations[sample, instant], float(focal[sample]))
            ones = torch.ones(4, dtype=DOUBLE)
            moved = h @ torch.stack((points[sample, :, 1], points[sample, :, 0], ones))
            expected = (moved[:2] / moved[2]).flip(0).T - points[sample]
            torch.testing.assert_close(result[sample, :, instant], expected, rtol=1e-10, atol=1e-9)


def test_roll_turns_around_the_centre() -> None:
    rotations = torch.tensor([[[0.0, 0.0, 0.02]]], dtype=DOUBLE)
    points = torch.tensor([[[0.0, 0.0], [0.0, 1000.0]]], dtype=DOUBLE)
    result = motion.rotation_displacements(
        rotations[:, None], points, torch.tensor([3000.0]).double()
    )
    assert torch.equal(result[0, 0], torch.zeros(1, 2, dtype=DOUBLE))
    expected = [1000 * math.sin(0.02), 1000 * (math.cos(0.02) - 1)]
    assert result[0, 1, 0].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("focal_mm", "exposure_s", "degrees_per_s", "expected_px"),
    [(50, 1 / 15, 1, 6.2), (200, 1 / 60, 3, 18.6)],
)
def test_shake_is_focal_length_times_angle(
    focal_mm: float, exposure_s: float, degrees_per_s: float, expected_px: float
) -> None:
    """px = (W_px / W_sensor) f omega t, on a 4K frame of a 36 mm sensor."""
    focal_px = torch.tensor([3840 * focal_mm / 36], dtype=DOUBLE)
    angle = math.radians(degrees_per_s) * exposure_s
    yaw = torch.linspace(-angle / 2, angle / 2, 9, dtype=DOUBLE)
    rotations = torch.stack((torch.zeros_like(yaw), yaw, torch.zeros_like(yaw)), -1)[None]
    path = motion.rotation_displacements(
        rotations[:, None], torch.zeros(1, 1, 2, dtype=DOUBLE), focal_px
    )
    length = path[0, 0].diff(dim=0).norm(dim=-1).sum()
    assert float(length) == pytest.approx(expected_px, abs=0.05)


def speeds(hand: Hand, axis: int, duration: float = 8.0) -> float:
    """Root mean square of the angular speed in degrees per second, over many paths."""
    rng = np.random.default_rng(0)
    paths = np.stack([hand.path(rng, duration, 4096)[:, axis] for _ in range(30)])
    speed = np.degrees(np.diff(paths, axis=1)) * 4095 / duration
    return float(np.sqrt((speed**2).mean()))


def test_hand_has_the_speeds_that_it_names() -> None:
    drift, tremor = Hand(2.0, 0.0), Hand(0.0, 0.8)
    for axis, share in ((0, 1.0), (1, 1.0), (2, 0.5)):
        assert speeds(drift, axis) == pytest.approx(2 * share, rel=0.1)
        assert speeds(tremor, axis) == pytest.approx(0.8 * share, rel=0.1)
    assert speeds(Hand(2.0, 0.0, stabilizer_stops=3), 0) == pytest.approx(0.25, rel=0.1)


def test_tremor_swings_at_8_to_12_hertz() -> None:
    path = Hand(0.0, 1.0).path(np.random.default_rng(1), 10.0, 4096)
    power = np.abs(np.fft.rfft(path[:, 0] - path[:, 0].mean())) ** 2
    hertz = np.fft.rfftfreq(4096, 10.0 / 4095)
    inside = (hertz > 7.5) & (hertz < 12.5)
    assert power[inside].sum() > 0.95 * power.sum()


def test_short_exposures_move_in_proportion_to_their_time() -> None:
    widths = []
    for exposure in (1 / 400, 1 / 200, 1 / 100):
        rng = np.random.default_rng(3)
        extents = [np.ptp(Hand().path(rng, exposure, 64), axis=0)[1] for _ in range(400)]
        widths.append(np.mean(extents))
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.05)
    assert widths[2] / widths[1] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("field", ["drift_deg_s", "tremor_deg_s", "memory_s", "stabilizer_stops"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_impossible_hands_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^Hand\.{field} is .*, expected .* or more\.$"):
        Hand(**{field: value})


def test_rolling_shutter_shows_each_row_its_own_time() -> None:
    time = torch.linspace(0, 10, 41, dtype=DOUBLE)[None, :, None]
    start, share = torch.tensor([[0.0, 0.5, 1.0]]).double(), torch.tensor([0.25]).double()
    seen = motion.rolling_shutter(time, start, share, 6)
    assert seen.shape == (1, 3, 6, 1)
    for row, first in enumerate((0.0, 3.75, 7.5)):
        expected = torch.linspace(first, first + 2.5, 6, dtype=DOUBLE)
        torch.testing.assert_close(seen[0, row, :, 0], expected)


def test_global_shutter_shows_every_row_the_whole_time() -> None:
    path = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0))
    seen = motion.rolling_shutter(path, torch.rand(2, 4), torch.ones(2), 9)
    torch.testing.assert_close(seen, path[:, None].expand(2, 4, 9, 3), rtol=0, atol=1e-6)
