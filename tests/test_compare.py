"""Pictures of before and after: what they show, and where `freqdiff deblur --compare` puts them."""

from __future__ import annotations

from pathlib import Path

import commands
import numpy as np
import pytest
import torch
import toys
from PIL import Image, ImageCms

from freqdiff import compare_picture
from freqdiff.compare_picture import PANEL, draw_comparison, most_changed
from freqdiff.photo import Metadata, Photo, read_photo, write_photo

pytestmark = pytest.mark.usefixtures("own_folder")


def compare(*arguments: object, model: Path) -> commands.Result:
    result = commands.run("deblur", *arguments, "--model", model)
    assert (result.code, result.err) == (0, "")
    return result


@pytest.mark.parametrize("place", [(0, 0), (100, 40), (240, 340)])
def test_the_most_changed_place_is_found(place: tuple[int, int]) -> None:
    before = torch.zeros(3, 300, 420)
    after = before.clone()
    after[:, place[0] : place[0] + 60, place[1] : place[1] + 80] = 0.5
    top, left = most_changed(before, after, (96, 112))
    assert 0 <= top <= place[0] <= place[0] + 60 <= top + 96 <= 300
    assert 0 <= left <= place[1] <= place[1] + 80 <= left + 112 <= 420


@pytest.mark.parametrize("size", [(1, 1), (5, 700), (700, 5), (33, 47)])
def test_photos_of_any_size_are_drawn(size: tuple[int, int]) -> None:
    before = torch.rand(3, *size)
    sheet = draw_comparison(before, before.flip(-1))
    assert max(sheet.size) < 5 * PANEL


def test_a_large_photo_has_its_detail_pixel_by_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_picture, "PANEL", 100)
    before = toys.photo(200, 300)
    after = before.clone()
    after[:, 112:144, 160:240] = 1 - after[:, 112:144, 160:240]
    sheet = np.asarray(draw_comparison(before, after))
    assert sheet.shape == (2 * (67 + 26) + 8, 2 * 100 + 8, 3)
    top, left = most_changed(before, after, (67, 100))
    for image, column in ((before, 0), (after, 108)):
        detail = sheet[-67:, column : column + 100]
        expected = (image * 255).round().byte().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(detail, expected[top : top + 67, left : left + 100])


def test_one_photo_to_a_file(model: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    write_photo("a.jpg", Photo(toys.picture(48, 64), metadata=Metadata(icc=icc)))
    result = compare("a.jpg", "-o", "b.png", "--compare", "both.png", model=model)
    assert "compared in both.png" in result.out
    with Image.open("both.png") as sheet:
        assert sheet.info["icc_profile"] == icc
        assert sheet.size == (2 * 64 + 8, 2 * (48 + 26) + 8)
        parts = [np.asarray(sheet.crop((x, 26, x + 64, 74)).convert("RGB")) for x in (0, 72)]
    for shown, name in zip(parts, ("a.jpg", "b.png"), strict=True):
        # But for the frame around the detail.
        same = (shown == read_photo(name).pixels).all(-1)
        assert same.mean() > 0.8
    assert set(commands.contents(Path())) == {"a.jpg", "b.png", "both.png"}


def test_a_grey_photo_with_its_profile(model: Path) -> None:
    grey = toys.picture(48, 64)[..., :1].astype(np.uint16) * 257
    write_photo("a.tif", Photo(grey, metadata=Metadata(icc=b"a profile for grey")))
    compare("a.tif", "-o", "b.tif", "--compare", "c.png", model=model)
    photo = read_photo("c.png")
    assert photo.metadata.icc is None
    assert photo.pixels.shape[2] == 3


def test_folders_keep_their_structure(model: Path) -> None:
    for name in ("a.jpg", "deep/a.png", "deep/a.jpg"):
        commands.put_photo(Path("in", name))
    arguments = ("in", "-o", "out", "--recursive", "--compare", "both")
    compare(*arguments, model=model)
    assert set(commands.contents(Path("both"))) == {"a.jpg", "deep/a.png", "deep/a.jpg"}
    Path("both/a.jpg").unlink()
    result = compare(*arguments, "--skip-existing", model=model)
    assert Path("both/a.jpg").exists()
    assert result.out.splitlines()[-1].startswith("1 written, 2 skipped in ")


def test_one_photo_to_a_folder(model: Path) -> None:
    commands.put_photo(Path("a.png"))
    Path("made").mkdir()
    compare("a.png", "-o", "b.png", "--compare", "made", model=model)
    compare("a.png", "-o", "out", "--compare", "new/", model=model)
    assert Path("made/b.png").exists()
    assert Path("new/a.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.png", "-o", "b.png", "--compare", "c.gif/../c.bmp"), ("c.bmp", "a folder")),
        (("a.png", "-o", "b.png", "--compare", "b.png"), ("'b.png'", "--compare")),
        (("a.png", "-o", "b.png", "--compare", "a.png"), ("'a.png'", "--compare")),
        (("a.png", "c.png", "-o", "out", "--compare", "d.png"), ("'d.png'", "a folder")),
        (("a.png", "c.png", "-o", "out", "--compare", "out"), ("'out/a.png'", "--compare")),
        (("a.png", "-o", "b.png", "--compare", "notes"), ("'notes'", "a folder")),
        (("a.png", "-o", "b.png", "--compare", "notes/c.png"), ("'notes/c.png'", "not a folder")),
    ],
)
def test_what_is_refused(model: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    for name in ("a.png", "c.png"):
        commands.put_photo(Path(name))
    Path("notes").write_text("no photo")
    before = commands.contents(Path())
    commands.refused(commands.run("deblur", *arguments, "--model", model), *words)
    assert commands.contents(Path()) == before
