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
    log_spectra,
    residual,
    views,
)

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = get_args(AdversarialLoss)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_colour_brightness_and_contrast_are_not_seen() -> None:
    image = photo(96, 96, "coffee")[None]
    tinted = image + torch.tensor([0.2, -0.1, 0.05])[None, :, None, None]
    for seen, other in zip(views(image), views(tinted), strict=True):
        torch.testing.assert_close(seen, other, rtol=1e-2, atol=1e-2)
    strong = torch.rand(1, 3, 96, 96, generator=seeded())
    for seen, other in zip(views(strong), views(0.7 * strong), strict=True):
        assert float((seen - other).abs().mean()) < 0.05 * float(seen.std())


def test_the_residual_is_what_is_fine_over_its_contrast() -> None:
    for period, kept in ((512, 0.0), (4, 1.0)):
        line = 0.3 * torch.sin(torch.arange(1024.0) * 2 * math.pi / period)
        wave = line[None, None, None].expand(1, 3, 64, 1024)
        inner = (..., slice(32, -32))
        expected = kept * wave[:, :1] / (0.3 / math.sqrt(2) + 2 / 255)
        torch.testing.assert_close(residual(wave)[inner], expected[inner], rtol=0, atol=0.05)
    assert not residual(torch.full((1, 3, 64, 64), 0.5)).abs().gt(1e-3).any()


def test_gradients_are_finite_where_a_photo_is_flat() -> None:
    image = photo(64, 64)[None].clone()
    image[..., :32] = 1
    image.requires_grad_(True)
    sum(view.square().sum() for view in views(image)).backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())


def test_spectra_tell_blur_and_noise() -> None:
    image = photo(128, 128, "coffee")[None]
    blurred = torch.nn.functional.avg_pool2d(image, 5, 1, 2)
    noisy = image + 0.05 * torch.randn(image.shape, generator=seeded())
    assert log_spectra(image).shape == (1, 512, 7, 7)

    def fine(seen: torch.Tensor) -> float:
        return float(log_spectra(seen).mean((0, 2, 3)).view(32, 16)[12:20, 12:].mean())

    assert fine(blurred) < fine(image) - 0.1
    assert fine(noisy) > fine(image) + 0.1
    # One wave along x lies in its column.
    wave = torch.sin(torch.arange(64.0) * 2 * math.pi * 8 / 32)[None, None, None]
    power = log_spectra(wave.expand(1, 3, 64, 64)).mean((0, 2, 3)).view(32, 16)
    assert int(power.argmax()) == 8


def test_the_spectrum_of_a_natural_image_is_level() -> None:
    """Whose power falls with the square of the frequency."""
    rows = torch.fft.fftfreq(256, 1 / 256)[:, None]
    periods = torch.hypot(rows, torch.arange(129.0)).clamp(min=1)
    phases = torch.randn(8, 256, 129, 2, generator=seeded())
    field = torch.fft.irfft2(torch.view_as_complex(phases) / periods, norm="ortho")
    field = 0.1 * field / field.std() + 0.5
    level = log_spectra(field[:, None].expand(-1, 3, -1, -1)).mean((0, 2, 3)).view(32, 16)
    assert float((level[6:11, 6:11].mean() - level[2:5, 2:5].mean()).abs()) < 0.1


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
