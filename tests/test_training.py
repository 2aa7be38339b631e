"""Training: the recipe, exact resume, divergence."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from toys import SMALL_PAIRS as DATA
from toys import TOY, WIENER_TOY, random_denoiser, write_photos
from training_runs import RECIPE, STATE, assert_same_state, begin, run

from freqdiff import atomic, progress, train
from freqdiff.checkpoint import load_model
from freqdiff.denoiser import Denoiser
from freqdiff.diffusion import Objective
from freqdiff.errors import OutputError, TrainingError
from freqdiff.train import Training, learning_rate
from freqdiff.validation import Validation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


def test_anchor_learns_alone_at_first(photos: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=12, anchor_steps=5)
    data = dataclasses.replace(DATA, crop=32)
    training = Training(tmp_path, photos, WIENER_TOY, recipe, data)
    start = {name: value.clone() for name, value in training.model.named_parameters()}

    def changed() -> set[str]:
        parameters = training.model.named_parameters()
        return {n.split(".")[0] for n, value in parameters if not torch.equal(value, start[n])}

    run(training, until=3)  # a quarter of the steps is less than anchor_steps
    assert changed() == {"blur"}
    del training._advance  # the one that stops
    run(training, until=4)
    assert changed() == {"blur", "unet"}


@pytest.mark.parametrize("objective", ["anchored", "epsilon", "v"])
def test_loss_falls(photos: Path, tmp_path: Path, objective: Objective) -> None:
    """Eight pairs, seen again and again; the floor weighs them about alike."""
    config = dataclasses.replace(TOY, objective=objective)
    changes = {"learning_rate": 3e-3, "decay_share": 0.2, "relative_floor": 4.0}
    recipe = dataclasses.replace(RECIPE, steps=40, batch=8, save_every=1000, **changes)
    data = dataclasses.replace(DATA, reuse=100)
    losses = run(Training(tmp_path, photos, config, recipe, data))
    assert len(losses) == 40
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


def test_interrupted_and_resumed_is_uninterrupted(photos: Path, tmp_path: Path) -> None:
    whole = begin(tmp_path / "whole", photos)
    losses = run(whole)
    assert len(losses) == 10

    # Steps 4 to 6 are done, but not saved, when the run dies.
    first = begin(tmp_path / "parts", photos)
    assert not first.resume()
    assert run(first, until=7) == losses[:7]
    second = begin(tmp_path / "parts", photos)
    assert second.resume()
    assert second.step == 4
    assert run(second) == losses[4:]
    states = [load_file(tmp_path / name / STATE) for name in ("whole", "parts")]
    assert_same_state(*states)
    assert any(name.startswith("exp_avg_sq.") for name in states[0])
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()
    # The average is another thing than the weights, and it is what is shipped.
    name = "unet.output.weight"
    assert not torch.equal(states[0][f"ema.{name}"], states[0][f"model.{name}"])
    shipped = load_model(tmp_path / "whole" / "model").state_dict()[name]
    assert torch.equal(shipped, states[0][f"ema.{name}"].half().float())


@pytest.mark.slow
def test_killed_and_resumed_is_uninterrupted(photos: Path, tmp_path: Path) -> None:
    """SIGKILL at a random moment, also in the middle of a save."""
    steps = 24
    begun = tmp_path / "begun"
    # The same threads, for the same rounding; slow enough to be killed in time.
    script = f"""
        import sys, time, torch
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from training_runs import begin
        torch.set_num_threads({torch.get_num_threads()})
        training = begin(Path(sys.argv[1]), Path(sys.argv[2]), steps={steps}, save_every=1)
        advance = training._advance
        training._advance = lambda pairs: time.sleep(0.05) or advance(pairs)
        training.run(progress=False)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(begun), str(photos)]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 120
        while not (begun / STATE).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = begin(begun, photos, steps=steps, save_every=1)
    assert resumed.resume()
    done = resumed.step
    assert 1 <= done < steps
    last = run(resumed)

    whole = begin(tmp_path / "whole", photos, steps=steps, save_every=1)
    losses = run(whole)
    assert last == losses[done:]
    assert_same_state(load_file(begun / STATE), load_file(tmp_path / "whole" / STATE))


def test_other_settings_are_refused(photos: Path, tmp_path: Path) -> None:
    run(begin(tmp_path, photos, steps=1))
    before = (tmp_path / STATE).read_bytes()
    assert begin(tmp_path, photos, steps=20).resume(), "a run may be made longer"
    others = [
        begin(tmp_path, photos, learning_rate=1.0),
        Training(tmp_path, photos, TOY, RECIPE, dataclasses.replace(DATA, crop=32)),
        Training(tmp_path, photos, dataclasses.replace(TOY, embedding=32), RECIPE, DATA),
    ]
    for other in others:
        with pytest.raises(TrainingError, match="was written by a run with other settings; give"):
            other.resume()
    assert (tmp_path / STATE).read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "text", "foreign"])
def test_damaged_state(photos: Path, tmp_path: Path, damage: str) -> None:
    training = begin(tmp_path, photos)
    training.save()
    content = (tmp_path / STATE).read_bytes()
    if damage == "foreign":
        (tmp_path / "model" / "model.safetensors").replace(tmp_path / STATE)
    else:
        (tmp_path / STATE).write_bytes(content[:1000] if damage == "cut" else b"text")
    with pytest.raises(TrainingError, match=r"state\.safetensors (is not a|was written by a run)"):
        training.resume()


