"""Work that is shared out to processes of this machine."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import Any, TypeAlias, TypeVar

from tqdm import tqdm

from freqdiff.errors import OutputError

Task = TypeVar("Task")
Result = TypeVar("Result")
Work: TypeAlias = Callable[[Task, Callable[[], bool]], Result]
"""Does a task; its second argument tells whether to stop."""

_work: Callable[[Any, Callable[[], bool]], Any] | None = None
_stop: Event | None = None


def in_processes(work: Work[Task, Result], tasks: Iterator[Task], workers: int) -> Iterator[Result]:
    """Do all tasks in worker processes; the order of the results varies.

    Workers end with the process that started them. Where this generator is closed or interrupted,
    they are told to stop and waited for.

    Args:
        work: goes to each worker once.
        tasks: taken as they are needed, so that there may be very many.
        workers: number of processes.

    Raises:
        OutputError: a worker was killed.
    """
    # A forked copy of a process with the threads of torch may hang.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(work, stop)
    ) as pool:
        waiting: set[concurrent.futures.Future[Result]] = set()
        try:
            while True:
                while len(waiting) < 2 * workers:
                    try:
                        task = next(tasks)
                    except StopIteration:
                        break
                    with _interrupts_held():
                        waiting.add(pool.submit(_run, task))
                if not waiting:
                    return
                done, waiting = concurrent.futures.wait(
                    waiting, return_when=concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    yield future.result()
        except BrokenProcessPool as error:
            raise OutputError(
                "A worker process was killed, perhaps for want of memory: "
                "give fewer workers; what is finished is kept."
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


def _begin(work: Work[Any, Any], stop: Event) -> None:
    global _work, _stop
    _work, _stop = work, stop
    # Bars of several processes would share a semaphore, which a killed one leaves behind.
    tqdm.set_lock(threading.RLock())
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


def _run(task: Any) -> Any:
    assert _work is not None
    assert _stop is not None
    return _work(task, _stop.is_set)
