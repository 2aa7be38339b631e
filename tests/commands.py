"""Running the command lines inside the tests, and model folders for them."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import toys

from freqdiff.checkpoint import save_model
from freqdiff.cli import main
from freqdiff.denoiser import Denoiser
from freqdiff.photo import Photo, write_photo


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def run(*arguments: object, main: Callable[[Sequence[str]], int] = main) -> Result:
    """Run `freqdiff ARGUMENTS`, or those of another command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Result(code, out.getvalue(), err.getvalue())


def start(*module: object) -> subprocess.Popen[str]:
    """Start `python -m MODULE ARGUMENTS` in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, module)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def refused(result: Result, *words: object, code: int = 1, program: str = "freqdiff") -> str:
    """Check that a command ended with one sentence that holds all words; returns it."""
    assert result.code == code
    assert result.out == ""
    return sentence(result.err, *words, program=program)


def sentence(text: str, *words: object, program: str = "freqdiff") -> str:
    """Check that a text is one sentence on stderr that holds all words; returns it."""
    assert text.startswith(f"{program}: ")
    assert text.endswith(".\n")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    for word in words:
        assert str(word) in text
    return text


def toy_model(folder: Path) -> Path:
    """A model folder with random weights: its results differ from the input."""
    save_model(folder / "toy", toys.random_denoiser())
    return folder / "toy"


def untrained_model(folder: Path) -> Path:
    """A model folder whose model returns its input."""
    save_model(folder / "untrained", Denoiser(toys.TOY))
    return folder / "untrained"


def put_photo(path: Path, height: int = 48, width: int = 64, name: str = "astronaut") -> Path:
    """Write a photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_photo(path, Photo(toys.picture(height, width, name)))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
