"""What blurs: engines of one signature behind one function."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from blursynth import physics
from blursynth.camera import Camera
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


def synthesize(
    sharp: Tensor,
    camera: Camera | None = None,
    *,
    engine: str = "physics",
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
        engine: "physics".
        seed: the same seed gives the same photo.
        conditions: what the blur depends on beside the camera.
        depth_m: (H, W) distance of each pixel in metres, see `blursynth.depth.read_depth`;
            instead of `conditions.distance_m`.
        frame_size: height and width of the frame that `sharp` is a part of; without, it is all.
        origin: position (y, x) of `sharp` in it.

    Returns:
        The blurred photo, the settings that were used, and where it is blurred how.

    Raises:
        InputError: no such engine.
        ValueError: `sharp` is no (3, H, W) picture, or the depth map has another size.
    """
    if engine not in ENGINES:
        raise InputError(f"Expected engine to be one of {', '.join(ENGINES)}, got {engine!r}.")
    return ENGINES[engine](
        sharp,
        camera,
        seed=seed,
        conditions=conditions,
        depth_m=depth_m,
        frame_size=frame_size,
        origin=origin,
    )
