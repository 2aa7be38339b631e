"""The deblurrer: conditions once per photo, samples by DDIM, tiles large photos, checks itself."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdiff import self_check
from freqdiff.checkpoint import load_model
from freqdiff.denoiser import Denoiser
from freqdiff.errors import FreqDiffError, InputError
from freqdiff.regions import plan_regions, region_pixels, sample_regions
from freqdiff.sampler import FrameSampler, Request, Sample, Solver
from freqdiff.sampling import ddim
from freqdiff.self_check import SelfCheck
from freqdiff.tiling import smallest_tile

_WHOLE_FRAME_PIXELS = {"cpu": 4_500_000, "cuda": 9_000_000}
"""Frames up to this size are not tiled. On a CPU, what a layer of `tiny` gives for a quarter of a
4K photo is small enough for the C library to keep its memory for the next layer; fresh pages for
larger results cost more than the overlap of tiles (benchmarks/deblur.py)."""
_LARGEST_TILE = {"cpu": 2144, "cuda": 3072}
ENSEMBLES = (1, 2, 4, 8)
BAND_CELL = 256
BRIGHTNESS_SLACK = 5 / 255
FLAT_RANGE = 2 / 255
_SMALLEST_CHANGE, _SMALL_CHANGE, _SMALL_SHARE = 1 / 255, 4 / 255, 0.01
"""In held-out sharp photos, and those whose blur the shipped model cannot undo, the mean change is
below 0.9 levels of 255 in 99% of the cells of 16 px, and nowhere above 3.5."""


@dataclasses.dataclass(frozen=True)
class FrameResult:
    """One deblurred frame.

    Attributes:
        image: (1, 3, H, W) float32 in [0, 1], on the CPU unless it was asked to stay.
        changed_share: share of the photo that changed by at least 1 level of 255 in the mean of a
            cell of 16 px; 0 where the model had nothing to offer and `image` is the input.
        tiles: number of tiles.
        seconds: wall time.
        check: where the photo is blurred and how far the result is to be trusted; None if it was
            not asked for, or the model does not estimate the blur.
    """

    image: Tensor
    changed_share: float
    tiles: int
    seconds: float
    check: SelfCheck | None = None

    @property
    def changed(self) -> bool:
        """False where `image` is the input."""
        return self.changed_share > 0


class Deblurrer(nn.Module):
    """A denoiser with everything around it that makes it a deblurrer of photos.

    Example:
        model = freqdiff.load("tiny"); sharp = model(blurred)
    """

    def __init__(self, denoiser: Denoiser, name: str) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.name = name
        self._sampler = FrameSampler(denoiser)

    def compile(self, backend: str = "inductor") -> None:
        """Compile the network for the sizes that it will meet: slow at first, faster later.

        On a GPU, a photo that fits as one tile then runs as one CUDA graph, which is recorded at
        the first photo of its size and number of steps; no progress is reported for it.

        Args:
            backend: of torch.compile.
        """
        self._sampler.compile(backend)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, image: Tensor, steps: int | None = None, seed: int = 0) -> Tensor:
        """Deblur photos.

        Args:
            image: (B, 3, H, W) float in [0, 1], any size and device.
            steps: sampling steps; the model's default if None.
            seed: of the sampling noise; photos of a batch get the same noise.

        Returns:
            The same shape, dtype and device.
        """
        results = [self.restore(frame[None], steps=steps, seed=seed).image for frame in image]
        return torch.cat(results).to(image) if results else image.clone()

    @torch.inference_mode()
    def restore(
        self,
        image: Tensor,
        *,
        steps: int | None = None,
        seed: int = 0,
        tile: int | None = None,
        ensemble: int = 1,
        keep_band: bool = True,
        check: bool = False,
        camera: Tensor | None = None,
        solver: Solver = ddim,
        max_memory: int | None = None,
        callback: Callable[[int, int], None] | None = None,
        keep_on_device: bool = False,
    ) -> FrameResult:
        """Deblur one photo.

        Args:
            image: (1, 3, H, W) float in [0, 1].
            steps: sampling steps, 1 (closest to the truth) .. 1000; the model's default if None.
            seed: of the sampling noise, >= 0.
            tile: longest side of a tile in pixels; chosen by the size of the photo if None. The
                result does not depend on it.
            ensemble: mean of the results for 1, 2, 4 or 8 mirrored and turned versions of the
                photo, which takes as many times as long (self-ensemble, Timofte et al. 2016).
            keep_band: tie the mean colour of large cells to the input, see `tie_low_band`.
            check: compare the result, blurred again, with the photo, see `self_check`.
            camera: (6,) settings that the photo was taken with, as of
                `photo_settings.camera_vector`, for models that use them; None: nothing is known.
            max_memory: bytes that this process is to aim at on a CPU: photos for which that is too
                little are sampled region by region, which takes longer and gives the same result.
                None: most of what is free.
            solver: how to get from noise to a photo.
            callback: called with (tiles done, tiles in all) over all steps; what it raises ends
                the work.
            keep_on_device: leave the result where the weights are.

        Raises:
            InputError: a wrong shape or option, a tile too small for the model, or too little
                memory.
            FreqDiffError: the model gave NaN or infinity.
        """
        started = time.perf_counter()
        if image.ndim != 4 or image.shape[:2] != (1, 3) or image.numel() == 0:
            raise InputError(f"image is {tuple(image.shape)}, expected (1, 3, H, W).")
        if ensemble not in ENSEMBLES:
            raise InputError(f"ensemble is {ensemble!r}, expected 1, 2, 4 or 8.")
        steps = self.denoiser.config.default_steps if steps is None else steps
        config = self.denoiser.config
        smallest = smallest_tile(config.receptive_radius, alignment=config.alignment)
        largest = tile or _automatic_tile(image, smallest, self.device.type)
        image = image.to(self.device, torch.float32)

        size = (image.shape[2], image.shape[3])
        pixels = math.inf
        if self.device.type == "cpu":
            pixels = region_pixels(size, max_memory, turned=ensemble > 1)
        ran_out = False

        def sample(turns: int) -> Sample:
            nonlocal largest, pixels, ran_out
            done = turns * ensemble // 8

            def report(tiles: int, total: int) -> None:
                if callback is not None:
                    callback(done * total + tiles, ensemble * total)

            turned = _turn(image, turns)
            while True:
                try:
                    regions = plan_regions(
                        size if turns % 2 == 0 else size[::-1], pixels, config, steps
                    )
                except InputError as error:
                    if not ran_out:
                        raise
                    raise FreqDiffError(
                        f"The memory of {self.device} is too small for model {self.name!r}: "
                        "free some, or use device='cpu' or a smaller model."
                    ) from error
                request = Request(steps, seed, largest, check and not turns, camera, solver)
                try:
                    return sample_regions(self._sampler, turned, regions, request, report)
                except torch.OutOfMemoryError:
                    # Tiles first: the memory of conditioning falls with the regions alone.
                    ran_out, shorter = True, min(largest, max(size)) // 2
                    if shorter >= smallest:
                        largest = shorter
                    else:
                        pixels = min(pixels, size[0] * size[1]) / 2
                    torch.cuda.empty_cache()

        first = sample(0)
        result, blur = first.image, first.blur
        for turns in range(8 // ensemble, 8, 8 // ensemble):
            result += _turn_back(sample(turns).image, turns)
        result /= ensemble
        if not all(math.isfinite(value) for value in result.aminmax()):
            raise FreqDiffError(f"Model {self.name!r} gave values that are not finite.")
        if keep_band:
            result = tie_low_band(result, image)
        result = keep_flat(result, image)
        result = result.clamp_(0, 1)
        share = float(changed_share(result, image))
        result = result if share else image.clone()
        checked = None if blur is None else self_check.check(image, result, blur)
        kept = result if keep_on_device else _to_cpu(result)
        seconds = time.perf_counter() - started
        return FrameResult(kept, share, first.tiles, seconds, checked)


def load(name: str = "tiny", device: str = "auto") -> Deblurrer:
    """Load a shipped model ("tiny"), or a model folder by its path.

    Args:
        name: see `freqdiff info` for the shipped models.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...

    Raises:
        ModelError: unknown name or damaged weights.
        InputError: no such device.
    """
    model = Deblurrer(load_model(name), name)
    return model.to(choose_device(device)).eval()


def choose_device(device: str) -> torch.device:
    """The device that "auto" or a name stands for.

    Raises:
        InputError: the name is not a device of this machine.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device is {device!r}, which this machine or this torch does not offer; "
            "use 'auto', 'cpu' or 'cuda'."
        ) from error
    return chosen


