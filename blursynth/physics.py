"""The physics engine: blur batches of crops, or one whole frame, by the scene's exposure."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth import depth, psf, raw, sensor, shot
from blursynth.camera import Camera
from blursynth.scene import Recipe, Scene, sample_scene
from blursynth.shot import Conditions
from freqdiff_kernels import ops, reference_filter

MARGIN = 32
"""Pixels around a crop of the training stream that its blur may reach into."""
LONGEST_REACH = 160
"""Pixels that the blur of a whole frame may reach; longer paths are cut there."""

_MOST_TAPS = 1000
"""Denser kernels are faster by FFT (docs/kernels.md, on an AMD EPYC with AVX-512)."""
STEP = 192
"""Pixels between the kernels of a frame whose blur varies."""


def expose(
    image: Tensor,
    scene: Scene,
    origin: Tensor,
    margin: int = MARGIN,
    confusion: Tensor | None = None,
) -> Tensor:
    """Blur crops by motion and focus; no noise yet.

    Blur that varies over the frame is interpolated between kernels on a grid (efficient filter
    flow, Hirsch et al. 2010), whose nodes depend on the crop alone where it is at most `STEP`
    pixels large, else on multiples of `STEP` from its corner.

    Args:
        image: (B, 3, H, W) sRGB in [0, 1], with `margin` pixels around.
        scene: B exposures on the same device.
        origin: (B, 2) position (y, x) in the frame, in pixels, of the crop without margin.
        margin: pixels around a crop that its blur reaches into; what would come from farther off
            comes from there.
        confusion: (B, 1, H, W) circle of confusion of each pixel, from a depth map, instead of
            `scene.defocus_px`; for one exposure only (B = 1).

    Returns:
        (B, 3, H - 2 margin, W - 2 margin): linear light, or sRGB where `scene.signal_domain`;
        both may exceed [0, 1].
    """
    signal = scene.signal_domain[:, None, None, None] > 0
    linear = raw.inverse_tone_curve(image, scene.development.tone, scene.development.contrast)
    linear = sensor.restore_highlights(linear, scene.highlight_gain)
    light = torch.where(signal, image, linear)
    size = (image.shape[-2] - 2 * margin, image.shape[-1] - 2 * margin)
    step = min(STEP, max(size))
    if confusion is None:
        result = _filter(light, scene, origin, step, margin, front=False)
    else:
        result = _filter_layers(light, scene, origin, step, margin, confusion)
    if scene.has_layer:
        mask = front_mask(scene, origin - margin, (image.shape[-2], image.shape[-1]))
        layer = torch.cat((light * mask, mask), 1)
        layer = _filter(layer, scene, origin, step, margin, front=True)
        result = result * (1 - layer[:, 3:]) + layer[:, :3]
    return result


def _filter(
    image: Tensor, scene: Scene, origin: Tensor, step: int, margin: int, front: bool
) -> Tensor:
    """Blur by the kernels of a grid of nodes, or by one where the blur is the same everywhere."""
    rows, columns = (-(-(side - 2 * margin) // step) + 1 for side in image.shape[-2:])
    if not psf.varies(scene):
        rows = columns = 1
    grid = [torch.arange(count, device=image.device) * step for count in (rows, columns)]
    nodes = origin[:, None, None] + torch.stack(torch.meshgrid(*grid, indexing="ij"), -1)
    kernels = psf.kernels_at(scene, nodes.flatten(1, 2), margin, front=front)
    kernels = kernels.view(-1, rows, columns, *kernels.shape[2:])
    if float((kernels > 0).sum((-2, -1)).amax()) > _MOST_TAPS:
        return reference_filter.filter_grid(image, kernels, step)
    return ops.filter_grid(image, kernels, step)


def _filter_layers(
    image: Tensor, scene: Scene, origin: Tensor, step: int, margin: int, confusion: Tensor
) -> Tensor:
    """Blur the layers of a scene and lay them over each other, near ones above far ones.

    What a blurred near layer lets through behind its edge was hidden in the photo: it takes the
    colours of what is seen there.
    """
    height, width = (side - 2 * margin for side in image.shape[-2:])
    result = image.new_zeros(1, 3, height, width)
    free = torch.ones_like(result[:, :1])
    for diameter, opacity in depth.layers(confusion):
        focused = dataclasses.replace(scene, defocus_px=scene.defocus_px * 0 + diameter)
        # A layer covers a part of the frame: its blocks are blurred alone.
        for y, x in itertools.product(range(0, height, step), range(0, width, step)):
            place = (..., slice(y, y + step + 2 * margin), slice(x, x + step + 2 * margin))
            if not bool(opacity[place].any()):
                continue
            layer = torch.cat((image[place] * opacity[place], opacity[place]), 1)
            block = origin + origin.new_tensor([y, x])
            layer = _filter(layer, focused, block, step, margin, front=False)
            inner = (..., slice(y, y + step), slice(x, x + step))
            result[inner] += free[inner] * layer[:, :3]
            free[inner] *= 1 - layer[:, 3:]
    return result / (1 - free)


def front_mask(scene: Scene, origin: Tensor, size: tuple[int, int]) -> Tensor:
    """Opacity (B, 1, H, W) of the front layer at absolute pixel positions, in [0, 1]."""
    device = origin.device
    y = origin[:, :1] + torch.arange(size[0], device=device) + 0.5
    x = origin[:, 1:] + torch.arange(size[1], device=device) + 0.5
    fy, fx, phase, amplitude = scene.mask_waves.unbind(-1)
    angle_y = 2 * torch.pi * fy[..., None] * y[:, None] + phase[..., None]
    angle_x = 2 * torch.pi * fx[..., None] * x[:, None]
    cos_y, sin_y = amplitude[..., None] * angle_y.cos(), amplitude[..., None] * angle_y.sin()
    shape = cos_y.mT @ angle_x.cos() - sin_y.mT @ angle_x.sin()
    return torch.sigmoid(shape + scene.mask_bias[:, None, None])[:, None]


def develop(light: Tensor, scene: Scene, generator: torch.Generator) -> Tensor:
    """Sensor and development of exposed light: mosaic, noise, clipping, colours, 8 bit, JPEG.

    Args:
        light: (B, 3, H, W) from `expose`.
        scene: the same B exposures.
        generator: source of the noise, on the device of `light`.

    Returns:
        (B, 3, H, W) sRGB in [0, 1] on 256 levels.
    """
    made = scene.development
    signal = scene.signal_domain > 0
    if bool(signal.any()):
        light = light.clone()
        curve = (made.tone[signal], made.contrast[signal])
        light[signal] = raw.inverse_tone_curve(light[signal].clamp(0, 1), *curve)
    image = raw.develop_raw(light, made, generator)
    compressed = scene.jpeg_quality > 0
    if bool(compressed.any()):
        image[compressed] = sensor.jpeg(
            image[compressed], scene.jpeg_quality[compressed], scene.jpeg_subsample
        )
    return image


def blur_frame(
    image: Tensor,
    scene: Scene,
    generator: torch.Generator,
    confusion: Tensor | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """Blur a whole frame, or a part of one whose surroundings are not known.

    Args:
        image: (3, H, W) sRGB in [0, 1].
        scene: one exposure (a batch of one).
        generator: source of the noise, on the device of `image`.
        confusion: (H, W) circle of confusion of each pixel, instead of `scene.defocus_px`.
        origin: position (y, x) of the image in the frame of the scene.

    Returns:
        (3, H, W) sRGB in [0, 1] on 256 levels.
    """
    most = scene.defocus_px if confusion is None else confusion.abs().amax().expand(1, 2)
    reach = psf.reach_px(dataclasses.replace(scene, defocus_px=most))
    margin = min(reach, LONGEST_REACH)
    padded = F.pad(image[None], (margin,) * 4, mode="replicate")
    if confusion is not None:
        confusion = F.pad(confusion[None, None], (margin,) * 4, mode="replicate")
    light = expose(padded, scene, image.new_tensor([origin]), margin, confusion)
    return develop(light, scene, generator)[0]


@dataclasses.dataclass(frozen=True)
class Synthesis:
    """A synthesised photo and what made it.

    Attributes:
        blurred: (3, H, W) sRGB in [0, 1].
        camera: the settings that were used.
        scene: what happened during the exposure.
        field: how the photo is blurred where.
    """

    blurred: Tensor
    camera: Camera
    scene: Scene
    field: psf.BlurField


def synthesize(
    sharp: Tensor,
    camera: Camera | None = None,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    conditions: Conditions | None = None,
    depth_m: Tensor | None = None,
    frame_size: tuple[int, int] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Synthesis:
    """Make a realistic blurred photo from a sharp one.

    With a camera, or conditions, or a depth map, the blur is what these settings cause; without
    any of them a camera is drawn at random and the extent of the blur by the `recipe`.

    Args:
        sharp: (3, H, W) sRGB in [0, 1], on any device.
        camera: settings of the exposure.
        seed: the same seed gives the same photo.
        recipe: how strongly to blur, in pixels; the default never returns an unblurred photo.
        conditions: what the blur depends on beside the camera.
        depth_m: (H, W) distance of each pixel in metres, see `depth.read_depth`; instead of
            `conditions.distance_m`.
        frame_size: height and width of the frame that `sharp` is a part of; without, it is all.
        origin: position (y, x) of `sharp` in it.

    Raises:
        ValueError: `sharp` is not a (3, H, W) floating-point image, the depth map has another
            size, or a recipe is given beside conditions or depth.
    """
    if sharp.ndim != 3 or sharp.shape[0] != 3 or not sharp.is_floating_point():
        raise ValueError(
            f"sharp is {sharp.dtype} {tuple(sharp.shape)}, expected a floating-point (3, H, W)."
        )
    size = (sharp.shape[-2], sharp.shape[-1])
    if depth_m is not None and depth_m.shape != size:
        raise ValueError(f"depth_m is {tuple(depth_m.shape)}, expected {size} as the photo.")
    if recipe is not None and (conditions is not None or depth_m is not None):
        raise ValueError("recipe decides the blur in pixels; give it, or conditions and depth_m.")
    frame = frame_size or size
    physical = recipe is None and (camera, conditions, depth_m) != (None, None, None)
    rng = np.random.default_rng(seed)
    camera = camera or Camera.sample(rng)
    if physical:
        scene = shot.take(rng, camera, frame, conditions or Conditions())
    else:
        recipe = recipe or dataclasses.replace(Recipe(), unblurred=0.0)
        scene = sample_scene(rng, camera, frame, recipe)
    scene = scene.map(lambda values: values.to(sharp.device))
    confusion = None
    if depth_m is not None:
        confusion = depth.confusion_px(camera, depth_m.to(sharp.device), frame[1])
    generator = torch.Generator(sharp.device).manual_seed(int(rng.integers(2**62)))
    blurred = blur_frame(sharp.float(), scene, generator, confusion, origin)
    return Synthesis(blurred, camera, scene, psf.blur_field(scene, size, origin, confusion))
