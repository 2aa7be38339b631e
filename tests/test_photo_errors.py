"""Bad files and bad outputs: one sentence with the way out, nothing half-written."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import tifffile
from PIL import Image

from freqdiff.errors import FreqDiffError, OutputError, PhotoError
from freqdiff.photo import Photo, read_photo, write_photo

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
DEEP = PIXELS.astype(np.uint16) * 257


def content_of(kind: str) -> bytes:
    """Return a valid file of a kind, written by other programs than ours."""
    stream = io.BytesIO()
    if kind == "deep-tiff":
        tifffile.imwrite(stream, DEEP, photometric="rgb")
        return stream.getvalue()
    Image.fromarray(PIXELS).save(stream, kind)
    return stream.getvalue()


def sentence(error: pytest.ExceptionInfo[FreqDiffError], name: object) -> str:
    """Check that the message is one sentence about ``name``, and return it."""
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert str(name) in text
    return text


def refused(path: Path, expected: str) -> None:
    with pytest.raises(PhotoError) as error:
        read_photo(path)
    assert expected in sentence(error, path)


def test_missing_file_folder_and_pipe(tmp_path: Path) -> None:
    refused(tmp_path / "no.jpg", "no such file")
    refused(tmp_path, "a folder")
    (tmp_path / "a.jpg").write_bytes(content_of("JPEG"))
    refused(tmp_path / "a.jpg" / "b.jpg", "no such file")
    os.mkfifo(tmp_path / "pipe.jpg")
    refused(tmp_path / "pipe.jpg", "not a regular file")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "a.jpg"
    path.write_bytes(content_of("JPEG"))
    monkeypatch.setattr(Path, "open", refuse)
    refused(path, "no permission")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty"),
        (b"Dear diary, today", "not a picture"),
        (b"BM and more text", "damaged"),
        (b"\xff\xd8\xff", "damaged"),
        (b"II*\0", "damaged"),
        (b"GIF89a and so on", "a GIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1", "damaged"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0mif1", "a film"),
        (b"%PDF-1.7", "a PDF"),
    ],
    ids=["empty", "text", "text-bmp", "jpeg-start", "tiff-start", "gif", "heic", "film", "pdf"],
)
def test_not_a_photo(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    refused(path, expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "deep-png", "deep-tiff"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.97])
def test_truncated(tmp_path: Path, kind: str, part: float) -> None:
    path = tmp_path / "a.jpg"
    if kind == "deep-png":
        write_photo(tmp_path / "whole.png", Photo(DEEP))
        content = (tmp_path / "whole.png").read_bytes()
    else:
        content = content_of(kind)
    path.write_bytes(content[: int(len(content) * part)])
    refused(path, "damaged or cut off")
    path.write_bytes(content)
    assert read_photo(path).pixels.shape == PIXELS.shape


@pytest.mark.parametrize("kind", ["png", "webp", "tif"])
def test_several_pictures(tmp_path: Path, kind: str) -> None:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    refused(tmp_path / f"a.{kind}", "holds 2 pictures")


def test_preview_pages_of_a_tiff_do_not_count(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(PIXELS, photometric="rgb")
        file.write(PIXELS[::4, ::4], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_photo(tmp_path / "a.tif").pixels, PIXELS)


def test_other_kinds_of_tiff(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "raw.dng", PIXELS, photometric="rgb", subfiletype=1)
    refused(tmp_path / "raw.dng", "raw file")
    tifffile.imwrite(tmp_path / "int.tif", PIXELS.astype(np.int32), photometric="rgb")
    refused(tmp_path / "int.tif", "8 or 16 bits")
    five = np.zeros((8, 8, 5), np.uint16)
    tifffile.imwrite(tmp_path / "five.tif", five, photometric="minisblack", planarconfig="contig")
    refused(tmp_path / "five.tif", "5 channels")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "deep-tiff"])
def test_too_many_pixels(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content_of(kind))
    with pytest.raises(PhotoError, match="48 x 64 pixels; expected at most 3071"):
        read_photo(path, max_pixels=64 * 48 - 1)
    assert read_photo(path, max_pixels=64 * 48).pixels.shape == PIXELS.shape


def test_limit_on_pixels_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("JPEG", "PNG", "BMP"):
        (tmp_path / "a").write_bytes(content_of(kind))
        assert read_photo(tmp_path / "a").pixels.shape == PIXELS.shape


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_missing_package_for_16_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_photo(tmp_path / name, Photo(DEEP))
    for package in ("imagecodecs", "tifffile"):
        monkeypatch.setitem(sys.modules, package, None)
    refused(tmp_path / name, "freqdiff-deblur[io]")
    with pytest.raises(OutputError) as error:
        write_photo(tmp_path / "b.png", Photo(DEEP))
    assert "freqdiff-deblur[io]" in sentence(error, "b.png")
    assert not (tmp_path / "b.png").exists()
    write_photo(tmp_path / "b.tif", Photo(DEEP))
    monkeypatch.undo()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), DEEP)


def unwritable(path: Path, expected: str, photo: Photo | None = None) -> None:
    with pytest.raises(OutputError) as error:
        write_photo(path, photo or Photo(PIXELS))
    assert expected in sentence(error, path)


def test_output_paths_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    unwritable(tmp_path / "a.gif", "expected a name that ends in .jpg")
    unwritable(tmp_path / "a", "expected a name that ends in .jpg")
    unwritable(tmp_path / "no" / "a.png", "folder does not exist")
    unwritable(tmp_path / "file" / "a.png", "a part of the path is a file")
    unwritable(tmp_path / "folder.png", "this is a folder")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [(errno.EACCES, "not writable"), (errno.EROFS, "read-only"), (errno.EIO, "Input/output error")],
)
def test_unwritable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: str
) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", refuse)
    unwritable(tmp_path / "a.png", expected)


@pytest.mark.parametrize("when", ["fsync", "replace"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, when: str) -> None:
    def fail(*_: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / name
    path.write_bytes(b"the old output")
    monkeypatch.setattr(os, when, fail)
    unwritable(path, "the disk is full")
    assert path.read_bytes() == b"the old output"
    assert os.listdir(tmp_path) == [name]


def test_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_photo(tmp_path / "a.png", Photo(PIXELS))
    assert os.listdir(tmp_path) == []


def test_output_equal_to_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content_of("PNG"))
    (tmp_path / "soft.png").symlink_to(path)
    (tmp_path / "hard.png").hardlink_to(path)
    monkeypatch.chdir(tmp_path)
    before = path.read_bytes()
    for source in (path, Path("a.png"), Path("soft.png")):
        photo = read_photo(source)
        for name in ("a.png", "soft.png", "hard.png", "../" + tmp_path.name + "/a.png"):
            unwritable(Path(name), "the photo's own source file", photo)
    assert path.read_bytes() == before
    write_photo("soft.png", photo.with_pixels(255 - PIXELS), overwrite=True)
    assert Path("soft.png").is_symlink()
    np.testing.assert_array_equal(read_photo(path).pixels, 255 - PIXELS)


def test_sides_too_long_for_the_format(tmp_path: Path) -> None:
    unwritable(tmp_path / "a.jpg", "at most 65500", Photo(np.zeros((1, 65501, 1), np.uint8)))
    unwritable(tmp_path / "a.webp", "at most 16383", Photo(np.zeros((1, 20000, 3), np.uint8)))
    assert os.listdir(tmp_path) == []


def test_encoders_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no luck")

    monkeypatch.setattr(Image.Image, "save", fail)
    unwritable(tmp_path / "a.png", "no luck")
    assert list(tmp_path.iterdir()) == []
