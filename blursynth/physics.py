"""The physics engine: blur batches of crops, or one whole frame, by the scene's exposure."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth import optics, sensor
from blursynth.camera import Camera
from blursynth.scene import Recipe, Scene, sample_scene

MARGIN = 32
"""Pixels around a crop that its blur may reach into."""

_BLOCK = 192
_BLOCKS_AT_ONCE = 8


def expose(image: Tensor, scene: Scene, origin: Tensor, frame_size: tuple[int, int]) -> Tensor:
    """Blur crops by motion and focus; no noise yet.

    Args:
        image: (B, 3, H, W) sRGB in [0, 1], with MARGIN pixels around.
        scene: B exposures on the same device.
        origin: (B, 2) position (y, x) of the crop without margin in its frame, in pixels.
        frame_size: height and width of the frames that the crops are from.

    Returns:
        (B, 3, H - 2 MARGIN, W - 2 MARGIN): linear light, or sRGB where `scene.signal_domain`;
        both may exceed [0, 1].
    """
    size = (image.shape[-2], image.shape[-1])
    inner = image.new_tensor([size[0] - 2 * MARGIN, size[1] - 2 * MARGIN])
    unit = image.new_tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    centre = image.new_tensor(frame_size) / 2
    corners = origin[:, None] + unit * inner - centre
    if not bool(scene.rotations.any()):
        corners = corners[:, :1]
    signal = scene.signal_domain[:, None, None, None] > 0
    linear = sensor.srgb_to_linear(image) ** scene.tone[:, None, None, None]
    linear = sensor.restore_highlights(linear, scene.highlight_gain)
    light = torch.where(signal, image, linear)
    path = optics.rotation_displacements(scene.rotations, corners, scene.focal_px)

    blur = _transfer(scene, path, scene.defocus_px[:, 0], size)
    result = optics.apply_transfer(light, blur, MARGIN)
    if scene.has_layer:
        mask = front_mask(scene, origin - MARGIN, size)
        layer = torch.cat((light * mask, mask), 1)
        shifted = path + scene.object_shift[:, None]
        front = _transfer(scene, shifted, scene.defocus_px[:, 1], size)
        layer = optics.apply_transfer(layer, front, MARGIN)
        result = result * (1 - layer[:, 3:]) + layer[:, :3]
    return result[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def point_spread(scene: Scene, points: Tensor, radius: int) -> Tensor:
    """Kernels of the background's blur at some points of the frame, in the plane of the sensor.

    Args:
        scene: B exposures.
        points: (B, 2) positions (y, x) relative to the middle of the frame, in pixels.
        radius: of the kernels in pixels; what lies beyond is cut off.

    Returns:
        (B, 2 radius + 1, 2 radius + 1), each with sum 1.
    """
    size = (4 * MARGIN, 4 * MARGIN)
    path = optics.rotation_displacements(scene.rotations, points[:, None], scene.focal_px)
    transfer = _transfer(scene, path, scene.defocus_px[:, 0], size)[:, 0]
    kernels = torch.fft.fftshift(torch.fft.irfft2(transfer, s=size), dim=(-2, -1))
    inner = slice(size[0] // 2 - radius, size[0] // 2 + radius + 1)
    kernels = kernels[:, inner, inner].clamp_min(0)
    normal: Tensor = kernels / kernels.sum((1, 2), keepdim=True)
    return normal


def _transfer(
    scene: Scene, displacements: Tensor, defocus: Tensor, size: tuple[int, int]
) -> Tensor:
    """Transfer functions (B, K, H, W // 2 + 1) of paths (B, K, N, 2) out of focus by (B,) px."""
    limited = displacements.clamp(-MARGIN, MARGIN)
    weights = scene.weights[:, None].expand(limited.shape[:-1])
    disk = optics.disk_transfer(defocus, scene.softness_px, size)
    return optics.path_transfer(limited, weights, size) * disk[:, None]


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
    """Sensor and development of exposed light: noise, clipping, tone curve, 8 bit, JPEG.

    Args:
        light: (B, 3, H, W) from `expose`.
        scene: the same B exposures.
        generator: source of the noise, on the device of `light`.

    Returns:
        (B, 3, H, W) sRGB in [0, 1] on 256 levels.
    """
    signal = scene.signal_domain[:, None, None, None] > 0
    tone = scene.tone[:, None, None, None]
    linear = torch.where(signal, sensor.srgb_to_linear(light.clamp(0, 1)) ** tone, light)
    linear = sensor.add_noise(linear, scene.iso, generator).clamp(0, 1) ** (1 / tone)
    image = (sensor.linear_to_srgb(linear) * 255).round() / 255
    compressed = scene.jpeg_quality > 0
    if bool(compressed.any()):
        image[compressed] = sensor.jpeg(
            image[compressed], scene.jpeg_quality[compressed], scene.jpeg_subsample
        )
    return image


def blur_frame(image: Tensor, scene: Scene, generator: torch.Generator) -> Tensor:
    """Blur a whole frame, block by block; the blocks meet without seams.

    Args:
        image: (3, H, W) sRGB in [0, 1].
        scene: one exposure (a batch of one).
        generator: source of the noise, on the device of `image`.

    Returns:
        (3, H, W) sRGB in [0, 1] on 256 levels.
    """
    height, width = image.shape[-2:]
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    bottom, right = rows * _BLOCK - height + MARGIN, columns * _BLOCK - width + MARGIN
    padded = F.pad(image[None], (MARGIN, right, MARGIN, bottom), mode="replicate")[0]
    light = torch.empty_like(padded[:, : rows * _BLOCK, : columns * _BLOCK])
    starts = [(r * _BLOCK, c * _BLOCK) for r in range(rows) for c in range(columns)]
    span = _BLOCK + 2 * MARGIN
    for first in range(0, len(starts), _BLOCKS_AT_ONCE):
        part = starts[first : first + _BLOCKS_AT_ONCE]
        crops = torch.stack([padded[:, y : y + span, x : x + span] for y, x in part])
        scenes = scene.expand(len(part))
        origins = torch.tensor(part, device=image.device, dtype=torch.float32)
        blurred = expose(crops, scenes, origins, (height, width))
        for (y, x), block in zip(part, blurred, strict=True):
            light[:, y : y + _BLOCK, x : x + _BLOCK] = block
    return develop(light[None, :, :height, :width], scene, generator)[0]


@dataclasses.dataclass(frozen=True)
class Synthesis:
    """A synthesised photo: `blurred` (3, H, W) sRGB in [0, 1], and what made it."""

    blurred: Tensor
    camera: Camera
    scene: Scene


def synthesize(
    sharp: Tensor,
    camera: Camera | None = None,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
) -> Synthesis:
    """Make a realistic blurred photo from a sharp one.

    Args:
        sharp: (3, H, W) sRGB in [0, 1], on any device.
        camera: settings of the exposure; drawn at random without.
        seed: the same seed gives the same photo.
        recipe: how strongly to blur; the default never returns an unblurred photo.

    Raises:
        ValueError: `sharp` is not a (3, H, W) floating-point image.
    """
    if sharp.ndim != 3 or sharp.shape[0] != 3 or not sharp.is_floating_point():
        raise ValueError(
            f"sharp is {sharp.dtype} {tuple(sharp.shape)}, expected a floating-point (3, H, W)."
        )
    rng = np.random.default_rng(seed)
    camera = camera or Camera.sample(rng)
    recipe = recipe or dataclasses.replace(Recipe(), unblurred=0.0)
    scene = sample_scene(rng, camera, sharp.shape[-1], recipe).map(lambda v: v.to(sharp.device))
    generator = torch.Generator(sharp.device).manual_seed(int(rng.integers(2**62)))
    return Synthesis(blur_frame(sharp.float(), scene, generator), camera, scene)
