"""The physics anchor: the Wiener filter with a known blur, and what the estimator sees."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import WIENER_TOY, photo, random_denoiser

from freqdiff import anchor, blur_filter, spectral
from freqdiff.blur_filter import CELL, PSF_RADIUS, PSF_SIDE, BlurField, wiener
from freqdiff.denoiser import Denoiser
from freqdiff.model import Condition


def blur_of(model: Denoiser, y: Tensor) -> BlurField:
    """What the model estimates for y (1, 3, H, W) in [-1, 1]."""
    blur = model.anchor(y, spectral.grey(y))[1]
    assert blur is not None
    return blur


def line(dy: int, dx: int, length: int) -> Tensor:
    """Kernel (33, 33) of `length` equal points along a direction, its centroid in the middle."""
    kernel = torch.zeros(PSF_SIDE, PSF_SIDE)
    for i in range(length):
        kernel[PSF_RADIUS + (i - length // 2) * dy, PSF_RADIUS + (i - length // 2) * dx] = 1
    return kernel / kernel.sum()


def field(kernel: Tensor, rows: int, columns: int, trust: float = 1.0) -> BlurField:
    """One blur everywhere."""
    log_psf = kernel.clamp_min(1e-12).log().flatten().expand(1, rows, columns, -1)
    log_noise = torch.full((1, rows, columns, 4), math.log(1e-3))
    return BlurField(log_psf, log_noise, torch.full((1, rows, columns), trust))


def blurred_by(kernel: Tensor, image: Tensor) -> Tensor:
    """Convolution of (1, 3, H, W), reflected at the border, on 8-bit levels."""
    padded = F.pad(image, (PSF_RADIUS,) * 4, mode="reflect")
    weight = kernel.flip(0, 1).expand(3, 1, -1, -1)
    return (F.conv2d(padded, weight, groups=3) * 127.5).round() / 127.5


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * ((a - b) / 2).square().mean().log10())


@pytest.mark.parametrize(
    "kernel", [line(0, 1, 11), line(1, 1, 7), line(1, 0, 3)], ids=["long", "diagonal", "short"]
)
def test_wiener_filter_undoes_a_known_blur(kernel: Tensor) -> None:
    sharp = photo(256, 320)[None] * 2 - 1
    y = blurred_by(kernel, sharp)
    inner = (..., slice(40, -40), slice(40, -40))
    before = psnr(y[inner], sharp[inner])
    assert psnr(wiener(y, field(kernel, 8, 10))[inner], sharp[inner]) > before + 3
    # The wrong direction does harm: it is the kernel that does it.
    assert psnr(wiener(y, field(kernel.mT.flip(0), 8, 10))[inner], sharp[inner]) < before


def test_no_blur_and_no_trust_leave_the_photo() -> None:
    y = photo(96, 128)[None] * 2 - 1
    assert torch.equal(wiener(y, field(line(0, 1, 9), 3, 4, trust=0.0)), y)
    torch.testing.assert_close(wiener(y, field(line(0, 1, 1), 3, 4)), y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("noise", [0.3, 3.0, 30.0])
def test_wrong_kernel_does_not_blur(noise: float) -> None:
    """Where the noise forbids to invert a kernel, the photo stays as it is."""
    sharp = photo(128, 160, "rocket")[None] * 2 - 1
    blur = field(line(0, 1, 13), 4, 5)
    blur = dataclasses.replace(blur, log_noise=torch.full_like(blur.log_noise, math.log(noise)))
    result = wiener(sharp, blur)
    assert float(result.diff(dim=-1).abs().mean() / sharp.diff(dim=-1).abs().mean()) > 0.95
    if noise > 1:
        assert psnr(result, sharp) > 30


def test_flat_areas_and_means_are_kept() -> None:
    blur = field(line(1, 1, 9), 4, 5)
    flat = torch.full((1, 3, 128, 160), 0.25)
    torch.testing.assert_close(wiener(flat, blur), flat, rtol=0, atol=1e-6)
    y = photo(128, 160)[None] * 2 - 1
    assert float((wiener(y, blur) - y).mean().abs()) < 1 / 255


def test_memory_bounded_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    y = photo(224, 96)[None] * 2 - 1
    blur = blur_of(random_denoiser(WIENER_TOY), y)
    whole = wiener(y, blur)
    assert float((whole - y).abs().max()) > 1e-2
    row = 3 * 64**2 * (96 // CELL)
    for rows in (2, 4):
        monkeypatch.setattr(blur_filter, "_VALUES_AT_ONCE", rows * row)
        torch.testing.assert_close(wiener(y, blur), whole, rtol=0, atol=1e-5)


def test_cells_are_filtered_on_their_own() -> None:
    """A kernel of one cell reaches its window and nothing beyond."""
    y = photo(224, 224)[None] * 2 - 1
    blur = field(line(0, 1, 9), 7, 7, trust=0.0)
    blur.trust[0, 3, 3] = 1
    changed = (wiener(y, blur) != y).any(1)[0].nonzero()
    assert changed.min() == 3 * CELL - CELL // 2
    assert changed.max() == 4 * CELL + CELL // 2 - 1


def test_spectra_show_the_length_and_direction_of_motion() -> None:
    """The cepstrum of moved noise is lowest at a shift of the length of the motion."""
    noise = torch.randn((1, 3, 512, 512), generator=torch.Generator().manual_seed(0)) * 0.3
    noise = noise.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    smooth = F.avg_pool2d(F.pad(noise, (2,) * 4, mode="reflect"), 5, 1)
    for dy, dx in ((0, 1), (1, 0)):
        y = blurred_by(line(dy, dx, 11), smooth)
        features = 3 * spectral.window_features(spectral.grey(y), CELL)[:, :2048]
        cepstrum = anchor._kernel_pictures(features.mean((2, 3)))[0, 0]
        arm = cepstrum[PSF_RADIUS:, PSF_RADIUS] if dy else cepstrum[PSF_RADIUS, PSF_RADIUS:]
        assert int(arm[7:15].argmin()) + 7 == 11


@pytest.mark.parametrize("size", [(32, 32), (32, 160), (160, 96)])
def test_blur_is_estimated_for_every_cell(size: tuple[int, int]) -> None:
    y = photo(*size)[None] * 2 - 1
    blur = blur_of(random_denoiser(WIENER_TOY), y)
    rows, columns = size[0] // CELL, size[1] // CELL
    assert blur.log_psf.shape == (1, rows, columns, PSF_SIDE**2)
    torch.testing.assert_close(blur.log_psf.exp().sum(-1), torch.ones(1, rows, columns))
    assert blur.log_noise.shape == (1, rows, columns, 4)
    assert blur.trust.shape == (1, rows, columns)


@pytest.mark.parametrize("condition", ["freq", "spatial", "freq+spatial"])
def test_condition_decides_what_the_estimator_sees(condition: Condition) -> None:
    model = random_denoiser(dataclasses.replace(WIENER_TOY, condition=condition))
    blur = blur_of(model.requires_grad_(True), photo(64, 64)[None] * 2 - 1)
    assert model.blur is not None
    blur.log_psf.square().mean().backward()
    seen = [bool(layer.weight.grad.any()) for layer in (model.blur.magnitude, model.blur.input)]
    assert seen == ["freq" in condition, "spatial" in condition]
