"""Network and preconditioning together: x0^ from x_t and the blurred photo."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from freqdiff import diffusion
from freqdiff.model import ConditionMaps, FreqDiffUNet, ModelConfig


class Denoiser(nn.Module):
    """Estimates the sharp photo x0 from its noisy version x_t and the blurred photo y."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = FreqDiffUNet(config)
        self.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def condition(self, y: Tensor) -> ConditionMaps:
        """c_freq and the other maps of y (B, 3, H, W) in [-1, 1]; once per photo."""
        maps: ConditionMaps = self.unet.condition(y)
        return maps

    def denoise(
        self,
        x_t: Tensor,
        t: Tensor,
        y: Tensor,
        maps: ConditionMaps,
        origin: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """x0^ (B, 3, H, W) at time step t (B,) int64 in [0, 999]; all photos in [-1, 1]."""
        levels = torch.from_numpy(diffusion.signal_levels()).to(t.device)
        c = diffusion.coefficients(
            self.config.objective, levels[t], self.config.residual_std, x_t.dtype
        )
        z = c.network_input(x_t, y)
        raw, gate = self.unet(z, t, maps, origin)
        return c.denoised(raw.to(x_t.dtype), gate.to(x_t.dtype), z, x_t, y)

    def forward(self, x_t: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """`condition` and `denoise` in one call."""
        return self.denoise(x_t, t, y, self.condition(y))
