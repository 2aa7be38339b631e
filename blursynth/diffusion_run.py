"""One run of a training stage, from base, photos and recipe; ready to begin or to go on."""

from __future__ import annotations

import os
from pathlib import Path

from blursynth.build_plan import list_photos
from blursynth.diffusion_align import AlignStage, AlignTraining
from blursynth.diffusion_base import make_small_base
from blursynth.diffusion_codec import CodecStage, CodecTraining
from blursynth.diffusion_denoise import BaseStage, BaseTraining
from blursynth.diffusion_load import load_pipeline
from blursynth.diffusion_stage import Stage
from blursynth.diffusion_stream import Stream
from blursynth.diffusion_tiles import alignment, pitch
from blursynth.diffusion_train import DiffusionTraining, make_accelerator
from blursynth.photo_crops import Crops
from blursynth.physics import MARGIN
from freqdiff.errors import InputError

LEAST_CROP = 64
_CHECK_SEED = 1


def prepare(
    config: CodecTraining | BaseTraining | AlignTraining,
    output_folder: str | os.PathLike[str],
    sharp_folder: str | os.PathLike[str],
    real_folder: str | os.PathLike[str] | None = None,
    *,
    base: str | None = None,
    validation_folder: str | os.PathLike[str] | None = None,
    hold_out: bool = False,
    workers: int | None = None,
    compile: bool = False,
) -> DiffusionTraining:
    """A training of the stage whose recipe is given; it goes on where the output folder stands.

    Args:
        config: recipe of `codec`, `base` or `align`.
        output_folder: gets the result in its folder `model`, and the state of the run.
        sharp_folder: sharp photos.
        real_folder: real blurred photos of other things, for `align`.
        base: folder or hub name of what to begin with: the small base, untrained, if there is
            none; for `base` the result of `codec`, if that was trained, for `align` that of
            `base`, or a Stable Diffusion 1.x or 2.x.
        validation_folder: sharp photos to validate with; without, those that are trained on.
        hold_out: leave out every second real photo, to measure with.
        workers, compile: of `DiffusionTraining`.

    Raises:
        InputError: a folder without photos that are large enough, or a recipe that does not fit.
        ModelError: the base cannot be loaded.
        TrainingError: the output folder holds a run of other settings.
        OutputError: the output folder cannot be made.
    """
    output, sharp = Path(output_folder), Path(sharp_folder)
    if isinstance(config, AlignTraining) and real_folder is None:
        raise InputError("The stage 'align' needs real blurred photos: give a folder of them.")
    if not isinstance(config, AlignTraining) and real_folder is not None:
        raise InputError("Only the stage 'align' learns from real photos: leave them out.")
    if base is None and isinstance(config, AlignTraining):
        raise InputError("This stage needs a base, the result of the one before: name its folder.")

    side = config.crop

    def crops(folder: Path, *, margin: int, every: int = 1) -> Crops:
        names = list_photos(folder, leave_out=output.resolve())[::every]
        return Crops(folder, names, side + 2 * margin, config.long_side)

    photos = crops(sharp, margin=MARGIN)
    checked = photos
    if validation_folder is not None:
        checked = crops(Path(validation_folder), margin=MARGIN)
    real = None
    if real_folder is not None:
        real = crops(Path(real_folder), margin=0, every=2 if hold_out else 1)

    pipeline = make_small_base() if base is None else load_pipeline(base, new_parts=True)
    unit = pitch(pipeline.vae) * alignment(pipeline.unet)
    if side % unit or side < LEAST_CROP:
        raise InputError(
            f"Expected crops of a multiple of {unit} px for this base, at least {LEAST_CROP}, got "
            f"{side}: choose another size."
        )
    stage: Stage
    if isinstance(config, CodecTraining):
        stage = CodecStage(pipeline, config)
    elif isinstance(config, BaseTraining):
        stage = BaseStage(pipeline, config)
    else:
        stage = AlignStage(pipeline, config)
    accelerator = make_accelerator(output)
    # Each process sees other crops.
    seed = (config.seed, accelerator.process_index)
    training = DiffusionTraining(
        output,
        stage,
        Stream(photos, config.batch, seed, real),
        Stream(checked, config.batch, (_CHECK_SEED, config.seed), real),
        accelerator,
        workers,
        compile,
    )
    training.resume()
    return training
