"""What the web page does with a photo: the file of the command line, pictures, progress, errors."""

from __future__ import annotations

from pathlib import Path

import commands
import numpy as np
import pytest
import torch
import toys
from PIL import Image

from freqdiff import web_job
from freqdiff.api import Details
from freqdiff.batch import Settings
from freqdiff.deblurrer import Deblurrer, load
from freqdiff.errors import PhotoError
from freqdiff.photo import Metadata, Photo, write_photo
from freqdiff.self_check import SelfCheck
from freqdiff.web_job import Cancelled, Sharpened, describe, safe_name, sharp_name, sharpen

pytestmark = pytest.mark.usefixtures("own_folder")


def put(name: str, kind: str) -> Path:
    pixels = toys.picture(90, 130)
    metadata = Metadata(xmp=b"<x/>", dpi=(300, 300), icc=b"a profile")
    if kind == "deep":
        deep = pixels.astype(np.uint16) * 257
        write_photo(name, Photo(deep, deep[..., 0].copy(), metadata=metadata))
    elif kind == "grey":
        write_photo(name, Photo(pixels[..., :1].copy(), metadata=metadata))
    elif kind == "bmp":
        Image.fromarray(pixels).save(name)
    else:
        write_photo(name, Photo(pixels, metadata=metadata))
    return Path(name)


def run(photo: Path, model: Deblurrer, settings: Settings, max_pixels: int = 10**6) -> Sharpened:
    folder = Path("job")
    folder.mkdir()
    return sharpen(photo, folder, model, settings, max_pixels, lambda share, what: None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jpg", "colour"),
        ("a.tif", "deep"),
        ("b.png", "deep"),
        ("a.png", "grey"),
        ("a.bmp", "bmp"),
    ],
)
def test_the_file_is_that_of_the_command_line(model: Path, name: str, kind: str) -> None:
    photo = put(name, kind)
    made = run(photo, load(str(model)), Settings(steps=2, ensemble=2))
    options = ("--model", model, "--steps", 2, "--ensemble", 2)
    expected = Path("expected", made.result.name)
    assert commands.run("deblur", photo, "-o", expected, *options).code == 0
    assert made.result.read_bytes() == expected.read_bytes()
    assert made.maps is None  # the toy does not estimate the blur
    for pair in (made.whole, made.detail):
        with Image.open(pair[0]) as before, Image.open(pair[1]) as after:
            assert before.size == after.size == (130, 90)
            assert before.info.get("icc_profile") == (
                b"a profile" if kind in ("colour", "deep") else None
            )


def test_a_photo_without_blur_is_the_same_file(tmp_path: Path) -> None:
    photo = put("a.jpg", "colour")
    made = run(photo, load(str(commands.untrained_model(tmp_path))), Settings())
    assert made.result.read_bytes() == photo.read_bytes()
    assert "% of the photo changed" not in " ".join(made.lines)
    assert made.lines[-1].startswith("No blur that this model can remove was found")


def test_progress_goes_up_from_the_start(model: Path) -> None:
    photo = put("a.jpg", "colour")
    said: list[tuple[float, str]] = []
    Path("job").mkdir()
    settings = Settings(steps=3)
    sharpen(photo, Path("job"), load(str(model)), settings, 10**6, lambda *now: said.append(now))
    shares = [share for share, _ in said]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] < 1
    texts = [text for _, text in said]
    assert texts[:2] == ["Reading the photo", "Measuring the blur"]
    assert "Sharpening part 3 of 3" in texts


@pytest.mark.parametrize("at", ["Reading", "Sharpening", "Writing"])
def test_cancelled_work_leaves_no_result(model: Path, at: str) -> None:
    def report(share: float, what: str) -> None:
        if what.startswith(at):
            raise Cancelled

    photo = put("a.jpg", "colour")
    Path("job").mkdir()
    with pytest.raises(Cancelled):
        sharpen(photo, Path("job"), load(str(model)), Settings(steps=2), 10**6, report)
    assert list(Path("job").iterdir()) == []


def test_what_is_no_photo_is_named_without_its_place(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "holiday.jpg"
    text.write_text("Dear diary")
    with pytest.raises(PhotoError, match=r"^Cannot read 'holiday.jpg': it is not a picture"):
        run(text, load(str(model)), Settings())


def test_too_many_pixels(model: Path) -> None:
    photo = put("a.jpg", "colour").absolute()
    expected = r"'a.jpg': it has 130 x 90 pixels; expected at most 5,000"
    with pytest.raises(PhotoError, match=expected):
        run(photo, load(str(model)), Settings(), max_pixels=5000)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("IMG 0815 (2).JPG", "IMG 0815 (2).JPG"),
        ("Zürich-夜.jpeg", "Zürich-夜.jpeg"),
        ("../../etc/passwd", "passwd"),
        ("..", "photo"),
        (".htaccess", "htaccess"),
        ("-rf.png", "rf.png"),
        ("<img src=x onerror=alert(1)>.png", "_img src_x onerror_alert(1)_.png"),
        ('a"; rm *;`id`$(id).jpg', "a__ rm ___id__(id).jpg"),
        ("a\r\nSet-Cookie: b.jpg", "a__Set-Cookie_ b.jpg"),
        ("a" * 300 + ".jpg", "a" * 80 + ".jpg"),
        ("a.jpg" + "b" * 300, "a.jpgbbbbbb"),
        ("con ", "con"),
        ("", "photo"),
    ],
)
def test_names_are_harmless(name: str, expected: str) -> None:
    assert safe_name(name) == expected


def test_names_of_results() -> None:
    assert sharp_name("a.JPG") == "a_sharp.JPG"
    assert sharp_name("a.bmp") == "a_sharp.png"
    assert sharp_name("../a") == "a_sharp.png"


@pytest.mark.parametrize(
    ("angle", "words"),
    [(0, "sideways"), (46, "down to the right"), (90, "up and down"), (179, "sideways")],
)
def test_sentences(angle: float, words: str) -> None:
    maps = [np.full((4, 4), value, np.float32) for value in (9, 3, angle, 0.01, 0.7)]
    check = SelfCheck(*(torch.from_numpy(values) for values in maps))
    pixels = toys.picture(8, 8)
    details = Details(pixels, True, ("converted from CMYK",), "tiny", 1, 0, 1, 2.04, check, 0.341)
    first, second, third, note = describe(details, (4000, 3000))
    assert first == "4000 x 3000 pixels in 2.0 s; 34% of the photo changed."
    assert "about 9 pixels along and 3 across, mostly" in second
    assert words in second
    assert third.startswith("In 100% of the photo")
    assert note == "Converted from CMYK."


def test_the_detail_is_a_part_in_full_size(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_job, "DETAIL", (40, 60))
    made = run(put("a.png", "colour"), load(str(model)), Settings(steps=1))
    with Image.open(made.detail[0]) as detail, Image.open("a.png") as photo:
        assert detail.size == (60, 40)
        shown = np.asarray(detail.convert("L")).astype(int)
        pixels = np.asarray(photo.convert("L")).astype(int)
    places = [(top, left) for top in range(51) for left in range(71)]
    parts = (pixels[top : top + 40, left : left + 60] for top, left in places)
    assert min(abs(part - shown).mean() for part in parts) < 4  # of JPEG
