"""RRDBNet: the generator of ESRGAN and Real-ESRGAN, Wang et al. 2018 and 2021.

Densely connected blocks inside of residual blocks, at a quarter of the resolution: Real-ESRGAN
folds blocks of pixels into channels where the photo keeps its size.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.peer import Peer, conv3

UPSCALED = 4
_SLOPE = 0.2
_SCALE = 0.2


@dataclasses.dataclass(frozen=True)
class RRDBConfig:
    """Channels, blocks, and channels that each dense convolution adds."""

    width: int = 64
    blocks: int = 6
    growth: int = 32


class _Dense(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        outputs = [growth] * 4 + [width]
        self.convs = nn.ModuleList(
            conv3(width + index * growth, to) for index, to in enumerate(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in self.convs[:-1]:
            seen = torch.cat((seen, F.leaky_relu(conv(seen), _SLOPE)), 1)
        return x + _SCALE * self.convs[-1](seen)


class _Block(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_Dense(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + _SCALE * self.body(x)


class RRDBNet(Peer):
    """See the top of the file."""

    multiple = UPSCALED

    def __init__(self, config: RRDBConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.intro = conv3(3 * UPSCALED**2, width)
        self.body = nn.Sequential(*(_Block(width, config.growth) for _ in range(config.blocks)))
        self.conv = conv3(width, width)
        self.up = nn.ModuleList(conv3(width, width) for _ in range(2))
        self.full, self.outro = conv3(width, width), conv3(width, 3)

    def stages(self, photo: Tensor) -> tuple[Tensor, ...]:
        """See `Peer`."""
        first = self.intro(F.pixel_unshuffle(photo, UPSCALED))
        h = first + self.conv(self.body(first))
        for conv in self.up:
            h = F.leaky_relu(conv(F.interpolate(h, scale_factor=2, mode="nearest")), _SLOPE)
        return (self.outro(F.leaky_relu(self.full(h), _SLOPE)),)
