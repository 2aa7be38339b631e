"""DGUNet: Mou, Wang, Zhang, Deep Generalized Unfolding Networks for Image Restoration, CVPR 2022.

Each stage is an iteration of proximal gradient descent: a gradient step with learned degradation
operators, then a U-Net in the place of the proximal operator. The stages in the middle share their
weights, and all of them are compared with the truth.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.peer import ChannelAttentionBlock, Peer, conv3

_OPERATOR_WIDTH = 64
_SUBSPACE = 16
_SLOPE = 0.2


@dataclasses.dataclass(frozen=True)
class DGUNetConfig:
    """Widths and number of stages.

    Attributes:
        width: channels at full resolution.
        growth: further channels of each coarser level.
        last_growth: further channels of the last stage.
        shared: stages in the middle, which share their weights.
    """

    width: int = 40
    growth: int = 24
    last_growth: int = 16
    shared: int = 5


class _GradientStep(nn.Module):
    """x - r A'(A x - y), with learned A and A'."""

    def __init__(self) -> None:
        super().__init__()

        def operator() -> nn.Sequential:
            return nn.Sequential(conv3(3, _OPERATOR_WIDTH), nn.PReLU(), conv3(_OPERATOR_WIDTH, 3))

        self.degrade, self.back = operator(), operator()
        self.rate = nn.Parameter(torch.tensor([0.5]))

    def forward(self, x: Tensor, photo: Tensor) -> Tensor:
        rest = x + self.degrade(x) - photo
        return x - self.rate * (rest + self.back(rest))


class _ConvBlock(nn.Module):
    """Two convolutions beside a 1x1 one; half of the channels are normalised over the photo."""

    def __init__(self, inputs: int, outputs: int, normalised: bool) -> None:
        super().__init__()
        self.identity = nn.Conv2d(inputs, outputs, 1)
        self.conv1, self.conv2 = conv3(inputs, outputs), conv3(outputs, outputs)
        self.norm = nn.InstanceNorm2d(outputs // 2, affine=True) if normalised else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        if self.norm is not None:
            first, second = h.chunk(2, 1)
            h = torch.cat((self.norm(first), second), 1)
        h = F.leaky_relu(self.conv2(F.leaky_relu(h, _SLOPE)), _SLOPE)
        return h + self.identity(x)


class _Fusion(nn.Module):
    """Features of the stage before scale and shift those of this one."""

    def __init__(self, encoded: int, decoded: int) -> None:
        super().__init__()
        self.encoded, self.decoded = conv3(encoded, encoded), conv3(decoded, encoded)
        self.scale, self.shift = conv3(encoded, encoded), conv3(encoded, encoded)

    def forward(self, x: Tensor, encoded: Tensor, decoded: Tensor) -> Tensor:
        before = F.leaky_relu(self.encoded(encoded) + self.decoded(decoded), 0.1)
        return x + x * self.scale(before).sigmoid() + self.shift(before)


class _UNet(nn.Module):
    """Encoder and decoder of four levels; `fused` receives the features of the stage before."""

    def __init__(self, width: int, growth: int, fused: bool) -> None:
        super().__init__()
        widths = [width + level * growth for level in range(4)]
        pairs = list(itertools.pairwise(widths))
        self.encoder = nn.ModuleList(_ConvBlock(a, b, True) for a, b in pairs)
        self.down = nn.ModuleList(
            nn.Conv2d(b, b, 4, stride=2, padding=1, bias=False) for _, b in pairs
        )
        self.fusion = nn.ModuleList(_Fusion(b, a) for a, b in pairs * fused)
        self.middle = _ConvBlock(widths[-1], widths[-1], True)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.skip = nn.ModuleList(conv3(b, a) for a, b in pairs)
        self.decoder = nn.ModuleList(_ConvBlock(2 * a, a, False) for a, _ in pairs)

    def forward(
        self, x: Tensor, before: tuple[list[Tensor], list[Tensor]] | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        encoded, decoded = [], []
        for level, (block, down) in enumerate(zip(self.encoder, self.down, strict=True)):
            x = block(x)
            if before is not None:
                x = self.fusion[level](x, before[0][level], before[1][level])
            encoded.append(x)
            x = down(x)
        x = self.middle(x)
        for level in reversed(range(len(self.decoder))):
            joined = torch.cat((self.up[level](x), self.skip[level](encoded[level])), 1)
            x = self.decoder[level](joined)
            decoded.insert(0, x)
        return encoded, decoded


class _Merge(nn.Module):
    """Joins features after projecting those of the stage before to a subspace that both span."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.basis = conv3(2 * width, _SUBSPACE)
        self.join = conv3(2 * width, width)

    def forward(self, x: Tensor, bridge: Tensor) -> Tensor:
        basis = self.basis(torch.cat((x, bridge), 1)).flatten(2)
        with torch.autocast(x.device.type, enabled=False):
            # Only what the vectors span counts: of unit length, they keep the system well scaled.
            basis = F.normalize(basis.float(), dim=2)
            gram = basis @ basis.transpose(1, 2)
            gram = gram + 1e-4 * torch.eye(_SUBSPACE, device=x.device)
            parts = basis @ bridge.float().flatten(2).transpose(1, 2)
            projected = (basis.transpose(1, 2) @ torch.linalg.solve(gram, parts)).transpose(1, 2)
        return x + self.join(torch.cat((x, projected.reshape_as(bridge).to(x.dtype)), 1))


