"""Making folders; writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from freqdiff.errors import OutputError

TEMPORARY_FILES = ".freqdiff-*.tmp"
"""Pattern of the names of temporary files, which only a killed process leaves behind. A living one
holds a lock on its file."""

_REASONS = {
    errno.ENOSPC: "the disk is full, so free some space or choose another folder",
    errno.EDQUOT: "the disk quota is used up, so free some space or choose another folder",
    errno.EACCES: "the folder is not writable, so change its permissions or choose another one",
    errno.EPERM: "the folder is not writable, so change its permissions or choose another one",
    errno.EROFS: "the disk is read-only, so choose another folder",
    errno.ENOENT: "its folder does not exist, so create it first",
    errno.ENOTDIR: "a part of the path is a file and not a folder, so choose another path",
    errno.EISDIR: "this is a folder, so give the name of a file",
    errno.ENAMETOOLONG: "the name is too long, so choose a shorter one",
}


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder, and those above it, unless they are there.

    Raises:
        OutputError: one of them cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot make the folder {os.fspath(folder)!r}: {error.strerror}, "
            "so choose another one."
        ) from error


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file in the same folder.

    Readers see the old content or the whole new content, never a part of it. On any failure the
    temporary file is removed and the old content stays. A link is followed, not replaced, and an
    existing file keeps its permissions.

    Raises:
        OutputError: the file cannot be written.
    """
    with _replacing(path) as temporary:
        _write_and_sync(temporary, data)


@contextlib.contextmanager
def atomic_stream(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Like `write_atomically` for content that does not fit in memory: a stream to write it to.

    The file takes its place at the end of the `with` block, unless that ends with an error.

    Raises:
        OutputError: the file cannot be written.
    """
    with _replacing(path) as temporary, temporary.open("wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files in a folder that killed processes left; the living keep theirs."""
    for path in Path(folder).glob(TEMPORARY_FILES):
        with contextlib.suppress(OSError), path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend the name of a temporary file, which afterwards replaces ``path`` or is removed."""
    target = Path(os.path.realpath(path))
    # A short name of its own: the target's may already be as long as the file system allows.
    temporary = target.with_name(TEMPORARY_FILES.replace("*", secrets.token_hex(8)))
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        try:
            with _locked(temporary):
                yield temporary
                with contextlib.suppress(FileNotFoundError):
                    temporary.chmod(target.stat().st_mode & 0o7777)
                os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        reason = _REASONS.get(
            error.errno or 0, f"{error.strerror or error}, so choose another path"
        )
        raise OutputError(f"Cannot write {str(path)!r}: {reason}.") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Create an empty file, and hold a lock on it where the file system has locks."""
    while True:
        with path.open("xb") as stream:
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_EX)
            # Another process may have taken it for a leftover before the lock was there.
            if os.fstat(stream.fileno()).st_nlink:
                yield
                return


def _write_and_sync(path: Path, data: bytes) -> None:
    """Fill ``path`` and return once its content is on the disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
