"""How the published benchmarks compare a result with the truth, by name.

| protocol     | what it does                                              | used by             |
| ------------ | --------------------------------------------------------- | ------------------- |
| `plain`      | pixel by pixel, of 8-bit values                           | GoPro, HIDE, REDS   |
| `shift`      | the same at the shift that fits best                      | Levin               |
| `registered` | brightness matched, moved by a homography, where both are | RealBlur, RSBlur    |
| `y`          | luma alone, without the outermost pixels                  | UHD-Blur            |
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from freqdiff import metrics
from freqdiff.alignment import BORDER, align
from freqdiff.errors import InputError
from freqdiff.registration import register

Scores = dict[str, float]
"""By name: `psnr_rgb`, `psnr_y` in dB, and one `ssim_` with the name of its convention."""
_Y_CROP = 1
_SSIM_WINDOW = 11


def compare_shifted(image: Tensor, truth: Tensor) -> Scores:
    """`metrics.compare` at the best shift, see `alignment`.

    Raises:
        InputError: the photo is too small.
    """
    _check_size(truth, 2 * BORDER + _SSIM_WINDOW, "compared up to a shift", "do not align")
    return metrics.compare(*align(image, truth)[:2])


def compare_registered(image: Tensor, truth: Tensor) -> Scores:
    """`metrics.compare_inside` after `registration.register`: the protocol of RealBlur and RSBlur.

    Raises:
        InputError: the photo is too small, or nothing can be registered.
    """
    _check_size(truth, 2 * _SSIM_WINDOW, "registered", "use another protocol")
    moved, mask, _ = register(image, truth)
    return metrics.compare_inside(moved, truth, mask)


def compare_luma(image: Tensor, truth: Tensor) -> Scores:
    """PSNR, and SSIM of luma, without the outermost pixel: the protocol of UHD-Blur."""
    _check_size(truth, 2 * _Y_CROP + 1, "cropped", "use another protocol")
    inner = (slice(None), *(slice(_Y_CROP, -_Y_CROP),) * 2)
    a, b = image[inner], truth[inner]
    return {
        "psnr_rgb": metrics.psnr(a, b),
        "psnr_y": metrics.psnr(a, b, "y"),
        "ssim_y": metrics.ssim(a, b, "y"),
    }


PROTOCOLS: dict[str, Callable[[Tensor, Tensor], Scores]] = {
    "plain": metrics.compare,
    "shift": compare_shifted,
    "registered": compare_registered,
    "y": compare_luma,
}
"""Each takes the image and the truth, both (3, H, W) in [0, 1]."""


def _check_size(truth: Tensor, least: int, what: str, way_out: str) -> None:
    if min(truth.shape[1:]) < least:
        raise InputError(
            f"A photo of {truth.shape[2]} x {truth.shape[1]} pixels is too small to be {what}: it "
            f"needs {least} on each side, so leave it out or {way_out}."
        )
