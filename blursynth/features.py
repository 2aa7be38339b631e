"""What the windows of a photo look like in numbers, for `blursynth.distances`.

Two spaces, in which brightness and contrast count for little, with many samples in one photo:

* spectrum: how fast the power falls off towards fine detail, and how much that depends on the
  direction, as motion makes it. Log power in rings, less that of the coarsest two.
* patches: moments of local-contrast-normalised luma and of the products of neighbours at two
  scales. They are those from which BRISQUE (Mittal et al. 2012) and NIQE (Mittal et al. 2013) fit
  generalised Gaussians, left as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from freqdiff.errors import InputError
from freqdiff.niqe import normalise_contrast
from freqdiff_kernels.ops import fft_bands

WINDOW = 64
"""Side of a window in pixels; windows lie side by side."""
_RINGS, _SECTORS = 16, 4
_COARSE = 2
_LEAST_CONTRAST = 2.5 / 255
_LUMA = (0.299, 0.587, 0.114)

Features = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Features of the windows of a set of photos.

    Attributes:
        values: (N, D) float64.
        photo: (N,) number of the photo that a window is of.
    """

    values: NDArray[np.float64]
    photo: NDArray[np.int64]

    @property
    def photos(self) -> int:
        """How many photos the windows are of."""
        return len(np.unique(self.photo))

    def where(self, chosen: NDArray[np.bool_]) -> Samples:
        """The windows for which `chosen`, (N,), is true."""
        return Samples(self.values[chosen], self.photo[chosen])

    def thin(self, count: int) -> Samples:
        """At most `count` of the windows, evenly spread."""
        count = min(count, len(self.photo))
        kept = np.arange(count) * len(self.photo) // max(1, count)
        return Samples(self.values[kept], self.photo[kept])


def gather(
    photos: Iterable[tuple[str, Tensor]], features: Features, most: int | None = None
) -> Samples:
    """Features of all windows with something in them.

    Args:
        photos: name and (3, H, W) sRGB in [0, 1]; parts of one photo share its name.
        features: `spectrum_features` or `patch_features`.
        most: windows of each image, evenly spread; None: all.

    Raises:
        InputError: an image of another shape or smaller than a window, or no window at all.
    """
    numbers: dict[str, int] = {}
    values, owners = [], []
    for name, image in photos:
        found = features(image)[textured(image)].double().cpu().numpy()
        number = numbers.setdefault(name, len(numbers))
        one = Samples(found, np.full(len(found), number))
        one = one if most is None else one.thin(most)
        values.append(one.values)
        owners.append(one.photo)
    if not sum(map(len, owners)):
        raise InputError("Expected photos with some texture, got none: give other photos.")
    return Samples(np.concatenate(values), np.concatenate(owners))


def textured(image: Tensor) -> Tensor:
    """(N,) whether each window has enough contrast to show what a camera does to it."""
    return _windows(_luma(image), WINDOW).std(1) >= _LEAST_CONTRAST


def spectrum_features(image: Tensor) -> Tensor:
    """(N, 28) of the N windows: fall-off of the log power in 14 rings, its spread over directions.

    Args:
        image: (3, H, W) sRGB in [0, 1], at least 64 px on a side.

    Raises:
        InputError: another shape.
    """
    _check(image)
    height, width = (n // WINDOW * WINDOW for n in image.shape[1:])
    whole = image[None, :, :height, :width].float()
    # The taper would spread the mean over the first ring.
    whole = whole - F.interpolate(F.avg_pool2d(whole, WINDOW), scale_factor=WINDOW)
    bands = fft_bands(whole, WINDOW, WINDOW, _RINGS, _SECTORS)[0].view(-1, _RINGS, _SECTORS)
    coarse, fine = bands[:, :_COARSE], bands[:, _COARSE:]
    fall = fine.mean(2) - coarse.mean((1, 2))[:, None]
    return torch.cat((fall, fine.std(2)), 1)


def patch_features(image: Tensor) -> Tensor:
    """(N, 36) of the N windows: 18 moments at each of two scales.

    Args:
        image: (3, H, W) sRGB in [0, 1], at least 64 px on a side.

    Raises:
        InputError: another shape.
    """
    luma = _luma(image)
    half = F.avg_pool2d(luma[None, None], 2)[0, 0]
    return torch.cat((_moments(luma, WINDOW), _moments(half, WINDOW // 2)), 1)


def _moments(luma: Tensor, window: int) -> Tensor:
    whole = _windows(normalise_contrast(luma), window).view(-1, window, window)
    found = [_shape(whole)]
    for one, other in (
        (whole[:, :, :-1], whole[:, :, 1:]),
        (whole[:, :-1], whole[:, 1:]),
        (whole[:, :-1, :-1], whole[:, 1:, 1:]),
        (whole[:, :-1, 1:], whole[:, 1:, :-1]),
    ):
        product = one * other
        below, above = product.clamp(max=0), product.clamp(min=0)
        found += [_shape(product)[:, 1:], product.mean((1, 2))[:, None]]
        found += [side.square().mean((1, 2)).sqrt()[:, None] for side in (below, above)]
    return torch.cat(found, 1)


def _shape(values: Tensor) -> Tensor:
    """(N, 2) of (N, P, Q): root mean square, and (mean |x|)^2 / mean x^2, which is 0.64 for a
    Gaussian, 0.5 for a Laplacian, less with heavier tails."""
    power = values.square().mean((1, 2))
    ratio = values.abs().mean((1, 2)).square() / power.clamp(min=1e-12)
    return torch.stack((power.sqrt(), ratio), 1)


def _windows(values: Tensor, window: int) -> Tensor:
    """(N, window^2) of (H, W), row-major; what is left at the right and below is dropped."""
    return F.unfold(values[None, None], window, stride=window)[0].T


def _luma(image: Tensor) -> Tensor:
    """(H, W) in float64: the variance of a bright flat area cancels in float32."""
    _check(image)
    image = image.double()
    return torch.einsum("c,chw->hw", image.new_tensor(_LUMA), image)


def _check(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or min(image.shape[1:]) < WINDOW:
        raise InputError(
            f"Expected a photo (3, H, W) of at least {WINDOW} px on a side, "
            f"got {tuple(image.shape)}: give a larger one."
        )
