"""Latents of the small base, which are what blur changes of a photo.

Its U-Net starts from what is known: the photo that the physics map foretells, details of the sharp
photo that blur may take as well, and z_t. It tells how much of each to take, which need not pass
its normalisations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_DETAILS = (3, 9)
"""Sides of the means, in latents, that tell detail from the rest."""
LATENT_SETS = 2 + len(_DETAILS)
"""How often `known_latents` has the channels of the latents."""
_LOG_VARIANCES = (-10.0, 4.0)


def latent_sets(change_scale: float | None) -> int:
    """How often a U-Net takes and gives the channels of the latents, by the pipeline's
    `change_scale`."""
    return 1 if change_scale is None else 1 + LATENT_SETS


def known_latents(sharp: Tensor, foretold: Tensor | None = None) -> Tensor:
    """What is known of the latents (B, C, h, w) of a blurred photo -> (B, 4 C, h, w).

    Those of the sharp photo, what the map foretells to be added, and what blur may take beyond:
    what is left without the mean of 3 x 3 latents, and what that mean has beyond the mean of 9 x 9
    of such means.

    Args:
        sharp: latents of the sharp photo.
        foretold: latents of the photo that `foretell` makes; None: nothing is told.
    """
    known, rest = [sharp, torch.zeros_like(sharp) if foretold is None else foretold - sharp], sharp
    for side in _DETAILS:
        padded = F.pad(rest, (side // 2,) * 4, mode="replicate")
        coarser = F.avg_pool2d(padded, side, 1)
        known.append(rest - coarser)
        rest = coarser
    return torch.cat(known, 1)


class Change(NamedTuple):
    """What blur changes, z_0, as far as a network knows: normal with this mean and log s^2, both
    (B, C, h, w) in float32."""

    mean: Tensor
    log_variance: Tensor

    def surprise(self, clean: Tensor) -> Tensor:
        """(B,) mean negative log-likelihood of s alone for z_0 (B, C, h, w), without constants."""
        missing = (clean - self.mean.detach()).square()
        loss = self.log_variance + missing * (-self.log_variance).exp()
        return 0.5 * loss.mean((1, 2, 3))


def change_of(made: Tensor, known: Tensor, scale: float) -> Change:
    """The change as a U-Net tells it.

    Args:
        made: (B, 5 C, h, w) of the U-Net: what is added to the mean, the shares of what is known
            that are, that of the foretold change less 1, and log s^2.
        known: (B, 4 C, h, w) of `known_latents`.
        scale: of changes, `change_scale` of the pipeline.
    """
    mean, *gains, log_variance = made.float().chunk(1 + LATENT_SETS, 1)
    _, foretold, *details = known.float().chunk(LATENT_SETS, 1)
    mean = mean + scale * foretold
    for gain, part in zip(gains, (foretold, *details), strict=True):
        mean = mean + scale * gain * part
    return Change(mean, log_variance.clamp(*_LOG_VARIANCES))


def velocity(change: Change, noisy: Tensor, share: Tensor) -> Tensor:
    """The velocity (B, C, h, w) at z_t = sqrt(a) z_0 + sqrt(1 - a) e of the expected z_0,

        v = sqrt(1 - a) / (a s^2 + 1 - a) (sqrt(a) (1 - s^2) z_t - mean).

    For s = 1 it is that of the mean, -sqrt(1 - a) mean.

    Args:
        change: known of z_0.
        noisy: z_t, (B, C, h, w).
        share: a at t, of one element or (B,).
    """
    a, variance = share.float().view(-1, 1, 1, 1), change.log_variance.exp()
    told = a.sqrt() * (1 - variance) * noisy.float() - change.mean
    return ((1 - a).sqrt() / (a * variance + 1 - a) * told).to(noisy.dtype)
