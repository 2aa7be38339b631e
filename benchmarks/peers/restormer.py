"""Restormer: Zamir et al., Efficient Transformer for High-Resolution Image Restoration, CVPR 2022.

A U-Net of transformers whose attention is between channels, so that its cost is linear in pixels.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.peer import Peer, conv3


@dataclasses.dataclass(frozen=True)
class RestormerConfig:
    """Channels of the finest level, blocks and heads of the four levels, and the rest.

    Attributes:
        expansion: width of the feed-forward part over that of the level.
        refinement: blocks behind the finest decoder level.
    """

    width: int = 20
    blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    expansion: float = 2.66
    refinement: int = 4


class _Norm(nn.LayerNorm):
    """Layer normalisation over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


class _ChannelSelfAttention(nn.Module):
    """MDTA: attention between the channels of a head, as vectors over all pixels."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.local = _depthwise(3 * channels)
        self.out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        q, k, v = self.local(self.qkv(x)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        mixed = (weights * self.temperature).softmax(-1) @ v
        result: Tensor = self.out(mixed.flatten(1, 2).unflatten(-1, size))
        return result


class _GatedFeedForward(nn.Module):
    """GDFN: one half of the channels, through GELU, gates the other."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.widen = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.local = _depthwise(2 * hidden)
        self.out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.local(self.widen(x)).chunk(2, 1)
        result: Tensor = self.out(F.gelu(gate) * value)
        return result


class _Block(nn.Module):
    def __init__(self, channels: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = _Norm(channels), _Norm(channels)
        self.attention = _ChannelSelfAttention(channels, heads)
        self.feed = _GatedFeedForward(channels, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))


class Restormer(Peer):
    """See the top of the file."""

    multiple = 8

    def __init__(self, config: RestormerConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width << level for level in range(4)]

        def blocks(channels: int, level: int, count: int) -> nn.Sequential:
            heads = config.heads[level]
            return nn.Sequential(*(_Block(channels, heads, config.expansion) for _ in range(count)))

        self.intro = conv3(3, config.width, bias=False)
        self.encoder = nn.ModuleList(
            blocks(width, level, config.blocks[level]) for level, width in enumerate(widths)
        )
        self.down = nn.ModuleList(conv3(width, width // 2, bias=False) for width in widths[:-1])
        self.up = nn.ModuleList(conv3(2 * width, 4 * width, bias=False) for width in widths[:-1])
        # The finest level keeps both halves of what it joins.
        self.join = nn.ModuleList(nn.Conv2d(2 * w, w, 1, bias=False) for w in widths[1:-1])
        finest = 2 * config.width
        self.decoder = nn.ModuleList(
            blocks(finest if level == 0 else widths[level], level, config.blocks[level])
            for level in range(3)
        )
        self.refine = blocks(finest, 0, config.refinement)
        self.outro = conv3(finest, 3, bias=False)

    def stages(self, photo: Tensor) -> tuple[Tensor, ...]:
        """See `Peer`."""
        h = self.intro(photo)
        skips = []
        for level, encoder in enumerate(self.encoder):
            if level:
                h = F.pixel_unshuffle(self.down[level - 1](h), 2)
            h = encoder(h)
            skips.append(h)
        for level in (2, 1, 0):
            h = torch.cat((F.pixel_shuffle(self.up[level](h), 2), skips[level]), 1)
            h = self.decoder[level](self.join[level - 1](h) if level else h)
        return (photo + self.outro(self.refine(h)),)
