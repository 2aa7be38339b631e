"""The tokenizer of CLIP, from the vocabulary of the open-clip-torch package."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from freqdiff.errors import ModelError

CONTEXT = 77
"""Tokens of a text, the two at its ends included."""

_FILE = "bpe_simple_vocab_16e6.txt.gz"
_START, _END = "<|startoftext|>", "<|endoftext|>"
# What CLIP kept of the merges in the file, after its first line: 49408 tokens with the two ends.
_MERGES = 49152 - 256 - 2


def clip_merges() -> list[tuple[str, str]]:
    """Merges of CLIP's byte pair encoding (Radford et al. 2021), most frequent first.

    They are read from the installed package without importing it, which would need torchvision.

    Raises:
        ModelError: the package is not installed.
    """
    spec = importlib.util.find_spec("open_clip")
    folders = [] if spec is None else spec.submodule_search_locations or []
    for folder in folders:
        path = Path(folder) / _FILE
        if path.is_file():
            lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
            pairs = (line.split() for line in lines[1 : _MERGES + 1])
            return [(first, second) for first, second in pairs]
    raise ModelError(
        "The vocabulary of CLIP is not here: install it with "
        '"pip install --no-deps open-clip-torch", or use a model that brings its tokenizer.'
    )


def clip_tokenizer(merges: Sequence[tuple[str, str]]) -> Any:
    """A `transformers.CLIPTokenizer` whose tokens are CLIP's: bytes, bytes that end a word, merged
    pairs, the start and the end of a text, in this order.

    Raises:
        ModelError: transformers is not installed.
    """
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise ModelError(
            "The tokenizer of CLIP needs the package transformers: install it with "
            'pip install "freqdiff-deblur[synth]".'
        ) from error
    symbols = _byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    tokens += ["".join(pair) for pair in merges]
    tokens += [_START, _END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=list(merges), model_max_length=CONTEXT)


def _byte_symbols() -> list[str]:
    """One visible character for each byte, in CLIP's order: bytes that are printable themselves
    first, then the others as characters from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = 256 - len(printable)
    return [chr(code) for code in (*printable, *range(256, 256 + hidden))]
