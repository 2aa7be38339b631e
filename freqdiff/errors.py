"""Errors that FreqDiff raises: each message names the thing, what was expected and the way out."""


class FreqDiffError(Exception):
    """Base class of every error that this package raises on purpose."""


class InputError(FreqDiffError, ValueError):
    """An argument or an array that cannot be used."""


class PhotoError(InputError):
    """A file that cannot be read as a photo."""


class OutputError(FreqDiffError, RuntimeError):
    """A result that cannot be written."""


class ModelError(FreqDiffError, ValueError):
    """An unknown model, damaged weights or a configuration that does not fit."""


class TrainingError(FreqDiffError, RuntimeError):
    """A training run that cannot start, continue or converge."""


def sentence(error: BaseException) -> str:
    """What went wrong, on one line.

    Errors of our own are sentences already. From a worker process they come wrapped in its
    traceback, whose last line is the sentence behind the name of its class.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, FreqDiffError) and lines:
        return lines[-1].removeprefix(f"freqdiff.errors.{type(error).__name__}: ")
    if isinstance(error, MemoryError):
        return "There is not enough memory: close other programs or use smaller photos."
    what = ": ".join([type(error).__name__, *lines[:1]]).rstrip(".")
    return f"Unexpected {what}; run it again with --debug to see where."
