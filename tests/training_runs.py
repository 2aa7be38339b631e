"""Short training runs, for tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor
from toys import SMALL_PAIRS as DATA
from toys import TOY

from freqdiff.data import Pairs
from freqdiff.train import TrainConfig, Training

STATE = "state.safetensors"
RECIPE = TrainConfig(steps=10, batch=4, warmup=2, save_every=4, validate_every=1000)


def begin(folder: Path, photos: Path, **changes: object) -> Training:
    recipe = dataclasses.replace(RECIPE, **changes)  # type: ignore[arg-type]
    return Training(folder, photos, TOY, recipe, DATA)


def run(training: Training, until: int | None = None) -> list[float]:
    """Train, and die without warning before step `until`; returns the losses."""
    losses, advance = [], training._advance

    def watched(some: list[Pairs]) -> Tensor:
        if training.step == until:
            raise KeyboardInterrupt
        total = advance(some)
        losses.append(float(total))
        return total

    training._advance = watched  # type: ignore[method-assign]
    try:
        training.run(progress=False)
    except KeyboardInterrupt:
        assert until is not None
    return losses


def assert_same_state(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
