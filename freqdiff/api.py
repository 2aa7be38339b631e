"""`freqdiff.deblur`: any kind of picture in, the same kind out."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Literal, overload

import torch
from torch import Tensor
from tqdm import tqdm

from freqdiff.deblurrer import Deblurrer, load
from freqdiff.errors import InputError
from freqdiff.images import ImageInput, ImageOutput, OpenedImage, open_image
from freqdiff.photo_settings import CameraSettings, photo_vector
from freqdiff.self_check import SelfCheck

_FEW = 0.01


@dataclasses.dataclass(frozen=True)
class Details:
    """A deblurred picture and how it was made.

    Attributes:
        image: what `deblur` returns without `return_details`.
        changed: False where the model had nothing to offer and the input was returned.
        notes: conversions and other things that a person should know.
        model, steps, seed: as used.
        tiles: number of tiles per step.
        seconds: wall time of the model.
        check: where and how the picture is blurred and how far the result is to be trusted, in
            cells of 32 px; the maps are (h, w), or (B, h, w) for a batch. None where it was not
            asked for, or by a model that does not estimate the blur.
        changed_share: share of the picture that changed by at least 1 level of 255 in the mean of a
            cell of 16 px.
    """

    image: ImageOutput
    changed: bool
    notes: tuple[str, ...]
    model: str
    steps: int
    seed: int
    tiles: int
    seconds: float
    check: SelfCheck | None = None
    changed_share: float = 0.0


@overload
def deblur(
    image: ImageInput,
    *,
    model: str | Deblurrer = ...,
    steps: int | None = ...,
    seed: int = ...,
    tile: int | Literal["auto"] = ...,
    max_memory: int | None = ...,
    ensemble: int = ...,
    camera: CameraSettings | Literal["exif"] | None = ...,
    linear: bool = ...,
    device: str = ...,
    progress: bool | None = ...,
    callback: Callable[[int, int], None] | None = ...,
    return_details: Literal[False] = ...,
) -> ImageOutput: ...


@overload
def deblur(
    image: ImageInput,
    *,
    model: str | Deblurrer = ...,
    steps: int | None = ...,
    seed: int = ...,
    tile: int | Literal["auto"] = ...,
    max_memory: int | None = ...,
    ensemble: int = ...,
    camera: CameraSettings | Literal["exif"] | None = ...,
    linear: bool = ...,
    device: str = ...,
    progress: bool | None = ...,
    callback: Callable[[int, int], None] | None = ...,
    return_details: Literal[True],
) -> Details: ...


def deblur(
    image: ImageInput,
    *,
    model: str | Deblurrer = "tiny",
    steps: int | None = None,
    seed: int = 0,
    tile: int | Literal["auto"] = "auto",
    max_memory: int | None = None,
    ensemble: int = 1,
    camera: CameraSettings | Literal["exif"] | None = "exif",
    linear: bool = False,
    device: str = "auto",
    progress: bool | None = None,
    callback: Callable[[int, int], None] | None = None,
    return_details: bool = False,
) -> ImageOutput | Details:
    """Make a blurred picture sharp.

    Args:
        image: path of a photo, Pillow image, NumPy array (H, W, C) or (H, W) of u8, u16 or float in
            [0, 1], or tensor (C, H, W) or (B, C, H, W) of u8 or float in [0, 1].
        model: name of a shipped model, path of a model folder, or a loaded model.
        steps: sampling steps, 1 (closest to the truth) .. 1000; the model's default if None.
        seed: of the sampling noise; the same seed gives the same result.
        tile: longest side of a tile in pixels; it changes the memory used, not the result.
        max_memory: bytes that this process is to keep to on a CPU: too large a photo is worked on
            region by region then, which takes longer and gives the same result. It is an aim that
            other models than "tiny" may miss. None: most of what is free.
        ensemble: 2, 4 or 8: mean of the results for as many mirrored and turned versions of the
            picture, which is a little better and takes as many times as long.
        camera: for models that use them (`adv`) the settings that the picture was taken with: those
            in its Exif block, as far as it has one, a `blursynth.Camera`, or None for unknown ones.
        linear: the samples are proportional to light (raw data, renderings), also where no colour
            profile says so; so are those of the result.
        device: "auto", "cpu", "cuda", ...; ignored for a loaded model.
        progress: show a bar; by default only in a terminal and only for work of several tiles.
        callback: called with (done, total); an exception raised in it cancels the work.
        return_details: return `Details` instead of the picture, with a self-check of the result.

    Returns:
        The same kind as `image`; for a path a Pillow image (8 bit) or a NumPy array (16 bit,
        float). A picture on which the model has nothing to offer comes back unchanged.

    Raises:
        InputError: a picture or an option that cannot be used (PhotoError for files).
        ModelError: an unknown or damaged model.
    """
    opened = open_image(image, linear=linear)
    rgb, details = deblur_opened(
        opened,
        model=model,
        steps=steps,
        seed=seed,
        tile=tile,
        max_memory=max_memory,
        ensemble=ensemble,
        camera=camera,
        device=device,
        progress=progress,
        callback=callback,
        check=return_details,
        keep_on_device=True,
    )
    details = dataclasses.replace(details, image=opened.restore(rgb))
    return details if return_details else details.image


def deblur_opened(
    opened: OpenedImage,
    *,
    model: str | Deblurrer = "tiny",
    steps: int | None = None,
    seed: int = 0,
    tile: int | Literal["auto"] = "auto",
    max_memory: int | None = None,
    ensemble: int = 1,
    camera: CameraSettings | Literal["exif"] | None = "exif",
    device: str = "auto",
    progress: bool | None = None,
    callback: Callable[[int, int], None] | None = None,
    check: bool = False,
    keep_on_device: bool = False,
) -> tuple[Tensor, Details]:
    """`deblur` for a picture that was opened already; for what writes its own files.

    Returns:
        The result (B, 3, H, W) float32 in [0, 1], on the CPU or, with `keep_on_device`, where the
        model is; and details whose `image` is that tensor.
    """
    if tile != "auto" and (not isinstance(tile, int) or tile < 1):
        raise InputError(f"tile is {tile!r}, expected 'auto' or a number of pixels.")
    loaded = model if isinstance(model, Deblurrer) else _loaded(str(model), device)
    used_steps = loaded.denoiser.config.default_steps if steps is None else steps
    show = progress if progress is not None else sys.stderr.isatty()
    settings = _settings(opened, camera) if loaded.denoiser.config.camera else None
    results = []
    with tqdm(disable=not show, unit="tile", desc="deblur", leave=False) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)
            if callback is not None:
                callback(done, total)

        for index in range(opened.count):
            bar.reset()
            result = loaded.restore(
                opened.frame(index, loaded.device),
                steps=used_steps,
                seed=seed,
                tile=None if tile == "auto" else tile,
                max_memory=max_memory,
                ensemble=ensemble,
                check=check,
                camera=settings,
                callback=report,
                keep_on_device=keep_on_device,
            )
            results.append(result)
    notes = opened.notes
    shares = [result.changed_share for result in results]
    if not all(result.changed for result in results):
        notes = (*notes, "no blur that this model can remove was found: returned unchanged")
    elif max(shares) < _FEW:
        notes = (*notes, "little blur that this model can remove: under 1% of the photo changed")
    # Joining copies: a large photo is there once.
    rgb = results[0].image if len(results) == 1 else torch.cat([r.image for r in results])
    return rgb, Details(
        image=rgb,
        changed=any(result.changed for result in results),
        notes=notes,
        model=loaded.name,
        steps=used_steps,
        seed=seed,
        tiles=results[0].tiles,
        seconds=sum(result.seconds for result in results),
        check=_together([result.check for result in results]),
        changed_share=sum(shares) / len(shares),
    )


def _settings(
    opened: OpenedImage, camera: CameraSettings | Literal["exif"] | None
) -> Tensor | None:
    """What is known of the camera, as numbers for the network (6,)."""
    if camera is None:
        return None
    if camera == "exif":
        height, width = opened.size
        return torch.from_numpy(photo_vector(opened.exif, (width, height)))
    if not isinstance(camera, CameraSettings):
        raise InputError(f"camera is {camera!r}, expected 'exif', a blursynth.Camera or None.")
    return torch.from_numpy(camera.vector())


def _together(checks: list[SelfCheck | None]) -> SelfCheck | None:
    """The maps of one picture, or those of a batch stacked."""
    found = [check for check in checks if check is not None]
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    names = [field.name for field in dataclasses.fields(SelfCheck)]
    return SelfCheck(*(torch.stack([getattr(check, name) for check in found]) for name in names))


@functools.lru_cache(maxsize=2)
def _loaded(name: str, device: str) -> Deblurrer:
    return load(name, device)
