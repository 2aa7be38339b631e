"""What the sub-commands share."""

from __future__ import annotations

import argparse
import functools

from freqdiff import command_line
from freqdiff.arguments import tile_size, whole_number

complain = functools.partial(command_line.complain, "freqdiff")


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model and its steps."""
    parser.add_argument(
        "--model", default="tiny", metavar="NAME", help="shipped model or model folder (tiny)"
    )
    parser.add_argument(
        "--steps",
        type=whole_number(1, 1000),
        metavar="N",
        help="sampling steps, 1 to 1000 (as the model prefers)",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a model and how it runs."""
    add_network_options(parser)
    parser.add_argument(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="seed of the random numbers (0)",
    )
    parser.add_argument(
        "--tile",
        type=tile_size,
        default="auto",
        metavar="N",
        help="longest side of a tile in pixels (auto)",
    )
    parser.add_argument(
        "--ensemble",
        type=int,
        choices=(1, 2, 4, 8),
        default=1,
        metavar="N",
        help="mean of 2, 4 or 8 turned versions: a little better",
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="where to compute: auto, cpu, cuda, cuda:1, ... (auto)",
    )
