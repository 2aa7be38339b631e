"""The plain GAN: it starts as the identity, learns to blur, is reproducible, resumes, and stops."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import contents
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from toys import photo, picture

from blursynth import gan_train
from blursynth.cli import main
from blursynth.gan import (
    Discriminator,
    Generator,
    GeneratorConfig,
    blur,
    draw_noise,
    load_generator,
    save_generator,
)
from blursynth.gan_train import GanConfig, GanTraining, train_gan
from blursynth.photo_crops import Crops
from blursynth.photo_scale import read_at_scale
from blursynth.training_state import STATE
from freqdiff.errors import InputError, ModelError, OutputError, PhotoError, TrainingError

SMALL = GeneratorConfig(channels=8, blocks=1, long_side=120)
TINY = GanConfig(steps=6, batch=2, crop=64, save_every=3, r1_every=2, generator=SMALL)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two sharp photos, one too small, and three blurred ones, one larger than the scale."""
    sharp, real = (tmp_path_factory.mktemp(name) for name in ("sharp", "real"))
    Image.fromarray(picture(100, 120, "coffee")).save(sharp / "a.png")
    Image.fromarray(picture(40, 120)).save(sharp / "small.png")
    for number, side in enumerate((200, 96, 96)):
        image = F.avg_pool2d(photo(side + 4, side + 4, "chelsea")[None], 5, stride=1)[0]
        pixels = (image * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(real / f"{number}.png")
    return sharp, real


def trained(folders: tuple[Path, Path], output: Path, config: GanConfig = TINY) -> GanTraining:
    return train_gan(*folders, output, config, progress=False)


def random_generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(SMALL)
    torch.nn.init.normal_(generator.last.weight, 0, 0.02)
    return generator.eval().requires_grad_(False)


def test_an_untrained_generator_changes_nothing() -> None:
    sharp = (photo(50, 63) * 255).round() / 255
    torch.testing.assert_close(blur(Generator(GeneratorConfig()), sharp, 0), sharp)


def test_the_generator_is_small_and_local() -> None:
    assert sum(p.numel() for p in Generator(GeneratorConfig()).parameters()) < 300_000
    generator = random_generator()
    sharp, noise = torch.rand(1, 3, 96, 96) * 2 - 1, torch.randn(1, 4, 24, 24)
    whole = generator(sharp, noise)
    part = generator(sharp[..., :64, :64], noise[..., :16, :16])
    torch.testing.assert_close(part[..., :32, :32], whole[..., :32, :32])


def test_the_discriminator_scores_patches() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 128, 128, requires_grad=True)
    scores = Discriminator()(image)
    assert scores.shape == (1, 1, 15, 15)
    scores[0, 0, 7, 7].backward()
    assert image.grad is not None
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows.max() - rows.min()) + 1 == 46


def test_noise_has_a_part_for_the_photo_and_one_for_each_position() -> None:
    noise = draw_noise(3, (64, 32), torch.Generator().manual_seed(0))
    assert noise.shape == (3, 4, 16, 8)
    assert float(noise[:, :2].std((2, 3)).max()) == 0
    assert float(noise[:, 2:].std((2, 3)).min()) > 0.7
    assert len(noise[:, 0, 0, 0].unique()) == 3


def test_the_same_seed_gives_the_same_photo_on_256_levels() -> None:
    generator, sharp = random_generator(), photo(45, 66)
    first, again, other = (blur(generator, sharp, seed) for seed in (1, 1, 2))
    assert first.shape == sharp.shape
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.equal(first, other)
    torch.testing.assert_close(first * 255, (first * 255).round(), rtol=0, atol=1e-4)
    assert 0 <= float(first.min()) <= float(first.max()) <= 1


@pytest.mark.parametrize("shape", [(3, 7, 64), (1, 64, 64), (1, 3, 64, 64)])
def test_refused_photos(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="at least 8 px"):
        blur(random_generator(), torch.rand(shape), 0)


@pytest.mark.slow
def test_it_learns_to_blur(tmp_path: Path) -> None:
    sharp = photo(160, 200, "coffee")
    blurred = F.avg_pool2d(photo(164, 204, "coffee")[None], 5, stride=1)[0]
    for name, image in (("sharp", sharp), ("real", blurred)):
        (tmp_path / name).mkdir()
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    config = dataclasses.replace(
        TINY,
        steps=250,
        batch=4,
        learning_rate=1e-3,
        r1=1.0,
        r1_every=8,
        save_every=1000,
        generator=GeneratorConfig(channels=24, blocks=1, long_side=200),
    )
    training = trained((tmp_path / "sharp", tmp_path / "real"), tmp_path / "gan", config)
    made = blur(load_generator(tmp_path / "gan")[0], sharp, 0)

    def detail(image: Tensor) -> float:
        return float(image.diff(dim=2).square().mean() + image.diff(dim=1).square().mean())

    # Three seeds end at 0.91; the photos to learn from have 0.12.
    assert detail(made) < 0.96 * detail(sharp)
    low = [F.avg_pool2d(image, 16) for image in (made, sharp)]
    assert float((low[0] - low[1]).abs().mean()) < 0.02
    assert [row["step"] for row in training.history] == [50, 100, 150, 200, 250]


