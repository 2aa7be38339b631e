"""Tells real blur from synthetic: small PatchGANs that see fine detail and spectra, never colours.

What a photo shows differs between unpaired sets, so a discriminator of RGB would align content,
colour and contrast. These see the high-pass residual of the luma over its local contrast, at two
scales, and how the log power spectra of windows fall off.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blursynth.gan import Discriminator
from freqdiff import gaussian

AdversarialLoss = Literal["hinge", "relativistic"]
UNDECIDED: dict[AdversarialLoss, float] = {"hinge": 2.0, "relativistic": math.log(2)}
"""Losses of a discriminator that gives all photos the same score."""

_SIGMA = 4.0
_LEAST_CONTRAST = 2 / 255
_WINDOW = 32
_COARSE = 4
_FLOOR = (0.5 / 255) ** 2


def views(images: Tensor) -> list[Tensor]:
    """What the discriminator sees of photos (B, 3, H, W) in [0, 1], at least 64 px on a side.

    Returns:
        Residuals (B, 1, H, W) and (B, 1, H/2, W/2), and log spectra (B, 512, n, m) of n m windows.
    """
    half = F.avg_pool2d(images, 2)
    return [residual(images), residual(half), log_spectra(images)]


def residual(images: Tensor) -> Tensor:
    """What a Gaussian of 4 px takes away of the luma, over its deviation within such a Gaussian
    plus 2/255: (B, 1, H, W)."""
    luma = _luma(images)[:, None]
    fine = luma - _smooth(luma)
    # Its slope has no bound at 0.
    contrast = _smooth(fine.square()).clamp(min=1e-10).sqrt()
    return fine / (contrast + _LEAST_CONTRAST)


def log_spectra(images: Tensor) -> Tensor:
    """How power falls off in windows of 32 px that overlap by half: (B, 512, n, m).

    32 rows and 16 columns of frequencies, without the highest column: log power of the luma, less
    the mean of that of up to 4 periods in a window, plus what natural images lose with the square
    of the frequency (Field 1987).
    """
    windows = _luma(images).unfold(1, _WINDOW, _WINDOW // 2).unfold(2, _WINDOW, _WINDOW // 2)
    windows = windows - windows.mean((3, 4), keepdim=True)
    taper = torch.hann_window(_WINDOW, device=images.device)
    spectrum = torch.fft.rfft2(windows * torch.outer(taper, taper), norm="ortho")[..., :-1]
    power = torch.log(spectrum.real.square() + spectrum.imag.square() + _FLOOR)
    rows = torch.fft.fftfreq(_WINDOW, 1 / _WINDOW, device=images.device)[:, None]
    periods = torch.hypot(rows, torch.arange(_WINDOW // 2, device=images.device))
    coarse = (periods > 0) & (periods <= _COARSE)
    power = power - power[..., coarse].mean(-1)[..., None, None]
    power = power + 2 * torch.log(periods.clamp(min=1))
    return power.flatten(3).permute(0, 3, 1, 2) / 4


def _luma(images: Tensor) -> Tensor:
    return images.float().mean(1)


def _smooth(luma: Tensor) -> Tensor:
    """(B, 1, H, W) under a Gaussian of 4 px."""
    return gaussian.smooth(luma, _SIGMA, round(3 * _SIGMA))


class BlurDiscriminator(nn.Module):
    """Scores of `views`: two PatchGANs on the residuals, and one of windows on the spectra."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        spectral = nn.Sequential(
            nn.Conv2d(_WINDOW * _WINDOW // 2, 2 * channels, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * channels, 2 * channels, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * channels, 1, 1),
        )
        patches = (Discriminator(channels, 1), Discriminator(channels, 1))
        self.heads = nn.ModuleList((*patches, spectral))

    def forward(self, seen: list[Tensor]) -> list[Tensor]:
        """Scores (B, 1, n, m) of patches for each view, above 0 for real ones."""
        return [head(view).float() for head, view in zip(self.heads, seen, strict=True)]


def discriminator_loss(real: list[Tensor], made: list[Tensor], kind: AdversarialLoss) -> Tensor:
    """Hinge loss (Lim and Ye 2017), or that of the relativistic pairing GAN (Huang et al. 2024),
    which asks whether a real photo looks more real than a made one; mean over the heads."""
    if kind == "hinge":
        parts = [
            F.relu(1 - r).mean() + F.relu(1 + m).mean() for r, m in zip(real, made, strict=True)
        ]
    else:
        parts = [F.softplus(m - r).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(parts).mean()


def generator_loss(real: list[Tensor], made: list[Tensor], kind: AdversarialLoss) -> Tensor:
    """The other side of `discriminator_loss`."""
    if kind == "hinge":
        parts = [-m.mean() for m in made]
    else:
        parts = [F.softplus(r - m).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(parts).mean()


def gradient_penalty(discriminator: BlurDiscriminator, seen: list[Tensor]) -> Tensor:
    """R1 (Mescheder et al. 2018): half the squared slope of the scores at real photos.

    The slope is that by what the discriminator sees, for one patch, as the slopes of many add up;
    mean over the heads.

    Args:
        discriminator: whose weights get the gradient.
        seen: `views` of real photos.
    """
    parts = []
    for head, view in zip(discriminator.heads, seen, strict=True):
        view = view.detach().requires_grad_(True)
        scores = head(view).float()
        (slope,) = torch.autograd.grad(scores.sum(), view, create_graph=True)
        parts.append(0.5 * slope.float().square().sum() / scores.numel())
    return torch.stack(parts).mean()
