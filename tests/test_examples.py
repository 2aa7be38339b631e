"""The examples of docs/examples run as people run them."""

from __future__ import annotations

import importlib.util
import runpy
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import photo, picture

import freqdiff.cli
from freqdiff.checkpoint import shipped_models

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
PAGE = (EXAMPLES / "README.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif("tiny" not in shipped_models(), reason="no weights are shipped")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs an example in a folder with two photos and a file that is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name, size in (("a", (96, 128)), ("b", (64, 64))):
        Image.fromarray(picture(*size, "coffee")).save(f"in/{name}.jpg", quality=97)
        Image.fromarray(picture(*size, "coffee")).save(f"in/{name}.png")

    def start(name: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    with torch.random.fork_rng():
        yield start


def test_every_example_is_listed_and_tested() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    for path in [*EXAMPLES.glob("*.py"), EXAMPLES / "comfyui_freqdiff"]:
        assert f"({path.name})" in PAGE
        assert f'"{path.name}"' in tested


def test_commands_of_the_page_are_understood() -> None:
    commands = [line for line in PAGE.splitlines() if line.startswith("freqdiff ")]
    assert len(commands) >= 2
    for line in commands:
        freqdiff.cli.build_parser().parse_args(shlex.split(line)[1:])


def test_one_photo(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("deblur_photo.py", "in/a.jpg", "sharp.jpg")
    with Image.open("sharp.jpg") as sharp:
        assert sharp.size == (128, 96)
    assert "confidence 0." in capsys.readouterr().out


def test_folder(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in/bad.jpg").write_text("no photo", encoding="utf-8")
    run("batch_with_callback.py", "in", "out")
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.jpg", "b.jpg"]
    printed = capsys.readouterr().out
    assert "100 %" in printed
    assert "bad.jpg: " in printed


def test_network(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("in_a_torch_pipeline.py", "in/a.jpg")
    assert float(capsys.readouterr().out.split()[1]) > 0


def test_diffusers(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    run("diffusers_style.py", "in/a.png", "sharp.png")
    assert capsys.readouterr().out.count("contrast of the estimate") == 4
    expected = freqdiff.deblur("in/a.png", steps=4, seed=7)
    difference = np.asarray(Image.open("sharp.png"), int) - np.asarray(expected, int)
    assert np.abs(difference).max() <= 1


def test_frames(run: Any) -> None:
    run("video_frames.py", "in", "out")
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.png"]
    assert np.array_equal(Image.open("out/a.png"), freqdiff.deblur("in/a.png"))


def test_pairs(run: Any) -> None:
    run("training_pairs.py", "in", "out")
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == [f"{name}_{kind}.png" for name in "ab" for kind in ("blurred", "sharp")]
    blurred, sharp = (
        np.asarray(Image.open(f"out/a_{kind}.png"), int) for kind in ("blurred", "sharp")
    )
    assert np.abs(blurred - sharp).mean() > 1


def test_batches(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Path("photos").mkdir()
    Image.fromarray(picture(700, 800)).save("photos/large.png")
    run("data_loader.py", "photos")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", mean")[0] for line in lines] == [
        f"step {step}: (8, 3, 128, 128)" for step in range(3)
    ]


@pytest.mark.slow
def test_onnx_runtime(run: Any) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    command = "export --format onnx --size 96 128 -o freqdiff.onnx"
    assert freqdiff.cli.main(shlex.split(command)) == 0
    run("onnx_runtime.py", "freqdiff.onnx", "in/a.png", "sharp.png")
    difference = np.asarray(Image.open("sharp.png"), int) - np.asarray(
        freqdiff.deblur("in/a.png"), int
    )
    assert np.abs(difference).max() <= 1


@pytest.fixture
def comfyui() -> types.ModuleType:
    """The folder imported as ComfyUI imports custom nodes."""
    folder = EXAMPLES / "comfyui_freqdiff"
    spec = importlib.util.spec_from_file_location(
        "comfyui_freqdiff", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["comfyui_freqdiff"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_comfyui_node(comfyui: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called as ComfyUI calls nodes: widgets by the names of INPUT_TYPES, a tuple of outputs."""
    steps = []

    class ProgressBar:
        def __init__(self, total: int) -> None:
            assert total > 0

        def update_absolute(self, value: int, total: int) -> None:
            steps.append((value, total))

    stub = types.ModuleType("comfy.utils")
    stub.ProgressBar = ProgressBar  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfy", types.ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.utils", stub)
    (kind,) = comfyui.NODE_CLASS_MAPPINGS.values()
    assert set(comfyui.NODE_DISPLAY_NAME_MAPPINGS) == set(comfyui.NODE_CLASS_MAPPINGS)
    required = kind.INPUT_TYPES()["required"]
    assert required.pop("image") == ("IMAGE",)
    models, *_ = required.pop("model")
    values = {name: options["default"] for name, (_, options) in required.items()}
    images = photo(64, 96).permute(1, 2, 0)[None].repeat(2, 1, 1, 1)
    outputs = getattr(kind(), kind.FUNCTION)(image=images, model=models[0], **values)
    assert len(outputs) == len(kind.RETURN_TYPES) == 1
    (sharp,) = outputs
    assert sharp.shape == images.shape
    assert sharp.dtype == torch.float32
    assert sharp.min() >= 0
    assert sharp.max() <= 1
    expected = freqdiff.deblur(photo(64, 96), model=models[0])
    assert torch.equal(sharp[1].permute(2, 0, 1), expected)
    assert steps[-1][0] == steps[-1][1]
