"""Which file the picture of a comparison goes to, for each photo of a batch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from freqdiff.batch import Job, check_writable
from freqdiff.errors import InputError, OutputError
from freqdiff.photo import INPUT_SUFFIXES, OUTPUT_SUFFIXES


def plan_comparisons(jobs: Sequence[Job], output: str, where: str) -> list[Job]:
    """Give each job the file of its comparison.

    For one photo `where` is a file if its name ends like one; otherwise it is a folder, in which
    the comparisons have the names and sub-folders of the results.

    Args:
        jobs: with their targets.
        output: as it was given to `freqdiff.batch.plan`.
        where: file or folder.

    Raises:
        InputError: several photos, but `where` is a file.
        OutputError: `where` cannot be written, or is a photo or a result.
    """
    goal, is_folder = Path(where), os.path.isdir(where) or where.endswith(os.sep)
    named = goal.suffix.lower()
    if is_folder or named not in OUTPUT_SUFFIXES:
        if not is_folder and (os.path.exists(goal) or named in INPUT_SUFFIXES):
            raise OutputError(
                f"Cannot write {where!r}: expected a name that ends in "
                f"{', '.join(OUTPUT_SUFFIXES)}, or a folder."
            )
        root = Path(output)
        names = [
            job.target.relative_to(root) if job.target != root else Path(job.target.name)
            for job in jobs
        ]
        targets = [goal / name for name in names]
        check_writable(goal / "file")
    elif len(jobs) > 1:
        raise InputError(
            f"{where!r} is the name of a file, but comparisons of several photos go to a folder: "
            "give the name of a folder."
        )
    else:
        targets = [goal] * len(jobs)
        check_writable(goal)
    taken = {os.path.realpath(path) for job in jobs for path in (job.source, job.target)}
    for target in targets:
        if os.path.realpath(target) in taken:
            raise OutputError(
                f"Cannot write the comparison {str(target)!r}: a photo or its result has this "
                "name, so give another file or folder to --compare."
            )
    return [
        dataclasses.replace(job, comparison=target)
        for job, target in zip(jobs, targets, strict=True)
    ]
