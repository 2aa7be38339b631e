"""Training pairs of the diffusion engine, whose blur follows from a camera, as an endless stream.

Step k of the stream is a function of (seed, process, k) alone, so a run that resumes in the middle
sees what an uninterrupted one sees, and worker processes change nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from blursynth.camera import Camera
from blursynth.diffusion_conditions import physics_maps
from blursynth.photo_crops import Crops
from blursynth.physics import MARGIN, develop, expose
from blursynth.scene import Scene, stack_scenes
from blursynth.shot import Conditions, sample_independent, sample_shot, take

STEADY, INDEPENDENT = 0.15, 0.5
"""Shares of the exposures that are drawn without asking for visible blur, most of which are sharp,
and with settings that tell nothing of each other; the others blur visibly, as real ones do. Beside
real blurred photos all do, as others would be told from those by how much they are blurred."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """B pairs and what blurred them, on one device.

    Attributes:
        sharp, blurred: (B, 3, H, W) sRGB in [0, 1] on 256 levels.
        maps: (B, 4, H, W) of `physics_maps`.
        cameras: of each pair.
        real: (B, 3, H, W) sRGB in [0, 1], real blurred photos of other things, if given.
    """

    sharp: Tensor
    blurred: Tensor
    maps: Tensor
    cameras: list[Camera]
    real: Tensor | None


@dataclasses.dataclass(frozen=True)
class Exposures:
    """A batch before blurring: what a data worker prepares.

    Attributes:
        pixels: uint8 (B, 3, side, side) sharp crops with `MARGIN` pixels around.
        origins: (B, 2) position (y, x) of the crops without margin in their frames.
        scenes: B exposures.
        maps, cameras: as in `Batch`.
        seed: of the noise.
        real: uint8 (B, 3, H, W), or None.
    """

    pixels: Tensor
    origins: Tensor
    scenes: Scene
    maps: Tensor
    cameras: list[Camera]
    seed: int
    real: Tensor | None

    @torch.no_grad()
    def blur(self, device: torch.device) -> Batch:
        """The pairs on a device."""
        pixels, scenes = self.pixels.to(device), self.scenes.map(lambda value: value.to(device))
        light = expose(pixels, scenes, self.origins.to(device))
        blurred = develop(light, scenes, torch.Generator(device).manual_seed(self.seed))
        real = None if self.real is None else self.real.to(device).float() / 255
        return Batch(
            _without_margin(pixels).float() / 255,
            blurred.clamp(0, 1),
            self.maps.to(device),
            self.cameras,
            real,
        )


class Stream(Dataset[Exposures]):
    """Exposures of step k, of one process.

    Args:
        sharp: crops with a margin of `physics.MARGIN` around them.
        batch: pairs per step.
        seed: of the stream.
        real: crops of real blurred photos, if there are some.
    """

    def __init__(
        self, sharp: Crops, batch: int, seed: tuple[int, ...], real: Crops | None = None
    ) -> None:
        self.sharp, self.batch, self.seed, self.real = sharp, batch, seed, real

    def __getitem__(self, step: int) -> Exposures:
        rng = np.random.default_rng([*self.seed, step])
        crops, scenes, cameras = [], [], []
        for _ in range(self.batch):
            crop = self.sharp.one(rng)
            kind = rng.random() if self.real is None else 1.0
            if kind < STEADY:
                camera, conditions = Camera.sample(rng), Conditions()
            elif kind < STEADY + INDEPENDENT:
                camera, conditions = sample_independent(rng, crop.frame[1])
            else:
                camera, conditions = sample_shot(rng, crop.frame[1])
            crops.append(crop)
            scenes.append(take(rng, camera, crop.frame, conditions))
            cameras.append(camera)
        pixels = torch.stack([crop.pixels for crop in crops])
        origins = torch.tensor([crop.place for crop in crops], dtype=torch.float32) + MARGIN
        joined = _joined(scenes)
        maps = physics_maps(joined, _without_margin(pixels).float() / 255, origins)
        seed, real = int(rng.integers(2**62)), None
        if self.real is not None:
            real = torch.stack([self.real.one(rng).pixels for _ in range(self.batch)])
        return Exposures(pixels, origins, joined, maps, cameras, seed, real)


def batches(
    stream: Stream, first_step: int, device: torch.device, workers: int = 0
) -> Iterator[Batch]:
    """Endless batches from a step on.

    Args:
        stream: of them.
        first_step: where to begin.
        device: where they are blurred.
        workers: processes that prepare crops; 0: none beside this one.
    """
    loader: DataLoader[Exposures] = DataLoader(
        stream,
        batch_size=None,
        sampler=range(first_step, 2**31),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        # Else it would draw from the random numbers of others.
        generator=torch.Generator(),
    )
    for exposures in loader:
        yield exposures.blur(device)


def _without_margin(pixels: Tensor) -> Tensor:
    return pixels[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def _joined(scenes: list[Scene]) -> Scene:
    """One batch of exposures whose paths have different numbers of even steps."""
    points = max(scene.weights.shape[1] for scene in scenes)

    def refined(path: Tensor) -> Tensor:
        return F.interpolate(path.mT, points, mode="linear", align_corners=True).mT

    return stack_scenes(
        [
            dataclasses.replace(
                scene,
                rotations=refined(scene.rotations),
                object_shift=refined(scene.object_shift),
                weights=torch.full((1, points), 1 / points),
            )
            for scene in scenes
        ]
    )
