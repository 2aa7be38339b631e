"""Full-reference image quality: PSNR and SSIM under the conventions that published tables use.

All functions take two images of shape (3, H, W), RGB, either uint8 or floating with values in
[0, 1] (clamped, then rounded to 8 bit, because that is what a saved result holds), and compute in
float64. SSIM values under different conventions differ by 0.01 to 0.09 on the same pair, so a
number without the name of its convention says nothing.

| convention         | window                             | used by                               |
| ------------------ | ---------------------------------- | ------------------------------------- |
| `matlab3d`         | 11x11x11 Gaussian over (H, W, RGB) | Restormer, MPRNet and NAFNet tables   |
| `rgb`              | 11x11 Gaussian per colour          | per-colour ports of Wang's code       |
| `y`                | 11x11 Gaussian on BT.601 studio Y  | super-resolution and UHD tables       |
| `skimage`          | 7x7 box, sample covariance         | scikit-image by default               |
| `skimage_gaussian` | 11x11 Gaussian, border left out    | scikit-image with `gaussian_weights`  |
| `wang`             | box downsampled, then as `rgb`     | code with the size rule of `ssim.m`   |
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff.errors import InputError

PsnrConvention = Literal["rgb", "y"]
SsimConvention = Literal["matlab3d", "rgb", "y", "skimage", "skimage_gaussian", "wang"]

_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
# Keeps a tile's moments (four planes per colour, float64) in a core's second-level cache. SSIM
# matlab3d at 3840x2160 on one thread of an AMD EPYC: 32 1.4 s, 64 1.1 s, 128 1.6 s, 512 4.8 s.
_TILE = 64
# BT.601 studio-range luma of 8-bit RGB, as in Matlab's rgb2ycbcr: 16 (black) to 235 (white).
_Y_WEIGHTS = (65.481 / 255, 128.553 / 255, 24.966 / 255)
_Y_OFFSET = 16.0


def psnr(a: Tensor, b: Tensor, convention: PsnrConvention = "rgb") -> float:
    """Peak signal-to-noise ratio in dB of two images (3, H, W), with a peak of 255.

    `rgb` averages the squared error over all colours and pixels (Restormer, MPRNet, NAFNet);
    `y` uses the unrounded BT.601 studio-range luma of Matlab's rgb2ycbcr (super-resolution and
    UHD tables). Identical images give `inf`. Raises InputError for images that cannot be compared.
    """
    _check_convention(convention, get_args(PsnrConvention))
    return _psnr(*_as_bytes(a, b), convention)


def ssim(a: Tensor, b: Tensor, convention: SsimConvention = "matlab3d") -> float:
    """Mean structural similarity of two images (3, H, W), at most 1; data range 255.

    * `matlab3d`: one Gaussian (11 taps per axis, sigma 1.5) over the volume (H, W, RGB) with
      replicate padding on all three axes, mean of the full map.
    * `rgb`: the Gaussian over (H, W) of each colour, replicate padding, mean of the full map.
    * `y`: the same on the BT.601 studio-range luma.
    * `skimage`: 7x7 box with the sample covariance, windows inside the image only.
    * `skimage_gaussian`: the Gaussian per colour, windows inside the image only.
    * `wang`: averages over f x f boxes, f = max(1, floor(min(H, W) / 256 + 1/2)), then as `rgb`.

    Raises InputError for images that cannot be compared, or smaller than a window that has to lie
    inside the image.
    """
    _check_convention(convention, get_args(SsimConvention))
    return _ssim(*_as_bytes(a, b), convention)


def compare(output: Tensor, sharp: Tensor) -> dict[str, float]:
    """The three numbers of every results table, from two images (3, H, W).

    Returns `psnr_rgb` and `psnr_y` in dB (`inf` for identical images) and `ssim_matlab3d`.
    """
    a, b = _as_bytes(output, sharp)
    return {
        "psnr_rgb": _psnr(a, b, "rgb"),
        "psnr_y": _psnr(a, b, "y"),
        "ssim_matlab3d": _ssim(a, b, "matlab3d"),
    }


def compare_inside(image: Tensor, truth: Tensor, mask: Tensor) -> dict[str, float]:
    """PSNR and SSIM where a mask is 1, of values that are not rounded: the protocol of RealBlur.

    Args:
        image, truth: (3, H, W) floating in [0, 1]; the image may reach beyond a little.
        mask: (1, H, W), 1 where the pixels count and 0 elsewhere.

    Returns:
        `psnr_rgb` and `psnr_y` in dB, and `ssim_skimage_gaussian`: the mean of its map where the
        mask is 1.
    """
    a, b = (255 * mask * values.double() for values in (image, truth))
    count = float(mask.double().sum())
    error = (a - b).square().sum()
    luma = torch.tensordot(a.new_tensor(_Y_WEIGHTS), a - b, dims=1).square().sum()
    return {
        "psnr_rgb": _decibels(float(error) / (3 * count)),
        "psnr_y": _decibels(float(luma) / count),
        "ssim_skimage_gaussian": _mean_ssim(a, b, _gaussian(), inside=True, mask=mask.double()[0]),
    }


def _decibels(mse: float) -> float:
    return 10 * math.log10(255**2 / mse) if mse > 0 else math.inf


def _psnr(a: Tensor, b: Tensor, convention: PsnrConvention) -> float:
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    count = 0
    for start, stop in _spans(a.shape[1], margin=0):
        # The luma is affine: its error is the weighted sum of the colours' errors.
        error = a[:, start:stop].double() - b[:, start:stop].double()
        if convention == "y":
            error = torch.tensordot(error.new_tensor(_Y_WEIGHTS), error, dims=1)
        total += error.square_().sum()
        count += error.numel()
    return _decibels(float(total) / count)


def _ssim(a: Tensor, b: Tensor, convention: SsimConvention) -> float:
    if convention == "matlab3d":
        return _mean_ssim(a, b, _gaussian(), mix_colours=True)
    if convention == "skimage":
        return _mean_ssim(a, b, [1 / 7] * 7, inside=True, covariance_scale=49 / 48)
    if convention == "skimage_gaussian":
        return _mean_ssim(a, b, _gaussian(), inside=True)
    if convention == "y":
        a, b = _luma(a), _luma(b)
    if convention == "wang":
        factor = max(1, math.floor(min(a.shape[1:]) / 256 + 0.5))
        a, b = F.avg_pool2d(a.double(), factor), F.avg_pool2d(b.double(), factor)
    return _mean_ssim(a, b, _gaussian())


def _mean_ssim(
    a: Tensor,
    b: Tensor,
    taps: list[float],
    *,
    inside: bool = False,
    mix_colours: bool = False,
    covariance_scale: float = 1.0,
    mask: Tensor | None = None,
) -> float:
    """Mean of the SSIM map of two stacks of planes (C, H, W), weighted with `mask` (H, W).

    `taps` is the window along each axis; windows that reach over the border see its pixel repeated,
    or are left out with `inside`. `mix_colours` extends the window over the planes.
    """
    planes, height, width = a.shape
    if inside and min(height, width) < len(taps):
        raise InputError(
            f"SSIM with windows inside the image needs at least {len(taps)}x{len(taps)} pixels, "
            f"got {width}x{height}; use the convention 'matlab3d' or 'rgb' for so small an image"
        )
    margin = len(taps) // 2 if inside else 0
    rows = [(slice(*s), *_filter(height, *s, taps, a.device)) for s in _spans(height, margin)]
    columns = [(slice(*s), *_filter(width, *s, taps, a.device)) for s in _spans(width, margin)]
    mix = _filter(planes, 0, planes, taps, a.device)[1] if mix_colours else None

    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for down, row_slice, row_filter in rows:
        for across, column_slice, column_filter in columns:
            x = a[:, row_slice, column_slice].double()
            y = b[:, row_slice, column_slice].double()
            moments = torch.stack((x, y, x * y, x.square() + y.square()))
            moments = row_filter @ moments @ column_filter.T
            if mix is not None:
                moments = (mix @ moments.flatten(2)).view_as(moments)
            values = _ssim_map(moments, covariance_scale)
            if mask is not None:
                values = values * mask[down, across]
            total += values.sum()
    if mask is None:
        return float(total) / (planes * (height - 2 * margin) * (width - 2 * margin))
    return float(total / (planes * mask[margin : height - margin, margin : width - margin].sum()))


def _ssim_map(moments: Tensor, covariance_scale: float) -> Tensor:
    """SSIM (Wang et al. 2004, equation 13) from the windowed means of x, y, xy and x^2 + y^2."""
    x, y, xy, xx_yy = moments.unbind()
    means = x * y
    squares = x.square() + y.square()
    covariance = (xy - means) * covariance_scale
    variances = (xx_yy - squares) * covariance_scale
    return (2 * means + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))


def _filter(
    size: int, start: int, stop: int, taps: list[float], device: torch.device
) -> tuple[slice, Tensor]:
    """The samples that outputs [start, stop) need, and the matrix that makes them from these.

    The matrix repeats the border sample outside [0, size). A product with a banded matrix of this
    size is several times faster than a convolution call in float64.
    """
    radius = len(taps) // 2
    first, last = max(0, start - radius), min(size, stop + radius)
    weights = torch.zeros(stop - start, last - first, dtype=torch.float64)
    outputs = torch.arange(start, stop)
    for offset, tap in enumerate(taps, -radius):
        samples = (outputs + offset).clamp_(0, size - 1)
        weights[outputs - start, samples - first] += tap
    return slice(first, last), weights.to(device)


def _spans(size: int, margin: int) -> list[tuple[int, int]]:
    """[margin, size - margin) in pieces of at most one tile."""
    end = size - margin
    return [(start, min(start + _TILE, end)) for start in range(margin, end, _TILE)]


def _gaussian() -> list[float]:
    """Eleven taps with sigma 1.5, summing to one."""
    taps = [math.exp(-(x**2) / (2 * 1.5**2)) for x in range(-5, 6)]
    return [tap / sum(taps) for tap in taps]


def _luma(image: Tensor) -> Tensor:
    """(3, H, W) bytes to the unrounded studio-range luma (1, H, W) in float64."""
    luma = torch.full_like(image[:1], _Y_OFFSET, dtype=torch.float64)
    for plane, weight in zip(image, _Y_WEIGHTS, strict=True):
        luma.add_(plane, alpha=weight)
    return luma


def _as_bytes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, image in (("first", a), ("second", b)):
        if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
            raise InputError(
                f"the {name} image must have the shape (3, H, W), got {tuple(image.shape)}"
            )
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise InputError(
                f"the {name} image must be uint8 or floating in [0, 1], got {image.dtype}"
            )
    if a.shape != b.shape:
        raise InputError(
            f"the images must have the same size, got {a.shape[2]}x{a.shape[1]} and "
            f"{b.shape[2]}x{b.shape[1]}; crop or align them first"
        )
    return _to_bytes(a, "first"), _to_bytes(b, "second").to(a.device)


def _to_bytes(image: Tensor, name: str) -> Tensor:
    if image.dtype == torch.uint8:
        return image
    result = torch.empty_like(image, dtype=torch.uint8)
    for source, target in zip(image, result, strict=True):
        plane = source if source.dtype == torch.float64 else source.float()
        if not torch.isfinite(plane).all():
            raise InputError(f"the {name} image has NaN or infinite values; repair it first")
        target.copy_((plane * 255).round_().clamp_(0, 255))
    return result


def _check_convention(convention: str, known: tuple[str, ...]) -> None:
    if convention not in known:
        raise InputError(f"unknown convention {convention!r}; choose one of {', '.join(known)}")
