"""Table 1 in miniature: methods of all kinds on test sets of all kinds, and its table."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import commands
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from test_peers import SMALL
from toys import picture, random_deblurrer

from benchmarks import comparison, methods, table1
from benchmarks.peers.catalog import PEERS
from benchmarks.peers.training import PeerConfig, TrainedPeer
from freqdiff.checkpoint import save_model, shipped_models
from freqdiff.errors import InputError, ModelError
from freqdiff.metrics import compare


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("astronaut", "coffee")):
        sharp = Image.fromarray(picture(72, 96, name))
        for side, image in (("target", sharp), ("input", sharp.filter(ImageFilter.BoxBlur(2)))):
            Path("gopro", side).mkdir(parents=True, exist_ok=True)
            image.save(f"gopro/{side}/{number}.png")
    Path("official").mkdir()
    for number in range(2):
        Image.open(f"gopro/target/{number}.png").save(f"official/{number}.png")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *options: object) -> list[dict[str, Any]]:
    arguments = ["table1", *map(str, options), "--device", "cpu", "--output", "table1.json"]
    monkeypatch.setattr(sys, "argv", arguments)
    table1.main()
    rows: list[dict[str, Any]] = json.loads(Path("table1.json").read_text())
    return rows


def test_methods_of_all_kinds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = commands.untrained_model(folder)
    peer = folder / "nafnet"
    save_model(peer, TrainedPeer(PeerConfig("nafnet", SMALL["nafnet"])))
    sets = ("--dataset", "gopro", "gopro", "--pairs", "Pairs", "gopro/input", "gopro/target")
    named = ("--ours", model, "--peer", peer, "--official", "Perfect", "official")
    rows = run(monkeypatch, *sets, *named, "--limit", 2)
    what = [(row["method"], row["way"], row["data_set"]) for row in rows]
    titles = [("FreqDiff toy", "ours"), ("NAFNet", "peer"), ("Perfect", "official")]
    assert what == [(*title, data) for title in titles for data in ("GoPro", "Pairs")]
    ours, peers, perfect = rows[0], rows[2], rows[4]
    assert ours["output"] == ours["input"]
    assert set(ours["gain"].values()) == {0}
    assert perfect["output"] == {"psnr_rgb": None, "psnr_y": None, "ssim_matlab3d": 1.0}
    assert perfect["input"] == ours["input"]
    expected = [
        compare(
            *(torch.from_numpy(_pixels(f"gopro/{side}/{n}.png")) for side in ("input", "target"))
        )
        for n in range(2)
    ]
    mean = sum(scores["psnr_rgb"] for scores in expected) / 2
    assert ours["input"]["psnr_rgb"] == pytest.approx(mean, abs=1e-3)
    assert peers["parameters"] == sum(
        value.numel() for value in PEERS["nafnet"].network(SMALL["nafnet"]).parameters()
    )
    assert len(ours["sha256"]) == len(peers["sha256"]) == 64
    for row in rows:
        assert row["count"] == 2
        assert row["seconds_per_megapixel"] > 0
        assert row["peak_memory_bytes"] > 1e7
        assert row["provenance"]["torch"] == torch.__version__
    assert ours["mflop_per_pixel"] > 0
    lines = "\n".join(comparison.table1(rows))
    assert "GoPro: 2 photos, compared by `plain`, SSIM `matlab3d`" in lines
    assert "| Perfect | by others |" in lines
    assert "Restormer 32.92 / 0.961" in lines


def _pixels(path: str) -> Any:
    return np.asarray(Image.open(path)).transpose(2, 0, 1).copy()


def test_rows_of_other_methods_stay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = ("--dataset", "gopro", "gopro")
    first = run(monkeypatch, *sets, "--official", "A", "official")
    second = run(
        monkeypatch, *sets, "--official", "B", "official", "--official", "A", "gopro/input"
    )
    assert [row["method"] for row in second] == ["A", "B"]
    assert second[0]["output"] == second[0]["input"] == first[0]["input"]


def test_synthetic_blur(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = commands.untrained_model(folder)
    (row,) = run(monkeypatch, "--synthetic", "gopro/target", "--ours", model)
    assert row["data_set"] == "BlurSynth"
    assert row["input"]["psnr_rgb"] > 15


def test_what_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="as REDS"):
        run(monkeypatch, "--dataset", "reds", "gopro", "--official", "A", "official")
    Path("official/1.png").unlink()
    with pytest.raises(SystemExit, match=r"holds no result for 'input/1.png'"):
        run(monkeypatch, "--dataset", "gopro", "gopro", "--official", "A", "official")
    commands.put_photo(Path("official/1.png"), 20, 30)
    with pytest.raises(SystemExit, match="30x20 pixels, expected 96x72"):
        run(monkeypatch, "--dataset", "gopro", "gopro", "--official", "A", "official")
    with pytest.raises(SystemExit):
        run(monkeypatch, "--dataset", "gopro", "gopro")
    assert not Path("table1.json").exists()


class _Halves(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, photo: torch.Tensor) -> torch.Tensor:
        return photo * self.factor


def test_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(_Halves()).save(str(path))
    method = methods.official("Halves", str(path), 256, "cpu")
    photo = torch.rand(1, 3, 70, 400)  # two tiles
    assert torch.allclose(method.restore("x", photo), photo / 2, atol=1e-6)
    assert method.facts["parameters"] == 1


def test_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Mul", ["photo", "half"], ["result"])
    shape = [1, 3, "height", "width"]
    values = [onnx.helper.make_tensor_value_info(name, 1, shape) for name in ("photo", "result")]
    half = onnx.helper.make_tensor("half", 1, [1], [0.5])
    graph = onnx.helper.make_graph([node], "halves", values[:1], values[1:], [half])
    opset = [onnx.helper.make_opsetid("", 17)]
    path = tmp_path / "network.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    method = methods.official("Halves", str(path), None, "cpu")
    photo = torch.rand(1, 3, 70, 90)
    assert torch.allclose(method.restore("x", photo), photo / 2)


@pytest.mark.parametrize("suffix", [".onnx", ".pth"])
def test_missing_packages_are_named(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = {".onnx": "onnxruntime", ".pth": "spandrel"}[suffix]
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"network{suffix}"
    path.write_bytes(b"weights")
    with pytest.raises(InputError, match=f"pip install {package}"):
        methods.official("A", str(path), None, "cpu")


def test_spandrel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of it, by a stand-in: it needs torchvision, which is not always to be had."""
    path = tmp_path / "network.pth"
    path.write_bytes(b"weights")
    module = ModuleType("spandrel")

    class Descriptor(SimpleNamespace):
        pass

    class Loader:
        def __init__(self, device: str) -> None:
            assert device == "cpu"

        def load_from_file(self, file: Path) -> Descriptor:
            assert file == path
            return Descriptor(model=_Halves(), scale=self.scale)

        scale = 1

    monkeypatch.setattr(module, "ImageModelDescriptor", Descriptor, raising=False)
    monkeypatch.setattr(module, "ModelLoader", Loader, raising=False)
    monkeypatch.setitem(sys.modules, "spandrel", module)
    photo = torch.rand(1, 3, 20, 30)
    method = methods.official("Halves", str(path), None, "cpu")
    assert torch.allclose(method.restore("x", photo), photo / 2)
    Loader.scale = 4
    with pytest.raises(ModelError, match="keeps the size"):
        methods.official("A", str(path), None, "cpu")


