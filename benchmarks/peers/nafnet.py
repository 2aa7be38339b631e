"""NAFNet: Chen, Chu, Zhang, Sun, Simple Baselines for Image Restoration, ECCV 2022.

A U-Net whose blocks have no activation function: gates multiply two halves of the channels.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.peer import Peer, conv3


@dataclasses.dataclass(frozen=True)
class NAFNetConfig:
    """Channels of the finest level, and blocks of each level on the way down and up."""

    width: int = 16
    encoder_blocks: tuple[int, ...] = (1, 1, 1, 28)
    middle_blocks: int = 1
    decoder_blocks: tuple[int, ...] = (1, 1, 1, 1)


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return a * b


class _Norm(nn.Module):
    """Layer normalisation over the channels of each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normal.permute(0, 3, 1, 2)


class _Block(nn.Module):
    """Depth-wise convolution, gate and channel attention; then a gated pair of 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm1, self.norm2 = _Norm(channels), _Norm(channels)
        self.widen = nn.Conv2d(channels, wide, 1)
        self.spatial = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.attention = nn.Conv2d(channels, channels, 1)
        self.join = nn.Conv2d(channels, channels, 1)
        self.feed1 = nn.Conv2d(channels, wide, 1)
        self.feed2 = nn.Conv2d(channels, channels, 1)
        self.beta, self.gamma = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = _gate(self.spatial(self.widen(self.norm1(x))))
        h = h * self.attention(h.mean((2, 3), keepdim=True))
        x = x + self.beta * self.join(h)
        return x + self.gamma * self.feed2(_gate(self.feed1(self.norm2(x))))


class NAFNet(Peer):
    """See the top of the file."""

    def __init__(self, config: NAFNetConfig) -> None:
        super().__init__()
        self.config = config
        levels = len(config.encoder_blocks)
        self.multiple = 2**levels
        widths = [config.width << level for level in range(levels)]
        self.intro, self.outro = conv3(3, config.width), conv3(config.width, 3)
        self.encoder = nn.ModuleList(
            nn.Sequential(*(_Block(width) for _ in range(count)))
            for width, count in zip(widths, config.encoder_blocks, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv2d(width, 2 * width, 2, stride=2) for width in widths)
        deepest = 2 * widths[-1]
        self.middle = nn.Sequential(*(_Block(deepest) for _ in range(config.middle_blocks)))
        self.up = nn.ModuleList(
            nn.Conv2d(2 * width, 4 * width, 1, bias=False) for width in reversed(widths)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(*(_Block(width) for _ in range(count)))
            for width, count in zip(reversed(widths), config.decoder_blocks, strict=True)
        )

    def stages(self, photo: Tensor) -> tuple[Tensor, ...]:
        """See `Peer`."""
        h = self.intro(photo)
        skips = []
        for encoder, down in zip(self.encoder, self.down, strict=True):
            skips.append(encoder(h))
            h = down(skips[-1])
        h = self.middle(h)
        for up, decoder in zip(self.up, self.decoder, strict=True):
            h = decoder(F.pixel_shuffle(up(h), 2) + skips.pop())
        return (photo + self.outro(h),)
