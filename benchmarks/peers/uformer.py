"""Uformer: Wang et al., A General U-Shaped Transformer for Image Restoration, CVPR 2022.

A U-Net of transformers with attention inside of windows of 8x8 positions, a depth-wise convolution
in the feed-forward part, and learned offsets (modulators) of the decoder's windows.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.peer import Peer, conv3

WINDOW = 8


@dataclasses.dataclass(frozen=True)
class UformerConfig:
    """Channels of the finest level; blocks and heads of encoder, middle and decoder."""

    width: int = 15
    blocks: tuple[int, ...] = (2, 2, 2, 2, 2, 2, 2, 2, 2)
    heads: tuple[int, ...] = (1, 2, 4, 8, 16, 16, 8, 4, 2)
    modulators: bool = True


def _windows(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, windows, 64, C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.transpose(2, 3).reshape(batch, -1, WINDOW * WINDOW, channels)


def _frame(windows: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `_windows`."""
    x = windows.reshape(len(windows), height // WINDOW, width // WINDOW, WINDOW, WINDOW, -1)
    return x.transpose(2, 3).reshape(len(windows), height, width, -1)


def _strangers(height: int, width: int, shift: int, device: torch.device) -> Tensor:
    """(windows, 64, 64): True where shifting has brought two positions into a window that are not
    neighbours."""
    bands = []
    for size in (height, width):
        band = torch.zeros(size, device=device)
        band[-WINDOW:-shift], band[-shift:] = 1, 2
        bands.append(band)
    region = _windows((3 * bands[0][:, None] + bands[1])[None, :, :, None])[0, ..., 0]
    return region[:, :, None] != region[:, None, :]


class _WindowAttention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        nn.init.normal_(self.bias, std=0.02)
        at = torch.stack(torch.meshgrid(*[torch.arange(WINDOW)] * 2, indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None] + WINDOW - 1
        self.index: Tensor
        index = apart[0] * (2 * WINDOW - 1) + apart[1]
        self.register_buffer("index", index, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, windows, 64, C) -> the same shape."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(2, 3)
        k, v = self.kv(x).unflatten(-1, (2, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        weights = weights + self.bias[self.index].permute(2, 0, 1)
        if mask is not None:
            weights = weights.masked_fill(mask[:, None], -torch.inf)
        result: Tensor = self.out((weights.softmax(-1) @ v).transpose(2, 3).flatten(3))
        return result


class _LocalFeedForward(nn.Module):
    """LeFF: a depth-wise convolution between two linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.widen, self.out = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.local = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        h = F.gelu(self.widen(x)).permute(0, 3, 1, 2)
        result: Tensor = self.out(F.gelu(self.local(h)).permute(0, 2, 3, 1))
        return result


class _Block(nn.Module):
    """LeWin block; every other one shifts the windows by half of their side."""

    def __init__(self, channels: int, heads: int, shift: int, modulator: bool) -> None:
        super().__init__()
        self.shift = shift
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = _WindowAttention(channels, heads)
        self.feed = _LocalFeedForward(channels)
        self.modulator = nn.Parameter(torch.randn(WINDOW**2, channels)) if modulator else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        height, width = x.shape[1:3]
        # A frame of one window has no other windows to shift into.
        shift = self.shift if min(height, width) > WINDOW else 0
        mask = _strangers(height, width, shift, x.device) if shift else None
        windows = _windows(self.norm1(x).roll((-shift, -shift), (1, 2)))
        if self.modulator is not None:
            windows = windows + self.modulator
        h = _frame(self.attention(windows, mask), height, width)
        x = x + h.roll((shift, shift), (1, 2))
        return x + self.feed(self.norm2(x))


class Uformer(Peer):
    """See the top of the file."""

    multiple = 16 * WINDOW

    def __init__(self, config: UformerConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width << level for level in range(5)]
        # A decoder level works on what it joins: twice its width.
        channels = [*widths, *(2 * width for width in reversed(widths[:-1]))]
        self.intro = conv3(3, widths[0])
        self.levels = nn.ModuleList(
            nn.Sequential(
                *(
                    _Block(width, heads, WINDOW // 2 * (block % 2), config.modulators and part > 4)
                    for block in range(count)
                )
            )
            for part, (width, count, heads) in enumerate(
                zip(channels, config.blocks, config.heads, strict=True)
            )
        )
        self.down = nn.ModuleList(
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1) for width in widths[:-1]
        )
        sources = (widths[4], channels[5], channels[6], channels[7])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(source, width, 2, stride=2)
            for source, width in zip(sources, reversed(widths[:-1]), strict=True)
        )
        self.outro = conv3(channels[-1], 3)

    def stages(self, photo: Tensor) -> tuple[Tensor, ...]:
        """See `Peer`."""
        h = F.leaky_relu(self.intro(photo))
        skips = []
        for level in range(4):
            skips.append(self._level(level, h))
            h = self.down[level](skips[-1])
        h = self._level(4, h)
        for part, up in enumerate(self.up, start=5):
            h = self._level(part, torch.cat((up(h), skips.pop()), 1))
        return (photo + self.outro(h),)

    def _level(self, part: int, x: Tensor) -> Tensor:
        result: Tensor = self.levels[part](x.permute(0, 2, 3, 1))
        return result.permute(0, 3, 1, 2)
