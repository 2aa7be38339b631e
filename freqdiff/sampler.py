"""Samples one frame: conditions it once, then takes the DDIM steps, by tiles where it is large."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from freqdiff.blur_filter import BlurField
from freqdiff.denoiser import Denoiser
from freqdiff.model import ConditionMaps
from freqdiff.photo_settings import VECTOR_SIZE
from freqdiff.sampling import check_seed, ddim, frame_noise
from freqdiff.tiling import TilePlan, plan_tiles
from freqdiff_kernels import ops

Progress = Callable[[int, int], None]
Source = Callable[[], Tensor]
Denoise = Callable[[Tensor, Tensor, ConditionMaps, tuple[int, int]], Tensor]
Solver = Callable[[Callable[[Tensor, int], Tensor], Tensor, int], Tensor]
"""x0^ of (denoise(x_t, t) -> x0^, noise, steps), such as `ddim`."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A sampled frame.

    Attributes:
        image: (1, 3, H, W) float32 in [0, 1] on the device of the denoiser.
        blur: what was estimated of the photo, if it was asked for and the model does so.
        tiles: number of tiles.
    """

    image: Tensor
    blur: BlurField | None
    tiles: int


@dataclasses.dataclass(frozen=True)
class Request:
    """How a frame is to be sampled.

    Attributes:
        steps: DDIM steps.
        seed: of the noise.
        largest: longest side of a tile, in pixels.
        keep_blur: return the estimated blur too, which takes 35 MB at 4K.
        camera: (6,) as of `photo_settings.camera_vector`, for models that use it; None: nothing is
            known of it.
        solver: how to get from noise to a photo, with one evaluation a step.
    """

    steps: int
    seed: int
    largest: int
    keep_blur: bool = False
    camera: Tensor | None = None
    solver: Solver = ddim


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a region lies in its frame.

    Attributes:
        origin: (y, x) of its first pixel.
        spectrum: (1, 24) `spectral.frame_features` of the frame.
    """

    origin: tuple[int, int]
    spectrum: Tensor


@dataclasses.dataclass(frozen=True)
class _Graph:
    """All launches of one run as a CUDA graph, with the memory that it reads and writes."""

    key: tuple[tuple[int, ...], int]
    graph: torch.cuda.CUDAGraph
    photo: Tensor
    noise: Tensor
    camera: Tensor | None
    result: tuple[Tensor, BlurField | None]


