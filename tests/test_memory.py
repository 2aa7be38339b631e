"""What the C library keeps of freed memory, and what it gives back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from freqdiff import memory

_PROGRAM = """
import contextlib, sys
import torch
from freqdiff import memory

def kept(context):
    "Bytes that a process has more after 64 blocks of 8 MB came and went between small ones."
    holes = [torch.ones(2**14) for _ in range(1000)]  # filled, so that what follows lies in a row
    torch.ones(2**23 - 2**14)  # freed: from now on the C library keeps blocks of that size
    before, small, large = memory.used_memory(), [], []
    with context:
        for _ in range(64):
            large.append(torch.ones(2**21))
            small.append(torch.ones(2**14))
        grown = memory.used_memory() - before
        large.clear()
        left = memory.used_memory() - before
    return grown, left

for context in (memory.giving_back(), contextlib.nullcontext()):
    print(*kept(context))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_blocks_go_back_at_once_when_asked() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    all_blocks = 64 * 2**23
    assert all(grown > 0.9 * all_blocks for grown, _ in rows)
    left = [row[1] for row in rows]
    assert left[0] < 0.1 * all_blocks
    assert left[1] > 0.8 * all_blocks  # as everywhere else: for the next ones


_KEEPING = """
import torch
from freqdiff import memory

torch.ones(2)
before = memory.used_memory()
with memory.keeping():
    torch.ones(2**26)
    kept = memory.used_memory() - before
torch.ones(2**26)
print(kept, memory.used_memory() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_largest_blocks_are_kept_for_as_long_as_asked() -> None:
    done = subprocess.run([sys.executable, "-c", _KEEPING], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kept, left = map(int, done.stdout.split())
    assert kept > 0.95 * 2**28 > 0.1 * 2**28 > left


def test_without_such_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with memory.giving_back(), memory.keeping():
        memory.give_back()


def test_the_peak_is_that_of_the_process_itself() -> None:
    ballast = bytearray(900_000_000)
    ballast[:: 2**12] = b"x" * len(ballast[:: 2**12])
    program = "from freqdiff.memory import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert memory.peak_memory() > 9e8 > int(done.stdout) > 1e7
    del ballast
    assert memory.peak_memory() > 9e8
