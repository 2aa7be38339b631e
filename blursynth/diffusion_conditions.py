"""What tells the diffusion engine how to blur: maps that the physics engine renders, and tokens.

c_content is the sharp photo, c_physics the camera: as text, as a vector of numbers, and as a map of
the blur and the noise that follow from it. `combine` puts them together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from blursynth.camera import Camera
from blursynth.diffusion_change import known_latents
from blursynth.diffusion_config import OUTPUTS
from blursynth.psf import BlurField, blur_field
from blursynth.scene import Scene
from blursynth.sensor import noise_levels
from freqdiff.errors import InputError
from freqdiff.tone import srgb_to_linear

CONTENT_CHANNELS = 3
PHYSICS_CHANNELS = 4
CONTROL_CHANNELS = CONTENT_CHANNELS + PHYSICS_CHANNELS

_LONGEST_PX = 64.0
_MOST_NOISE = 64.0


@dataclasses.dataclass(frozen=True)
class Content:
    """c_content of B photos.

    Attributes:
        photos: (B, 3, H, W) sRGB in [0, 1].
        latents: (B, C, h, w) for a base that makes changes, or None.
    """

    photos: Tensor
    latents: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Physics:
    """c_physics of B photos.

    Attributes:
        tokens: (B, T, D) of text and camera vector, for cross-attention.
        maps: (B, 4, H, W) from `physics_map`; zeros say nothing.
        latents: (B, C, h, w) of the photos that the maps foretell, for a base that makes changes;
            None: they foretell nothing.
    """

    tokens: Tensor
    maps: Tensor
    latents: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Condition:
    """c of B photos.

    Attributes:
        tokens: (B, T, D) for the cross-attention of U-Net and ControlNet.
        control: (B, 7, H, W) input of the ControlNet: sharp photo and physics map.
        latents: (B, 4 C, h, w) of `known_latents`, input beside the noisy ones, or None.
    """

    tokens: Tensor
    control: Tensor
    latents: Tensor | None = None

    def cut(self, place: Sequence[int], size: Sequence[int], factor: int) -> Condition:
        """The same of a part of the photos: place (y, x) and size in latents of `factor` pixels."""
        (top, left), (height, width) = place, size

        def part(image: Tensor, unit: int) -> Tensor:
            below, right = (top + height) * unit, (left + width) * unit
            return image[..., top * unit : below, left * unit : right]

        latents = None if self.latents is None else part(self.latents, 1)
        return Condition(self.tokens, part(self.control, factor), latents)


def combine(content: Content, physics: Physics) -> Condition:
    """c = Combine(c_content, c_physics): photos and maps side by side, and what latents tell."""
    control = torch.cat((content.photos, physics.maps.to(content.photos)), 1)
    known = None if content.latents is None else known_latents(content.latents, physics.latents)
    return Condition(physics.tokens, control, known)


def stack(first: Condition, second: Condition) -> Condition:
    """Two conditions of one kind as one batch."""
    latents = None
    if first.latents is not None and second.latents is not None:
        latents = torch.cat((first.latents, second.latents))
    tokens = torch.cat((first.tokens, second.tokens))
    return Condition(tokens, torch.cat((first.control, second.control)), latents)


def physics_map(field: BlurField, sharp: Tensor, iso: float) -> Tensor:
    """What a camera would do to each pixel.

    Motion has no sign, so its direction is told by the double angle, which turns by 360 degrees
    while the motion turns by 180.

    Args:
        field: blur of the photo, in its pixels.
        sharp: (3, H, W) sRGB in [0, 1], whose brightness decides the noise.
        iso: sensitivity of the sensor; 0: no noise.

    Returns:
        (4, H, W) in [-1, 1]: motion times cosine and sine of twice its angle, circle of confusion,
        standard deviation of the noise; lengths x as log(1 + x) over log(65), levels of 255.
    """
    dy, dx = field.motion
    extent = torch.hypot(dy, dx)
    square = extent.square().clamp_min(1e-12)
    scale = _compressed(extent, _LONGEST_PX)
    grid = torch.stack(
        (
            scale * (dx * dx - dy * dy) / square,
            scale * 2 * dx * dy / square,
            field.defocus.sign() * _compressed(field.defocus.abs(), _LONGEST_PX),
        )
    )
    size = (sharp.shape[-2], sharp.shape[-1])
    blur = F.interpolate(grid[None].to(sharp), size, mode="bilinear", align_corners=False)[0]
    noise = _compressed(255 * _noise_deviation(sharp, iso), _MOST_NOISE)
    return torch.cat((blur, noise[None]))


def map_lengths(maps: Tensor) -> tuple[Tensor, Tensor]:
    """What maps (B, 4, h, w) of `physics_map` say in pixels: direction and extent of the motion,
    (B, h, w, 2) as (dy, dx) without a sign, and circle of confusion, (B, h, w)."""
    double, defocus = maps[:, :2], maps[:, 2]
    size = torch.hypot(double[:, 0], double[:, 1])
    angle = torch.atan2(double[:, 1], double[:, 0]) / 2
    motion = _expanded(size, _LONGEST_PX)[..., None] * torch.stack((angle.sin(), angle.cos()), -1)
    return motion, defocus.sign() * _expanded(defocus.abs(), _LONGEST_PX)


def map_noise(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Standard deviation of the noise, (B, 1, h, w) for photos in [0, 1], that maps (B, 4, H, W) of
    `physics_map` tell, as the mean of blocks that give this size."""
    told = F.adaptive_avg_pool2d(maps[:, 3:].float(), size)
    return _expanded(told, _MOST_NOISE) / 255


