"""The diffusion engine: physics predicts the blur, Stable Diffusion makes it look real."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from blursynth import physics, psf
from blursynth.camera import Camera
from blursynth.diffusion_config import DiffusionConfig
from blursynth.diffusion_load import load_pipeline
from blursynth.physics import Synthesis
from blursynth.shot import Conditions
from freqdiff.errors import InputError

if TYPE_CHECKING:
    from blursynth.diffusion_pipeline import BlurSynthPipeline

LEAST_SIDE = 64
"""Smallest side of a photo, in pixels."""


@torch.no_grad()
def synthesize(
    config: DiffusionConfig,
    sharp: Tensor,
    camera: Camera | None = None,
    *,
    seed: int = 0,
    conditions: Conditions | None = None,
    depth_m: Tensor | None = None,
    frame_size: tuple[int, int] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Synthesis:
    """Blur a sharp photo; arguments as of `engines.synthesize`.

    The exposure is drawn as by the physics engine, and its blur field and noise are told to the
    network. With "attributes" the light of the sharp photo gets the blur of the generated photo,
    then the sensor and the development of the exposure; "pixels" is the generated photo alone.

    Raises:
        InputError: a photo that is too small.
        ModelError: the base cannot be loaded.
        ValueError: as of the physics engine.
    """
    pipeline = pipeline_of(config)
    drawn = physics.draw_exposure(
        sharp,
        camera,
        seed=seed,
        conditions=conditions,
        depth_m=depth_m,
        frame_size=frame_size,
        origin=origin,
    )
    size = (sharp.shape[-2], sharp.shape[-1])
    if min(size) < LEAST_SIDE:
        raise InputError(
            f"The diffusion engine needs {LEAST_SIDE} px on each side, got {tuple(sharp.shape)}: "
            "use a larger photo, or the physics engine."
        )
    from blursynth.blur_transfer import apply_blur
    from blursynth.diffusion_conditions import physics_map

    scene, photo = drawn.scene, sharp[None].float()
    field = psf.blur_field(scene, size, origin, drawn.confusion)
    maps = physics_map(field, photo[0], float(scene.development.iso[0]))[None]
    made = pipeline(
        photo,
        drawn.camera,
        maps,
        num_inference_steps=config.steps,
        guidance_scale=config.guidance,
        controlnet_conditioning_scale=config.control,
        # On the CPU, where the same seed gives the same noise for every device.
        generator=torch.Generator().manual_seed(drawn.generator.initial_seed()),
        tile=config.tile,
        output=config.output,
    )
    if made.blur is None:
        blurred = (made.images.float().to(sharp.device) * 255).round() / 255
    else:
        light = apply_blur(physics.light_of(photo, scene)[0], made.blur[0].to(sharp.device))
        blurred = physics.develop(light[None], scene, drawn.generator)
    return Synthesis(blurred[0], drawn.camera, scene, field)


@functools.lru_cache(maxsize=1)
def _loaded(
    base: str, controlnet: str | None, lora: str | None, device: str, dtype: str
) -> BlurSynthPipeline:
    pipeline = load_pipeline(base, controlnet, lora, device=device, dtype=getattr(torch, dtype))
    pipeline.set_progress_bar_config(disable=None, leave=False)
    return pipeline


def pipeline_of(config: DiffusionConfig) -> BlurSynthPipeline:
    """The pipeline of some settings; the last one that was loaded is kept.

    Raises:
        ModelError: it cannot be loaded.
    """
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return _loaded(config.base, config.controlnet, config.lora, device, config.dtype)
