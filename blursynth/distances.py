"""How far a set of photos is from another one, in features of their windows.

* Fréchet distance (Heusel et al. 2017) between Gaussians of the same mean and covariance as the
  features. Few samples make a covariance too elongated: it is shrunk towards a sphere as far as the
  samples tell (OAS, Chen et al. 2010). The distance is biased upwards all the same: compare sets of
  equal size only.
* KID (Binkowski et al. 2018): squared maximum mean discrepancy with the kernel
  (x y / D + 1)^3, unbiased, so that it may fall below 0. The windows of one photo are not
  independent, so pairs of them count neither in the estimate nor as if they were many in its
  standard error, which comes from leaving out one photo after the other (jackknife) where theirs
  comes from subsets of single samples. It is too large, by 1.4 or so, for sets that do not differ.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from blursynth.features import Samples
from freqdiff.errors import InputError

LEAST_PHOTOS = 3
_CHUNK = 1024

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Distance:
    """Distances of one set from another; `kid_stderr` is the standard error of `kid`."""

    frechet: float
    kid: float
    kid_stderr: float


def distance(samples: Samples, reference: Samples) -> Distance:
    """Fréchet distance and KID of features in units of their deviation in the reference.

    Args:
        samples, reference: features of the same kind, from at least `LEAST_PHOTOS` photos each.

    Raises:
        InputError: fewer photos, features of different kinds, or values that are not finite.
    """
    for one in (samples, reference):
        if one.photos < LEAST_PHOTOS:
            raise InputError(
                f"Expected at least {LEAST_PHOTOS} photos in each set, got {one.photos}: "
                "give more photos."
            )
    if samples.values.shape[1] != reference.values.shape[1]:
        raise InputError(
            f"Expected features of the same kind, got {samples.values.shape[1]} and "
            f"{reference.values.shape[1]} numbers: measure both sets alike."
        )
    if not (np.isfinite(samples.values).all() and np.isfinite(reference.values).all()):
        raise InputError("Expected finite features, got NaN or infinity: check the photos.")
    mean, deviation = reference.values.mean(0), reference.values.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    a, b = (
        dataclasses.replace(one, values=(one.values - mean) / deviation)
        for one in (samples, reference)
    )
    return Distance(frechet_distance(a.values, b.values), *kid(a, b))


def frechet_distance(a: Array, b: Array) -> float:
    """Fréchet distance of two sets of samples (N, D), with shrunk covariances.

    Raises:
        InputError: fewer than two samples.
    """
    if min(len(a), len(b)) < 2:
        raise InputError(
            f"Expected at least 2 samples in each set, got {len(a)} and {len(b)}: give more photos."
        )
    return gaussian_frechet(a.mean(0), shrunk_covariance(a), b.mean(0), shrunk_covariance(b))


def gaussian_frechet(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2), by symmetric square roots."""
    root = _square_root(cov_a)
    cross = np.linalg.eigvalsh(root @ cov_b @ root)
    overlap = float(np.sqrt(np.maximum(cross, 0)).sum())
    apart = float(np.square(mean_a - mean_b).sum())
    return apart + float(np.trace(cov_a) + np.trace(cov_b)) - 2 * overlap


def shrunk_covariance(samples: Array) -> Array:
    """Covariance (D, D) of samples (N, D), shrunk towards a multiple of the identity.

    By the oracle approximating shrinkage (Chen et al. 2010, Eq. 23), which for many samples leaves
    it as it is.
    """
    count, size = samples.shape
    raw = np.cov(samples, rowvar=False, bias=True).reshape(size, size)
    trace, power = float(np.trace(raw)), float(np.square(raw).sum())
    above = (1 - 2 / size) * power + trace**2
    below = (count + 1 - 2 / size) * (power - trace**2 / size)
    share = min(1.0, above / below) if below > 0 else 1.0
    shrunk: Array = (1 - share) * raw + share * trace / size * np.eye(size)
    return shrunk


def kid(a: Samples, b: Samples) -> tuple[float, float]:
    """Unbiased KID of two sets and its standard error.

    Args:
        a, b: features of at least `LEAST_PHOTOS` photos each, on a common scale near 1.
    """
    within_a, within_b, across = _sums(a, a), _sums(b, b), _sums(a, b)
    sizes_a, sizes_b = (np.unique(one.photo, return_counts=True)[1] for one in (a, b))

    def estimate(keep_a: NDArray[np.bool_], keep_b: NDArray[np.bool_]) -> float:
        mean_a = _mean_of_pairs(within_a[np.ix_(keep_a, keep_a)], sizes_a[keep_a])
        mean_b = _mean_of_pairs(within_b[np.ix_(keep_b, keep_b)], sizes_b[keep_b])
        pairs = sizes_a[keep_a].sum() * sizes_b[keep_b].sum()
        return mean_a + mean_b - 2 * float(across[np.ix_(keep_a, keep_b)].sum() / pairs)

    all_a, all_b = np.full(len(sizes_a), True), np.full(len(sizes_b), True)
    without_a = [estimate(_but(all_a, k), all_b) for k in range(len(sizes_a))]
    without_b = [estimate(all_a, _but(all_b, k)) for k in range(len(sizes_b))]
    variance = sum((len(one) - 1) * float(np.var(one)) for one in (without_a, without_b))
    return estimate(all_a, all_b), math.sqrt(variance)


def _but(keep: NDArray[np.bool_], place: int) -> NDArray[np.bool_]:
    left = keep.copy()
    left[place] = False
    return left


def _mean_of_pairs(sums: Array, sizes: NDArray[np.int64]) -> float:
    """Mean of the kernel over the pairs of samples of different photos."""
    pairs = sizes.sum() ** 2 - np.square(sizes).sum()
    return float((sums.sum() - np.trace(sums)) / pairs)


def _sums(a: Samples, b: Samples) -> Array:
    """Sum of the kernel over the samples of each photo of `a` with those of each photo of `b`."""
    size = a.values.shape[1]
    rows, columns = (np.unique(one.photo, return_inverse=True)[1] for one in (a, b))
    members = np.eye(columns.max() + 1)[columns]
    result = np.zeros((rows.max() + 1, members.shape[1]))
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        kernel = (a.values[part] @ b.values.T / size + 1) ** 3
        np.add.at(result, rows[part], kernel @ members)
    return result


def _square_root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    root: Array = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root
