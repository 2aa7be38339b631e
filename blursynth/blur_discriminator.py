"""Tells real blur from synthetic: small PatchGANs that see fine detail and spectra, never colours.

What a photo shows differs between unpaired sets, so a discriminator of RGB would align content and
colour. These see the high-pass residual at two scales, and the log power spectra of windows.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blursynth.gan import Discriminator

AdversarialLoss = Literal["hinge", "relativistic"]
UNDECIDED: dict[AdversarialLoss, float] = {"hinge": 2.0, "relativistic": math.log(2)}
"""Losses of a discriminator that gives all photos the same score."""

_SIGMA = 4.0
_GAIN = 4.0
_WINDOW = 32
_FLOOR = (1 / 255) ** 2


def views(images: Tensor) -> list[Tensor]:
    """What the discriminator sees of photos (B, 3, H, W) in [0, 1], at least 64 px on a side.

    Returns:
        Residuals (B, 3, H, W) and (B, 3, H/2, W/2), and log spectra (B, 512, n, m) of n m windows.
    """
    residual = high_pass(images)
    return [_GAIN * residual, _GAIN * F.avg_pool2d(residual, 2), log_spectra(images)]


def high_pass(images: Tensor) -> Tensor:
    """What a Gaussian of 4 px takes away, (B, 3, H, W)."""
    reach = round(3 * _SIGMA)
    line = torch.arange(-reach, reach + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (line / _SIGMA) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    low = F.pad(images.float(), (reach,) * 4, mode="reflect")
    low = F.conv2d(low, kernel[..., None], groups=images.shape[1])
    return images - F.conv2d(low, kernel[:, :, None], groups=images.shape[1])


def log_spectra(images: Tensor) -> Tensor:
    """Log power (B, 512, n, m) of the luma in windows of 32 px that overlap by half: 32 rows and 16
    columns of frequencies, without the highest column."""
    luma = images.float().mean(1)
    windows = luma.unfold(1, _WINDOW, _WINDOW // 2).unfold(2, _WINDOW, _WINDOW // 2)
    windows = windows - windows.mean((3, 4), keepdim=True)
    taper = torch.hann_window(_WINDOW, device=images.device)
    spectrum = torch.fft.rfft2(windows * torch.outer(taper, taper), norm="ortho")
    power = spectrum[..., :-1].abs().square()
    return torch.log(power + _FLOOR).flatten(3).permute(0, 3, 1, 2) / 4


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
        self.heads = nn.ModuleList((Discriminator(channels), Discriminator(channels), spectral))

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


def jitter(images: Tensor, noise: torch.Generator) -> Tensor:
    """Photos (B, 3, H, W) with other brightness, contrast and saturation, each its own: real ones
    are few, and what the discriminator must not learn from is made to vary in both sets (Zhao et
    al. 2020)."""
    light, contrast, colour = torch.rand(3, len(images), 1, 1, 1, generator=noise).to(images)
    images = images + 0.2 * (light - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (0.5 + colour)
    middle = images.mean((1, 2, 3), keepdim=True)
    varied: Tensor = middle + (images - middle) * (0.85 + 0.3 * contrast)
    return varied
