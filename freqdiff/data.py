"""Training pairs: crops of sharp photos, blurred by the physics engine, as a deterministic stream.

Block b of the stream is a function of (seed, b) alone, so a run that resumes in the middle sees
exactly the pairs that an uninterrupted one sees, and worker processes change nothing.
`stream` makes batches of them.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from blursynth.camera import Camera, log_uniform
from blursynth.physics import MARGIN, develop, expose
from blursynth.psf import point_spread
from blursynth.scene import Recipe, Scene, sample_scene, stack_scenes
from freqdiff.blur_filter import PSF_RADIUS
from freqdiff.errors import TrainingError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
_FILTERS = (
    Image.Resampling.BOX,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.HAMMING,
    Image.Resampling.NEAREST,
)
_SMOOTH_FILTERS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
_MOST_ENLARGED = 2.0
_CHUNK = 8
"""Pairs that a CPU blurs at once: what stays in its cache."""
_GPU_CHUNK_PIXELS = 256 * (256 + 2 * MARGIN) ** 2
"""Pixels that a GPU blurs at once, with margins: the launches take as long for few as for many
(H100: 64 crops of 256 px at once, 1,650 of them a second)."""
_CACHED_PHOTOS = 64
_LEAST_SHRINK = 1.2
"""What is left to the resampling filter of a crop, in which the filters differ; the rest is done by
halving the photo once (crops of 4K photos, at 1.5: 10.7 -> 3.1 ms of resizing each)."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What the training stream is made of.

    Attributes:
        crop: side of a pair in pixels, a multiple of 32 (of the alignment, for other models).
        pairs_per_block: pairs that are synthesised together.
        reuse: times that each pair is shown (turned, mirrored) before it is replaced.
        candidates: places that are looked at for a crop; the most textured one is taken.
        min_scale: photos are shrunk to between `min_scale` and 1 of their size, log-uniformly.
        native: share of the crops that are not shrunk at all.
        enlarged: share of the crops that are enlarged, up to twice, log-uniformly: so the sharp
            photo is soft itself, as many are, and a deblurrer learns not to sharpen whatever it
            sees.
        built: share of the pairs that come from a data set, where one is given beside the photos.
        seed: of the whole stream.
        recipe: distribution of the blur.
    """

    crop: int = 256
    pairs_per_block: int = 256
    reuse: int = 2
    candidates: int = 3
    min_scale: float = 0.1
    native: float = 0.25
    enlarged: float = 0.1
    built: float = 0.25
    seed: int = 0
    recipe: Recipe = dataclasses.field(default_factory=Recipe)


def list_photos(folder: str | os.PathLike[str]) -> list[Path]:
    """Photo files below a folder, sorted.

    Raises:
        TrainingError: no such folder, or no photo in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise TrainingError(f"{root} is not a folder; give a folder of sharp photos.")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if not paths:
        raise TrainingError(f"{root} holds no photos ({', '.join(sorted(_SUFFIXES))}).")
    return paths


class Pairs(NamedTuple):
    """Blurred photos, the sharp ones, and the blur between them.

    Attributes:
        blurred, sharp: (N, 3, H, W), uint8 or in [-1, 1].
        psf: (N, 33, 33) kernel in the middle of the photo, sum 1; all 0 where it is not known.
        camera: (N, 6) settings, see `photo_settings.camera_vector`.
    """

    blurred: Tensor
    sharp: Tensor
    psf: Tensor
    camera: Tensor