def test_training_is_reproducible_and_resumes_exactly(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    whole, again, parts = (tmp_path / name for name in ("whole", "again", "parts"))
    trained(folders, whole)
    trained(folders, again)
    trained(folders, parts, dataclasses.replace(TINY, steps=3))
    assert trained(folders, parts).step == 6
    expected = load_file(whole / STATE)
    for folder in (again, parts):
        for name in ("config.json", "generator.safetensors"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes()
        found = load_file(folder / STATE)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
    other = dataclasses.replace(TINY, seed=1)
    trained(folders, tmp_path / "other", other)
    files = [tmp_path / name / "generator.safetensors" for name in ("whole", "other")]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_training_leaves_the_random_numbers_of_others_alone(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    trained(folders, tmp_path, dataclasses.replace(TINY, steps=1))
    assert torch.equal(before, torch.random.get_rng_state())


def test_facts_name_the_photos(folders: tuple[Path, Path], tmp_path: Path) -> None:
    train_gan(*folders, tmp_path, TINY, hold_out=True, progress=False)
    generator, facts = load_generator(tmp_path)
    assert generator.config == SMALL
    assert facts["sharp"] == ["a.png"]
    assert facts["real"] == ["0.png", "2.png"]
    assert facts["steps"] == 6
    assert facts["generator"]["long_side"] == 120


def test_a_state_of_other_settings_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    trained(folders, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(TrainingError, match="other settings or photos"):
        trained(folders, tmp_path, dataclasses.replace(TINY, batch=1))
    with pytest.raises(TrainingError, match="other settings or photos"):
        train_gan(*folders, tmp_path, TINY, hold_out=True, progress=False)
    assert contents(tmp_path) == before
    (tmp_path / STATE).write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="not a training state"):
        trained(folders, tmp_path)


@pytest.fixture
def training(folders: tuple[Path, Path], tmp_path: Path) -> GanTraining:
    crops = [
        Crops(folder, [name], 64, 120)
        for folder, name in zip(folders, ("a.png", "1.png"), strict=True)
    ]
    return GanTraining(tmp_path, *crops, dataclasses.replace(TINY, steps=1000, save_every=10**6))


FINE = {"discriminator": 1.5, "generator": 0.1, "content": 0.01, "change": 0.1}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"generator": float("nan")}, "not finite"),
        ({"discriminator": 0.0}, "tells all photos apart"),
        ({"discriminator": 2.0}, "the same score"),
        ({"content": 0.5}, "does not keep"),
    ],
)
def test_collapse_stops_the_training(
    training: GanTraining,
    changed: dict[str, float],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def advance() -> dict[str, float]:
        training.step += 1
        return FINE | changed

    monkeypatch.setattr(training, "advance", advance)
    with pytest.raises(TrainingError, match=words) as caught:
        training.run(progress=False)
    assert f"at step {1 if 'generator' in changed else 300}:" in str(caught.value)
    assert contents(training.folder) == {}


def test_a_run_without_collapse_goes_on(
    training: GanTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    def advance() -> dict[str, float]:
        training.step += 1
        return FINE

    monkeypatch.setattr(training, "advance", advance)
    training.run(progress=False)
    assert training.step == 1000


def test_weights_that_explode_stop_the_training(training: GanTraining) -> None:
    with torch.no_grad():
        training.generator.last.bias.fill_(float("inf"))
    with pytest.raises(TrainingError, match="at step 1: a loss is not finite"):
        training.run(progress=False)


def test_photos_that_cannot_be_used(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="128 px on each side"):
        trained(folders, tmp_path, dataclasses.replace(TINY, crop=128))
    with pytest.raises(InputError, match="multiple of 16"):
        trained(folders, tmp_path, dataclasses.replace(TINY, crop=72))
    with pytest.raises(InputError, match="not a folder"):
        train_gan(tmp_path / "none", folders[1], tmp_path, TINY)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(PhotoError, match="Cannot read"):
        train_gan(folders[0], tmp_path / "broken", tmp_path / "out", TINY)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot make the folder"):
        trained(folders, tmp_path / "file")


def test_a_damaged_generator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no usable generator"):
        load_generator(tmp_path)
    save_generator(tmp_path, random_generator(), {})
    assert load_generator(tmp_path)[1] == {}
    config = json.loads((tmp_path / "config.json").read_text())
    wrong = config | {"generator": config["generator"] | {"blocks": 2}}
    (tmp_path / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(ModelError, match="holds no usable generator"):
        load_generator(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = tmp_path / "generator.safetensors"
    assert set(load_file(weights)) == set(random_generator().state_dict())
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="is damaged"):
        load_generator(tmp_path)


def test_photos_at_a_scale(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(240, dtype=np.uint8)[None, :, None], 120, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    same = read_at_scale(tmp_path / "ramp.png", 240)
    assert same.shape == (3, 120, 240)
    np.testing.assert_array_equal((same * 255).byte().permute(1, 2, 0).numpy(), ramp)
    small = read_at_scale(tmp_path / "ramp.png", 60)
    assert small.shape == (3, 30, 60)
    expected = 4 * torch.arange(60.0) + 1.5
    assert float((small[0, 10, 2:-2] * 255 - expected[2:-2]).abs().max()) <= 0.5


def test_the_command(
    folders: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(gan_train.GanConfig, "save_every", 1000)
    options = [
        "--sharp",
        str(folders[0]),
        "--real",
        str(folders[1]),
        "--out",
        str(tmp_path / "gan"),
    ]
    small = ["--steps", "2", "--batch", "1", "--crop", "64", "--long-side", "120", "--quiet"]
    assert main(["train-gan", *options, *small, "--hold-out"]) == 0
    assert capsys.readouterr().out == "2 steps: done\n"
    assert load_generator(tmp_path / "gan")[1]["real"] == ["0.png", "2.png"]
    assert main(["train-gan", *options, *small, "--crop", "96"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("blursynth: ")
    assert error.count("\n") == 1
