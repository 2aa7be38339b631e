"""Measuring: the numbers, the report, and what `freqdiff evaluate` refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

import commands
import numpy as np
import pytest
import torch
import toys
from PIL import Image, ImageFilter
from torch import Tensor

import freqdiff
from freqdiff.evaluate import METRICS, mean
from freqdiff.images import open_image
from freqdiff.metrics import compare
from freqdiff.photo import Photo, read_photo, write_photo
from freqdiff.tone import srgb_to_linear


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    commands.toy_model(folder)
    commands.untrained_model(folder)
    return folder


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, source in (("a", "astronaut"), ("b", "coffee")):
        sharp = Image.fromarray(toys.picture(96, 112, source))
        for folder, image in (("sharp", sharp), ("blur", sharp.filter(ImageFilter.BoxBlur(2)))):
            Path(folder).mkdir(exist_ok=True)
            image.save(f"{folder}/{name}.png")


def strict(text: str) -> dict[str, Any]:
    """Parse JSON that holds neither NaN nor infinity."""

    def refuse(name: str) -> NoReturn:
        raise AssertionError(f"{name} is no JSON")

    report: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return report


def evaluate(*arguments: object, model: Path) -> dict[str, Any]:
    code, out, err = commands.run("evaluate", *arguments, "--model", model, "--json")
    assert (code, err) == (0, "")
    return strict(out)


def rgb(path: str) -> Tensor:
    return open_image(path).rgb[0]


def test_pairs(models: Path) -> None:
    report = evaluate("--pairs", "blur", "sharp", "--save", "out", model=models / "toy")
    assert (report["kind"], report["count"], report["matched_by"]) == ("pairs", 2, "equal names")
    for name, image in zip("ab", report["images"], strict=True):
        assert image["name"] == f"{name}.png"
        assert (image["width"], image["height"]) == (112, 96)
        before = compare(rgb(f"blur/{name}.png"), rgb(f"sharp/{name}.png"))
        after = compare(rgb(f"out/{name}.png"), rgb(f"sharp/{name}.png"))
        assert image["input"] == before
        assert image["output"] == after
        assert image["gain"] == {key: after[key] - before[key] for key in METRICS}
    for row in ("input", "output", "gain"):
        for key in METRICS:
            values = [image[row][key] for image in report["images"]]
            assert report[row][key] == pytest.approx(np.mean(values), abs=1e-12)
    means = [rgb(f"{folder}/a.png").mean((1, 2)) for folder in ("blur", "out")]
    shift = 255 * float((means[1] - means[0]).abs().max())
    assert report["images"][0]["colour_shift"] == pytest.approx(shift, abs=1e-4)
    worst = min(image["output"]["psnr_rgb"] for image in report["images"])
    assert report["worst"] == {"psnr_rgb": worst}
    assert report["unchanged"] == 0


def test_provenance(models: Path) -> None:
    report = evaluate("--pairs", "blur", "sharp", "--limit", 1, "--steps", 2, model=models / "toy")
    assert report["count"] == len(report["images"]) == 1
    assert report["steps"] == 2
    assert report["torch"] == torch.__version__
    assert report["device"] == str(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    assert len(report["model_sha256"]) == 64
    assert report["seconds_per_megapixel"] > 0
    assert report["peak_memory_bytes"] > 0
    assert {"freqdiff", "git", "date", "seed", "tile", "model", "data"} <= set(report)


def test_sharp_photos_through_a_model_that_does_nothing(models: Path) -> None:
    report = evaluate("--unharmed", "sharp", model=models / "untrained")
    assert report["input"] == {"psnr_rgb": None, "psnr_y": None, "ssim_matlab3d": 1.0}
    assert report["output"] == {"psnr_rgb": None, "psnr_y": None, "ssim_matlab3d": 1.0}
    assert report["gain"] == dict.fromkeys(METRICS)
    assert report["worst"] == {"psnr_rgb": None}
    assert report["colour_shift"] == {"mean": 0.0, "worst": 0.0}
    assert (report["unchanged"], report["count"]) == (2, 2)


def test_sharp_photos_through_a_model_that_harms(models: Path) -> None:
    report = evaluate("--unharmed", "sharp", "--save", "out", model=models / "toy")
    values = [compare(rgb(f"out/{n}.png"), rgb(f"sharp/{n}.png"))["psnr_rgb"] for n in "ab"]
    assert report["output"]["psnr_rgb"] == pytest.approx(np.mean(values))
    assert report["worst"]["psnr_rgb"] == min(values)
    assert 0 < report["colour_shift"]["mean"] <= report["colour_shift"]["worst"]


def test_identical_pairs(models: Path) -> None:
    Path("blur/a.png").write_bytes(Path("sharp/a.png").read_bytes())
    report = evaluate("--pairs", "blur", "sharp", model=models / "toy")
    same, other = report["images"]
    assert same["input"] == {"psnr_rgb": None, "psnr_y": None, "ssim_matlab3d": 1.0}
    assert same["gain"]["psnr_rgb"] is None
    assert report["input"]["psnr_rgb"] == other["input"]["psnr_rgb"]
    assert report["gain"]["psnr_rgb"] == other["gain"]["psnr_rgb"]


def test_synthetic_blur_depends_on_the_seed_alone(models: Path) -> None:
    options = ("--synthetic", "sharp", "--save", "out")
    first = evaluate(*options, "--seed", 5, model=models / "untrained")
    blurred = rgb("out/a.input.png")
    again = evaluate(*options, "--seed", 5, model=models / "untrained")
    assert first["input"] == again["input"]
    assert first["output"] == first["input"]
    assert first["gain"] == dict.fromkeys(METRICS, 0)
    assert first["images"][0]["input"] == compare(blurred, rgb("sharp/a.png"))
    other = evaluate("--synthetic", "sharp", "--seed", 6, model=models / "untrained")
    assert other["input"] != first["input"]
    both = evaluate("--synthetic", "sharp", "--seed", 5, "--draws", 2, model=models / "untrained")
    assert [image["name"] for image in both["images"]] == [
        "5/a.png",
        "5/b.png",
        "6/a.png",
        "6/b.png",
    ]
    scores = [image["input"] for image in both["images"]]
    assert scores == [image["input"] for image in first["images"] + other["images"]]
    Image.open("sharp/a.png").save("sharp/c.png")
    third = evaluate("--synthetic", "sharp", "--seed", 5, model=models / "untrained")
    assert third["images"][2]["input"] != third["images"][0]["input"]


def test_grey_and_deep_photos(models: Path) -> None:
    grey = toys.picture(64, 64)[..., :1]
    write_photo("blur/a.png", Photo(grey))
    write_photo("sharp/a.png", Photo(np.ascontiguousarray(grey[::-1])))
    deep = toys.picture(64, 64).astype(np.uint16) * 257
    write_photo("blur/b.tif", Photo(deep))
    Path("blur/b.png").unlink()
    write_photo("sharp/b.png", Photo(deep[::-1].copy()))
    report = evaluate("--pairs", "blur", "sharp", "--save", "out", model=models / "toy")
    assert read_photo("out/a.png").pixels.shape[2] == 1
    assert read_photo("out/b.tif.png").pixels.dtype == np.uint16
    for image, result in zip(report["images"], ("a.png", "b.tif.png"), strict=True):
        truth = rgb(f"sharp/{result[0]}.png")
        assert image["output"] == compare(rgb(f"out/{result}"), truth)


def test_table_and_output_file(models: Path) -> None:
    options = ("--model", models / "toy", "--output", "results.json")
    code, out, err = commands.run("evaluate", "--pairs", "blur", "sharp", *options)
    assert (code, err) == (0, "")
    report = strict(Path("results.json").read_text())
    assert f"{report['output']['psnr_rgb']:.2f}" in out
    assert f"{report['gain']['ssim_matlab3d']:+.4f}" in out
    assert "SSIM matlab3d" in out
    code, out, _ = commands.run("evaluate", "--unharmed", "sharp", *options)
    assert code == 0
    assert strict(Path("results.json").read_text())["kind"] == "unharmed"


def test_other_matching_is_said(models: Path) -> None:
    Path("blur/a.png").rename("blur/blur1.png")
    Path("blur/b.png").rename("blur/blur2.png")
    arguments = ("evaluate", "--pairs", "blur", "sharp", "--model", models / "toy", "--json")
    code, out, err = commands.run(*arguments)
    assert code == 0
    commands.sentence(err, "matched by natural order")
    assert [image["sharp"] for image in strict(out)["images"]] == ["a.png", "b.png"]


def refused(*arguments: object, words: tuple[object, ...], model: Path) -> None:
    before = commands.contents(Path())
    commands.refused(commands.run("evaluate", *arguments, "--model", model), *words)
    assert commands.contents(Path()) == before


def test_what_is_refused(models: Path) -> None:
    model = models / "toy"
    Path("empty").mkdir()
    refused("--unharmed", "empty", words=("'empty'", "no photos"), model=model)
    refused("--synthetic", "none", words=("'none'", "not a folder"), model=model)
    refused("--pairs", "blur", "empty", words=("'empty'", "no photos"), model=model)
    refused("--unharmed", "sharp", words=("'huge'",), model=Path("huge"))
    for folder in ("blur", "sharp"):
        options = ("--pairs", "blur", "sharp", "--save", folder)
        refused(*options, words=("--save", folder), model=model)
    options = ("--unharmed", "sharp", "--output", "sharp/a.png/r.json")
    refused(*options, words=("not a folder",), model=model)
    options = ("--unharmed", "sharp", "--tile", 8)
    refused(*options, words=("too small",), model=model)


def test_sizes_that_differ_and_bad_photos(models: Path) -> None:
    commands.put_photo(Path("sharp/b.png"), 50, 60)
    words = ("'blur/b.png' has 112x96", "'sharp/b.png' has 60x50")
    refused("--pairs", "blur", "sharp", words=words, model=models / "toy")
    Path("sharp/b.png").write_bytes(b"")
    for options in (("--pairs", "blur", "sharp"), ("--unharmed", "sharp")):
        refused(*options, words=("sharp/b.png", "empty"), model=models / "toy")
    Path("sharp/b.png").unlink()
    refused("--pairs", "blur", "sharp", words=("'b.png'", "same name"), model=models / "toy")


def test_mean_of_finite_values() -> None:
    assert mean([1.0, math.inf, 3.0, math.nan]) == 2
    assert mean([math.inf]) is None


def test_a_shift_is_forgiven_where_it_is_asked_for(models: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        sharp = np.asarray(Image.open(f"sharp/{name}.png"))
        Image.fromarray(np.roll(sharp, (2, -3), (0, 1))).save(f"blur/{name}.png")
    pairs = ("--pairs", "blur", "sharp")
    plain, aligned = (evaluate(*pairs, *o, model=models / "untrained") for o in ((), ("--align",)))
    assert (plain["aligned"], aligned["aligned"]) == (False, True)
    assert plain["input"]["psnr_rgb"] < 25
    # Equal up to the shift: an infinite PSNR is left out of the mean.
    assert aligned["input"] == {"psnr_rgb": None, "psnr_y": None, "ssim_matlab3d": 1}
    assert aligned["output"] == aligned["input"]


def test_pairs_in_linear_light(models: Path) -> None:
    for folder in ("blur", "sharp"):
        Path(f"linear_{folder}").mkdir()
        light = srgb_to_linear(rgb(f"{folder}/a.png")).permute(1, 2, 0).numpy()
        write_photo(f"linear_{folder}/a.png", Photo((light * 65535).round().astype(np.uint16)))
    model, pairs = models / "toy", ("--pairs", "linear_blur", "linear_sharp")
    report = evaluate(*pairs, "--linear", "--save", "out", model=model)
    blurred, sharp = (f"linear_{folder}/a.png" for folder in ("blur", "sharp"))
    result = freqdiff.deblur(blurred, model=str(model), linear=True)
    assert np.array_equal(read_photo("out/a.png").pixels, result)
    # As the files hold them, not in the curve in which the model works.
    assert report["images"][0]["input"] == compare(rgb(blurred), rgb(sharp))
    assert report["images"][0]["output"] == compare(rgb("out/a.png"), rgb(sharp))
    plain = evaluate(*pairs, model=model)
    assert (report["linear"], plain["linear"]) == (True, False)
    assert plain["input"] == report["input"]
    assert plain["output"] != report["output"]
    refused("--unharmed", "sharp", "--linear", words=("--linear", "--pairs"), model=model)


def test_photos_that_are_too_small_to_be_aligned_are_refused(models: Path) -> None:
    for side in ("blur", "sharp"):
        Image.fromarray(toys.picture(40, 90)).save(f"{side}/a.png")
    model = models / "untrained"
    pairs = ("--pairs", "blur", "sharp")
    code, _, err = commands.run("evaluate", *pairs, "--align", "--model", model)
    assert code == 1
    assert "90 x 40 pixels is too small to be compared up to a shift" in err
