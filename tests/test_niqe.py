"""NIQE: known distributions are recognised, degradation raises it, bad input is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toys import photo

from freqdiff.errors import InputError
from freqdiff.niqe import FEATURES, Pristine, _asymmetric_gaussian, features, niqe


def textured(size: int, seed: int) -> torch.Tensor:
    """A picture with a spectrum like that of photos."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(3, size, size, generator=generator)
    y, x = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)
    envelope = 1 / torch.hypot(y, x).clamp_min(1 / size)
    image = torch.fft.irfft2(torch.fft.rfft2(noise) * envelope, s=(size, size))
    return (0.5 + 0.15 * image / image.std()).clamp(0, 1)


@pytest.fixture(scope="module")
def pristine() -> Pristine:
    rows = torch.cat([features(255 * textured(480, seed)[1].double()) for seed in range(4)])
    return Pristine(rows.mean(0), rows.T.cov())


@pytest.mark.parametrize("shape", [0.6, 1.0, 2.0, 4.0])
def test_shape_and_scales_of_a_known_distribution(shape: float) -> None:
    """|x|^a of a generalised Gaussian is a gamma variable; its halves are scaled differently."""
    rng = np.random.default_rng(0)
    count = 400_000
    left, right = 0.5, 1.5
    size = rng.gamma(1 / shape, size=count) ** (1 / shape)
    negative = rng.random(count) < left / (left + right)
    values = torch.from_numpy(np.where(negative, -left * size, right * size))
    alpha, found_left, found_right, mean = (float(v) for v in _asymmetric_gaussian(values[None]))
    assert alpha == pytest.approx(shape, rel=0.02)
    assert found_left == pytest.approx(left, rel=0.02)
    assert found_right == pytest.approx(right, rel=0.02)
    assert mean == pytest.approx(float(values.mean()), rel=0.02)


def test_degraded_photos_are_farther_from_pristine_ones(pristine: Pristine) -> None:
    image = textured(480, 9)
    generator = torch.Generator().manual_seed(0)
    score = niqe(image, pristine)
    kernel = torch.ones(3, 1, 5, 5) / 25
    blurred = torch.nn.functional.conv2d(image[None], kernel, padding=2, groups=3)[0]
    noisy = (image + 0.1 * torch.randn(image.shape, generator=generator)).clamp(0, 1)
    assert niqe(blurred, pristine) > 2 * score
    assert niqe(noisy, pristine) > 2 * score
    assert score > 0


def test_only_whole_blocks_count(pristine: Pristine) -> None:
    image = textured(480, 3)
    longer = torch.cat((image, torch.rand(3, 480, 95)), 2)
    assert niqe(longer, pristine) == niqe(image, pristine)
    assert features(torch.rand(200, 290, dtype=torch.float64)).shape == (6, FEATURES)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 191, 400), "at least 192 pixels on a side"),
        (torch.rand(1, 400, 400), r"got \(1, 400, 400\)"),
        (torch.full((3, 400, 400), 0.5), "this one is flat"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    image: torch.Tensor, message: str, pristine: Pristine
) -> None:
    with pytest.raises(InputError, match=message):
        niqe(image, pristine)


def test_parameters_are_read_from_a_file(tmp_path: Path, pristine: Pristine) -> None:
    path = tmp_path / "pristine.npz"
    mean, covariance = pristine.mean.numpy(), pristine.covariance.numpy()
    np.savez(path, mu_pris_param=mean[None], cov_pris_param=covariance)
    image = photo(300, 300)
    assert niqe(image, Pristine.read(path)) == niqe(image, pristine)
    np.savez(tmp_path / "other.npz", mu_pris_param=mean)
    np.savez(tmp_path / "small.npz", mu_pris_param=mean[:5], cov_pris_param=covariance)
    (tmp_path / "text.npz").write_text("no numbers")
    for name in ("other.npz", "small.npz", "text.npz", "missing.npz"):
        with pytest.raises(InputError, match="is not a file of NIQE parameters"):
            Pristine.read(tmp_path / name)
