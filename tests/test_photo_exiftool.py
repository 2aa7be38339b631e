"""Metadata of results, tag by tag, by the judgement of an independent program: exiftool."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from freqdiff.images import open_image
from freqdiff.photo import write_photo

pytestmark = pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")

TAGS = {
    "IFD0:Make": "Example",
    "IFD0:Model": "Camera 1",
    "IFD0:Artist": "Somebody",
    "IFD0:Copyright": "Somebody, 2026",
    "IFD0:ImageDescription": "A test, in one line",
    "IFD0:Software": "exiftool",
    "IFD0:ModifyDate": "2026:01:02 03:04:05",
    "ExifIFD:DateTimeOriginal": "2026:01:02 03:04:05",
    "ExifIFD:OffsetTimeOriginal": "+01:00",
    "ExifIFD:ExposureTime": "1/30",
    "ExifIFD:FNumber": "2.8",
    "ExifIFD:ISO": "800",
    "ExifIFD:FocalLength": "85",
    "ExifIFD:LensModel": "85 mm F1.8",
    "ExifIFD:LensInfo": "85 85 1.8 1.8",
    "ExifIFD:UserComment": "a comment",
    "ExifIFD:Flash": "16",
    "GPS:GPSLatitude": "48.2",
    "GPS:GPSLatitudeRef": "N",
    "GPS:GPSLongitude": "16.37",
    "GPS:GPSLongitudeRef": "E",
    "GPS:GPSAltitude": "171",
    "XMP-dc:Title": "A title",
    "XMP-dc:Subject": "one",
    "XMP-dc:Rights": "Somebody",
    "XMP-xmp:Rating": "4",
    "XMP-photoshop:City": "Somewhere",
}
GROUPS = ("IFD0", "ExifIFD", "GPS", "ICC", "XMP")
KINDS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif"}
# What describes how a file stores its pixels: the baseline tags of TIFF, and what Exif repeats.
STORAGE = {
    *("BitsPerSample", "Compression", "ExtraSamples", "ImageHeight", "ImageWidth"),
    *("PhotometricInterpretation", "PlanarConfiguration", "Predictor", "RowsPerStrip"),
    *("SampleFormat", "SamplesPerPixel", "StripByteCounts", "StripOffsets", "SubfileType"),
    *("ExifImageHeight", "ExifImageWidth", "ComponentsConfiguration", "ExifVersion"),
    *("FlashpixVersion", "ColorSpace", "YCbCrPositioning", "GPSVersionID", "XMPToolkit"),
    *("XResolution", "YResolution", "ResolutionUnit", "FillOrder"),
}


def judged(path: Path) -> dict[str, Any]:
    """All tags of a file that do not describe how it stores its pixels, by group and name."""
    command = ["exiftool", "-json", "-G1", "-n", "-a", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (tags,) = json.loads(done.stdout)
    return {
        name: value
        for name, value in tags.items()
        if name.startswith(GROUPS) and name.partition(":")[2] not in STORAGE
    }


def dots(path: Path) -> tuple[float, float]:
    """Dots per inch by Pillow, of whatever block tells them."""
    with Image.open(path) as image:
        x, y = image.info.get("dpi") or (image.getexif()[0x011A], image.getexif()[0x011B])
        return float(x), float(y)


@pytest.fixture(scope="module", params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photo of one format with everything in its metadata, written by exiftool."""
    path = tmp_path_factory.mktemp("source") / f"photo{KINDS[request.param]}"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(path, request.param, icc_profile=profile, dpi=(240, 240))
    options = [f"-{name}={value}" for name, value in TAGS.items()]
    options += ["-XMP-dc:Subject+=two", "-IFD0:Orientation#=6"]
    command = ["exiftool", "-q", "-overwrite_original", "-n", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this exiftool cannot write {request.param}: {done.stderr.strip()}")
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_tag_is_kept(source: Path, kind: str, tmp_path: Path) -> None:
    before = judged(source)
    for name in ("IFD0:Make", "ExifIFD:LensModel", "GPS:GPSAltitude", "XMP-photoshop:City"):
        assert str(before[name]) == TAGS[name]
    assert before["IFD0:Orientation"] == 6
    assert sum(name.startswith("ICC") for name in before) > 15
    target = tmp_path / f"result{KINDS[kind]}"
    opened = open_image(source)
    assert opened.rgb.shape[2:] == (64, 48)  # upright
    assert write_photo(target, opened.restore_photo(opened.rgb)) == ()
    after = judged(target)
    assert after.pop("IFD0:Orientation") == 1
    del before["IFD0:Orientation"]
    assert after == before
    if kind != "WEBP" and source.suffix != ".webp":
        assert dots(target) == pytest.approx((240, 240), abs=0.1)
