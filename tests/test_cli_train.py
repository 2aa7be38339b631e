"""`freqdiff train`: settings, going on, and errors."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import commands
import pytest
import toys

from freqdiff import data, model, train
from freqdiff.errors import TrainingError


class FakeTraining:
    """Notes how it was made, and does not train."""

    made: ClassVar[list[dict[str, Any]]] = []
    at_step = 0

    def __init__(self, *arguments: Any, built: str | None, sharded: bool) -> None:
        names = ("folder", "data", "model", "config", "data_config", "validation")
        names += ("workers", "compiled")
        made = dict(zip(names, arguments, strict=True))
        self.made.append(made | {"built": built, "sharded": sharded})
        self.config = arguments[3]
        self.step = 0
        self.accelerator = SimpleNamespace(device="cpu", num_processes=1, is_main_process=True)
        self.pairs = SimpleNamespace(stock="2 photos" if arguments[1] else "2 pairs")

    def resume(self) -> bool:
        self.step = self.at_step
        return self.at_step > 0

    def run(self, *, seconds: float, finish: bool) -> None:
        self.made[-1] |= {"seconds": seconds, "finish": finish}
        if seconds > 60:
            self.step = self.config.steps


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeTraining]:
    monkeypatch.setattr(train, "Training", FakeTraining)
    monkeypatch.setattr(FakeTraining, "made", [])
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    return FakeTraining


COMMAND = ("train", "--config", "tiny", "--data", "photos", "--output", "runs/a")


def test_settings(fake: type[FakeTraining]) -> None:
    code, out, err = commands.run(*COMMAND)
    assert (code, err) == (0, "")
    assert "starts on cpu" in out
    assert "2 photos" in out
    assert "--model runs/a/model" in out
    default = fake.made[-1]
    assert default["model"] == model.CONFIGS["tiny"]
    assert default["config"] == train.TrainConfig()
    assert default["data_config"] == data.DataConfig()
    assert default["validation"] is None
    assert (default["workers"], default["compiled"], default["finish"]) == (None, False, False)
    assert (default["folder"], default["data"]) == (Path("runs/a"), "photos")
    assert (default["built"], default["sharded"]) == (None, False)

    options = "--steps 50 --batch 4 --crop 64 --seed 3 --anchor-steps 9 --learning-rate 2e-4"
    options += " --relative-floor 0.1"
    options += " --minutes 0.5 --finish --workers 2 --compile --accumulate 3 --progressive"
    _, out, _ = commands.run(*COMMAND, *options.split())
    given = fake.made[-1]
    recipe = train.TrainConfig(
        steps=50,
        batch=4,
        seed=3,
        anchor_steps=9,
        accumulate=3,
        progressive=True,
        learning_rate=2e-4,
        relative_floor=0.1,
    )
    assert given["config"] == recipe
    assert (given["workers"], given["compiled"], given["finish"]) == (2, True, True)
    assert given["data_config"] == dataclasses.replace(data.DataConfig(), crop=64, seed=3)
    assert given["seconds"] == 30
    assert "Stopped at step 0 of 50" in out
    assert "50 steps of 3 x 4 crops of 64 pixels from 2 photos" in out

    command = ("train", "--config", "tiny", "--pairs", "built", "--output", "runs/a", "--fsdp")
    assert "from 2 pairs" in commands.run(*command).out
    assert (fake.made[-1]["data"], fake.made[-1]["built"]) == (None, "built")
    assert fake.made[-1]["sharded"]
    assert commands.run(*command, "--data", "photos", "--pairs-share", "0.4").code == 0
    assert (fake.made[-1]["data"], fake.made[-1]["built"]) == ("photos", "built")
    assert fake.made[-1]["data_config"] == dataclasses.replace(data.DataConfig(), built=0.4)
    code, _, err = commands.run(*command, "--pairs-share", "0.4")
    assert (code, err.count("\n")) == (1, 1)
    assert "for --data and --pairs together" in err


def test_the_recipe_of_the_paper(fake: type[FakeTraining]) -> None:
    _, out, _ = commands.run(*COMMAND, "--preset", "paper", "--seed", "2")
    assert "Training of tiny-paper starts" in out
    made = fake.made[-1]
    recipe, network = made["config"], made["model"]
    assert (recipe.steps, recipe.batch, recipe.learning_rate) == (600_000, 8, 1.5e-4)
    assert (recipe.schedule, recipe.relative_floor, recipe.seed) == ("cosine", None, 2)
    assert (network.objective, network.condition, network.anchor) == ("epsilon", "freq", "input")
    assert network.channels == model.CONFIGS["tiny"].channels
    commands.run(*COMMAND, "--preset", "paper", "--steps", "10")
    assert fake.made[-1]["config"].steps == 10


def test_going_on(fake: type[FakeTraining], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "at_step", 7)
    assert "goes on at step 7" in commands.run(*COMMAND).out


def test_device(fake: type[FakeTraining], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    assert commands.run(*COMMAND, "--device", "cpu").code == 0
    assert os.environ["ACCELERATE_USE_CPU"] == "true"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("no CUDA")

    monkeypatch.setattr("torch.empty", refuse)
    commands.refused(commands.run(*COMMAND, "--device", "cuda"), "'cuda'")


def test_accelerate_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    commands.refused(commands.run(*COMMAND), 'pip install "freqdiff-deblur[train]"')


def test_bad_input(tmp_path: Path) -> None:
    commands.refused(commands.run(*COMMAND, "--crop", 40), "crop is 40", "multiple of 32")
    refused = commands.run(*COMMAND, "--learning-rate", 0)
    commands.refused(refused, "a learning rate above 0", code=2)
    commands.refused(commands.run(*COMMAND, "--finish"), "--finish goes with --minutes")
    command = ("train", "--config", "tiny", "--output", tmp_path / "run", "--device", "cpu")
    commands.refused(commands.run(*command, "--data", tmp_path / "no"), "not a folder")
    (tmp_path / "photos").mkdir()
    commands.refused(commands.run(*command, "--data", tmp_path / "photos"), "no photos")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (KeyboardInterrupt(), 130, "the same command goes on"),
        (TrainingError("Training diverged."), 1, "diverged"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
    ids=["interrupt", "diverged", "disk-full"],
)
def test_errors_while_training(
    fake: type[FakeTraining],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    word: str,
) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(fake, "run", fail)
    result = commands.run(*COMMAND)
    assert result.code == code
    commands.sentence(result.err, word)


def test_training_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.make_dataclass(
        "Small", [("pairs_per_block", int, 8)], bases=(data.DataConfig,), frozen=True
    )
    monkeypatch.setattr(data, "DataConfig", small)
    monkeypatch.setitem(model.CONFIGS, "tiny", toys.TOY)
    photo = commands.put_photo(tmp_path / "photos/a.png", 160, 160)
    command = ("train", "--config", "tiny", "--data", tmp_path / "photos")
    command += ("--output", tmp_path / "run", "--crop", 32, "--batch", 2, "--device", "cpu")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    for steps, word in ((2, "starts"), (3, "goes on at step 2")):
        code, out, err = commands.run(*command, "--steps", steps)
        assert code == 0, err
        assert word in out
    result = tmp_path / "result.png"
    code, _, err = commands.run("deblur", photo, "-o", result, "--model", tmp_path / "run/model")
    assert (code, err) == (0, "")
    photo.write_bytes(b"")
    result = commands.run(*command, "--steps", 5)
    assert result.code == 1
    assert "a.png cannot be read" in result.err.splitlines()[-1]
