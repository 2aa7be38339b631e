"""Bad input on the command line: one sentence, an exit code, and every file as it was."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any, NoReturn

import commands
import numpy as np
import pytest
import tifffile
from PIL import Image
from torch import Tensor

from freqdiff import atomic
from freqdiff.denoiser import Denoiser
from freqdiff.photo import read_photo


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands.toy_model(tmp_path)
    commands.put_photo(Path("good.jpg"))


def refused(*arguments: object, words: tuple[str, ...], model: str = "toy") -> None:
    """Check that nothing changes but for one sentence."""
    before = commands.contents(Path())
    commands.refused(commands.run("deblur", *arguments, "--model", model), *words)
    assert commands.contents(Path()) == before


def put(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)


def test_missing_file() -> None:
    refused("no.jpg", "-o", "out.jpg", words=("'no.jpg'", "no such file"))


def test_folder_instead_of_a_file() -> None:
    Path("empty").mkdir()
    refused("empty", "-o", "out", words=("'empty'", "no photos", "--recursive"))
    refused("toy", "-o", "out", "--recursive", words=("'toy'", "no photos"))
    Path("folder.jpg").mkdir()
    refused("folder.jpg", "-o", "out", words=("'folder.jpg'", "no photos"))


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"Dear diary", "not a picture"), (b"", "empty"), (b"GIF89a and so on", "a GIF")],
    ids=["text", "empty", "gif"],
)
def test_not_a_photo(content: bytes, word: str) -> None:
    put("a.jpg", content)
    refused("a.jpg", "-o", "out.jpg", words=("'a.jpg'", word))


def test_truncated_jpeg() -> None:
    content = Path("good.jpg").read_bytes()
    put("cut.jpg", content[: len(content) // 2])
    refused("cut.jpg", "-o", "out.jpg", words=("'cut.jpg'", "cut off", "copy it again"))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (1, 20000), (20000, 1), (2, 3)])
def test_odd_sizes_work(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("odd.png")
    result = commands.run("deblur", "odd.png", "-o", "out.png", "--model", "toy")
    assert (result.code, result.err) == (0, "")
    assert read_photo("out.png").pixels.shape == (*size, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    pixels = np.full((16, 16, 3), 0.5, np.float32)
    pixels[3, 4, 1] = bad
    tifffile.imwrite("a.tif", pixels, photometric="rgb")
    refused("a.tif", "-o", "out.tif", words=("a.tif", "NaN or infinity"))
    pixels = np.full((16, 16, 4), 0.5, np.float32)
    pixels[3, 4, 3] = bad
    options = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    tifffile.imwrite("a.tif", pixels, **options)
    refused("a.tif", "-o", "out.tif", words=("a.tif", "alpha", "NaN or infinity"))


def test_wrong_sample_type_and_shape() -> None:
    tifffile.imwrite("int.tif", np.zeros((8, 8), np.int32))
    tifffile.imwrite("five.tif", np.zeros((8, 8, 5), np.uint16), photometric="minisblack")
    tifffile.imwrite("bright.tif", np.full((8, 8), 200, np.float32))
    for name in ("int.tif", "five.tif", "bright.tif"):
        refused(name, "-o", "out.tif", words=(name,))


def test_output_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    put("file", b"")
    refused("good.jpg", "-o", "file/out.jpg", words=("'file/out.jpg'", "not a folder"))
    refused("good.jpg", "-o", "out.gif", words=("'out.gif'", ".png"))
    refused("good.jpg", "good.jpg", "toy", "-o", "out.png", words=("'out.png'", "a folder"))
    refused("good.jpg", "toy", "-o", "file", words=("'file'", "a folder"))
    refused("good.jpg", "-o", "x" * 300 + ".jpg", words=("too long", "shorter"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused("good.jpg", "-o", "out.jpg", words=("'out.jpg'", "not writable"))


def test_folder_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    refused("good.jpg", "-o", "out/", words=("'out'", "Permission denied"))


def test_output_equal_to_input() -> None:
    refused("good.jpg", "-o", "good.jpg", words=("'good.jpg'", "--overwrite"))
    refused("good.jpg", "-o", ".", words=("'good.jpg'", "--overwrite"))


@pytest.mark.parametrize("output", ["out.jpg", "good.jpg"])
def test_disk_full(monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    def fill(path: Path, data: bytes) -> NoReturn:
        path.write_bytes(data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "_write_and_sync", fill)
    refused("good.jpg", "-o", output, "--overwrite", words=(output, "disk is full"))


def test_unknown_model_and_device() -> None:
    refused("good.jpg", "-o", "out.jpg", words=("'huge'", "shipped"), model="huge")
    refused("good.jpg", "-o", "out.jpg", "--device", "abacus", words=("'abacus'", "'cpu'"))


def test_damaged_weights() -> None:
    path = Path("toy/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    refused("good.jpg", "-o", "out.jpg", words=("model.safetensors", "damaged", "sha256"))
    path.unlink()
    refused("good.jpg", "-o", "out.jpg", words=("model.safetensors", "copy"))


@pytest.mark.parametrize(
    "change",
    [{"channels": [16]}, {"channels": [16, 32]}, {"objective": "magic"}, {"colour": "red"}],
    ids=["levels", "widths", "objective", "unknown"],
)
def test_wrong_config(change: dict[str, Any]) -> None:
    path = Path("toy/config.json")
    config = json.loads(path.read_text())
    config["model"] |= change
    path.write_text(json.dumps(config))
    refused("good.jpg", "-o", "out.jpg", words=("config.json",))
    path.write_text("{")
    refused("good.jpg", "-o", "out.jpg", words=("config.json",))


def test_model_that_gives_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Denoiser, x_t: Tensor, *__: Any) -> Tensor:
        return x_t * float("nan")

    monkeypatch.setattr(Denoiser, "denoise", broken)
    refused("good.jpg", "-o", "out.jpg", words=("good.jpg", "not finite"))
