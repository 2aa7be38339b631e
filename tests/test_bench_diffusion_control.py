"""The measures of the diffusion engine: control, content, distance; other engines to compare."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_base import tiny
from toys import photo, picture

from benchmarks import blur_tables
from benchmarks import diffusion_control as bench
from benchmarks.crops import Crop, crop_of, crops_anywhere
from blursynth.engines import engine_of
from blursynth.physics import Synthesis
from blursynth.physics import synthesize as physics
from freqdiff.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("coffee", "astronaut", "chelsea")


def photos(count: int = 2, side: int = 192) -> list[Crop]:
    return [crop_of(name, photo(300, 400, name), side) for name in NAMES[:count]]


def test_rank_correlation() -> None:
    assert bench.rank_correlation([1, 2, 3, 4], [1, 10, 11, 90]) == pytest.approx(1)
    assert bench.rank_correlation([4, 3, 2], [1, 10, 11]) == pytest.approx(-1)
    assert bench.rank_correlation([5, 5, 5], [1, 2, 3]) == 0
    # Ties count neither for nor against: of scipy.stats.spearmanr.
    assert bench.rank_correlation([1, 2, 2, 3], [4, 1, 2, 3]) == pytest.approx(-0.316228, abs=1e-5)


def test_the_physics_engine_has_control() -> None:
    rows = {row["setting"]: row for row in bench.control(engine_of("physics"), photos())}
    assert set(rows) == {"exposure_s", "f_number", "iso"}
    for row in rows.values():
        assert row["rank_correlation"] > 0.85, row
        assert row["photos"] == 2
        assert len(row["measured"]) == len(row["predicted"]) == row["steps_of_ladder"]
    assert rows["f_number"]["predicted"] == sorted(rows["f_number"]["predicted"], reverse=True)


def test_an_engine_that_does_not_listen_has_none() -> None:
    def deaf(sharp: torch.Tensor, camera: Any, **options: Any) -> Synthesis:
        made = physics(sharp, camera, **options)
        noise = torch.randn(sharp.shape, generator=torch.Generator().manual_seed(1))
        return Synthesis((sharp + 0.02 * noise).clamp(0, 1), made.camera, made.scene, made.field)

    for row in bench.control(deaf, photos(1)):
        assert row["rank_correlation"] == 0, row


def test_content_counts_what_is_accepted() -> None:
    (crop,) = photos(1)
    shifted = crop.pixels.roll(3, 2)
    soft = torch.nn.functional.avg_pool2d(crop.pixels[None], 3, 1, 1, count_include_pad=False)[0]
    row = bench.content([(crop, soft), (crop, soft), (crop, shifted)])
    assert (row["pairs"], row["accepted"]) == (3, 2)
    assert row["low_band_psnr_db"] > 35
    assert row["largest_shift_px"] < 0.3
    assert bench.content([(crop, shifted)]) == {"question": "content", "pairs": 1, "accepted": 0}


def test_real_photos_are_near_each_other() -> None:
    """Photos of one kind are nearer to those of the same than to others."""
    noise = torch.Generator().manual_seed(2)

    def kind(sigma: float) -> list[tuple[str, torch.Tensor]]:
        grain = [sigma * torch.randn(3, 128, 128, generator=noise) for _ in range(8)]
        return [(f"{sigma} {n}", (0.5 + one).clamp(0, 1)) for n, one in enumerate(grain)]

    rows = {row["features"]: row for row in bench.among_real(bench.features_of(kind(0.05)), 3, 0)}
    assert set(rows) == set(bench.SPACES)
    sharp = photos(3)
    soft = [(one, torch.nn.functional.avg_pool2d(one.pixels, 5, 1, 2)) for one in sharp]
    for row in bench.distances(soft, bench.features_of(kind(0.05))):
        own = rows[row["features"]]
        assert own["photos"] == 3
        assert own["real_photos"] == 5
        assert own["frechet"] < 0.2 * row["frechet"]


def test_by_how_much_the_alignment_helps() -> None:
    def row(engine: str, output: str, frechet: float) -> dict[str, Any]:
        return {
            "question": "distance",
            "features": "patches",
            "engine": engine,
            "output": output,
            "frechet": frechet,
            "kid": frechet / 10 - 0.5,
        }

    rows = [row("base", "pixels", 10), row("base", "attributes", 4)]
    rows += [row("aligned", "pixels", 7), row("aligned", "attributes", 5)]
    found = bench.compared(rows)
    assert [one["frechet_falls_by"] for one in found] == [0.3, -0.25]
    assert found[0]["kid_falls_by"] == pytest.approx(0.6)
    assert "kid_falls_by" not in found[1]


def test_the_table_of_the_readme() -> None:
    def of_engine(engine: str, output: str | None) -> list[dict[str, Any]]:
        control = [
            {"question": "control", "setting": name, "rank_correlation": 0.9}
            for name in ("exposure_s", "f_number", "iso")
        ]
        kept = {"accepted": 3, "pairs": 4, "low_band_psnr_db": 40.0, "shift_px": 0.1}
        rows = [{"question": "content", **kept}, *(control if output != "attributes" else [])]
        return [{"engine": engine, "output": output, "crop": 256, "steps": 8} | r for r in rows]

    rows = of_engine("physics", None) + of_engine("base", "pixels")
    far = {"engine": "base", "output": "pixels", "question": "distance", "features": "patches"}
    rows.append({**far, "frechet": 4.25})
    both = [*rows, *of_engine("base", "attributes")]
    lines = blur_tables.control(both)
    assert lines[-1].endswith("from real blurred photos.")
    real = {"engine": "real", "output": None, "question": "distance", "photos": 7}
    others = [{**real, "features": name, "frechet": 1.5} for name in ("spectrum", "patches")]
    among = blur_tables.control(rows + others)[-1]
    told = "7 of these, as many as were blurred, are on average 1.5 and 1.5 from the others"
    assert told in among
    table = [line for line in lines if line.startswith("| ")]
    names = ["physics", "diffusion, small base: pixels", "its attributes"]
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {name}" for name in names]
    assert table[4].startswith("| its attributes | - | - | - | 3 of 4 | 40.0 dB")
    assert table[3].endswith(" | 0.90 | 0.90 | 0.90 | 3 of 4 | 40.0 dB | 0.10 px | - | 4.2 |")
    assert blur_tables.control([]) == []
    falls = {"question": "alignment", "engine": "aligned", "output": "pixels"}
    falls |= {"features": "patches", "frechet_falls_by": 0.234}
    aligned = blur_tables.control([*both, *of_engine("aligned", "pixels"), falls])
    assert len(aligned) == len(lines) + 1
    assert "lowers" in aligned[-1]
    assert aligned[-1].endswith("(patches) by 23%.")
    falls["frechet_falls_by"] = -0.5
    worse = blur_tables.control([*both, *of_engine("aligned", "pixels"), falls])
    assert "raises" in worse[-1]
    assert worse[-1].endswith("(patches) by 50%.")


def test_crops_from_anywhere() -> None:
    whole = photo(300, 400)
    crops = crops_anywhere("coffee", whole, 64, 5, 1)
    assert len({one.origin for one in crops}) == 5
    for one in crops:
        top, left = one.origin
        assert (one.name, one.frame) == ("coffee", (300, 400))
        assert torch.equal(one.pixels, whole[:, top : top + 64, left : left + 64])
    assert crops_anywhere("coffee", whole, 64, 1, 2)[0].origin != crops[0].origin


def test_too_small_a_photo() -> None:
    with pytest.raises(InputError, match="'a' has 300 x 100 px"):
        crop_of("a", torch.zeros(3, 100, 300), 128)


def test_the_whole_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny().save_pretrained(tmp_path / "base")
    for kind, names in (("sharp", "abc"), ("real", "abcdefg")):
        (tmp_path / kind).mkdir()
        for name in names:
            Image.fromarray(picture(130, 140)).save(tmp_path / kind / f"{name}.png")
    (tmp_path / "more").mkdir()
    for name in "abcd":
        Image.fromarray(picture(70, 80)).save(tmp_path / "more" / f"{name}.png")
    (tmp_path / "lora").mkdir()
    facts = {"settings": {"real": ["a.png", "c.png", "e.png"]}}
    (tmp_path / "lora" / "training.json").write_text(json.dumps(facts))
    unseen = [f"{name}.png" for name in "bdfg"]
    assert bench.held_out(tmp_path / "real", tmp_path / "lora") == unseen
    monkeypatch.setattr(bench, "ladders", lambda one=bench.ladders: {"iso": one()["iso"]})
    options = ["--base", "base", "--sharp", "sharp", "--real", "real", "--output", "out.json"]
    options += ["--distance-sharp", "more"]
    monkeypatch.chdir(tmp_path)
    small = ["--crop", "64", "--photos", "3", "--draws", "1", "--places", "2", "--steps", "1"]
    monkeypatch.setattr(sys, "argv", ["diffusion_control", *options, *small])
    bench.main()
    rows = json.loads((tmp_path / "out.json").read_text())
    far = [row for row in rows if row["question"] == "distance" and row["engine"] != "real"]
    assert {(row["photos"], row["real_photos"]) for row in far} == {(4, 7)}
    # A distance for each space of features.
    asked = list(dict.fromkeys((row["engine"], row["output"], row["question"]) for row in rows))
    measured = ("content", "distance", "control")
    assert asked == [
        ("real", None, "distance"),
        *(("physics", None, name) for name in measured),
        *(("base", "pixels", name) for name in measured),
        *(("base", "attributes", name) for name in measured[:2]),
    ]
    assert all(row["provenance"]["torch"] and row["steps"] == 1 for row in rows)
    assert "wrote out.json" in capsys.readouterr().out
