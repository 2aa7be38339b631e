"""What a build will make, decided before the first pair: photos, settings and seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from blursynth.camera import Camera
from freqdiff.atomic import write_atomically
from freqdiff.errors import InputError, OutputError
from freqdiff.photo import INPUT_SUFFIXES

PLAN_FILE = "build.json"
LOCK_FILE = ".build.lock"
MIN_SIDE = 64
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}
Format = Literal["png", "jpeg"]

# A task is small enough to be spread over workers and large enough to read its photo only once.
_PAIRS_PER_TASK = 16


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the bytes of a data set, beside the photos.

    Attributes:
        count: pairs.
        seed: of all random numbers.
        engine: what blurs.
        crop: side of the pairs in pixels; None: whole photos.
        format: of the files.
        shard_size: pairs in a WebDataset shard; None: no shards.
        prior: SHA-256 of the table of exposures; None: exposures are drawn freely.
    """

    count: int
    seed: int
    engine: str
    crop: int | None
    format: Format
    shard_size: int | None
    prior: str | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that a worker needs to make any pair.

    Pair i is of photo i modulo their number, with random numbers from (seed, i) alone.

    Attributes:
        sharp, output: folders.
        photos: paths within `sharp` with "/", sorted.
        settings: see there.
        prior: exposures to draw from.
    """

    sharp: Path
    output: Path
    photos: tuple[str, ...]
    settings: Settings
    prior: tuple[Camera, ...] | None

    def photo_of(self, index: int) -> str:
        """The photo of a pair."""
        return self.photos[index % len(self.photos)]

    def tasks(self) -> Iterator[list[int]]:
        """Indices of pairs that belong together because they are of one photo."""
        for first in range(min(len(self.photos), self.settings.count)):
            indices = range(first, self.settings.count, len(self.photos))
            for start in range(0, len(indices), _PAIRS_PER_TASK):
                yield list(indices[start : start + _PAIRS_PER_TASK])


def package_version() -> str:
    """Version of this package; "unknown" in a checkout that was not installed."""
    try:
        return importlib.metadata.version("freqdiff-deblur")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def list_photos(folder: Path, leave_out: Path) -> tuple[str, ...]:
    """Photo files below a folder, sorted, without hidden ones and without a sub-folder.

    Raises:
        InputError: no such folder, unreadable, or without photos.
    """
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder: give a folder of sharp photos.")

    def refuse(error: OSError) -> None:
        raise InputError(
            f"Cannot read the folder {error.filename!r}: {error.strerror}, so check its rights."
        )

    found = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        visible = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in visible if Path(root, name).resolve() != leave_out]
        found += [
            Path(root, name).relative_to(folder).as_posix()
            for name in files
            if Path(name).suffix.lower() in INPUT_SUFFIXES and not name.startswith(".")
        ]
    if not found:
        raise InputError(
            f"The folder {str(folder)!r} holds no photos ({', '.join(sorted(INPUT_SUFFIXES))}): "
            "give another one."
        )
    return tuple(sorted(found))


def digest_of_prior(prior: Sequence[Camera] | None) -> str | None:
    """SHA-256 of a table of exposures."""
    if prior is None:
        return None
    return _sha256([dataclasses.astuple(camera) for camera in prior])


def settle(plan: Plan) -> None:
    """Write the plan into its folder, or check that the folder holds a data set of this plan.

    Raises:
        InputError: the folder holds a data set of other settings, photos or another version.
        OutputError: the folder holds other files, or cannot be written.
    """
    path = plan.output / PLAN_FILE
    wanted = _description(plan)
    if not path.exists():
        others = sorted(entry.name for entry in plan.output.iterdir() if entry.name != LOCK_FILE)
        if any(not name.startswith(".freqdiff-") for name in others):
            raise OutputError(
                f"The folder {str(plan.output)!r} is not empty and holds no data set: "
                "give an empty or a new folder."
            )
        write_atomically(path, (json.dumps(wanted, indent=2) + "\n").encode())
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        before, now = found["decides"], wanted["decides"]
        changed = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"Cannot read {str(path)!r}: it is damaged, so give another folder."
        ) from error
    if changed:
        raise InputError(
            f"The folder {str(plan.output)!r} holds another data set ({changed[0]}): "
            "give the same settings and photos, or another folder."
        )


def _description(plan: Plan) -> dict[str, Any]:
    import PIL
    import torch

    return {
        "decides": {
            **dataclasses.asdict(plan.settings),
            "photos": len(plan.photos),
            "names_sha256": _sha256(plan.photos),
            "version": package_version(),
        },
        # Other versions of these may draw or compress a little differently; that is no reason to
        # refuse an update in the middle of a build.
        "started_with": {
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
