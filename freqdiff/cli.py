"""The command `freqdiff`: sub-commands, errors and exit codes.

Exit codes: 0 done, 1 something failed (one sentence on stderr for each), 2 wrong arguments, 130
interrupted. Modules that are slow to load are imported by the sub-commands when they run.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
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
from freqdiff.arguments import INTERRUPTED, Parser
from freqdiff.cli_base import complain, debugging
from freqdiff.errors import sentence

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
    parser = Parser(
        prog="freqdiff",
        description="Make blurred photos sharp.",
        epilog="'freqdiff COMMAND --help' shows options and examples.",
    )
    parser.add_argument("--version", action="version", version=f"freqdiff {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=Parser
    )
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
            usage=f"freqdiff {name} {module.USAGE}",
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.prog = f"freqdiff {name}"
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show tracebacks of errors")
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        argv: the arguments; those of the process if None.

    Raises:
        SystemExit: with 2 for wrong arguments, with 0 for --help and --version.
    """
    arguments = build_parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        complain(str(interrupt) or "Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has left: say nothing, also not when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # Whatever happens, people get a sentence; the traceback is for those who ask for it.
    except Exception as error:
        if debugging(arguments):
            traceback.print_exc()
        complain(sentence(error))
        return 1
