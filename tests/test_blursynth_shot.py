"""Blur as it follows from camera settings: the laws of optics, depth, and the blur field."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import photo

from blursynth import depth, psf
from blursynth.camera import Camera
from blursynth.motion import Hand
from blursynth.physics import synthesize
from blursynth.scene import Recipe, Scene
from blursynth.shot import Conditions, sample_independent, sample_shot, take
from freqdiff.errors import InputError, PhotoError

SIZE = (1080, 1920)
STILL = Conditions(hand=None, diffraction=False, mosaic=False, noise=False, highlights=0)
CAMERA = Camera(exposure_s=1 / 60, focal_mm=85, f_number=2.8, focus_distance_m=4)


def scene_of(camera: Camera, conditions: Conditions, seed: int = 0) -> Scene:
    return take(np.random.default_rng(seed), camera, SIZE, conditions)


def spread(scene: Scene, radius: int = 40) -> float:
    """Root of the variance of the kernel in the middle, over both axes, in pixels."""
    kernel = psf.point_spread(scene, scene.frame_size / 2, radius)[0].double()
    line = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return math.sqrt(float(kernel.sum(1) @ line**2 + kernel.sum(0) @ line**2))


def test_defocus_follows_the_thin_lens() -> None:
    """Width grows with f^2, 1/N and distance from the focus, as the formula says."""
    at = dataclasses.replace(STILL, distance_m=6.0)
    for changes in ({}, {"focal_mm": 100.0}, {"f_number": 4.0}, {"focus_distance_m": 5.0}):
        camera = dataclasses.replace(CAMERA, **changes)
        expected = abs(camera.circle_of_confusion_px(6.0, SIZE[1]))
        # A disk of diameter c has the variance c^2 / 16 along each axis.
        assert spread(scene_of(camera, at)) == pytest.approx(expected / 8**0.5, rel=0.02)
    assert spread(scene_of(CAMERA, STILL)) == 0


def test_shake_grows_with_focal_length_and_exposure() -> None:
    conditions = dataclasses.replace(STILL, hand=Hand(60.0, 0.0, memory_s=1e3))
    base = spread(scene_of(CAMERA, conditions))
    for factor in (0.5, 2.0):
        longer = dataclasses.replace(CAMERA, focal_mm=85 * factor)
        assert spread(scene_of(longer, conditions)) == pytest.approx(factor * base, rel=0.05)
        slower = dataclasses.replace(CAMERA, exposure_s=factor / 60)
        assert spread(scene_of(slower, conditions)) == pytest.approx(factor * base, rel=0.05)


def test_diffraction_grows_with_the_f_number() -> None:
    widths = []
    for f_number in (8.0, 16.0, 32.0):
        camera = dataclasses.replace(CAMERA, f_number=f_number, sensor_width_mm=6.0)
        scene = scene_of(camera, dataclasses.replace(STILL, diffraction=True))
        kernel = psf.point_spread(scene, scene.frame_size / 2, 60)[0]
        # Where half of the contrast is left: the variance of an Airy disk is infinite.
        line, frequency = torch.arange(-60, 61.0), torch.linspace(0, 0.5, 501)
        contrast = (2 * torch.pi * frequency[:, None] * line).cos() @ kernel.sum(0)
        contrast = contrast / torch.sinc(frequency) ** 2  # of the pixels
        widths.append(1 / float(frequency[int((contrast > 0.5).sum())]))
    assert widths[1] / widths[0] == pytest.approx(2, rel=0.1)
    assert widths[2] / widths[1] == pytest.approx(2, rel=0.05)


def test_kernels_keep_the_light_everywhere() -> None:
    conditions = Conditions(distance_m=2.0, cat_eye=0.8, readout_s=1 / 30, softness_px=0.5)
    scene = scene_of(dataclasses.replace(CAMERA, exposure_s=1 / 8), conditions)
    nodes = torch.tensor([[[0.0, 0], [540, 960], [1080, 1920], [100, 1500]]])
    kernels = psf.kernels_at(scene, nodes, 64)
    torch.testing.assert_close(kernels.sum((2, 3)), torch.ones(1, 4), rtol=0, atol=1e-5)
    assert float(kernels.min()) >= 0
    assert not torch.allclose(kernels[0, 0], kernels[0, 1])


def test_rolling_shutter_keeps_the_pair_aligned() -> None:
    conditions = dataclasses.replace(STILL, hand=Hand(3.0), readout_s=1 / 20)
    scene = scene_of(dataclasses.replace(CAMERA, exposure_s=1 / 100), conditions)
    nodes = torch.tensor([[[0.0, 900], [500, 900], [1080, 900]]])
    path = psf.camera_path(scene, nodes)
    assert float(path.mean(2).abs().max()) < 1e-3
    # Each row sees another part of the motion.
    assert float((path[0, 0] - path[0, 2]).abs().max()) > 0.1 * float(path.abs().max())


def slope(near: float, far: float) -> Tensor:
    return torch.linspace(near, far, 96)[:, None].expand(96, 128)


def test_depth_layers_share_every_pixel() -> None:
    confusion = depth.confusion_px(CAMERA, slope(2, 20), 1920)
    diameters, spacing = depth.layers(confusion)
    assert diameters == sorted(diameters)
    assert 2 <= len(diameters) <= depth.MOST_LAYERS
    shares = [depth.opacity(confusion, diameter, spacing) for diameter in diameters]
    torch.testing.assert_close(sum(shares), torch.ones_like(confusion), rtol=0, atol=1e-5)
    mean = sum(diameter * share for diameter, share in zip(diameters, shares, strict=True))
    torch.testing.assert_close(mean, confusion, rtol=0, atol=1e-4)


@pytest.mark.parametrize("focus", [4.0, math.inf])
def test_confusion_of_a_depth_map_is_that_of_its_points(focus: float) -> None:
    camera = dataclasses.replace(CAMERA, focus_distance_m=focus)
    distances = [0.5, 1.0, 4.0, 30.0, math.inf]
    result = depth.confusion_px(camera, torch.tensor(distances), 1920)
    expected = [camera.circle_of_confusion_px(distance, 1920) for distance in distances]
    assert result.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_depth_of_one_plane_is_plain_defocus() -> None:
    image = photo(96, 128)
    plane = synthesize(image, CAMERA, conditions=STILL, depth_m=torch.full((96, 128), 8.0))
    conditions = dataclasses.replace(STILL, distance_m=8.0)
    plain = synthesize(image, CAMERA, conditions=conditions)
    assert float((plane.blurred - plain.blurred).abs().max()) <= 1 / 255 + 1e-6
    assert float(plain.field.defocus.mean()) == pytest.approx(
        CAMERA.circle_of_confusion_px(8.0, 128), rel=1e-5
    )


def test_near_things_spread_over_the_background() -> None:
    """A near bright square grows over the far black ground, a far one stays behind near black."""
    image, near = torch.zeros(3, 96, 96), torch.zeros(96, 96, dtype=torch.bool)
    near[36:60, 36:60] = True
    image[:, near] = 1
    camera = Camera(focal_mm=200, f_number=2, focus_distance_m=10, sensor_width_mm=36)
    in_front = torch.where(near, 3.0, 10.0)
    spread_out = synthesize(image, camera, conditions=STILL, depth_m=in_front).blurred
    behind = torch.where(near, 60.0, 10.0)
    kept_in = synthesize(image, camera, conditions=STILL, depth_m=behind).blurred
    assert float(spread_out[0, 30, 48]) > 0.1
    assert float(kept_in[0, 30, 48]) < 0.02


def test_a_flat_picture_stays_flat_in_any_depth() -> None:
    image = torch.full((3, 96, 128), 0.5)
    made = synthesize(image, CAMERA, conditions=STILL, depth_m=slope(1, 50)).blurred
    assert float((made - 0.5).abs().max()) <= 1 / 255


def test_blur_field_tells_motion_and_defocus() -> None:
    conditions = dataclasses.replace(STILL, hand=Hand(2.0, 0.0, memory_s=1e3), distance_m=7.0)
    scene = scene_of(CAMERA, conditions)
    field = psf.blur_field(scene, SIZE)
    assert field.motion.shape == (2, 68, 120)
    path = psf.camera_path(scene, scene.frame_size[:, None] / 2)[0, 0]
    straight = path[-1] - path[0]
    middle = field.motion[:, 34, 60]
    assert float(middle.norm()) == pytest.approx(float(straight.norm()), rel=0.05)
    assert float((middle @ straight).abs() / middle.norm() / straight.norm()) > 0.99
    assert float(field.defocus[0, 0]) == pytest.approx(CAMERA.circle_of_confusion_px(7.0, 1920))


def test_a_part_of_a_frame_is_blurred_as_there() -> None:
    """A crop gets the blur of its place in the frame, not of a frame of its own."""
    image = photo(384, 512)
    conditions = Conditions(hand=Hand(20.0), mosaic=False, noise=False, highlights=0)
    camera = dataclasses.replace(CAMERA, focal_mm=14)
    whole = synthesize(image, camera, conditions=conditions, seed=3).blurred
    part = image[:, 192:, 192:]
    place = {"frame_size": (384, 512), "origin": (192, 192)}
    made = synthesize(part, camera, conditions=conditions, seed=3, **place)
    inner = (slice(None), slice(32, -32), slice(32, -32))
    difference = made.blurred[inner] - whole[:, 192:, 192:][inner]
    assert float(difference.abs().max()) <= 1 / 255 + 1e-6
    alone = synthesize(part, camera, conditions=conditions, seed=3).blurred
    assert float((alone - made.blurred).abs().max()) > 5 / 255


def test_drawn_shots_are_visibly_blurred() -> None:
    rng = np.random.default_rng(0)
    prior = [CAMERA, dataclasses.replace(CAMERA, exposure_s=1 / 2000, iso=1600)]
    for index in range(60):
        camera, conditions = sample_shot(rng, 3840, prior if index % 2 else None)
        assert conditions.hand is not None
        shake = camera.expected_shake_px(3840, conditions.hand.speed_deg_s())
        distance = conditions.distance_m or camera.focus_distance_m
        defocus = abs(camera.circle_of_confusion_px(distance, 3840))
        assert 1.5 <= math.hypot(shake, defocus) <= 40.001
    fast = dataclasses.replace(CAMERA, exposure_s=1 / 32000, iso=50, f_number=22, focal_mm=10)
    with pytest.raises(ValueError, match=r"^prior holds no exposure that could blur a photo;"):
        sample_shot(rng, 640, [fast])


def test_independent_settings_tell_nothing_of_each_other() -> None:
    rng = np.random.default_rng(0)
    shots = [sample_independent(rng, 1280) for _ in range(600)]
    numbers = np.log([[c.exposure_s, c.f_number, c.iso, c.focal35_mm] for c, _ in shots])
    related = np.corrcoef(numbers.T) - np.eye(4)
    # Long lenses shake more in the same time.
    assert np.abs(related[:3, :3]).max() < 0.12
    shake, defocus = [], []
    for camera, conditions in shots:
        if conditions.hand is not None:
            shake.append(camera.expected_shake_px(1280, conditions.hand.speed_deg_s()))
        if conditions.distance_m is not None:
            defocus.append(float(camera.circle_of_confusion_px(conditions.distance_m, 1280)))
    for found in (np.array(shake), np.abs(defocus)):
        assert 0.42 < len(found) / 600 < 0.58
        assert found.max() <= 40.001
        # Evenly over the octaves from 0.5 to 40 px, of which there are 6.3.
        shares = np.histogram(found, [0.5, 2, 8, 40])[0] / len(found)
        np.testing.assert_allclose(shares, [0.316, 0.316, 0.367], atol=0.09)
    assert 0.15 < np.mean(np.array(defocus) > 0) < 0.5


def test_parts_can_be_switched_off() -> None:
    image = photo(96, 128)
    made = synthesize(image, dataclasses.replace(CAMERA, iso=12800), conditions=STILL)
    assert torch.equal((made.blurred * 255).round(), (image * 255).round())


def test_settings_alone_decide() -> None:
    image = photo(96, 128)
    fast = synthesize(image, dataclasses.replace(CAMERA, exposure_s=1 / 4000), seed=2)
    slow = synthesize(image, dataclasses.replace(CAMERA, exposure_s=1.0), seed=2)
    assert float(slow.field.motion.norm(dim=0).mean()) > 1
    assert float(fast.field.motion.norm(dim=0).mean()) < 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth_m": torch.ones(5, 7)}, r"^depth_m is \(5, 7\), expected \(96, 128\) as the photo"),
        ({"recipe": Recipe(), "conditions": Conditions()}, "^recipe decides the blur in pixels;"),
    ],
)
def test_contradictions_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthesize(photo(96, 128), CAMERA, **arguments)


@pytest.mark.parametrize(
    ("field", "value"),
    [("readout_s", -1), ("cat_eye", 9), ("jpeg_quality", 101), ("tone", math.nan)],
)
def test_impossible_conditions_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^Conditions\.{field} is .*, expected .* to .*\.$"):
        Conditions(**{field: value})
    with pytest.raises(ValueError, match=r"^Conditions\.distance_m is 0, expected above 0\.$"):
        Conditions(distance_m=0)


def test_depth_is_read_from_files(tmp_path: Path) -> None:
    metres = np.linspace(1, 9, 12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "depth.npy", metres)
    Image.fromarray((metres * 1000).round().astype(np.uint16)).save(tmp_path / "depth.png")
    for name in ("depth.npy", "depth.png"):
        read = depth.read_depth(tmp_path / name, (3, 4))
        assert read.numpy() == pytest.approx(metres, abs=1e-3)
    larger = depth.read_depth(metres, (30, 40))
    assert larger.shape == (30, 40)
    assert float(larger.min()) == pytest.approx(1)
    assert float(larger.max()) == pytest.approx(9)


def test_unusable_depth_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no depth", encoding="utf-8")
    for name in ("text.png", "missing.npy"):
        with pytest.raises(PhotoError, match=rf"{name} cannot be read as a depth map: "):
            depth.read_depth(tmp_path / name, (3, 4))
    with pytest.raises(InputError, match=r"expected numbers \(height, width\)"):
        depth.read_depth(np.ones((3, 4, 3)), (3, 4))
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="zero, negative or no numbers"):
            depth.read_depth(np.full((3, 4), bad), (3, 4))
