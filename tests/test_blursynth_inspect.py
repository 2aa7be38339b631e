"""`blursynth inspect`: what it tells, what it expects, and its picture of the kernels."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from PIL import Image
from toys import photo, picture

from blursynth import cli, psf, psf_picture, shot
from blursynth.camera import Camera
from blursynth.cli_text import to_json
from blursynth.engines import synthesize
from blursynth.exif import write_camera
from blursynth.expectation import expect
from blursynth.psf_picture import ACROSS, CELL, GAP, draw_kernels, picture_size
from blursynth.shot import Conditions
from blursynth.statistics import measure
from freqdiff.photo import Metadata, Photo, write_photo

CAMERA = Camera(
    iso=1600, f_number=2, exposure_s=1 / 30, focal_mm=85, sensor_width_mm=36, focus_distance_m=2
)
SIZE = (96, 144)


def run(*arguments: object) -> commands.Result:
    """Run `blursynth inspect ARGUMENTS` in this process."""
    return commands.run("inspect", *arguments, main=cli.main)


def refused(result: commands.Result, *words: object, code: int = 1) -> None:
    commands.refused(result, *words, code=code, program="blursynth")


def put(path: Path, camera: Camera | None = CAMERA, size: tuple[int, int] = SIZE) -> Path:
    exif = camera and write_camera(camera, size=size[::-1])
    write_photo(path, Photo(picture(*size), metadata=Metadata(exif=exif)))
    return path


def inspect(*arguments: object) -> dict[str, Any]:
    """What is told about one photo."""
    result = run("--json", *arguments)
    assert (result.code, result.err) == (0, "")
    (report,) = json.loads(result.out)["photos"]
    assert isinstance(report, dict)
    return report


def test_report(tmp_path: Path) -> None:
    report = inspect(put(tmp_path / "a.jpg"))
    assert (report["width"], report["height"], report["error"]) == (144, 96, None)
    assert report["camera"] == json.loads(to_json(CAMERA))
    assert (report["given"], report["assumed"]) == ([], [])
    assert report["focal35_mm"] == pytest.approx(85)
    assert report["exposure_value"] == pytest.approx(math.log2(4 * 30 / 16))
    assert report["sharp_m"] == pytest.approx(CAMERA.depth_of_field_m(144))
    assert report["hyperfocal_m"] == pytest.approx(CAMERA.hyperfocal_m(144))
    assert report["diffraction_px"] == pytest.approx(CAMERA.diffraction_px(144))
    assert report["prompt"] == CAMERA.prompt()
    assert report["defocus"][-1]["distance_m"] == "inf"
    for point in report["defocus"]:
        expected = CAMERA.circle_of_confusion_px(float(point["distance_m"]), 144)
        assert point["diameter_px"] == pytest.approx(expected)
    assert report["measured"]["noise"] > 0


def test_text(tmp_path: Path) -> None:
    upright = dataclasses.replace(CAMERA, sensor_width_mm=24, focus_distance_m=math.inf)
    path = put(tmp_path / "a.jpg", upright, (144, 96))
    result = run(path, "--iso", 200, "--blades", 6)
    assert (result.code, result.err) == (0, "")
    lines = dict(line.strip().split(maxsplit=1) for line in result.out.splitlines()[1:])
    assert result.out.startswith(f"{path} (96x144)\n")
    # The long side of the sensor stands upright: 85 mm are 85 mm.
    assert lines["equivalent"] == "85 mm on 36 mm film"
    assert lines["settings"] == "1/30 s, f/2.0, ISO 200, focal length 85 mm, auto focus at infinity"
    assert lines["by"] == "options   ISO 200, 6 blades"
    assert lines["sharp"].startswith("7.")
    assert " to infinity " in lines["sharp"]
    assert lines["defocus"].count(" px at ") == 6
    assert "assumed" not in lines


def test_without_exif(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", None)
    report = inspect(path)
    assert len(report["assumed"]) == 6
    assert "assumed      ISO 100, f/5.6, 1/125 s, focal length 35 mm, sensor 36.0" in run(path).out
    told = inspect(path, "--exposure", "1/8", "--sensor", "23.5")
    assert sorted(told["given"]) == ["exposure_s", "sensor_width_mm"]
    assert sorted(told["assumed"]) == ["f_number", "focal_mm", "focus_distance_m", "iso"]
    assert told["expected"]["shake_px"][0] > 5 * report["expected"]["shake_px"][1]


def test_small_photos_are_not_measured(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", size=(40, 60))
    assert inspect(path)["measured"] is None
    assert "measured" not in run(path).out


def test_one_bad_photo_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no photo")
    good = [put(tmp_path / name) for name in ("a.png", "b.png")]
    result = run(good[0], tmp_path / "bad.jpg", good[1])
    assert result.code == 1
    commands.sentence(result.err, "bad.jpg", "not a picture", program="blursynth")
    assert [line for line in result.out.splitlines() if not line.startswith(" ")] == [
        f"{path} (144x96)" for path in good
    ]
    result = run("--json", good[0], tmp_path / "bad.jpg")
    reports = json.loads(result.out)["photos"]
    assert (result.code, [bool(report["error"]) for report in reports]) == (1, [False, True])
    near = run(good[0], "--focus", "0.1")
    refused(near, "a.png: A lens of 85 mm cannot focus at 0.1 m")


def test_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "blursynth", "inspect", str(put(tmp_path / "a.jpg"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1/30 s, f/2.0, ISO 1600, focal length 85 mm" in done.stdout


def test_picture_of_the_kernels(tmp_path: Path) -> None:
    photo, path = put(tmp_path / "a.jpg"), tmp_path / "kernels.png"
    report = inspect(photo, "--exposure", 1, "--psf", path)
    assert report["psf"] == str(path)
    with Image.open(path) as image:
        first = np.asarray(image)
    assert first.shape == picture_size(SIZE)[::-1]
    assert first.shape == (GAP + 6 * (CELL + GAP) + psf_picture.CAPTION, GAP + 9 * (CELL + GAP))
    for options, same in ((("--seed", 0), True), (("--seed", 1), False)):
        inspect(photo, "--exposure", 1, "--psf", path, *options)
        with Image.open(path) as image:
            assert np.array_equal(first, np.asarray(image)) == same
    (tmp_path / "b.PNG").write_bytes(b"")
    before = commands.contents(tmp_path)
    refused(run(photo, put(tmp_path / "b.png"), "--psf", path), "one photo", code=2)
    refused(run(photo, "--psf", "kernels.jpg"), "ends in .png", code=2)
    picture = put(tmp_path / "b.png")
    refused(run(picture, "--psf", picture), "another name")
    assert {**before, "b.png": picture.read_bytes()} == commands.contents(tmp_path)


def test_picture_is_of_the_photo_that_is_synthesised() -> None:
    camera = dataclasses.replace(CAMERA, exposure_s=0.5)
    conditions = Conditions(distance_m=3, readout_s=1 / 30)
    scene = synthesize(photo(*SIZE), camera, seed=4, conditions=conditions).scene
    again = shot.take(np.random.default_rng(4), camera, SIZE, conditions)
    assert draw_kernels(scene, SIZE).tobytes() == draw_kernels(again, SIZE).tobytes()


def cells(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Squares (rows, columns, CELL, CELL) of a picture."""
    rows, columns = (max(1, round(ACROSS * side / max(size))) for side in size)
    pixels = np.asarray(image)[GAP:, GAP:]
    pixels = pixels[: rows * (CELL + GAP), : columns * (CELL + GAP)]
    return pixels.reshape(rows, CELL + GAP, columns, -1).swapaxes(1, 2)[:, :, :CELL, :CELL]


