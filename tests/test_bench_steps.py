"""The benchmark of sampling steps in miniature, and the distance of spectra that it reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch.nn.functional as F
from PIL import Image
from toys import photo

from benchmarks import steps


def test_a_run_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = (photo(400, 400) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    output = tmp_path / "steps.json"
    command = ["steps", "--sharp", str(tmp_path), "--steps", "1", "2", "--count", "2"]
    monkeypatch.setattr(sys, "argv", [*command, "--crop", "64", "--output", str(output)])
    steps.main()
    rows = json.loads(output.read_text())
    assert [row["steps"] for row in rows] == [0, 1, 2]
    assert all(10 < row["psnr_rgb"] < 60 for row in rows)
    with Image.open(output.with_suffix(".png")) as picture:
        assert picture.width > picture.height


def test_blur_takes_texture() -> None:
    sharp = photo(128, 160)
    soft = F.avg_pool2d(sharp[None], 3, 1, 1)[0]
    absolute, signed = steps.spectrum_db(soft, sharp)
    assert signed < -3
    assert absolute == pytest.approx(-signed, rel=1e-3)
    assert steps.spectrum_db(sharp, sharp) == (0, 0)
