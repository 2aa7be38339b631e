"""The command `blursynth` as a whole, and `blursynth synthesize` on small photos."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from toys import picture

import blursynth
from blursynth import cli, engines
from blursynth.camera import Camera
from blursynth.exif import read_camera, write_camera
from blursynth.statistics import measure
from freqdiff.errors import InputError
from freqdiff.images import open_image
from freqdiff.photo import Metadata, Photo, read_photo, write_photo

CAMERA = Camera(
    iso=400, f_number=4, exposure_s=1 / 200, focal_mm=50, sensor_width_mm=23.5, focus_distance_m=2
)
CLEAN = ("--no-noise", "--no-mosaic", "--no-diffraction")
HEIGHT, WIDTH = 96, 144


def run(*arguments: object) -> commands.Result:
    """Run `blursynth ARGUMENTS` in this process."""
    return commands.run(*arguments, main=cli.main)


def refused(result: commands.Result, *words: object, code: int = 1) -> None:
    commands.refused(result, *words, code=code, program="blursynth")


@pytest.fixture
def sharp(tmp_path: Path) -> Path:
    """A sharp photo with settings in its Exif block."""
    return put(tmp_path / "sharp.png")


def put(path: Path, camera: Camera | None = CAMERA, **changes: Any) -> Path:
    exif = camera and write_camera(camera, size=(WIDTH, HEIGHT))
    fields = {"pixels": picture(HEIGHT, WIDTH), "metadata": Metadata(exif=exif), **changes}
    write_photo(path, Photo(**fields))
    return path


def synthesize(photo: Path, *options: object, name: str = "out.png") -> dict[str, Any]:
    """Run the command; returns its JSON with the pixels of the result."""
    output = photo.with_name(name)
    result = run("synthesize", photo, "-o", output, "--json", *options)
    assert (result.code, result.err) == (0, "")
    report: dict[str, Any] = json.loads(result.out)
    return {**report, "pixels": read_photo(output).pixels}


def difference(photo: Path, report: dict[str, Any]) -> float:
    """Mean absolute difference from the sharp photo in 1/255."""
    return float(np.abs(read_photo(photo).pixels - report["pixels"].astype(float)).mean())


@pytest.mark.parametrize("command", ["", "synthesize", "inspect", "build"])
def test_help_fits_a_screen_and_has_examples(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 36
    assert max(map(len, out.splitlines())) <= 80
    if command:
        assert f"examples:\n  blursynth {command}" in out
    else:
        assert all(name in out for name in ("synthesize", "inspect", "build"))


def test_parsing_and_the_package_do_not_load_torch() -> None:
    program = (
        "import sys; from blursynth.cli import build_parser; build_parser(); "
        "import blursynth; assert 'build' in dir(blursynth); assert 'torch' not in sys.modules; "
        "from blursynth import Camera; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_of_the_package() -> None:
    for name in blursynth.__all__:
        assert getattr(blursynth, name).__module__.startswith("blursynth.")
    with pytest.raises(AttributeError, match="no attribute 'sharpen'"):
        blursynth.sharpen  # noqa: B018


def test_engines() -> None:
    image = torch.from_numpy(picture(64, 64)).permute(2, 0, 1) / 255
    camera = Camera(exposure_s=1)
    result = blursynth.synthesize(image, camera, seed=3)
    again = engines.ENGINES["physics"](image, camera, seed=3)
    assert torch.equal(result.blurred, again.blurred)
    with pytest.raises(InputError, match="one of physics, diffusion, diffusion:BASE, got 'magic'"):
        blursynth.synthesize(image, camera, engine="magic")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("", "--output"),
        ("-o out.bmp", ".tiff, got 'out.bmp'"),
        ("-o out.png --iso 5", "from 25 to 409600, got '5'"),
        ("-o out.png --iso many", "got 'many'"),
        ("-o out.png --exposure 0", "from 1/32000 to 60, got '0'"),
        ("-o out.png --exposure 1/0", "1/15, 0.5 or 2s"),
        ("-o out.png --exposure 1/4/5", "got '1/4/5'"),
        ("-o out.png --exposure -1", "got '-1'"),
        ("-o out.png --aperture f/", "2.8 or f/2.8"),
        ("-o out.png --focal nan", "from 1 to 2000"),
        ("-o out.png --focus 0", "2.5 or inf"),
        ("-o out.png --sensor 400", "from 4 to 100"),
        ("-o out.png --blades 2", "--blades"),
        ("-o out.png --distance 1 --depth a.png", "not allowed with"),
        ("-o out.png --hand 1 --tripod", "not allowed with"),
        ("-o out.png --stabilizer 11", "from 0 to 10"),
        ("-o out.png --readout 1/30min", "1/30 or 0.02"),
        ("-o out.png --jpeg 0", "from 1 to 100"),
        ("-o out.png --seed 0.5", "--seed"),
        ("-o out.png --field blur.png", ".npz"),
    ],
)
def test_wrong_arguments(options: str, word: str, sharp: Path) -> None:
    refused(run("synthesize", sharp, *options.split()), word, "--help", code=2)
    assert not sharp.with_name("out.png").exists()


@pytest.mark.parametrize(
    ("option", "texts", "name", "value"),
    [
        ("--exposure", ("1/4", "0.25", "0.25s", "1/4 s", "1 / 4", '0.25"'), "exposure_s", 0.25),
        ("--aperture", ("2.8", "f/2.8", "F2.8", "f 2.8"), "f_number", 2.8),
        ("--focal", ("85", "85mm", "85 MM"), "focal_mm", 85),
        ("--focus", ("inf", "infinity"), "focus_distance_m", math.inf),
        ("--distance", ("2.5", "5/2", "2.5 m"), "distance", 2.5),
    ],
)
def test_ways_to_write_a_value(option: str, texts: tuple[str], name: str, value: float) -> None:
    for text in texts:
        arguments = ["synthesize", "a.jpg", "-o", "b.jpg", option, text]
        assert getattr(cli.build_parser().parse_args(arguments), name) == value


def test_longer_exposures_and_lenses_blur_more(sharp: Path) -> None:
    motions = []
    for exposure in ("1/500", "1/60", "1/15", "1/4"):
        report = synthesize(sharp, "--exposure", exposure, "--focal", 200, *CLEAN)
        motions.append((report["motion_px"][1], difference(sharp, report)))
    assert motions == sorted(motions)
    assert motions[-1][0] > 3 > 0.1 > motions[0][0]
    assert motions[-1][1] > 10 * motions[0][1]
    twice = synthesize(sharp, "--exposure", "1/4", "--focal", 400, *CLEAN)
    assert twice["motion_px"][1] == pytest.approx(2 * motions[-1][0], rel=0.1)


def test_hand_stabilizer_and_tripod(sharp: Path) -> None:
    def motion(*options: object) -> float:
        return float(synthesize(sharp, "--exposure", "1", *CLEAN, *options)["motion_px"][1])

    typical = motion()
    speed = blursynth.Hand().speed_deg_s()
    assert motion("--hand", 2 * speed) == pytest.approx(2 * typical, rel=0.02)
    assert motion("--stabilizer", 3) == pytest.approx(typical / 8, rel=0.05)
    assert motion("--tripod") == motion("--hand", 0) == 0
    assert motion("--readout", "1/30") != typical


def test_aperture_and_distance(sharp: Path) -> None:
    wide, narrow = (
        synthesize(sharp, "--tripod", "--distance", 4, "--aperture", stop, *CLEAN)
        for stop in ("f/1.4", "f/8")
    )
    expected = dataclasses.replace(CAMERA, f_number=1.4).circle_of_confusion_px(4, WIDTH)
    assert wide["defocus_px"] == [pytest.approx(expected, abs=0.01)] * 2
    assert difference(sharp, wide) > 2 * difference(sharp, narrow)


def test_sensitivity_makes_noise(sharp: Path) -> None:
    noise = [
        measure(open_image(sharp.with_name("out.png")).rgb[0]).noise
        for iso in (100, 102400)
        if synthesize(sharp, "--tripod", "--iso", iso)
    ]
    assert noise[1] > 3 * noise[0]


def test_every_part_can_be_left_out(sharp: Path) -> None:
    report = synthesize(sharp, "--tripod", *CLEAN)
    np.testing.assert_array_equal(report["pixels"], read_photo(sharp).pixels)
    for part in CLEAN:
        rest = [option for option in CLEAN if option != part]
        assert difference(sharp, synthesize(sharp, "--tripod", *rest)) > 0


def test_settings_come_from_exif_and_go_into_it(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x013B] = "The photographer"
    block = write_camera(CAMERA, exif.tobytes(), (WIDTH, HEIGHT))
    sharp = put(tmp_path / "sharp.jpg", metadata=Metadata(exif=block, icc=icc, dpi=(300, 300)))
    report = synthesize(sharp, "--exposure", "1/8", "--iso", 1600, name="out.jpg")
    changed = dataclasses.replace(CAMERA, exposure_s=1 / 8, iso=1600)
    assert report["assumed"] == []
    assert sorted(report["given"]) == ["exposure_s", "iso"]
    for name, value in dataclasses.asdict(changed).items():
        assert report["camera"][name] == pytest.approx(value)
    reading = read_camera(tmp_path / "out.jpg")
    assert reading.assumed == ()
    assert reading.camera.exposure_s == 1 / 8
    assert reading.camera.sensor_width_mm == pytest.approx(23.5)
    result = read_photo(tmp_path / "out.jpg")
    assert result.metadata.icc == icc
    assert result.metadata.dpi == (300, 300)
    with Image.open(tmp_path / "out.jpg") as image:
        assert image.getexif()[0x013B] == "The photographer"


def test_without_exif_the_settings_are_assumed(tmp_path: Path) -> None:
    sharp = put(tmp_path / "plain.png", camera=None)
    result = run("synthesize", sharp, "-o", tmp_path / "out.png", "--focal", "50", "--distance", 9)
    assert (result.code, result.err) == (0, "")
    words = "assumed: ISO 100, f/5.6, 1/125 s, sensor 36.0 mm wide, auto focus at 5.0 m\n"
    assert words in result.out
    assert read_camera(tmp_path / "out.png").camera.focal_mm == 50


def test_invisible_blur_is_said(sharp: Path) -> None:
    for options, invisible in (((), True), (("--exposure", 1, "--focal", 90), False)):
        result = run("synthesize", sharp, "-o", sharp.with_name("out.png"), *options)
        assert result.code == 0
        assert ("note: shake and defocus reach" in result.out) == invisible


def test_the_same_seed_gives_the_same_bytes(sharp: Path) -> None:
    files = [sharp.with_name(f"{number}.jpg") for number in range(3)]
    for file, seed in zip(files, (5, 5, 6), strict=True):
        assert run("synthesize", sharp, "-o", file, "--exposure", 1, "--seed", seed).code == 0
    first, second, other = (file.read_bytes() for file in files)
    assert first == second != other


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_photos_that_lie_on_their_side(suffix: str, tmp_path: Path) -> None:
    """The result stands upright; the long side of the sensor, 36 mm, lies along its height."""
    upright = picture(WIDTH, HEIGHT)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    turned.save(tmp_path / f"turned{suffix}", exif=exif, quality=100, subsampling=0)
    options = ("--focal", 50, "--tripod", "--distance", 9, "--aperture", 1.4)
    report = synthesize(tmp_path / f"turned{suffix}", *options, *CLEAN, name=f"out{suffix}")
    assert (report["width"], report["height"]) == (HEIGHT, WIDTH)
    assert report["camera"]["sensor_width_mm"] == pytest.approx(36 * HEIGHT / WIDTH)
    expected = Camera(f_number=1.4, focal_mm=50).circle_of_confusion_px(9.0, WIDTH)
    assert report["defocus_px"][0] == pytest.approx(expected, abs=0.01)
    correlation = np.corrcoef(report["pixels"].ravel(), upright.ravel())[0, 1]
    assert correlation > 0.9
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert image.size == (HEIGHT, WIDTH)
    told = read_camera(tmp_path / f"out{suffix}").camera
    assert told.sensor_width_mm == pytest.approx(36 * HEIGHT / WIDTH)
    wide = synthesize(tmp_path / f"turned{suffix}", "--sensor", 20)
    assert wide["camera"]["sensor_width_mm"] == pytest.approx(20 * HEIGHT / WIDTH)


def test_depth_decides_what_is_sharp(sharp: Path, tmp_path: Path) -> None:
    metres = np.full((HEIGHT // 2, WIDTH // 2), 2.0, np.float32)
    metres[:, WIDTH // 4 :] = 20
    np.save(tmp_path / "depth.npy", metres)
    Image.fromarray((1000 * metres).astype(np.uint16)).save(tmp_path / "depth.png")
    options = ("--tripod", "--aperture", 1.4, *CLEAN)
    reports = [
        synthesize(sharp, *options, "--depth", tmp_path / name)
        for name in ("depth.npy", "depth.png")
    ]
    np.testing.assert_array_equal(reports[0]["pixels"], reports[1]["pixels"])
    change = np.abs(reports[0]["pixels"].astype(float) - read_photo(sharp).pixels).mean((0, 2))
    assert change[: WIDTH // 2 - 12].max() < 0.1
    assert change[WIDTH // 2 + 4 :].min() > 1
    assert reports[0]["defocus_px"][0] == pytest.approx(0, abs=0.01)
    assert reports[0]["defocus_px"][1] > 5


def test_blur_field(sharp: Path, tmp_path: Path) -> None:
    path = tmp_path / "field.npz"
    report = synthesize(sharp, "--exposure", 1, "--distance", 1, "--field", path)
    with np.load(path, allow_pickle=False) as field:
        assert sorted(field) == ["defocus", "grid", "motion", "size"]
        assert (int(field["grid"]), tuple(field["size"])) == (16, (HEIGHT, WIDTH))
        assert field["motion"].shape == (2, HEIGHT // 16, WIDTH // 16)
        assert field["defocus"].shape == (HEIGHT // 16, WIDTH // 16)
        extent = np.hypot(*field["motion"])
        assert report["motion_px"] == pytest.approx([extent.min(), extent.max()], abs=0.006)
        assert report["defocus_px"][0] == pytest.approx(field["defocus"].min(), abs=0.006)
        assert report["defocus_px"][0] < -1


def test_compression(sharp: Path, tmp_path: Path) -> None:
    synthesize(sharp, "--jpeg", 30, name="out.jpg")
    settings = read_photo(tmp_path / "out.jpg").jpeg
    assert settings is not None
    assert settings.quality == 30
    plain = ("--tripod", *CLEAN)
    simulated = synthesize(sharp, "--jpeg", 30, *plain)
    written = synthesize(sharp, "--jpeg", 30, *plain, name="out.jpg")
    assert [one["conditions"]["jpeg_quality"] for one in (simulated, written)] == [30, 0]
    # Compressed once in both: as far from the photo.
    assert difference(sharp, simulated) == pytest.approx(difference(sharp, written), rel=0.2)
    assert difference(sharp, simulated) > 2


def test_alpha(tmp_path: Path) -> None:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    opaque = put(tmp_path / "opaque.png", alpha=alpha)
    synthesize(opaque)
    kept = read_photo(tmp_path / "out.png").alpha
    assert kept is not None
    np.testing.assert_array_equal(kept, alpha)
    alpha[0, 0] = 254
    clear = put(tmp_path / "clear.png", alpha=alpha)
    refused(run("synthesize", clear, "-o", tmp_path / "no.png"), "clear.png", "transparent")
    assert not (tmp_path / "no.png").exists()


def test_grey_and_sixteen_bits(tmp_path: Path) -> None:
    grey = put(tmp_path / "grey.png", pixels=picture(HEIGHT, WIDTH)[..., :1])
    assert synthesize(grey)["pixels"].shape == (HEIGHT, WIDTH, 1)
    pixels = picture(HEIGHT, WIDTH).astype(np.uint16) * 257
    deep = put(tmp_path / "deep.tif", pixels=pixels)
    report = synthesize(deep, "--exposure", 1, name="out.tif")
    assert report["pixels"].dtype == np.uint16
    assert np.corrcoef(report["pixels"].ravel(), pixels.ravel())[0, 1] > 0.9


def test_smallest_photo(tmp_path: Path) -> None:
    tiny = put(tmp_path / "tiny.png", pixels=np.full((3, 3, 3), 90, np.uint8))
    assert synthesize(tiny, "--exposure", 1)["pixels"].shape == (3, 3, 3)
    put(tmp_path / "tiny.png", pixels=np.full((2, 9, 3), 90, np.uint8))
    refused(run("synthesize", tiny, "-o", tmp_path / "no.png"), "tiny.png", "9 x 2 pixels")


def test_metadata_that_contradicts_is_left_out(tmp_path: Path) -> None:
    old = b'<x:xmpmeta><rdf:Description exif:FNumber="28/10"/></x:xmpmeta>'
    title = b"<x:xmpmeta><dc:title>exif:Nothing</dc:title></x:xmpmeta>"
    for xmp, kept in ((old, None), (title, title)):
        report = synthesize(put(tmp_path / "a.png", metadata=Metadata(xmp=xmp)))
        assert read_photo(tmp_path / "out.png").metadata.xmp == kept
        assert any("XMP left out" in note for note in report["notes"]) == (kept is None)
    block = write_camera(CAMERA)
    # The directory of the settings lies beyond the end: orientation can be read, settings cannot.
    at = block.rindex((0x8769).to_bytes(2, "little"))
    damaged = block[: at + 8] + (2**31).to_bytes(4, "little") + block[at + 12 :]
    report = synthesize(put(tmp_path / "b.png", metadata=Metadata(exif=damaged)))
    assert "damaged Exif left out" in report["notes"]
    assert read_camera(tmp_path / "out.png").assumed == ()


def test_inputs_are_never_overwritten(sharp: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 2000, np.uint16)).save(tmp_path / "depth.png")
    (tmp_path / "link.png").symlink_to(sharp)
    before = commands.contents(tmp_path)
    for name in ("sharp.png", "link.png", "depth.png"):
        result = run("synthesize", sharp, "-o", tmp_path / name, "--depth", tmp_path / "depth.png")
        refused(result, name, "another name")
    assert commands.contents(tmp_path) == before


def test_failures_are_one_sentence_and_leave_nothing(sharp: Path, tmp_path: Path) -> None:
    before = commands.contents(tmp_path)
    output = ("-o", tmp_path / "out.png")
    refused(run("synthesize", tmp_path / "none.jpg", *output), "none.jpg", "no such file")
    refused(run("synthesize", sharp, "-o", tmp_path / "no" / "a.png"), "folder does not exist")
    refused(run("synthesize", sharp, *output, "--depth", tmp_path / "d.npy"), "depth map")
    near = run("synthesize", sharp, *output, "--focal", 200, "--focus", 0.3)
    refused(near, "A lens of 200 mm cannot focus at 0.3 m: give --focus 0.4 or more")
    (tmp_path / "d.npy").write_bytes(b"")
    np.save(tmp_path / "d.npy", np.ones((WIDTH, HEIGHT)))
    turned = run("synthesize", sharp, *output, "--depth", tmp_path / "d.npy")
    refused(turned, "d.npy has 96 x 144 values and the photo 144 x 96 pixels", "turn it")
    (tmp_path / "d.npy").unlink()
    assert commands.contents(tmp_path) == before
