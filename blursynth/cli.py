"""The command `blursynth`: sub-commands, errors and exit codes.

Exit codes: 0 done, 1 something failed (one sentence on stderr for each), 2 wrong arguments, 130
interrupted. Modules that are slow to load are imported by the sub-commands when they run.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from blursynth import cli_build, cli_inspect, cli_synthesize, cli_train_diffusion, cli_train_gan
from blursynth.cli_base import complain
from freqdiff.arguments import INTERRUPTED, Parser
from freqdiff.errors import sentence

_COMMANDS = {
    "synthesize": cli_synthesize,
    "inspect": cli_inspect,
    "build": cli_build,
    "train-gan": cli_train_gan,
    "train-diffusion": cli_train_diffusion,
}


def build_parser() -> Parser:
    """The parser of all sub-commands."""
    parser = Parser(
        prog="blursynth",
        description="Blur sharp photos as cameras do.",
        epilog="'blursynth COMMAND --help' shows options and examples.",
    )
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=Parser
    )
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
            usage=f"blursynth {name} {module.USAGE}",
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.prog = f"blursynth {name}"
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show tracebacks of errors")
        command.set_defaults(run=module.run, fail=command.error)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        argv: the arguments; those of the process if None.

    Raises:
        SystemExit: with 2 for wrong arguments, with 0 for --help.
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
        if arguments.debug:
            traceback.print_exc()
        complain(sentence(error))
        return 1
