"""AirNet: Li et al., All-In-One Image Restoration for Unknown Corruption, CVPR 2022.

A residual network whose blocks are guided by a map of the degradation: deformable convolutions take
their offsets from it, and features are scaled and shifted by it. With a single kind of degradation
there is nothing to contrast, so the encoder of that map is trained with the rest, by the same loss;
the paper's momentum encoder and the deeper layers of its encoder serve the contrast alone.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.peer import Peer, conv3

_SLOPE = 0.1
_TAPS = 9


@dataclasses.dataclass(frozen=True)
class AirNetConfig:
    """Channels, groups, and blocks of each group."""

    width: int = 54
    groups: int = 5
    blocks: int = 5


class EncoderBlock(nn.Module):
    """Residual block of the encoder of the degradation.

    Normalised over each photo instead of the batch: as many parameters, but no running means, which
    averaged weights would not fit.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.InstanceNorm2d(outputs, affine=True),
            nn.LeakyReLU(_SLOPE),
            conv3(outputs, outputs, bias=False),
            nn.InstanceNorm2d(outputs, affine=True),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False),
            nn.InstanceNorm2d(outputs, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.body(x) + self.shortcut(x), _SLOPE)


class _DeformableConvolution(nn.Module):
    """A 3x3 convolution whose taps move by offsets and count by factors (Zhu et al. 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = conv3(width, width)
        self.moves = conv3(2 * width, 3 * _TAPS)
        nn.init.zeros_(self.moves.weight)
        nn.init.zeros_(self.moves.bias)

    def forward(self, x: Tensor, degradation: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        moves = self.moves(torch.cat((x, degradation), 1)).float()
        down, across, factor = moves.chunk(3, 1)
        y, x_axis = torch.meshgrid(
            torch.arange(height, device=x.device),
            torch.arange(width, device=x.device),
            indexing="ij",
        )
        reach = torch.arange(-1, 2, device=x.device)
        dy, dx = (v.reshape(_TAPS, 1, 1) for v in torch.meshgrid(reach, reach, indexing="ij"))
        rows = (down + y + dy + 0.5) * (2 / height) - 1
        columns = (across + x_axis + dx + 0.5) * (2 / width) - 1
        grid = torch.stack((columns, rows), -1).reshape(batch, _TAPS * height, width, 2)
        taps = F.grid_sample(x.float(), grid, padding_mode="zeros", align_corners=False)
        taps = taps.reshape(batch, channels, _TAPS, height * width)
        taps = taps * factor.sigmoid().reshape(batch, 1, _TAPS, height * width)
        weight = self.conv.weight.reshape(channels, channels * _TAPS)
        result = weight @ taps.reshape(batch, channels * _TAPS, -1).to(x.dtype)
        bias = self.conv.bias
        assert bias is not None
        return result.reshape(batch, -1, height, width) + bias[:, None, None]


class _Guide(nn.Module):
    """DGM: a deformable convolution and a scaling, both led by the degradation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deform = _DeformableConvolution(width)

        def pointwise() -> nn.Sequential:
            convs = (nn.Conv2d(width, width, 1, bias=False) for _ in range(2))
            return nn.Sequential(next(convs), nn.LeakyReLU(_SLOPE), next(convs))

        self.scale, self.shift = pointwise(), pointwise()

    def forward(self, x: Tensor, degradation: Tensor) -> Tensor:
        scaled = x * self.scale(degradation) + self.shift(degradation)
        return x + self.deform(x, degradation) + scaled


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.guides = nn.ModuleList(_Guide(width) for _ in range(2))
        self.convs = nn.ModuleList(conv3(width, width) for _ in range(2))

    def forward(self, x: Tensor, degradation: Tensor) -> Tensor:
        h = F.leaky_relu(self.guides[0](x, degradation), _SLOPE)
        h = F.leaky_relu(self.convs[0](h), _SLOPE)
        h = F.leaky_relu(self.guides[1](h, degradation), _SLOPE)
        return x + self.convs[1](h)


class _Group(nn.Module):
    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.conv = conv3(width, width)

    def forward(self, x: Tensor, degradation: Tensor) -> Tensor:
        h = x
        for block in self.blocks:
            h = block(h, degradation)
        return x + self.conv(h)


class AirNet(Peer):
    """See the top of the file."""

    def __init__(self, config: AirNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.degradation = EncoderBlock(3, width)
        self.intro, self.outro = conv3(3, width), conv3(width, 3)
        self.groups = nn.ModuleList(_Group(width, config.blocks) for _ in range(config.groups))
        self.conv = conv3(width, width)

    def stages(self, photo: Tensor) -> tuple[Tensor, ...]:
        """See `Peer`."""
        degradation = self.degradation(photo)
        first = h = self.intro(photo)
        for group in self.groups:
            h = group(h, degradation)
        return (self.outro(first + self.conv(h)),)
