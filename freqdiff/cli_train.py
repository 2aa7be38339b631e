"""`freqdiff train`: trains a model on a folder of sharp photos, or goes on with it."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from pathlib import Path

from freqdiff.arguments import positive, whole_number
from freqdiff.errors import TrainingError

SUMMARY = "train a model on sharp photos, or on pairs"
USAGE = "--config NAME --data DIR --output DIR [options]"
EXAMPLES = """\
A run that was stopped goes on when the same command is given again.

examples:
  freqdiff train --config tiny --data photos --pairs built --output runs/tiny"""

BLURS = ("gaussian", "frame_average", "physics_clean", "physics_full")
"""The keys of `blursynth.recipes.RECIPES`, which takes seconds to load."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--config", required=True, choices=("tiny", "base", "adv"))
    parser.add_argument(
        "--preset",
        choices=("paper",),
        help="the paper's objective, condition and schedule",
    )
    parser.add_argument("--data", metavar="DIR", help="sharp photos, which are blurred on the way")
    parser.add_argument("--pairs", metavar="PATH", help="what blursynth build made, or its shards")
    parser.add_argument(
        "--pairs-share",
        type=positive("a share"),
        metavar="S",
        help="of them, beside --data (0.25)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="state, model, results")
    parser.add_argument("--val", metavar="DIR", help="sharp photos for validation")
    number = whole_number(1)
    parser.add_argument("--steps", type=number, metavar="N", help="steps of the whole run")
    parser.add_argument("--batch", type=number, metavar="N", help="pairs at once in a process")
    parser.add_argument("--accumulate", type=number, metavar="N", help="batches of a step (1)")
    parser.add_argument(
        "--learning-rate", type=positive("a learning rate"), metavar="R", help="peak of it (1e-3)"
    )
    parser.add_argument(
        "--relative-floor",
        type=positive("a floor"),
        metavar="F",
        help="smaller: more careful with sharp photos (0.003)",
    )
    parser.add_argument("--crop", type=number, metavar="N", help="pixels, a multiple of 32")
    parser.add_argument(
        "--blur",
        choices=BLURS,
        default="physics_full",
        metavar="KIND",
        help=", ".join(reversed(BLURS)),
    )
    parser.add_argument(
        "--minutes", type=positive("minutes"), metavar="M", help="stop after this time"
    )
    parser.add_argument(
        "--finish",
        action="store_true",
        help="plan as many steps as --minutes allow",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network: faster on a GPU after a minute",
    )
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="start with a model's weights, or its blur estimator",
    )
    parser.add_argument(
        "--anchor-steps",
        type=whole_number(0),
        metavar="N",
        help="in which the blur estimator learns alone",
    )
    parser.add_argument(
        "--progressive",
        action="store_true",
        help="more crops, of half the side, at first",
    )
    parser.add_argument(
        "--fsdp", action="store_true", help="share the weights out over the processes"
    )
    parser.add_argument(
        "--workers", type=whole_number(0), metavar="N", help="processes that prepare crops"
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="seed of weights and data (0)"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def run(arguments: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    if arguments.crop is not None and arguments.crop % 32:
        raise TrainingError(f"crop is {arguments.crop}, expected a multiple of 32.")
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise TrainingError(
            "Training needs the package accelerate: install it with "
            'pip install "freqdiff-deblur[train]".'
        ) from error
    if arguments.finish and arguments.minutes is None:
        raise TrainingError("--finish goes with --minutes, which says when.")
    if arguments.pairs_share is not None and None in (arguments.data, arguments.pairs):
        raise TrainingError("--pairs-share is for --data and --pairs together: leave it out.")
    from blursynth.recipes import RECIPES
    from freqdiff.checkpoint import load_model
    from freqdiff.data import DataConfig
    from freqdiff.deblurrer import choose_device
    from freqdiff.model import CONFIGS, as_in_paper
    from freqdiff.train import Training
    from freqdiff.train_config import PAPER, TrainConfig
    from freqdiff.validation import Validation

    choose_device(arguments.device)
    if arguments.device == "cpu":
        # The way that accelerate offers to leave a GPU alone.
        os.environ["ACCELERATE_USE_CPU"] = "true"
    given = {
        "steps": arguments.steps,
        "batch": arguments.batch,
        "accumulate": arguments.accumulate,
        "learning_rate": arguments.learning_rate,
        "relative_floor": arguments.relative_floor,
        "anchor_steps": arguments.anchor_steps,
    }
    paper = arguments.preset == "paper"
    recipe = dataclasses.replace(
        PAPER if paper else TrainConfig(),
        seed=arguments.seed,
        progressive=arguments.progressive,
        **{key: value for key, value in given.items() if value is not None},
    )
    model = as_in_paper(CONFIGS[arguments.config]) if paper else CONFIGS[arguments.config]
    told = {"crop": arguments.crop, "built": arguments.pairs_share}
    told = {key: value for key, value in told.items() if value is not None}
    data = DataConfig(seed=arguments.seed, recipe=RECIPES[arguments.blur], **told)
    output = Path(arguments.output)
    try:
        training = Training(
            output,
            arguments.data,
            model,
            recipe,
            data,
            None if arguments.val is None else Validation(arguments.val),
            arguments.workers,
            arguments.compile,
            built=arguments.pairs,
            sharded=arguments.fsdp,
        )
        resumed = training.resume()
        where = f"goes on at step {training.step}" if resumed else "starts"
        if arguments.init is not None and not resumed:
            where += f" with the {training.start_from(load_model(arguments.init))}"
            where += f" of {arguments.init}"
        processes = training.accelerator.num_processes
        each = " x ".join(
            str(number)
            for number in (processes, recipe.accumulate, recipe.batch)
            if number > 1 or number is recipe.batch
        )
        talks = training.accelerator.is_main_process
        if talks:
            print(
                f"Training of {model.name} {where} on {training.accelerator.device}: "
                f"{recipe.steps} steps of {each} crops of {data.crop} pixels from "
                f"{training.pairs.stock}; results go to {output}.",
                flush=True,
            )
        limit = math.inf if arguments.minutes is None else 60 * arguments.minutes
        training.run(seconds=limit, finish=arguments.finish)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted; the same command goes on from the last state in {output}."
        ) from None
    except OSError as error:
        raise TrainingError(
            f"Training cannot write to {output} ({error.strerror or error}): "
            "free some space, or choose another folder."
        ) from error
    if not talks:
        return 0
    if training.step >= training.config.steps:
        print(f"Done: freqdiff deblur PHOTO -o RESULT --model {output / 'model'}")
    else:
        print(
            f"Stopped at step {training.step} of {training.config.steps}; the same command goes "
            f"on from there, and {output / 'model'} holds the model so far."
        )
    return 0
