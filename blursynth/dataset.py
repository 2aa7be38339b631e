"""Data sets of blurred and sharp photos, made by the blur synthesizer."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from blursynth import build_plan, build_store
from blursynth.build_pair import Outcome, run_task
from blursynth.build_plan import MIN_SIDE, SUFFIXES, Format, Plan, Settings
from blursynth.build_report import compare_with, write_report
from blursynth.camera import Camera, load_prior
from blursynth.diffusion_config import DiffusionConfig
from blursynth.engines import check_engine
from blursynth.shards import write_shards
from freqdiff.atomic import make_folder
from freqdiff.errors import InputError, OutputError
from freqdiff.workers import in_processes


@dataclasses.dataclass(frozen=True)
class Problem:
    """A photo that cannot be used, and why (a sentence)."""

    source: str
    error: str


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a build did.

    Attributes:
        pairs: how many were asked for: the sum of the next four.
        written: made now.
        kept: there already, and whole.
        rejected: not aligned well enough in any draw.
        failed: of photos that cannot be used.
        problems: one for each of these photos.
        shards: WebDataset shards in the folder.
        statistics: of the blurred photos, see `blursynth.statistics`.
        distances: from the photos to compare with; empty without.
        seconds: wall time.
    """

    pairs: int
    written: int
    kept: int
    rejected: int
    failed: int
    problems: tuple[Problem, ...]
    shards: int
    statistics: dict[str, dict[str, float]]
    distances: dict[str, float]
    seconds: float


def build(
    sharp_folder: str | os.PathLike[str],
    output_folder: str | os.PathLike[str],
    *,
    count: int | None = None,
    per_photo: int = 1,
    seed: int = 0,
    prior: str | os.PathLike[str] | Sequence[Camera] | None = None,
    engine: str | DiffusionConfig = "physics",
    workers: int = 1,
    crop: int | None = None,
    format: Format = "png",
    shard_size: int | None = None,
    compare: str | os.PathLike[str] | None = None,
    ray: str | None = None,
    progress: bool = True,
) -> Summary:
    """Make a data set: `sharp/`, `blur/` and `metadata.jsonl`.

    The same call goes on where an earlier one was stopped, by whatever: pairs that are there and
    whole stay, and the data set gets the same bytes as without the stop.

    Args:
        sharp_folder: sharp photos, also in sub-folders, which name the category of the scene.
        output_folder: a new or empty folder, or one that the same call began.
        count: pairs; without, `per_photo` of each photo.
        per_photo: pairs of each photo.
        seed: of all random numbers; pair i is a function of (seed, i) and the photos alone.
        prior: exposures to draw from, or their table (see `blursynth.camera.load_prior`).
        engine: of `engines.synthesize`. The diffusion engine wants one worker for each GPU.
        workers: processes, each with one thread. With more than one, a script needs the usual
            `if __name__ == "__main__":`.
        crop: side of the pairs in pixels, at least 64; None: whole photos.
        format: "png" or "jpeg" (quality 95).
        shard_size: pairs in each WebDataset shard in `shards/`; None: no shards.
        compare: folder of real blurred photos to measure the distance from.
        ray: "" or the address of a Ray cluster whose machines see both folders by these paths;
            `workers` has no meaning then.
        progress: show a bar where stderr is a terminal.

    Raises:
        InputError: a setting, a folder or a table cannot be used, or the output folder holds a data
            set of other settings or photos.
        ModelError: the base of the diffusion engine cannot be loaded.
        OutputError: the output folder is in use or cannot be written, or a worker was killed.
        KeyboardInterrupt: finished pairs stay.
    """
    started = time.perf_counter()
    output = Path(output_folder).absolute()
    sharp = Path(sharp_folder).absolute()
    photos = build_plan.list_photos(sharp, leave_out=output.resolve())
    cameras = _cameras(prior)
    digest = build_plan.digest_of_prior(cameras)
    wanted = per_photo * len(photos) if count is None else count
    settings = Settings(wanted, seed, str(engine), crop, format, shard_size, digest)
    _check(settings, workers)
    others = None if compare is None else compare_with(Path(compare), crop)
    plan = Plan(sharp, output, photos, settings, cameras)
    make_folder(output)
    with build_store.locked(output):
        build_plan.settle(plan)
        for name in (*build_store.SIDES, "records", *(["shards"] if shard_size else [])):
            make_folder(output / name)
        build_store.tidy(output)
        counts, problems = _run(plan, workers, ray, progress)
        build_store.write_metadata(plan)
        shards = write_shards(plan)
        statistics, distances = write_report(plan, others)
        # What a killed worker of an earlier build wrote while it was dying.
        build_store.tidy(output)
    return Summary(
        pairs=wanted,
        **{name: counts[name] for name in ("written", "kept", "rejected", "failed")},
        problems=tuple(problems),
        shards=shards,
        statistics=statistics,
        distances=distances,
        seconds=round(time.perf_counter() - started, 3),
    )


