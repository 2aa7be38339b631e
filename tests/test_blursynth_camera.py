"""Camera settings: ranges, exposure, focus, and drawing them at random."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from blursynth.camera import Camera, load_prior


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iso", 0.0),
        ("f_number", 0.5),
        ("exposure_s", 0.0),
        ("exposure_s", math.nan),
        ("focal_mm", -35.0),
        ("focal_mm", math.inf),
        ("sensor_width_mm", 0.0),
        ("focus_distance_m", 0.01),
    ],
)
def test_impossible_settings_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^Camera\.{name} is {value}, expected .* to .*\.$"):
        dataclasses.replace(Camera(), **{name: value})


def test_exposure_value() -> None:
    # f/16 at 1/125 s and ISO 125 is bright sun, EV 15 ("sunny 16": f/16, t = 1 / ISO).
    assert Camera(iso=100, f_number=16, exposure_s=1 / 128).exposure_value() == 15
    assert Camera(iso=100, f_number=1, exposure_s=1).exposure_value() == 0
    # One stop more sensitive: the same settings fit a scene of half the light.
    assert Camera(iso=200, f_number=16, exposure_s=1 / 128).exposure_value() == 14


def test_focal_length_in_pixels() -> None:
    assert Camera(focal_mm=50, sensor_width_mm=36).focal_px(3840) == pytest.approx(
        5333.33, abs=0.01
    )


def test_circle_of_confusion() -> None:
    """50 mm f/1.8 focused at 2 m: a point at 3 m blurs over 25 px of a 4K frame."""
    camera = Camera(f_number=1.8, focal_mm=50, sensor_width_mm=36, focus_distance_m=2)
    behind = camera.circle_of_confusion_px(3, 3840)
    assert behind == pytest.approx(25.3, abs=0.05)
    assert camera.circle_of_confusion_px(2, 3840) == 0
    assert camera.circle_of_confusion_px(1.5, 3840) == pytest.approx(-behind, rel=1e-12)
    assert dataclasses.replace(camera, f_number=3.6).circle_of_confusion_px(3, 3840) == behind / 2
    # The limit of an infinite distance, of the point or of the focus.
    far = camera.circle_of_confusion_px(1e9, 3840)
    assert camera.circle_of_confusion_px(math.inf, 3840) == pytest.approx(far, rel=1e-8)
    distant = dataclasses.replace(camera, focus_distance_m=1e9).circle_of_confusion_px(3, 3840)
    infinite = dataclasses.replace(camera, focus_distance_m=math.inf)
    assert infinite.circle_of_confusion_px(3, 3840) == pytest.approx(distant, rel=1e-8)
    assert distant < 0


def test_drawn_settings_agree_with_each_other() -> None:
    rng = np.random.default_rng(3)
    cameras = [Camera.sample(rng) for _ in range(2000)]
    # Scenes of EV 2 .. 15 are drawn; exposures are cut to what hand-held cameras do.
    values = np.array([camera.exposure_value() for camera in cameras])
    assert values.min() >= 2 - 1e-9
    assert values.max() <= 15 + 1e-9
    assert np.ptp(values) > 10
    assert all(1 / 8000 <= camera.exposure_s <= 2 for camera in cameras)
    correlation = np.corrcoef(values, [math.log2(camera.iso) for camera in cameras])[0, 1]
    assert correlation < -0.5


def test_prior_table(tmp_path: Path) -> None:
    table = tmp_path / "prior.csv"
    table.write_text(
        "iso,f_number,exposure_s,focal_mm,focal35_mm\n"
        "400,2.8,0.02,4.2,26\n"
        "100,8,0.004,50,\n"
        ",2.8,0.02,4.2,26\n"
        "400,0,0.02,4.2,26\n"
        "400,2.8,fast,4.2,26\n",
        encoding="utf-8",
    )
    prior = load_prior(table)
    assert [camera.iso for camera in prior] == [400, 100]
    assert prior[0].sensor_width_mm == pytest.approx(36 * 4.2 / 26)
    assert prior[1].sensor_width_mm == 23.5

    rng = np.random.default_rng(0)
    light = {camera.focal_mm: camera.exposure_value() for camera in prior}
    drawn = [Camera.sample(rng, prior) for _ in range(50)]
    assert {camera.focal_mm for camera in drawn} == set(light)
    for camera in drawn:
        assert camera.exposure_value() == pytest.approx(light[camera.focal_mm], abs=1e-9)
    assert len({camera.iso for camera in drawn}) == 50


def test_unusable_prior_tables_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "prior.csv"
    table.write_text("iso,f_number,exposure_s\n100,4,0.01\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"prior\.csv: columns \['focal_mm'\] are missing"):
        load_prior(table)
    table.write_text("iso,f_number,exposure_s,focal_mm\n0,0,0,0\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"prior\.csv: no row holds a usable exposure"):
        load_prior(table)
