"""Deblurring of many files: which file goes where, and one of them at a time."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from freqdiff.api import Details, deblur_opened
from freqdiff.atomic import make_folder, write_atomically
from freqdiff.compare_picture import draw_comparison
from freqdiff.deblurrer import Deblurrer
from freqdiff.errors import InputError, OutputError, PhotoError
from freqdiff.images import OpenedImage, open_image
from freqdiff.photo import (
    INPUT_SUFFIXES,
    OUTPUT_SUFFIXES,
    Metadata,
    Photo,
    read_photo,
    write_photo,
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One photo, the file for its result, and that for a picture of both if one is wanted."""

    source: Path
    target: Path
    comparison: Path | None = None


@dataclasses.dataclass(frozen=True)
class Problem:
    """An input that cannot be worked on, and why (a sentence)."""

    source: Path
    error: str


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the photos of a batch are treated; see `freqdiff.deblur` for the first six.

    `exif`: tell models that ask for it what the photo's own Exif says of the camera.
    """

    steps: int | None = None
    seed: int = 0
    tile: int | Literal["auto"] = "auto"
    max_memory: int | None = None
    ensemble: int = 1
    linear: bool = False
    quality: int | None = None
    overwrite: bool = False
    skip_existing: bool = False
    exif: bool = True
    progress: bool | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What happened to one photo.

    Attributes:
        status: "unchanged" results are written too: a copy of the photo.
        size: (width, height) of the photo in pixels.
        seconds: wall time with reading and writing.
        notes: what a person should know.
    """

    status: Literal["written", "unchanged", "skipped"]
    size: tuple[int, int]
    seconds: float
    notes: tuple[str, ...] = ()


def find_photos(folder: Path, *, recursive: bool, leave_out: Path | None = None) -> list[Path]:
    """Photo files in a folder, sorted; hidden ones are left out.

    Args:
        folder: where to look.
        recursive: look into its sub-folders too; links to folders are not followed.
        leave_out: a sub-folder to pass over.

    Raises:
        InputError: the folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"Cannot read the folder {error.filename!r}: {error.strerror}, so check its rights."
        )

    found = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        names = [name for name in folders if not name.startswith(".")] if recursive else []
        folders[:] = [n for n in names if leave_out is None or Path(root, n).resolve() != leave_out]
        found += [
            Path(root, name)
            for name in files
            if Path(name).suffix.lower() in INPUT_SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)


def plan(
    inputs: Iterable[str], output: str, *, recursive: bool = False, overwrite: bool = False
) -> tuple[list[Job], list[Problem]]:
    """Decide which file each result goes to.

    A single file goes to the file `output`, or into the folder `output` if that exists or its name
    has no suffix. Several files and the contents of folders go into the folder `output`, contents
    in the same sub-folders as in the input. Formats that cannot be written become PNG.

    Args:
        inputs: files and folders.
        output: file or folder.
        recursive: take the sub-folders of folders too.
        overwrite: allow results to replace their sources.

    Returns:
        The jobs, and the inputs that cannot be worked on.

    Raises:
        InputError: several inputs, but `output` is a file.
        OutputError: `output` cannot be written.
    """
    sources = list(dict.fromkeys(Path(name) for name in inputs))
    goal = Path(output)
    to_folder = os.path.isdir(goal) or output.endswith(os.sep) or not goal.suffix
    many = len(sources) > 1 or any(os.path.isdir(source) for source in sources)
    is_file = os.path.exists(goal) or goal.suffix.lower() in INPUT_SUFFIXES
    if many and is_file and not os.path.isdir(goal):
        raise InputError(
            f"{output!r} is the name of a file, but results of several photos go to a folder: "
            "give the name of a folder."
        )
    to_folder = to_folder or many
    if not to_folder and goal.suffix.lower() not in OUTPUT_SUFFIXES:
        raise OutputError(
            f"Cannot write {output!r}: expected a name that ends in "
            f"{', '.join(OUTPUT_SUFFIXES)}, or a folder."
        )
    check_writable(goal / "file" if to_folder else goal)
    jobs: list[Job] = []
    problems: list[Problem] = []
    for source in sources:
        try:
            if os.path.isdir(source):
                jobs += _jobs_of_folder(source, goal, recursive)
                continue
            if not os.path.isfile(source):
                read_photo(source)
            target = goal / result_name(Path(source.name)) if to_folder else goal
            jobs.append(Job(source, target))
        except InputError as error:
            problems.append(Problem(source, str(error)))
    accepted: list[Job] = []
    for job in _without_collisions(jobs, problems):
        if not overwrite and os.path.realpath(job.target) == os.path.realpath(job.source):
            problem = OutputError(
                f"Cannot write {str(job.target)!r}: it is the photo itself, so choose another "
                "output or allow it with --overwrite."
            )
            problems.append(Problem(job.source, str(problem)))
        else:
            accepted.append(job)
    return accepted, problems


def process(
    job: Job,
    model: Deblurrer,
    settings: Settings,
    *,
    callback: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Deblur one photo into its file.

    Args:
        job: which.
        model: what with.
        settings: how.
        callback: as of `freqdiff.deblur`.

    Raises:
        PhotoError: the photo cannot be read.
        OutputError: the result cannot be written.
        InputError: a setting does not fit.
    """
    started = time.perf_counter()
    opened = open_image(job.source, linear=settings.linear)
    photo = opened.photo
    assert photo is not None
    height, width = photo.pixels.shape[:2]
    compared = job.comparison is None or os.path.exists(job.comparison)
    if settings.skip_existing and compared and _is_whole(job.target, (height, width)):
        return Outcome("skipped", (width, height), time.perf_counter() - started)
    rgb, details = deblur_by_settings(opened, model, settings, callback=callback)
    notes = details.notes + write_result(
        job.target, opened, rgb, changed=details.changed, settings=settings
    )
    if job.comparison is not None:
        write_comparison(job.comparison, opened, rgb[0])
    status: Literal["written", "unchanged"] = "written" if details.changed else "unchanged"
    return Outcome(status, (width, height), time.perf_counter() - started, notes)


