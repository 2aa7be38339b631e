"""Running the tasks of a build: here, or in processes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event

from blursynth.build_pair import Outcome, run_task
from blursynth.build_plan import Plan
from freqdiff.errors import OutputError

_plan: Plan | None = None
_stop: Event | None = None


def run_here(plan: Plan) -> Iterator[Outcome]:
    """Make all pairs in this process, one after the other."""
    for task in plan.tasks():
        yield from run_task(plan, task)


def run_in_processes(plan: Plan, workers: int) -> Iterator[Outcome]:
    """Make all pairs in worker processes; the order of the outcomes varies.

    Workers that are told to stop finish the pair that they are at.

    Raises:
        OutputError: a worker was killed.
    """
    # A forked copy of a process with the threads of torch may hang.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    tasks = plan.tasks()
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(plan, stop)
    ) as pool:
        waiting: set[concurrent.futures.Future[list[Outcome]]] = set()
        try:
            # Few tasks at a time: memory does not grow with the data set.
            while True:
                while len(waiting) < 2 * workers and (task := next(tasks, None)) is not None:
                    with _interrupts_held():
                        waiting.add(pool.submit(_work, task))
                if not waiting:
                    return
                done, waiting = concurrent.futures.wait(
                    waiting, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    yield from future.result()
        except BrokenProcessPool as error:
            raise OutputError(
                "A worker process was killed, perhaps for want of memory: "
                "give fewer workers; the same call goes on where it stopped."
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Block SIGINT; a process that is started meanwhile inherits that until it ignores SIGINT."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(plan: Plan, stop: Event) -> None:
    global _plan, _stop
    _plan, _stop = plan, stop
    # Ctrl-C reaches all processes of a terminal; the first one tells the workers to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker as soon as the process that started it is gone, however it ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    with contextlib.suppress(OSError):
        multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _work(task: list[int]) -> list[Outcome]:
    assert _plan is not None
    assert _stop is not None
    return list(run_task(_plan, task, _stop.is_set))
