"""The blurred photo that a physics map foretells, against the physics engine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from toys import photo

from blursynth import physics, psf
from blursynth.camera import Camera
from blursynth.diffusion_conditions import map_lengths, map_noise, physics_map
from blursynth.diffusion_foretell import foretell
from blursynth.motion import Hand
from blursynth.sensor import noise_levels
from blursynth.shot import Conditions
from freqdiff.tone import srgb_to_linear

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = Camera(iso=25, f_number=8, exposure_s=1 / 1000, focal_mm=50, focus_distance_m=1.5)
STILL = Conditions(hand=None, diffraction=False, mosaic=False, highlights=0)


def taken(camera: Camera, conditions: Conditions) -> tuple[torch.Tensor, ...]:
    """A sharp photo, the physics engine's, and the map of its blur."""
    sharp = photo(192, 256)
    place: dict[str, Any] = {"frame_size": (1500, 2000), "origin": (600, 900)}
    drawn = physics.draw_exposure(sharp, camera, seed=3, conditions=conditions, **place)
    field = psf.blur_field(drawn.scene, (192, 256), place["origin"], drawn.confusion)
    made = physics.synthesize(sharp, camera, seed=3, conditions=conditions, **place)
    return sharp, made.blurred, physics_map(field, sharp, 0)[None]


@pytest.mark.parametrize(
    ("camera", "conditions", "most"),
    [
        ({"f_number": 2.8}, {"distance_m": 3}, 0.05),
        ({"exposure_s": 1 / 8}, {"hand": Hand()}, 0.5),
    ],
    ids=["defocus", "shake"],
)
def test_it_is_near_to_physics(
    camera: dict[str, Any], conditions: dict[str, Any], most: float
) -> None:
    own = dataclasses.replace(PLAIN, **camera), dataclasses.replace(STILL, **conditions)
    sharp, blurred, maps = taken(*own)
    inner = (..., slice(32, -32), slice(32, -32))
    found = foretell(sharp[None], maps)[0][inner]
    change = (blurred[inner] - sharp[inner]).square().mean()
    left = (blurred[inner] - found).square().mean()
    assert float(change) > 1e-3
    assert float(left) < most * float(change), float(left / change)


def test_nothing_told_changes_nothing() -> None:
    sharp = photo(100, 140)[None]
    same = foretell(sharp, torch.zeros(1, 4, 100, 140))
    torch.testing.assert_close(same, sharp, rtol=0, atol=1e-5)


def test_photos_of_a_batch_are_apart() -> None:
    sharp = torch.stack((photo(96, 130), 1 - photo(96, 130)))
    maps = torch.zeros(2, 4, 96, 130)
    maps[0, 0], maps[1, 2] = 0.5, -0.4
    together = foretell(sharp, maps)
    for one in range(2):
        alone = foretell(sharp[one : one + 1], maps[one : one + 1])
        torch.testing.assert_close(together[one], alone[0], rtol=0, atol=1e-5)


def test_a_map_tells_lengths_in_pixels() -> None:
    field = psf.BlurField(torch.tensor([[[-3.0]], [[4.0]]]), torch.tensor([[-20.0]]))
    motion, defocus = map_lengths(physics_map(field, photo(16, 16), 0)[None])
    assert float(defocus[0, 4, 4]) == pytest.approx(-20, rel=1e-4)
    # Without a sign: the opposite motion is the same.
    along = motion[0, 4, 4] * motion[0, 4, 4, 1].sign()
    torch.testing.assert_close(along, torch.tensor([-3.0, 4.0]), rtol=1e-4, atol=1e-4)


def test_a_map_tells_the_noise() -> None:
    flat = torch.full((3, 8, 16), 0.5)
    field = psf.BlurField(torch.zeros(2, 1, 1), torch.zeros(1, 1))
    noise = map_noise(physics_map(field, flat, 3200)[None], (2, 4))
    assert noise.shape == (1, 1, 2, 4)
    shot, read = noise_levels(torch.tensor(3200.0))
    light = srgb_to_linear(torch.tensor([0.499, 0.5, 0.501]))
    slope = 0.002 / (light[2] - light[0])
    deviation = (shot * light[1] + read).sqrt() * slope
    torch.testing.assert_close(noise, deviation.expand_as(noise), rtol=1e-3, atol=0)
    assert float(map_noise(torch.zeros(1, 4, 8, 16), (2, 4)).max()) == 0


def test_motion_blurs_along_its_direction() -> None:
    point = torch.zeros(1, 3, 65, 65)
    point[..., 32, 32] = 1
    field = psf.BlurField(torch.tensor([[[6.0]], [[8.0]]]), torch.zeros(1, 1))
    maps = physics_map(field, point[0], 0)[None]
    light = srgb_to_linear(foretell(point, maps))[0, 0]
    place = torch.arange(65.0) - 32
    weight = light / light.sum()
    yy = float((weight.sum(1) * place.square()).sum())
    xx = float((weight.sum(0) * place.square()).sum())
    yx = float((weight * place[:, None] * place).sum())
    # Of an even straight path of 10 px the second moment along it is 100 / 12; the split between
    # pixels adds 1/6 to rows and columns.
    assert yy == pytest.approx(0.36 * 100 / 12 + 1 / 6, abs=0.1)
    assert xx == pytest.approx(0.64 * 100 / 12 + 1 / 6, abs=0.1)
    assert yx == pytest.approx(0.48 * 100 / 12, abs=0.1)
