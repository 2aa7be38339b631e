"""Latents of the small base, which are what blur changes of a photo.

Its U-Net starts from what is known: the photo that the physics map foretells, the details that are
left there, and z_t. It tells how much of these to take, which need not pass its normalisations;
what blur has taken already cannot come back by a mistake in such a share.
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
_LOG_VARIANCES = (-8.0, 8.0)
_DOUBTS, _NOISE_GAIN, _LEAST_DOUBT = (0.15, 0.6, 0.05), 14.0, 0.015
"""Likeliest for pairs of the physics engine: shares of what is foretold and of the details, latents
for noise of 1 in photos in [0, 1], and what is left of nothing."""


def latent_sets(change_scale: float | None) -> tuple[int, int]:
    """How often a U-Net takes and gives the channels of the latents, by the pipeline's
    `change_scale`."""
    return (1, 1) if change_scale is None else (1 + LATENT_SETS, LATENT_SETS)


def known_latents(sharp: Tensor, foretold: Tensor | None = None) -> Tensor:
    """What is known of the latents (B, C, h, w) of a blurred photo -> (B, 4 C, h, w).

    Those of the sharp photo, what the map foretells to be added, and the details of the sum: what
    is left without the mean of 3 x 3 latents, and what that mean has beyond the mean of 9 x 9 of
    such means.

    Args:
        sharp: latents of the sharp photo.
        foretold: latents of the photo that `foretell` makes; None: nothing is told.
    """
    rest = sharp if foretold is None else foretold
    known = [sharp, rest - sharp]
    for side in _DETAILS:
        padded = F.pad(rest, (side // 2,) * 4, mode="replicate")
        coarser = F.avg_pool2d(padded, side, 1)
        known.append(rest - coarser)
        rest = coarser
    return torch.cat(known, 1)


class Change(NamedTuple):
    """What blur changes, z_0, as far as a network knows: normal with this mean and this log s^2,
    both (B, C, h, w) in float32."""

    mean: Tensor
    log_variance: Tensor

    def surprise(self, clean: Tensor) -> Tensor:
        """(B,) mean negative log-likelihood of s alone for z_0 (B, C, h, w), without constants."""
        missing = (clean - self.mean.detach()).square()
        loss = self.log_variance + missing * (-self.log_variance).exp()
        return 0.5 * loss.mean((1, 2, 3))

    def without_grain(self, noise: Tensor, scale: float) -> Change:
        """The same with no more variance than noise has: for sampling.

        Each latent is drawn alone, which is right for noise. Other things that are not known, as
        the shape of the blur, change many latents together; drawn alone they would be grain, so
        they stay at their mean.

        Args:
            noise: as for `doubt`.
            scale: of changes, `change_scale` of the pipeline.
        """
        most = (scale**2 * _noise_power(noise)).log()
        return Change(self.mean, torch.minimum(self.log_variance, most))


def change_of(made: Tensor, known: Tensor, noise: Tensor, scale: float) -> Change:
    """The change as a U-Net tells it.

    Args:
        made: (B, 4 C, h, w) of the U-Net: what is added to the mean, in units of `doubt`; the share
            of each detail that is added, as a rule negative; and log s^2, in the same units.
        known: (B, 4 C, h, w) of `known_latents`.
        noise: as for `doubt`.
        scale: of changes, `change_scale` of the pipeline.
    """
    added, *gains, log_variance = made.float().chunk(LATENT_SETS, 1)
    _, foretold, *details = known.float().chunk(LATENT_SETS, 1)
    unit = scale * doubt(known, noise)
    mean = scale * foretold + unit * added
    for gain, detail in zip(gains, details, strict=True):
        mean = mean + scale * gain * detail
    return Change(mean, log_variance.clamp(*_LOG_VARIANCES) + 2 * unit.log())


def doubt(known: Tensor, noise: Tensor) -> Tensor:
    """How far latents may be from those foretold, (B, C, h, w), roughly: by their noise, by a part
    of what is foretold, and by details that blur may still take.

    Args:
        known: (B, 4 C, h, w) of `known_latents`.
        noise: (B, 1, h, w) standard deviation of the photo's noise, in [0, 1].
    """
    _, *parts = known.float().chunk(LATENT_SETS, 1)
    power = torch.zeros_like(parts[0])
    for share, part in zip(_DOUBTS, parts, strict=True):
        power = power + (share * part).square()
    power = F.avg_pool2d(power, 3, 1, 1, count_include_pad=False)
    return (power + _noise_power(noise)).sqrt()


def _noise_power(noise: Tensor) -> Tensor:
    return (_NOISE_GAIN * noise.float()).square() + _LEAST_DOUBT**2


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
