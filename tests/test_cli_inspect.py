"""`freqdiff inspect`: what it prints and draws, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from toys import TOY, photo, random_denoiser

from freqdiff import check_picture
from freqdiff.checkpoint import save_model


def blurred_photo(path: Path, length: int = 15) -> Path:
    """A photo blurred along a level line."""
    image = F.pad(photo(320, 448)[None], (length // 2,) * 2 + (0, 0), mode="reflect")
    image = F.avg_pool2d(image, (1, length), 1)[0]
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    return path


def test_motion_is_found_and_drawn(tmp_path: Path) -> None:
    path, maps = blurred_photo(tmp_path / "a.png"), tmp_path / "maps.png"
    code, out, err = commands.run("inspect", path, "-o", maps, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert (facts["width"], facts["height"]) == (448, 320)
    assert facts["length_px"] == pytest.approx(15, abs=5)
    assert facts["width_px"] < 0.6 * facts["length_px"]
    assert min(facts["angle_deg"], 180 - facts["angle_deg"]) < 15
    assert facts["agreement"] > 0.5
    assert facts["expected_error"] > 1
    with Image.open(maps) as picture:
        assert picture.size == (2 * 448 + check_picture.GAP, 320)
        left, right = picture.crop((0, 0, 448, 320)), picture.crop((448 + 8, 0, 904, 320))
        assert (255, 221, 0) in {colour for _, colour in left.getcolors(10**6)}
        assert len(np.unique(np.asarray(right).reshape(-1, 3), axis=0)) > 100
    text = commands.run("inspect", path).out
    assert "px along" in text
    assert "mostly at" in text
    assert "levels of 255" in text


def test_large_photos_are_drawn_small(monkeypatch: pytest.MonkeyPatch) -> None:
    from freqdiff.self_check import SelfCheck

    monkeypatch.setattr(check_picture, "LONG_SIDE", 100)
    check = SelfCheck(*(torch.full((11, 16), value) for value in (9.0, 3.0, 45.0, 0.1, 0.2)))
    picture = check_picture.draw_check(photo(333, 500), check)
    assert picture.size == (200 + check_picture.GAP, 67)


def test_what_is_refused(tmp_path: Path) -> None:
    path = blurred_photo(tmp_path / "a.png")
    commands.refused(
        commands.run("inspect", path, "-o", tmp_path / "maps.jpg"), "maps.jpg", "ends in .png"
    )
    commands.refused(commands.run("inspect", tmp_path / "no.png"), "no.png")
    save_model(tmp_path / "plain", random_denoiser(TOY), {})
    result = commands.run("inspect", path, "--model", tmp_path / "plain")
    commands.refused(result, "does not estimate the blur")
    missing = commands.run("inspect", path, "-o", tmp_path / "no" / "maps.png")
    assert missing.code == 1
    assert "folder does not exist" in missing.err
