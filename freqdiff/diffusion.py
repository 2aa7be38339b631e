"""Noise schedule, anchored preconditioning and the three training objectives.

Symbols as in the paper: x0 sharp photo, y blurred photo, both in [-1, 1];
x_t = a_t x0 + s_t eps with a_t^2 + s_t^2 = 1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from freqdiff_kernels import ops

Objective = Literal["anchored", "epsilon", "v"]
OBJECTIVES: tuple[Objective, ...] = ("anchored", "epsilon", "v")
TRAIN_STEPS = 1000


@functools.cache
def signal_levels() -> NDArray[np.float64]:
    """a_t for t = 0 .. 999, float64: linear betas rescaled to zero terminal SNR (Lin et al. 2024).

    a_999 is exactly 0: sampling starts from pure noise.
    """
    betas = np.linspace(1e-4, 0.02, TRAIN_STEPS, dtype=np.float64)
    a = np.sqrt(np.cumprod(1 - betas))
    return np.asarray((a - a[-1]) * (a[0] / (a[0] - a[-1])))


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """How network input and output relate to x_t, y and x0 at one noise level, per sample.

    z = input_x x_t + input_y y;  x0^ = output_x x_t + output_y y + gate * output_z z + scale * F.
    """

    input_x: Tensor
    input_y: Tensor
    output_x: Tensor
    output_y: Tensor
    output_z: Tensor
    scale: Tensor

    def network_input(self, x_t: Tensor, y: Tensor) -> Tensor:
        """z: what the network sees of x_t."""
        return (self.input_x * x_t).addcmul_(self.input_y, y)

    def denoised(self, raw: Tensor, gate: Tensor, x_t: Tensor, y: Tensor) -> Tensor:
        """x0^ from the network's output `raw` (F) and its scalar `gate` per sample."""
        share = gate.to(self.scale) * self.output_z
        from_x = self.output_x + share * self.input_x
        from_y = self.output_y + share * self.input_y
        zero = torch.zeros_like(self.scale)
        columns = (from_x, self.scale, from_y, zero, zero + 1)
        return ops.ddim_step(x_t, raw, y, torch.cat(columns, 1)[..., 0, 0], clamp=False)


def coefficients(
    objective: Objective, a: Tensor, residual_std: float, dtype: torch.dtype = torch.float32
) -> Coefficients:
    """Preconditioning of an objective.

    "anchored": y is a noisy view of x0, x0 | y ~ N(y, r^2). Then
    tau = (1/r^2 + a^2/s^2)^(-1/2), mu = tau^2 (y/r^2 + a x_t/s^2), x0^ = mu + tau F. The network
    sees z = (mu - y)/r, what x_t tells of x0 beyond y: its variance rises from 0 at t = 999, where
    x_t is noise that would only disturb, to 1. The term mu - y = r z is gated by a scalar that the
    network learns from the noise level; at its start the gate is 0 and x0^ = y.
    "epsilon" (Eq. 2 of the paper): x0^ = (x_t - s F) / a. "v": x0^ = a x_t - s F.

    Args:
        objective: what F means.
        a: (B,) signal level in [0, 1], any float dtype; computed in float64.
        residual_std: r, the standard deviation of x0 - y over the training set.
        dtype: of the result.

    Returns:
        Coefficients, each (B, 1, 1, 1).
    """
    a = a.double()
    s = (1 - a * a).clamp_min(0).sqrt()
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    if objective == "anchored":
        # mu - y = r^2 a (x_t - a y) / spread and tau = r s / sqrt(spread): no division by s.
        spread = a * a * residual_std**2 + s * s
        share = residual_std * a / spread
        values = (share, -a * share, zero, one, torch.full_like(a, residual_std))
        scale = residual_std * s / spread.sqrt()
    elif objective == "epsilon":
        # Near a = 0 (t > 994) x_t and F leave x0 open; a bounded divisor bounds the estimate.
        safe = a.clamp_min(5e-4)
        values, scale = (one, zero, one / safe, zero, zero), -s / safe
    elif objective == "v":
        values, scale = (one, zero, a, zero, zero), -s
    else:
        raise ValueError(f"objective is {objective!r}, expected one of {OBJECTIVES}.")
    return Coefficients(*(v.to(dtype)[:, None, None, None] for v in (*values, scale)))


def sample_timesteps(
    count: int, terminal_share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw training noise levels: t = 999 with probability `terminal_share`, else uniform.

    Returns:
        (t, a): int64 (count,) and float64 (count,), on the CPU.
    """
    t = torch.randint(0, TRAIN_STEPS, (count,), generator=generator)
    terminal = torch.rand(count, generator=generator) < terminal_share
    t = torch.where(terminal, torch.full_like(t, TRAIN_STEPS - 1), t)
    return t, torch.from_numpy(signal_levels())[t]


def time_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids (B, dim) of the time step t in [0, 999], wavelengths from 2 pi to 20000 pi."""
    half = dim // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
    angle = t.float()[:, None] * rates
    return torch.cat((angle.cos(), angle.sin()), 1)
