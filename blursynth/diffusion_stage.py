"""What a stage of the training of the diffusion engine is: a recipe, parts that learn, losses."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from blursynth.diffusion_pipeline import BlurSynthPipeline
from blursynth.diffusion_stream import Batch


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """What the recipes of all stages share.

    Attributes:
        steps: of the whole run.
        batch: pairs per step and process.
        crop: their side in pixels.
        long_side: pixels to which the longer side of larger photos is shrunk.
        learning_rate, warmup, decay_share: Adam; the rate rises over the first steps and falls to 0
            over the last share of them.
        betas: of Adam.
        ema: decay of the averaged weights, which are the ones that are saved.
        save_every, validate_every: steps between saved states and validations.
        seed: of weights, crops and noise.
    """

    steps: int = 20_000
    batch: int = 16
    crop: int = 256
    long_side: int = 1920
    learning_rate: float = 5e-4
    warmup: int = 200
    decay_share: float = 0.3
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.999
    save_every: int = 1000
    validate_every: int = 1000
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (1 - step / self.steps) / self.decay_share)
        return self.learning_rate * rise * max(0.0, fall)


class Loss(NamedTuple):
    """What one optimiser makes smaller in a step.

    Attributes:
        network: key of `Stage.learns`.
        value: the loss.
        told: numbers for people and for `Stage.stopped`.
        pace: learning rate over that of the recipe.
    """

    network: str
    value: Tensor
    told: dict[str, float | Tensor]
    pace: float = 1.0


class Stage(abc.ABC):
    """What is trained, and by which losses.

    Attributes:
        name: of the stage.
        pipeline: whose parts learn.
        config: the recipe.
        networks: parameters by name that each optimiser moves; the first ones are averaged.
        others: modules beside the pipeline that go to its device.
        settings: what a run must share to go on, beside the configuration and the photos.
    """

    name: ClassVar[str]
    pipeline: BlurSynthPipeline
    config: TrainingConfig
    networks: dict[str, dict[str, nn.Parameter]]
    others: tuple[nn.Module, ...] = ()
    settings: dict[str, Any]

    @abc.abstractmethod
    def losses(self, batch: Batch, step: int, noise: torch.Generator) -> Iterator[Loss]:
        """The losses of a step, one after the other; each is optimised before the next is asked
        for. `noise` is on the CPU."""

    @abc.abstractmethod
    def validate(self, batch: Batch) -> tuple[dict[str, float], list[Tensor]]:
        """Numbers, and pictures (B, 3, H, W) to lay side by side."""

    @abc.abstractmethod
    def save(self, folder: Path, batch: Batch) -> None:
        """Write what was learned so far; the batch is always the same one."""

    def stopped(self, recent: list[dict[str, float]]) -> str | None:
        """Why the run has come to nothing, as seen from the last steps, or None."""
        return None
