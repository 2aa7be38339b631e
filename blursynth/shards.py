"""WebDataset shards: the pairs of a data set in tar files whose bytes depend on nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from blursynth.build_plan import SUFFIXES, Plan
from blursynth.build_store import SIDES, is_file, name_of, read_record
from freqdiff.atomic import atomic_stream, write_atomically


def write_shards(plan: Plan) -> int:
    """Write those shards that are missing or damaged; returns how many there are.

    Shard k holds the pairs from k * shard_size on, as NAME.blur.png, NAME.sharp.png and NAME.json
    side by side, which WebDataset groups by the part of the name before the first dot. A shard
    without a pair is left out.

    Raises:
        OutputError: a shard cannot be written.
    """
    size = plan.settings.shard_size
    if size is None:
        return 0
    count = 0
    for number, first in enumerate(range(0, plan.settings.count, size)):
        indices = range(first, min(first + size, plan.settings.count))
        found = [read_record(plan, index) for index in indices]
        pairs = [record for record in found if record is not None and not record["rejected"]]
        if pairs:
            _write_shard(plan, number, pairs)
            count += 1
    return count


def _write_shard(plan: Plan, number: int, pairs: list[dict[str, Any]]) -> None:
    path = plan.output / "shards" / f"{number:06d}.tar"
    note = plan.output / "records" / f"shard-{number:06d}.json"
    content = hashlib.sha256(json.dumps(pairs, sort_keys=True).encode()).hexdigest()
    if _is_written(path, note, content):
        return
    suffix = SUFFIXES[plan.settings.format]
    with (
        atomic_stream(path) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for record in pairs:
            name = name_of(record["index"])
            for side in SIDES:
                data = (plan.output / record[f"{side}_file_name"]).read_bytes()
                _add(tar, f"{name}.{side}{suffix}", data)
            _add(tar, f"{name}.json", json.dumps(record, sort_keys=True).encode())
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    description = {"content": content, "bytes": path.stat().st_size, "sha256": digest}
    write_atomically(note, (json.dumps(description) + "\n").encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # A new TarInfo has no time and no owner, so that equal pairs give equal files.
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _is_written(path: Path, note: Path, content: str) -> bool:
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        return known["content"] == content and is_file(path, known["bytes"], known["sha256"])
    except (OSError, ValueError, TypeError, KeyError):
        return False
