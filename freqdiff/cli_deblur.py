"""`freqdiff deblur`: deblurs files and folders; one bad photo never stops the others."""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqdiff.arguments import memory_size, whole_number
from freqdiff.cli_base import add_model_options, complain
from freqdiff.command_line import debugging
from freqdiff.errors import FreqDiffError

if TYPE_CHECKING:
    from freqdiff.batch import Job, Outcome

SUMMARY = "make blurred photos sharp"
USAGE = "IN... -o OUT [options]"
EXAMPLES = """\
examples:
  freqdiff deblur photo.jpg -o sharp.jpg
  freqdiff deblur photo.tif -o sharp.tif --steps 4 --seed 7
  freqdiff deblur photo.jpg -o sharp.jpg --compare before_after.jpg
  freqdiff deblur holiday -o holiday_sharp --recursive --skip-existing"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("inputs", nargs="+", metavar="IN", help="photos, or folders of photos")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="file or folder")
    add_model_options(parser)
    parser.add_argument(
        "--max-memory",
        type=memory_size,
        metavar="SIZE",
        help="memory to keep to on a CPU, as 4G (most of it)",
    )
    parser.add_argument(
        "--compare",
        metavar="PATH",
        help="also write pictures of before and after side by side, to a file or folder",
    )
    parser.add_argument(
        "--quality",
        type=whole_number(1, 100),
        metavar="N",
        help="quality of JPEG and WebP, 1 to 100 (as the source)",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="processes that share photos, cores and memory (1)",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="share the photos out to a Ray cluster",
    )
    flags = {
        "--recursive": "take sub-folders too; their structure is kept",
        "--skip-existing": "leave out photos whose result is there and whole",
        "--linear": "photos hold linear light even without a profile",
        "--no-exif": "do not tell the model the settings of the camera",
        "--overwrite": "allow a result to replace its own photo",
        "--json": "print one JSON object",
        "--quiet": "print errors only",
    }
    for flag, text in flags.items():
        parser.add_argument(flag, action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Deblur everything that can be; returns the exit code."""
    from freqdiff.atomic import remove_leftovers
    from freqdiff.batch import plan
    from freqdiff.compare_plan import plan_comparisons

    jobs, problems = plan(
        arguments.inputs,
        arguments.output,
        recursive=arguments.recursive,
        overwrite=arguments.overwrite,
    )
    if arguments.compare is not None:
        jobs = plan_comparisons(jobs, arguments.output, arguments.compare)
    for folder in {job.target.parent for job in jobs}:
        remove_leftovers(folder)
    for message in dict.fromkeys(problem.error for problem in problems):
        complain(message)
    talk = not (arguments.quiet or arguments.json)
    files = [_failure(problem.source, problem.error) for problem in problems]
    used: dict[str, Any] = {}
    if jobs:
        done, used = _deblur(arguments, jobs, talk)
        files += done
    counts = collections.Counter(file["status"] for file in files)
    if arguments.json:
        print(json.dumps({"files": files, **_totals(counts), **used}, indent=2))
    elif talk and (len(files) > 1 or not counts["failed"]):
        counted = (f"{count} {name}" for name, count in _totals(counts).items() if count)
        print(f"{', '.join(counted)}{_usage(used)}")
    return 1 if counts["failed"] else 0


def _deblur(
    arguments: argparse.Namespace, jobs: list[Job], talk: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What became of each photo, in their order, and the time and memory that it took."""
    from freqdiff import batch_run
    from freqdiff.batch import Settings

    started = time.perf_counter()
    settings = Settings(
        steps=arguments.steps,
        seed=arguments.seed,
        tile=arguments.tile,
        max_memory=arguments.max_memory,
        ensemble=arguments.ensemble,
        linear=arguments.linear,
        quality=arguments.quality,
        overwrite=arguments.overwrite,
        skip_existing=arguments.skip_existing,
        exif=not arguments.no_exif,
        progress=None if talk else False,
    )
    work = batch_run.Deblurring(arguments.model, arguments.device, settings)
    reports = batch_run.run(work, jobs, workers=arguments.workers, ray=arguments.ray)
    found: dict[int, dict[str, Any]] = {}
    peaks: dict[str, int] = {}
    begun = time.perf_counter()
    try:
        for report in reports:
            job = jobs[report.number]
            peaks[report.worker] = max(report.peak_memory, peaks.get(report.worker, 0))
            if report.outcome is None:
                if debugging(arguments):
                    print(report.details, file=sys.stderr, end="")
                complain(_about(job, report.error))
                found[report.number] = _failure(job.source, _about(job, report.error))
                continue
            found[report.number] = _success(job, report.outcome)
            if talk:
                pace = (time.perf_counter() - begun) / len(found)
                print(_line(job, report.outcome, len(found), len(jobs), pace), flush=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted: {len(found)} of {len(jobs)} photos are done; "
            "what was begun was not written."
        ) from None
    except FreqDiffError as error:
        complain(str(error))
        for number in set(range(len(jobs))).difference(found):
            found[number] = _failure(jobs[number].source, str(error))
    seconds = round(time.perf_counter() - started, 3)
    used = {"seconds": seconds, "peak_memory_bytes": sum(peaks.values())}
    return [found[number] for number in sorted(found)], used


def _about(job: Job, error: str) -> str:
    """The sentence on an error, with the name of the photo."""
    named = job.source.name in error or job.target.name in error
    return error if named else f"{job.source}: {error}"


def _line(job: Job, outcome: Outcome, done: int, count: int, pace: float) -> str:
    """What happened to a photo, and in a batch how long the others will take."""
    width, height = outcome.size
    how = "was there already" if outcome.status == "skipped" else f"{outcome.seconds:.1f} s"
    line = f"{job.source} -> {job.target} ({width}x{height}, {how})"
    if job.comparison is not None:
        line += f", compared in {job.comparison}"
    if count > 1:
        line = f"[{done}/{count}] {line}"
    if done < count:
        line += f", about {_duration(pace * (count - done))} left"
    return "\n".join([line, *(f"  note: {note}" for note in outcome.notes)])


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _usage(used: dict[str, Any]) -> str:
    """Time and memory of a batch in which there was something to do."""
    if not used:
        return ""
    return f" in {used['seconds']:.1f} s, with {used['peak_memory_bytes'] / 1e9:.1f} GB of memory"


def _success(job: Job, outcome: Outcome) -> dict[str, Any]:
    width, height = outcome.size
    return {
        "input": str(job.source),
        "output": str(job.target),
        "comparison": None if job.comparison is None else str(job.comparison),
        "status": outcome.status,
        "width": width,
        "height": height,
        "seconds": round(outcome.seconds, 3),
        "notes": list(outcome.notes),
        "error": None,
    }


def _failure(source: Path, message: str) -> dict[str, Any]:
    return {"input": str(source), "output": None, "status": "failed", "error": message}


def _totals(counts: collections.Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in ("written", "unchanged", "skipped", "failed")}
