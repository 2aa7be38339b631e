"""The discriminator of the alignment: what it sees, its losses, and its gradient penalty."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from toys import photo

from blursynth.blur_discriminator import (
    UNDECIDED,
    AdversarialLoss,
    BlurDiscriminator,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    high_pass,
    jitter,
    log_spectra,
    views,
)

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = get_args(AdversarialLoss)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_colour_and_brightness_are_not_seen() -> None:
    image = photo(96, 96, "coffee")[None]
    tinted = image + torch.tensor([0.2, -0.1, 0.05])[None, :, None, None]
    for seen, other in zip(views(image), views(tinted), strict=True):
        torch.testing.assert_close(seen, other, rtol=1e-3, atol=1e-3)
    for period, kept in ((128, 0.0), (4, 1.0)):
        line = torch.sin(torch.arange(256.0) * 2 * math.pi / period)
        wave = line[None, None, None].expand(1, 3, 256, 256)
        inner = (..., slice(16, -16))
        torch.testing.assert_close(high_pass(wave)[inner], kept * wave[inner], rtol=0, atol=0.03)


def test_spectra_tell_blur_and_noise() -> None:
    image = photo(128, 128, "coffee")[None]
    spectra = log_spectra(image)
    assert spectra.shape == (1, 512, 7, 7)
    blurred = torch.nn.functional.avg_pool2d(image, 5, 1, 2)
    noisy = image + 0.05 * torch.randn(image.shape, generator=seeded())
    rings = spectra.mean((0, 2, 3)).view(32, 16)
    fine = (slice(12, 20), slice(12, 16))
    assert log_spectra(blurred).mean((0, 2, 3)).view(32, 16)[fine].mean() < rings[fine].mean() - 0.1
    assert log_spectra(noisy).mean((0, 2, 3)).view(32, 16)[fine].mean() > rings[fine].mean() + 0.1
    # One wave along x lies in its column.
    wave = torch.sin(torch.arange(64.0) * 2 * math.pi * 8 / 32)[None, None, None]
    power = log_spectra(wave.expand(1, 3, 64, 64)).mean((0, 2, 3)).view(32, 16)
    assert int(power.argmax()) == 8


def test_each_head_scores_patches() -> None:
    torch.manual_seed(0)
    scores = BlurDiscriminator(8)(views(torch.rand(2, 3, 64, 64, generator=seeded())))
    assert [score.shape for score in scores] == [(2, 1, 7, 7), (2, 1, 3, 3), (2, 1, 3, 3)]


def test_losses() -> None:
    real, made = [torch.tensor([2.0, 0.0])], [torch.tensor([-0.5, -3.0])]
    # Hinge: 0 and 1 for the real ones, 0.5 and 0 for the others.
    assert float(discriminator_loss(real, made, "hinge")) == pytest.approx(0.75)
    assert float(generator_loss(real, made, "hinge")) == pytest.approx(1.75)
    expected = (math.log1p(math.exp(-2.5)) + math.log1p(math.exp(-3))) / 2
    assert float(discriminator_loss(real, made, "relativistic")) == pytest.approx(expected)
    expected = (math.log1p(math.exp(2.5)) + math.log1p(math.exp(3))) / 2
    assert float(generator_loss(real, made, "relativistic")) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_discriminator_that_says_nothing(kind: AdversarialLoss) -> None:
    zeros = [torch.zeros(2, 1, 3, 3)]
    assert float(discriminator_loss(zeros, zeros, kind)) == pytest.approx(UNDECIDED[kind])


def test_the_gradient_penalty_and_its_gradient() -> None:
    """Of a linear head the slope at each pixel is its weights: |w|^2 / 2, with gradient w."""
    discriminator = BlurDiscriminator(8)
    discriminator.heads = torch.nn.ModuleList([torch.nn.Conv2d(3, 1, 1)])
    weight = discriminator.heads[0].weight
    seen = [torch.rand(2, 3, 5, 7, generator=seeded())]
    penalty = gradient_penalty(discriminator, seen)
    torch.testing.assert_close(penalty, 0.5 * weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight)
    assert not seen[0].requires_grad


def test_the_gradient_of_the_penalty_by_differences() -> None:
    torch.manual_seed(0)
    discriminator = BlurDiscriminator(4)
    for head in discriminator.heads:
        # Whose slope is steady, unlike that of the leaky one.
        for index, layer in enumerate(head):
            head[index] = torch.nn.SiLU() if isinstance(layer, torch.nn.LeakyReLU) else layer
    seen = views(torch.rand(1, 3, 64, 64, generator=seeded()))
    gradient_penalty(discriminator, seen).backward()
    for name in ("heads.0.2.weight", "heads.2.0.weight"):
        value = discriminator.get_parameter(name)
        assert value.grad is not None
        direction = value.grad / value.grad.norm()
        found = []
        with torch.no_grad():
            for step in (3e-3, -6e-3):
                value += step * direction
                with torch.enable_grad():
                    found.append(float(gradient_penalty(discriminator, seen).detach()))
            value += 3e-3 * direction
        slope = (found[0] - found[1]) / 6e-3
        assert slope == pytest.approx(float(value.grad.norm()), rel=0.03), name


def test_penalised_discriminators_are_flatter() -> None:
    """Trained with R1, the slope at real photos is lower than without."""
    slopes = {}
    for weight in (0.0, 5.0):
        torch.manual_seed(0)
        discriminator = BlurDiscriminator(8)
        optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.0, 0.99))
        real = views(photo(96, 96, "coffee")[None])
        made = views(torch.nn.functional.avg_pool2d(photo(96, 96, "coffee")[None], 3, 1, 1))
        for _ in range(15):
            penalty = gradient_penalty(discriminator, real)
            loss = discriminator_loss(discriminator(real), discriminator(made), "hinge")
            optimizer.zero_grad()
            (loss + weight * penalty).backward()
            optimizer.step()
        slopes[weight] = float(penalty.detach())
    assert slopes[5.0] < 0.5 * slopes[0.0]


def test_jitter_changes_each_photo_and_lets_gradients_through() -> None:
    image = photo(64, 64)[None].expand(3, -1, -1, -1).clone().requires_grad_(True)
    varied = jitter(image, seeded())
    assert torch.equal(varied, jitter(image, seeded()))
    assert not torch.allclose(varied[0], varied[1])
    assert 0.005 < float((varied - image).abs().mean().detach()) < 0.15
    varied.sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().min()) > 0
