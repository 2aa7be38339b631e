"""What training minimises, and its learning rate."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from toys import TOY, WIENER_TOY

from freqdiff.blur_filter import PSF_SIDE
from freqdiff.data import Pairs
from freqdiff.denoiser import Denoiser
from freqdiff.diffusion import Objective
from freqdiff.loss import training_loss
from freqdiff.model import as_in_paper
from freqdiff.train_config import PAPER, TrainConfig, learning_rate


def test_learning_rate() -> None:
    config = TrainConfig(steps=1000, learning_rate=2.0, warmup=100, decay_share=0.25)
    rates = [learning_rate(config, step) for step in range(1000)]
    assert rates[0] == 2 / 100
    assert rates[49] == 1
    assert rates[99:751] == [2.0] * 652
    assert rates[875] == pytest.approx(1)
    assert 0 < rates[999] <= 2 / 250 + 1e-12
    assert learning_rate(config, 1000) == 0

    cosine = dataclasses.replace(config, schedule="cosine", warmup=1)
    assert learning_rate(cosine, 0) == 2
    assert learning_rate(cosine, 500) == pytest.approx(1)
    assert learning_rate(cosine, 250) == pytest.approx(1 + math.sqrt(0.5))
    assert learning_rate(cosine, 1000) == 0


def some_pairs(count: int = 4, side: int = 16) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    x0 = 1.6 * torch.rand((count, 3, side, side), generator=generator) - 0.8
    psf = torch.rand((count, PSF_SIDE, PSF_SIDE), generator=generator)
    psf /= psf.sum((1, 2), keepdim=True)
    y = x0 + 0.1 * torch.randn(x0.shape, generator=generator)
    return Pairs(y, x0, psf, torch.full((count, 6), 0.5))


def test_loss_of_the_untrained_model() -> None:
    """One step from pure noise gives y: the error of F is (x0 - y) / r."""
    pairs = some_pairs()
    y, x0 = pairs[:2]
    recipe = TrainConfig(terminal_share=1, spectral_loss=0, relative_floor=0.25)
    model = Denoiser(TOY)
    loss = training_loss(model, TOY, recipe, pairs, torch.Generator().manual_seed(0))
    blur = (x0 - y).square().mean((1, 2, 3)) / TOY.residual_std**2
    assert float(loss.detach()) == pytest.approx(float((blur / (blur + 0.25)).mean()), rel=1e-5)
    more = dataclasses.replace(recipe, spectral_loss=0.1)
    spectral = training_loss(model, TOY, more, pairs, torch.Generator().manual_seed(0)) - loss
    # The mean of |N(0, 1) + i N(0, 1)| / sqrt(2) over the spectrum of unit noise is sqrt(pi) / 2.
    expected = 0.1 * math.sqrt(math.pi) / 2 * float((blur.sqrt() / (blur + 0.25).sqrt()).mean())
    assert float(spectral.detach()) == pytest.approx(expected, rel=0.05)


def test_loss_of_the_anchor() -> None:
    """Untrained, the anchor is y, whose relative error is known, and the kernels are a guess."""
    pairs = some_pairs(side=32)
    y, x0, psf = pairs[:3]
    recipe = TrainConfig(relative_floor=0.25, psf_loss=0.5)
    generator = torch.Generator().manual_seed(0)
    model = Denoiser(WIENER_TOY)
    loss = training_loss(model, WIENER_TOY, recipe, pairs, generator, anchor_only=True)
    blur = (x0 - y).square().mean((1, 2, 3)) / TOY.residual_std**2
    log_psf = model(None, torch.zeros(4), y).blur.log_psf[:, 0, 0]
    entropy = -(psf.flatten(1) * log_psf).sum(1).mean()
    expected = float((blur / (blur + 0.25)).mean() + 0.5 * entropy.detach())
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    # Kernels that are not known do not count.
    unknown = pairs._replace(psf=torch.zeros_like(psf))
    loss = training_loss(model, WIENER_TOY, recipe, unknown, generator, anchor_only=True)
    assert float(loss.detach()) == pytest.approx(float((blur / (blur + 0.25)).mean()), rel=1e-5)


def test_loss_of_the_paper_is_the_error_of_the_noise() -> None:
    """Untrained, the predicted noise is 0, and the true one has unit variance at every level."""
    config = as_in_paper(dataclasses.replace(TOY, condition="freq+spatial"))
    pairs = some_pairs(256)
    loss = training_loss(Denoiser(config), config, PAPER, pairs, torch.Generator().manual_seed(0))
    assert float(loss.detach()) == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("objective", ["epsilon", "v"])
def test_loss_of_the_other_objectives_is_the_error_of_their_target(objective: Objective) -> None:
    """Untrained, F is 0 and its target has unit variance (v: where the noise is strong)."""
    config = dataclasses.replace(TOY, objective=objective)
    pairs = some_pairs(64)
    y, x0 = pairs[:2]
    recipe = TrainConfig(terminal_share=1 if objective == "v" else 0, spectral_loss=0)
    loss = training_loss(Denoiser(config), config, recipe, pairs, torch.Generator().manual_seed(0))
    blur = (x0 - y).square().mean((1, 2, 3)) / config.residual_std**2
    weight = float((1 / (blur + recipe.relative_floor)).mean())
    target = float(x0.square().mean()) if objective == "v" else 1.0
    assert float(loss.detach()) / weight == pytest.approx(target, rel=0.05)
