"""SHA-256 of the weights of a folder, in a file that `sha256sum -c` reads too."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from freqdiff.errors import ModelError

SUMS = "SHA256SUMS"


def write_sums(folder: str | os.PathLike[str]) -> None:
    """Write the sums of all safetensors files under a folder.

    Raises:
        OSError: the folder cannot be written.
    """
    root = Path(folder)
    files = sorted(root.rglob("*.safetensors"))
    lines = [f"{sha256_of(file)}  {file.relative_to(root).as_posix()}\n" for file in files]
    (root / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: str | os.PathLike[str]) -> None:
    """Compare the files of a folder with its sums, if it has some.

    Raises:
        ModelError: a file is missing or changed; one sentence.
    """
    root = Path(folder)
    if not (root / SUMS).is_file():
        return
    for line in (root / SUMS).read_text(encoding="utf-8", errors="replace").splitlines():
        wanted, _, name = line.partition("  ")
        if not (root / name).is_file() or sha256_of(root / name) != wanted:
            raise ModelError(
                f"The weights {str(root / name)!r} are missing or not the ones that were saved: "
                "get that folder again."
            )


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, which is read in pieces."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
