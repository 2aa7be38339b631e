"""`blursynth train-gan`: trains the plain GAN that blur synthesis is compared with."""

from __future__ import annotations

import argparse

from freqdiff.arguments import whole_number

SUMMARY = "train a plain GAN on sharp and real blurred photos, to compare with"
USAGE = "--sharp DIR --real DIR --out DIR [options]"
EXAMPLES = """\
examples:
  blursynth train-gan --sharp photos --real blurred --out gan --steps 1500
  blursynth train-gan --sharp photos --real blurred --out gan --hold-out

The same command goes on where an earlier one was stopped."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("--sharp", required=True, metavar="DIR", help="sharp photos")
    add("--real", required=True, metavar="DIR", help="real blurred photos, of other things")
    add("--out", required=True, metavar="DIR", help="new folder, or one to go on with")
    add("--steps", type=whole_number(1), default=1500, metavar="N", help="of training (1500)")
    add("--batch", type=whole_number(1), default=8, metavar="N", help="crops per step (8)")
    add("--crop", type=whole_number(64), default=128, metavar="PX", help="side of the crops (128)")
    add(
        "--long-side",
        type=whole_number(64),
        default=960,
        metavar="PX",
        help="larger photos are shrunk to it (960)",
    )
    add("--seed", type=whole_number(0), default=0, metavar="N", help="of the random numbers (0)")
    add("--hold-out", action="store_true", help="leave out every second real photo, to measure")
    add("--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    from blursynth.gan import GeneratorConfig
    from blursynth.gan_train import GanConfig, train_gan

    config = GanConfig(
        steps=arguments.steps,
        batch=arguments.batch,
        crop=arguments.crop,
        seed=arguments.seed,
        generator=GeneratorConfig(long_side=arguments.long_side),
    )
    training = train_gan(
        arguments.sharp,
        arguments.real,
        arguments.out,
        config,
        hold_out=arguments.hold_out,
        progress=not arguments.quiet,
    )
    last = training.history[-1] if training.history else {}
    told = [f"{name} {value:.3f}" for name, value in last.items() if name != "step"]
    print(f"{training.step} steps: " + (", ".join(told) or "done"))
    return 0
