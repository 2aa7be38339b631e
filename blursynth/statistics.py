"""What a set of blurred photos looks like in numbers, and how far it is from another set.

Three numbers per photo, by simple estimators of our own:

* blur width: natural photos have a power spectrum near a / f^2; a Gaussian of deviation s
  multiplies it by exp(-4 pi^2 s^2 f^2). Both are fitted in four directions to the radial bands that
  stand out of the noise, and the variances averaged: a sharp photo has about 0.5 px, a Gaussian its
  deviation (up to 6 px, where the spectrum ends). Shake whose kernel has a sharp core looks
  narrower than it is.
* noise level: median absolute deviation of a Laplacian in the flattest tenth of the blocks.
* brightness: mean luma of the sRGB values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff.errors import InputError
from freqdiff_kernels.ops import band_energy

_WINDOW, _RINGS, _SECTORS = 64, 16, 4
_DEPTH = 4.0
_BLOCK = 16
_LUMA = (0.299, 0.587, 0.114)
_ROUNDING = 1 / (12 * 255**2)
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class PhotoStatistics:
    """Blur width in pixels, noise (standard deviation) and brightness as shares of white."""

    blur_width_px: float
    noise: float
    brightness: float


NAMES = tuple(field.name for field in dataclasses.fields(PhotoStatistics))


def measure(image: Tensor) -> PhotoStatistics:
    """Measure one photo.

    Args:
        image: (3, H, W) sRGB in [0, 1], at least 64 px on a side.

    Raises:
        InputError: another shape.
    """
    if image.ndim != 3 or image.shape[0] != 3 or min(image.shape[1:]) < _WINDOW:
        raise InputError(
            f"Expected a photo (3, H, W) of at least {_WINDOW} px on a side, "
            f"got {tuple(image.shape)}: give a larger one."
        )
    luma = torch.einsum("c,chw->hw", image.new_tensor(_LUMA, dtype=torch.float32), image.float())
    noise = _noise(luma)
    return PhotoStatistics(blur_width(image.float(), noise), noise, float(luma.mean()))


def blur_width(image: Tensor, noise: float) -> float:
    """Blur width in pixels of a photo as for `measure`, whose noise is known."""
    height, width = (n // _WINDOW * _WINDOW for n in image.shape[1:])
    top, left = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    whole = image[None, :, top : top + height, left : left + width]
    bands = band_energy(whole, _WINDOW, _RINGS, _SECTORS)[0].double().exp()
    # The luma of the noise in all colours is what `noise` was measured in.
    floor = noise**2 + _ROUNDING
    # Motion leaves the spectrum across it whole, which a mean over all directions would show.
    variances = [_variance(power, floor) for power in bands.view(_RINGS, _SECTORS).T.numpy()]
    return math.sqrt(max(0.0, sum(variances) / _SECTORS))


def _variance(power: np.ndarray, floor: float) -> float:
    """Square of the width of the blur along one direction, from its power in each ring."""
    frequency = (np.arange(_RINGS) + 0.5) * 0.5 / _RINGS
    signal = np.log(np.maximum(power - floor, 0.1 * floor)) + 2 * np.log(frequency)
    # The first ring holds the mean and what the taper spreads of it. The fit ends where the noise
    # begins, or where a blur has taken most: the side lobes of motion and defocus are no Gaussian.
    over = (power <= 4 * floor) | (signal < signal[1] - _DEPTH)
    over[:3] = False
    rings = slice(1, int(np.argmax(over)) if over.any() else _RINGS)
    return float(np.polyfit(-4 * math.pi**2 * frequency[rings] ** 2, signal[rings], 1)[0])


def _noise(luma: Tensor) -> float:
    laplacian = luma.new_tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6
    high = F.conv2d(luma[None, None], laplacian[None, None])
    smooth = F.avg_pool2d(luma[None, None, 1:-1, 1:-1], 4)
    blocks = F.unfold(high, _BLOCK, stride=_BLOCK)[0]
    flatness = F.unfold(smooth, _BLOCK // 4, stride=_BLOCK // 4)[0]
    mean, spread = flatness.mean(0), flatness.std(0)
    # Clipped blocks look noise-free.
    spread = torch.where((mean > 0.02) & (mean < 0.98), spread, torch.inf)
    flattest = spread.argsort()[: max(1, len(spread) // 10)]
    chosen = blocks[:, flattest]
    deviation = (chosen - chosen.median(0).values).abs().median(0).values
    return float(1.4826 * deviation.median())


def summarise(values: Iterable[PhotoStatistics]) -> dict[str, dict[str, float]]:
    """Count, mean and quantiles of each statistic over a set of photos (empty: no entries)."""
    columns = _columns(values)
    return {
        name: {
            "count": len(column),
            "mean": round(float(column.mean()), 6),
            **{
                f"p{round(100 * q):02d}": round(float(np.quantile(column, q)), 6)
                for q in _QUANTILES
            },
        }
        for name, column in columns.items()
        if len(column)
    }


def distances(a: Sequence[PhotoStatistics], b: Sequence[PhotoStatistics]) -> dict[str, float]:
    """1-D Wasserstein distance of each statistic between two sets of photos, in its own unit.

    Raises:
        InputError: a set is empty.
    """
    if not a or not b:
        raise InputError("Expected two sets of photos, got an empty one: give photos to compare.")
    ours, theirs = _columns(a), _columns(b)
    return {name: round(wasserstein(ours[name], theirs[name]), 6) for name in NAMES}


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """1-D Wasserstein distance of two samples: the area between their distribution functions."""
    a, b = np.sort(a), np.sort(b)
    places = np.sort(np.concatenate((a, b)))
    below_a, below_b = (np.searchsorted(s, places[:-1], side="right") / len(s) for s in (a, b))
    return float((np.abs(below_a - below_b) * np.diff(places)).sum())


def table(summary: dict[str, dict[str, float]], gaps: dict[str, float] | None = None) -> str:
    """The statistics as a short table for people."""
    heads = ["mean", "p05", "p50", "p95"]
    lines = [f"{'':16}" + "".join(f"{head:>10}" for head in heads) + ("  distance" if gaps else "")]
    for name, row in summary.items():
        cells = "".join(f"{row[head]:10.4f}" for head in heads)
        lines.append(f"{name:16}" + cells + (f"{gaps[name]:10.4f}" if gaps else ""))
    return "\n".join(lines)


def _columns(values: Iterable[PhotoStatistics]) -> dict[str, np.ndarray]:
    rows = [dataclasses.astuple(value) for value in values]
    array = np.array(rows, dtype=float).reshape(-1, len(NAMES))
    return {name: array[:, k] for k, name in enumerate(NAMES)}
