"""Which blurred photo belongs to which sharp one."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

from freqdiff.batch import find_photos
from freqdiff.errors import InputError


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Pairs (blurred, sharp) in natural order, and the rule that found them."""

    pairs: tuple[tuple[Path, Path], ...]
    rule: str


def photos_in(folder: Path) -> list[Path]:
    """Photos below a folder in natural order: frame 2 comes before frame 10.

    Raises:
        InputError: no such folder, or no photo in it.
    """
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder: give a folder of photos.")
    found = find_photos(folder, recursive=True)
    if not found:
        raise InputError(f"The folder {str(folder)!r} holds no photos: give another one.")
    return sorted(found, key=lambda path: natural(key(path, folder)))


def key(path: Path, folder: Path) -> str:
    """Name of a photo within its folder, without suffix."""
    return path.relative_to(folder).with_suffix("").as_posix()


def match_pairs(blurred_folder: Path, sharp_folder: Path) -> Pairing:
    """Match the photos of two folders.

    The rules, in order: equal names without suffix; one sharp photo for all; the longest sharp name
    that starts the blurred one (`im1` for `im1_kernel2`); equally many photos, in natural order.
    A rule counts only if it matches every blurred photo. The last three are not tried as soon as
    one name is equal, because a file is missing then.

    Raises:
        InputError: a folder without photos, or photos that none of the rules matches.
    """
    blurred, sharp = _by_name(blurred_folder), _by_name(sharp_folder)
    missing = [name for name in blurred if name not in sharp]
    if not missing:
        return _pairing(blurred, {name: sharp[name] for name in blurred}, "equal names")
    if len(missing) == len(blurred):
        if len(sharp) == 1:
            only = next(iter(sharp.values()))
            return _pairing(blurred, dict.fromkeys(blurred, only), "one sharp photo for all")
        starts = {name: _longest_start(name, list(sharp)) for name in blurred}
        if all(starts.values()):
            found_starts = {name: sharp[start] for name, start in starts.items() if start}
            return _pairing(blurred, found_starts, "sharp names that start the blurred ones")
        if len(blurred) == len(sharp):
            ordered = dict(zip(blurred, sharp.values(), strict=True))
            return _pairing(blurred, ordered, "natural order")
        missing = [name for name, start in starts.items() if not start]
    some = ", ".join(repr(blurred[name].name) for name in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    raise InputError(
        f"No sharp photo in {str(sharp_folder)!r} matches {some}{more}: give the photos of a pair "
        f"the same name ({len(blurred)} blurred, {len(sharp)} sharp photos)."
    )


def _by_name(folder: Path) -> dict[str, Path]:
    """Photos of a folder by their `key`."""
    photos = photos_in(folder)
    name, count = Counter(key(path, folder) for path in photos).most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{str(folder)!r} holds {count} photos called {name!r} that differ in the suffix only: "
            "leave one of them."
        )
    return {key(path, folder): path for path in photos}


def _pairing(blurred: dict[str, Path], sharp: dict[str, Path], rule: str) -> Pairing:
    return Pairing(tuple((path, sharp[name]) for name, path in blurred.items()), rule)


def _longest_start(name: str, candidates: list[str]) -> str | None:
    """The longest candidate that `name` starts with, where a word of `name` ends."""
    fitting = [c for c in candidates if name.startswith(c) and not name[len(c) :][:1].isalnum()]
    return max(fitting, key=len, default=None)


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that compares runs of digits as numbers."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