class FrameSampler:
    """Draws the sharp version of one frame with a denoiser."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self._denoise: Denoise = denoiser.denoise
        self._graphs = False
        self._graph: _Graph | None = None
        # Drawn on the CPU, which takes longer than a GPU's whole run (H100, 4K: 69 ms).
        self._noise: tuple[tuple[int, ...], Tensor] | None = None

    def compile(self, backend: str = "inductor") -> None:
        """Compile the network; on a GPU frames of one tile then run as one CUDA graph."""
        self._denoise = torch.compile(self.denoiser.denoise, fullgraph=True, backend=backend)
        self._graphs = True

    def __call__(
        self, image: Tensor, request: Request, progress: Progress | None, place: Place | None = None
    ) -> Sample:
        """Sample a frame, or a region of one.

        Args:
            image: (1, 3, H, W) float in [0, 1], on any device.
            request: how.
            progress: called with (tiles done, tiles in all) over all steps.
            place: of a region.
        """
        steps, seed, camera = request.steps, request.seed, request.camera
        check_seed(seed)
        config = self.denoiser.config
        device = next(self.denoiser.parameters()).device
        height, width = image.shape[-2:]
        rows, columns = (-(-n // config.alignment) * config.alignment for n in (height, width))
        if config.camera:
            unknown = torch.full((VECTOR_SIZE,), math.nan)
            camera = (unknown if camera is None else camera)[None].to(device, torch.float32)
        else:
            camera = None
        plan = plan_tiles(
            (rows, columns), request.largest, config.receptive_radius, alignment=config.alignment
        )

        origin = (0, 0) if place is None else place.origin

        def photo() -> Tensor:
            pixels = image[0].float().to(device, non_blocking=True)
            return ops.extract_tiles(pixels, plan.size, ([0], [0]), scale=2.0, shift=-1.0)

        def noise() -> Tensor:
            if steps == 1 and config.objective == "anchored":
                # Its share in the estimate of the first step is 0.
                return torch.zeros((1, 3, *plan.size), device=device)
            if device.type != "cuda":
                return frame_noise(seed, *plan.size, origin=origin)
            key = (seed, *plan.size, *origin)
            if self._noise is None or self._noise[0] != key:
                drawn = frame_noise(seed, *plan.size, origin=origin).pin_memory()
                self._noise = key, drawn.to(device, non_blocking=True)
            return self._noise[1]

        single = len(plan.positions) == 1 and place is None
        if request.solver is ddim and self._graphs and device.type == "cuda" and single:
            result, blur = self._replay(photo(), noise(), camera, plan, request)
        else:
            result, blur = self._run(photo, noise, camera, plan, progress, request, place)
        image = (result[..., :height, :width] * 0.5 + 0.5).float()
        return Sample(image, blur, len(plan.positions))

    def _run(
        self,
        photo: Source,
        noise: Source,
        camera: Tensor | None,
        plan: TilePlan,
        progress: Progress | None,
        request: Request,
        place: Place | None = None,
    ) -> tuple[Tensor, BlurField | None]:
        """Condition and sample.

        Photo and noise come when they are needed and no name holds them: both are 100 MB at 4K.
        """
        spectrum = None if place is None else place.spectrum
        maps = self.denoiser.condition(photo(), camera, spectrum)
        blur = maps.blur if request.keep_blur else None
        maps = dataclasses.replace(maps, blur=None)
        steps = request.steps
        total, done = steps * len(plan.positions), 0

        def denoised(x: Tensor, t: int, position: tuple[int, int]) -> Tensor:
            nonlocal done
            tile = self._tile(x, t, maps, plan, position, place)
            done += 1
            if progress is not None:
                progress(done, total)
            return tile

        def denoise(x: Tensor, t: int) -> Tensor:
            if len(plan.positions) == 1:
                return denoised(x, t, plan.positions[0])
            tiles = x.new_empty((len(plan.positions), 3, *plan.tile))
            for tile, position in zip(tiles, plan.positions, strict=True):
                tile.copy_(denoised(x, t, position)[0])
            starts = (list(plan.starts[0]), list(plan.starts[1]))
            return ops.stitch_tiles(
                tiles, starts, plan.size, margin=plan.margin, channels_last=True
            )[None]

        return request.solver(denoise, noise(), steps), blur

    def _tile(
        self,
        x: Tensor,
        t: int,
        maps: ConditionMaps,
        plan: TilePlan,
        position: tuple[int, int],
        place: Place | None,
    ) -> Tensor:
        top, left = position
        rows, columns = slice(top, top + plan.tile[0]), slice(left, left + plan.tile[1])
        cut = maps.crop(top, left, *plan.tile)
        times = torch.full((1,), t, device=x.device)
        if place is not None:
            position = (place.origin[0] + top, place.origin[1] + left)
        with torch.autocast("cuda", torch.bfloat16, enabled=x.device.type == "cuda"):
            return self._denoise(x[..., rows, columns], times, cut, position).float()

    def _replay(
        self, photo: Tensor, noise: Tensor, camera: Tensor | None, plan: TilePlan, request: Request
    ) -> tuple[Tensor, BlurField | None]:
        """The run of this size from its graph, which is recorded at its first use."""
        if self._graph is None or self._graph.key != (plan.size, request.steps):
            self._graph = None
            self._graph = self._record(photo, noise, camera, plan, request)
        held = self._graph
        held.photo.copy_(photo)
        held.noise.copy_(noise)
        if held.camera is not None and camera is not None:
            held.camera.copy_(camera)
        held.graph.replay()
        return held.result

    def _record(
        self, photo: Tensor, noise: Tensor, camera: Tensor | None, plan: TilePlan, request: Request
    ) -> _Graph:
        request = dataclasses.replace(request, keep_blur=True)
        photo, noise = photo.clone(), noise.clone()
        camera = None if camera is None else camera.clone()
        stream = torch.cuda.Stream(photo.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(photo.device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles, and lets libraries choose their algorithms
                self._run(lambda: photo, lambda: noise, camera, plan, None, request)
        torch.cuda.current_stream(photo.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self._run(lambda: photo, lambda: noise, camera, plan, None, request)
        return _Graph((plan.size, request.steps), graph, photo, noise, camera, result)