def test_files_that_are_no_networks(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    path.write_bytes(b"weights")
    with pytest.raises(ModelError, match="cannot be read as a network"):
        methods.official("A", str(path), None, "cpu")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        methods.official("A", str(tmp_path / "none.pt"), None, "cpu")


def test_results_are_found_by_their_names(tmp_path: Path) -> None:
    photo = torch.zeros(1, 3, 48, 64)
    for name in ("scene1/blur_1", "scene2_blur_1", "other"):
        commands.put_photo(tmp_path / f"{name}.png")
    restore = methods.official("A", str(tmp_path), None, "cpu").restore
    for name in ("scene1/blur_1.jpg", "scene2/blur_1.png", "deep/down/other.png"):
        assert restore(name, photo).shape == photo.shape
    with pytest.raises(InputError, match="no result for 'scene3/blur_1"):
        restore("scene3/blur_1.png", photo)


@pytest.mark.parametrize("name", shipped_models())
def test_facts_of_shipped_models(name: str) -> None:
    method = methods.ours(name, 1, "cpu")
    assert method.facts["training"]["steps"] > 0
    assert method.facts["parameters"] > 1e6


def test_arithmetic_of_our_models_counts_every_step() -> None:
    model = random_deblurrer()
    one, three = (methods._our_mflop_per_pixel(model, steps, 64) for steps in (1, 3))
    assert one < three < 3 * one
