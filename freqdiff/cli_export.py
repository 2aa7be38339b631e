"""`freqdiff export`: writes a model as one graph for other runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path

from freqdiff.arguments import whole_number
from freqdiff.cli_base import add_network_options

SUMMARY = "write a model as ONNX or torch.export graph"
USAGE = "--format onnx|torch-export -o FILE [options]"
EXAMPLES = """\
examples:
  freqdiff export --format onnx -o freqdiff.onnx
  freqdiff export --format onnx --size 1024 1536 --steps 4 -o tile.onnx
  freqdiff export --format torch-export --part denoiser -o denoiser.pt2"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="to be written")
    parser.add_argument(
        "--format", required=True, choices=("onnx", "torch-export"), help="of the file"
    )
    parser.add_argument(
        "--part",
        default="deblur",
        choices=("deblur", "denoiser"),
        help="from photo to photo, or one evaluation of the network (deblur)",
    )
    add_network_options(parser)
    parser.add_argument(
        "--size",
        type=whole_number(32, 16384),
        nargs=2,
        metavar=("H", "W"),
        help="fixed size of the photos; any from 160 px on if left out",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the file; returns the exit code."""
    from freqdiff.deblurrer import load
    from freqdiff.export import export

    size = None if arguments.size is None else (arguments.size[0], arguments.size[1])
    export(
        arguments.output,
        load(arguments.model, "cpu"),
        format=arguments.format,
        part=arguments.part,
        size=size,
        steps=arguments.steps,
    )
    megabytes = Path(arguments.output).stat().st_size / 1e6
    print(f"{arguments.output} ({megabytes:.1f} MB)")
    return 0
