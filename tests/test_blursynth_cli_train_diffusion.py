"""The command `blursynth train-diffusion`: what it says, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import Result, refused, run
from PIL import Image
from tiny_base import tiny
from toys import picture

from blursynth.cli import main
from blursynth.diffusion_load import LORA_FILE, load_pipeline

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    tiny().save_pretrained(folder / "base")
    for name, side in (("sharp", 160), ("small", 100), ("empty", 0)):
        (folder / name).mkdir()
        if side:
            Image.fromarray(picture(side, side)).save(folder / name / "a.png")
    return folder


def train(root: Path, *options: object, stage: str = "base", sharp: str = "sharp") -> Result:
    fixed = ["--stage", stage, "--sharp", root / sharp, "--out", root / stage, "--crop", 64]
    fixed += ["--batch", 1, "--steps", 1, "--device", "cpu"]
    return run("train-diffusion", *fixed, *options, main=main)


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def test_three_stages_one_after_the_other(root: Path) -> None:
    codec = train(root, "--base", root / "base", stage="codec")
    assert codec.code == 0, codec.err
    assert "Training of codec starts on cpu: 1 steps of 1 pairs of 64 px from 1 photos" in codec.out
    made = root / "codec" / "model"
    assert f"Done: blursynth train-diffusion --stage base --base {made}" in codec.out
    base = train(root, "--base", made)
    assert f"--engine diffusion:{root / 'base' / 'model'}" in base.out, base.err
    options = ["--base", root / "base" / "model", "--real", root / "sharp", "--rank", 2]
    align = train(root, *options, stage="align")
    assert align.code == 0, align.err
    word = align.out.strip().rpartition("diffusion:")[2]
    name, _, lora = word.partition(",lora=")
    assert (Path(lora) / LORA_FILE).is_file()
    load_pipeline(name, lora=lora)
    again = train(root, *options, "--steps", 2, "--quiet", stage="align")
    assert again.out.startswith("Done: ")


def test_a_run_that_is_not_finished_says_so(root: Path, tmp_path: Path) -> None:
    options = ["--base", root / "base", "--minutes", 1e-6, "--steps", 1000, "--out", tmp_path]
    result = train(root, *options)
    assert result.code == 0
    assert "Stopped at step 1 of 1000; the same command goes on from there" in result.out
    assert "goes on at step 1 on cpu" in train(root, *options).out
    refused(train(root, *options, "--rate", 0.5), "other settings or photos", program="blursynth")


def test_a_learning_rate_is_above_zero(root: Path) -> None:
    result = train(root, "--base", root / "base", "--rate", 0)
    refused(result, "expected a learning rate above 0, got '0'", code=2, program="blursynth")


@pytest.mark.parametrize(
    ("stage", "options", "words"),
    [
        ("align", ["--real", "{}/sharp"], "needs a base"),
        ("base", ["--base", "{}/sharp"], "model_index.json"),
        ("base", ["--base", "{}/base", "--learn", "unet,vae"], "no part 'vae'"),
        ("base", ["--base", "{}/base", "--finish"], "--finish goes with --minutes"),
        ("base", ["--base", "{}/base", "--rank", "4"], "--rank is for the stage 'align'"),
        ("base", ["--base", "{}/base", "--hold-out"], "--hold-out is for the stage 'align'"),
        ("base", ["--base", "{}/base", "--crop", "68"], "multiple of 8 px"),
        ("codec", ["--base", "{}/base", "--real", "{}/sharp"], "leave them out"),
        ("align", ["--base", "{}/base"], "needs real blurred photos"),
        ("align", ["--base", "{}/base", "--real", "{}/empty"], "holds no photos"),
    ],
)
def test_bad_input(root: Path, tmp_path: Path, stage: str, options: list[str], words: str) -> None:
    given = [option.format(root) for option in options]
    result = train(root, *given, "--out", tmp_path / "out", stage=stage)
    refused(result, words, program="blursynth")
    assert not (tmp_path / "out").exists()


def test_photos_that_cannot_be_used(root: Path, tmp_path: Path) -> None:
    for folder, words in (
        ("none", "is not a folder"),
        ("empty", "holds no photos"),
        ("small", "128 px on each side"),
    ):
        result = train(root, "--base", root / "base", "--out", tmp_path, sharp=folder)
        refused(result, words, program="blursynth")
    result = train(root, "--base", root / "base", "--out", root / "small" / "a.png")
    refused(result, program="blursynth")


def test_a_package_that_is_not_there_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    result = train(root, "--base", root / "base")
    refused(result, "needs the package tensorboard", "-deblur[train]", program="blursynth")


def test_help_fits_on_a_page() -> None:
    shown = run("train-diffusion", "--help", main=main).out.splitlines()
    assert len(shown) <= 36
    assert max(map(len, shown)) <= 80
