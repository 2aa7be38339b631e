"""Camera settings in Exif: round trips, what is assumed, odd and damaged blocks."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.TiffImagePlugin import IFDRational

from blursynth.camera import RANGES, Camera
from blursynth.exif import read_camera, write_camera
from freqdiff.errors import InputError, PhotoError
from freqdiff.photo import Metadata, Photo, read_photo, write_photo

TOLD = {
    Base.ExposureTime: IFDRational(1, 15),
    Base.FNumber: IFDRational(18, 10),
    Base.ISOSpeedRatings: 3200,
    Base.FocalLength: IFDRational(85, 1),
    Base.FocalLengthIn35mmFilm: 85,
    Base.SubjectDistance: IFDRational(2, 1),
}
CAMERA = Camera(
    iso=3200, f_number=1.8, exposure_s=1 / 15, focal_mm=85, sensor_width_mm=36, focus_distance_m=2
)
SETTINGS = (
    "iso",
    "f_number",
    "exposure_s",
    "focal_mm",
    "sensor_width_mm",
    "focus_distance_m",
)


def block(tags: dict[int, Any], main: dict[int, Any] | None = None) -> bytes:
    exif = Image.Exif()
    for tag, value in (main or {}).items():
        exif[tag] = value
    exif.get_ifd(IFD.Exif).update(tags)
    return exif.tobytes()


def without(tag: int, **others: Any) -> bytes:
    """A complete block, but for one tag and with others instead."""
    tags = {key: value for key, value in TOLD.items() if key != tag}
    return block(tags | {Base[name]: value for name, value in others.items()})


def assert_close(read: Camera, camera: Camera) -> None:
    assert read.iso == round(camera.iso)
    for name in SETTINGS[1:]:
        assert getattr(read, name) == pytest.approx(getattr(camera, name), rel=1e-8), name


@st.composite
def cameras(draw: st.DrawFn) -> Camera:
    values = {
        name: math.exp(draw(st.floats(math.log(low), math.log(high)))) * (1 - 1e-12)
        for name, (low, high) in RANGES.items()
    }
    values = {name: max(value, RANGES[name][0]) for name, value in values.items()}
    near = 2.01e-3 * values["focal_mm"]
    distance = draw(st.one_of(st.just(math.inf), st.floats(near, 1e12)))
    return Camera(**values, focus_distance_m=distance)


@given(camera=cameras(), portrait=st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_camera_is_read_back_as_written(camera: Camera, portrait: bool) -> None:
    reading = read_camera(write_camera(camera, size=(3000, 4000) if portrait else (4000, 3000)))
    assert reading.assumed == ()
    if camera.focus_distance_m >= 2**32 - 2:
        camera = dataclasses.replace(camera, focus_distance_m=math.inf)
    assert_close(reading.camera, camera)


def test_drawn_cameras_are_read_back_without_a_size_to_the_millimetre_of_the_equivalent() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        camera = Camera.sample(rng)
        reading = read_camera(write_camera(camera))
        assert reading.assumed == ()
        assert abs(reading.camera.focal35_mm - camera.focal35_mm) <= 0.5 + 1e-9
        known = dataclasses.replace(reading.camera, sensor_width_mm=camera.sensor_width_mm)
        assert_close(known, camera)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("shape", [(24, 36, 3), (40, 30, 3)], ids=["landscape", "portrait"])
def test_photo_files_carry_the_settings(
    suffix: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    camera = Camera.sample(np.random.default_rng(5))
    exif = write_camera(camera, size=(shape[1], shape[0]))
    photo = Photo(np.zeros(shape, np.uint8), metadata=Metadata(exif=exif))
    path = tmp_path / f"photo{suffix}"
    assert write_photo(path, photo) == ()
    with Image.open(path) as image:
        sources = (path, str(path), path.read_bytes(), image, read_photo(path))
        readings = [read_camera(source) for source in sources]
    for reading in readings:
        assert reading.assumed == ()
        assert_close(reading.camera, camera)


def test_photos_that_pillow_cannot_open(tmp_path: Path) -> None:
    exif = write_camera(CAMERA, size=(36, 24))
    photo = Photo(np.zeros((24, 36, 3), np.float32), metadata=Metadata(exif=exif))
    write_photo(tmp_path / "deep.tif", photo)
    assert_close(read_camera(read_photo(tmp_path / "deep.tif")).camera, CAMERA)
    for metadata in (Metadata(), Metadata(exif=exif[:30])):
        reading = read_camera(dataclasses.replace(photo, metadata=metadata))
        assert reading.camera == Camera()
        assert len(reading.assumed) == len(SETTINGS)


def test_pillow_saves_and_shows_the_settings() -> None:
    file = io.BytesIO()
    exif = write_camera(dataclasses.replace(CAMERA, iso=204800), size=(36, 24))
    Image.new("RGB", (36, 24)).save(file, "JPEG", exif=b"Exif\0\0" + exif)
    tags = Image.open(file).getexif().get_ifd(IFD.Exif)
    assert tags[Base.ExposureTime] == Fraction(1, 15)
    assert tags[Base.FNumber] == Fraction(9, 5)
    assert tags[Base.ISOSpeedRatings] == 65535
    assert tags[Base.SensitivityType] == 2
    assert tags[Base.RecommendedExposureIndex] == 204800
    assert tags[Base.FocalLength] == 85
    assert tags[Base.FocalLengthIn35mmFilm] == 85
    assert tags[Base.SubjectDistance] == 2
    # Bv = Av + Tv - Sv, with Sv = log2(ISO / 3.125).
    brightness = 2 * math.log2(1.8) + math.log2(15) - math.log2(204800 / 3.125)
    assert brightness < 0
    assert float(tags[Base.BrightnessValue]) == pytest.approx(brightness, abs=1e-4)
    assert tags[Base.ExifVersion] == b"0232"
    assert read_camera(file.getvalue()).camera == dataclasses.replace(CAMERA, iso=204800)


@pytest.mark.parametrize("endian", ["<", ">"])
def test_the_rest_of_an_old_block_stays(endian: str) -> None:
    exif = Image.Exif()
    exif.endian = endian
    exif[Base.Software] = "darkroom 3"
    exif[Base.Orientation] = 1
    exif.get_ifd(IFD.GPSInfo)[1] = "N"
    note = b"note " * 9
    exif.get_ifd(IFD.Exif).update(
        {
            Base.MakerNote: note,
            Base.ExposureTime: IFDRational(1, 4),
            Base.ShutterSpeedValue: IFDRational(2, 1),
            Base.ApertureValue: IFDRational(9, 1),
            Base.ISOSpeed: 99,
            Base.LensModel: "Lens",
        }
    )
    old = exif.tobytes()
    new = write_camera(CAMERA, old)
    assert new[8:].startswith(old.removeprefix(b"Exif\0\0")[8:])
    assert new.index(note) == old.removeprefix(b"Exif\0\0").index(note)

    after = Image.Exif()
    after.load(new)
    inner = after.get_ifd(IFD.Exif)
    assert (after[Base.Software], after[Base.Orientation]) == ("darkroom 3", 1)
    assert after.get_ifd(IFD.GPSInfo)[1] == "N"
    assert (inner[Base.MakerNote], inner[Base.LensModel]) == (note, "Lens")
    assert not {Base.ShutterSpeedValue, Base.ApertureValue, Base.ISOSpeed} & inner.keys()
    assert read_camera(new).camera == CAMERA
    changed = dataclasses.replace(CAMERA, iso=100)
    assert read_camera(write_camera(changed, new)).camera == changed


def test_an_old_block_without_exif_directory_gets_one() -> None:
    exif = Image.Exif()
    exif[Base.Make] = "Maker"
    new = write_camera(CAMERA, exif.tobytes())
    after = Image.Exif()
    after.load(new)
    assert after[Base.Make] == "Maker"
    assert read_camera(new).camera == CAMERA


def test_damaged_old_blocks_and_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"^Cannot write .* it is damaged \(.*\), so give none"):
        write_camera(CAMERA, b"nonsense")
    with pytest.raises(InputError, match="is damaged"):
        write_camera(CAMERA, block(TOLD)[:40])
    with pytest.raises(InputError, match=r"^size is \(0, 5\), expected two numbers of pixels"):
        write_camera(CAMERA, size=(0, 5))


def test_what_exif_tells_is_not_assumed() -> None:
    reading = read_camera(block(TOLD))
    assert reading.camera == CAMERA
    assert reading.assumed == ()


@pytest.mark.parametrize("image", [Image.new("RGB", (30, 20)), Image.new("L", (20, 20))])
def test_without_exif_everything_is_assumed(image: Image.Image) -> None:
    reading = read_camera(image)
    assert reading.camera == Camera()
    assert reading.assumed == SETTINGS


@pytest.mark.parametrize(
    ("tag", "value", "name"),
    [
        (Base.ExposureTime, IFDRational(1, 0), "exposure_s"),
        (Base.ExposureTime, IFDRational(0, 1), "exposure_s"),
        (Base.ExposureTime, IFDRational(9000, 1), "exposure_s"),
        (Base.FNumber, IFDRational(0, 0), "f_number"),
        (Base.FNumber, "unknown", "f_number"),
        (Base.ISOSpeedRatings, 0, "iso"),
        (Base.FocalLength, IFDRational(0, 1), "focal_mm"),
        (Base.SubjectDistance, IFDRational(0, 1), "focus_distance_m"),
        (Base.SubjectDistance, IFDRational(1, 10), "focus_distance_m"),
    ],
)
def test_impossible_values_count_as_missing(tag: Base, value: Any, name: str) -> None:
    tags = {key: told for key, told in TOLD.items() if key != Base.FocalLengthIn35mmFilm}
    reading = read_camera(block(tags | {tag: value}))
    assert reading.assumed == tuple(
        field for field in SETTINGS if field in (name, "sensor_width_mm")
    )
    assert getattr(reading.camera, name) == getattr(Camera(), name)


@pytest.mark.parametrize(
    ("exif", "name", "value"),
    [
        (without(Base.ExposureTime, ShutterSpeedValue=IFDRational(4, 1)), "exposure_s", 1 / 16),
        (without(Base.ExposureTime, ShutterSpeedValue=IFDRational(-3, 1)), "exposure_s", 8),
        (without(Base.ExposureTime, ExposureTime="1/60"), "exposure_s", 1 / 60),
        (without(Base.FNumber, ApertureValue=IFDRational(5, 1)), "f_number", 2**2.5),
        (without(Base.ISOSpeedRatings, ISOSpeedRatings=(400, 0)), "iso", 400),
        (without(Base.ISOSpeedRatings, ISOSpeed=640), "iso", 640),
        (without(Base.ISOSpeedRatings, ISOSpeedRatings=65535), "iso", 65535),
        (
            without(Base.FNumber, ISOSpeedRatings=65535, RecommendedExposureIndex=102400),
            "iso",
            102400,
        ),
        (
            without(Base.SubjectDistance, SubjectDistance=IFDRational(0xFFFFFFFF, 1)),
            "focus_distance_m",
            math.inf,
        ),
        (without(Base.FocalLength), "focal_mm", 85),
    ],
    ids=str,
)
def test_other_ways_to_tell_a_setting(exif: bytes, name: str, value: float) -> None:
    reading = read_camera(exif)
    assert getattr(reading.camera, name) == pytest.approx(value, rel=1e-9)
    assert name not in reading.assumed


def test_an_aperture_of_apex_0_is_unknown() -> None:
    exif = without(Base.FNumber, ApertureValue=IFDRational(0, 1))
    assert read_camera(exif).assumed == ("f_number",)


PLANE = {
    Base.FocalLength: IFDRational(21556, 1000),
    Base.ExifImageWidth: 4320,
    Base.ExifImageHeight: 3240,
    Base.FocalPlaneXResolution: IFDRational(4320000, 243),
    Base.FocalPlaneResolutionUnit: 2,
}


@pytest.mark.parametrize(
    ("change", "width_mm"),
    [
        ({}, 6.172),
        ({Base.FocalPlaneResolutionUnit: 3}, 2.43),
        # The equivalent agrees: the resolution is finer. It does not: editors leave that stale.
        ({Base.FocalLengthIn35mmFilm: 121}, 6.172),
        ({Base.FocalLengthIn35mmFilm: 60}, 36 * 21.556 / 60),
        ({Base.FocalPlaneXResolution: IFDRational(1, 0)}, None),
        ({Base.FocalPlaneXResolution: IFDRational(1, 100)}, None),
        ({Base.FocalPlaneXResolution: 0, Base.FocalLengthIn35mmFilm: 0}, None),
    ],
)
def test_sensor_width(change: dict[int, Any], width_mm: float | None) -> None:
    reading = read_camera(block(PLANE | change))
    assert reading.camera.sensor_width_mm == pytest.approx(width_mm or 36, abs=1e-3)
    assert ("sensor_width_mm" in reading.assumed) == (width_mm is None)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize(("orientation", "width_mm"), [(1, 36), (3, 36), (6, 24), (8, 24)])
def test_photos_taken_upright_show_the_short_side(
    kind: str, orientation: int, width_mm: float
) -> None:
    file = io.BytesIO()
    exif = block(TOLD, {Base.Orientation: orientation})
    Image.new("RGB", (36, 24)).save(file, kind, exif=exif)
    camera = read_camera(file.getvalue()).camera
    assert camera.sensor_width_mm == pytest.approx(width_mm)
    assert dataclasses.replace(camera, sensor_width_mm=36) == CAMERA
    tags = PLANE | {Base.FocalLength: 20}
    turned = block(tags, {Base.Orientation: orientation})
    assert read_camera(turned).camera.sensor_width_mm == pytest.approx(
        6.172 * (0.75 if orientation > 4 else 1), abs=1e-3
    )
    again = read_camera(write_camera(CAMERA, turned)).camera
    assert again.sensor_width_mm == pytest.approx(36)


def test_strips_of_panoramas_are_no_error() -> None:
    assert read_camera(Image.new("L", (1, 500))).camera.sensor_width_mm == 9


def test_files_that_are_no_photos_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("no photo", encoding="utf-8")
    sources: list[tuple[Any, str]] = [
        (tmp_path / "none.jpg", r"none\.jpg'.*, but there is no such file\.$"),
        (tmp_path, r"no such file\.$"),
        (text, r"notes\.jpg': expected a photo file or an Exif block, but it is neither\.$"),
        (b"", r"the photo: expected .* but it is neither\.$"),
        (b"II*\0", r"the photo: expected .*\.$"),
    ]
    for source, message in sources:
        with pytest.raises(PhotoError, match=rf"^Cannot read the camera settings of .*{message}"):
            read_camera(source)


def test_a_damaged_block_in_a_good_photo_is_like_none() -> None:
    file = io.BytesIO()
    Image.new("RGB", (36, 24)).save(file, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert read_camera(file.getvalue()).assumed == SETTINGS


@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8))
@example(changes=[(110, 0), (114, 1), (342, 1)])  # a tag of 16 million values
@settings(max_examples=300, deadline=None)
def test_damaged_blocks_give_a_camera_or_a_clear_error(changes: list[tuple[int, int]]) -> None:
    exif = bytearray(write_camera(CAMERA, block(PLANE), size=(36, 24)))
    for position, value in changes:
        exif[position % len(exif)] = value
    with contextlib.suppress(PhotoError):
        assert set(read_camera(bytes(exif)).assumed) <= set(SETTINGS)
    with contextlib.suppress(InputError):
        written = read_camera(write_camera(CAMERA, bytes(exif))).camera
        # The sensor width may come from a damaged size of the photo.
        assert_close(dataclasses.replace(written, sensor_width_mm=36), CAMERA)
