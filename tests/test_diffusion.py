"""The noise schedule, the anchored preconditioning and the objectives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from freqdiff import diffusion

R = 0.1
TIMES = [0, 1, 10, 250, 500, 900, 990, 998]


def level(t: int) -> tuple[float, float]:
    a = float(diffusion.signal_levels()[t])
    return a, math.sqrt(1 - a * a)


def double(objective: diffusion.Objective, a: float) -> diffusion.Coefficients:
    return diffusion.coefficients(
        objective, torch.tensor([a], dtype=torch.float64), R, torch.float64
    )


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_schedule_is_the_rescaled_linear_one() -> None:
    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", rescale_betas_zero_snr=True
    )
    levels = diffusion.signal_levels()
    assert levels.dtype == np.float64
    assert levels.shape == (1000,)
    assert levels[-1] == 0
    assert bool((np.diff(levels) < 0).all())
    # diffusers accumulates 1000 products in float32.
    expected = scheduler.alphas_cumprod.double().sqrt().numpy()
    np.testing.assert_allclose(levels, expected, rtol=0, atol=1000 * 2**-24 * 0.1)


@pytest.mark.parametrize("t", TIMES)
def test_anchored_is_the_posterior_mean(t: int) -> None:
    """x0^ = mu + tau F, mu and tau as in the text book: product of two Gaussians."""
    a, s = level(t)
    x_t, y, raw = (random(1, 3, 4, 5, seed=seed) for seed in range(3))
    c = double("anchored", a)
    tau = (1 / R**2 + a**2 / s**2) ** -0.5
    mu = tau**2 * (y / R**2 + a * x_t / s**2)
    z = c.network_input(x_t, y)
    torch.testing.assert_close(z, (mu - y) / R, rtol=1e-10, atol=1e-12)
    result = c.denoised(raw, torch.ones(1, 1, 1, 1).double(), x_t, y)
    torch.testing.assert_close(result, mu + tau * raw, rtol=1e-10, atol=1e-12)
    # The closed gate leaves the anchor itself.
    closed = c.denoised(0 * raw, torch.zeros(1, 1, 1, 1).double(), x_t, y)
    assert torch.equal(closed, y)


def test_anchored_at_pure_noise_is_regression_from_the_photo() -> None:
    c = double("anchored", 0.0)
    assert float(c.scale) == pytest.approx(R, rel=1e-15)
    assert float(c.output_y) == 1
    # The network sees nothing of the noise.
    assert float(c.input_x) == float(c.input_y) == float(c.output_x) == 0


@pytest.mark.parametrize("t", TIMES)
def test_anchored_target_has_unit_variance(t: int) -> None:
    """For x0 | y ~ N(y, r^2): F is asked for one sigma at every noise level, and for what z, the
    share of x0 that x_t tells, does not tell already."""
    a, s = level(t)
    count = 200_000
    y, residual, noise = (random(1, 1, 1, count, seed=seed) for seed in (1, 2, 3))
    x0 = y + R * residual
    x_t = a * x0 + s * noise
    c = double("anchored", a)
    z = c.network_input(x_t, y)
    open_gate = torch.ones(1, 1, 1, 1).double()
    target = (x0 - c.denoised(0 * z, open_gate, x_t, y)) / c.scale
    told = a**2 * R**2 / (a**2 * R**2 + s**2)
    # Six standard errors of a sample's variance and mean.
    for value, variance in ((z, told), (target, 1.0)):
        assert float(value.var()) == pytest.approx(variance, rel=6 * math.sqrt(2 / count))
        assert abs(float(value.mean())) < 6 * math.sqrt(variance / count)
    assert abs(float((z * target).mean())) < 6 * math.sqrt(told / count)


@pytest.mark.parametrize("t", TIMES[:-1])
def test_error_of_the_noise_is_the_scaled_error_of_the_photo(t: int) -> None:
    """eps^ - eps = -(a/s)(x0^ - x0): the paper's loss is ours up to a weight."""
    a, s = level(t)
    x0, estimate, noise = (random(1, 3, 4, 4, seed=seed) for seed in range(3))
    x_t = a * x0 + s * noise
    c = double("epsilon", a)
    noise_estimate = (x_t - a * estimate) / s
    nothing = torch.zeros(1, 1, 1, 1).double()
    back = c.denoised(noise_estimate, nothing, x_t, x0)
    torch.testing.assert_close(back, estimate, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        noise_estimate - noise, -(a / s) * (estimate - x0), rtol=0, atol=1e-11
    )
    assert float(c.scale.abs()) == pytest.approx(s / a, rel=1e-12)


@pytest.mark.parametrize("t", [*TIMES, 999])
@pytest.mark.parametrize("objective", ["epsilon", "v"])
def test_true_target_gives_the_photo(objective: diffusion.Objective, t: int) -> None:
    a, s = level(t)
    x0, noise, y = (random(1, 3, 4, 4, seed=seed) for seed in range(3))
    x_t = a * x0 + s * noise
    target = noise if objective == "epsilon" else a * noise - s * x0
    c = double(objective, a)
    result = c.denoised(target, torch.zeros(1, 1, 1, 1).double(), x_t, y)
    if objective == "epsilon" and a < 5e-4:
        # Pure noise says nothing: the estimate shrinks to 0 instead of growing without bound.
        torch.testing.assert_close(result, x0 * a / 5e-4, rtol=0, atol=1e-11)
    else:
        torch.testing.assert_close(result, x0, rtol=0, atol=1e-11)
    assert torch.equal(c.network_input(x_t, y), x_t)


def test_unknown_objective() -> None:
    with pytest.raises(ValueError, match="objective is 'score', expected one of"):
        diffusion.coefficients("score", torch.ones(1), R)  # type: ignore[arg-type]


def test_training_times() -> None:
    generator = torch.Generator().manual_seed(0)
    count = 40_000
    t, a = diffusion.sample_timesteps(count, 0.6, generator)
    assert t.dtype == torch.int64
    assert int(t.min()) >= 0
    assert int(t.max()) == 999
    assert torch.equal(a, torch.from_numpy(diffusion.signal_levels())[t])
    share = 0.6 + 0.4 / 1000
    error = 5 * math.sqrt(share * (1 - share) / count)
    assert float((t == 999).double().mean()) == pytest.approx(share, abs=error)
    others = t[t < 999].double()
    assert float(others.mean()) == pytest.approx(499, abs=5 * 288 / math.sqrt(len(others)))


def test_time_embedding_tells_all_times_apart() -> None:
    embedding = diffusion.time_embedding(torch.arange(1000), 16)
    assert embedding.shape == (1000, 16)
    distance = torch.cdist(embedding, embedding) + 10 * torch.eye(1000)
    assert float(distance.min()) > 1e-3
    assert float(embedding.abs().max()) <= 1
