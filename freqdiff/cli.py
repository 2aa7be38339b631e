"""The command `freqdiff`: its sub-commands.

Modules that are slow to load are imported by the sub-commands when they run.
"""

from __future__ import annotations

from collections.abc import Sequence

from freqdiff import (
    __version__,
    cli_bench,
    cli_deblur,
    cli_evaluate,
    cli_export,
    cli_info,
    cli_inspect,
    cli_train,
    cli_web,
)
from freqdiff.arguments import Parser
from freqdiff.command_line import command_parser, run_command

_COMMANDS = {
    "deblur": cli_deblur,
    "inspect": cli_inspect,
    "web": cli_web,
    "evaluate": cli_evaluate,
    "train": cli_train,
    "export": cli_export,
    "info": cli_info,
    "bench": cli_bench,
}


def build_parser() -> Parser:
    """The parser of all sub-commands."""
    parser = command_parser("freqdiff", "Make blurred photos sharp.", _COMMANDS)
    parser.add_argument("--version", action="version", version=f"freqdiff {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line as `freqdiff.command_line.run_command` says."""
    return run_command(build_parser(), argv)
