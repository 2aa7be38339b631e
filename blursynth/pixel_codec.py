"""A codec with the interface of `AutoencoderKL` that is good before it has learned anything.

Its latents are the strongest cosine components (DCT) of the blocks of a photo, as in JPEG, scaled
by their usual size; what the blocks' neighbours tell of the components that are missing, a small
network may learn.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from blursynth.sensor import dct_matrix

_COLOURS = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 2.0, -1.0))
"""Directions of colour: brightness, and two that hold little of a photo."""
# Deviations of the components of photos in [-1, 1]: of the means of blocks, and of waves with one
# period in twice the side of a block; shorter waves are weaker by the frequency. Measured in blocks
# of 4 px of photos of 1920 px.
_MEANS, _WAVES = (3.5, 1.1, 0.5), (0.24, 0.05, 0.03)
_LOG_VARIANCE = -8.0


class PixelCodec(ModelMixin, ConfigMixin, PeftAdapterMixin):  # type: ignore[misc]
    """Blocks of pixels to latents and back.

    Without learning, 16 latents for 4 x 4 pixels keep photos of 1920 px to 39 to 52 dB.

    Args:
        latent_channels: components that are kept, at most the values of a block.
        block_out_channels: of the levels of resolution, the first of which are the colours; the
            network that fills in what is missing has the last number.
        layers_per_block: residual blocks of that network.
        scaling_factor, shift_factor: as of `AutoencoderKL`.

    Raises:
        ValueError: more components than a block has.
    """

    config_name = "config.json"
    maps_at_once = 2
    """Of a photo and its levels, in the memory of the decoder."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int = 16,
        block_out_channels: tuple[int, ...] = (3, 3, 32),
        layers_per_block: int = 1,
        scaling_factor: float = 1.0,
        shift_factor: float | None = None,
    ) -> None:
        super().__init__()
        side, width = 2 ** (len(block_out_channels) - 1), block_out_channels[-1]
        components, deviations = _components(side)
        if not 1 <= latent_channels <= len(components):
            raise ValueError(
                f"latent_channels is {latent_channels}, expected 1 to {len(components)}, which "
                f"blocks of {side} px have."
            )
        strongest = deviations.argsort(descending=True, stable=True)[:latent_channels]
        components, deviations = components[strongest], deviations[strongest]
        # Between equal latents, in which small errors of a mean are large ones of the photo, and
        # pixels, in which noise covers all waves at once.
        unit = (deviations * deviations.mean()).sqrt()[:, None, None, None]
        self.encoder = nn.Conv2d(3, latent_channels, side, side, bias=False)
        self.log_variance = nn.Parameter(torch.full((latent_channels,), _LOG_VARIANCE))
        self.decoder = _Decoder(latent_channels, side, width, layers_per_block)
        with torch.no_grad():
            self.encoder.weight.copy_(components / unit)
            self.decoder.blocks.weight.copy_(components * unit)

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[object]:
        """Photos (B, 3, H, W) in [-1, 1] -> distribution of latents (B, C, h, w)."""
        mean = self.encoder(x)
        spread = self.log_variance[:, None, None].to(mean).expand_as(mean)
        latents = DiagonalGaussianDistribution(torch.cat((mean, spread), 1))
        return AutoencoderKLOutput(latent_dist=latents) if return_dict else (latents,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Latents (B, C, h, w) -> photos (B, 3, H, W)."""
        sample = self.decoder(z)
        return DecoderOutput(sample=sample) if return_dict else (sample,)


class _Decoder(nn.Module):
    """The blocks of a photo, and what a network adds to them; nothing at first."""

    def __init__(self, latents: int, side: int, width: int, layers: int) -> None:
        super().__init__()
        self.blocks = nn.ConvTranspose2d(latents, 3, side, side, bias=False)
        self.conv1 = nn.Conv2d(latents, width, 3, padding=1)
        self.layers = nn.ModuleList(_Residual(width) for _ in range(layers))
        self.conv2 = nn.Conv2d(width, 3 * side * side, 3, padding=1)
        self.side = side
        for value in self.conv2.parameters():
            nn.init.zeros_(value)

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv1(z)
        for layer in self.layers:
            h = layer(h)
        photo: Tensor = self.blocks(z) + F.pixel_shuffle(self.conv2(F.silu(h)), self.side)
        return photo


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.conv2(F.silu(self.conv1(F.silu(x))))
        return result


def _components(side: int) -> tuple[Tensor, Tensor]:
    """Orthonormal components (3 side^2, 3, side, side) of blocks, and their usual deviations."""
    waves, colours = dct_matrix(side), F.normalize(torch.tensor(_COLOURS), dim=1)
    components = torch.einsum("cx,uy,vz->cuvxyz", colours, waves, waves)
    order = torch.arange(float(side))
    frequency = torch.hypot(order[:, None], order)
    frequency[0, 0] = 1
    deviations = torch.tensor(_WAVES)[:, None, None] / frequency
    deviations[:, 0, 0] = torch.tensor(_MEANS)
    return components.flatten(0, 2), deviations.flatten()
