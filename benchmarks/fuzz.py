"""Damaged photo files, thousands of them: `python -m benchmarks.fuzz --count 20000`.

Each is read, and what can be read is written and read again. A file may be refused with a sentence;
anything else, a crash of the process among them, is a finding: its file is kept, and the exit code
is 1. Writes benchmarks/results/fuzz.json.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import resource
import signal
import sys
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.fuzz_corpus import corpus, damaged
from benchmarks.harness import RESULTS, provenance
from freqdiff.errors import FreqDiffError, OutputError, PhotoError
from freqdiff.photo import read_photo, write_photo

_MEMORY = 4 << 30
_SECONDS = 20
_MAX_PIXELS = 20_000_000
_TARGETS = ("jpg", "png", "webp", "tif")


class Finding(Exception):
    """Behaviour that users should not see."""


def sentence_of(error: FreqDiffError) -> str:
    """The message of an error, which has to be one clear line.

    Raises:
        Finding: it is not.
    """
    text = str(error)
    if "\n" in text or not text.endswith(".") or len(text) > 600:
        raise Finding(f"not one sentence: {text!r}") from error
    return text


def try_file(path: Path, rng: np.random.Generator) -> str:
    """Read a file and write what it holds: "refused", "read" or "read, not written".

    Raises:
        Finding: an error other than a sentence, or a result that is not what was written.
    """
    try:
        photo = read_photo(path, max_pixels=_MAX_PIXELS)
    except PhotoError as error:
        sentence_of(error)
        return "refused"
    target = path.with_name(f"result.{_TARGETS[int(rng.integers(len(_TARGETS)))]}")
    try:
        write_photo(target, photo)
    except OutputError as error:
        sentence_of(error)
        return "read, not written"
    again = read_photo(target)
    if again.pixels.shape[:2] != photo.pixels.shape[:2]:
        raise Finding(f"wrote {photo.pixels.shape}, read back {again.pixels.shape}")
    return "read"


def _work(
    first: int, last: int, seed: int, at: Synchronized[int], kept: Path, results: str
) -> None:
    """Try files `first` to `last`; `at` tells the parent which one it is."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files = corpus()
    counts: collections.Counter[str] = collections.Counter()
    with TemporaryDirectory() as folder, open(results, "a", encoding="utf-8") as log:
        for index in range(first, last):
            at.value = index
            rng = np.random.default_rng([seed, index])
            name, content = damaged(rng, files)
            path = Path(folder) / f"photo.{name.split('.')[1]}"
            path.write_bytes(content)
            signal.alarm(_SECONDS)
            try:
                counts[try_file(path, rng)] += 1
            except Exception as error:
                counts["finding"] += 1
                (kept / f"{seed}_{index}_{name}").write_bytes(content)
                print(f"{seed}/{index} {name}: {error!r}", file=sys.stderr)
            signal.alarm(0)
        log.write(json.dumps(counts) + "\n")


def fuzz(count: int, seed: int, kept: Path) -> dict[str, int]:
    """Try `count` damaged files, in a process that may die; returns how many went which way."""
    kept.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    counts: collections.Counter[str] = collections.Counter()
    with TemporaryDirectory() as folder:
        log = Path(folder) / "counts"
        first = 0
        while first < count:
            at: Synchronized[int] = context.Value("q", first)
            last = min(first + 1000, count)
            worker = context.Process(target=_work, args=(first, last, seed, at, kept, str(log)))
            worker.start()
            worker.join()
            if worker.exitcode == 0:
                first = last
                continue
            # What the dead process counted is lost; it is done again up to the fatal file.
            fatal = int(at.value)
            name, content = damaged(np.random.default_rng([seed, fatal]), corpus())
            (kept / f"{seed}_{fatal}_{name}").write_bytes(content)
            print(f"{seed}/{fatal} {name}: the process died ({worker.exitcode})", file=sys.stderr)
            counts["crash"] += 1
            counts["lost"] += fatal - first
            first = fatal + 1
        if log.exists():
            for line in log.read_text(encoding="utf-8").splitlines():
                counts.update(json.loads(line))
    return dict(counts)


def main() -> int:
    """Fuzz and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path("runs/fuzz"), help="files with findings")
    parser.add_argument("--output", type=Path, default=RESULTS / "fuzz.json")
    options = parser.parse_args()
    started = time.monotonic()
    counts = fuzz(options.count, options.seed, options.kept)
    row = {
        "files": options.count,
        "seed": options.seed,
        "formats": len(corpus()),
        "counts": counts,
        "seconds": round(time.monotonic() - started),
        "provenance": provenance(),
    }
    options.output.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(counts))
    return 1 if counts.get("finding") or counts.get("crash") else 0


if __name__ == "__main__":
    sys.exit(main())
