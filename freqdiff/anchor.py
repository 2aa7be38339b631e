"""The physics anchor: a local blur estimate from the photo and its spectra.

The network of this file reads the blur of each 32 px cell off the photo and its Fourier magnitudes:
a kernel k, the noise to signal ratio n and how much both are to be trusted, m. `blur_filter` undoes
that blur.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdiff import spectral
from freqdiff.blur_filter import (
    CELL,
    NOISE_BANDS,
    PSF_RADIUS,
    PSF_SIDE,
    WINDOW,
    BlurField,
    window_frequencies,
)
from freqdiff.layers import ChannelNorm, add_residual, add_to, zero_layer
from freqdiff_kernels import portable

_UNSHUFFLE = 4
_NOISE = 1e-2
_NOISE_GAIN = 3.0
_KERNEL_WIDTH = 32
_GROUP, _POOL, _POOL_PAD = 4, 6, 1
GROUP_PIXELS = _GROUP * CELL
"""Pitch of the groups of cells that share a kernel, but for interpolation."""


class Residual(nn.Module):
    """x + conv(silu(conv(norm(x)))), the second convolution from zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        zero_layer(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return add_residual(x, self.norm(x), self.conv1, self.conv2)


class KernelNet(nn.Module):
    """Kernel of each group of cells from its mean log magnitude, by convolutions over the shifts.

    Blur multiplies the spectrum of a photo, which falls like 1/f, by |K|: the inverse transform of
    what is left over is a picture of the kernel's shape (Goldstein and Fattal 2012). Neighbouring
    shifts are neighbours in that picture, so a small convolutional network turns it into a kernel.

    Args:
        context: channels of the features of the cells.
        width: channels.
    """

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.input = nn.Conv2d(4, width, 3, padding=1)
        self.context = nn.Conv2d(context, width, 1)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in (1, 1, 2, 4, 1, 1)
        )
        self.output = nn.Conv2d(width, 1, 1)

    def forward(self, magnitude: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels of cells from their scaled log magnitudes (B, 2048, R, C) and features.

        Returns:
            Logits (B, 33 * 33, R, C), and means of the pictures' features (B, width, R, C).
        """
        rows, columns = h.shape[-2:]
        mean, context = (
            F.avg_pool2d(v, _POOL, _GROUP, _POOL_PAD, ceil_mode=True, count_include_pad=False)
            for v in (magnitude, h)
        )
        batch, _, up, across = mean.shape
        pictures = _kernel_pictures(
            spectral.MAGNITUDE_SCALE * mean.permute(0, 2, 3, 1).flatten(0, 2)
        )
        x = self.input(pictures)
        x = x + self.context(context).permute(0, 2, 3, 1).flatten(0, 2)[..., None, None]
        for conv in self.convs:
            x = x + F.silu(conv(x))
        both = torch.cat((self.output(x).flatten(1), F.avg_pool2d(x, PSF_SIDE).flatten(1)), 1)
        both = both.reshape(batch, up, across, -1).permute(0, 3, 1, 2)
        both = F.interpolate(both, scale_factor=_GROUP, mode="bilinear")[:, :, :rows, :columns]
        return both[:, : PSF_SIDE**2], both[:, PSF_SIDE**2 :]


def _kernel_pictures(magnitude: Tensor) -> Tensor:
    """(N, 2048) packed log magnitudes of 64 px windows -> (N, 4, 33, 33) functions of the shift."""
    half = magnitude.reshape(-1, WINDOW, WINDOW // 2)
    # Column 0 packs two columns of the spectrum; its upper half mirrors the lower one.
    first = half[..., 0].clone()
    first[..., CELL + 1 :] = first[..., 1:CELL].flip(-1)
    first[..., 0], first[..., CELL] = half[..., 0, 1], half[..., CELL, 1]
    half = torch.cat((first[..., None], half[..., 1:], half[..., -1:]), -1)
    white = half + window_frequencies(half.device).clamp_min(0.5 / WINDOW).log()
    white = white - white.mean((-2, -1), keepdim=True)
    shifts = torch.arange(-PSF_RADIUS, PSF_RADIUS + 1, device=half.device)

    def picture(spectrum: Tensor, scale: int) -> Tensor:
        full = portable.irfft2(spectrum)
        index = (scale * shifts) % WINDOW
        return full[..., index, :][..., index]

    cepstrum = [picture(white, scale) for scale in (1, 2)]
    zero_phase = picture(white.clamp(-4, 3).exp(), 1)
    distance = (shifts[:, None].square() + shifts.square()).sqrt() / PSF_RADIUS
    pictures = (torch.stack((*cepstrum, zero_phase), 1) * 100).asinh()
    return torch.cat((pictures, distance.expand_as(pictures[:, :1])), 1)


class BlurEstimator(nn.Module):
    """Grey photo (B, 3, H, W) in [0, 1] -> its `BlurField`; H and W are multiples of 32.

    A convolutional trunk on luminance, halved to one position per cell, where the log magnitudes of
    64 px windows join.

    Args:
        widths: channels at pitch 4, 8, 16 and 32 px.
        blocks: residual blocks at each of them.
        spatial, frequency: what it sees: the luminance, the magnitudes.
    """

    def __init__(
        self, widths: tuple[int, ...], blocks: tuple[int, ...], spatial: bool, frequency: bool
    ) -> None:
        super().__init__()
        self.spatial, self.frequency = spatial, frequency
        self.input = nn.Conv2d(_UNSHUFFLE**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in itertools.pairwise(widths)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(count)))
            for width, count in zip(widths, blocks, strict=True)
        )
        self.magnitude = nn.Conv2d(WINDOW**2 // 2, widths[-1], 1)
        self.norm = ChannelNorm(widths[-1])
        self.psf = nn.Conv2d(widths[-1], PSF_SIDE**2, 1)
        self.kernel = KernelNet(widths[-1], _KERNEL_WIDTH)
        self.hidden = nn.Conv2d(widths[-1] + _KERNEL_WIDTH + 3, 64, 1)
        self.rest = nn.Conv2d(64, NOISE_BANDS + 1, 1)
        zero_layer(self.rest)

    def forward(self, grey: Tensor) -> BlurField:
        """Estimate the blur of each cell of a photo of `spectral.grey`."""
        dtype = self.input.weight.dtype
        luma = (grey[:, :1] * 2 - 1).to(dtype)
        features = spectral.window_features(grey, CELL)[:, : WINDOW**2 // 2].to(dtype)
        luma, features = luma * float(self.spatial), features * float(self.frequency)
        h = self.blocks[0](self.input(F.pixel_unshuffle(luma, _UNSHUFFLE)))
        for level, down in enumerate(self.down, start=1):
            h = down(h)
            if level == len(self.down):
                h = add_to(self.magnitude(features), h)
            h = self.blocks[level](h)
        h = self.norm(h)
        logits, pictures = self.kernel(features, h)
        log_psf = F.log_softmax((logits + self.psf(h)).permute(0, 2, 3, 1).float(), -1)
        hidden = torch.cat((h, pictures, _extent(log_psf).permute(0, 3, 1, 2).to(dtype)), 1)
        rest = self.rest(F.silu(self.hidden(hidden))).permute(0, 2, 3, 1).float()
        log_noise = _NOISE_GAIN * rest[..., :NOISE_BANDS] + math.log(_NOISE)
        return BlurField(log_psf, log_noise, rest[..., NOISE_BANDS].tanh())


def estimate_radius(blocks: tuple[int, ...]) -> int:
    """Pixels around a cell that its estimated blur depends on; `blocks` as of `BlurEstimator`."""
    # A cell lies between the middles of its own and a neighbouring group, whose means reach on.
    groups = (_GROUP + _POOL_PAD + 1) * CELL
    trunk = sum((2 * count + 1) * (_UNSHUFFLE << level) for level, count in enumerate(blocks))
    return groups + max(trunk, WINDOW)


def _extent(log_psf: Tensor) -> Tensor:
    """Entropy and extent of kernels (..., 33 * 33), about unit range: (..., 3)."""
    psf = log_psf.exp()
    shifts = torch.arange(-PSF_RADIUS, PSF_RADIUS + 1, device=psf.device).float() / PSF_RADIUS
    kernels = psf.reshape(*psf.shape[:-1], PSF_SIDE, PSF_SIDE)
    vertical = (kernels.sum(-1) * shifts.square()).sum(-1)
    horizontal = (kernels.sum(-2) * shifts.square()).sum(-1)
    entropy = -(psf * log_psf).sum(-1) / math.log(PSF_SIDE**2)
    spread = torch.stack((vertical, horizontal), -1)
    return torch.cat((entropy[..., None], (spread + 1e-4).sqrt()), -1)
