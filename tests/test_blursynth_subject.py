"""A subject that moves in front of the scene, and blur by depth while the camera turns."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from toys import photo

from blursynth import physics, psf
from blursynth.camera import Camera
from blursynth.inpaint import uncover
from blursynth.motion import Hand, Subject
from blursynth.physics import synthesize
from blursynth.scene import Scene
from blursynth.shot import Conditions, sample_shot, take
from freqdiff import tone

SIZE = (1080, 1920)
STILL = Conditions(hand=None, diffraction=False, mosaic=False, noise=False, highlights=0)
CAMERA = Camera(exposure_s=1 / 60, focal_mm=50, f_number=8, focus_distance_m=5)
RUNNER = Subject(3.0, direction_deg=30)


def scene_of(camera: Camera, subject: Subject | None, seed: int = 0, **changes: object) -> Scene:
    conditions = dataclasses.replace(STILL, subject=subject, **changes)
    return take(np.random.default_rng(seed), camera, SIZE, conditions)


def spread(scene: Scene, front: bool = True, radius: int = 96) -> tuple[float, float]:
    """Standard deviation of a layer's kernel in the middle of the frame along y and x."""
    middle = scene.frame_size[:, None] / 2
    kernel = psf.kernels_at(scene, middle, radius, front=front)[0, 0].double()
    line = torch.arange(-radius, radius + 1, dtype=torch.float64)
    return math.sqrt(kernel.sum(1) @ line**2), math.sqrt(kernel.sum(0) @ line**2)


@pytest.mark.parametrize(
    ("camera", "subject", "distance"),
    [
        (CAMERA, RUNNER, 5.0),
        (CAMERA, dataclasses.replace(RUNNER, speed_m_s=6.0), 5.0),
        (CAMERA, dataclasses.replace(RUNNER, distance_m=10.0), 10.0),
        (dataclasses.replace(CAMERA, focal_mm=100), RUNNER, 5.0),
        (dataclasses.replace(CAMERA, exposure_s=1 / 20), RUNNER, 5.0),
        (dataclasses.replace(CAMERA, sensor_width_mm=23.5), RUNNER, 5.0),
    ],
    ids=["base", "speed", "distance", "focal length", "exposure", "sensor"],
)
def test_subject_moves_by_f_v_t_over_d(camera: Camera, subject: Subject, distance: float) -> None:
    """A straight even path of length c has the variance c^2 / 12."""
    expected = camera.focal_px(SIZE[1]) * subject.speed_m_s * camera.exposure_s / distance
    scene = scene_of(dataclasses.replace(camera, f_number=64), subject)
    along_y, along_x = spread(scene)
    assert math.hypot(along_y, along_x) * 12**0.5 == pytest.approx(expected, rel=0.05)
    assert math.degrees(math.atan2(along_y, along_x)) == pytest.approx(30, abs=1.5)
    assert spread(scene, front=False) == (0, 0)


def test_subject_is_out_of_focus_at_its_own_distance() -> None:
    """A disk of diameter c has the variance c^2 / 16 along each axis."""
    camera = dataclasses.replace(CAMERA, f_number=1.4)
    scene = scene_of(camera, Subject(0.0, distance_m=2.0), distance_m=9.0)
    for front, distance in ((True, 2.0), (False, 9.0)):
        expected = abs(camera.circle_of_confusion_px(distance, SIZE[1])) / 4
        assert spread(scene, front) == pytest.approx((expected, expected), rel=0.02)
    # Without a distance of its own it stands where the scene is.
    with_scene = scene_of(camera, Subject(0.0), distance_m=9.0)
    assert with_scene.defocus_px[0, 0] == with_scene.defocus_px[0, 1] != 0


def test_light_of_the_subject_is_kept_and_spread_along_its_way() -> None:
    ground, image = 0.3, torch.full((3, 160, 240), 0.3)
    image[:, 70:90, 110:130] = 0.7
    mask = (image[0] > 0.5).float()
    subject = Subject(2.0, direction_deg=0)
    conditions = dataclasses.replace(STILL, subject=subject)
    scene = take(np.random.default_rng(0), CAMERA, SIZE, conditions)
    margin = psf.reach_px(scene)
    planes = torch.nn.functional.pad(
        torch.cat((image, mask[None]))[None], (margin,) * 4, mode="replicate"
    )
    light = physics.expose(planes[:, :3], scene, torch.zeros(1, 2), margin, mask=planes[:, 3:])
    light = light - tone.srgb_to_linear(torch.tensor(ground))
    linear = tone.srgb_to_linear(image) - tone.srgb_to_linear(torch.tensor(ground))
    torch.testing.assert_close(light.sum((0, 2, 3)), linear.sum((1, 2)), rtol=1e-4, atol=0)
    assert float(light.min()) > -1e-5
    profile = light[0, 0].sum(0).double()
    profile /= profile.sum()
    column = torch.arange(240, dtype=torch.float64)
    variance = profile @ (column - profile @ column) ** 2
    way = math.sqrt(12 * (float(variance) - (20**2 - 1) / 12))
    expected = CAMERA.focal_px(SIZE[1]) * subject.speed_m_s * CAMERA.exposure_s / 5
    assert way == pytest.approx(expected, rel=0.05)


