"""`blursynth train-diffusion`: trains the diffusion engine, in three stages."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from pathlib import Path

from freqdiff.arguments import positive, whole_number
from freqdiff.errors import InputError

SUMMARY = "train the diffusion engine: its VAE, its denoiser, its likeness to real blur"
USAGE = "--stage STAGE --sharp DIR --out DIR [options]"
EXAMPLES = """\
examples:
  blursynth train-diffusion --stage base --sharp photos --out base
  blursynth train-diffusion --stage align --base base/model --sharp photos \\
      --real blurred --out align"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add, number = parser.add_argument, whole_number(1)
    add(
        "--stage",
        required=True,
        choices=("codec", "base", "align"),
        metavar="STAGE",
        help="codec, base or align",
    )
    add("--sharp", required=True, metavar="DIR", help="sharp photos")
    add("--out", required=True, metavar="DIR", help="new folder, or one to go on with")
    add("--base", metavar="NAME", help="folder or hub name of what to begin with (small base)")
    add("--real", metavar="DIR", help="align: real blurred photos, of other things")
    add("--hold-out", action="store_true", help="leave out every second of them, to measure")
    add("--val", metavar="DIR", help="sharp photos for validation")
    add("--steps", type=number, metavar="N", help="of the whole run")
    add("--batch", type=number, metavar="N", help="pairs per step and process")
    add("--crop", type=whole_number(64), metavar="PX", help="side of the pairs")
    add("--long-side", type=whole_number(64), metavar="PX", help="larger photos are shrunk to it")
    add("--rate", type=positive("a learning rate"), metavar="X", help="learning rate")
    add("--minutes", type=positive("minutes"), metavar="M", help="stop after this time")
    add("--finish", action="store_true", help="plan as many steps as --minutes allow")
    add("--learn", metavar="PARTS", help="base: as in controlnet,camera_encoder (all four)")
    add("--rank", type=number, metavar="N", help="align: of the LoRA weights")
    add("--decoder", action="store_true", help="align: adapt the decoder too")
    add("--workers", type=whole_number(0), metavar="N", help="processes that prepare crops")
    add("--compile", action="store_true", help="faster steps, after minutes of torch.compile")
    add("--seed", type=whole_number(0), metavar="N", help="of the random numbers (0)")
    add("--device", default="auto", choices=("auto", "cpu"), help="auto: a GPU if there is one")
    add("--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    if arguments.finish and arguments.minutes is None:
        raise InputError("--finish goes with --minutes, which says when.")
    for name, stage in (
        ("learn", "base"),
        ("rank", "align"),
        ("decoder", "align"),
        ("hold_out", "align"),
    ):
        if getattr(arguments, name) and arguments.stage != stage:
            option = name.replace("_", "-")
            raise InputError(f"--{option} is for the stage {stage!r}: leave it out.")
    from blursynth.diffusion_load import require

    for package, extra in (
        ("accelerate", "train"),
        ("tensorboard", "train"),
        ("diffusers", "synth"),
        ("transformers", "synth"),
    ):
        require(package, "this training", extra)
    from blursynth.diffusion_align import AlignTraining
    from blursynth.diffusion_codec import CodecTraining
    from blursynth.diffusion_denoise import BaseTraining
    from blursynth.diffusion_run import prepare

    if arguments.device == "cpu":
        # The way that accelerate offers to leave a GPU alone.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    recipes = {"codec": CodecTraining, "base": BaseTraining, "align": AlignTraining}
    given = {
        "steps": arguments.steps,
        "batch": arguments.batch,
        "crop": arguments.crop,
        "long_side": arguments.long_side,
        "learning_rate": arguments.rate,
        "seed": arguments.seed,
        "parts": None if arguments.learn is None else tuple(arguments.learn.split(",")),
        "rank": arguments.rank,
        "decoder": arguments.decoder or None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    config = dataclasses.replace(recipes[arguments.stage](), **given)
    training = prepare(
        config,
        arguments.out,
        arguments.sharp,
        arguments.real,
        base=arguments.base,
        validation_folder=arguments.val,
        hold_out=arguments.hold_out,
        workers=arguments.workers,
        compile=arguments.compile,
    )
    talks = training.accelerator.is_main_process and not arguments.quiet
    if talks:
        where = f"goes on at step {training.step}" if training.step else "starts"
        print(
            f"Training of {arguments.stage} {where} on {training.accelerator.device}: "
            f"{config.steps} steps of {config.batch} pairs of {config.crop} px from "
            f"{len(training.stream.sharp.names)} photos; results go to {arguments.out}.",
            flush=True,
        )
    limit = math.inf if arguments.minutes is None else 60 * arguments.minutes
    try:
        training.run(seconds=limit, finish=arguments.finish, progress=not arguments.quiet)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted; the same command goes on from the last state in {arguments.out}."
        ) from None
    if training.accelerator.is_main_process:
        _tell(arguments, training.step, training.config.steps)
    return 0


def _tell(arguments: argparse.Namespace, step: int, steps: int) -> None:
    made = Path(arguments.out) / "model"
    if step < steps:
        print(
            f"Stopped at step {step} of {steps}; the same command goes on from there, and {made} "
            "holds the result so far."
        )
        return
    use = {
        "codec": f"blursynth train-diffusion --stage base --base {made}",
        "base": f"blursynth synthesize PHOTO -o RESULT --engine diffusion:{made}",
        "align": "blursynth synthesize PHOTO -o RESULT --engine "
        f"diffusion:{arguments.base},lora={made}",
    }
    print(f"Done: {use[arguments.stage]}")
