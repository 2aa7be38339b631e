"""HEIC and AVIF photos of phones, and raw files of cameras."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import rawpy
import tifffile
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from test_photo import ICC, described, exif_block

from freqdiff.batch import find_photos
from freqdiff.errors import PhotoError
from freqdiff.photo import read_photo, write_photo

COFFEE = data.coffee()[100:164, 200:296]


def heic(pixels: NDArray[Any], mode: str = "RGB", **options: Any) -> bytes:
    height, width = pixels.shape[:2]
    file = pillow_heif.from_bytes(mode, (width, height), pixels.tobytes())
    stream = io.BytesIO()
    file.save(stream, quality=95, chroma=444, **options)
    return stream.getvalue()


def avif(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "AVIF", quality=95, subsampling="4:4:4", **options)
    return stream.getvalue()


def dng(orientation: int = 1, preview: bytes | None = None) -> bytes:
    """A raw file of a camera without noise that sees in the primaries of sRGB."""
    light = np.where(COFFEE <= 10.31, COFFEE / 3294.6, ((COFFEE / 255 + 0.055) / 1.055) ** 2.4)
    mosaic = light[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = light[::2, ::2, 0], light[1::2, 1::2, 2]
    from_xyz = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    matrix = [part for row in from_xyz for value in row for part in (round(value * 1e4), 10000)]
    tags = [
        *[(33421, 3, 2, (2, 2)), (33422, 1, 4, bytes([0, 1, 1, 2]))],
        *[(50706, 1, 4, bytes([1, 4, 0, 0])), (50708, 2, 0, "Maker Model 7")],
        *[(50714, 3, 1, 256), (50717, 3, 1, 16256)],
        *[(50721, 10, 9, matrix), (50728, 5, 3, [1] * 6), (50778, 3, 1, 21)],
        *[(271, 2, 0, "Maker"), (272, 2, 0, "Model 7"), (274, 3, 1, orientation)],
    ]
    samples = (mosaic * 16000 + 256).round().astype(np.uint16)
    stream = io.BytesIO()
    tags = [(*tag, False) for tag in tags]
    tifffile.imwrite(stream, samples, photometric=32803, extratags=tags, software=False)
    return stream.getvalue()


def stored(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def mean_error(pixels: NDArray[Any], expected: NDArray[Any]) -> float:
    scale = np.iinfo(pixels.dtype).max
    return float(np.abs(pixels / scale - expected / 255).mean() * 255)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_is_upright_and_keeps_its_metadata(tmp_path: Path, orientation: int) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
    content = heic(COFFEE, exif=exif_block(orientation), icc_profile=ICC, xmp=xmp)
    photo = read_photo(stored(tmp_path, "a.heic", content))
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    assert mean_error(photo.pixels, np.rot90(COFFEE, turns)) < 3
    write_photo(tmp_path / "b.png", photo)
    again = read_photo(tmp_path / "b.png")
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    tags = described(again.metadata.exif)
    assert tags["0-274"] == 1
    assert tags["0-272"] == "Model 7"
    assert again.metadata.icc == ICC
    assert again.metadata.xmp == xmp


def test_heic_of_ten_bits_becomes_16_bits(tmp_path: Path) -> None:
    deep = COFFEE.astype(np.uint16) * 257
    photo = read_photo(stored(tmp_path, "a.heic", heic(deep, "RGB;16")))
    assert photo.pixels.dtype == np.uint16
    assert mean_error(photo.pixels, COFFEE) < 3
    assert len(np.unique(photo.pixels)) > 256


def test_heic_with_alpha_and_of_several_pictures(tmp_path: Path) -> None:
    alpha = np.linspace(0, 255, COFFEE[..., 0].size).reshape(COFFEE.shape[:2]).astype(np.uint8)
    photo = read_photo(stored(tmp_path, "a.heic", heic(np.dstack((COFFEE, alpha)), "RGBA")))
    assert photo.alpha is not None
    assert mean_error(photo.alpha, alpha) < 3
    file = pillow_heif.from_pillow(Image.fromarray(COFFEE))
    file.add_from_pillow(Image.fromarray(255 - COFFEE))
    file.save(tmp_path / "b.heic", quality=95, save_all=True)
    photo = read_photo(tmp_path / "b.heic")
    assert mean_error(photo.pixels, COFFEE) < 8
    assert photo.notes == ("only the main one of 2 pictures was read",)


@pytest.mark.parametrize("orientation", [1, 6])
def test_avif(tmp_path: Path, orientation: int) -> None:
    content = avif(COFFEE, exif=exif_block(orientation), icc_profile=ICC)
    photo = read_photo(stored(tmp_path, "a.avif", content))
    assert mean_error(photo.pixels, np.rot90(COFFEE, 0 if orientation == 1 else 3)) < 3
    assert photo.notes == ()
    assert photo.metadata.exif is not None
    exif = Image.Exif()
    exif.load(photo.metadata.exif)
    assert (exif[272], exif.get(274, 1)) == ("Model 7", 1)
    assert photo.metadata.icc == ICC


def test_deep_avif_is_noted(tmp_path: Path) -> None:
    content = imagecodecs.avif_encode(COFFEE.astype(np.uint16) * 4, bitspersample=10)
    photo = read_photo(stored(tmp_path, "a.avif", bytes(content)))
    assert mean_error(photo.pixels, COFFEE) < 3
    assert photo.notes == ("rounded from 10 or 12 to 8 bits",)


@pytest.mark.parametrize("orientation", [1, 6])
def test_raw_file_is_developed(tmp_path: Path, orientation: int) -> None:
    photo = read_photo(stored(tmp_path, "a.dng", dng(orientation)))
    assert photo.pixels.dtype == np.uint16
    assert photo.notes == ("developed from a raw file with the camera's white balance",)
    # Demosaicing blurs, so the means of blocks are compared: exposure, tone curve, colours.
    turned = np.rot90(COFFEE, 0 if orientation == 1 else 3)
    height, width = turned.shape[:2]
    blocks = (height // 8, 8, width // 8, 8, 3)
    found, expected = (
        (v / s).reshape(blocks).mean((1, 3)) for v, s in ((photo.pixels, 65535), (turned, 255))
    )
    assert np.abs(found - expected).max() < 0.06
    assert np.abs(found - expected).mean() < 0.02
    assert photo.metadata.exif is not None
    exif = Image.Exif()
    exif.load(photo.metadata.exif)
    assert (exif[271], exif[274]) == ("Maker", 1)


def test_folders_and_results(tmp_path: Path) -> None:
    names = {"a.dng": dng(), "b.HEIC": heic(COFFEE), "c.avif": avif(COFFEE)}
    paths = [stored(tmp_path, name, content) for name, content in names.items()]
    assert find_photos(tmp_path, recursive=False) == paths


@pytest.mark.parametrize("kind", ["heic", "avif", "dng"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_cut_off(tmp_path: Path, kind: str, part: float) -> None:
    content = {"heic": lambda: heic(COFFEE), "avif": lambda: avif(COFFEE), "dng": dng}[kind]()
    path = stored(tmp_path, f"a.{kind}", content[: int(len(content) * part)])
    with pytest.raises(PhotoError, match=r"^Cannot read .*: .*[^.]\.$"):
        read_photo(path)


@pytest.mark.parametrize("kind", ["heic", "avif", "dng"])
def test_too_many_pixels(tmp_path: Path, kind: str) -> None:
    content = {"heic": lambda: heic(COFFEE), "avif": lambda: avif(COFFEE), "dng": dng}[kind]()
    path = stored(tmp_path, f"a.{kind}", content)
    with pytest.raises(PhotoError, match="it has 96 x 64 pixels; expected at most 1,000"):
        read_photo(path, max_pixels=1000)


@pytest.mark.parametrize(
    ("kind", "package", "extra"), [("heic", "pillow_heif", "io"), ("dng", "rawpy", "raw")]
)
def test_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    path = stored(tmp_path, f"a.{kind}", dng() if kind == "dng" else heic(COFFEE))
    with pytest.raises(PhotoError, match=rf"install it with .*freqdiff-deblur\[{extra}\]"):
        read_photo(path)


def test_raw_files_that_are_no_tiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their Exif comes from the preview inside."""

    class Preview:
        format = rawpy.ThumbFormat.JPEG
        data = b""

    preview = io.BytesIO()
    Image.fromarray(COFFEE).save(preview, "JPEG", exif=exif_block(6))
    Preview.data = preview.getvalue()
    real = rawpy.imread

    class Raw:
        def __init__(self, stream: Any) -> None:
            assert stream.read(8) == b"IIRO\x08\0\0\0"
            self.raw = real(io.BytesIO(dng(6)))
            self.sizes, self.postprocess = self.raw.sizes, self.raw.postprocess

        def __enter__(self) -> Raw:
            return self

        def __exit__(self, *_: object) -> None:
            self.raw.close()

        def extract_thumb(self) -> type[Preview]:
            return Preview

    monkeypatch.setattr(rawpy, "imread", Raw)
    photo = read_photo(stored(tmp_path, "a.orf", b"IIRO\x08\0\0\0" + bytes(64)))
    tags = described(photo.metadata.exif)
    assert (tags["0-274"], tags["34665-40962"], tags["34665-40963"]) == (1, 64, 96)
    assert photo.pixels.shape == (96, 64, 3)
