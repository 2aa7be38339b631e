"""DDIM against diffusers, and noise that belongs to the frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from freqdiff.diffusion import signal_levels
from freqdiff.errors import InputError
from freqdiff.sampling import NOISE_BLOCK, ddim, frame_noise, trailing_timesteps


def denoise(x: Tensor, t: int) -> Tensor:
    """Some nonlinear function of both; its values leave [-1, 1] now and then."""
    return 1.1 * torch.sin(2 * x + t / 300) + 0.1 * x.roll(1, -1)


def draw(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, 3, 8, 9), generator=generator, dtype=torch.float64)


def by_diffusers(
    noise: Tensor, steps: int, eta: float, on_step: Callable[[int, Tensor], None]
) -> Tensor:
    scheduler = DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=True,
        clip_sample_range=1.0,
        prediction_type="sample",
    )
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.set_timesteps(steps)
    x = noise
    for i, t in enumerate(scheduler.timesteps.tolist()):
        on_step(i, x)
        x = scheduler.step(
            denoise(x, t),
            t,
            x,
            eta=eta,
            use_clipped_model_output=True,
            variance_noise=draw(100 + i) if eta else None,
        ).prev_sample
    return x


@pytest.mark.parametrize("eta", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 10, 50])
def test_ddim_is_that_of_diffusers(steps: int, eta: float) -> None:
    noise = draw(0)
    states: list[Tensor] = []
    expected = by_diffusers(noise, steps, eta, lambda i, x: states.append(x.clone()))
    seen: list[Tensor] = []

    def watched(x: Tensor, t: int) -> Tensor:
        seen.append(x.clone())
        return denoise(x, t)

    result = ddim(watched, noise.clone(), steps, eta=eta, step_noise=lambda i: draw(100 + i))
    assert len(seen) == len(states) == steps
    # diffusers' levels are products in float32; `denoise` stretches differences fourfold a step.
    for i, (ours, theirs) in enumerate(zip(seen, states, strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-6 * (i + 1), msg=f"step {i}")
    torch.testing.assert_close(result, expected, rtol=0, atol=5e-6 * (steps + 1))


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 10])
def test_eta_one_is_ancestral_sampling(steps: int) -> None:
    """q(x_{t-1} | x_t, x0) of DDPM; diffusers takes the root of a rounding error there."""
    times = trailing_timesteps(steps)
    expected = x = draw(0)
    for i, t in enumerate(times):
        expected = denoise(x, t).clamp(-1, 1)
        if i + 1 == steps:
            break
        total, total_next = (signal_levels()[[t, times[i + 1]]] ** 2).tolist()
        alpha = total / total_next
        beta = 1 - alpha
        mean = math.sqrt(total_next) * beta / (1 - total) * expected
        mean = mean + math.sqrt(alpha) * (1 - total_next) / (1 - total) * x
        x = mean + math.sqrt((1 - total_next) / (1 - total) * beta) * draw(100 + i)
    result = ddim(denoise, draw(0), steps, eta=1, step_noise=lambda i: draw(100 + i))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


def test_timesteps_are_trailing() -> None:
    assert trailing_timesteps(1) == [999]
    assert trailing_timesteps(4) == [999, 749, 499, 249]
    assert trailing_timesteps(1000) == list(range(999, -1, -1))
    for steps in range(1, 1001):
        times = trailing_timesteps(steps)
        assert len(times) == steps
        assert all(a > b for a, b in itertools.pairwise(times))
        assert times[-1] >= 0


def test_result_is_the_last_estimate() -> None:
    estimates: list[tuple[int, Tensor]] = []
    result = ddim(denoise, draw(1), 4, callback=lambda i, x0: estimates.append((i, x0.clone())))
    assert [i for i, _ in estimates] == [0, 1, 2, 3]
    assert torch.equal(estimates[-1][1], result)
    assert all(float(x0.abs().max()) <= 1 for _, x0 in estimates)


def test_noise_of_the_first_step_is_as_given() -> None:
    noise = draw(2)
    kept = noise.clone()
    ddim(denoise, noise, 3)
    assert torch.equal(noise, kept)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_steps(steps: int) -> None:
    with pytest.raises(
        InputError, match=f"^steps is {steps}, expected a whole number from 1 to 1000"
    ):
        ddim(denoise, draw(0), steps)


def test_impossible_eta() -> None:
    with pytest.raises(InputError, match=r"^eta is 1\.5, expected 0 to 1"):
        ddim(denoise, draw(0), 2, eta=1.5)
    with pytest.raises(InputError, match="needs step_noise"):
        ddim(denoise, draw(0), 2, eta=0.5)


def test_noise_belongs_to_the_frame() -> None:
    """The same pixel has the same noise in frames of any size."""
    large = frame_noise(3, 2 * NOISE_BLOCK + 40, 700)
    for height, width in ((1, 1), (40, 256), (257, 300), (NOISE_BLOCK, 513)):
        assert torch.equal(frame_noise(3, height, width), large[:, :, :height, :width])


def test_noise_is_normal_and_seeded() -> None:
    noise = frame_noise(0, 512, 600)
    count = noise.numel()
    assert noise.dtype == torch.float32
    assert noise.is_contiguous(memory_format=torch.channels_last)
    assert abs(float(noise.mean())) < 5 / math.sqrt(count)
    assert float(noise.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / count))
    blocks = [noise[..., :256, :256], noise[..., :256, 256:512], noise[..., 256:, :256]]
    others = [frame_noise(1, 256, 256), frame_noise(0, 256, 256, stream=1)]
    for other in (*blocks[1:], *others):
        correlation = float((blocks[0] * other).mean())
        assert abs(correlation) < 5 / math.sqrt(other.numel())
    assert torch.equal(noise, frame_noise(0, 512, 600))