def test_the_scene_goes_on_behind_the_subject() -> None:
    slope = torch.linspace(0.2, 0.8, 192).expand(1, 1, 128, 192)
    mask = torch.zeros(1, 1, 128, 192)
    mask[..., 40:80, 60:110] = 1
    filled = uncover(torch.where(mask > 0, 0.9, slope), mask, 64)
    assert torch.equal(filled[mask == 0], slope[mask == 0])
    assert float((filled - slope).abs().max()) < 0.04
    everything = torch.ones_like(mask)
    assert torch.equal(uncover(slope, everything, 16).isfinite(), everything > 0)


def test_only_the_subject_is_blurred() -> None:
    image = photo(200, 300)
    mask = torch.zeros(200, 300)
    mask[80:120, 120:180] = 1
    conditions = dataclasses.replace(STILL, subject=Subject(60.0, direction_deg=90))
    made = synthesize(image, CAMERA, conditions=conditions, subject_mask=mask).blurred
    way = CAMERA.focal_px(300) * 60 / 60 / 5
    changed = (made - image).abs().amax(0) > 2 / 255
    rows, columns = changed.nonzero().unbind(1)
    assert way / 2 - 3 < 80 - int(rows.min()) <= way / 2 + 1
    assert way / 2 - 3 < int(rows.max()) - 119 <= way / 2 + 1
    assert (int(columns.min()), int(columns.max())) == (120, 179)
    assert float(changed[80:120, 120:180].float().mean()) > 0.5


def test_a_subject_at_rest_changes_nothing() -> None:
    image = photo(120, 160)
    for seed in range(3):
        conditions = dataclasses.replace(STILL, subject=Subject(0.0))
        made = synthesize(image, CAMERA, conditions=conditions, seed=seed).blurred
        assert torch.equal((made * 255).round(), (image * 255).round())


def test_a_subject_leaves_all_other_draws_alone() -> None:
    conditions = Conditions(readout_s=1 / 60, distance_m=4)
    moving = dataclasses.replace(conditions, subject=Subject(0.1))
    plain, other = (
        take(np.random.default_rng(8), CAMERA, SIZE, either) for either in (conditions, moving)
    )
    for field in ("rotations", "blade_turn", "cutoff", "softness_px"):
        assert torch.equal(getattr(plain, field), getattr(other, field))
    for field in dataclasses.fields(plain.development):
        mine, its = (getattr(scene.development, field.name) for scene in (plain, other))
        assert torch.equal(mine, its)
    assert not plain.has_layer
    assert other.has_layer


def test_directions_and_shapes_are_drawn() -> None:
    scenes = [scene_of(CAMERA, Subject(2.0), seed) for seed in range(30)]
    ways = torch.cat([scene.object_shift[:, -1] for scene in scenes])
    assert float(ways.norm(dim=1).std()) < 1e-3
    assert float(ways.mean(0).norm()) < 0.5 * float(ways.norm(dim=1).mean())
    covers = [
        float(physics.front_mask(scene, torch.zeros(1, 2), SIZE).mean()) for scene in scenes[:6]
    ]
    assert max(covers) - min(covers) > 0.1


def test_drawn_shots_hold_subjects_as_often_as_asked() -> None:
    def draw(moving: float) -> list[tuple[Camera, Conditions]]:
        return [sample_shot(np.random.default_rng(i), 3840, moving=moving) for i in range(60)]

    never, sometimes = draw(0.0), draw(0.5)
    subjects = [conditions.subject for _, conditions in sometimes]
    assert 15 < sum(subject is not None for subject in subjects) < 45
    for (camera, conditions), (same, plain) in zip(sometimes, never, strict=True):
        assert camera == same
        assert plain.subject is None
        assert dataclasses.replace(conditions, subject=None) == plain
        if conditions.subject is not None:
            scene = take(np.random.default_rng(0), camera, (2160, 3840), conditions)
            assert float((scene.object_shift[0, -1] - scene.object_shift[0, 0]).norm()) < 40.01


