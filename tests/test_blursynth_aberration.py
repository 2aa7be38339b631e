"""Spherical aberration and coma, against the third-order formulas."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from test_blursynth_optics import DOUBLE, RADIUS, moments, number
from torch import Tensor
from toys import photo

from blursynth import psf
from blursynth.aberration import aberrated_kernel
from blursynth.camera import Camera
from blursynth.optics import aperture_kernel
from blursynth.physics import synthesize
from blursynth.scene import Scene
from blursynth.shot import Conditions, take

STILL = Conditions(hand=None, diffraction=False, mosaic=False, noise=False, highlights=0)
CAMERA = Camera(focal_mm=85, f_number=2.8, focus_distance_m=4)
SIZE = (1080, 1920)
NONE = {"blades": number(0), "turn": number(0.3), "cat_eye": torch.zeros(2, dtype=DOUBLE)}


def kernel(
    diameter: float, spherical: float = 0, coma: tuple[float, float] = (0, 0), **changes: Tensor
) -> Tensor:
    return aberrated_kernel(
        number(diameter),
        RADIUS,
        spherical_px=number(spherical),
        coma_px=torch.tensor(coma, dtype=DOUBLE),
        **{**NONE, **changes},
    )


def distances() -> Tensor:
    line = torch.arange(-RADIUS, RADIUS + 1, dtype=DOUBLE)
    return torch.hypot(line[:, None], line)


@pytest.mark.parametrize("diameter", [12.0, -30.0])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"blades": number(5)},
        {"cat_eye": torch.tensor([0.3, -0.7], dtype=DOUBLE)},
        {"blades": number(3), "cat_eye": torch.tensor([0.5, 0.0], dtype=DOUBLE)},
    ],
    ids=["round", "pentagon", "cat eye", "cut triangle"],
)
def test_without_aberration_it_is_the_aperture(diameter: float, changes: dict[str, Tensor]) -> None:
    made = kernel(diameter, **changes)
    expected = aperture_kernel(number(diameter), RADIUS, **{**NONE, **changes})
    assert float(made.sum()) == pytest.approx(1, abs=1e-12)
    assert float((made - expected).norm() / expected.norm()) < 0.12
    for ours, theirs in zip(moments(made), moments(expected), strict=True):
        assert ours == pytest.approx(theirs, rel=0.03, abs=0.1)


@pytest.mark.parametrize("spherical", [18.0, -18.0])
def test_spherical_aberration_in_focus(spherical: float) -> None:
    """A ray lands at s rho^3: within r lies a share of (r / s)^(2/3) of the light."""
    made = kernel(0, spherical)
    assert moments(made)[0] == pytest.approx([0, 0], abs=0.05)
    for part in (0.3, 0.5, 0.8):
        share = made[distances() <= 18 * part].sum()
        assert float(share) == pytest.approx(part ** (2 / 3), abs=0.02)


@pytest.mark.parametrize("spherical", [4.0, -2.5])
def test_spherical_aberration_softens_disks_or_makes_rings(spherical: float) -> None:
    """Light at r = a rho + s rho^3, a = c / 2, is as 1 / ((a + s rho^2) (a + 3 s rho^2))."""
    made, a = kernel(30, spherical), 15.0
    for rho in (0.5, 0.8):
        ring = (distances() - (a * rho + spherical * rho**3)).abs() < 1
        middle = distances() < 2.5
        expected = a**2 / ((a + spherical * rho**2) * (a + 3 * spherical * rho**2))
        assert float(made[ring].mean() / made[middle].mean()) == pytest.approx(expected, rel=0.06)


def test_coma_draws_the_light_to_one_side() -> None:
    """Its centroid lies at k, its tip at 0, its end at 3 k, and it is a cone of 60 degrees."""
    made = kernel(0, coma=(0.0, 7.0))
    centre, _ = moments(made)
    assert centre == pytest.approx([0, 7], abs=0.1)
    rows, columns = (made > 1e-9).nonzero().sub(RADIUS).unbind(1)
    assert int(columns.min()) >= -1
    assert int(columns.max()) == pytest.approx(21, abs=1)
    outside = rows.abs() > columns.abs() * math.tan(math.pi / 6) + 2
    assert not bool((outside & (columns < 10)).any())


def scene_of(**changes: object) -> Scene:
    conditions = dataclasses.replace(STILL, distance_m=6.0, **changes)
    return take(np.random.default_rng(0), CAMERA, SIZE, conditions)


def test_coma_grows_outwards_from_the_middle() -> None:
    scene = scene_of(coma_px=5.0)
    assert psf.varies(scene)
    middle = torch.tensor([540.0, 960.0])
    outward = torch.tensor([[0.0, 0.0], [270.0, 480.0], [540.0, 960.0], [-540.0, 960.0]])
    kernels = psf.kernels_at(scene, (middle + outward)[None], 48)[0].double()
    direction = outward / torch.tensor([540.0, 960.0]).norm()
    for made, expected in zip(kernels, direction * 5, strict=True):
        assert moments(made)[0] == pytest.approx(expected.tolist(), abs=0.1)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(4, dtype=DOUBLE), rtol=0, atol=1e-5)


def test_kernels_reach_as_far_as_the_rays() -> None:
    for changes in ({"spherical_px": 9.0}, {"spherical_px": -9.0}, {"coma_px": 8.0}):
        scene = scene_of(**changes)
        corner = scene.frame_size[:, None] * 1.0
        reach = psf.reach_px(scene)
        near, far = (psf.kernels_at(scene, corner, radius)[0, 0] for radius in (reach, reach + 16))
        assert torch.allclose(near, far[16:-16, 16:-16], atol=1e-6)


def test_depth_of_one_plane_is_plain_defocus() -> None:
    image, place = photo(96, 128), {"frame_size": SIZE, "origin": (200, 300)}
    conditions = dataclasses.replace(STILL, spherical_px=-1.5, coma_px=2.0)
    plane = torch.full((96, 128), 6.0)
    deep = synthesize(image, CAMERA, conditions=conditions, depth_m=plane, **place).blurred
    conditions = dataclasses.replace(conditions, distance_m=6.0)
    plain = synthesize(image, CAMERA, conditions=conditions, **place).blurred
    assert float((deep - plain).abs().max()) <= 2 / 255 + 1e-6
    conditions = dataclasses.replace(STILL, distance_m=6.0)
    perfect = synthesize(image, CAMERA, conditions=conditions, **place).blurred
    assert float((plain - perfect).abs().max()) > 5 / 255


def test_a_perfect_lens_is_as_before() -> None:
    scene = scene_of()
    assert not scene.spherical_px.any()
    assert not scene.coma_px.any()
    assert not psf.varies(scene)


@pytest.mark.parametrize("field", ["spherical_px", "coma_px"])
def test_impossible_aberrations_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"^Conditions\.{field} is 51, expected -50 to 50\.$"):
        Conditions(**{field: 51})
