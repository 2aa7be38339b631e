"""What training minimises."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from freqdiff import diffusion
from freqdiff.data import Pairs
from freqdiff.denoiser import Prediction
from freqdiff.model import ModelConfig
from freqdiff.train_config import TrainConfig


def training_loss(
    model: Callable[..., Prediction],
    model_config: ModelConfig,
    config: TrainConfig,
    pairs: Pairs,
    generator: torch.Generator,
    *,
    anchor_only: bool = False,
) -> Tensor:
    """The objective's loss (Eq. 2 of the paper in `epsilon` mode) plus L1 of spectra at high noise.

    With the Wiener anchor also its error, and the cross entropy of the estimated kernels.

    Args:
        model: `Denoiser`.
        pairs: in [-1, 1].
        generator: on the CPU; source of noise levels and noise.
        anchor_only: the anchor's part alone.
    """
    y, x0, psf = pairs[:3]

    def on_device(values: Tensor) -> Tensor:
        # A GPU may still be working on the step before; a copy that waits would wait for that.
        return values.to(y.device, non_blocking=True)

    t, a = diffusion.sample_timesteps(len(y), config.terminal_share, generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    source = torch.Generator(y.device).manual_seed(seed)
    noise = torch.randn(y.shape, generator=source, device=y.device)
    signal = on_device(a.float())
    levels = signal[:, None, None, None]
    x_t = levels * x0 + (1 - levels**2).clamp_min(0).sqrt() * noise
    inputs = [None if anchor_only else x_t, on_device(t), y]
    if model_config.camera:
        inputs.append(_forget(pairs.camera, config.camera_dropout, generator))
    prediction = model(*inputs)
    r = model_config.residual_std
    weight = y.new_ones(len(y))
    if config.relative_floor is not None:
        weight = 1 / (_power(x0 - y) / r**2 + config.relative_floor)
    total = y.new_zeros(())
    if prediction.blur is not None:
        target = psf.flatten(1)[:, None, None]
        entropy = -(target * prediction.blur.log_psf).sum(-1).mean()
        error = _power(prediction.anchor.float() - x0) / r**2
        total = (weight * error).mean() + config.psf_loss * entropy
    if prediction.x0 is None:
        return total
    scale = on_device(diffusion.coefficients(model_config.objective, a, r).scale.abs())
    error = (prediction.x0.float() - x0) / scale.clamp_min(1e-4)  # the error of F
    # With more signal in x_t the loss is that of removing its noise, whatever the blur.
    weight = torch.where(signal == 0, weight, weight.clamp(max=1))
    total = total + (weight * _power(error)).mean()
    high = on_device((t >= 600).float())
    spectrum: Tensor = torch.fft.rfft2(error, norm="ortho").abs().mean((1, 2, 3))
    return total + config.spectral_loss * (high * weight.sqrt() * spectrum).mean()


def _forget(camera: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Settings (B, 6) of which some are not known: of a photo all of them, of the others some."""
    chance = torch.rand((len(camera), 1 + camera.shape[1]), generator=generator) < share
    forgotten = chance[:, :1] | chance[:, 1:]
    return camera.masked_fill(forgotten.to(camera.device, non_blocking=True), math.nan)


def _power(values: Tensor) -> Tensor:
    """Mean square of each sample (B,)."""
    return values.square().mean((1, 2, 3))
