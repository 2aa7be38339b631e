"""The self-check of a result: axes of the blur, and errors that it expects where they are."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_anchor import blurred_by, field, line
from toys import TOY, WIENER_TOY, photo, random_denoiser

import freqdiff
from benchmarks.self_check import rank_correlation
from blursynth.scene import Recipe
from freqdiff.blur_filter import CELL, PSF_RADIUS, PSF_SIDE
from freqdiff.data import DataConfig, PairBlocks
from freqdiff.deblurrer import Deblurrer
from freqdiff.self_check import SelfCheck, check


@pytest.mark.parametrize(
    ("dy", "dx", "length", "angle"), [(0, 1, 9, 0), (1, 0, 15, 90), (1, 1, 7, 45), (-1, 1, 11, 135)]
)
def test_axes_of_motion(dy: int, dx: int, length: int, angle: float) -> None:
    image = photo(64, 96)[None]
    found = check(image, image, field(line(dy, dx, length), 2, 3))
    assert found.length_px.shape == (2, 3)
    path = (length - 1) * np.hypot(dy, dx)
    # A path of N even points is about half a step longer on either side.
    assert float(found.length_px.mean()) == pytest.approx(path, abs=1.5 * np.hypot(dy, dx))
    assert float(found.width_px.max()) < 0.1
    turned = (float(found.angle_deg[0, 0]) - angle + 90) % 180 - 90
    assert abs(turned) < 1e-3


def test_axes_of_a_disk() -> None:
    position = torch.arange(-PSF_RADIUS, PSF_RADIUS + 1)
    disk = (torch.hypot(position[:, None].float(), position.float()) <= 8).float()
    image = photo(64, 64)[None]
    found = check(image, image, field(disk / disk.sum(), 2, 2))
    for extent in (found.length_px, found.width_px):
        assert float(extent[0, 0]) == pytest.approx(0.866 * 16, rel=0.05)


def test_a_wrong_result_is_noticed() -> None:
    sharp = photo(160, 224)[None]
    kernel = line(0, 1, 9)
    blurred = (blurred_by(kernel, sharp * 2 - 1) + 1) / 2
    blur = field(kernel, 5, 7)
    right = check(blurred, sharp, blur)
    wrong = sharp.clone()
    wrong[..., 64:128, 64:160] += 0.2 * torch.randn(3, 64, 96, generator=torch.manual_seed(0))
    found = check(blurred, wrong, blur)
    inside = torch.zeros(5, 7, dtype=torch.bool)
    inside[2:4, 2:5] = True
    assert float(found.expected_error[inside].min()) > 2 * float(right.expected_error[inside].max())
    torch.testing.assert_close(found.expected_error[:1], right.expected_error[:1])
    assert float(found.confidence.min()) > 0
    assert float(right.confidence.max()) <= 1


def test_nothing_to_do_is_certain() -> None:
    image = photo(64, 64)[None]
    point = torch.zeros(PSF_SIDE, PSF_SIDE)
    point[PSF_RADIUS, PSF_RADIUS] = 1
    found = check(image, image, field(point, 2, 2))
    assert float(found.expected_error.max()) < 1e-4
    assert float(found.confidence.min()) > 0.99


def test_expected_errors_go_with_true_ones(tmp_path: Path) -> None:
    """With the shipped weights, on photos that they never saw, blurred by the engine."""
    from PIL import Image

    for name in ("astronaut", "coffee"):
        pixels = (photo(400, 400, name) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    recipe = dataclasses.replace(Recipe(), unblurred=0.1)
    data = DataConfig(crop=192, pairs_per_block=12, native=1, enlarged=0, recipe=recipe)
    blurred, sharp = (v.float() / 255 for v in PairBlocks(tmp_path, data).pairs(0)[:2])
    model = freqdiff.load("tiny", "cpu")
    expected, true = [], []
    for y, x in zip(blurred, sharp, strict=True):
        result = model.restore(y[None], check=True)
        assert result.check is not None
        expected.append(result.check.expected_error)
        error = (result.image - x).square().mean(1, keepdim=True)
        true.append(F.avg_pool2d(error, CELL)[0, 0].sqrt())
    assert rank_correlation(torch.stack(expected), torch.stack(true)) > 0.7
    ratio = torch.stack(expected).mean() / torch.stack(true).mean()
    assert 0.5 < float(ratio) < 2


def test_details_hold_the_check() -> None:
    model = Deblurrer(random_denoiser(WIENER_TOY), "toy")
    details = freqdiff.deblur(photo(70, 100), model=model, return_details=True)
    assert isinstance(details.check, SelfCheck)
    assert details.check.confidence.shape == (3, 4)
    batch = torch.stack((photo(70, 100), photo(70, 100).flip(-1)))
    both = freqdiff.deblur(batch, model=model, return_details=True).check
    assert both is not None
    assert both.length_px.shape == (2, 3, 4)
    torch.testing.assert_close(both.length_px[0], details.check.length_px)
    plain = Deblurrer(random_denoiser(TOY), "toy")
    assert freqdiff.deblur(photo(70, 100), model=plain, return_details=True).check is None
    assert model.restore(photo(70, 100)[None]).check is None


def test_the_benchmark_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from benchmarks import self_check as benchmark

    pixels = (photo(400, 400) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    output = tmp_path / "row.json"
    arguments = ["self_check", "--sharp", str(tmp_path), "--count", "2", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    row = json.loads(output.read_text())
    assert (row["crops"], row["cells"]) == (2, 2 * 8 * 8)
    assert -1 <= row["rank_correlation"] <= 1
    assert 0 < row["mean_error"] < 255
