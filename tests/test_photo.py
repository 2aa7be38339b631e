"""Photo files: pixels, orientation and metadata go in and out with nothing lost."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin
from skimage import data

from freqdiff.errors import InputError
from freqdiff.photo import Metadata, Photo, read_photo, write_photo

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
LOSSLESS = ["png", "tif", "webp"]


def noise(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    generator = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return generator.random(shape, dtype=dtype)
    return generator.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def exif_block(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Maker", "Model 7", orientation
    exif[0x8769] = {
        **{0x829A: (1, 50), 0x8827: 800, 0x9003: "2024:05:06 07:08:09", 0x927C: b"maker\0\xff" * 9},
        **{0xA002: 30, 0xA003: 20},
    }
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.5), 3: "E", 4: (13.0, 24.0, 36.0)}
    return exif.tobytes()


def described(metadata_exif: bytes | None) -> dict[str, Any]:
    """Return the tags of an Exif block, flat, without pointers."""
    assert metadata_exif is not None
    exif = Image.Exif()
    exif.load(metadata_exif)
    tags = {f"0-{tag}": exif[tag] for tag in exif if tag not in (0x8769, 0x8825)}
    for part in (0x8769, 0x8825):
        tags |= {f"{part}-{tag}": value for tag, value in exif.get_ifd(part).items()}
    assert len(tags) >= 13
    return tags


def full_photo(pixels: NDArray[Any], alpha: NDArray[Any] | None = None) -> Photo:
    exif = exif_block().removeprefix(b"Exif\0\0")
    return Photo(pixels, alpha, metadata=Metadata(exif, ICC, XMP, (300.0, 240.0)))


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp", "photo.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path: Path, name: str, orientation: int) -> None:
    exif = exif_block(orientation)
    stored = Image.fromarray(noise(20, 30, 3))
    stored.save(tmp_path / name, exif=exif, **({"lossless": True} if "webp" in name else {}))
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))

    photo = read_photo(tmp_path / name)
    np.testing.assert_array_equal(photo.pixels, expected)
    tags = described(photo.metadata.exif)
    assert tags["0-274"] == 1
    assert (tags[f"{0x8769}-{0xA002}"], tags[f"{0x8769}-{0xA003}"]) == expected.shape[1::-1]

    write_photo(tmp_path / "out.png", photo)
    again = read_photo(tmp_path / "out.png")
    np.testing.assert_array_equal(again.pixels, expected)
    assert again.metadata.exif == photo.metadata.exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_orientation_of_deep_tiff(tmp_path: Path, dtype: Any, orientation: int) -> None:
    stored = noise(7, 5, 4, dtype=dtype)
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(
        tmp_path / "in.tif", stored, photometric="rgb", extrasamples=["unassalpha"], extratags=tags
    )
    small = Image.fromarray(np.arange(35, dtype=np.uint8).reshape(7, 5))
    small.getexif()[274] = orientation
    index = np.asarray(ImageOps.exif_transpose(small))
    photo = read_photo(tmp_path / "in.tif")
    assert photo.alpha is not None
    np.testing.assert_array_equal(photo.pixels, stored.reshape(35, 4)[index][..., :3])
    np.testing.assert_array_equal(photo.alpha, stored.reshape(35, 4)[index][..., 3])


@pytest.mark.parametrize("suffix", ["jpg", *LOSSLESS])
@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
def test_metadata_survive(tmp_path: Path, suffix: str, alpha: bool) -> None:
    photo = full_photo(noise(20, 30, 3), noise(20, 30) if alpha else None)
    write_photo(tmp_path / f"a.{suffix}", photo)
    back = read_photo(tmp_path / f"a.{suffix}").metadata
    assert back.icc == ICC
    assert back.xmp == XMP
    assert described(back.exif) == described(photo.metadata.exif)
    if suffix != "webp":
        assert back.dpi == pytest.approx((300, 240), abs=0.02)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_metadata_of_16_bit_files(tmp_path: Path, suffix: str) -> None:
    photo = full_photo(noise(20, 30, 3, dtype=np.uint16))
    write_photo(tmp_path / f"a.{suffix}", photo)
    back = read_photo(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(back.pixels, photo.pixels)
    assert (back.metadata.icc, back.metadata.xmp) == (ICC, XMP)
    assert described(back.metadata.exif) == described(photo.metadata.exif)


def test_exif_bytes_are_kept_except_orientation_and_thumbnail(tmp_path: Path) -> None:
    exif = exif_block(orientation=3)
    Image.fromarray(noise(20, 30, 3)).save(tmp_path / "a.jpg", exif=exif)
    kept = read_photo(tmp_path / "a.jpg").metadata.exif
    assert kept is not None
    changed = [i for i, pair in enumerate(zip(kept, exif[6:], strict=True)) if pair[0] != pair[1]]
    assert len(changed) == 1
    write_photo(tmp_path / "b.tif", read_photo(tmp_path / "a.jpg"))
    assert kept[8:] in (tmp_path / "b.tif").read_bytes()  # so that maker note offsets stay right


def test_orientation_in_xmp_is_reset(tmp_path: Path) -> None:
    image = Image.fromarray(noise(20, 30, 3))
    image.save(tmp_path / "a.jpg", exif=exif_block(6), xmp=XMP)
    assert read_photo(tmp_path / "a.jpg").metadata.xmp == XMP.replace(b'"6"', b'"1"')


def test_damaged_exif_costs_only_the_exif(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 30, 3)).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\0\0")
    photo = read_photo(tmp_path / "a.png")
    assert photo.metadata.exif is None
    assert photo.notes == ("damaged Exif block left out",)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (20000, 1), (1, 20000)], ids=str)
def test_exact_round_trip(
    tmp_path: Path, suffix: str, dtype: Any, channels: int, size: tuple[int, int]
) -> None:
    samples = noise(*size, channels, dtype=dtype)
    alpha = samples[..., -1] if channels in (2, 4) else None
    pixels = samples if alpha is None else samples[..., :-1]
    path = tmp_path / f"a.{suffix}"
    assert write_photo(path, Photo(pixels, alpha)) == ()
    photo = read_photo(path)
    assert photo.pixels.dtype == dtype
    np.testing.assert_array_equal(photo.pixels, pixels)
    assert (photo.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(photo.alpha, alpha)
    read: Callable[[bytes], Any] = imagecodecs.png_decode if suffix == "png" else _tifffile_read
    np.testing.assert_array_equal(read(path.read_bytes()).reshape(samples.shape), samples)


def _tifffile_read(content: bytes) -> Any:
    return tifffile.imread(io.BytesIO(content))


@pytest.mark.parametrize("big_endian", [False, True])
def test_tiff_of_floats_and_of_both_byte_orders(tmp_path: Path, big_endian: bool) -> None:
    exif = exif_block().removeprefix(b"Exif\0\0")
    assert exif[:2] == b"MM"
    for dtype in (np.uint16, np.float32):
        photo = Photo(noise(300, 40, 3, dtype=dtype), metadata=Metadata(exif=exif))
        write_photo(tmp_path / "a.tif", photo if big_endian else Photo(photo.pixels))
        assert (tmp_path / "a.tif").read_bytes()[:2] == (b"MM" if big_endian else b"II")
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), photo.pixels)
        np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels, photo.pixels)


def test_deep_tiff_of_other_programs(tmp_path: Path) -> None:
    samples = noise(9, 12, 3, dtype=np.uint16)
    planes = np.moveaxis(samples, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels, samples)
    tifffile.imwrite(tmp_path / "b.tif", samples[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_photo(tmp_path / "b.tif").pixels, 65535 - samples[..., :1])
    tifffile.imwrite(
        tmp_path / "c.tif", samples, photometric="rgb", compression="lzw", bigtiff=True
    )
    np.testing.assert_array_equal(read_photo(tmp_path / "c.tif").pixels, samples)
    alpha = np.full((9, 12, 1), 32768, np.uint16)
    multiplied = np.concatenate([samples // 2, alpha], axis=2)
    tifffile.imwrite(tmp_path / "d.tif", multiplied, photometric="rgb", extrasamples=["assocalpha"])
    photo = read_photo(tmp_path / "d.tif")
    assert np.abs(photo.pixels.astype(int) - samples).max() <= 2
    assert "divided by the alpha" in photo.notes[0]


def test_colours_under_alpha_are_left_alone(tmp_path: Path) -> None:
    pixels, alpha = noise(16, 16, 3), np.zeros((16, 16), np.uint8)
    for suffix in LOSSLESS:
        write_photo(tmp_path / f"a.{suffix}", Photo(pixels, alpha), quality=100)
        photo = read_photo(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(photo.pixels, pixels)
        np.testing.assert_array_equal(photo.alpha, alpha)


def test_grey_stays_grey(tmp_path: Path) -> None:
    Image.fromarray(data.camera()).save(tmp_path / "a.jpg", quality=88)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.pixels.shape == (512, 512, 1)
    write_photo(tmp_path / "b.jpg", photo)
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.mode == "L"


def test_conversions_are_noted(tmp_path: Path) -> None:
    image = Image.fromarray(data.coffee())
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95, icc_profile=b"not a profile")
    photo = read_photo(tmp_path / "cmyk.jpg")
    assert photo.notes == ("converted from CMYK",)
    assert photo.metadata.icc is None
    assert np.abs(photo.pixels.astype(float) - data.coffee()).mean() < 3
    write_photo(tmp_path / "rgb.jpg", photo)

    palette = image.quantize(200)
    palette.save(tmp_path / "palette.png", transparency=3)
    photo = read_photo(tmp_path / "palette.png")
    assert photo.notes == ("converted from a palette",)
    np.testing.assert_array_equal(photo.pixels, np.asarray(palette.convert("RGB")))
    np.testing.assert_array_equal(photo.alpha, np.where(np.asarray(palette) == 3, 0, 255))


def test_16_bits_to_8_bit_formats_are_noted(tmp_path: Path) -> None:
    pixels = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    notes = write_photo(tmp_path / "a.jpg", Photo(pixels, pixels[..., 0]))
    assert notes == ("rounded from 16 to 8 bits", "alpha left out, which JPEG cannot hold")
    floats = Photo(np.linspace(0, 1, 65536, dtype=np.float32).reshape(256, 256, 1))
    assert write_photo(tmp_path / "a.png", floats) == ("rounded from floats to 16 bits",)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.png").pixels, pixels)


@pytest.mark.parametrize("quality", [30, 75, 90, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_quality_of_the_source(tmp_path: Path, quality: int, subsampling: int) -> None:
    image = Image.fromarray(data.astronaut()[:128, :128])
    image.save(tmp_path / "a.jpg", quality=quality, subsampling=subsampling)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.jpeg is not None
    assert photo.jpeg.quality == quality
    write_photo(tmp_path / "b.jpg", photo)
    with Image.open(tmp_path / "a.jpg") as before, Image.open(tmp_path / "b.jpg") as after:
        assert isinstance(before, JpegImagePlugin.JpegImageFile)
        assert isinstance(after, JpegImagePlugin.JpegImageFile)
        assert after.quantization == before.quantization
        assert JpegImagePlugin.get_sampling(after) == subsampling


def test_jpeg_quality_of_other_sources(tmp_path: Path) -> None:
    photo = Photo(data.astronaut())
    write_photo(tmp_path / "a.jpg", photo)
    write_photo(tmp_path / "b.jpg", photo, quality=60)
    for name, quality in (("a.jpg", 95), ("b.jpg", 60)):
        settings = read_photo(tmp_path / name).jpeg
        assert settings is not None
        assert (settings.quality, settings.subsampling) == (quality, 0)
    with pytest.raises(InputError, match="from 1 to 100"):
        write_photo(tmp_path / "c.jpg", photo, quality=101)


def test_first_picture_of_a_multi_picture_jpeg(tmp_path: Path) -> None:
    first, second = Image.fromarray(noise(20, 30, 3)), Image.fromarray(noise(8, 8, 3))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.pixels.shape == (20, 30, 3)
    assert "multi-picture" in photo.notes[0]


def test_with_pixels_keeps_the_rest() -> None:
    photo = full_photo(noise(4, 5, 3), noise(4, 5))
    other = photo.with_pixels(255 - photo.pixels)
    assert other.metadata is photo.metadata
    assert other.alpha is photo.alpha
    with pytest.raises(InputError, match=r"\(4, 5, 3\)"):
        photo.with_pixels(noise(4, 6, 3))
    with pytest.raises(InputError, match="uint8, uint16 or float32"):
        Photo(noise(4, 5))


def test_permissions_of_a_replaced_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.touch()
    path.chmod(0o640)
    write_photo(path, Photo(noise(4, 5, 3)))
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("suffix", ["tif", "png", "jpg", "webp"])
def test_a_tag_that_points_outside_costs_only_itself(tmp_path: Path, suffix: str) -> None:
    block = bytearray(exif_block().removeprefix(b"Exif\0\0"))
    at = block.index(b"\x01\x0f\0\x02" if block[:2] == b"MM" else b"\x0f\x01\x02\0")
    block[at + 8 : at + 12] = b"\x7f" * 4
    photo = Photo(noise(20, 30, 3), metadata=Metadata(exif=bytes(block)))
    write_photo(tmp_path / f"a.{suffix}", photo)
    again = read_photo(tmp_path / f"a.{suffix}")
    assert again.pixels.shape == (20, 30, 3)
    if suffix == "tif":  # the other formats keep the block as it is
        exif = Image.Exif()
        exif.load(again.metadata.exif or b"")
        assert (0x010F in exif, exif[0x0110]) == (False, "Model 7")
