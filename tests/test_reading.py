"""Reading text: accuracy, order of the pieces, and what `--downstream ocr` reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from toys import random_denoiser

from freqdiff import reading
from freqdiff.checkpoint import save_model


@pytest.mark.parametrize(
    ("text", "truth", "expected"),
    [
        ("kitten", "sitting", 1 - 3 / 7),
        ("", "abc", 0),
        ("abc", "abc", 1),
        ("abcabcabc", "abc", 0),
        ("ab", "abcd", 0.5),
    ],
)
def test_character_accuracy(text: str, truth: str, expected: float) -> None:
    assert reading.character_accuracy(text, truth) == pytest.approx(expected)


def box(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_pieces_are_read_line_by_line() -> None:
    found = [
        (box(60, 3, 90, 19), "b c"),
        (box(0, 30, 40, 46), "d"),
        (box(0, 0, 50, 16), "a"),
        (box(50, 28, 90, 44), "e"),
    ]
    assert reading.in_order(found) == "abcde"
    assert reading.in_order([]) == ""


def write_text(path: Path, blurred: bool) -> None:
    picture = Image.new("RGB", (320, 96), (240, 240, 230))
    draw = ImageDraw.Draw(picture)
    draw.text((12, 12), "Learning to blur", fill=(20, 20, 60), font=ImageFont.load_default(28))
    draw.text((12, 52), "is to deblur 1234", fill=(20, 20, 60), font=ImageFont.load_default(28))
    if blurred:
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
        values = torch.nn.functional.avg_pool2d(values, (1, 15), 1, (0, 7))
        picture = Image.fromarray(values[0].byte().permute(1, 2, 0).numpy())
    path.parent.mkdir(exist_ok=True)
    picture.save(path)


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Blurred and sharp photos, and a model."""
    write_text(tmp_path / "blur" / "a.png", True)
    write_text(tmp_path / "sharp" / "a.png", False)
    save_model(tmp_path / "model", random_denoiser(), {})
    return tmp_path / "blur", tmp_path / "sharp", tmp_path / "model"


def test_report(pairs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = iter(["0123456789", "01234x", "012345678x"] * 2)

    def reader(image: Tensor) -> str:
        assert image.shape == (3, 96, 320)
        return next(texts)

    monkeypatch.setattr(reading, "rapid_reader", lambda: reader)
    *folders, model = pairs
    command = ("evaluate", "--pairs", *folders, "--model", model, "--downstream", "ocr")
    code, out, err = commands.run(*command, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["downstream"] == {
        "task": "ocr",
        "metric": "character accuracy",
        "unit": "characters",
        "amount": 10,
        "photos": 1,
        "sharp": 1,
        "input": pytest.approx(0.5),
        "output": pytest.approx(0.9),
        "recovered": pytest.approx(0.8),
    }
    assert facts["images"][0]["downstream"]["output"] == pytest.approx(0.9)
    assert "50% -> 90%, 80% of the loss recovered" in commands.run(*command).out


def test_photos_without_text(
    pairs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "rapid_reader", lambda: lambda image: "")
    *folders, model = pairs
    command = ("evaluate", "--pairs", *folders, "--model", model, "--downstream", "ocr", "--json")
    facts = json.loads(commands.run(*command).out)
    assert facts["downstream"]["amount"] == 0
    assert facts["downstream"]["recovered"] is None


def test_the_reader_is_missing(
    pairs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    command = ("evaluate", "--pairs", *pairs[:2], "--downstream", "ocr")
    commands.refused(commands.run(*command), 'pip install "freqdiff-deblur[downstream]"')


def test_reading_for_real(tmp_path: Path) -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    read = reading.rapid_reader()
    for name, blurred in (("sharp", False), ("blurred", True)):
        write_text(tmp_path / name / "a.png", blurred)
    sharp, soft = (
        torch.from_numpy(np.array(Image.open(tmp_path / name / "a.png"))).permute(2, 0, 1) / 255
        for name in ("sharp", "blurred")
    )
    truth = "Learningtobluristodeblur1234"
    assert reading.character_accuracy(read(sharp), truth) > 0.9
    assert reading.character_accuracy(read(soft), truth) < 0.5
