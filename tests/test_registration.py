"""Comparison after registration: what RealBlur's protocol forgives, and what it does not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from toys import photo

from freqdiff.errors import InputError
from freqdiff.metrics import compare, compare_inside, psnr, ssim
from freqdiff.protocol import PROTOCOLS
from freqdiff.registration import match_intensity, register


def test_golden_values_of_the_published_protocol() -> None:
    """By OpenCV 5.0 and scikit-image 0.26 in the steps of RealBlur's evaluation."""
    truth = photo(160, 200, "coffee")
    blurred = F.avg_pool2d(photo(170, 210, "coffee"), 3, 1, 1)
    result = (blurred[:, 2:162, 1:201] * 0.93 * 255).round() / 255
    scores = PROTOCOLS["registered"](result, truth)
    assert scores["psnr_rgb"] == pytest.approx(30.7198, abs=2e-3)
    assert scores["ssim_skimage_gaussian"] == pytest.approx(0.85748, abs=2e-4)
    assert compare(result, truth)["psnr_rgb"] < scores["psnr_rgb"] - 4


def test_a_homography_is_found() -> None:
    frame = F.avg_pool2d(photo(190, 220), 3, 1, 1).double()
    truth = frame[:, 20:170, 20:200]
    wanted = torch.tensor(
        [[1.003, 0.004, 1.4], [-0.002, 0.996, -2.2], [2e-6, -1e-6, 1]], dtype=torch.float64
    )
    y, x = torch.meshgrid(torch.arange(150.0), torch.arange(180.0), indexing="ij")
    # The image at q shows the truth at H^-1 q.
    points = torch.stack((x, y, torch.ones_like(x)), -1).double() @ torch.linalg.inv(wanted).T
    where = points[..., :2] / points[..., 2:]
    grid = (2 * (where + 20) + 1) / torch.tensor([220.0, 190.0]).double() - 1
    image = F.grid_sample(frame[None], grid[None], mode="bicubic", align_corners=False)[0]
    moved, mask, found = register(0.9 * image, truth)
    corners = torch.tensor([[0, 0, 1], [179, 0, 1], [0, 149, 1], [179, 149, 1]]).double()
    ends = [corners @ h.T for h in (wanted, found)]
    distance = (ends[0][:, :2] / ends[0][:, 2:] - ends[1][:, :2] / ends[1][:, 2:]).abs()
    assert float(distance.max()) < 0.1
    assert 0.95 < float(mask.mean()) < 1
    assert compare_inside(moved, truth, mask)["psnr_rgb"] > 38


def test_blur_is_not_forgiven() -> None:
    truth = photo(64, 72)
    blurred = F.avg_pool2d(truth, 9, 1, 4)
    assert PROTOCOLS["registered"](blurred, truth)["psnr_rgb"] < 28


def test_equal_photos() -> None:
    truth = photo(64, 80)
    moved, mask, homography = register(truth, truth)
    assert torch.allclose(homography, torch.eye(3, dtype=torch.float64), atol=1e-6)
    assert mask.all()
    assert float((moved - truth).abs().max()) < 1e-5


def test_intensity_match_is_least_squares() -> None:
    truth = photo(32, 32)
    assert torch.allclose(match_intensity(0.5 * truth, truth), truth)
    assert not match_intensity(torch.zeros_like(truth), truth).any()


def test_a_mask_of_ones_gives_the_plain_numbers() -> None:
    """Up to the rounding to 8 bit that the plain ones do: there is none in these pixels."""
    truth = (photo(70, 90) * 255).round() / 255
    image = (F.avg_pool2d(truth, 3, 1, 1) * 255).round() / 255
    scores = compare_inside(image, truth, torch.ones(1, 70, 90))
    assert scores["psnr_rgb"] == pytest.approx(psnr(image, truth), abs=1e-4)
    assert scores["psnr_y"] == pytest.approx(psnr(image, truth, "y"), abs=1e-4)
    convention = "skimage_gaussian"
    assert scores[f"ssim_{convention}"] == pytest.approx(ssim(image, truth, convention), abs=1e-6)
    # Damage outside of the mask costs nothing.
    mask = torch.ones(1, 70, 90)
    mask[..., :20] = 0
    damaged = image.clone()
    damaged[..., :20] = 0
    inside = compare_inside(image, truth, mask)
    assert compare_inside(damaged, truth, mask) == inside


def test_luma_without_the_outermost_pixel() -> None:
    truth = photo(40, 50)
    image = truth.clone()
    image[:, 0] = 1 - image[:, 0]
    image[:, :, -1] = 0
    assert PROTOCOLS["y"](image, truth) == {
        "psnr_rgb": math.inf,
        "psnr_y": math.inf,
        "ssim_y": pytest.approx(1),
    }


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (torch.full((3, 60, 60), 0.5), "too little structure"),
        (torch.zeros(3, 60, 60), "too little structure"),
        (torch.rand(3, 20, 60), "too small to be registered"),
    ],
)
def test_what_cannot_be_registered(image: torch.Tensor, word: str) -> None:
    truth = photo(*image.shape[1:])
    with pytest.raises(InputError, match=word):
        PROTOCOLS["registered"](image, truth)
