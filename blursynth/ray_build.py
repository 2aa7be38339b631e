"""Running the tasks of a build on a Ray cluster; imported only when that is asked for."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from typing import Any

from blursynth.build_pair import Outcome, run_task
from blursynth.build_plan import Plan
from freqdiff.errors import InputError

try:
    import ray
    import ray.data
except ImportError as error:
    raise InputError(
        "Building on Ray needs the package ray, so install it with "
        'pip install "freqdiff-deblur[ray]", or build without --ray.'
    ) from error


def run_on_ray(plan: Plan, address: str) -> Iterator[Outcome]:
    """Make all pairs on the machines of a cluster.

    Args:
        plan: its folders must be the same on all machines.
        address: of the cluster; "" uses the one of this machine's environment, or starts a local
            one for the length of the build.

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
        # Each row is a task of some pairs of one photo, so that a photo is not read for every pair.
        tasks = ray.data.from_items([{"task": task} for task in plan.tasks()])
        shared = ray.put(plan)

        def work(row: dict[str, Any]) -> dict[str, Any]:
            indices = [int(index) for index in row["task"]]
            outcomes = run_task(ray.get(shared), indices)
            return {"outcomes": json.dumps([dataclasses.asdict(one) for one in outcomes])}

        for row in tasks.map(work, num_cpus=1).iter_rows():
            for outcome in json.loads(row["outcomes"]):
                yield Outcome(**outcome)
    finally:
        if begun_here:
            ray.shutdown()
