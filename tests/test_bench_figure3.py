"""The comparison of blur engines: crops, engines, rows, picture and the README's table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from toys import photo, picture

from benchmarks import blur_tables, figure3, readme, roofline
from blursynth.gan import Generator, GeneratorConfig, save_generator
from blursynth.recipes import RECIPES
from freqdiff.errors import InputError

NAMES = ("astronaut", "coffee", "chelsea", "rocket")
ENGINES = {"sharp", *RECIPES, "gan"}
REAL = [f"{kind}/{number}.png" for kind in ("focus", "shake") for number in range(6)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Three sharp photos, two kinds of real ones, and a GAN trained on every second of these."""
    sharp, real, gan = (tmp_path / name for name in ("sharp", "real", "gan"))
    sharp.mkdir()
    for name in NAMES[:3]:
        Image.fromarray(picture(300, 520, name)).save(sharp / f"{name}.png")
    for number, name in enumerate(REAL):
        (real / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = picture(384, 640, NAMES[number % 4])[:, 200 * (number // 4) :][:160, :200]
        Image.fromarray(pixels).save(real / name)
    generator = Generator(GeneratorConfig(channels=9, blocks=1, long_side=520))
    save_generator(gan, generator, {"real": REAL[::2], "steps": 7})
    return sharp, real, gan


@pytest.mark.parametrize("size", [(256, 256), (300, 520), (540, 960), (257, 1023)])
def test_crops_lie_side_by_side_with_their_surroundings(size: tuple[int, int]) -> None:
    image = torch.arange(size[0] * size[1], dtype=torch.float32).view(1, *size).expand(3, -1, -1)
    crops = figure3.crops_of("a", image)
    assert len(crops) == (size[0] // 256) * (size[1] // 256)
    covered = torch.zeros(size)
    for crop in crops:
        _, rows, columns = crop.inner
        assert crop.padded[crop.inner].shape == (3, 256, 256)
        top, left = crop.origin[0] + rows.start, crop.origin[1] + columns.start
        assert torch.equal(crop.padded[crop.inner], image[:, top : top + 256, left : left + 256])
        assert rows.start % 16 == columns.start % 16 == 0
        assert max(rows.start, columns.start) <= 32
        covered[top : top + 256, left : left + 256] += 1
    assert float(covered.max()) == 1


def test_photos_smaller_than_a_crop_are_refused() -> None:
    with pytest.raises(InputError, match="'a' has 300 x 200 px"):
        figure3.crops_of("a", torch.zeros(3, 200, 300))


def test_engines_blur_the_same_crop() -> None:
    (crop,) = figure3.crops_of("a", (photo(300, 300) * 255).round() / 255)
    engines = figure3.engines(Generator(GeneratorConfig()))
    assert set(engines) == ENGINES
    for name, engine in engines.items():
        first, again, other = (engine(crop, seed) for seed in (3, 3, 4))
        assert first.shape == crop.padded.shape
        assert torch.equal(first, again)
        # The untrained GAN returns the photo.
        assert torch.equal(first, other) == (name in ("sharp", "gan"))


def test_rows_and_picture(
    folders: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharp, real, gan = folders
    monkeypatch.setattr(figure3, "DRAWS", 1)
    output = tmp_path / "results"
    options = ["--sharp", sharp, "--real", real, "--gan", gan, "--output", output]
    monkeypatch.setattr("sys.argv", ["figure3", *map(str, options), "--kinds", "shake/"])
    figure3.main()
    rows = json.loads((output / "blur_engines.json").read_text())
    assert {(row["kind"], row["engine"], row["features"]) for row in rows} == {
        (kind, engine, space)
        for kind in ("all", "shake/")
        for engine in (ENGINES | {"real"})
        for space in ("spectrum", "patches")
    }
    for row in rows:
        count = 6 if row["kind"] == "all" else 3
        assert row["provenance"]["torch"] == torch.__version__
        assert {"date", "git_sha", "device"} <= set(row["provenance"])
        assert (row["long_side"], row["crop"], row["gan_steps"]) == (520, 256, 7)
        assert row["photos"] == (count if row["engine"] == "real" else 3)
        assert row["real_photos"] == count
        assert row["frechet"] > 0
        assert row["kid_stderr"] > 0
    for kind in ("all", "shake/"):
        of_kind = [row for row in rows if row["kind"] == kind]
        assert len({row["windows"] for row in of_kind}) == 1
        found = {(row["features"], row["engine"]): row["frechet"] for row in of_kind}
        for space in ("spectrum", "patches"):
            assert found[space, "gan"] == pytest.approx(found[space, "sharp"], rel=0.05)
        # The "real" photos of this test are sharp.
        assert found["spectrum", "sharp"] < 0.5 * found["spectrum", "gaussian"]
    figure = output / "figure3.jpg"
    assert figure.stat().st_size <= 300_000
    with Image.open(figure) as shown:
        assert shown.width == 5 * (260 + 8) - 8

    lines = blur_tables.engines(roofline.read(output / "blur_engines.json"))
    assert sum(line.startswith("| ") for line in lines) == 2 * (2 + len(ENGINES) + 1)
    assert any("figure3.jpg" in line for line in lines)


def test_the_readme_shows_nothing_that_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.compared("blur_engines", blur_tables.engines) == []


@pytest.mark.parametrize(
    ("seen", "kinds", "words"),
    [
        (REAL, [], "trained on 12 and not on 0"),
        (REAL[:2], [], "trained on 2 and not on 10"),
        (REAL[::2], ["blue/"], "start with 'blue/' the GAN was trained on 0"),
    ],
    ids=["all", "few", "kind"],
)
def test_too_few_photos_are_refused_before_the_work(
    folders: tuple[Path, Path, Path], seen: list[str], kinds: list[str], words: str
) -> None:
    sharp, real, gan = folders
    save_generator(gan, Generator(GeneratorConfig()), {"real": seen, "steps": 0})
    with pytest.raises(InputError, match=words):
        figure3.run(sharp, real, gan, kinds=kinds)
