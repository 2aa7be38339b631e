"""Detection and segmentation as judges of a result: scores by hand, kinds of networks, reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import commands
import numpy as np
import pytest
import torch
from PIL import Image
from toys import picture, random_denoiser

from freqdiff import downstream, segmentation
from freqdiff.checkpoint import save_model
from freqdiff.detection import Detections, certain, detect, mean_average_precision, overlaps
from freqdiff.downstream_models import load_network
from freqdiff.errors import InputError

SQUARE = [0.0, 0.0, 10.0, 10.0]
FAR = [50.0, 50.0, 60.0, 70.0]


def found(*rows: tuple[list[float], float, int]) -> Detections:
    """Boxes, scores and labels."""
    return Detections(
        torch.tensor([box for box, _, _ in rows]).reshape(-1, 4),
        torch.tensor([score for _, score, _ in rows]),
        torch.tensor([label for _, _, label in rows], dtype=torch.long),
    )


def test_overlap() -> None:
    boxes = torch.tensor([SQUARE, [5.0, 0.0, 15.0, 10.0], FAR, [3.0, 3.0, 3.0, 3.0]])
    expected = [[1, 50 / 150, 0, 0], [50 / 150, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(overlaps(boxes, boxes), torch.tensor(expected))


def test_average_precision_by_hand() -> None:
    def score(*guesses: tuple[list[float], float, int]) -> float | None:
        return mean_average_precision([found((SQUARE, 1, 0), (FAR, 1, 0))], [found(*guesses)])

    assert score((SQUARE, 0.9, 0), (FAR, 0.8, 0)) == pytest.approx(1)
    assert score() == 0
    assert score((SQUARE, 0.9, 1), (FAR, 0.8, 1)) == 0
    # One of two: precision 1 up to recall 0.5, which are 51 of the 101 recalls.
    assert score((SQUARE, 0.9, 0)) == pytest.approx(51 / 101)
    # A wrong box before it halves the precision, one behind it changes nothing.
    wrong = [20.0, 20.0, 30.0, 30.0]
    assert score((wrong, 0.95, 0), (SQUARE, 0.9, 0)) == pytest.approx(51 / 101 / 2)
    assert score((SQUARE, 0.9, 0), (wrong, 0.5, 0)) == pytest.approx(51 / 101)
    # Found twice: the second one is wrong.
    assert score((SQUARE, 0.9, 0), (SQUARE, 0.8, 0), (FAR, 0.7, 0)) == pytest.approx(
        (51 + 50 * 2 / 3) / 101
    )
    # An overlap of 0.72 is right for 5 of the 10 thresholds: 0.5, 0.55, ... 0.7.
    assert score(([0.0, 0.0, 7.2, 10.0], 0.9, 0)) == pytest.approx(0.5 * 51 / 101)


def test_average_precision_over_classes_and_photos() -> None:
    truths = [found((SQUARE, 1, 0)), found((SQUARE, 1, 0), (FAR, 1, 7))]
    assert mean_average_precision(truths, truths) == pytest.approx(1)
    guesses = [found(), truths[1]]
    assert mean_average_precision(truths, guesses) == pytest.approx((51 / 101 + 1) / 2)
    # What is found where the truth knows no such class does not count.
    more = [found((FAR, 0.9, 3)), truths[1]]
    assert mean_average_precision(truths, more) == pytest.approx((51 / 101 + 1) / 2)
    assert mean_average_precision([found()], truths[:1]) is None


def test_mean_intersection_over_union_by_hand() -> None:
    truth = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
    guess = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1]])
    # Class 0: 4 of 6 pixels, class 1: 2 of 4.
    assert segmentation.score([truth], [guess]) == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert segmentation.score([truth, truth], [truth, guess]) == pytest.approx((8 / 10 + 6 / 8) / 2)
    # A class that is only found counts as wrong.
    other = torch.where(truth == 1, 5, truth)
    assert segmentation.score([truth], [other]) == pytest.approx(1 / 3)
    assert segmentation.score([truth], [truth]) == 1
    assert segmentation.score([], []) is None


def network(size: tuple[int, int], no_object: bool = True, **outputs: Any) -> Callable[..., Any]:
    values = {name: torch.as_tensor(value) for name, value in outputs.items()}
    return lambda image: {
        **values,
        "input": torch.tensor(size),
        "no_object": torch.tensor(no_object),
    }


IMAGE = torch.zeros(3, 60, 80)


def test_kinds_of_detectors() -> None:
    """The same object at left 20, top 15, right 60, bottom 45 of a photo of 80 x 60."""
    expected = torch.tensor([[20.0, 15.0, 60.0, 45.0]])
    queries = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]]])
    detr = {"logits": [[[0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]], "pred_boxes": queries}
    one_of_each = {"logits": [[[-9.0, 3.0], [-9.0, -9.0]]], "pred_boxes": queries}
    plain = {"boxes": [[10.0, 8.0, 30.0, 24.0]], "scores": [0.9], "labels": [1]}
    yolo = torch.zeros(1, 6, 3)
    yolo[0, :4] = torch.tensor([20.0, 16.0, 20.0, 16.0])[:, None]
    yolo[0, 5] = torch.tensor([0.9, 0.8, 0.0])  # the second is the same object again
    grid = torch.zeros(1, 7, 4, 4)
    grid[0, 0, 2, 2], grid[0, 6, 2, 2] = 0.9, 0.9
    for made in (
        network((32, 40), **detr),
        network((32, 40), no_object=False, **one_of_each),
        network((32, 40), **plain),
        network((32, 40), output=yolo),
        network((32, 40), output=grid),
    ):
        seen = certain(detect(made, IMAGE))
        torch.testing.assert_close(seen.boxes, expected)
        assert seen.labels.tolist() == [1]
    with pytest.raises(InputError, match=r"The detector gives x \(1, 2\): expected logits and"):
        detect(network((32, 40), x=[[1.0, 2.0]]), IMAGE)


def test_other_classes_may_overlap() -> None:
    yolo = torch.zeros(1, 6, 2)
    yolo[0, :4] = torch.tensor([20.0, 16.0, 20.0, 16.0])[:, None]
    yolo[0, 4, 0], yolo[0, 5, 1] = 0.9, 0.8
    assert detect(network((32, 40), output=yolo), IMAGE).labels.tolist() == [0, 1]


def test_kinds_of_segmenters() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 0, :, 0], logits[0, 2, :, 1] = 1, 1
    for values in (logits, torch.tensor([[[0, 2], [0, 2]]])):
        classes = segmentation.segment(network((32, 32), logits=values), IMAGE)
        assert classes.shape == (60, 80)
        assert classes[:, :30].eq(0).all()
        assert classes[:, 50:].eq(2).all()
    with pytest.raises(InputError, match="The segmenter gives"):
        segmentation.segment(network((32, 32), x=[1.0]), IMAGE)


def test_recovered_share() -> None:
    def score(truths: Any, answers: Any) -> float:
        return float(np.mean(answers))

    task = downstream.Task("detection", "mAP", "objects", lambda image: 0, score, lambda _: 2)
    answers = [downstream.Answers(0.9, 0.4, 0.6), downstream.Answers(0.7, 0.2, 0.3)]
    summary = downstream.summarize(task, answers)
    assert summary["recovered"] == pytest.approx((0.45 - 0.3) / (0.8 - 0.3))
    assert (summary["amount"], summary["photos"]) == (4, 2)
    assert "mAP against the sharp photos (4 objects on 2): 30% -> 45%, 30%" in downstream.line(
        summary
    )
    nothing_lost = downstream.summarize(task, [downstream.Answers(0.5, 0.5, 0.6)])
    assert nothing_lost["recovered"] is None


class FakeSession:
    """An ONNX detector of the class of the brighter half."""

    seen: tuple[int, ...] = ()

    def __init__(self, path: str, providers: list[str]) -> None:
        if Path(path).read_bytes() != b"onnx":
            raise RuntimeError("Protobuf parsing failed.\nAt line 3")

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="image", shape=[1, 3, "height", 64])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="output")]

    def run(self, names: list[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        (values,) = given.values()
        type(self).seen = values.shape
        output = np.zeros((1, 6, 1), np.float32)
        output[0, :4, 0] = 20
        output[0, 4 + int(values[0, 0].mean() > values[0, 2].mean()), 0] = 0.9
        return [output]


@pytest.fixture
def onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake = SimpleNamespace(
        InferenceSession=FakeSession, get_available_providers=lambda: ["CPUExecutionProvider"]
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    path = tmp_path / "detector.onnx"
    path.write_bytes(b"onnx")
    return path


def test_onnx_file(onnx: Path) -> None:
    red = torch.zeros(3, 50, 80)
    red[0] = 1
    run = load_network("detection", str(onnx), "cpu")
    assert detect(run, red).labels.tolist() == [1]
    assert FakeSession.seen == (1, 3, 64, 64)  # 50 to the nearest multiple of 32
    onnx.with_suffix(".json").write_text('{"channels": "bgr", "mean": [0.5, 0.5, 0.5]}')
    assert detect(load_network("detection", str(onnx), "cpu"), red).labels.tolist() == [0]
    onnx.with_suffix(".json").write_text('{"channels": "hsv"}')
    with pytest.raises(InputError, match="does not say how to use the model"):
        load_network("detection", str(onnx), "cpu")
    onnx.with_suffix(".json").unlink()
    onnx.write_bytes(b"text")
    with pytest.raises(InputError, match="as an ONNX model of photos: Protobuf parsing failed"):
        load_network("detection", str(onnx), "cpu")
    with pytest.raises(InputError, match=r"There is no file .*missing\.onnx"):
        load_network("detection", str(onnx.with_name("missing.onnx")), "cpu")


def test_report(onnx: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "model", random_denoiser())
    for folder in ("blur", "sharp"):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture(64, 96)).save(tmp_path / folder / "a.png")
    command = ("evaluate", "--pairs", tmp_path / "blur", tmp_path / "sharp", "--steps", 1)
    command += ("--model", tmp_path / "model", "--downstream", "detection")
    command += ("--downstream-model", onnx)
    code, out, err = commands.run(*command, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    summary = report["downstream"]
    assert (summary["task"], summary["amount"], summary["sharp"]) == ("detection", 1, 1)
    assert (summary["input"], summary["recovered"]) == (1, None)  # equal photos
    assert report["images"][0]["downstream"]["photos"] == 1
    assert report["downstream_model"].endswith("detector.onnx")
    assert "mAP against the sharp photos (1 objects on 1): 100%" in commands.run(*command).out


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--downstream-model", "x.onnx"), "--downstream-model goes with --downstream"),
        (("--downstream", "detection"), "needs a model: give an ONNX file"),
        (("--downstream", "ocr", "--downstream-model", "x"), "brings its own models"),
    ],
)
def test_bad_options(tmp_path: Path, options: tuple[str, ...], word: str) -> None:
    Image.fromarray(picture(64, 96)).save(tmp_path / "a.png")
    commands.refused(commands.run("evaluate", "--synthetic", tmp_path, *options), word)


@pytest.mark.parametrize("package", ["onnxruntime", "transformers"])
def test_missing_packages(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    model = "a.onnx" if package == "onnxruntime" else "someone/model"
    with pytest.raises(InputError, match=rf"{package}.*freqdiff-deblur\[downstream\]"):
        load_network("detection", model, "cpu")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_models_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = {"size": {"shortest_edge": 32, "longest_edge": 64}}
    settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    detector = transformers.YolosForObjectDetection(
        transformers.YolosConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=[32, 48],
            num_detection_tokens=5,
            num_labels=3,
        )
    )
    detector.save_pretrained(tmp_path / "detector")
    segmenter = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[8, 16],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[1, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=8,
            num_labels=4,
        )
    )
    segmenter.save_pretrained(tmp_path / "segmenter")
    for name in ("detector", "segmenter"):
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(settings))
    image = torch.from_numpy(picture(64, 96)).permute(2, 0, 1) / 255
    outputs = load_network("detection", str(tmp_path / "detector"), "cpu")(image)
    assert outputs["input"].tolist() == [32, 48]
    assert bool(outputs["no_object"])
    seen = detect(load_network("detection", str(tmp_path / "detector"), "cpu"), image)
    assert 1 <= len(seen.scores) <= 5
    assert int(seen.labels.max()) < 3
    run = load_network("segmentation", str(tmp_path / "segmenter"), "cpu")
    assert segmentation.segment(run, image).shape == (64, 96)
    for name in ("no such folder", "../x"):
        with pytest.raises(InputError, match="is no ONNX file, no folder of a model"):
            load_network("detection", name, "cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot be loaded for detection"):
        load_network("detection", str(tmp_path / "empty"), "cpu")
