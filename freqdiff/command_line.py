"""A command of sub-commands: each a module; errors as one sentence, and exit codes.

Exit codes: 0 done, 1 something failed (one sentence on stderr for each), 2 wrong arguments, 130
interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Protocol

from freqdiff.arguments import INTERRUPTED, Parser
from freqdiff.errors import sentence


class SubCommand(Protocol):
    """What the module of a sub-command defines.

    `run` gets what was parsed, with `debug` (`debugging` tells whether tracebacks are wanted) and
    `fail`, which refuses the arguments for what a sentence says.
    """

    SUMMARY: str
    USAGE: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None: ...

    def run(self, arguments: argparse.Namespace, /) -> int: ...


def command_parser(program: str, description: str, commands: Mapping[str, SubCommand]) -> Parser:
    """The parser of a program's sub-commands, by their names."""
    parser = Parser(
        prog=program,
        description=description,
        epilog=f"'{program} COMMAND --help' shows options and examples.",
    )
    group = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=Parser
    )
    for name, module in commands.items():
        command = group.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
            usage=f"{program} {name} {module.USAGE}",
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.prog = f"{program} {name}"
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show tracebacks of errors")
        command.set_defaults(run=module.run, fail=command.error)
    return parser


def run_command(parser: Parser, argv: Sequence[str] | None = None) -> int:
    """Run what the arguments (those of the process if None) say; returns the exit code.

    Raises:
        SystemExit: with 2 for wrong arguments, with 0 for --help and the like.
    """
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        complain(parser.prog, str(interrupt) or "Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has left: say nothing, also not when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    # Whatever happens, people get a sentence; the traceback is for those who ask for it.
    except Exception as error:
        if debugging(arguments):
            traceback.print_exc()
        complain(parser.prog, sentence(error))
        return 1


def debugging(arguments: argparse.Namespace) -> bool:
    """Whether errors shall come with their traceback."""
    return bool(arguments.debug or os.environ.get("FREQDIFF_DEBUG"))


def complain(program: str, message: str) -> None:
    """Print a sentence on stderr."""
    print(f"{program}: {message}", file=sys.stderr)
