"""Blur of light by the kernels of an exposure: alike everywhere, over the frame, or by depth."""

from __future__ import annotations

import dataclasses
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth import depth, psf
from blursynth.scene import Scene
from freqdiff_kernels import ops, reference_filter

_MOST_TAPS = 1000
"""Denser kernels are faster by FFT (docs/kernels.md, on an AMD EPYC with AVX-512)."""
_CELL = 16
"""Side in pixels of the squares whose range of depths is known."""


def filter_frame(
    image: Tensor, scene: Scene, origin: Tensor, step: int, margin: int, *, front: bool = False
) -> Tensor:
    """Blur by the kernels of a grid of nodes, or by one where the blur is the same everywhere.

    Args:
        image: (B, C, H, W) with `margin` pixels around.
        scene: B exposures.
        origin: (B, 2) position (y, x) of the image without margin in the frame, in pixels.
        step: pixels between the nodes.
        margin: radius of the kernels.
        front: by the front layer's kernels instead of the background's.

    Returns:
        (B, C, H - 2 margin, W - 2 margin).
    """
    size = (image.shape[-2] - 2 * margin, image.shape[-1] - 2 * margin)
    return convolve_grid(image, _kernels(scene, origin, size, step, margin, front), step)


def _kernels(
    scene: Scene,
    origin: Tensor,
    size: tuple[int, int],
    step: int,
    radius: int,
    front: bool = False,
) -> Tensor:
    rows, columns = (-(-side // step) + 1 for side in size)
    if not psf.varies(scene):
        rows = columns = 1
    grid = [torch.arange(count, device=origin.device) * step for count in (rows, columns)]
    nodes = origin[:, None, None] + torch.stack(torch.meshgrid(*grid, indexing="ij"), -1)
    kernels = psf.kernels_at(scene, nodes.flatten(1, 2), radius, front=front)
    return kernels.view(-1, rows, columns, *kernels.shape[2:])


def convolve_grid(image: Tensor, kernels: Tensor, step: int) -> Tensor:
    """`ops.filter_grid`, or by FFT where the kernels are dense."""
    if float((kernels > 0).sum((-2, -1)).amax()) > _MOST_TAPS:
        return reference_filter.filter_grid(image, kernels, step)
    return ops.filter_grid(image, kernels, step)


def convolve_picture(picture: Tensor, kernels: Tensor, step: int) -> Tensor:
    """`convolve_grid` of a whole picture (B, C, H, W), which goes on beyond its border as there."""
    radius = kernels.shape[-1] // 2
    padded = F.pad(picture, (radius,) * 4, mode="replicate")
    return convolve_grid(padded, kernels, step)


def aperture_only(scene: Scene, diameter_px: float) -> Scene:
    """The same exposures with this circle of confusion and no blur but the aperture's."""
    return dataclasses.replace(
        scene,
        defocus_px=torch.full_like(scene.defocus_px, diameter_px),
        rotations=torch.zeros_like(scene.rotations),
        object_shift=torch.zeros_like(scene.object_shift),
        softness_px=torch.zeros_like(scene.softness_px),
        cutoff=torch.full_like(scene.cutoff, torch.inf),
    )


def blur_by_depth(
    light: Tensor, scene: Scene, origin: Tensor, step: int, margin: int, confusion: Tensor
) -> Tensor:
    """Blur by depth, then by what is the same at every depth: shake, diffraction and softness.

    A camera that turns moves near and far alike, so that what covers what stays as it is.

    Args:
        light: (1, 3, H, W) with `margin` pixels around.
        scene: one exposure.
        origin: (1, 2) position (y, x) of the light without margin in the frame, in pixels.
        step: pixels between the nodes of kernels.
        margin: pixels that the blur reaches; kernels are cut there.
        confusion: (1, 1, H, W) signed circle of confusion in pixels.

    Returns:
        (1, 3, H - 2 margin, W - 2 margin).
    """
    common = dataclasses.replace(
        scene,
        defocus_px=torch.zeros_like(scene.defocus_px),
        spherical_px=torch.zeros_like(scene.spherical_px),
        coma_px=torch.zeros_like(scene.coma_px),
    )
    reach = min(psf.reach_px(common), margin // 2)
    composite = _stack_layers(light, scene, origin - reach, step, margin - reach, confusion)
    return filter_frame(composite, common, origin, step, reach)


def _stack_layers(
    light: Tensor, scene: Scene, origin: Tensor, step: int, margin: int, confusion: Tensor
) -> Tensor:
    """Blur the layers of a scene by the aperture and lay them over each other, near ones above.

    What a blurred near layer lets through behind its edge was hidden in the photo: it takes the
    colours of what is seen there.
    """
    height, width = (side - 2 * margin for side in light.shape[-2:])
    result = light.new_empty(1, 3, height, width)
    diameters, spacing = depth.layers(confusion)
    nearest = -F.max_pool2d(-confusion, _CELL, ceil_mode=True).cpu()
    farthest = F.max_pool2d(confusion, _CELL, ceil_mode=True).cpu()
    layers = []
    for diameter in diameters:
        lens = aperture_only(scene, diameter)
        reach = min(psf.reach_px(lens), margin)
        alike = None if psf.varies(lens) else _kernels(lens, origin, (1, 1), step, reach)
        layers.append((diameter, lens, reach, alike))
    for y, x in itertools.product(range(0, height, step), range(0, width, step)):
        bottom, right = min(y + step, height), min(x + step, width)
        block = light.new_zeros(1, 3, bottom - y, right - x)
        free = torch.ones_like(block[:, :1])
        for diameter, lens, reach, alike in layers:
            rows = slice(y + margin - reach, bottom + margin + reach)
            columns = slice(x + margin - reach, right + margin + reach)
            cells = (..., _cells(rows), _cells(columns))
            too_near = float(farthest[cells].max()) <= diameter - spacing
            if too_near or float(nearest[cells].min()) >= diameter + spacing:
                continue
            cover = depth.opacity(confusion[..., rows, columns], diameter, spacing)
            layer = torch.cat((light[..., rows, columns] * cover, cover), 1)
            kernels = alike
            if kernels is None:
                corner = origin + origin.new_tensor([y, x])
                kernels = _kernels(lens, corner, (bottom - y, right - x), step, reach)
            layer = convolve_grid(layer, kernels, step)
            block += free * layer[:, :3]
            free *= 1 - layer[:, 3:]
        result[..., y:bottom, x:right] = block / (1 - free)
    return result


def _cells(pixels: slice) -> slice:
    return slice(pixels.start // _CELL, -(-pixels.stop // _CELL))
