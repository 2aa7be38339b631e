"""Camera settings: ranges, exposure, focus, and drawing them at random."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blursynth.camera import VECTOR, Camera, load_prior


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
        ("focus_distance_m", math.nan),
        ("iso", "fast"),
        ("focal_mm", None),
        ("blades", 2),
        ("blades", 19),
        ("focus_mode", "by ear"),
    ],
)
def test_impossible_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^Camera\.{name} is {value}, expected .* (to|or) .*\.$"):
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


def test_circle_of_confusion_of_many_points() -> None:
    for focus in (2.0, math.inf):
        camera = Camera(f_number=1.8, focal_mm=50, focus_distance_m=focus)
        distances = np.array([[0.3, 1.0, 2.0], [3.0, 100.0, np.inf]])
        expected = [camera.circle_of_confusion_px(d, 3840) for d in distances.ravel().tolist()]
        array = camera.circle_of_confusion_px(distances, 3840)
        assert array.ravel() == pytest.approx(expected, rel=1e-12)
        tensor = camera.circle_of_confusion_px(torch.tensor(distances, dtype=torch.float32), 3840)
        assert tensor.dtype == torch.float32
        assert tensor.shape == (2, 3)
        assert tensor.flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("distance_m", [1.0, 6.0, math.inf])
def test_defocus_grows_as_the_formula_says(distance_m: float) -> None:
    """Far from the lens c ~ f^2 / N, and on both sides the farther from the focus the larger."""
    camera = Camera(f_number=4, focal_mm=35, focus_distance_m=3)

    def blur(distance: float = distance_m, width_px: int = 3840, **changes: float) -> float:
        changed = dataclasses.replace(camera, **changes)
        return abs(changed.circle_of_confusion_px(distance, width_px))

    assert blur(f_number=8) == pytest.approx(blur() / 2, rel=1e-12)
    assert blur(focal_mm=70) == pytest.approx(4 * blur(), rel=0.05)
    assert blur(sensor_width_mm=18) == pytest.approx(2 * blur(), rel=1e-12)
    assert blur(width_px=1920) == pytest.approx(blur() / 2, rel=1e-12)
    away = math.copysign(0.2, distance_m - 3)
    assert blur(distance_m + away) >= blur() > blur(3 + away / 2)


@pytest.mark.parametrize("blur_px", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("focus_m", [0.5, 2.0, 30.0, math.inf])
def test_depth_of_field_ends_where_the_blur_reaches_the_limit(
    focus_m: float, blur_px: float
) -> None:
    camera = Camera(focal_mm=35, f_number=2.8, focus_distance_m=focus_m)
    near, far = camera.depth_of_field_m(3840, blur_px)
    assert 0 < near < focus_m <= far
    assert camera.circle_of_confusion_px(near, 3840) == pytest.approx(-blur_px, rel=1e-9)
    if math.isfinite(far):
        assert camera.circle_of_confusion_px(far, 3840) == pytest.approx(blur_px, rel=1e-9)
    else:
        assert camera.circle_of_confusion_px(math.inf, 3840) <= blur_px


def test_hyperfocal_distance() -> None:
    """Textbook: 50 mm f/8, c = 0.03 mm gives 10.47 m; sharp from half of it to infinity."""
    camera = Camera(focal_mm=50, f_number=8)
    distance = camera.hyperfocal_m(width_px=3600, blur_px=3)
    assert distance == pytest.approx(10.47, abs=0.005)
    focused = dataclasses.replace(camera, focus_distance_m=distance)
    assert focused.circle_of_confusion_px(math.inf, 3600) == pytest.approx(3, rel=1e-12)
    near, far = focused.depth_of_field_m(3600, 3.001)
    assert near == pytest.approx(distance / 2, rel=1e-3)
    assert far == math.inf


@pytest.mark.parametrize("blur_px", [0.0, -1.0, math.nan])
def test_sharpness_needs_a_limit(blur_px: float) -> None:
    for function in (Camera().depth_of_field_m, Camera().hyperfocal_m):
        with pytest.raises(ValueError, match=r"^blur_px is .*, expected a diameter greater than"):
            function(3840, blur_px)


def test_expected_shake() -> None:
    slow = Camera(focal_mm=50, exposure_s=1 / 15)
    assert slow.expected_shake_px(3840) == pytest.approx(6.2, abs=0.05)
    tele = Camera(focal_mm=200, exposure_s=1 / 60)
    assert tele.expected_shake_px(3840, deg_per_s=3) == pytest.approx(18.6, abs=0.05)
    for name in ("focal_mm", "exposure_s"):
        doubled = dataclasses.replace(slow, **{name: 2 * getattr(slow, name)})
        assert doubled.expected_shake_px(3840) == pytest.approx(2 * slow.expected_shake_px(3840))
    assert slow.expected_shake_px(1920, 2) == pytest.approx(slow.expected_shake_px(3840, 1))


def test_diffraction() -> None:
    camera = Camera(f_number=16)
    assert camera.diffraction_px(3840) == pytest.approx(2.3, abs=0.05)
    assert camera.diffraction_px(3840, wavelength_nm=275) == camera.diffraction_px(3840) / 2
    assert Camera(f_number=8).diffraction_px(3840) == camera.diffraction_px(3840) / 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"exposure_s": 1 / 15}, {"iso": 200}),
        ({"f_number": 8.0}, {"iso": 3200}),
        ({"iso": 200}, {"exposure_s": 1 / 15}),
        ({"iso": 200, "exposure_s": 1 / 30}, {"f_number": 4 / 2**0.5}),
        # ISO reaches its end first, then the exposure time does, and the aperture does the rest.
        ({"exposure_s": 1 / 2}, {"iso": 50, "f_number": 4 * 1.875**0.5}),
        ({"f_number": 1.4}, {"iso": 98}),
        ({"f_number": 64.0}, {"iso": 102400, "exposure_s": 1 / 30}),
        ({}, {}),
    ],
)
def test_equivalent_exposures(change: dict[str, float], expected: dict[str, float]) -> None:
    camera = Camera(iso=800, exposure_s=1 / 60, f_number=4)
    changed = camera.equivalent_exposure(**change)
    assert changed.exposure_value() == pytest.approx(camera.exposure_value(), abs=1e-9)
    for name, value in (change | expected).items():
        assert getattr(changed, name) == pytest.approx(value, rel=1e-9), name


def test_settings_beyond_common_cameras_stay_possible() -> None:
    camera = Camera(iso=25, exposure_s=50, f_number=32)
    assert camera.equivalent_exposure() == camera
    assert camera.equivalent_exposure(f_number=64.0).iso == pytest.approx(100)


def test_exposures_that_nothing_can_compensate() -> None:
    camera = Camera(iso=100, exposure_s=1 / 8000, f_number=1.4)
    with pytest.raises(ValueError, match=r"^The photo would be 1\.0 stops too dark, which .*\.$"):
        camera.equivalent_exposure(iso=100, exposure_s=1 / 8000, f_number=1.4 * 2**0.5)
    with pytest.raises(ValueError, match=r"would be 3\.0 stops too bright"):
        camera.equivalent_exposure(iso=800, exposure_s=1 / 8000, f_number=1.4)
    with pytest.raises(ValueError, match=r"^Camera\.f_number is 0, expected"):
        camera.equivalent_exposure(f_number=0)


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


def test_prompt() -> None:
    camera = Camera(iso=3200, f_number=1.8, exposure_s=1 / 15, focal_mm=85, focus_distance_m=2)
    assert camera.prompt() == (
        "Photo taken at 1/15 s, f/1.8, ISO 3200, focal length 85 mm, auto focus at 2.0 m: "
        "slow shutter, strong hand shake, shallow depth of field, noisy high ISO, dim light."
    )
    phone = Camera(
        iso=50,
        f_number=2.4,
        exposure_s=1 / 2000,
        focal_mm=4.2,
        sensor_width_mm=36 * 4.2 / 26,
        focus_distance_m=math.inf,
        focus_mode="manual",
    )
    assert phone.prompt() == (
        "Photo taken at 1/2000 s, f/2.4, ISO 50, focal length 4.2 mm (26 mm equivalent), "
        "manual focus at infinity: fast shutter, steady, deep focus, clean low ISO, "
        "bright sunlight."
    )


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ({"exposure_s": 1.3}, "1.3 s,"),
        ({"exposure_s": 30}, "30 s,"),
        ({"exposure_s": 1 / 3}, "0.33 s,"),
        ({"exposure_s": 1 / 4}, "1/4 s,"),
        ({"f_number": 11}, "f/11,"),
        ({"f_number": 9.97}, "f/10,"),
        ({"f_number": 4}, "f/4.0,"),
        ({"focal_mm": 1200}, "length 1200 mm,"),
        ({"focus_distance_m": 0.25}, "at 0.25 m:"),
        ({"focus_distance_m": 12.4}, "at 12 m:"),
    ],
)
def test_prompts_write_settings_as_photographers_do(setting: dict[str, float], text: str) -> None:
    assert text in dataclasses.replace(Camera(), **setting).prompt()


def clip_pieces(text: str) -> int:
    """Pieces that CLIP's tokenizer cuts text into: words, single digits, runs of other signs."""
    return len(re.findall(r"[^\W\d_]+|\d|[^\w\s]+", text))


