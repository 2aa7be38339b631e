"""Layers that the networks share; all of them local: no statistics over the image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero_layer(layer: nn.Conv2d | nn.Linear) -> None:
    """Start a layer at zero, so that what it feeds starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def add_to(fresh: Tensor, other: Tensor) -> Tensor:
    """fresh + other, in the memory of `fresh` when no gradient is asked for.

    New memory costs more than the addition: at 4K on a CPU its page faults double the time.
    """
    return fresh + other if torch.is_grad_enabled() else fresh.add_(other)


def add_residual(x: Tensor, normal: Tensor, conv1: nn.Conv2d, conv2: nn.Conv2d) -> Tensor:
    """x + conv2(silu(conv1(normal))): the core of all residual blocks."""
    h = F.silu(conv1(normal), inplace=not torch.is_grad_enabled())
    del normal  # as large as h: a tenth of a gigabyte at 4K
    return add_to(conv2(h), x)


class ChannelNorm(nn.Module):
    """Normalises the channels of each position on its own: no statistics over the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(
        self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
    ) -> Tensor:
        """(B, C, H, W) -> the same shape, times `scale` and plus `shift` (B, C) if given."""
        last = x.permute(0, 2, 3, 1)
        if scale is None or shift is None:
            return F.layer_norm(last, (self.channels,)).permute(0, 3, 1, 2)
        if len(x) == 1:  # one pass over the photo instead of three
            normal = F.layer_norm(last, (self.channels,), scale[0], shift[0])
        else:
            normal = F.layer_norm(last, (self.channels,)) * scale[:, None, None]
            normal = normal + shift[:, None, None]
        return normal.permute(0, 3, 1, 2)
