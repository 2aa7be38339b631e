"""The ablations in miniature: every variant is another training, and is measured."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFilter
from toys import TOY, picture

from benchmarks import ablations, comparison
from benchmarks.ablations import VARIANTS, WHOLE
from freqdiff import spectral
from freqdiff.denoiser import Denoiser
from freqdiff.model import CONFIGS, ModelConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def test_variants_differ_from_the_whole_and_from_each_other() -> None:
    options = argparse.Namespace(config="tiny", steps=10, batch=2, crop=32, anchor_steps=None)
    found = {}
    for name in VARIANTS:
        model, train, data = ablations.configurations(name, 0, options)
        assert Denoiser(model).config == model
        described = repr((model, train, data)).replace(repr(name), "")
        assert described not in found.values(), name
        found[name] = described
    assert len({variant.title for variant in VARIANTS.values()}) == len(VARIANTS)


def test_a_run_in_miniature_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CONFIGS, "tiny", TOY)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for number, name in enumerate(("astronaut", "coffee")):
        for folder, size in (("sharp", (256, 256)), ("blur", (48, 64)), ("truth", (48, 64))):
            (tmp_path / folder).mkdir(exist_ok=True)
            image = Image.fromarray(picture(*size, name))
            if folder == "blur":
                image = image.filter(ImageFilter.BoxBlur(2))
            image.save(tmp_path / folder / f"{number}.png")
    where = [str(tmp_path / name) for name in ("sharp", "blur", "truth", "runs")]
    arguments = [
        "ablations", "--sharp", where[0], "--val", where[0], "--val-count", "2",
        "--pairs", "same", where[1], where[2], "--runs", where[3], "--seeds", "2", "--steps", "2",
        "--batch", "2", "--crop", "32", "--eval-steps", "1", "2", "--variants", "phase_off",
        "--output", str(tmp_path / "ablations.json"),
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", arguments)
    ablations.main()
    rows = json.loads((tmp_path / "ablations.json").read_text())
    assert [row["variant"] for row in rows] == [WHOLE, "phase_off"]
    for row in rows:
        assert [one["seed"] for one in row["runs"]] == [0, 1]
        for key in ("gain_db_1", "gain_db_2", "same_gain_db"):
            values = [one[key] for one in row["runs"]]
            assert row[key] == pytest.approx(sum(values) / 2, abs=1e-3)
            # Standard error of two values: half their distance.
            assert row[f"{key}_error"] == pytest.approx(abs(values[0] - values[1]) / 2, abs=1e-3)
            changes = [v - w[key] for v, w in zip(values, rows[0]["runs"], strict=True)]
            assert row[f"{key}_difference"] == pytest.approx(sum(changes) / 2, abs=1e-3)
    assert rows[0]["gain_db_1_difference"] == rows[0]["gain_db_1_difference_error"] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "runs").glob("*/model/*.safetensors")}
    assert len(set(before.values())) == len(before) == 4
    ablations.main()
    assert {p: p.read_bytes() for p in before} == before
    again = json.loads((tmp_path / "ablations.json").read_text())
    assert [row["gain_db_1"] for row in again] == [row["gain_db_1"] for row in rows]
    text = "\n".join(comparison.ablations(rows))
    assert "| nothing |" in text
    assert "spectra: without phase" in text
    assert "means of 2 seeds with their standard errors" in text
    monkeypatch.setattr(sys, "argv", [*arguments, "--sharp", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="none is not a folder"):
        ablations.main()


def test_no_results_no_tables() -> None:
    assert comparison.ablations([]) == []
    assert comparison.table1([]) == []


def test_one_seed_has_no_error() -> None:
    assert ablations.spread([1.0]) is None
    assert ablations.spread([1.0, 3.0]) == 1.0


def test_windows_without_taper_and_without_phase() -> None:
    photo = torch.rand(1, 3, 32, 32)
    whole = spectral.window_features(photo, 4)
    plain = spectral.window_features(photo, 4, phase=False)
    slots = whole.shape[1] // 3
    assert torch.equal(plain[:, :slots], whole[:, :slots])
    assert not plain[:, slots:].any()
    assert whole[:, slots:].any()
    assert not torch.allclose(spectral.window_features(photo, 4, "none"), whole)
    with pytest.raises(ValueError, match="taper is 'hamming'"):
        ModelConfig("x", taper="hamming")
