"""`blursynth build`: makes a data set of blurred and sharp photos; one bad photo stops nothing."""

from __future__ import annotations

import argparse

from blursynth.cli_base import ENGINE_HELP, complain
from freqdiff.arguments import whole_number

SUMMARY = "make a data set of blurred and sharp photos"
USAGE = "--sharp DIR --out DIR [options]"
EXAMPLES = """\
examples:
  blursynth build --sharp photos --out dataset
  blursynth build --sharp photos --out dataset --crop 512 --count 10000

The same command goes on where an earlier one was stopped."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("--sharp", required=True, metavar="DIR", help="sharp photos; sub-folders name categories")
    add("--out", required=True, metavar="DIR", help="new folder, or one to go on with")
    add("--count", type=whole_number(1), metavar="N", help="pairs (as many as --per-photo makes)")
    add("--per-photo", type=whole_number(1), default=1, metavar="N", help="of each photo (1)")
    add("--seed", type=whole_number(0), default=0, metavar="N", help="of the random numbers (0)")
    add("--prior", metavar="CSV", help="table of real exposures to draw from")
    add("--engine", default="physics", metavar="NAME", help=ENGINE_HELP)
    add("--workers", type=whole_number(1), default=1, metavar="N", help="processes (1)")
    add("--crop", type=whole_number(64), metavar="PX", help="side of the pairs (whole photos)")
    add("--format", choices=("png", "jpeg"), default="png", help="of the files (png)")
    add("--shards", type=whole_number(1), metavar="N", help="WebDataset shards of N pairs too")
    add("--compare", metavar="DIR", help="real blurred photos to measure the distance from")
    add("--ray", nargs="?", const="", metavar="ADDRESS", help="run on a Ray cluster (a local one)")
    add("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Make the data set; returns the exit code."""
    from blursynth.dataset import build, to_json
    from blursynth.statistics import table

    summary = build(
        arguments.sharp,
        arguments.out,
        count=arguments.count,
        per_photo=arguments.per_photo,
        seed=arguments.seed,
        prior=arguments.prior,
        engine=arguments.engine,
        workers=arguments.workers,
        crop=arguments.crop,
        format=arguments.format,
        shard_size=arguments.shards,
        compare=arguments.compare,
        ray=arguments.ray,
        progress=not arguments.json,
    )
    for problem in summary.problems:
        complain(problem.error)
    if arguments.json:
        print(to_json(summary))
    else:
        if summary.statistics:
            print(table(summary.statistics, summary.distances))
        names = ("written", "kept", "rejected", "failed", "shards")
        counts = [f"{n} {name}" for name in names if (n := getattr(summary, name))]
        print(", ".join(counts) + f" ({summary.seconds:.1f} s)")
    return 1 if summary.failed else 0