def still(**changes: Any) -> Any:
    conditions = Conditions(hand=None, diffraction=False, **changes)
    return shot.take(np.random.default_rng(0), CAMERA, SIZE, conditions)


def test_sharp_points_are_single_pixels() -> None:
    for square in cells(draw_kernels(still(), SIZE), SIZE).reshape(-1, CELL, CELL):
        lit = np.argwhere(square > 0)
        side = lit.max() - lit.min() + 1
        assert len(lit) == side**2 == 16**2
        assert np.abs(lit.mean(0) - (CELL - 1) / 2).max() <= 0.5


@pytest.mark.parametrize("diameter", [9.0, 40.0, 200.0])
def test_disks_have_their_size_in_the_picture(diameter: float) -> None:
    """Also a kernel that is larger than its square fits into it, and all of it is there."""
    scene = dataclasses.replace(still(), defocus_px=torch.full((1, 2), diameter))
    square = cells(draw_kernels(scene, SIZE), SIZE)[2, 3]
    light = ((square / 255) ** 2).sum()
    scale = math.sqrt(light / (math.pi * diameter**2 / 4))
    expected = {9.0: 9.0, 40.0: 2.0}.get(diameter, CELL / (1.1 * diameter + 3))
    assert scale == pytest.approx(expected, rel=0.03)
    assert not square[[0, -1]].any()
    assert not square[:, [0, -1]].any()


