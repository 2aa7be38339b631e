"""The blur of one picture moved to another: known kernels are found, and nothing else is moved."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from toys import photo

from blursynth.blur_transfer import RADIUS, STEP, BlurEstimate, apply_blur, estimate_blur
from blursynth.certificate import certify
from freqdiff.errors import InputError
from freqdiff.tone import linear_to_srgb, srgb_to_linear

pytestmark = pytest.mark.usefixtures("one_thread")


def light(height: int = 288, width: int = 384, name: str = "coffee") -> torch.Tensor:
    return srgb_to_linear(photo(height, width, name))


def line(length: int, *, vertical: bool = False) -> torch.Tensor:
    kernel = torch.zeros(2 * RADIUS + 1, 2 * RADIUS + 1)
    kernel[RADIUS, RADIUS - length // 2 : RADIUS + length // 2 + 1] = 1
    kernel = kernel.T if vertical else kernel
    return kernel / kernel.sum()


def blurred(picture: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    padded = F.pad(picture[:, None], (RADIUS,) * 4, mode="replicate")
    return F.conv2d(padded, kernel.flip(0, 1)[None, None])[:, 0]


def spread(kernel: torch.Tensor) -> tuple[float, float]:
    """Standard deviations along y and x."""
    at = torch.arange(kernel.shape[-1]) - kernel.shape[-1] // 2
    return tuple(float(((kernel.sum(axis) * at**2).sum()) ** 0.5) for axis in (1, 0))


@pytest.mark.parametrize("length", [5, 11, 21])
def test_a_motion_is_found_and_applied(length: int) -> None:
    sharp = light()
    after = blurred(sharp, line(length))
    found = estimate_blur(after, sharp)
    assert found.kernels.shape == (4, 4, 2 * RADIUS + 1, 2 * RADIUS + 1)
    expected = spread(line(length))
    for kernel in found.kernels.flatten(0, 1):
        along_y, along_x = spread(kernel)
        assert along_x == pytest.approx(expected[1], rel=0.2)
        assert along_y < 0.35 * along_x
    again = apply_blur(sharp, found)
    error, change = (again - after).square().mean(), (sharp - after).square().mean()
    assert float(error) < 0.02 * float(change)


def test_defocus_of_dense_texture() -> None:
    """Whose kernel is wide and faint, and whose fine detail looks like noise."""
    texture = torch.rand(1, 288, 384, generator=torch.Generator().manual_seed(0))
    sharp = light() * (0.5 + 0.5 * texture)
    at = torch.arange(-RADIUS, RADIUS + 1)
    disc = (at[:, None] ** 2 + at**2 <= 7**2).float()
    after = blurred(sharp, disc / disc.sum())
    again = apply_blur(sharp, estimate_blur(after, sharp))
    error, change = (again - after).square().mean(), (sharp - after).square().mean()
    assert float(error) < 0.02 * float(change)


def test_blur_that_varies_over_the_frame() -> None:
    sharp = light(384, 640)
    across, down = blurred(sharp, line(15)), blurred(sharp, line(15, vertical=True))
    after = torch.cat((across[..., :320], down[..., 320:]), 2)
    found = estimate_blur(after, sharp)
    left, right = spread(found.kernels[1, 0]), spread(found.kernels[1, -1])
    assert left[1] > 2 * left[0]
    assert right[0] > 2 * right[1]


def test_detail_that_both_lost_is_not_taken_from_the_photo() -> None:
    """The codec's loss, here a blur of both pictures, does not count as blur of the photo."""
    sharp = light()
    loss = torch.ones(1, 1, 3, 3) / 9

    def coded(picture: torch.Tensor) -> torch.Tensor:
        padded = F.pad(picture[:, None], (1,) * 4, mode="replicate")
        return F.conv2d(padded, loss)[:, 0]

    same = apply_blur(sharp, estimate_blur(coded(sharp), coded(sharp), sharp))
    lost = (coded(sharp) - sharp).square().mean()
    assert float((same - sharp).square().mean()) < 0.05 * float(lost)
    after = blurred(sharp, line(11))
    moved = apply_blur(sharp, estimate_blur(coded(after), coded(sharp), sharp))
    assert float((moved - after).square().mean()) < 0.3 * float((sharp - after).square().mean())


@pytest.mark.parametrize("deviation", [0.005, 0.02])
def test_errors_of_the_codec_do_not_blur(deviation: float) -> None:
    sharp, generator = light(), torch.Generator().manual_seed(0)
    after = blurred(sharp, line(11))

    def noisy(picture: torch.Tensor) -> torch.Tensor:
        return picture + deviation * torch.randn(picture.shape, generator=generator)

    change = float((sharp - after).square().mean())
    moved = apply_blur(sharp, estimate_blur(noisy(after), noisy(sharp), sharp))
    assert float((moved - after).square().mean()) < 0.1 * change
    same = apply_blur(sharp, estimate_blur(noisy(sharp), noisy(sharp), sharp))
    assert float((same - sharp).square().mean()) < 0.03 * change


def test_pairs_stay_aligned_where_the_generated_photo_moved() -> None:
    sharp = light()
    shifted = torch.roll(blurred(sharp, line(9)), (2, 3), (1, 2))
    result = apply_blur(sharp, estimate_blur(shifted, sharp))
    srgb = linear_to_srgb(sharp.clamp(0, 1))
    assert not certify(srgb, linear_to_srgb(shifted.clamp(0, 1))).passed
    certificate = certify(srgb, linear_to_srgb(result.clamp(0, 1)))
    assert certificate.passed
    assert certificate.shift_px < 0.25


def test_kernels_are_those_of_light() -> None:
    noise = torch.rand(3, 200, 130, generator=torch.Generator().manual_seed(0))
    for after, before in ((noise, light(200, 130)), (1 - light(200, 130), light(200, 130))):
        kernels = estimate_blur(after, before).kernels
        assert float(kernels.min()) >= 0
        torch.testing.assert_close(kernels.sum((2, 3)), torch.ones(kernels.shape[:2]))
    flat = torch.full((3, 128, 128), 0.5)
    unchanged = apply_blur(flat, estimate_blur(flat, flat))
    torch.testing.assert_close(unchanged, flat)


def test_light_that_was_added_is_added() -> None:
    sharp = light()
    glow = torch.zeros_like(sharp)
    glow[:, 64:192, 64:192] = 0.1
    found = estimate_blur(sharp + glow, sharp)
    added = apply_blur(sharp, found) - sharp
    assert float(added[:, 100:156, 100:156].mean()) == pytest.approx(0.1, abs=0.02)
    assert float(added[:, 240:, 300:].abs().mean()) < 0.02


def test_the_grid_is_that_of_the_filter() -> None:
    kernels = torch.zeros(2, 3, 2 * RADIUS + 1, 2 * RADIUS + 1)
    kernels[..., RADIUS, RADIUS] = 1
    kernels[:, -1] = line(9)
    sharp = light(STEP, 2 * STEP)
    result = apply_blur(sharp, BlurEstimate(kernels, torch.zeros(3, 1, 1)))
    torch.testing.assert_close(result[..., :64], sharp[..., :64])
    assert float((result[..., -8:] - blurred(sharp, line(9))[..., -8:]).abs().max()) < 0.05


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="two pictures"):
        estimate_blur(light(), light()[:, 1:])
    with pytest.raises(InputError, match="at least 64 px"):
        estimate_blur(light(32, 128), light(32, 128))