def test_prompts_fit_into_clip() -> None:
    rng = np.random.default_rng(0)
    cameras = [Camera.sample(rng) for _ in range(1000)]
    for iso, exposure, f_number in itertools.product((25, 1600, 409600), (1 / 32000, 60), (1, 16)):
        for focal, sensor, focus in itertools.product((4.2, 2000), (1, 36), (12345, math.inf)):
            cameras.append(Camera(iso, f_number, exposure, focal, sensor, focus, "manual"))
    prompts = [camera.prompt() for camera in cameras]
    assert max(map(clip_pieces, prompts)) <= 75
    assert all(prompt.isascii() for prompt in prompts)


def test_vector() -> None:
    low = Camera(50, 1, 1 / 8000, 10 * 4 / 36, 4, 1)
    high = Camera(51200, 32, 30, 1000 * 64 / 36, 64, math.inf)
    assert list(VECTOR) == ["iso", "exposure_s", "f_number", "focal35_mm", "sensor_width_mm"]
    assert low.vector().dtype == np.float32
    assert low.vector() == pytest.approx([-1, -1, -1, -1, -1, 0], abs=1e-6)
    assert high.vector() == pytest.approx([1, 1, 1, 1, 1, -1], abs=1e-6)
    rng = np.random.default_rng(0)
    drawn = np.stack([Camera.sample(rng).vector() for _ in range(2000)])
    assert np.abs(drawn).max() <= 1
    assert drawn.std(0).min() > 0.25


def test_cameras_that_blur_alike_have_the_same_vector_but_for_the_sensor() -> None:
    full, crop = Camera(focal_mm=50), Camera(focal_mm=25, sensor_width_mm=18)
    assert full.expected_shake_px(3840) == crop.expected_shake_px(3840)
    different = full.vector() != crop.vector()
    assert different.tolist() == [False, False, False, False, True, False]
    for name in ("iso", "exposure_s", "f_number"):
        changed = dataclasses.replace(full, **{name: 2 * getattr(full, name)})
        assert (changed.vector() > full.vector()).sum() == 1
