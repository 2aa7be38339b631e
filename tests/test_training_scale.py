"""Training at scale: accumulated batches, lanes, small crops at first, data sets of pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from toys import CAMERA_TOY, TOY, WIENER_TOY, write_photos
from toys import SMALL_PAIRS as DATA
from training_runs import RECIPE, STATE, assert_same_state, begin, run

from blursynth.dataset import build
from freqdiff import train
from freqdiff.data import Pairs
from freqdiff.denoiser import Prediction
from freqdiff.errors import TrainingError
from freqdiff.train import Training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


def test_accumulated_batches_are_one_large_batch(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(model: Callable[..., Prediction], *given: Any, anchor_only: bool) -> Tensor:
        pairs = given[2]
        x0 = model(pairs.blurred, torch.full((len(pairs.psf),), 500), pairs.blurred).x0
        assert x0 is not None
        return (x0 - pairs.sharp).square().mean()

    monkeypatch.setattr(train, "training_loss", loss)
    parts = begin(tmp_path, photos, accumulate=3)
    assert (parts.lanes.count, list(parts.lanes.own)) == (3, [0, 1, 2])
    some = next(parts._batches())
    whole = begin(tmp_path, photos)
    together = Pairs(*(torch.cat(values) for values in zip(*some, strict=True)))
    losses = [float(whole._advance([together])), float(parts._advance(some))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    gradients = [
        torch.cat([value.grad.flatten() for value in one.model.parameters()])
        for one in (whole, parts)
    ]
    # To the rounding of bfloat16, where that is used.
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 0.01


def test_resume_with_other_lanes_goes_on_behind_what_was_seen(photos: Path, tmp_path: Path) -> None:
    """Blocks of 8 pairs, shown twice in batches of 4, last for 4 steps of each lane."""
    run(begin(tmp_path, photos, steps=5, accumulate=2))
    same = begin(tmp_path, photos, accumulate=2)
    assert same.resume()
    assert (same.lanes.step, same.lanes.block) == (0, 0)
    other = begin(tmp_path, photos, accumulate=3)
    assert other.resume()
    # Two lanes have begun their second block each: blocks 0 to 3.
    assert (other.lanes.count, other.lanes.step, other.lanes.block) == (3, 5, 4)
    other.config = dataclasses.replace(other.config, steps=6)
    other.run(progress=False)
    again = begin(tmp_path, photos, accumulate=3)
    assert again.resume()
    assert (again.lanes.step, again.lanes.block) == (5, 4)


def test_small_crops_at_first(photos: Path, tmp_path: Path) -> None:
    data = dataclasses.replace(DATA, crop=64)
    recipe = dataclasses.replace(RECIPE, steps=9, anchor_steps=2, batch=2, progressive=True)

    def start(folder: str) -> Training:
        return Training(tmp_path / folder, photos, WIENER_TOY, recipe, data)

    whole = start("whole")
    sizes, advance = [], whole._advance

    def watched(some: list[Pairs]) -> float:
        sizes.append(tuple(some[0].blurred.shape))
        return advance(some)

    whole._advance = watched  # type: ignore[method-assign]
    whole.run(progress=False)
    # The blur estimator alone; everything; with the learning rate that falls.
    assert sizes == [(8, 3, 32, 32)] * 2 + [(4, 3, 32, 32)] * 5 + [(2, 3, 64, 64)] * 2
    assert whole.speed.crops == 2 * 8 + 5 * 4 + 2 * 2
    assert whole.facts()["crops_per_second"] > 0
    for stop in (1, 4):
        parts = start(f"parts{stop}")
        parts.config = dataclasses.replace(recipe, save_every=1)
        run(parts, until=stop)
        last = start(f"parts{stop}")
        assert last.resume()
        assert last.step == stop
        run(last)
        states = [load_file(tmp_path / name / STATE) for name in ("whole", f"parts{stop}")]
        assert_same_state(*states)


def test_small_crops_that_cannot_be(photos: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, progressive=True)
    message = "half of 32 pixels at first: give crops of a multiple of 64"
    with pytest.raises(TrainingError, match=message):
        Training(tmp_path, photos, WIENER_TOY, recipe, dataclasses.replace(DATA, crop=32))


def test_one_process_has_nothing_to_share_out(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="start --fsdp with torchrun"):
        Training(tmp_path, photos, TOY, RECIPE, DATA, sharded=True)


def test_sharding_by_accelerate_is_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.Accelerator, "distributed_type", train.DistributedType.FSDP)
    with pytest.raises(TrainingError, match="start with torchrun and give --fsdp instead"):
        begin(tmp_path, photos)


def test_training_on_built_pairs(photos: Path, tmp_path: Path) -> None:
    build(photos, tmp_path / "set", count=6, crop=64, shard_size=3, progress=False)
    data = dataclasses.replace(DATA, crop=32)

    def start(folder: str, source: str) -> Training:
        where, built = tmp_path / folder, tmp_path / source
        made = Training(where, None, CAMERA_TOY, RECIPE, data, built=built)
        made.config = dataclasses.replace(RECIPE, steps=6, save_every=1)
        return made

    losses = run(start("whole", "set"))
    assert run(start("parts", "set/shards"), until=3) == losses[:3]
    last = start("parts", "set/shards")
    assert last.resume()
    assert run(last) == losses[3:]
    assert not Training(tmp_path / "new", photos, CAMERA_TOY, RECIPE, data).resume()
    with pytest.raises(TrainingError, match="other settings"):
        Training(tmp_path / "parts", photos, CAMERA_TOY, RECIPE, data).resume()