def slope(height: int, width: int) -> torch.Tensor:
    return torch.linspace(2, 12, height)[:, None] + torch.linspace(0, 4, width)


@pytest.mark.parametrize("given", [False, True], ids=["random mask", "given mask"])
@pytest.mark.parametrize("deep", [False, True], ids=["plane", "depth map"])
def test_a_crop_is_that_part_of_the_frame(given: bool, deep: bool) -> None:
    """Also with a layer and its mask, away from the edges of the crop."""
    size, part = (448, 640), (slice(192, None), slice(192, None))
    image = photo(*size)
    conditions = dataclasses.replace(
        STILL, hand=Hand(2.0), subject=Subject(20.0, distance_m=4), softness_px=0.4, cat_eye=0.5
    )
    camera = dataclasses.replace(CAMERA, focal_mm=24, f_number=1.4)
    planes = {}
    if given:
        line = torch.linspace(0, 30, size[1])
        planes["subject_mask"] = (line.sin() * torch.linspace(0, 20, size[0])[:, None].cos()) > 0.2
    if deep:
        planes["depth_m"] = slope(*size)
    whole = synthesize(image, camera, conditions=conditions, seed=5, **planes).blurred
    planes = {name: plane[part] for name, plane in planes.items()}
    place = {"frame_size": size, "origin": (192, 192)}
    made = synthesize(
        image[:, *part], camera, conditions=conditions, seed=5, **planes, **place
    ).blurred
    inner = (slice(None), slice(48, -48), slice(48, -48))
    difference = (made - whole[:, *part])[inner].abs()
    assert float(difference.max()) <= 1 / 255 + 1e-6
    assert float((made - image[:, *part])[inner].abs().max()) > 20 / 255


def test_a_turning_camera_moves_near_and_far_alike() -> None:
    """Blur by depth and then by shake is what both together give, at the edges of things too."""
    image = photo(256, 320)
    near = torch.full((256, 320), 20.0)
    near[:, :150] = 3.0
    camera = dataclasses.replace(CAMERA, focal_mm=85, f_number=1.4, focus_distance_m=6)
    shaken = dataclasses.replace(STILL, hand=Hand(30.0))
    both = synthesize(image, camera, conditions=shaken, depth_m=near, seed=3)
    deep = synthesize(image, camera, conditions=STILL, depth_m=near, seed=3).blurred
    after = synthesize(deep, camera, conditions=shaken, seed=3).blurred
    assert float(both.field.motion.norm(dim=0).mean()) > 4
    # Not at the border, where one repeats the sharp photo and the other the blurred one.
    difference = (both.blurred - after)[:, 32:-32, 32:-32].abs()
    assert float(difference.max()) <= 2 / 255 + 1e-6


@pytest.mark.parametrize("exposure_s", [1 / 60, 1.0])
def test_long_paths_leave_no_gaps(exposure_s: float) -> None:
    camera = dataclasses.replace(CAMERA, exposure_s=exposure_s)
    scene = scene_of(camera, Subject(1.0, direction_deg=0), softness_px=0.5)
    length = camera.focal_px(SIZE[1]) * exposure_s / 5
    radius = math.ceil(length / 2) + 8
    kernel = psf.kernels_at(scene, scene.frame_size[:, None] / 2, radius, front=True)[0, 0]
    inside = kernel.sum(0)[radius - int(length / 2) + 3 : radius + int(length / 2) - 2]
    assert float(inside.max() / inside.min()) < 1.15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speed_m_s": -1}, r"^Subject\.speed_m_s is -1, expected 0 or more\.$"),
        ({"speed_m_s": math.nan}, r"^Subject\.speed_m_s is nan, expected 0 or more\.$"),
        ({"speed_m_s": 1, "distance_m": 0}, r"^Subject\.distance_m is 0, expected above 0\.$"),
        ({"speed_m_s": 1, "direction_deg": math.inf}, r"^Subject\.direction_deg is inf, expected"),
    ],
)
def test_impossible_subjects_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Subject(**arguments)


def test_masks_must_fit() -> None:
    image, conditions = photo(96, 128), dataclasses.replace(STILL, subject=RUNNER)
    with pytest.raises(ValueError, match=r"^subject_mask is \(5, 7\), expected \(96, 128\) as"):
        synthesize(image, CAMERA, conditions=conditions, subject_mask=torch.ones(5, 7))
    with pytest.raises(ValueError, match=r"^subject_mask is the shape of conditions\.subject:"):
        synthesize(image, CAMERA, subject_mask=torch.ones(96, 128))
