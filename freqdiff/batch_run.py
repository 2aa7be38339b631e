"""The photos of a batch, one after the other: here, in processes, or on a cluster."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import traceback
from collections.abc import Callable, Iterator, Sequence

import torch

from freqdiff import memory
from freqdiff.batch import Job, Outcome, Settings, process
from freqdiff.deblurrer import Deblurrer, load
from freqdiff.errors import sentence
from freqdiff.info import peak_memory
from freqdiff.workers import in_processes


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a photo of a batch.

    Attributes:
        number: its place in the batch, from 0 on.
        outcome: what happened to it; None if it failed.
        error: a sentence on why.
        details: the traceback of that.
        worker: the process that worked on it.
        peak_memory: the most bytes that this process had until then.
    """

    number: int
    outcome: Outcome | None
    error: str = ""
    details: str = ""
    worker: str = ""
    peak_memory: int = 0


@dataclasses.dataclass(frozen=True)
class Deblurring:
    """How to deblur a photo of a batch; each process loads the model once.

    Attributes:
        model: name of a shipped model, or a model folder.
        device: "auto", "cpu", "cuda", ...
        settings: of all photos.
        threads: of torch in this process; None leaves them as they are.
    """

    model: str
    device: str
    settings: Settings
    threads: int | None = None

    @functools.cached_property
    def deblurrer(self) -> Deblurrer:
        """The model.

        Raises:
            ModelError: no such model.
            InputError: no such device.
        """
        return load(self.model, self.device)

    def __call__(self, task: tuple[int, Job], stopped: Callable[[], bool]) -> Report:
        """Deblur one photo of a batch, given with its number.

        Raises:
            KeyboardInterrupt: stopped meanwhile.
        """

        def go_on(done: int, total: int) -> None:
            if stopped():
                raise KeyboardInterrupt

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        number, job = task
        worker = f"{platform.node()}/{os.getpid()}"
        try:
            outcome = process(job, self.deblurrer, self.settings, callback=go_on)
            peak = peak_memory(self.deblurrer.device)
            return Report(number, outcome, worker=worker, peak_memory=peak)
        # Not only errors of our own: whatever one photo leads to, the others can be done.
        except Exception as error:
            details = traceback.format_exc()
            return Report(number, None, sentence(error), details, worker, memory.peak_memory())


def run(
    work: Deblurring, jobs: Sequence[Job], *, workers: int = 1, ray: str | None = None
) -> Iterator[Report]:
    """Deblur all photos; the order of the reports varies where they are shared out.

    Args:
        work: how.
        jobs: which.
        workers: processes, among which threads and memory are divided.
        ray: "" or the address of a Ray cluster whose machines see all files by the same paths.

    Raises:
        ModelError: no such model; at once, and the others with the first report.
        OutputError: a worker was killed.
        InputError: no such device, or no Ray cluster.
    """
    if ray is not None or workers > 1:
        settings = dataclasses.replace(work.settings, progress=False)  # one bar, or none
        work = dataclasses.replace(work, settings=settings)
    device = work.deblurrer.device
    if ray is not None:
        from freqdiff.ray_workers import on_ray

        on_all = [(number, _absolute(job)) for number, job in enumerate(jobs)]
        # A copy, which has not loaded the model yet.
        return on_ray(dataclasses.replace(work), on_all, ray, gpus=int(device.type == "cuda"))
    tasks = enumerate(jobs)
    workers = min(workers, len(jobs))
    if workers > 1:
        return in_processes(_part_of(work, workers), tasks, workers)
    return (work(task, lambda: False) for task in tasks)


def _part_of(work: Deblurring, workers: int) -> Deblurring:
    """The same work with one worker's part of threads and memory."""
    limit = work.settings.max_memory
    if limit is None:
        limit = memory.available()
    return dataclasses.replace(
        work,
        settings=dataclasses.replace(
            work.settings, max_memory=None if limit is None else limit // workers
        ),
        threads=max(1, torch.get_num_threads() // workers),
    )


def _absolute(job: Job) -> Job:
    return Job(
        job.source.absolute(),
        job.target.absolute(),
        None if job.comparison is None else job.comparison.absolute(),
    )
