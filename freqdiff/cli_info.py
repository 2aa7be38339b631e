"""`freqdiff info`: what is installed and which implementations run."""

from __future__ import annotations

import argparse
import json

SUMMARY = "show versions, hardware, live kernels and shipped models"
USAGE = "[--json]"
EXAMPLES = """\
examples:
  freqdiff info
  freqdiff info --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the facts; returns the exit code."""
    from freqdiff.info import collect, describe

    facts = collect()
    print(json.dumps(facts, indent=2) if arguments.json else describe(facts))
    return 0
