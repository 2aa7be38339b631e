"""Training by several processes, as torchrun starts them, which load the packages once for all."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import socket
import sys
import unittest.mock
from collections.abc import Sequence
from pathlib import Path

_PACKAGES = ["accelerate", "freqdiff.train", "blursynth.diffusion_align"]


def _rank(program: str, arguments: list[str], environment: dict[str, str], printed: str) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of workers, as in other processes
    os.environ.update(environment)
    file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
    sys.exit(importlib.import_module(program).main(arguments))


def run_together(
    program: str, arguments: Sequence[object], folder: Path, *, processes: int = 2
) -> str:
    """Call `main(arguments)` of a module in so many processes of one group on the CPU.

    Returns:
        What all of them printed, which a file in the folder gathers.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PACKAGES)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    group |= {"WORLD_SIZE": str(processes), "ACCELERATE_USE_CPU": "true"}
    printed = folder / f"printed_{len(list(folder.glob('printed_*')))}"
    words = [str(value) for value in arguments]
    ranks = []
    for rank in map(str, range(processes)):
        environment = group | {"RANK": rank, "LOCAL_RANK": rank} if processes > 1 else {}
        call = (program, words, environment, str(printed))
        ranks.append(context.Process(target=_rank, args=call))
    # Read when the first one is started, by the process that all are copies of.
    with unittest.mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        for process in ranks:
            process.start()
    try:
        for process in ranks:
            process.join(240)
        told = printed.read_text(encoding="utf-8")
        assert [process.exitcode for process in ranks] == [0] * processes, told
    finally:
        for process in ranks:
            process.kill()
    return told
