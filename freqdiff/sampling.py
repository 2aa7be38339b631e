"""DDIM sampling as a plain function, and noise that belongs to the frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from freqdiff.diffusion import TRAIN_STEPS, signal_levels
from freqdiff.errors import InputError
from freqdiff_kernels import ops
from freqdiff_kernels.reference import compute_dtype

NOISE_BLOCK = 256


def trailing_timesteps(steps: int) -> list[int]:
    """Time steps 999 = t_1 > ... > t_steps, evenly spread and ending above 0 ("trailing").

    Raises:
        InputError: `steps` is not a whole number from 1 to 1000.
    """
    if not isinstance(steps, int | np.integer) or not 1 <= steps <= TRAIN_STEPS:
        raise InputError(f"steps is {steps!r}, expected a whole number from 1 to {TRAIN_STEPS}.")
    return [round(TRAIN_STEPS * (1 - i / steps)) - 1 for i in range(steps)]


def ddim(
    denoise: Callable[[Tensor, int], Tensor],
    noise: Tensor,
    steps: int,
    *,
    eta: float = 0.0,
    step_noise: Callable[[int], Tensor] | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Denoising diffusion implicit models (Song et al. 2021, Eq. 12), zero terminal SNR.

    Equal to diffusers' DDIMScheduler with timestep_spacing="trailing" and
    rescale_betas_zero_snr=True wherever 1000 is a multiple of `steps` (and, as x0^ is clamped
    before the noise is derived from it, use_clipped_model_output=True).

    Args:
        denoise: x0^ = denoise(x_t, t), estimate of the clean image at time step t.
        noise: x_999, standard normal.
        steps: number of evaluations of `denoise`.
        eta: 0 is deterministic, 1 is ancestral sampling.
        step_noise: fresh noise for step index i; needed when eta > 0.
        callback: called with (step index, x0^) after each evaluation.

    Returns:
        The last estimate x0^, clamped to [-1, 1] as each estimate is.

    Raises:
        InputError: eta is not in [0, 1], or noise is missing for eta > 0.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta is {eta}, expected 0 to 1.")
    if eta > 0 and step_noise is None:
        raise InputError("eta > 0 needs step_noise.")
    levels = signal_levels()
    times = trailing_timesteps(steps)
    x = noise
    del noise  # 100 MB at 4K, and so is x0 below
    for i, t in enumerate(times):
        x0 = denoise(x, t).clamp_(-1, 1)
        if callback is not None:
            callback(i, x0)
        if i + 1 == len(times):
            return x0
        a, a_next = levels[t], levels[times[i + 1]]
        s, s_next = math.sqrt(1 - a * a), math.sqrt(1 - a_next * a_next)
        sigma = eta * (s_next / s) * math.sqrt(max(0.0, 1 - a * a / (a_next * a_next)))
        along = math.sqrt(max(0.0, s_next * s_next - sigma * sigma)) / s
        # x' = a' x0 + along (x - a x0) + sigma fresh
        # Filled on the device: a copy from the CPU could not be part of a CUDA graph.
        row = (0.0, 1.0, 0.0, along, a_next - along * a)
        columns = [x.new_full((len(x), 1), c, dtype=compute_dtype(x.dtype)) for c in row]
        x = ops.ddim_step(x, x0, None, torch.cat(columns, 1))
        del x0
        if sigma > 0:
            assert step_noise is not None
            x = x.add_(step_noise(i), alpha=sigma)
    raise AssertionError("unreachable: steps >= 1")


def check_seed(seed: int) -> None:
    """Raise InputError unless `seed` is a whole number from 0."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed is {seed!r}, expected a whole number from 0.")


def frame_noise(
    seed: int, height: int, width: int, stream: int = 0, origin: tuple[int, int] = (0, 0)
) -> Tensor:
    """Standard normal noise (1, 3, H, W) of a frame, channels-last, float32 on the CPU.

    With an `origin` (y, x) it is that of a part of the frame that begins there.

    Each absolute block of 256 px has a generator of its own, seeded with (seed, stream, block), so
    the noise at a pixel does not depend on frame size, tiling, batch order or device.

    Raises:
        InputError: `seed` is not a whole number from 0.
    """
    check_seed(seed)
    inference = torch.is_inference_mode_enabled()  # threads have modes of their own
    frame = torch.empty((1, 3, height, width), memory_format=torch.channels_last)

    def fill(corner: tuple[int, int]) -> None:
        y, x = corner
        entropy = np.random.SeedSequence([seed, stream, y // NOISE_BLOCK, x // NOISE_BLOCK])
        state = int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))
        generator = torch.Generator().manual_seed(state)
        block = torch.randn((NOISE_BLOCK, NOISE_BLOCK, 3), generator=generator)
        with torch.inference_mode(inference):
            left_out = max(top - y, 0), max(left - x, 0)
            y, x = max(y - top, 0), max(x - left, 0)
            block = block[left_out[0] :, left_out[1] :]
            part = frame[0, :, y : y + block.shape[0], x : x + block.shape[1]]
            part.copy_(block[: part.shape[1], : part.shape[2]].permute(2, 0, 1))

    top, left = origin
    corners = itertools.product(
        range(top // NOISE_BLOCK * NOISE_BLOCK, top + height, NOISE_BLOCK),
        range(left // NOISE_BLOCK * NOISE_BLOCK, left + width, NOISE_BLOCK),
    )
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, corners))
    return frame
