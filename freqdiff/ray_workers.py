"""Work that is shared out to a Ray cluster; imported only when that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from freqdiff.errors import InputError
from freqdiff.workers import Result, Task, Work

try:
    import ray
    import ray.data
except ImportError as error:
    raise InputError(
        "Working on a Ray cluster needs the package ray, so install it with "
        'pip install "freqdiff-deblur[ray]", or leave out --ray.'
    ) from error


def on_ray(
    work: Work[Task, Result], tasks: Iterable[Task], address: str, *, gpus: int = 0
) -> Iterator[Result]:
    """Do all tasks on the machines of a cluster, each on one CPU; the order of the results varies.

    Args:
        work: goes to each machine once; the folders that it uses must be the same on all of them.
        tasks: what to do.
        address: of the cluster; "" uses the one of this machine's environment, or starts a local
            one for the length of the work.
        gpus: that each task needs.

    Raises:
        InputError: no cluster answers at the address.
    """
    begun_here = not ray.is_initialized()
    if begun_here:
        try:
            ray.init(address=address or None, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            what = str(error).splitlines()[0].rstrip(".")
            raise InputError(
                f"Cannot use the Ray cluster {address or 'of this machine'!r}: {what}; "
                "check its address."
            ) from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        all_tasks = list(tasks)
        shared = ray.put((work, all_tasks))

        def run(row: dict[str, Any]) -> dict[str, Any]:
            work, tasks = ray.get(shared)
            return {"result": work(tasks[row["id"]], lambda: False)}

        for row in ray.data.range(len(all_tasks)).map(run, num_cpus=1, num_gpus=gpus).iter_rows():
            yield row["result"]
    finally:
        if begun_here:
            ray.shutdown()
