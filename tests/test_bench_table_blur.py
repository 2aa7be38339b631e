"""The experiment on blur engines: a run in miniature, its rows, and that it goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from toys import photo

import blursynth
from benchmarks import blur_tables, table_blur


def save(path: Path, image: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(path)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    for number, name in enumerate(("astronaut", "coffee")):
        save(tmp_path / "sharp" / f"{number}.png", photo(224, 256, name))
        save(tmp_path / "pairs" / "sharp" / f"{number}.png", photo(64, 96, name))
        blurred = torch.nn.functional.avg_pool2d(photo(64, 96, name), 5, 1, 2)
        save(tmp_path / "pairs" / "blur" / f"{number}.png", blurred)
    save(tmp_path / "real" / "photo.png", photo(200, 220))
    save(tmp_path / "real" / "too_small.png", photo(100, 220))
    pairs = [str(tmp_path / "pairs" / side) for side in ("blur", "sharp")]
    return [
        "table_blur", "--sharp", str(tmp_path / "sharp"), "--pairs", "mean", *pairs,
        "--real", str(tmp_path / "real"), "--runs", str(tmp_path / "runs"), "--seeds", "2",
        "--steps", "2", "--batch", "2", "--crop", "32", "--trainings", "gaussian",
        "--output", str(tmp_path / "table.json"),
    ]  # fmt: skip


def test_a_run_in_miniature_and_again(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    table_blur.main()
    (row,) = json.loads((tmp_path / "table.json").read_text())
    assert (row["training"], row["seeds"], row["pairs"]) == ("gaussian", 2, {"mean": 2})
    assert [run["seed"] for run in row["runs"]] == [0, 1]
    for name in ("real_pairs_gain_db", "mean_gain_db", "real_blur_width_out_px"):
        values = [run[name] for run in row["runs"]]
        assert row[name] == pytest.approx(sum(values) / 2, abs=1e-3)
    assert row["real_photos"] == 1
    assert row["real_pairs_gain_db_std"] >= 0
    assert row["provenance"]["torch"] == torch.__version__
    models = sorted((tmp_path / "runs").glob("*/model/*.safetensors"))
    before = [path.read_bytes() for path in models]
    assert len(set(before)) == 2
    table_blur.main()
    assert [path.read_bytes() for path in models] == before
    assert json.loads((tmp_path / "table.json").read_text())[0]["runs"] == row["runs"]


def test_a_training_with_built_pairs(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / "built"
    blursynth.build(tmp_path / "sharp", built, count=2, crop=96, seed=0, progress=False)
    # What is told last counts.
    options = [*arguments, "--seeds", "1", "--trainings", "physics_full", "--built", str(built)]
    monkeypatch.setattr(sys, "argv", options)
    table_blur.main()
    rows = json.loads((tmp_path / "table.json").read_text())
    assert [row["training"] for row in rows] == ["physics_full", "physics_mixed"]
    alone, mixed = (
        table_blur.training_facts(tmp_path / "runs" / f"{row['training']}_0" / "model")
        for row in rows
    )
    assert alone["settings"]["data"]["source"] == "photos"
    assert mixed["settings"]["data"]["source"] == "photos and pairs"
    assert mixed["settings"]["data"]["built"] == 0.25
    assert len(blur_tables.trainings(rows)) == 2 + 2 + 2
