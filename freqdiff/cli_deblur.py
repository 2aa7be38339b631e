"""`freqdiff deblur`: deblurs files and folders; one bad photo never stops the others."""

from __future__ import annotations

import argparse
import collections
import json
import time
import traceback
from typing import TYPE_CHECKING, Any

from freqdiff.cli_base import (
    add_model_options,
    complain,
    debugging,
    memory_size,
    sentence,
    whole_number,
)

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
        help="memory to aim at on a CPU, as 4G (most of what is free)",
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
    flags = {
        "--recursive": "take sub-folders too; their structure is kept",
        "--skip-existing": "leave out photos whose result is there and whole",
        "--no-exif": "do not tell the model what camera settings the photo names",
        "--overwrite": "allow a result to replace its own photo",
        "--json": "print one JSON object",
        "--quiet": "print errors only",
    }
    for flag, text in flags.items():
        parser.add_argument(flag, action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Deblur everything that can be; returns the exit code."""
    from freqdiff.atomic import remove_leftovers
    from freqdiff.batch import Settings, plan, process
    from freqdiff.compare_plan import plan_comparisons
    from freqdiff.deblurrer import load
    from freqdiff.info import peak_memory

    started = time.perf_counter()
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
    files: list[dict[str, Any]] = []
    used: dict[str, Any] = {}
    for message in dict.fromkeys(problem.error for problem in problems):
        complain(message)
    files += [_failure(str(problem.source), problem.error) for problem in problems]
    talk = not (arguments.quiet or arguments.json)
    if jobs:
        model = load(arguments.model, arguments.device)
        settings = Settings(
            steps=arguments.steps,
            seed=arguments.seed,
            tile=arguments.tile,
            max_memory=arguments.max_memory,
            ensemble=arguments.ensemble,
            quality=arguments.quality,
            overwrite=arguments.overwrite,
            skip_existing=arguments.skip_existing,
            exif=not arguments.no_exif,
            progress=None if talk else False,
        )
        for number, job in enumerate(jobs):
            try:
                outcome = process(job, model, settings)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"Interrupted: {number} of {len(jobs)} photos are done and "
                    f"{str(job.target)!r} was not written."
                ) from None
            # Not only errors of our own: whatever one photo leads to, the others can be done.
            except Exception as error:
                if debugging(arguments):
                    traceback.print_exc()
                complain(_about(job, error))
                files.append(_failure(str(job.source), _about(job, error)))
                continue
            files.append(_success(job, outcome))
            if talk:
                count = f"[{number + 1}/{len(jobs)}] " if len(jobs) > 1 else ""
                print(count + _line(job, outcome), flush=True)
        used = {
            "seconds": round(time.perf_counter() - started, 3),
            "peak_memory_bytes": peak_memory(model.device),
        }
    counts = collections.Counter(file["status"] for file in files)
    if arguments.json:
        print(json.dumps({"files": files, **_totals(counts), **used}, indent=2))
    elif talk and (len(files) > 1 or not counts["failed"]):
        counted = (f"{count} {name}" for name, count in _totals(counts).items() if count)
        print(f"{', '.join(counted)}{_usage(used)}")
    return 1 if counts["failed"] else 0


def _about(job: Job, error: Exception) -> str:
    """The sentence on an error, with the name of the photo."""
    text = sentence(error)
    return text if job.source.name in text or job.target.name in text else f"{job.source}: {text}"


def _line(job: Job, outcome: Outcome) -> str:
    width, height = outcome.size
    how = "was there already" if outcome.status == "skipped" else f"{outcome.seconds:.1f} s"
    line = f"{job.source} -> {job.target} ({width}x{height}, {how})"
    if job.comparison is not None:
        line += f", compared in {job.comparison}"
    return "\n".join([line, *(f"  note: {note}" for note in outcome.notes)])


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


def _failure(source: str, message: str) -> dict[str, Any]:
    return {"input": source, "output": None, "status": "failed", "error": message}


def _totals(counts: collections.Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in ("written", "unchanged", "skipped", "failed")}