def tie_low_band(result: Tensor, image: Tensor) -> Tensor:
    """Keep the colours of large areas of `image` in `result` (both (1, 3, H, W)), in place.

    The mean colour of each cell goes back to that of the input, but for its brightness, which may
    differ by up to `BRIGHTNESS_SLACK`: light that was averaged before the camera's tone curve comes
    out brighter than the sharp photo (3 to 5 levels of 255 in REDS), and a deblurrer undoes that.
    """
    rows, columns = (_cell_weights(n, image.device) for n in image.shape[-2:])
    seen, made = (_between(rows.means, x[0], columns.means.mT) for x in (image, result))
    offset = seen - made
    offset = offset - offset.mean(0).clamp(-BRIGHTNESS_SLACK, BRIGHTNESS_SLACK)
    left, right = (x.expand(3, -1, -1) for x in (rows.blend, columns.blend.mT))
    result[0].baddbmm_(torch.bmm(left, offset), right)
    return result


def _between(left: Tensor, planes: Tensor, right: Tensor) -> Tensor:
    """left @ planes @ right for planes (3, h, w); bmm is traced for axes of one entry, too."""
    planes = torch.bmm(left.expand(3, -1, -1), planes)
    return torch.bmm(planes, right.expand(3, -1, -1))


class _CellWeights(NamedTuple):
    means: Tensor
    blend: Tensor


