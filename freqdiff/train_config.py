"""The recipe of a training run, and its learning rate over the steps."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Recipe of a training run.

    Attributes:
        steps: optimiser steps of the whole run (the cosine ends there).
        batch: pairs per step and process.
        learning_rate, warmup, weight_decay: AdamW.
        schedule: "linear" stays at the peak and decays over the last `decay_share` of the steps, so
            that a run can be made longer when it is resumed; "cosine" is the paper's.
        decay_share: see `schedule`.
        ema: decay of the averaged weights, which are the ones that are saved.
        terminal_share: share of the samples at t = 999, where one step is plain regression.
        spectral_loss: weight of the L1 distance of spectra at high noise.
        anchor_steps: steps at the beginning, at most a quarter of all, in which the blur estimator
            learns alone, which takes a fraction of the time; it learns on in the others.
        psf_loss: weight of the cross entropy of the estimated kernels.
        relative_floor: samples are weighted by 1 / (|x0 - y|^2 / r^2 + relative_floor), so that
            lightly blurred photos count as in a mean of PSNR gains; None: all weigh 1.
        validate_every, save_every: steps between validations and saved states.
        seed: of weights, noise and data.
    """

    steps: int = 20_000
    batch: int = 8
    learning_rate: float = 1e-3
    warmup: int = 300
    weight_decay: float = 1e-4
    schedule: Literal["linear", "cosine"] = "linear"
    decay_share: float = 0.3
    ema: float = 0.999
    terminal_share: float = 0.9
    spectral_loss: float = 0.1
    anchor_steps: int = 5_000
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