def deblur_by_settings(
    opened: OpenedImage,
    model: Deblurrer,
    settings: Settings,
    *,
    callback: Callable[[int, int], None] | None = None,
    check: bool = False,
) -> tuple[Tensor, Details]:
    """`freqdiff.api.deblur_opened` with the settings of a batch."""
    return deblur_opened(
        opened,
        model=model,
        steps=settings.steps,
        seed=settings.seed,
        tile=settings.tile,
        max_memory=settings.max_memory,
        ensemble=settings.ensemble,
        camera="exif" if settings.exif else None,
        progress=settings.progress,
        callback=callback,
        check=check,
    )


def write_result(
    path: Path, opened: OpenedImage, rgb: Tensor, *, changed: bool, settings: Settings
) -> tuple[str, ...]:
    """Write the result for a photo file; one that was not changed is copied if the format allows.

    Args:
        path: where to.
        opened: the photo, from its file.
        rgb: (1, 3, H, W) result for it.
        changed: False if `rgb` is the photo.
        settings: for quality and overwriting.

    Returns:
        Notes on what the format could not hold.

    Raises:
        OutputError: the file cannot be written.
    """
    photo = opened.photo
    assert photo is not None
    make_folder(path.parent)
    if not changed and settings.quality is None and _can_copy(photo, path):
        assert photo.path is not None
        if not (os.path.exists(path) and path.samefile(photo.path)):
            write_atomically(path, photo.path.read_bytes())
        return ()
    return write_photo(
        path, opened.restore_photo(rgb), quality=settings.quality, overwrite=settings.overwrite
    )


def write_comparison(path: Path, opened: OpenedImage, after: Tensor) -> None:
    """Write the picture of a photo beside its result (3, H, W).

    Raises:
        OutputError: the file cannot be written.
    """
    make_folder(path.parent)
    pixels = np.asarray(draw_comparison(opened.rgb[0], after))
    write_photo(path, Photo(pixels, metadata=Metadata(icc=opened.profile)), overwrite=True)


def check_writable(path: Path) -> None:
    """Find out early that a file cannot be written, before hours of work.

    Raises:
        OutputError: a part of the path is a file, its folder is not writable, or it is a folder.
    """
    if os.path.isdir(path):
        raise OutputError(
            f"Cannot write {str(path)!r}: it is a folder, so give the name of a file."
        )
    folder = path.absolute().parent
    while not os.path.exists(folder) and folder != folder.parent:
        folder = folder.parent
    if not os.path.isdir(folder):
        raise OutputError(
            f"Cannot write {str(path)!r}: {str(folder)!r} is a file and not a folder, "
            "so choose another path."
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"Cannot write {str(path)!r}: the folder {str(folder)!r} is not writable, "
            "so change its permissions or choose another one."
        )


def _jobs_of_folder(folder: Path, goal: Path, recursive: bool) -> list[Job]:
    # Results of an earlier run in a folder inside the input are no input.
    found = find_photos(folder, recursive=recursive, leave_out=goal.resolve())
    if not found:
        deeper = "" if recursive else ", or --recursive for its sub-folders"
        raise PhotoError(
            f"Cannot use the folder {str(folder)!r}: it holds no photos "
            f"({', '.join(sorted(INPUT_SUFFIXES))}), so give another one{deeper}."
        )
    return [Job(path, goal / result_name(path.relative_to(folder))) for path in found]


def result_name(path: Path) -> Path:
    """The name of the result for a photo; formats that cannot be written become PNG."""
    return path if path.suffix.lower() in OUTPUT_SUFFIXES else path.with_suffix(".png")


def _without_collisions(jobs: list[Job], problems: list[Problem]) -> Iterator[Job]:
    """The jobs whose target is theirs alone; the others become problems."""
    sources: dict[str, list[Path]] = defaultdict(list)
    for job in dict.fromkeys(jobs):
        sources[os.path.realpath(job.target)].append(job.source)
    for job in dict.fromkeys(jobs):
        rivals = sources[os.path.realpath(job.target)]
        if len({os.path.realpath(path) for path in rivals}) == 1:
            if job.source == rivals[0]:
                yield job
        elif job.source == rivals[0]:
            names = " and ".join(repr(str(path)) for path in rivals)
            error = (
                f"{names} would both be written to {str(job.target)!r}: "
                "rename one of them, or give them different outputs."
            )
            problems += [Problem(path, error) for path in rivals]


def _is_whole(path: Path, size: tuple[int, int]) -> bool:
    """Whether a result (height, width) is there and can be read to its end."""
    try:
        return read_photo(path).pixels.shape[:2] == size
    except PhotoError:
        return False


def _can_copy(photo: Photo, target: Path) -> bool:
    """Whether the file of a photo has the format that the name of the target asks for."""
    return photo.format == OUTPUT_SUFFIXES.get(target.suffix.lower())
