"""The command `blursynth`: its sub-commands.

Modules that are slow to load are imported by the sub-commands when they run.
"""

from __future__ import annotations

from collections.abc import Sequence

from blursynth import cli_build, cli_inspect, cli_synthesize, cli_train_diffusion, cli_train_gan
from freqdiff.arguments import Parser
from freqdiff.command_line import command_parser, run_command

_COMMANDS = {
    "synthesize": cli_synthesize,
    "inspect": cli_inspect,
    "build": cli_build,
    "train-gan": cli_train_gan,
    "train-diffusion": cli_train_diffusion,
}


def build_parser() -> Parser:
    """The parser of all sub-commands."""
    return command_parser("blursynth", "Blur sharp photos as cameras do.", _COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line as `freqdiff.command_line.run_command` says."""
    return run_command(build_parser(), argv)
