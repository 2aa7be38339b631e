"""`freqdiff deblur`: where results go, what they keep, and batches."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NoReturn

import commands
import numpy as np
import pytest
import toys

from freqdiff import batch
from freqdiff.photo import Metadata, Photo, read_photo, write_photo

pytestmark = pytest.mark.usefixtures("own_folder")


def deblur(*arguments: object, model: Path, code: int = 0) -> commands.Result:
    result = commands.run("deblur", *arguments, "--model", model)
    assert result.code == code, result.err
    return result


def photos(folder: str) -> set[str]:
    return set(commands.contents(Path(folder)))


def last_line(result: commands.Result) -> str:
    return result.out.splitlines()[-1]


def test_one_file_to_a_file(model: Path) -> None:
    source = commands.put_photo(Path("a.png"))
    before = source.read_bytes()
    result = deblur("a.png", "-o", "b.png", model=model)
    assert result.out.startswith("a.png -> b.png (64x48, ")
    pattern = r"1 written in \d+\.\d s, with \d+\.\d GB of memory"
    assert re.fullmatch(pattern, last_line(result))
    assert result.err == ""
    assert source.read_bytes() == before
    pixels = read_photo("b.png").pixels
    assert pixels.shape == (48, 64, 3)
    assert (pixels != read_photo("a.png").pixels).any()
    assert photos(".") == {"a.png", "b.png"}


@pytest.mark.parametrize("output", ["out", "new.d/", "made"])
def test_one_file_to_a_folder(model: Path, output: str) -> None:
    commands.put_photo(Path("a.png"))
    Path("made").mkdir()
    deblur("a.png", "-o", output, model=model)
    assert photos(output) == {"a.png"}


def test_same_seed_gives_the_same_file(model: Path) -> None:
    commands.put_photo(Path("a.png"))
    for name, seed in (("b.png", 3), ("c.png", 3), ("d.png", 4)):
        deblur("a.png", "-o", name, "--steps", 2, "--seed", seed, model=model)
    assert Path("b.png").read_bytes() == Path("c.png").read_bytes()
    assert Path("b.png").read_bytes() != Path("d.png").read_bytes()


def test_metadata_alpha_and_sample_type_are_kept(model: Path) -> None:
    pixels = toys.picture(48, 64).astype(np.uint16) * 257
    alpha = pixels[..., 0].copy()
    write_photo("a.png", Photo(pixels, alpha, metadata=Metadata(xmp=b"<x/>", dpi=(300, 300))))
    deblur("a.png", "-o", "b.png", model=model)
    source, result = read_photo("a.png"), read_photo("b.png")
    assert result.pixels.dtype == np.uint16
    np.testing.assert_array_equal(result.alpha, alpha)
    assert result.metadata == source.metadata


def test_quality(model: Path) -> None:
    commands.put_photo(Path("a.png"), 96, 96)
    for quality in (20, 95):
        deblur("a.png", "-o", f"{quality}.jpg", "--quality", quality, model=model)
    assert Path("20.jpg").stat().st_size < Path("95.jpg").stat().st_size / 2


def test_nothing_to_offer_gives_a_copy(tmp_path: Path) -> None:
    commands.put_photo(Path("a.jpg"))
    untrained = commands.untrained_model(tmp_path)
    result = deblur("a.jpg", "-o", "b.jpg", model=untrained)
    assert "note: no blur" in result.out
    assert Path("a.jpg").read_bytes() == Path("b.jpg").read_bytes()
    before = Path("a.jpg").stat().st_mtime_ns
    deblur("a.jpg", "-o", "a.jpg", "--overwrite", model=untrained)
    assert Path("a.jpg").stat().st_mtime_ns == before
    deblur("a.jpg", "-o", "c.png", model=untrained)
    np.testing.assert_array_equal(read_photo("a.jpg").pixels, read_photo("c.png").pixels)


def test_folders_keep_their_structure(model: Path) -> None:
    for name in ("a.jpg", "deep/b.png", "deep/er/c.tif", ".hidden/d.png", "deep/._e.jpg"):
        commands.put_photo(Path("in", name))
    Path("in/notes.txt").write_text("no photo")
    deblur("in", "-o", "flat", model=model)
    assert photos("flat") == {"a.jpg"}
    result = deblur("in", "-o", "all", "--recursive", model=model)
    assert photos("all") == {"a.jpg", "deep/b.png", "deep/er/c.tif"}
    assert "[3/3]" in result.out
    assert last_line(result).startswith("3 written in ")


def test_results_inside_the_input_are_no_input(model: Path) -> None:
    commands.put_photo(Path("in/a.png"))
    for _ in range(2):
        deblur("in", "-o", "in/out", "--recursive", model=model)
    assert photos("in") == {"a.png", "out/a.png"}


def test_formats_that_cannot_be_written_become_png(model: Path) -> None:
    from PIL import Image

    Image.fromarray(toys.picture(48, 64)).save("a.bmp")
    deblur("a.bmp", "-o", "out", model=model)
    assert photos("out") == {"a.png"}


def test_one_bad_file_stops_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands.put_photo(Path("in/a.png"))
    Path("in/b.jpg").write_text("no photo")
    commands.put_photo(Path("in/c.png"), 40, 40)
    commands.put_photo(Path("in/d.png"))
    genuine = batch.deblur_opened

    def broken(opened: Any, **options: Any) -> Any:
        if opened.rgb.shape[-1] == 40:
            raise RuntimeError("a bug")
        return genuine(opened, **options)

    monkeypatch.setattr(batch, "deblur_opened", broken)
    result = deblur("in", "no.jpg", "-o", "out", model=model, code=1)
    assert photos("out") == {"a.png", "d.png"}
    errors = result.err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("freqdiff: ") for line in errors)
    assert "'no.jpg'" in errors[0]
    assert "b.jpg" in errors[1]
    assert "c.png: Unexpected RuntimeError: a bug" in errors[2]
    assert last_line(result).startswith("2 written, 3 failed in ")


def test_nothing_to_do_but_complain(model: Path) -> None:
    result = deblur("no.jpg", "neither.jpg", "-o", "out", model=model, code=1)
    assert result.out == "2 failed\n"
    assert len(result.err.splitlines()) == 2


def test_json_and_quiet(model: Path) -> None:
    commands.put_photo(Path("a.png"))
    Path("b.png").write_bytes(b"")
    report = json.loads(deblur("a.png", "b.png", "-o", "out", "--json", model=model, code=1).out)
    assert {k: report[k] for k in ("written", "unchanged", "skipped", "failed")} == {
        "written": 1, "unchanged": 0, "skipped": 0, "failed": 1
    }  # fmt: skip
    assert report["seconds"] > 0
    assert report["peak_memory_bytes"] > 100e6
    good, bad = report["files"]
    assert (good["input"], good["output"], good["status"]) == ("a.png", "out/a.png", "written")
    assert (good["width"], good["height"], good["notes"]) == (64, 48, [])
    assert (bad["status"], bad["output"]) == ("failed", None)
    assert "empty" in bad["error"]
    quiet = deblur("a.png", "b.png", "-o", "out", "--quiet", model=model, code=1)
    assert quiet.out == ""
    commands.sentence(quiet.err, "b.png")


def test_skip_existing_checks_what_is_there(model: Path) -> None:
    for name in ("whole", "cut", "small", "new"):
        commands.put_photo(Path("in", f"{name}.png"))
    deblur("in", "-o", "out", model=model)
    expected = commands.contents(Path("out"))
    Path("out/new.png").unlink()
    Path("out/cut.png").write_bytes(expected["cut.png"][:2000])
    commands.put_photo(Path("out/small.png"), 20, 20)
    before = Path("out/whole.png").stat().st_mtime_ns
    result = deblur("in", "-o", "out", "--skip-existing", model=model)
    assert Path("out/whole.png").stat().st_mtime_ns == before
    assert commands.contents(Path("out")) == expected
    assert last_line(result).startswith("3 written, 1 skipped in ")
    assert "was there already" in result.out


def test_output_equal_to_input(model: Path) -> None:
    source = commands.put_photo(Path("a.png"))
    os.symlink("a.png", "link.png")
    os.link("a.png", "hard.png")
    before = source.read_bytes()
    for output in ("a.png", ".", "link.png", "hard.png"):
        result = commands.run("deblur", "a.png", "-o", output, "--model", model)
        commands.refused(result, "overwrit")
        assert source.read_bytes() == before
    deblur("a.png", "-o", "a.png", "--overwrite", model=model)
    assert read_photo("a.png").pixels.shape == (48, 64, 3)
    assert source.read_bytes() != before


def test_two_inputs_for_one_output(model: Path) -> None:
    for name in ("x/a.png", "y/a.png", "y/b.png"):
        commands.put_photo(Path(name))
    result = deblur("x", "y", "y/b.png", "-o", "out", model=model, code=1)
    commands.sentence(result.err, "'x/a.png' and 'y/a.png'", "out/a.png", "rename")
    assert photos("out") == {"b.png"}
    assert last_line(result).startswith("1 written, 2 failed in ")


def test_same_input_twice_is_done_once(model: Path) -> None:
    commands.put_photo(Path("in/a.png"))
    result = deblur("in", "in/a.png", "in/../in/a.png", "-o", "out", model=model)
    assert result.out.count("->") == 1


def test_links_to_folders_are_not_followed(model: Path) -> None:
    commands.put_photo(Path("in/a.png"))
    os.symlink("..", "in/up")
    deblur("in", "-o", "out", "--recursive", model=model)
    assert photos("out") == {"a.png"}


def test_unreadable_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> NoReturn:
        raise PermissionError(13, "Permission denied", str(path))

    Path("in").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    commands.refused(
        commands.run("deblur", "in", "-o", "out", "--model", model), "'in'", "Permission denied"
    )


def test_tile_and_steps_reach_the_model(model: Path) -> None:
    commands.put_photo(Path("a.png"), 200, 600)
    deblur("a.png", "-o", "whole.png", "--steps", 2, model=model)
    deblur("a.png", "-o", "tiled.png", "--steps", 2, "--tile", 400, model=model)
    whole, tiled = (read_photo(name).pixels.astype(int) for name in ("whole.png", "tiled.png"))
    assert abs(whole - tiled).max() <= 1
    result = commands.run("deblur", "a.png", "-o", "no.png", "--tile", 16, "--model", model)
    commands.refused(result, "a.png", "too small")
    assert not Path("no.png").exists()
