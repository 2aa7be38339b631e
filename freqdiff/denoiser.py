"""Networks and preconditioning together: x0^ from x_t and the blurred photo."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from freqdiff import diffusion, spectral
from freqdiff.anchor import BlurEstimator
from freqdiff.blur_filter import BlurField, wiener
from freqdiff.model import ConditionMaps, FreqDiffUNet, ModelConfig
from freqdiff_kernels import portable


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What training compares with the truth.

    Attributes:
        anchor: (B, 3, H, W) what the diffusion starts from.
        blur: estimated blur; None where the anchor is the photo itself.
        x0: (B, 3, H, W) the estimate of the sharp photo; None where only the anchor was asked for.
    """

    anchor: Tensor
    blur: BlurField | None
    x0: Tensor | None


class Denoiser(nn.Module):
    """Estimates the sharp photo x0 from its noisy version x_t and the blurred photo y."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = FreqDiffUNet(config)
        self.blur = None
        if config.anchor == "wiener":
            seen = ("spatial" in config.condition, "freq" in config.condition)
            self.blur = BlurEstimator(config.blur_channels, config.blur_blocks, *seen)
        # The levels a_t lie where the weights are, as whole numbers: a model cast to 16 bits
        # still needs them in float64.
        levels = torch.from_numpy(diffusion.signal_levels()).view(torch.int64)
        self.level_bits: Tensor
        self.register_buffer("level_bits", levels, persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def anchor(self, y: Tensor, grey: Tensor) -> tuple[Tensor, BlurField | None]:
        """What the diffusion starts from, and the blur that it undid; `grey` as of `spectral`."""
        if self.blur is None:
            return y, None
        blur: BlurField = self.blur(grey)
        with torch.autocast(y.device.type, enabled=False):
            return wiener(y, blur), blur

    def condition(
        self, y: Tensor, camera: Tensor | None = None, spectrum: Tensor | None = None
    ) -> ConditionMaps:
        """Anchor, c_freq and the other maps of y (B, 3, H, W) in [-1, 1]; once per photo.

        `camera` (B, 6) as of `photo_settings.camera_vector` is for models that use it, `spectrum`
        (B, 24) as of `spectral.global_features` for a y that is a part of a photo.
        """
        grey = spectral.grey(y.float())
        anchor, blur = self.anchor(y, grey)
        maps: ConditionMaps = self.unet.condition(y, grey, anchor, camera, spectrum)
        return dataclasses.replace(maps, blur=blur)

    def denoise(
        self, x_t: Tensor, t: Tensor, maps: ConditionMaps, origin: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """x0^ (B, 3, H, W) at time step t (B,) int64 in [0, 999]; all photos in [-1, 1]."""
        if portable.is_portable():  # numbers themselves: few runtimes can read their bits anew
            a = torch.from_numpy(diffusion.signal_levels())[t]
        else:
            a = self.level_bits[t].view(torch.float64)
        c = diffusion.coefficients(self.config.objective, a, self.config.residual_std, x_t.dtype)
        raw, gate = self.unet(c.network_input(x_t, maps.anchor), t, maps, origin)
        return c.denoised(raw, gate, x_t, maps.anchor)

    def forward(
        self, x_t: Tensor | None, t: Tensor, y: Tensor, camera: Tensor | None = None
    ) -> Prediction:
        """Everything from the photo itself; without x_t the anchor alone."""
        grey = spectral.grey(y.float())
        anchor, blur = self.anchor(y, grey)
        if x_t is None:
            return Prediction(anchor, blur, None)
        maps = self.unet.condition(y, grey, anchor, camera)
        return Prediction(anchor, blur, self.denoise(x_t, t, maps))