def to_json(summary: Summary) -> str:
    """A summary for machines."""
    return json.dumps(dataclasses.asdict(summary), indent=2)


def _run(
    plan: Plan, workers: int, ray: str | None, progress: bool
) -> tuple[collections.Counter[str], list[Problem]]:
    counts: collections.Counter[str] = collections.Counter()
    problems: dict[str, Problem] = {}
    bar = tqdm(
        total=plan.settings.count, unit="pair", disable=None if progress else True, leave=False
    )
    try:
        with bar:
            for outcome in _outcomes(plan, workers, ray):
                if outcome.status == "fatal":
                    raise OutputError(outcome.message)
                counts[outcome.status] += 1
                if outcome.status == "failed":
                    source = plan.photo_of(outcome.index)
                    problems[source] = Problem(source, outcome.message)
                bar.update()
    except KeyboardInterrupt:
        done = build_store.count_records(plan)
        raise KeyboardInterrupt(
            f"Interrupted: {done} of {plan.settings.count} pairs are done; "
            "the same command goes on from there."
        ) from None
    return counts, [problems[source] for source in sorted(problems)]


def _outcomes(plan: Plan, workers: int, ray: str | None) -> Iterator[Outcome]:
    """Of all pairs; of one photo at a time, so that it is not read for every pair."""
    work = functools.partial(_run_task, plan)
    outcomes: Iterator[Iterable[Outcome]] = (run_task(plan, task) for task in plan.tasks())
    if ray is not None:
        from freqdiff.ray_workers import on_ray

        outcomes = on_ray(work, plan.tasks(), ray)
    elif workers > 1:
        outcomes = in_processes(work, plan.tasks(), workers)
    return itertools.chain.from_iterable(outcomes)


def _run_task(plan: Plan, task: list[int], stopped: Callable[[], bool]) -> list[Outcome]:
    return list(run_task(plan, task, stopped))


def _cameras(
    prior: str | os.PathLike[str] | Sequence[Camera] | None,
) -> tuple[Camera, ...] | None:
    if not isinstance(prior, str | os.PathLike):
        return None if prior is None else tuple(prior)
    try:
        return tuple(load_prior(prior))
    except (OSError, ValueError) as error:
        raise InputError(
            f"Cannot use the table of exposures {str(prior)!r}: {error}".rstrip(".")
            + "; give a CSV table with iso, f_number, exposure_s and focal_mm."
        ) from error


def _check(settings: Settings, workers: int) -> None:
    least = {"count": 1, "seed": 0, "crop": MIN_SIDE, "shard_size": 1}
    values: dict[str, Any] = {name: getattr(settings, name) for name in least}
    for name, value in {**values, "workers": workers}.items():
        low = least.get(name, 1)
        if value is not None and value < low:
            raise InputError(
                f"Expected {name} of at least {low}, got {value}: choose a larger one."
            )
    if settings.format not in SUFFIXES:
        raise InputError(
            f"Expected format to be one of {', '.join(SUFFIXES)}, got {settings.format!r}."
        )
    check_engine(settings.engine)
