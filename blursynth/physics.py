"""The physics engine: blur batches of crops, or one whole frame, by the scene's exposure."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth import depth, psf, raw, sensor, shot
from blursynth.camera import Camera
from blursynth.filtering import aperture_only, blur_by_depth, filter_frame
from blursynth.inpaint import uncover
from blursynth.scene import Recipe, Scene, sample_scene
from blursynth.shot import Conditions

MARGIN = 32
"""Pixels around a crop of the training stream that its blur may reach into."""
LONGEST_REACH = 160
"""Pixels that the blur of a whole frame may reach; longer paths are cut there."""

STEP = 192
"""Pixels between the kernels of a frame whose blur varies."""


def expose(
    image: Tensor,
    scene: Scene,
    origin: Tensor,
    margin: int = MARGIN,
    confusion: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Blur crops by motion and focus; no noise yet.

    Blur that varies over the frame is interpolated between kernels on a grid (efficient filter
    flow, Hirsch et al. 2010), whose nodes depend on the crop alone where it is at most `STEP`
    pixels large, else on multiples of `STEP` from its corner.

    Args:
        image: (B, 3, H, W) sRGB in [0, 1], or its bytes, with `margin` pixels around.
        scene: B exposures on the same device.
        origin: (B, 2) position (y, x) in the frame, in pixels, of the crop without margin.
        margin: pixels around a crop that its blur reaches into; what would come from farther off
            comes from there.
        confusion: (B, 1, H, W) circle of confusion of each pixel, from a depth map, instead of
            `scene.defocus_px`; for one exposure only (B = 1).
        mask: (B, 1, H, W) opacity in [0, 1] of a front layer that is one thing, instead of the
            random shape of `front_mask`; what it hides is filled from around it.

    Returns:
        (B, 3, H - 2 margin, W - 2 margin): linear light, or sRGB where `scene.signal_domain`;
        both may exceed [0, 1].
    """
    light = light_of(image, scene)
    size = (image.shape[-2] - 2 * margin, image.shape[-1] - 2 * margin)
    step = min(STEP, max(size))
    behind = light if mask is None else uncover(light, mask, margin)
    if confusion is None:
        result = filter_frame(behind, scene, origin, step, margin, front=False)
    else:
        result = blur_by_depth(behind, scene, origin, step, margin, confusion)
    if scene.has_layer:
        reach = margin if confusion is None else min(margin, psf.reach_px(scene))
        light = _trim(light, margin - reach)
        if mask is None:
            mask = front_mask(scene, origin - reach, (light.shape[-2], light.shape[-1]))
        else:
            mask = _trim(mask, margin - reach)
        layer = torch.cat((light * mask, mask), 1)
        layer = filter_frame(layer, scene, origin, step, reach, front=True)
        result = result * (1 - layer[:, 3:]) + layer[:, :3]
    return result


def light_of(image: Tensor, scene: Scene) -> Tensor:
    """What is blurred: linear light, or sRGB where `scene.signal_domain`."""
    signal = image
    if image.dtype == torch.uint8:
        levels = torch.arange(256, device=image.device, dtype=torch.float32) / 255
        signal = levels.expand(len(image), 1, 1, 256)
    light = raw.inverse_tone_curve(signal, scene.development.tone, scene.development.contrast)
    light = sensor.restore_highlights(light, scene.highlight_gain)
    if bool((scene.signal_domain > 0).any()):
        light = torch.where(scene.signal_domain[:, None, None, None] > 0, signal, light)
    if image.dtype == torch.uint8:
        rows = 256 * torch.arange(len(image), device=image.device, dtype=torch.int32)
        index = image.int() + rows[:, None, None, None]
        light = light.flatten().index_select(0, index.flatten()).view(image.shape)
    return light