@dataclasses.dataclass(frozen=True)
class SharpBlock:
    """Crops before blurring: what a data worker prepares when a GPU does the blurring.

    Attributes:
        crops: uint8 (N, side, side, 3) with MARGIN pixels around.
        origins: float (N, 2) position (y, x) of the crops without margin in their frames.
        scenes: exposures of each chunk of crops.
        seeds: of the noise of each chunk.
        cameras: float32 (N, 6) settings of the exposures.
        built: pairs of uint8 that are blurred already and come behind the others.
    """

    crops: Tensor
    origins: Tensor
    scenes: list[Scene]
    seeds: list[int]
    cameras: Tensor
    built: Pairs | None = None

    def blur(self, device: str) -> Pairs:
        """The pairs, uint8 on `device`."""
        pairs, first = [], 0
        for scene, seed in zip(self.scenes, self.seeds, strict=True):
            part = slice(first, first + len(scene.jpeg_quality))
            first = part.stop
            # Copies that wait would wait for what a GPU still has to do for the steps before.
            image = self.crops[part].to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
            scene = scene.map(lambda value: value.to(device, non_blocking=True))
            generator = torch.Generator(device).manual_seed(seed)
            with torch.no_grad():
                origin = self.origins[part].to(device, non_blocking=True)
                light = expose(image, scene, origin)
                blurred = develop(light, scene, generator)
                sharp = image[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
                psf = point_spread(scene, origin + sharp.shape[-1] / 2, PSF_RADIUS)
                psf[torch.isfinite(scene.mask_bias)] = 0  # layers: two kinds of blur
            pairs.append(Pairs(_to_bytes(blurred), sharp, psf, self.cameras[part].to(device)))
        if self.built is not None:
            pairs.append(Pairs(*(values.to(device) for values in self.built)))
        return Pairs(*(torch.cat(values) for values in zip(*pairs, strict=True)))


Item: TypeAlias = Pairs | SharpBlock | TrainingError


class Blocks(Dataset[Item]):
    """A source of pairs: its block b is a function of its configuration and b alone."""

    def __init__(self, config: DataConfig, device: str) -> None:
        self.config, self.device = config, device

    def __getitem__(self, block: int) -> Item:
        """Block b, or why it cannot be made.

        An error that is raised in a worker process comes with a traceback as its text.
        """
        try:
            return self.make(block)
        except TrainingError as error:
            return error

    def make(self, block: int) -> Pairs | SharpBlock:
        """Block b: on the CPU `Pairs` of uint8, or the `SharpBlock` whose `blur` gives them.

        Raises:
            TrainingError: photos or pairs cannot be used.
        """
        raise NotImplementedError

    @property
    def stock(self) -> str:
        """Number and kind of what it draws from."""
        raise NotImplementedError

    def preload(self) -> None:
        """Read what the worker processes share: nothing, if not told otherwise."""

    def halved(self, times: int) -> Self:
        """The same source with crops of half the side and `times` as many of them in a block."""
        crop, count = self.config.crop // 2, times * self.config.pairs_per_block
        other = copy.copy(self)
        other.config = dataclasses.replace(self.config, crop=crop, pairs_per_block=count)
        return other


class PairBlocks(Blocks):
    """Crops of sharp photos, blurred by the physics engine on the stream's device.

    Raises:
        TrainingError: the folder holds no photos.
    """

    def __init__(
        self, folder: str | os.PathLike[str], config: DataConfig, device: str = "cpu"
    ) -> None:
        super().__init__(config, device)
        self.paths = list_photos(folder)
        self._least = self._side
        self._cache: dict[Path, list[Image.Image]] = {}

    @property
    def stock(self) -> str:
        """Number of the photos."""
        return f"{len(self.paths)} photos"

    @property
    def _side(self) -> int:
        """Pixels of a crop with its margins."""
        return self.config.crop + 2 * MARGIN

    def make(self, block: int) -> Pairs | SharpBlock:
        """Pairs, or what a GPU blurs by itself."""
        return self.pairs(block) if self.device == "cpu" else self.sharp(block)

    def pairs(self, block: int) -> Pairs:
        """The pairs of a block, on the stream's device."""
        return self.sharp(block).blur(self.device)

    def sharp(self, block: int) -> SharpBlock:
        """Crops and exposures of a block."""
        crops, origins, scenes, chunks, seeds, cameras = [], [], [], [], [], []
        chunk = _CHUNK if self.device == "cpu" else max(1, _GPU_CHUNK_PIXELS // self._side**2)
        for index in range(self.config.pairs_per_block):
            rng = np.random.default_rng([self.config.seed, block, index])
            crop, origin, frame = self._sharp_crop(rng)
            camera = _shaky_camera(rng)
            scenes.append(sample_scene(rng, camera, frame, self.config.recipe))
            cameras.append(camera.vector())
            crops.append(crop)
            origins.append(origin)
            if len(scenes) == chunk or index + 1 == self.config.pairs_per_block:
                chunks.append(stack_scenes(scenes))
                seeds.append(int(rng.integers(2**62)))
                scenes = []
        return SharpBlock(
            torch.from_numpy(np.stack(crops)),
            torch.tensor(origins),
            chunks,
            seeds,
            torch.from_numpy(np.stack(cameras)),
        )

    def _sharp_crop(
        self, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], tuple[float, float], tuple[int, int]]:
        """A shrunk crop with margin, its position, and the size of the shrunk photo."""
        side = self._side
        levels = self._photo(self.paths[int(rng.integers(len(self.paths)))])
        photo = levels[0]
        shrink = math.exp(rng.uniform(0, -math.log(self.config.min_scale)))
        native = rng.random() < self.config.native
        shrink = 1.0 if native or shrink < 1.05 else min(shrink, min(photo.size) / side)
        resample = _FILTERS[int(rng.integers(len(_FILTERS)))]
        if rng.random() < self.config.enlarged:
            shrink = math.exp(-rng.uniform(0, math.log(_MOST_ENLARGED)))
            resample = _SMOOTH_FILTERS[int(rng.integers(len(_SMOOTH_FILTERS)))]
        span = side * shrink
        places = [
            (int(rng.uniform(0, photo.width - span)), int(rng.uniform(0, photo.height - span)))
            for _ in range(self.config.candidates)
        ]
        left, top = max(places, key=lambda place: _texture(photo, place, int(span)))
        level = 0
        if resample != Image.Resampling.NEAREST:
            level = min(int(math.log2(max(shrink / _LEAST_SHRINK, 1))), len(levels) - 1)
        box = tuple(value / 2**level for value in (left, top, left + span, top + span))
        crop = np.asarray(levels[level].resize((side, side), resample, box=box))
        turns, mirror = int(rng.integers(4)), bool(rng.integers(2))
        crop = np.rot90(crop[:, ::-1] if mirror else crop, turns)
        frame = (round(photo.height / shrink), round(photo.width / shrink))
        return crop, (top / shrink + MARGIN, left / shrink + MARGIN), frame

    def preload(self) -> None:
        """Read the photos, as many as are kept, for the worker processes to share.

        Raises:
            TrainingError: a photo is unreadable or too small.
        """
        with ThreadPoolExecutor() as pool:
            read = list(pool.map(self._read, self.paths[:_CACHED_PHOTOS]))
        self._cache = dict(zip(self.paths, read, strict=False))

    def _photo(self, path: Path) -> list[Image.Image]:
        """A photo in full, half and quarter size."""
        if path not in self._cache:
            if len(self._cache) >= _CACHED_PHOTOS:
                del self._cache[next(iter(self._cache))]
            self._cache[path] = self._read(path)
        return self._cache[path]

    def _read(self, path: Path) -> list[Image.Image]:
        try:
            with Image.open(path) as file:
                photo = file.convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise TrainingError(f"{path} cannot be read as a photo: {error}.") from error
        if min(photo.size) < self._least:
            raise TrainingError(
                f"{path} is {photo.width}x{photo.height}; training on crops of "
                f"{self._least - 2 * MARGIN} needs {self._least} pixels a side."
            )
        return [photo, photo.reduce(2), photo.reduce(4)]


def _shaky_camera(rng: np.random.Generator) -> Camera:
    """A camera whose exposure is long enough to show what the recipe asks for."""
    camera = Camera.sample(rng)
    exposure = log_uniform(rng, 1 / 60, 0.8)
    return dataclasses.replace(camera, exposure_s=max(camera.exposure_s, exposure))


def _texture(photo: Image.Image, place: tuple[int, int], span: int) -> float:
    """Mean difference of neighbouring pixels around the middle of a crop."""
    left, top = place[0] + span // 2 - 48, place[1] + span // 2 - 48
    patch = np.asarray(photo.crop((left, top, left + 96, top + 96)).convert("L"), np.float32)
    return float(np.abs(np.diff(patch, axis=0)).mean() + np.abs(np.diff(patch, axis=1)).mean())


def _to_bytes(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255).to(torch.uint8)
