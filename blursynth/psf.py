"""The kernels of an exposure's whole blur, anywhere in the frame: motion, aperture, diffraction."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth import aberration, motion, optics
from blursynth.scene import Scene
from freqdiff_kernels import ops


def varies(scene: Scene) -> bool:
    """Whether any blur of the batch depends on the place in the frame."""
    cut = scene.cat_eye * scene.defocus_px.mT
    return bool(scene.rotations.any() or cut.any() or scene.coma_px.any())


def camera_path(scene: Scene, nodes: Tensor) -> Tensor:
    """How the camera's motion moves points of the frame while they are exposed.

    Args:
        scene: B exposures.
        nodes: (B, K, 2) positions (y, x) in the frame, in pixels.

    Returns:
        (B, K, N, 2) displacements (dy, dx) in pixels, weighted mean 0 where the shutter rolls, so
        that the blurred photo lies on the sharp one in every row.
    """
    points = nodes - scene.frame_size[:, None] / 2
    rolls = bool((scene.shutter < 1).any())
    rotations = scene.rotations[:, None]
    if rolls:
        start = (nodes[..., 0] / scene.frame_size[:, :1]).clamp(0, 1)
        count = scene.weights.shape[1]
        rotations = motion.rolling_shutter(scene.rotations, start, scene.shutter, count)
    path = motion.rotation_displacements(rotations, points, scene.focal_px)
    if rolls:
        path = path - (scene.weights[:, None, :, None] * path).sum(2, keepdim=True)
    return path


def kernels_at(scene: Scene, nodes: Tensor, radius: int, *, front: bool = False) -> Tensor:
    """Kernels of the whole blur at points of the frame.

    Args:
        scene: B exposures.
        nodes: (B, K, 2) positions (y, x) in the frame, in pixels.
        radius: of the kernels; what lies beyond is drawn in to it.
        front: of the front layer instead of the background.

    Returns:
        (B, K, 2 radius + 1, 2 radius + 1), each with sum 1.
    """
    path = camera_path(scene, nodes)
    if front:
        path = path + scene.object_shift[:, None]
    weights = scene.weights[:, None].expand(path.shape[:-1])
    kernels = ops.rasterize_paths(path, weights, radius)
    defocus = scene.defocus_px[:, int(front)]
    aberrant = (scene.spherical_px != 0) | (scene.coma_px != 0)
    optical = (defocus != 0) | aberrant | (scene.softness_px > 0) | scene.cutoff.isfinite()
    if not bool(optical.any()):
        return kernels
    part = scene.map(lambda values: values[optical])
    nodes, defocus = nodes[optical], defocus[optical]
    if not bool((part.cat_eye * defocus).any() or part.coma_px.any()):
        nodes = nodes[:, :1]  # one lens for all

    def spread(values: Tensor) -> Tensor:
        return values[:, None].expand(nodes.shape[:2])

    middle, diagonal = part.frame_size[:, None] / 2, part.frame_size.norm(dim=1)[:, None, None]
    outward = 2 * (nodes - middle) / diagonal
    cat_eye = outward * part.cat_eye[:, None, None]
    blades, turn = spread(part.blades), spread(part.blade_turn)
    diameter = spread(defocus)
    lens = optics.aperture_kernel(diameter, radius, blades=blades, turn=turn, cat_eye=cat_eye)
    if bool((rows := aberrant[optical]).any()):
        coma = outward * part.coma_px[:, None, None]
        lens[rows] = aberration.aberrated_kernel(
            diameter[rows],
            radius,
            spherical_px=spread(part.spherical_px)[rows],
            coma_px=coma[rows],
            blades=blades[rows],
            turn=turn[rows],
            cat_eye=cat_eye[rows],
        )
    if bool((part.softness_px > 0).any()):
        softness = optics.softness_kernel(part.softness_px, radius)
        lens = optics.convolve_kernels(lens, softness[:, None])
    if bool(part.cutoff.isfinite().any()):
        rings = optics.diffraction_kernel(part.cutoff, radius)
        lens = optics.convolve_kernels(lens, rings[:, None])
    paths = kernels[optical]
    kernels[optical] = optics.convolve_kernels(lens.expand_as(paths), paths)
    return kernels


def reach_px(scene: Scene) -> int:
    """Pixels that any blur of the batch reaches from its point, a multiple of 16."""
    unit = scene.frame_size.new_tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    path = camera_path(scene, unit * scene.frame_size[:, None])
    motion = path.abs().amax((1, 2, 3)) + scene.object_shift.abs().amax((1, 2))
    optical = scene.defocus_px.abs().amax(1) / 2 + 3 * scene.softness_px
    optical = optical + scene.spherical_px.abs() + 3 * scene.coma_px.abs()
    return 16 * math.ceil((float((motion + optical).max()) + 2) / 16)


def point_spread(scene: Scene, points: Tensor, radius: int) -> Tensor:
    """The background's kernels (B, 2 radius + 1, 2 radius + 1) at one point each, cut off at
    `radius` and with sum 1 again; `points` as in `kernels_at`, (B, 2)."""
    reach = max(radius, reach_px(scene))
    inner = slice(reach - radius, reach + radius + 1)
    kernels = kernels_at(scene, points[:, None], reach)[:, 0, inner, inner]
    normal: Tensor = kernels / kernels.sum((1, 2), keepdim=True)
    return normal


@dataclasses.dataclass(frozen=True)
class BlurField:
    """Where and how a photo is blurred, one value for each square of `GRID` pixels.

    Attributes:
        motion: (2, h, w) direction and extent (dy, dx) of the motion in pixels, without a sign:
            along the longest axis of the path, as long as an even straight path of that spread.
        defocus: (h, w) signed circle of confusion in pixels.
    """

    motion: Tensor
    defocus: Tensor


GRID = 16


def blur_field(
    scene: Scene,
    size: tuple[int, int],
    origin: tuple[int, int] = (0, 0),
    confusion: Tensor | None = None,
) -> BlurField:
    """The blur field of the background of one exposure.

    Args:
        scene: one exposure (a batch of one).
        size: height and width of the photo, which may be a part of the scene's frame.
        origin: position (y, x) of the photo in it.
        confusion: (H, W) circle of confusion of each pixel instead of `scene.defocus_px`.
    """
    counts = [-(-side // GRID) for side in size]
    # The path hardly changes within a few hundred pixels; its spread is interpolated between.
    coarse = [min(count, 1 + -(-count // 16)) for count in counts]
    lines = [
        first + (torch.arange(count, device=scene.weights.device) + 0.5) * side / count
        for count, side, first in zip(coarse, size, origin, strict=True)
    ]
    nodes = torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, 1)[None]
    path = camera_path(scene, nodes)[0]
    weights = scene.weights[0, :, None]
    path = path - (weights * path).sum(1, keepdim=True)
    y, x = path.unbind(-1)
    products = torch.stack((y * y, y * x, x * x))
    spread = (products * weights[:, 0]).sum(-1).view(3, *coarse)
    yy, yx, xx = F.interpolate(spread[None], counts, mode="bilinear", align_corners=False)[0]
    extent = (6 * (yy + xx + torch.hypot(yy - xx, 2 * yx))).sqrt()
    angle = torch.atan2(2 * yx, xx - yy) / 2
    motion = extent * torch.stack((angle.sin(), angle.cos()))
    defocus = scene.defocus_px[0, 0].expand(counts)
    if confusion is not None:
        defocus = F.interpolate(confusion[None, None], counts, mode="area")[0, 0]
    return BlurField(motion, defocus)
