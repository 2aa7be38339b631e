"""Reading text off photos: how many characters blur costs, and how many a result gives back.

The text of the sharp photo, as the same program reads it, is the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from freqdiff.errors import InputError

Reader = Callable[[Tensor], str]
"""Text of an image (3, H, W) in [0, 1], top to bottom, without spaces."""


def rapid_reader() -> Reader:
    """The reader of the package rapidocr-onnxruntime, whose models come with it.

    Raises:
        InputError: it is not installed.
    """
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise InputError(
            "Reading text needs the package rapidocr-onnxruntime: install it with "
            'pip install "freqdiff-deblur[downstream]".'
        ) from error
    engine = RapidOCR()

    def read(image: Tensor) -> str:
        pixels = (image * 255).round().clamp(0, 255).to(torch.uint8)
        found, _ = engine(np.ascontiguousarray(pixels.flip(0).permute(1, 2, 0).numpy()))
        return in_order([(box, text) for box, text, _ in found or []])

    return read


def in_order(found: list[tuple[list[list[float]], str]]) -> str:
    """Pieces of text line by line; those whose middles lie within half a height are one line.

    Args:
        found: corners (x, y) of each piece, and its text.
    """
    pieces = []
    for box, text in found:
        xs, ys = zip(*box, strict=True)
        pieces.append((min(ys), max(ys), min(xs), text))
    pieces.sort()
    lines: list[list[tuple[float, float, float, str]]] = []
    for piece in pieces:
        middle = (piece[0] + piece[1]) / 2
        if lines and middle < lines[-1][0][1] and middle > lines[-1][0][0]:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    ordered = (piece for line in lines for piece in sorted(line, key=lambda piece: piece[2]))
    return "".join("".join(text.split()) for *_, text in ordered)


def score(truths: Sequence[str], texts: Sequence[str]) -> float | None:
    """Character accuracy over all photos; None where none of them holds text."""
    characters = sum(map(len, truths))
    if not characters:
        return None
    pairs = zip(texts, truths, strict=True)
    right = sum(len(truth) * character_accuracy(text, truth) for text, truth in pairs if truth)
    return right / characters


def character_accuracy(text: str, truth: str) -> float:
    """1 - edit distance / length of the truth, at least 0; both without spaces, truth not empty."""
    distances = list(range(len(truth) + 1))
    for row, character in enumerate(text, start=1):
        diagonal, distances[0] = distances[0], row
        for column, expected in enumerate(truth, start=1):
            best = min(
                distances[column] + 1,
                distances[column - 1] + 1,
                diagonal + (character != expected),
            )
            diagonal, distances[column] = distances[column], best
    return max(0.0, 1 - distances[-1] / len(truth))
