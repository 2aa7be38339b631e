"""Measuring a model: blurred and sharp pairs, sharp photos, and synthetic blur.

PSNR and SSIM are of the result rounded to 8 bit, compared by one of `freqdiff.protocol`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from blursynth.physics import synthesize
from freqdiff.api import deblur_opened
from freqdiff.atomic import make_folder
from freqdiff.deblurrer import Deblurrer
from freqdiff.downstream import Answers, Task
from freqdiff.errors import InputError
from freqdiff.images import OpenedImage, open_image
from freqdiff.photo import Photo, write_photo
from freqdiff.protocol import PROTOCOLS, Scores

METRICS = ("psnr_rgb", "psnr_y", "ssim_matlab3d")
"""Those of most protocols; others have another SSIM."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One photo to deblur and the truth.

    Attributes:
        name: of the photo, for reports and saved results; may hold slashes.
        opened: what the model gets.
        sharp: (3, H, W) float32 in [0, 1], the truth; None where the input is the truth.
        sharp_name: of the truth.
        save_input: the input exists in no file, so it is worth saving.
    """

    name: str
    opened: OpenedImage
    sharp: Tensor | None
    sharp_name: str
    save_input: bool = False


@dataclasses.dataclass(frozen=True)
class ImageScore:
    """Numbers of one photo.

    Attributes:
        name, sharp: names of the input and of the truth.
        size: (width, height) in pixels.
        input, output: scores of the input and of the result against the truth.
        colour_shift: largest absolute difference of a channel's mean between result and input, in
            1/255.
        changed: False where the model returned its input.
        seconds: wall time of the model.
        answers: of a program that looks at photos; None if that was not asked for.
    """

    name: str
    sharp: str
    size: tuple[int, int]
    input: Scores
    output: Scores
    colour_shift: float
    changed: bool
    seconds: float
    answers: Answers | None = None

    @property
    def gain(self) -> Scores:
        """`output - input`; not a number where one of them is infinite."""
        return {
            name: after - self.input[name]
            if math.isfinite(after) and math.isfinite(self.input[name])
            else math.nan
            for name, after in self.output.items()
        }


def pair_samples(
    pairs: Iterable[tuple[Path, Path]], folder: Path, *, linear: bool = False
) -> Iterator[Sample]:
    """Samples of pairs of files (blurred, sharp); names are relative to `folder`.

    With `linear` they hold linear light, whatever their profiles say.

    Raises:
        InputError: a file that cannot be read, or a pair of different sizes.
    """
    for blurred, sharp in pairs:
        opened, truth = open_image(blurred, linear=linear), _stored(open_image(sharp))
        if opened.rgb.shape[1:] != truth.shape:
            sizes = [f"{v.shape[-1]}x{v.shape[-2]}" for v in (opened.rgb, truth)]
            raise InputError(
                f"{str(blurred)!r} has {sizes[0]} pixels and {str(sharp)!r} has {sizes[1]}: "
                "the photos of a pair must have the same size, so crop them or check the names."
            )
        yield Sample(_name(blurred, folder), opened, truth, sharp.name)


def sharp_samples(paths: Iterable[Path], folder: Path) -> Iterator[Sample]:
    """Samples of sharp photos that should come back as they are.

    Raises:
        InputError: a file that cannot be read.
    """
    for path in paths:
        yield Sample(_name(path, folder), open_image(path), None, path.name)


def synthetic_samples(
    paths: Sequence[Path], folder: Path, seed: int, draws: int = 1
) -> Iterator[Sample]:
    """Samples of sharp photos that the physics engine blurs, photo i by (`seed`, i).

    With several `draws` every photo is blurred as often, by `seed`, `seed` + 1, ...; the names then
    begin with these.

    Raises:
        InputError: a file that cannot be read.
    """
    for drawn, (index, path) in itertools.product(range(seed, seed + draws), enumerate(paths)):
        sharp = open_image(path).rgb[0]
        own = int(np.random.SeedSequence([drawn, index]).generate_state(1, np.uint64)[0])
        blurred = synthesize(sharp, seed=own).blurred
        name = f"{drawn}/{_name(path, folder)}" if draws > 1 else _name(path, folder)
        yield Sample(name, open_image(blurred), sharp, path.name, save_input=True)


def measure(
    sample: Sample,
    model: Deblurrer,
    *,
    steps: int | None = None,
    seed: int = 0,
    tile: int | Literal["auto"] = "auto",
    ensemble: int = 1,
    save: Path | None = None,
    protocol: str = "plain",
    task: Task | None = None,
) -> ImageScore:
    """Deblur one sample and compare it with the truth.

    Args:
        sample: photo and truth.
        model: the model to measure.
        steps, seed, tile, ensemble: see `freqdiff.deblur`.
        save: a folder; the result is written to it as PNG.
        protocol: one of `freqdiff.protocol.PROTOCOLS`, for the input and the result alike.
        task: also ask its program about the truth, the input and the result.

    Raises:
        OutputError: the result cannot be written.
        InputError: the photo is too small for the protocol, or cannot be registered.
    """
    opened = sample.opened
    rgb, details = deblur_opened(
        opened,
        model=model,
        steps=steps,
        seed=seed,
        tile=tile,
        ensemble=ensemble,
        progress=False,
    )
    # As in a saved file: rounded, and grey photos stay grey.
    restored = open_image(opened.restore_photo(rgb).pixels if opened.photo else rgb[0]).rgb[0]
    blurred = _stored(opened)
    compare = PROTOCOLS[protocol]
    same = {"psnr_rgb": math.inf, "psnr_y": math.inf, "ssim_matlab3d": 1.0}
    truth = blurred if sample.sharp is None else sample.sharp
    shift = (restored.double().mean((1, 2)) - blurred.double().mean((1, 2))).abs().max()
    if save is not None:
        name = sample.name if sample.name.lower().endswith(".png") else f"{sample.name}.png"
        result = opened.restore_photo(rgb) if opened.photo else _as_photo(restored)
        save_png(save / name, result)
        if sample.save_input:
            save_png((save / name).with_suffix(".input.png"), _as_photo(blurred))
    answers = None
    if task is not None:
        answers = Answers(*(task.observe(image) for image in (truth, blurred, restored)))
    return ImageScore(
        name=sample.name,
        sharp=sample.sharp_name,
        size=(truth.shape[-1], truth.shape[-2]),
        input=same if sample.sharp is None else compare(blurred, truth),
        output=compare(restored, truth),
        colour_shift=255 * float(shift),
        changed=details.changed,
        seconds=details.seconds,
        answers=answers,
    )


def save_png(path: Path, photo: Photo) -> None:
    """Write a photo, and the folders that its path needs.

    Raises:
        OutputError: it cannot be written.
    """
    make_folder(path.parent)
    write_photo(path, photo)


def _as_photo(image: Tensor) -> Photo:
    """A tensor (3, H, W) in [0, 1] as an 8-bit photo."""
    samples = (image * 255).round().clamp(0, 255).to(torch.uint8)
    return Photo(np.ascontiguousarray(samples.permute(1, 2, 0).numpy()))


def _stored(opened: OpenedImage) -> Tensor:
    """The samples (3, H, W) as the file has them, in linear light as well."""
    if opened.linear and opened.photo:
        return open_image(opened.photo.pixels).rgb[0]
    return opened.rgb[0]


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def mean(values: Sequence[float]) -> float | None:
    """Mean of the finite values; None if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None