class _Supervised(nn.Module):
    """The stage's result, and features for the next one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(width, width, 1, bias=False)
        self.to_photo = nn.Conv2d(width, 3, 1, bias=False)

    def forward(self, x: Tensor, photo: Tensor) -> tuple[Tensor, Tensor]:
        return x + self.features(x), photo + self.to_photo(x)


class _Stage(nn.Module):
    """A gradient step and a proximal step."""

    def __init__(self, config: DGUNetConfig, fused: bool) -> None:
        super().__init__()
        width = config.width
        self.gradient = _GradientStep()
        self.shallow = _shallow(width)
        self.merge = _Merge(width) if fused else None
        self.unet = _UNet(width, config.growth, fused)
        self.supervised = _Supervised(width)

    def forward(
        self,
        x: Tensor,
        photo: Tensor,
        features: Tensor | None,
        before: tuple[list[Tensor], list[Tensor]] | None,
    ) -> tuple[Tensor, Tensor, tuple[list[Tensor], list[Tensor]]]:
        x = self.gradient(x, photo)
        h = self.shallow(x)
        if self.merge is not None and features is not None:
            h = self.merge(h, features)
        before = self.unet(h, before)
        features, result = self.supervised(before[1][0], x)
        return result, features, before


def _shallow(width: int) -> nn.Sequential:
    block = ChannelAttentionBlock(width)
    return nn.Sequential(conv3(3, width, bias=False), block)


class DGUNet(Peer):
    """See the top of the file."""

    multiple = 8

    def __init__(self, config: DGUNetConfig) -> None:
        super().__init__()
        self.config = config
        last = config.width + config.last_growth
        self.first = _Stage(config, False)
        self.middle = _Stage(config, True)
        self.gradient = _GradientStep()
        self.shallow = _shallow(config.width)
        self.join = conv3(2 * config.width, last, bias=False)
        self.outro = conv3(last, 3, bias=False)

    def stages(self, photo: Tensor) -> tuple[Tensor, ...]:
        """See `Peer`."""
        x, features, before = self.first(photo, photo, None, None)
        results = [x]
        for _ in range(self.config.shared):
            x, features, before = self.middle(x, photo, features, before)
            results.append(x)
        shallow = self.shallow(self.gradient(x, photo))
        last = self.outro(self.join(torch.cat((shallow, features), 1)))
        return (*results, photo + last)
