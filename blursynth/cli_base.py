"""What the sub-commands share: the parser, kinds of values, and errors as one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

USAGE_ERROR = 2
INTERRUPTED = 130
ENGINE_HELP = "physics, or diffusion:BASE[,key=value...]"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE_ERROR, f"blursynth: {message}; see '{self.prog} --help'.\n")


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """A type of argument: a whole number in [low, high]."""
    expected = f"a whole number from {low}" + (" on" if high is None else f" to {high}")

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
        return value

    return parse


def minutes(text: str) -> float:
    """A type of argument: a time above zero."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected minutes above 0, got {text!r}")
    return value


def complain(message: str) -> None:
    """Print a sentence on stderr."""
    print(f"blursynth: {message}", file=sys.stderr)