def test_kernels_follow_the_depth() -> None:
    confusion = torch.zeros(SIZE)
    confusion[:, SIZE[1] // 2 :] = 6.0
    squares = cells(draw_kernels(still(), SIZE, confusion), SIZE)
    lit = (squares > 0).sum((2, 3))
    assert (lit[:, :4] < lit[:, 5:].min() / 9).all()


def test_expected_shake_holds_for_most_exposures() -> None:
    camera = dataclasses.replace(CAMERA, exposure_s=1 / 4)
    expected = expect(camera, Conditions(), SIZE, seed=1000)
    inside = 0
    for seed in range(100):
        scene = shot.take(np.random.default_rng(seed), camera, SIZE, Conditions())
        field = psf.blur_field(scene, SIZE)
        middle = field.motion[:, 2:4, 4:5].norm(dim=0).mean()
        inside += int(expected.shake_px[0] <= middle <= expected.shake_px[1])
    assert 65 <= inside <= 95
    assert expect(camera, Conditions(hand=None), SIZE).shake_px == (0, 0)


@pytest.mark.parametrize("diameter", [0.0, 3.0, 6.0, 12.0])
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_expected_widths_are_those_of_synthesised_photos(diameter: float, name: str) -> None:
    sharp = photo(400, 512, name)
    distance = None if diameter == 0 else 3.5
    camera = dataclasses.replace(CAMERA, exposure_s=1 / 1000, iso=100)
    if distance:
        wide = camera.circle_of_confusion_px(distance, 512)
        camera = dataclasses.replace(camera, f_number=camera.f_number * wide / diameter)
    conditions = Conditions(distance_m=distance, diffraction=False)
    measured = measure(synthesize(sharp, camera, conditions=conditions).blurred)
    low, high = expect(camera, conditions, (400, 512)).blur_width_px
    assert low == pytest.approx(high, abs=0.1)
    assert measured.blur_width_px == pytest.approx(low, rel=0.3)


def test_expected_width_grows_with_the_shake() -> None:
    widths = []
    for exposure in (1 / 60, 1 / 4, 2.0):
        camera = dataclasses.replace(CAMERA, exposure_s=exposure)
        low, high = expect(camera, Conditions(), SIZE).blur_width_px
        assert low <= high
        widths.append(high)
    assert 1.4 * widths[0] < widths[1] < 0.7 * widths[2]


@pytest.mark.parametrize("iso", [400, 6400])
def test_expected_noise_is_that_of_synthesised_photos(iso: float) -> None:
    camera = dataclasses.replace(CAMERA, iso=iso)
    conditions = Conditions(hand=None)
    flat = torch.full((3, 128, 128), 0.4)
    measured = measure(synthesize(flat, camera, seed=8, conditions=conditions).blurred)
    expected = expect(camera, conditions, (128, 128), brightness=0.4)
    assert measured.noise == pytest.approx(expected.noise, rel=0.3)
