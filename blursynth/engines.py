"""What blurs: engines of one signature behind one function."""

from __future__ import annotations

import functools
from typing import Protocol

from torch import Tensor

from blursynth import diffusion_engine, physics
from blursynth.camera import Camera
from blursynth.diffusion_config import NAME, DiffusionConfig, parse_engine
from blursynth.physics import Synthesis
from blursynth.shot import Conditions
from freqdiff.errors import InputError


class Engine(Protocol):
    """A function that blurs one photo, as `synthesize` says."""

    def __call__(
        self,
        sharp: Tensor,
        camera: Camera | None = None,
        *,
        seed: int = 0,
        conditions: Conditions | None = None,
        depth_m: Tensor | None = None,
        frame_size: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Synthesis: ...


ENGINES: dict[str, Engine] = {"physics": physics.synthesize}
"""Engines that need no more than their name."""


def engine_of(engine: str | DiffusionConfig) -> Engine:
    """The engine of a name, of `diffusion[:BASE][,key=value...]` or of the settings that these are.

    Raises:
        InputError: no such engine, or settings that cannot be used.
    """
    settings = _settings_of(engine)
    if isinstance(settings, DiffusionConfig):
        return functools.partial(diffusion_engine.synthesize, settings)
    if settings in ENGINES:
        return ENGINES[settings]
    known = ", ".join((*ENGINES, NAME, f"{NAME}:BASE"))
    raise InputError(f"Expected engine to be one of {known}, got {engine!r}.")


def check_engine(engine: str | DiffusionConfig) -> None:
    """Raise at once what an engine would raise at every photo.

    Raises:
        InputError: no such engine.
        ModelError: its base cannot be loaded.
    """
    engine_of(engine)
    settings = _settings_of(engine)
    if isinstance(settings, DiffusionConfig):
        diffusion_engine.pipeline_of(settings)


def _settings_of(engine: str | DiffusionConfig) -> str | DiffusionConfig:
    if isinstance(engine, str) and engine.partition(":")[0] == NAME:
        return parse_engine(engine)
    return engine


def synthesize(
    sharp: Tensor,
    camera: Camera | None = None,
    *,
    engine: str | DiffusionConfig = "physics",
    seed: int = 0,
    conditions: Conditions | None = None,
    depth_m: Tensor | None = None,
    frame_size: tuple[int, int] | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Synthesis:
    """Blur a sharp photo as a camera would.

    Args:
        sharp: (3, H, W) sRGB in [0, 1], on any device.
        camera: settings of the exposure; drawn at random without.
        engine: "physics"; "diffusion" with the shipped base; or "diffusion:BASE" with the folder
            or the name on the hub of a Stable Diffusion, and settings behind it; or all of these
            as a `DiffusionConfig`.
        seed: the same seed gives the same photo.
        conditions: what the blur depends on beside the camera.
        depth_m: (H, W) distance of each pixel in metres, see `blursynth.depth.read_depth`;
            instead of `conditions.distance_m`.
        frame_size: height and width of the frame that `sharp` is a part of; without, it is all.
        origin: position (y, x) of `sharp` in it.

    Returns:
        The blurred photo, the settings that were used, and where physics says that it is blurred
        how.

    Raises:
        InputError: no such engine, or a photo that is too small for it.
        ModelError: the base of the engine cannot be loaded.
        ValueError: `sharp` is no (3, H, W) picture, or the depth map has another size.
    """
    return engine_of(engine)(
        sharp,
        camera,
        seed=seed,
        conditions=conditions,
        depth_m=depth_m,
        frame_size=frame_size,
        origin=origin,
    )
