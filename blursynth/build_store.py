"""The folder of a data set: its lock, the record of each pair, and what is whole in it.

A pair counts from the moment when its record is there, which is written after its files; so a build
that is killed at any time leaves whole pairs and files that the next one replaces.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blursynth.build_plan import LOCK_FILE, SUFFIXES, Plan
from blursynth.checksums import sha256_of
from freqdiff.atomic import atomic_stream, remove_leftovers, write_atomically
from freqdiff.errors import OutputError

METADATA_FILE = "metadata.jsonl"
SIDES = ("blur", "sharp")
_FOLDERS = (*SIDES, "records", "shards")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other builds out of a folder; the lock ends with the process, however that ends.

    Raises:
        OutputError: another build is at work, or the folder cannot be written.
    """
    try:
        stream = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise OutputError(
            f"Cannot write into {str(folder)!r}: {error.strerror}, so choose another folder."
        ) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                f"Another build is writing to {str(folder)!r}: wait for its end or stop it."
            ) from error
        yield


def tidy(folder: Path) -> None:
    """Remove temporary files that a killed build left."""
    for place in (folder, *(folder / name for name in _FOLDERS)):
        remove_leftovers(place)


def name_of(index: int) -> str:
    """Name of a pair: no dot in it, which would end the name inside a shard."""
    return f"{index:06d}"


def file_of(plan: Plan, index: int, side: str) -> str:
    """Path of a file of a pair within the data set."""
    return f"{side}/{name_of(index)}{SUFFIXES[plan.settings.format]}"


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_record(plan: Plan, record: dict[str, Any]) -> None:
    """Write what is known about a pair; its files are there already.

    Raises:
        OutputError: it cannot be written.
    """
    line = json.dumps(record, allow_nan=False, sort_keys=True) + "\n"
    write_atomically(_record_path(plan, record["index"]), line.encode())


def read_record(plan: Plan, index: int) -> dict[str, Any] | None:
    """The record of a pair; None where it is missing, damaged or of another photo."""
    try:
        record = json.loads(_record_path(plan, index).read_text(encoding="utf-8"))
        fits = record["index"] == index and record["source"] == plan.photo_of(index)
        fits = fits and record["rejected"] in (False, True)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return record if fits else None


def count_records(plan: Plan) -> int:
    """Number of pairs that are done."""
    return sum(1 for _ in (plan.output / "records").glob("[0-9]*.json"))


def drop_record(plan: Plan, index: int) -> None:
    """Forget a pair that is not whole, so that it is in no list until it is made again."""
    _record_path(plan, index).unlink(missing_ok=True)


def is_whole(plan: Plan, record: dict[str, Any]) -> bool:
    """Whether the files of a record are there, and its photo still has the size that it had."""
    try:
        if (plan.sharp / record["source"]).stat().st_size != record["source_bytes"]:
            return False
        return record["rejected"] or all(
            is_file(plan.output / record[f"{side}_file_name"], record[f"{side}_bytes"], digest)
            for side in SIDES
            if (digest := record[f"{side}_sha256"])
        )
    except (OSError, KeyError, TypeError):
        return False


def is_file(path: Path, size: int, digest: str) -> bool:
    """Whether a file has a size and a SHA-256; its content is read in pieces."""
    return path.is_file() and path.stat().st_size == size and sha256_of(path) == digest


def records(plan: Plan) -> Iterator[dict[str, Any]]:
    """Records of all pairs that were made, in the order of their index."""
    for index in range(plan.settings.count):
        record = read_record(plan, index)
        if record is not None and not record["rejected"]:
            yield record


def write_metadata(plan: Plan) -> None:
    """Write one line for each pair, in the layout of the imagefolder of Hugging Face `datasets`.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_stream(plan.output / METADATA_FILE) as stream:
        for record in records(plan):
            row = {key: value for key, value in record.items() if key != "rejected"}
            stream.write((json.dumps(row, sort_keys=True) + "\n").encode())


def _record_path(plan: Plan, index: int) -> Path:
    return plan.output / "records" / f"{name_of(index)}.json"
