"""The named distributions of blur that training and comparisons choose from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toys import photo

from blursynth.camera import Camera
from blursynth.physics import blur_frame
from blursynth.psf import point_spread
from blursynth.recipes import RECIPES
from blursynth.scene import Scene, sample_scene
from freqdiff.cli_train import BLURS

SIZE = (2160, 3840)


def draw(name: str, seed: int, **changes: float) -> Scene:
    recipe = dataclasses.replace(RECIPES[name], unblurred=0, **changes)
    return sample_scene(np.random.default_rng(seed), Camera(iso=3200), SIZE, recipe)


def test_the_command_line_knows_them_all() -> None:
    assert tuple(RECIPES) == BLURS


@pytest.mark.parametrize("sigma", [0.8, 2.0, 5.0])
def test_gaussian_is_one_round_kernel_of_the_asked_width(sigma: float) -> None:
    scene = draw("gaussian", 0, min_gaussian_px=sigma, max_gaussian_px=sigma)
    for point in ((100.0, 100.0), (1080.0, 1920.0)):
        kernel = point_spread(scene, torch.tensor([point]), 24)[0]
        offsets = torch.arange(-24.0, 25)
        for axis in (0, 1):
            profile = kernel.sum(axis)
            assert float(profile @ offsets) == pytest.approx(0, abs=1e-3)
            # A pixel is 1 wide: its own variance is 1/12.
            assert float(profile @ offsets**2) == pytest.approx(sigma**2, abs=0.02 * sigma**2 + 0.1)
        torch.testing.assert_close(kernel, kernel.mT)


@pytest.mark.parametrize("name", ["gaussian", "frame_average"])
def test_simple_engines_blur_the_signal_without_noise(name: str) -> None:
    flat = torch.full((3, 64, 96), 100 / 255)
    for seed in range(12):
        scene = draw(name, seed)
        assert float(scene.signal_domain) == 1
        noise = torch.Generator().manual_seed(seed)
        assert torch.equal(blur_frame(flat, scene, noise), flat)


def test_frame_average_is_made_of_frames_and_moving_things() -> None:
    scenes = [draw("frame_average", seed) for seed in range(40)]
    assert all(bool(scene.rotations.any()) for scene in scenes)
    assert 10 < sum(scene.has_layer for scene in scenes) < 30
    assert any(bool((scene.weights == 0).any()) for scene in scenes)
    assert not any(bool(scene.defocus_px.any()) for scene in scenes)


def test_clean_physics_lacks_only_noise_tone_and_compression() -> None:
    full = [draw("physics_full", seed) for seed in range(60)]
    clean = [draw("physics_clean", seed) for seed in range(60)]
    assert any(bool(scene.development.iso) for scene in full)
    for scene in clean:
        assert float(scene.development.iso) == 0
        assert float(scene.development.tone) == 1
        assert float(scene.jpeg_quality) == 0
    kinds = [(bool(s.rotations.any()), bool(s.defocus_px.any())) for s in clean]
    assert len(set(kinds)) == 3
    # The blur itself is drawn from the same distribution.
    for seed in range(60):
        assert torch.equal(full[seed].rotations, clean[seed].rotations)
        assert torch.equal(full[seed].defocus_px, clean[seed].defocus_px)


def test_gaussian_blurs_more_with_its_width() -> None:
    image = photo(96, 128)
    errors = []
    for sigma in (0.5, 1.5, 4.0):
        scene = draw("gaussian", 1, min_gaussian_px=sigma, max_gaussian_px=sigma)
        blurred = blur_frame(image, scene, torch.Generator().manual_seed(0))
        errors.append(float((blurred - image).square().mean()))
    assert errors == sorted(errors)
    assert errors[2] > 2 * errors[0] > 0
