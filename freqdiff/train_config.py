"""The recipe of a training run, and its learning rate over the steps."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from freqdiff.data import DataConfig
from freqdiff.errors import TrainingError
from freqdiff.model import ModelConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Recipe of a training run.

    Attributes:
        steps: optimiser steps of the whole run (the cosine ends there).
        batch: pairs that the network sees at once.
        accumulate: batches of each process whose gradients make one step.
        progressive: until the learning rate falls, crops have half the side: while the blur
            estimator learns alone four times as many, later twice as many.
        learning_rate, warmup, weight_decay: AdamW.
        schedule: "linear" stays at the peak and decays over the last `decay_share` of the steps, so
            that a run can be made longer when it is resumed; "cosine" is the paper's.
        decay_share: see `schedule`.
        ema: decay of the averaged weights, which are the ones that are saved.
        terminal_share: share of the samples at t = 999, where one step is plain regression.
        spectral_loss: weight of the L1 distance of spectra at high noise.
        anchor_steps: steps at the beginning, at most a quarter of all, in which the blur estimator
            learns alone, which takes a fraction of the time; it learns on in the others.
        camera_dropout: share of the photos of which no setting of the camera is told, and of the
            settings of the others that are left out; for models that use them.
        psf_loss: weight of the cross entropy of the estimated kernels.
        relative_floor: samples are weighted by 1 / (|x0 - y|^2 / r^2 + relative_floor), so that
            lightly blurred photos count as in a mean of PSNR gains; None: all weigh 1. The smaller,
            the more what is done to sharp photos counts, which light blur cannot be told from.
        validate_every, save_every: steps between validations and saved states.
        seed: of weights, noise and data.
    """

    steps: int = 20_000
    batch: int = 8
    accumulate: int = 1
    progressive: bool = False
    learning_rate: float = 1e-3
    warmup: int = 300
    weight_decay: float = 1e-4
    schedule: Literal["linear", "cosine"] = "linear"
    decay_share: float = 0.3
    ema: float = 0.999
    terminal_share: float = 0.9
    spectral_loss: float = 0.1
    anchor_steps: int = 5_000
    camera_dropout: float = 0.3
    psf_loss: float = 0.2
    relative_floor: float | None = 0.003
    validate_every: int = 1000
    save_every: int = 1000
    seed: int = 0


PAPER = TrainConfig(
    steps=600_000,
    learning_rate=1.5e-4,
    warmup=1000,
    schedule="cosine",
    ema=0.9999,
    terminal_share=0.0,
    spectral_loss=0.0,
    anchor_steps=0,
    relative_floor=None,
)
"""The paper's recipe: noise prediction (Eq. 2) with equal weights, meant for 4 processes."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, a constant, and a linear decay; or warm-up and a cosine."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    left = max(0.0, 1 - step / config.steps)
    if config.schedule == "cosine":
        return config.learning_rate * warm * (0.5 - 0.5 * math.cos(math.pi * left))
    return config.learning_rate * warm * min(1.0, left / config.decay_share)


def check_crops(model: ModelConfig, config: TrainConfig, data: DataConfig) -> None:
    """Raise TrainingError unless the network can be trained on these crops."""
    if data.crop % model.alignment:
        raise TrainingError(
            f"Model {model.name!r} cannot train on crops of {data.crop} pixels: "
            f"give a multiple of {model.alignment}."
        )
    if config.progressive and data.crop % (2 * model.alignment):
        raise TrainingError(
            f"Model {model.name!r} cannot train on half of {data.crop} pixels at first: "
            f"give crops of a multiple of {2 * model.alignment}, or leave out --progressive."
        )
