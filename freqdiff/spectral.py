"""The frequency condition c_freq: windowed Fourier magnitude and phase of the blurred photo."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from freqdiff_kernels import ops
from freqdiff_kernels.reference import planes

RADIAL_BANDS = 6
ANGULAR_BANDS = 4
GLOBAL_FEATURES = RADIAL_BANDS * ANGULAR_BANDS
MAGNITUDE_SCALE = 3.0
"""`window_features` divides log magnitudes by it, to about unit range."""
_GLOBAL_WINDOW = 32
_ROWS_AT_ONCE = 256


def grey(photo: Tensor) -> Tensor:
    """Photo (B, 3, H, W) in [-1, 1] -> the grey one of its luminance, the same shape in [0, 1].

    It has the spectra of the photo and one plane of memory, which its three colours share.
    """
    plane = planes(photo, "luma").mul_(0.5).add_(0.5)
    return plane.expand(-1, 3, -1, -1)


def window_features(
    photo: Tensor, pitch: int, taper: Literal["hann", "none"] = "hann", phase: bool = True
) -> Tensor:
    """c_freq at one level of the network: log magnitude, cosine and sine of the phase.

    Hann windows of 2 `pitch` pixels every `pitch` pixels, on luminance; the grid is anchored at
    pixel 0, so a tile that starts at a multiple of `pitch` sees the features of its frame.

    Args:
        photo: (B, 3, H, W) in [0, 1], such as that of `grey`; H and W multiples of `pitch`.
        pitch: 4, 8, 16 or 32 pixels.
        taper: "none" leaves the windows as they are cut out, for comparison.
        phase: False puts zeros in the place of cosine and sine, for comparison.

    Returns:
        (B, 6 pitch^2, H / pitch, W / pitch), channels-last in memory; magnitudes scaled to about
        unit range.
    """
    features = ops.fft_features(photo, 2 * pitch, pitch, taper=taper, layout="luma")
    slots = features.shape[-1] // 3
    features[..., :slots].sub_(math.log(2 * pitch) - 3).mul_(1 / MAGNITUDE_SCALE)
    if not phase:
        features[..., slots:].zero_()
    return features.permute(0, 3, 1, 2)


def global_features(photo: Tensor) -> Tensor:
    """Mean window power (Welch) of a whole photo in radial and angular bands.

    Args:
        photo: (B, 3, H, W) in [0, 1], at least one pixel.

    Returns:
        (B, 24) log energies scaled to about unit range.
    """
    bottom, right = -photo.shape[2] % _GLOBAL_WINDOW, -photo.shape[3] % _GLOBAL_WINDOW
    if bottom or right:
        photo = torch.nn.functional.pad(photo, (0, right, 0, bottom), mode="replicate")
    energy = ops.band_energy(photo, _GLOBAL_WINDOW, RADIAL_BANDS, ANGULAR_BANDS)
    return energy * (1 / 3) + 2


def frame_features(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`global_features` of a photo in one plane of memory.

    Args:
        image: (1, 3, H, W) in [0, 1].
        size: (height, width) to which it is mirrored, multiples of the model's alignment.
    """
    plane = image.new_empty((1, 1, *size))
    for top in range(0, size[0], _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, size[0] - top)
        part = ops.extract_tiles(image[0], (rows, size[1]), ([top], [0]), scale=2.0, shift=-1.0)
        plane[:, :, top : top + rows] = grey(part)[:, :1]
    return global_features(plane.expand(-1, 3, -1, -1))
