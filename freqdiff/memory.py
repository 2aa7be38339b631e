"""Memory of this process and of the system, and how the C library deals with what was freed."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from freqdiff_kernels import native

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
"""Names that mallopt knows its settings by (malloc.h)."""
_USUAL = {_TRIM_THRESHOLD: 2**26, _TOP_PAD: 2**17, _MMAP_THRESHOLD: 2**25, _MMAP_MAX: 2**16}
"""What the C library has by itself once a block of nearly 32 MB was freed."""
_SHARE_OF_FREE = 0.8


def used_memory(process: int | str = "self") -> int:
    """Resident bytes of this process, or of another by its number; 0 where it is not told."""
    pages = _number(f"/proc/{process}/statm", 1)
    return 0 if pages is None else pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Most resident bytes that this process had.

    On Linux not by getrusage, which counts those of the process that started it in.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource  # not there on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def free_memory() -> int | None:
    """Bytes that the system, or the container around this process, can give; None if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is not None and used is not None:
        free.append(limit - used)
    return min(free, default=None)


def available() -> int | None:
    """Bytes that work without a limit may take: most of what is free; None if unknown."""
    free = free_memory()
    return None if free is None else int(_SHARE_OF_FREE * free)


def give_back() -> None:
    """Give what was freed back to the system, as far as the C library can (glibc)."""
    native.release_memory()
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Keep what is freed, however large, for the next blocks.

    For work that takes and frees the same ones over and over, such as training, which the C library
    makes 4 to 13% slower by giving large ones back to the system (tiny, 2 cores).
    """
    with _settings({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 2**26}):
        yield


@contextlib.contextmanager
def giving_back() -> Iterator[None]:
    """Give large blocks back to the system as they are freed.

    Else the C library keeps those of up to 32 MB for the next ones, which saves time where these
    have the same size, and leaves gaps where they do not. It has one such setting for a process.
    """
    give_back()
    with _settings({_MMAP_THRESHOLD: 2**20}):
        yield


@contextlib.contextmanager
def _settings(changes: dict[int, int]) -> Iterator[None]:
    """Settings of mallopt, the usual ones after that, and what was freed goes back (glibc)."""
    _set(changes)
    try:
        yield
    finally:
        _set(_USUAL)
        give_back()


def _set(settings: dict[int, int]) -> None:
    if (library := _glibc()) is not None:
        for name, value in settings.items():
            library.mallopt(name, value)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is GNU's."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - raises where there is none
    except (OSError, TypeError, AttributeError):
        return None
    return library


def _number(path: str, place: int = 0) -> int | None:
    """A number of a file of the system; None if there is none."""
    try:
        return int(Path(path).read_text(encoding="ascii").split()[place])
    except (OSError, IndexError, ValueError):
        return None
