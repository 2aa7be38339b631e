"""The physics engine: energy, seams, batches, seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import CALM, photo

from blursynth import optics, physics
from blursynth.camera import Camera
from blursynth.physics import MARGIN, blur_frame, develop, expose, synthesize
from blursynth.scene import Recipe, Scene, sample_scene, stack_scenes
from freqdiff import tone
from freqdiff_kernels import ops

TELE = Camera(focal_mm=1000, sensor_width_mm=36)
"""Seen through it, shake moves the whole picture alike."""
WIDE = Camera(focal_mm=14, sensor_width_mm=36)


def draw(recipe: Recipe, seed: int = 0, camera: Camera = TELE, width: int = 3840) -> Scene:
    size = (width * 9 // 16, width)
    return sample_scene(np.random.default_rng(seed), camera, size, recipe)


def kind(name: str, **changes: float) -> Recipe:
    return dataclasses.replace(CALM, unblurred=0, **{name: 1, **changes})


def noise_source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_margin(pixels: Tensor) -> Tensor:
    return torch.nn.functional.pad(pixels[None], (MARGIN,) * 4, mode="reflect")


@pytest.mark.parametrize("name", ["shake", "video", "defocus", "mixed"])
def test_light_is_kept(name: str) -> None:
    """All the light of a patch on black arrives, in linear light."""
    size = 160
    patch = torch.zeros(3, size, size)
    patch[:, 60:100, 60:100] = 0.2 + 0.6 * photo(40, 40)
    light = tone.srgb_to_linear(patch).sum((1, 2))
    for seed in range(4):
        recipe = kind(name, signal_domain=0, softness=1, max_motion_px=30, max_defocus_px=12)
        scene = draw(recipe, seed)
        result = expose(with_margin(patch), scene, torch.zeros(1, 2))[0]
        torch.testing.assert_close(result.sum((1, 2)), light, rtol=1e-4, atol=0)
        assert float((result - tone.srgb_to_linear(patch)).abs().max()) > 0.02


def test_signal_domain_averages_after_the_tone_curve() -> None:
    """As GoPro's `blur`: light and dark meet at half the signal, not at half the light."""
    halves = torch.zeros(1, 3, 128, 192)
    halves[..., 96:] = 1
    motion = draw(kind("shake", min_motion_px=30, max_motion_px=30), seed=3)
    middle = []
    for signal in (0.0, 1.0):
        scene = dataclasses.replace(motion, signal_domain=torch.tensor([signal]))
        light = expose(halves, scene, torch.zeros(1, 2))
        image = develop(light, scene, noise_source())
        middle.append(float(image.mean()))
    # In signal the mean of the picture stays, in light the edge's blend is brighter than its mean.
    assert middle[1] == pytest.approx(0.5, abs=0.02)
    assert middle[0] > middle[1] + 0.01
    lifted = dataclasses.replace(motion.development, tone=torch.tensor([1.6]))
    scene = dataclasses.replace(motion, development=lifted)
    light = expose(halves, scene, torch.zeros(1, 2))
    assert float(develop(light, scene, noise_source()).mean()) > middle[0] + 0.01


def test_tone_alone_changes_nothing() -> None:
    scene = draw(dataclasses.replace(CALM, tone=1))
    assert float(scene.development.tone) > 1
    image = photo(150, 210)
    result = blur_frame(image, scene, noise_source())
    torch.testing.assert_close(result * 255, image * 255, rtol=0, atol=1)


def test_unblurred_is_the_picture() -> None:
    image = photo(150, 210)
    result = synthesize(image, recipe=CALM, seed=3).blurred
    assert torch.equal((result * 255).round(), (image * 255).round())


def test_uniform_blur_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(300, 330)
    recipe = kind("mixed", min_motion_px=12, max_motion_px=12, max_defocus_px=6)
    recipe = dataclasses.replace(recipe, softness=1)
    still = dataclasses.replace(draw(recipe), softness_px=torch.tensor([0.7]))
    results = []
    for block in (96, 512):
        monkeypatch.setattr(physics, "STEP", block)
        results.append(blur_frame(image, still, noise_source()))
    difference = (results[0] - results[1]).abs()
    assert float(difference.max()) <= 1 / 255 + 1e-6
    # Only values that lie on the edge between two levels may fall to different sides.
    assert float((difference > 0).float().mean()) < 0.02