def _trim(image: Tensor, border: int) -> Tensor:
    return image[..., border : image.shape[-2] - border, border : image.shape[-1] - border]


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
    mask: Tensor | None = None,
) -> Tensor:
    """Blur a whole frame, or a part of one whose surroundings are not known.

    Args:
        image: (3, H, W) sRGB in [0, 1].
        scene: one exposure (a batch of one).
        generator: source of the noise, on the device of `image`.
        confusion: (H, W) circle of confusion of each pixel, instead of `scene.defocus_px`.
        origin: position (y, x) of the image in the frame of the scene.
        mask: (H, W) opacity of the front layer in [0, 1], instead of `front_mask`.

    Returns:
        (3, H, W) sRGB in [0, 1] on 256 levels.
    """
    margin = psf.reach_px(scene)
    if confusion is not None:
        margin += psf.reach_px(aperture_only(scene, float(confusion.abs().max())))
    margin = min(margin, LONGEST_REACH)

    def padded(planes: Tensor) -> Tensor:
        return F.pad(planes[None], (margin,) * 4, mode="replicate")

    confusion, mask = (
        None if plane is None else padded(plane[None]) for plane in (confusion, mask)
    )
    origins = image.new_tensor([origin])
    light = expose(padded(image), scene, origins, margin, confusion, mask)
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
    subject_mask: Tensor | None = None,
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
        subject_mask: (H, W) opacity in [0, 1] of `conditions.subject`, which lies in front of all;
            without, it has a random smooth shape.
        frame_size: height and width of the frame that `sharp` is a part of; without, it is all.
        origin: position (y, x) of `sharp` in it.

    Raises:
        ValueError: `sharp` is not a (3, H, W) floating-point image, the depth map or the mask has
            another size, a recipe is given beside conditions or depth, or a mask without subject.
    """
    drawn = draw_exposure(
        sharp,
        camera,
        seed=seed,
        recipe=recipe,
        conditions=conditions,
        depth_m=depth_m,
        frame_size=frame_size,
        origin=origin,
    )
    size = (sharp.shape[-2], sharp.shape[-1])
    mask = None
    if subject_mask is not None:
        _check_plane("subject_mask", subject_mask, size)
        if conditions is None or conditions.subject is None:
            raise ValueError("subject_mask is the shape of conditions.subject: give that too.")
        mask = subject_mask.to(sharp.device, torch.float32)
    scene, confusion = drawn.scene, drawn.confusion
    blurred = blur_frame(sharp.float(), scene, drawn.generator, confusion, origin, mask)
    field = psf.blur_field(scene, size, origin, confusion)
    return Synthesis(blurred, drawn.camera, scene, field)


@dataclasses.dataclass(frozen=True)
class Exposure:
    """How a photo is taken.

    Attributes:
        camera: the settings.
        scene: what happens during the exposure, on the device of the photo.
        confusion: (H, W) circle of confusion of each pixel, if there is a depth map.
        generator: source of the noise, on the same device.
    """

    camera: Camera
    scene: Scene
    confusion: Tensor | None
    generator: torch.Generator


def draw_exposure(
    sharp: Tensor,
    camera: Camera | None = None,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    conditions: Conditions | None = None,
    depth_m: Tensor | None = None,
    frame_size: tuple[int, int] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Exposure:
    """Draw how a photo is taken; arguments and errors as of `synthesize`."""
    if sharp.ndim != 3 or sharp.shape[0] != 3 or not sharp.is_floating_point():
        raise ValueError(
            f"sharp is {sharp.dtype} {tuple(sharp.shape)}, expected a floating-point (3, H, W)."
        )
    size = (sharp.shape[-2], sharp.shape[-1])
    if depth_m is not None:
        _check_plane("depth_m", depth_m, size)
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
    return Exposure(camera, scene, confusion, generator)


def _check_plane(name: str, plane: Tensor, size: tuple[int, int]) -> None:
    if plane.shape != size:
        raise ValueError(f"{name} is {tuple(plane.shape)}, expected {size} as the photo.")