def physics_maps(scenes: Scene, sharp: Tensor, origins: Tensor) -> Tensor:
    """Maps (B, 4, H, W) of a batch for training: `physics_map` of each exposure's blur field.

    Args:
        scenes: B exposures.
        sharp: (B, 3, H, W) sRGB in [0, 1].
        origins: (B, 2) position (y, x) of each photo in its frame, in pixels.
    """
    size = (sharp.shape[-2], sharp.shape[-1])
    made = []
    for index, (photo, origin) in enumerate(zip(sharp, origins.tolist(), strict=True)):
        one = slice(index, index + 1)
        scene = scenes.map(lambda values, one=one: values[one])  # type: ignore[misc]
        field = blur_field(scene, size, (round(origin[0]), round(origin[1])))
        made.append(physics_map(field, photo, float(scene.development.iso)))
    return torch.stack(made)


def _compressed(values: Tensor, largest: float) -> Tensor:
    return (torch.log1p(values) / math.log1p(largest)).clamp(max=1)


def _expanded(values: Tensor, largest: float) -> Tensor:
    """What `_compressed` made these of."""
    return torch.expm1(values * math.log1p(largest))


def _noise_deviation(sharp: Tensor, iso: float) -> Tensor:
    """(H, W) standard deviation of the noise in sRGB, where the photo has this luminance."""
    if iso == 0:
        return torch.zeros_like(sharp[0])
    light = srgb_to_linear(sharp.mean(0))
    shot, read = noise_levels(torch.tensor(float(iso)))
    # Slope of the sRGB curve, which is straight near black.
    slope = (1.055 / 2.4 * light.clamp_min(1e-9) ** (1 / 2.4 - 1)).clamp(max=12.92)
    deviation: Tensor = (float(shot) * light + float(read)).sqrt() * slope
    return deviation


def camera_vectors(cameras: Sequence[Camera]) -> Tensor:
    """(B, 6) of `Camera.vector`."""
    return torch.from_numpy(np.stack([camera.vector() for camera in cameras]))


class CameraEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Tokens of the settings as numbers, which text encoders read badly (Camera Settings as Tokens,
    2024): a small network on `Camera.vector`, and learned tokens for settings that are not told."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self, dimension: int = 768, tokens: int = 4, width: int = 128, settings: int = 6
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(settings, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.last = nn.Linear(width, tokens * dimension)
        self.norm = nn.LayerNorm(dimension)
        self.unknown = nn.Parameter(torch.zeros(tokens, dimension))

    def forward(self, vectors: Tensor, known: Tensor | None = None) -> Tensor:
        """(B, 6) -> (B, tokens, dimension).

        Args:
            vectors: from `camera_vectors`.
            known: (B,) false where the settings are not told; all are known without.
        """
        vectors = vectors.to(self.last.weight)
        made = self.last(self.layers(vectors)).view(len(vectors), *self.unknown.shape)
        made = self.norm(made)
        if known is None:
            known = torch.ones(len(vectors), dtype=torch.bool)
        tokens: Tensor = torch.where(known.to(made.device)[:, None, None], made, self.unknown)
        return tokens


def widen_controlnet(controlnet: Any) -> None:
    """Give a ControlNet of photos the channels of the physics map, with weights of 0: it does the
    same as before until it is trained. One that has them stays as it is."""
    embedding = controlnet.controlnet_cond_embedding
    narrow = embedding.conv_in
    if narrow.in_channels == CONTROL_CHANNELS:
        return
    wide = nn.Conv2d(CONTROL_CHANNELS, narrow.out_channels, 3, padding=1)
    wide = wide.to(narrow.weight.device, narrow.weight.dtype)
    with torch.no_grad():
        wide.weight.zero_()
        wide.weight[:, : narrow.in_channels] = narrow.weight
    wide.bias = narrow.bias
    embedding.conv_in = wide
    controlnet.register_to_config(conditioning_channels=CONTROL_CHANNELS)


def check_request(
    sharp: Tensor,
    cameras: Sequence[Camera],
    physics_maps: Tensor | None,
    guidance_scale: float,
    output: str,
) -> None:
    """Whether the pipeline can work on its arguments; they are told there.

    Raises:
        InputError: a shape or a setting that cannot be used.
    """
    if sharp.ndim != 4 or sharp.shape[1] != 3 or not sharp.is_floating_point():
        raise InputError(
            f"sharp is {sharp.dtype} {tuple(sharp.shape)}, expected a floating-point "
            "(B, 3, H, W) in [0, 1]."
        )
    if len(cameras) != len(sharp):
        raise InputError(f"Got {len(cameras)} cameras for {len(sharp)} photos: give as many.")
    wanted = (len(sharp), PHYSICS_CHANNELS, *sharp.shape[2:])
    if physics_maps is not None and physics_maps.shape != wanted:
        raise InputError(
            f"physics_maps are {tuple(physics_maps.shape)}, expected {wanted} for the photos."
        )
    if guidance_scale < 1:
        raise InputError(f"guidance_scale is {guidance_scale}, expected at least 1.")
    if output not in OUTPUTS:
        raise InputError(f"output is {output!r}, expected one of {', '.join(OUTPUTS)}.")