def test_blocks_meet_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strongly varying blur of a soft picture: no jumps at the borders of blocks."""
    block = 96
    monkeypatch.setattr(physics, "STEP", block)
    scene = draw(kind("shake", min_motion_px=20, max_motion_px=20), camera=WIDE, width=384)
    scene = dataclasses.replace(scene, rotations=scene.rotations * torch.tensor([1, 1, 3.0]))
    waves = torch.rand((3, 424, 424), generator=noise_source(1))
    soft = optics.softness_kernel(torch.tensor(4.0), 20)
    image = ops.filter_grid(waves - 0.5, soft[None, None]) * 4 + 0.5
    result = blur_frame(image.clamp(0, 1), scene, noise_source())
    for axis in (1, 2):
        # Third differences let soft pictures vanish and jumps stand out.
        jumps = result.diff(n=3, dim=axis).abs().mean((0, 3 - axis))
        near_border = (torch.arange(len(jumps)) + 2) % block <= 2
        limit = jumps[~near_border].mean() + 5 * jumps[~near_border].std()
        assert bool((jumps[near_border] < limit).all())


def test_blur_varies_over_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roll blurs the corners and leaves the centre."""
    monkeypatch.setattr(physics, "STEP", 48)
    image = torch.rand((3, 288, 288), generator=noise_source(1))
    scene = draw(CALM, width=288)
    roll = torch.zeros(1, scene.weights.shape[1], 3)
    roll[..., 2] = torch.linspace(-0.05, 0.05, roll.shape[1])
    scene = dataclasses.replace(scene, rotations=roll, frame_size=torch.full((1, 2), 288.0))
    result = blur_frame(image, scene, noise_source())
    contrast = result.unfold(1, 32, 32).unfold(2, 32, 32).std((-1, -2)).mean(0)
    assert float(contrast[4, 4]) > 0.2
    assert float(contrast[0, 0]) < 0.5 * float(contrast[4, 4])


def test_tiles_of_a_frame_are_the_frame() -> None:
    """Cut on the grid of kernels, with the margin around, tiles meet exactly."""
    step = physics.STEP
    scene = draw(kind("mixed", min_motion_px=14, max_motion_px=14), 2, WIDE, width=3 * step)
    scene = dataclasses.replace(scene, frame_size=torch.tensor([[2.0 * step, 3.0 * step]]))
    image = photo(2 * step + 2 * MARGIN, 3 * step + 2 * MARGIN)[None]
    whole = expose(image, scene, torch.zeros(1, 2))
    for top, left, height, width in ((0, 0, 1, 2), (1, 0, 1, 3), (0, 2, 2, 1)):
        y, x, h, w = (step * value for value in (top, left, height, width))
        part = image[..., y : y + h + 2 * MARGIN, x : x + w + 2 * MARGIN]
        result = expose(part, scene, torch.tensor([[float(y), float(x)]]))
        expected = whole[..., y : y + h, x : x + w]
        torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)


def test_batch_equals_one_by_one() -> None:
    """Moving and still, layered and plain, with and without noise-free development."""
    recipes = [
        kind("shake"),
        kind("defocus", layer=1),
        CALM,
        kind("video", layer=1, signal_domain=1, highlights=1),
        kind("mixed", softness=1, jpeg=1),
    ]
    scenes = [draw(recipe, seed) for seed, recipe in enumerate(recipes)]
    scenes = [dataclasses.replace(scene, jpeg_subsample=True) for scene in scenes]
    side = 64 + 2 * MARGIN
    names = ["astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field"]
    images = torch.stack([photo(side, side, name) for name in names])
    origins = torch.tensor([[0.0, 0.0], [300, 900], [20, 30], [500, 10], [1000, 3000]])
    together = stack_scenes(scenes)
    light = expose(images, together, origins)
    developed = develop(light, together, noise_source())
    for i, scene in enumerate(scenes):
        alone = expose(images[i : i + 1], scene, origins[i : i + 1])
        torch.testing.assert_close(light[i : i + 1], alone, rtol=0, atol=2e-5)
        picture = develop(light[i : i + 1], scene, noise_source())
        assert torch.equal(developed[i : i + 1], picture)


def test_seeds() -> None:
    image = photo(120, 140)
    first, again, other = (synthesize(image, seed=seed) for seed in (7, 7, 8))
    assert torch.equal(first.blurred, again.blurred)
    assert first.camera == again.camera
    assert not torch.equal(first.blurred, other.blurred)
    assert first.camera != other.camera


def test_result_is_an_8_bit_photo_of_the_same_size() -> None:
    image = photo(101, 77)
    camera = Camera(iso=3200)
    for seed in range(3):
        made = synthesize(image, camera, seed=seed)
        assert made.blurred.shape == image.shape
        assert made.camera == camera
        levels = made.blurred * 255
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
        assert 0 <= float(made.blurred.min()) <= float(made.blurred.max()) <= 1
        assert bool(made.scene.rotations.any()) or bool(made.scene.defocus_px.any())


@pytest.mark.parametrize(
    "sharp",
    [
        torch.zeros(1, 3, 32, 32),
        torch.zeros(32, 32, 3),
        torch.zeros(3, 32, 32, dtype=torch.uint8),
    ],
    ids=["batch", "channels last", "bytes"],
)
def test_other_arrays_are_refused(sharp: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^sharp is .*, expected a floating-point \(3, H, W\)\.$"):
        synthesize(sharp)
