"""Command lines: the parser and the kinds of values that the programs share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Literal, NoReturn

USAGE_ERROR = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        program = self.prog.partition(" ")[0]
        self.exit(USAGE_ERROR, f"{program}: {message}; see '{self.prog} --help'.\n")


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


def positive(what: str) -> Callable[[str], float]:
    """A type of argument: a number above zero, of what it is called."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"expected {what} above 0, got {text!r}")
        return value

    return parse


def memory_size(text: str) -> int:
    """A type of argument: bytes, as "4G", "800M" or a plain number of them."""
    units = {"K": 10**3, "M": 10**6, "G": 10**9}
    number, unit = (
        (text[:-1], units[text[-1:].upper()]) if text[-1:].upper() in units else (text, 1)
    )
    try:
        value = float(number) * unit
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a size such as 4G or 800M, got {text!r}")
    return int(value)


def tile_size(text: str) -> int | Literal["auto"]:
    """A type of argument: "auto" or a number of pixels."""
    if text == "auto":
        return "auto"
    try:
        return whole_number(1)(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected 'auto' or a number of pixels, got {text!r}"
        ) from None
