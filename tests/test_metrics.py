"""PSNR and SSIM against known values, scikit-image and a literal 3-D convolution."""

import math
import subprocess
import sys

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from skimage.filters import gaussian
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from freqdiff.errors import InputError
from freqdiff.metrics import SsimConvention, compare, psnr, ssim

CONVENTIONS: tuple[SsimConvention, ...] = (
    "matlab3d",
    "rgb",
    "y",
    "skimage",
    "skimage_gaussian",
    "wang",
)


def as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def noisy_pair(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth random uint8 image and a noisy copy."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4 + 1, width // 4 + 1, generator=generator)
    image = F.interpolate(coarse, (height, width), mode="bilinear")[0]
    noisy = image + 0.03 * torch.randn(image.shape, generator=generator)
    return (image * 255).byte(), (noisy.clamp(0, 1) * 255).byte()


@pytest.fixture(scope="module")
def coffee() -> tuple[Tensor, Tensor]:
    sharp = skimage.data.coffee()
    blurred = np.rint(gaussian(sharp / 255, sigma=0.6, channel_axis=2) * 255).astype(np.uint8)
    return as_tensor(sharp), as_tensor(blurred)


@pytest.mark.parametrize(("convention", "expected"), [("rgb", 33.13), ("y", 34.64)])
def test_psnr_hits_the_known_value(
    coffee: tuple[Tensor, Tensor], convention: str, expected: float
) -> None:
    assert round(psnr(*coffee, convention), 2) == expected


@pytest.mark.parametrize(
    ("convention", "expected"),
    [
        ("matlab3d", 0.9932),
        ("rgb", 0.9483),
        ("y", 0.9561),
        ("skimage", 0.9515),
        ("skimage_gaussian", 0.9487),
        ("wang", 0.9874),
    ],
)
def test_ssim_hits_the_known_value(
    coffee: tuple[Tensor, Tensor], convention: SsimConvention, expected: float
) -> None:
    assert round(ssim(*coffee, convention), 4) == expected


def literal_matlab3d(a: Tensor, b: Tensor) -> float:
    """The Python port of Restormer's and NAFNet's evaluations, as it stands there: a dense Conv3d
    over (H, W, 3) with replicate padding of five on every side."""
    taps = torch.exp(-(torch.arange(-5.0, 6.0, dtype=torch.float64) ** 2) / 4.5)
    taps /= taps.sum()
    kernel = torch.einsum("i,j,k->ijk", taps, taps, taps)[None, None]

    def window(volume: Tensor) -> Tensor:
        return F.conv3d(F.pad(volume[None, None], (5,) * 6, mode="replicate"), kernel)[0, 0]

    x, y = (image.permute(1, 2, 0).double() for image in (a, b))
    mx, my = window(x), window(y)
    vx, vy, cov = window(x * x) - mx * mx, window(y * y) - my * my, window(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(scores.mean())


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (64, 64), (69, 131)], ids=str)
def test_matlab3d_equals_the_dense_3d_convolution(size: tuple[int, int]) -> None:
    a, b = noisy_pair(*size)
    assert ssim(a, b, "matlab3d") == pytest.approx(literal_matlab3d(a, b), abs=1e-11)


@pytest.mark.parametrize("size", [(11, 11), (64, 75), (140, 97)], ids=str)
def test_equals_scikit_image(size: tuple[int, int]) -> None:
    a, b = noisy_pair(*size)
    x, y = a.permute(1, 2, 0).numpy(), b.permute(1, 2, 0).numpy()
    common = {"data_range": 255, "channel_axis": 2}
    default = structural_similarity(x, y, **common)
    windowed = structural_similarity(
        x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, **common
    )
    assert ssim(a, b, "skimage") == pytest.approx(default, abs=1e-11)
    assert ssim(a, b, "skimage_gaussian") == pytest.approx(windowed, abs=1e-11)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(x, y), abs=1e-11)


def test_compare_reports_the_numbers_of_the_tables(coffee: tuple[Tensor, Tensor]) -> None:
    sharp, blurred = coffee
    assert compare(blurred, sharp) == {
        "psnr_rgb": psnr(blurred, sharp),
        "psnr_y": psnr(blurred, sharp, "y"),
        "ssim_matlab3d": ssim(blurred, sharp),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floating_images_are_rounded_to_eight_bit(dtype: torch.dtype) -> None:
    a, b = noisy_pair(40, 30)
    x, y = a.to(dtype) / 255, b.to(dtype) / 255
    assert compare(x + 0.4 / 255, y - 0.4 / 255) == compare(a, b)
    assert psnr(x * 3 - 1, b) == psnr((x * 3 - 1).clamp(0, 1), b)


def test_any_strides_are_accepted() -> None:
    a, b = noisy_pair(70, 66)
    channels_last = a.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert compare(channels_last, b) == compare(a, b)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_identical_images_and_symmetry(convention: SsimConvention) -> None:
    a, b = noisy_pair(33, 47)
    assert ssim(a, a, convention) == pytest.approx(1, abs=1e-12)
    assert ssim(a, b, convention) == pytest.approx(ssim(b, a, convention), abs=1e-12)
    assert psnr(a, a) == math.inf


def test_psnr_of_a_known_error() -> None:
    black = torch.zeros(3, 5, 7, dtype=torch.uint8)
    assert psnr(black, black + 1) == pytest.approx(20 * math.log10(255))
    assert psnr(black, black + 1, "y") == pytest.approx(20 * math.log10(255 * 255 / 219))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(1, 8, 8), torch.zeros(1, 8, 8), r"first image .*\(3, H, W\), got \(1, 8, 8\)"),
        (torch.zeros(3, 0, 8), torch.zeros(3, 0, 8), r"first image .*\(3, H, W\)"),
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8).int(), "second image .*got torch.int32"),
        (torch.zeros(3, 8, 8), torch.zeros(3, 9, 8), "same size, got 8x8 and 8x9"),
        (torch.zeros(3, 8, 8), torch.full((3, 8, 8), math.nan), "second image has NaN"),
    ],
    ids=["grey", "empty", "dtype", "size", "nan"],
)
def test_images_that_cannot_be_compared(a: Tensor, b: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(a, b)


def test_conventions_that_cannot_be_used() -> None:
    a, b = noisy_pair(6, 20)
    with pytest.raises(InputError, match="'ycbcr'; choose one of rgb, y"):
        psnr(a, b, "ycbcr")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'skimg'; choose one of matlab3d"):
        ssim(a, b, "skimg")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 7x7 pixels, got 20x6"):
        ssim(a, b, "skimage")


@pytest.mark.slow
def test_a_4k_comparison_needs_less_than_half_a_gigabyte() -> None:
    program = """
import torch
from freqdiff.memory import peak_memory
from freqdiff.metrics import compare
torch.manual_seed(0)
a = torch.rand(3, 2160, 3840)
b = (a + 0.1).clamp_(0, 1)
compare(a[:, :64, :64], b[:, :64, :64])
before = peak_memory()
compare(a, b)
print((peak_memory() - before) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 512
