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