def _cell_weights(length: int, device: torch.device) -> _CellWeights:
    """Means over the cells of an axis, (cells, length), and linear blending back, (length, cells).

    As adaptive pooling and bilinear interpolation weigh, but as matrices: a graph of any runtime
    holds them for any length.
    """
    cells = torch.sym_max((length + BAND_CELL // 2) // BAND_CELL, 1)  # type: ignore[no-untyped-call]
    cell, pixel = torch.arange(cells, device=device)[:, None], torch.arange(length, device=device)
    inside = (pixel >= cell * length // cells) & (pixel < ((cell + 1) * length - 1) // cells + 1)
    means = inside.float()
    centre = ((pixel + 0.5) * (cells / length) - 0.5).clamp(0, cells - 1)
    blend = (1 - (centre - cell).abs()).clamp_min(0)
    return _CellWeights(means / means.sum(1, keepdim=True), blend.mT)


def keep_flat(result: Tensor, image: Tensor) -> Tensor:
    """Put `image` back into `result` (both (1, 3, H, W), in place) where it is flat 16 px around.

    Blur takes nothing from an area of one colour, so what a network adds there is wrong: exact
    black, white and borders of one colour survive.
    """
    ranges = torch.cat([_range_around(plane) for plane in image.chunk(3, 1)], 1)
    detail = (ranges.amax(1, keepdim=True) / FLAT_RANGE).clamp_(0, 1)
    share = F.interpolate(detail, scale_factor=8.0)[..., : image.shape[2], : image.shape[3]]
    return torch.lerp(image, result, share, out=result)


def _range_around(plane: Tensor) -> Tensor:
    """Highest less lowest value of a plane (1, 1, H, W) around each block of 8 px."""
    high, low = F.max_pool2d(plane, 8, ceil_mode=True), F.max_pool2d(-plane, 8, ceil_mode=True)
    return F.max_pool2d(high, 5, 1, 2) + F.max_pool2d(low, 5, 1, 2)


def changed_share(result: Tensor, image: Tensor) -> Tensor:
    """Share of the cells of 16 px that changed, or 0 if few did and by little: what is left then is
    no deblurring, and to give the photo back as it came costs nobody a sharp pixel."""
    planes = zip(result.chunk(3, 1), image.chunk(3, 1), strict=True)
    changes = [F.avg_pool2d((a - b).abs_(), 16, ceil_mode=True) for a, b in planes]
    cells = torch.cat(changes, 1).mean(1)
    share = (cells >= _SMALLEST_CHANGE).float().mean()
    counts = (share >= _SMALL_SHARE) | (cells.max() >= _SMALL_CHANGE)
    return share * counts


def _to_cpu(image: Tensor) -> Tensor:
    """A copy on the CPU, through pinned memory if it comes from a GPU."""
    if image.device.type != "cuda":
        return image.cpu()
    pinned = torch.empty(image.shape, dtype=image.dtype, pin_memory=True)
    return pinned.copy_(image)


def _turn(image: Tensor, turns: int) -> Tensor:
    """The image turned by `turns` quarters, and mirrored from 4 on."""
    image = torch.rot90(image, turns % 4, (-2, -1)) if turns % 4 else image
    return image.flip(-1) if turns >= 4 else image


def _turn_back(image: Tensor, turns: int) -> Tensor:
    image = image.flip(-1) if turns >= 4 else image
    return torch.rot90(image, -turns % 4, (-2, -1))


def _automatic_tile(image: Tensor, smallest: int, device: str) -> int:
    kind = "cpu" if device == "cpu" else "cuda"
    height, width = image.shape[-2:]
    whole = height * width <= _WHOLE_FRAME_PIXELS[kind]
    return max(height, width) + 64 if whole else max(_LARGEST_TILE[kind], smallest)
