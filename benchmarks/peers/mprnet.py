"""MPRNet: Zamir et al., Multi-Stage Progressive Image Restoration, CVPR 2021.

Two U-Nets, on quarters and halves of the photo, and a network at full resolution; each stage hands
its features on, and gives a result that is compared with the truth.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.peer import ChannelAttentionBlock, Peer, conv3


@dataclasses.dataclass(frozen=True)
class MPRNetConfig:
    """Widths, and blocks of the full-resolution stage.

    Attributes:
        width: channels at full resolution.
        growth: further channels of each coarser level of the U-Nets.
        full_growth: further channels of the full-resolution stage.
        blocks: attention blocks in each of its three groups.
    """

    width: int = 48
    growth: int = 20
    full_growth: int = 16
    blocks: int = 8


def _conv1(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class _Resize(nn.Module):
    """Bilinear scaling, then a 1x1 convolution."""

    def __init__(self, scale: float, inputs: int, outputs: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv = _conv1(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        result: Tensor = self.conv(x)
        return result


class _Encoder(nn.Module):
    """Features of three levels; `received` adds those of the stage before."""

    def __init__(self, widths: list[int], fused: bool) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_attention_blocks(width) for width in widths)
        self.down = nn.ModuleList(_Resize(0.5, a, b) for a, b in itertools.pairwise(widths))
        self.received = nn.ModuleList(
            nn.ModuleList((_conv1(width, width), _conv1(width, width))) for width in widths * fused
        )

    def forward(self, x: Tensor, before: tuple[list[Tensor], list[Tensor]] | None) -> list[Tensor]:
        features = []
        for level, blocks in enumerate(self.levels):
            x = blocks(self.down[level - 1](x) if level else x)
            if before is not None:
                for conv, other in zip(self.received[level], before, strict=True):
                    x = x + conv(other[level])
            features.append(x)
        return features


class _Decoder(nn.Module):
    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_attention_blocks(width) for width in widths)
        self.skips = nn.ModuleList(ChannelAttentionBlock(width) for width in widths[:-1])
        self.up = nn.ModuleList(_Resize(2, b, a) for a, b in itertools.pairwise(widths))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        results = [self.levels[-1](features[-1])]
        for level in reversed(range(len(self.up))):
            x = self.up[level](results[0]) + self.skips[level](features[level])
            results.insert(0, self.levels[level](x))
        return results


class _SupervisedAttention(nn.Module):
    """SAM: the stage's result, and its features where that result says that they count."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features, self.to_photo = _conv1(width, width), _conv1(width, 3)
        self.from_photo = _conv1(3, width)

    def forward(self, x: Tensor, photo: Tensor) -> tuple[Tensor, Tensor]:
        result = self.to_photo(x) + photo
        return self.features(x) * self.from_photo(result).sigmoid() + x, result


class _FullResolution(nn.Module):
    """ORSNet: groups of attention blocks, to which the features of the U-Net before are added."""

    def __init__(self, config: MPRNetConfig, widths: list[int]) -> None:
        super().__init__()
        width = config.width + config.full_growth
        self.groups = nn.ModuleList(
            nn.Sequential(
                *(ChannelAttentionBlock(width) for _ in range(config.blocks)),
                conv3(width, width, bias=False),
            )
            for _ in widths
        )
        self.up = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    *(_Resize(2, widths[i], widths[i - 1]) for i in range(level, 0, -1)),
                    _conv1(widths[0], width),
                )
                for level in range(len(widths))
            )
            for _ in ("encoder", "decoder")
        )

    def forward(self, x: Tensor, before: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        for level, group in enumerate(self.groups):
            x = x + group(x)
            for up, features in zip(self.up, before, strict=True):
                x = x + up[level](features[level])
        return x


def _attention_blocks(width: int) -> nn.Sequential:
    return nn.Sequential(*(ChannelAttentionBlock(width) for _ in range(2)))


def _cut(x: Tensor, axis: int) -> Tensor:
    """Halves of photos along an axis, as twice as many photos."""
    return torch.cat(x.chunk(2, axis))


def _glue(x: Tensor, axis: int) -> Tensor:
    """The inverse of `_cut`."""
    return torch.cat(x.chunk(2), axis)


class MPRNet(Peer):
    """See the top of the file."""

    multiple = 8

    def __init__(self, config: MPRNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        widths = [width + level * config.growth for level in range(3)]
        self.shallow = nn.ModuleList(
            nn.Sequential(conv3(3, width, bias=False), ChannelAttentionBlock(width))
            for _ in range(3)
        )
        self.encoders = nn.ModuleList(_Encoder(widths, fused) for fused in (False, True))
        self.decoders = nn.ModuleList(_Decoder(widths) for _ in range(2))
        self.supervised = nn.ModuleList(_SupervisedAttention(width) for _ in range(2))
        last = width + config.full_growth
        self.join = nn.ModuleList(conv3(2 * width, to, bias=False) for to in (width, last))
        self.full = _FullResolution(config, widths)
        self.outro = conv3(last, 3, bias=False)

    def stages(self, photo: Tensor) -> tuple[Tensor, ...]:
        """See `Peer`."""
        halves = _cut(photo, 2)
        quarters = _cut(halves, 3)
        results = []
        x = self.shallow[0](quarters)
        before: tuple[list[Tensor], list[Tensor]] | None = None
        for stage, (seen, axis) in enumerate(((halves, 3), (photo, 2))):
            encoded = self.encoders[stage](x, before)
            before = (encoded, self.decoders[stage](encoded))
            before = tuple([_glue(level, axis) for level in levels] for levels in before)
            features, result = self.supervised[stage](before[1][0], seen)
            results.append(result if stage else _glue(result, 2))
            x = self.join[stage](torch.cat((self.shallow[stage + 1](seen), features), 1))
        assert before is not None
        return (*results, photo + self.outro(self.full(x, before)))
