"""`freqdiff bench`: how fast this machine is, measured by the benchmarks of the source checkout."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from freqdiff.errors import InputError

SUMMARY = "measure the kernels, or whole photos, on this machine"
USAGE = "{kernels,deblur} [--json] [options]"
EXAMPLES = """\
Needs a source checkout.

examples:
  freqdiff bench kernels
  freqdiff bench kernels --only halo_attention --json
  freqdiff bench deblur --output rows.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("what", choices=["kernels", "deblur"], help="what to measure")
    parser.add_argument("--json", action="store_true", help="print the rows as one JSON list")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the rows there, not to benchmarks/results",
    )
    parser.add_argument("--only", metavar="OP", help="only the cases of one operation (kernels)")
    parser.add_argument("--runs", type=int, metavar="N", help="runs of each contestant")


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmark in a process of its own; returns its exit code.

    Raises:
        InputError: this is an installation without the benchmarks.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "benchmarks" / f"{arguments.what}.py").is_file():
        raise InputError(
            "freqdiff bench needs a source checkout: the benchmarks are not part of an installed "
            "package."
        )
    command = [sys.executable, "-m", f"benchmarks.{arguments.what}"]
    if arguments.only:
        command += ["--only", arguments.only]
    if arguments.runs:
        command += ["--runs", str(arguments.runs)]
    if arguments.json:
        command.append("--json")
    if arguments.output:
        command += ["--output", str(arguments.output.absolute())]
    return subprocess.run(command, cwd=root, check=False).returncode
