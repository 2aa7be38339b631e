"""What the compared architectures have in common: any size of photo, and one or several stages."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Peer(nn.Module):
    """A network that turns a blurred photo into a sharp one.

    Attributes:
        multiple: pixels that the sides of what `stages` sees are multiples of.
    """

    multiple = 1

    def stages(self, photo: Tensor) -> tuple[Tensor, ...]:
        """Results (B, 3, H, W) of each stage that the paper trains against the truth, best last.

        Args:
            photo: (B, 3, H, W) in [0, 1]; H and W are multiples of `multiple`.
        """
        raise NotImplementedError

    def restore(self, photo: Tensor) -> tuple[Tensor, ...]:
        """`stages` of photos of any size, each of that size."""
        height, width = photo.shape[2:]
        below, right = -height % self.multiple, -width % self.multiple
        if below or right:
            photo = F.pad(photo, (0, right, 0, below), mode="replicate")
        return tuple(stage[..., :height, :width] for stage in self.stages(photo))

    def forward(self, photo: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], any H and W -> the sharp photo, the same shape, not clamped."""
        return self.restore(photo)[-1]


def conv3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class ChannelAttention(nn.Module):
    """Squeeze and excitation: channels times factors that the mean of each decides."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.factors = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // reduction, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels // reduction, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x * self.factors(x)


class ChannelAttentionBlock(nn.Module):
    """CAB of MPRNet: two convolutions and channel attention beside the identity."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3(channels, channels, bias=False),
            nn.PReLU(),
            conv3(channels, channels, bias=False),
            ChannelAttention(channels, reduction),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x + self.body(x)