def test_compiled_training_gives_what_training_gives(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = run(begin(tmp_path / "plain", photos, steps=4))
    # Without the minutes that generating code takes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    recipe = dataclasses.replace(RECIPE, steps=4)
    compiled = Training(tmp_path / "compiled", photos, TOY, recipe, DATA, compiled=True)
    assert run(compiled) == pytest.approx(plain, rel=1e-4)


def test_the_schedule_ends_with_the_time(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PACE_STEPS", 5)
    training = begin(tmp_path, photos, steps=1_000_000, save_every=10**9)
    start = time.monotonic()
    training.run(seconds=4, finish=True, progress=False)
    assert 10 < training.step < 1_000_000
    assert time.monotonic() - start < 12
    # As many steps as there was time for, so that the learning rate had come down.
    assert training.step >= 0.8 * training.config.steps
    assert learning_rate(training.config, training.step) < 0.7 * training.config.learning_rate


def test_the_time_is_met_where_the_last_steps_take_longer() -> None:
    pace, steps, step, elapsed = progress.Pace(3000), 1_000_000, 0, 0.0
    while step < steps:
        elapsed += 3 if step >= 0.7 * steps else 1
        step += 1
        falls = step >= 0.7 * steps
        steps = pace.plan(step, elapsed, falls, kind=falls) or steps
    assert 2700 < elapsed < 3000


@pytest.mark.parametrize("cause", ["learning rate", "nan", "explosion"])
def test_divergence_stops_and_keeps_the_last_state(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    run(begin(tmp_path, photos, steps=4))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert len(before) == 2
    training = begin(tmp_path, photos, steps=300)
    assert training.resume()
    if cause == "learning rate":
        monkeypatch.setattr(train, "learning_rate", lambda config, step: 1e12)
    elif cause == "nan":
        loss = train.training_loss

        def poisoned(*arguments: object, anchor_only: bool) -> Tensor:
            value = loss(*arguments, anchor_only=anchor_only)  # type: ignore[arg-type]
            return value * (torch.nan if training.step == 6 else 1)

        monkeypatch.setattr(train, "training_loss", poisoned)
    else:
        # Without any infinity: the last 20 losses far above what was usual.
        training._recent = [0.5] * 199

        def exploded(model: torch.nn.Module, *_: object, anchor_only: bool) -> Tensor:
            return sum_of(model) * 0 + 100

        monkeypatch.setattr(train, "training_loss", exploded)
    message = r"^Training diverged at step \d+ .*the last state in .* is intact; lower the learning"
    with pytest.raises(TrainingError, match=message):
        training.run(progress=False)
    if cause == "nan":
        assert training.step == 7  # found when the step is done
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before


def sum_of(model: torch.nn.Module) -> Tensor:
    return torch.stack([value.sum() for value in model.parameters()]).sum()


def test_full_disk_while_saving(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = begin(tmp_path, photos)
    training.save()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fill(path: Path, data: bytes) -> None:
        path.write_bytes(data[:100])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(atomic, "_write_and_sync", fill)
    training.step = 3
    with pytest.raises(OutputError, match="the disk is full"):
        training.save()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_time_budget(photos: Path, tmp_path: Path) -> None:
    training = begin(tmp_path, photos, steps=100_000)
    training.run(seconds=0.3, progress=False)
    assert 1 <= training.step < 1000
    again = begin(tmp_path, photos, steps=100_000)
    assert again.resume()
    assert again.step == training.step
    assert again.seconds >= 0.3


def test_start_from_other_weights(photos: Path, tmp_path: Path) -> None:
    weights = random_denoiser(seed=5)
    training = begin(tmp_path, photos)
    assert training.start_from(weights) == "weights"
    for name, value in training.averaged().named_parameters():
        assert torch.equal(value, dict(weights.named_parameters())[name])
    with pytest.raises(TrainingError, match="architecture is not that of 'toy'"):
        training.start_from(random_denoiser(dataclasses.replace(TOY, embedding=32)))


def test_validation_is_measured_and_drawn(photos: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, steps=4, validate_every=2)
    validation = Validation(photos, count=6, crop=64)
    training = Training(tmp_path, photos, TOY, recipe, DATA, validation)
    training.run(progress=False)
    lines = (tmp_path / "history.jsonl").read_text(encoding="utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    assert [entry["step"] for entry in history] == [2, 4]
    assert all(10 < entry["input"] < 60 for entry in history)
    assert all(entry["crops_per_second"] > 0 for entry in history)
    facts = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert facts["training"]["steps"] == 4
    assert facts["training"]["history"] == history
    assert facts["training"]["crops_per_step"] == 4
    assert facts["training"]["crops_per_second"] > 0
    with Image.open(tmp_path / "val_0000004.png") as strip:
        assert strip.size == (6 * 64, 3 * 64)

    untrained = validation.measure(Denoiser(TOY))
    assert untrained["gain"] == 0
    assert untrained["input"] == history[0]["input"]
    assert untrained["unharmed"] == 90
    assert torch.equal(Validation(photos, count=6, crop=64).blurred, validation.blurred)


def test_crop_must_fit_the_network(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError,
        match=r"^Model 'toy' cannot train on crops of 20 pixels: give a multiple of 8\.$",
    ):
        Training(tmp_path, photos, TOY, RECIPE, dataclasses.replace(DATA, crop=20))


def test_start_from_the_blur_estimator_of_another_network(photos: Path, tmp_path: Path) -> None:
    weights = random_denoiser(WIENER_TOY)
    wider = dataclasses.replace(WIENER_TOY, embedding=32)
    data = dataclasses.replace(DATA, crop=32)
    training = Training(tmp_path, photos, wider, RECIPE, data)
    before = training.model.unet.input_y.weight.clone()
    assert training.start_from(weights) == "blur estimator"
    given = weights.state_dict()
    for name, value in training.model.named_parameters():
        if name.startswith("blur."):
            assert torch.equal(value, given[name])
            assert torch.equal(training.ema[name], given[name])
    assert torch.equal(training.model.unet.input_y.weight, before)
