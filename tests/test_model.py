"""The network: size, start, what it looks at, and how far it sees."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from toys import ATTENTION_TOY, DEEP_TOY, TOY, WIENER_TOY, photo, random_denoiser

from freqdiff.denoiser import Denoiser
from freqdiff.diffusion import TRAIN_STEPS
from freqdiff.model import CONFIGS, Condition, ModelConfig, count_flops_per_pixel

# Parameters, and floating-point operations per pixel and step.
BUDGETS = {"tiny": (1.5e6, 0.06e6), "base": (5e6, 0.30e6), "adv": (10e6, 1.20e6)}


def inputs(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A blurred photo and noise, (1, 3, H, W)."""
    noise = torch.randn((1, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return photo(height, width)[None] * 2 - 1, noise


def times(t: int, count: int = 1) -> Tensor:
    return torch.full((count,), t)


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_stay_within_budget(name: str) -> None:
    config = CONFIGS[name]
    assert config.name == name
    with torch.device("meta"):
        model = Denoiser(config)
    parameters = sum(value.numel() for value in model.parameters())
    flops = count_flops_per_pixel(config)
    most_parameters, most_flops = BUDGETS[name]
    # Neither over budget nor far below what the size promises.
    assert most_parameters / 2 < parameters <= most_parameters
    assert most_flops / 4 < flops <= most_flops


def test_all_weights_together_stay_small() -> None:
    with torch.device("meta"):
        models = [Denoiser(config) for config in CONFIGS.values()]
    assert sum(2 * v.numel() for model in models for v in model.parameters()) <= 35e6


def test_flops_are_counted() -> None:
    """A network of one 3x3 convolution more costs exactly that."""
    more = dataclasses.replace(TOY, encoder_blocks=(2, 1))
    # Two convolutions of 16 channels on every 16th pixel, 2 operations per multiply-add.
    extra = 2 * (2 * 9 * 16 * 16) / 16
    # Besides, a linear layer of the time embedding once per 256 x 256 picture.
    film = 2 * 16 * 32 / 256**2
    difference = count_flops_per_pixel(more) - count_flops_per_pixel(TOY)
    assert difference == pytest.approx(extra + film, abs=1e-6)


@pytest.mark.parametrize("t", [999, 500, 0])
@pytest.mark.parametrize("config", [TOY, DEEP_TOY, ATTENTION_TOY, WIENER_TOY], ids=lambda c: c.name)
def test_untrained_model_returns_the_photo(config: ModelConfig, t: int) -> None:
    y, noise = inputs(96, 64)
    torch.manual_seed(0)
    prediction = Denoiser(config)(noise, times(t), y)
    assert torch.equal(prediction.anchor, y)
    assert torch.equal(prediction.x0, y)


def test_every_parameter_can_learn() -> None:
    """With the zeros of the start filled in, no parameter is without gradient."""
    for config in (DEEP_TOY, ATTENTION_TOY, WIENER_TOY):
        model = random_denoiser(config).requires_grad_(True)
        y, noise = inputs(96, 96)
        model(noise, times(400), y).x0.square().mean().backward()
        for name, value in model.named_parameters():
            assert value.grad is not None, name
            assert bool(value.grad.any()), name


@pytest.mark.parametrize("condition", ["freq", "spatial", "freq+spatial"])
def test_condition_decides_what_the_network_sees(condition: Condition) -> None:
    model = random_denoiser(dataclasses.replace(TOY, condition=condition))
    y, _ = inputs(64, 64)
    plain = model.condition(y)
    seen = [bool(level.any()) for level in plain.levels]
    assert seen == ([True, False] if condition == "spatial" else [True, True])
    assert bool(plain.embedding.any()) == (condition != "spatial")

    # Colours of equal luma: the spectra of luma do not change, the pixels do.
    recoloured = y.clone()
    recoloured[:, 0] += 0.114 * 0.2
    recoloured[:, 2] -= 0.299 * 0.2
    other = model.condition(recoloured)
    change = float((other.levels[0] - plain.levels[0]).abs().max())
    assert (change > 1e-3) == ("spatial" in condition)
    torch.testing.assert_close(other.levels[1], plain.levels[1], rtol=0, atol=1e-3)

    assert model(*_noise_and_time(y), y).x0.shape == y.shape
    if condition != "spatial":
        # Noise in one corner changes the mean spectrum of the whole photo.
        local = y.clone()
        local[..., :16, :16] += 0.3 * torch.randn(16, 16, generator=torch.Generator())
        assert float((model.condition(local).embedding - plain.embedding).abs().max()) > 1e-3


def _noise_and_time(y: Tensor) -> tuple[Tensor, Tensor]:
    return inputs(*y.shape[-2:])[1], times(500)


@pytest.mark.parametrize("config", [TOY, DEEP_TOY, ATTENTION_TOY], ids=lambda c: c.name)
def test_receptive_radius_is_a_bound(config: ModelConfig) -> None:
    """Nothing further than the radius changes when x_t or y change at one pixel."""
    model = random_denoiser(config, seed=3)
    radius = config.receptive_radius
    side = 2 * radius + 6 * config.alignment
    y, noise = inputs(side, side)
    maps = model.condition(y)
    before = model.denoise(noise, times(700), maps)
    furthest = 0
    middle = side // 2
    for row, column in ((middle, middle), (middle + 7, middle - 1), (0, side - 1)):
        for tensor in (noise, y):
            kept = tensor[0, :, row, column].clone()
            tensor[0, :, row, column] += 1
            # The global spectrum is one vector for all pixels: local by decree, not by operator.
            changed = dataclasses.replace(model.condition(y), embedding=maps.embedding)
            difference = (model.denoise(noise, times(700), changed) - before).abs().amax(1)[0]
            tensor[0, :, row, column] = kept
            rows, columns = torch.nonzero(difference, as_tuple=True)
            distance = torch.maximum((rows - row).abs(), (columns - column).abs())
            furthest = max(furthest, int(distance.max()))
    assert furthest <= radius
    # Not a wild overestimate where there are convolutions only.
    if not config.attention:
        assert furthest > radius / 2


def test_condition_of_a_tile_is_that_of_the_frame() -> None:
    model = random_denoiser(DEEP_TOY)
    y, _ = inputs(192, 224)
    maps = model.condition(y)
    cut = maps.crop(32, 48, 96, 112)
    tile = model.condition(y[..., 32:128, 48:160])
    for level, (of_frame, of_tile) in enumerate(zip(cut.levels, tile.levels, strict=True)):
        assert of_frame.shape == of_tile.shape
        inner = slice(1, -1)  # windows reach half a pitch over the tile's edge
        difference = of_frame[..., inner, inner] - of_tile[..., inner, inner]
        assert float(difference.abs().max()) < 1e-5, level
    assert torch.equal(cut.embedding, maps.embedding)


def test_tile_of_a_frame_gives_the_frame_inside_its_margin() -> None:
    for config in (DEEP_TOY, ATTENTION_TOY, WIENER_TOY):
        model = random_denoiser(config, seed=1)
        radius, step = config.receptive_radius, config.alignment
        # An origin that is no multiple of the attention's windows.
        top, left = step, 3 * step
        y, noise = inputs(2 * radius + 8 * step, 2 * radius + 10 * step)
        maps = model.condition(y)
        whole = model.denoise(noise, times(300), maps)
        height, width = y.shape[2] - top, y.shape[3] - left
        rows, columns = slice(top, top + height), slice(left, left + width)
        cut = maps.crop(top, left, height, width)
        tile = model.denoise(noise[..., rows, columns], times(300), cut, (top, left))
        difference = (tile - whole[..., rows, columns])[..., radius:, radius:]
        assert difference.numel() > 0
        assert float(difference.abs().max()) < 1e-5
        # And at the edge they do differ: the margin is needed.
        assert float((tile - whole[..., rows, columns]).abs().max()) > 1e-4


def test_samples_of_a_batch_are_independent() -> None:
    model = random_denoiser(ATTENTION_TOY)
    y = torch.cat([inputs(64, 64)[0], photo(64, 64, "coffee")[None] * 2 - 1])
    noise = torch.cat([inputs(64, 64, seed)[1] for seed in (1, 2)])
    t = torch.tensor([999, 120])
    together = model(noise, t, y).x0
    for i in range(2):
        alone = model(noise[i : i + 1], t[i : i + 1], y[i : i + 1]).x0
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("t", [0, TRAIN_STEPS - 1])
@pytest.mark.parametrize("objective", ["epsilon", "v"])
def test_other_objectives_run(objective: str, t: int) -> None:
    config = dataclasses.replace(TOY, objective=objective)  # type: ignore[arg-type]
    y, noise = inputs(32, 32)
    assert bool(torch.isfinite(random_denoiser(config)(noise, times(t), y).x0).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_blocks": (1,)}, "2 levels need 2 encoder_blocks and 1 decoder_blocks"),
        ({"decoder_blocks": (1, 1)}, "2 levels need 2 encoder_blocks and 1 decoder_blocks"),
        ({"condition": "time"}, "condition is 'time', not a known one"),
        ({"objective": "x0"}, "objective is 'x0', not one of"),
        ({"anchor": "gauss"}, "anchor is 'gauss', expected 'wiener' or 'input'"),
        ({"blur_blocks": (1, 1)}, "blur_channels and blur_blocks need 4 levels each"),
    ],
)
def test_impossible_configurations(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TOY, **changes)  # type: ignore[arg-type]
