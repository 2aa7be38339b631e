"""Drawing what happens during an exposure: kinds of blur, their extent, their timing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from toys import CALM

from blursynth import psf
from blursynth.camera import Camera
from blursynth.raw import Development
from blursynth.scene import PATH_POINTS, Recipe, Scene, sample_scene, stack_scenes

SHAKE = dataclasses.replace(CALM, shake=1, unblurred=0)
WIDTH = 3840
SIZE = (2160, WIDTH)


def draw(recipe: Recipe, seed: int = 0, camera: Camera | None = None) -> Scene:
    return sample_scene(np.random.default_rng(seed), camera or Camera(), SIZE, recipe)


def path_at_centre(scene: Scene) -> torch.Tensor:
    """Displacements (N, 2) of the principal point in pixels."""
    return psf.camera_path(scene, scene.frame_size[:, None] / 2)[0, 0]


@pytest.mark.parametrize("kind", ["shake", "video", "mixed"])
@pytest.mark.parametrize("length", [2.0, 10.0, 40.0])
def test_motion_is_as_long_as_asked(kind: str, length: float) -> None:
    recipe = dataclasses.replace(
        CALM, unblurred=0, min_motion_px=length, max_motion_px=length, **{kind: 1}
    )
    for seed in range(10):
        scene = draw(recipe, seed)
        path = path_at_centre(scene)
        extent = float((path.amax(0) - path.amin(0)).max())
        assert extent == pytest.approx(length, rel=0.05)
        # px = f_px omega t: the angle swept times the focal length in pixels.
        swept = scene.rotations[0, :, :2].amax(0) - scene.rotations[0, :, :2].amin(0)
        assert float(swept.max() * scene.focal_px) == pytest.approx(extent, rel=0.05)
        assert float(scene.focal_px) == pytest.approx(Camera().focal_px(WIDTH))


@pytest.mark.parametrize("kind", ["shake", "video", "defocus", "mixed", "unblurred"])
def test_every_kind_keeps_light_and_position(kind: str) -> None:
    recipe = dataclasses.replace(CALM, layer=0.5, **{"unblurred": 0, kind: 1})
    for seed in range(20):
        scene = draw(recipe, seed)
        assert float(scene.weights.sum()) == pytest.approx(1, abs=1e-6)
        assert bool((scene.weights >= 0).all())
        # The pair of sharp and blurred stays aligned: the light's centre does not move.
        centroid = scene.weights[0] @ path_at_centre(scene)
        assert centroid.abs().max() < 0.05
        assert (scene.weights[0] @ scene.object_shift[0]).abs().max() < 1e-4
        moves = bool(scene.rotations.any())
        assert moves == (kind in ("shake", "video", "mixed"))
        assert bool(scene.defocus_px.any()) == (kind in ("defocus", "mixed"))
        if kind == "unblurred":
            assert not scene.has_layer
            assert not scene.object_shift.any()


def test_video_collects_light_in_frames() -> None:
    recipe = dataclasses.replace(CALM, video=1, unblurred=0)
    counts = set()
    for seed in range(40):
        weights = draw(recipe, seed).weights[0]
        lit = (weights > 0).int()
        assert len(set(weights[weights > 0].tolist())) == 1
        frames = int((lit.diff() == 1).sum()) + int(lit[0])
        counts.add(frames)
        still = draw(SHAKE, seed).weights
        torch.testing.assert_close(still, torch.full_like(still, 1 / PATH_POINTS))
    # Either the shutter stays open, or there are gaps between 7 .. 13 frames.
    assert counts <= {1, *range(7, 14)}
    assert len(counts) > 3


def test_hand_path_is_smooth_and_speeds_up_with_the_recipe() -> None:
    def spread(length: float) -> float:
        recipe = dataclasses.replace(SHAKE, min_motion_px=length, max_motion_px=length)
        paths = [path_at_centre(draw(recipe, seed)) for seed in range(8)]
        return float(torch.stack([path.var(0).sum().sqrt() for path in paths]).mean())

    widths = [spread(length) for length in (3.0, 9.0, 27.0)]
    assert widths[1] == pytest.approx(3 * widths[0], rel=0.02)
    assert widths[2] == pytest.approx(9 * widths[0], rel=0.02)
    jumps = path_at_centre(
        draw(dataclasses.replace(SHAKE, min_motion_px=40, max_motion_px=40))
    ).diff(dim=0)
    assert float(jumps.norm(dim=-1).max()) < 40 / 4


def test_defocus_stays_in_the_recipe() -> None:
    recipe = dataclasses.replace(
        CALM, defocus=1, unblurred=0, layer=0.5, min_defocus_px=3, max_defocus_px=9
    )
    scenes = [draw(recipe, seed) for seed in range(40)]
    largest = torch.cat([scene.defocus_px.amax(1) for scene in scenes])
    assert bool((largest >= 3).all())
    assert bool((largest <= 9).all())
    layered = [scene for scene in scenes if scene.has_layer]
    assert 5 < len(layered) < 35
    # One of the two layers is closer to the focus.
    assert all(float(scene.defocus_px.diff().abs()) > 0 for scene in layered)


def test_iso_follows_the_camera_and_the_size_of_the_picture() -> None:
    """Shrinking a photo averages its noise: fewer pixels than 4000 across behave like less ISO."""
    noisy = dataclasses.replace(CALM, noise=1)
    camera = Camera(iso=1600)
    rng = np.random.default_rng(0)
    assert float(sample_scene(rng, camera, (4000, 6000), noisy).development.iso) == 1600
    assert float(sample_scene(rng, camera, (700, 1000), noisy).development.iso) == 400
    assert float(draw(CALM, camera=camera).development.iso) == 0


def values(scene: Scene) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    scene.map(lambda value: found.append(value) or value)
    return found


def test_drawing_is_seeded() -> None:
    recipe = dataclasses.replace(SHAKE, mosaic=0.5, noise=0.5)
    first, again, other = (values(draw(recipe, seed)) for seed in (4, 4, 5))
    assert len(first) == len(dataclasses.fields(Scene)) - 2 + len(dataclasses.fields(Development))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_stacked_scenes_keep_their_values() -> None:
    scenes = [draw(Recipe(), seed) for seed in range(4)]
    together = stack_scenes(scenes)
    for index, scene in enumerate(scenes):
        for joined, alone in zip(values(together), values(scene), strict=True):
            assert torch.equal(joined[index], alone[0])
    assert together.has_layer == any(scene.has_layer for scene in scenes)
