"""A batch that is killed over and over: `python -m benchmarks.kills --kills 50`.

`freqdiff deblur` works on a folder of small photos and gets SIGKILL at a random moment. Afterwards
each result has to be whole or absent; in the end a run that is left alone has to finish the rest,
with the very files of an undisturbed run, and leave nothing else behind. Writes
benchmarks/results/kills.json; the exit code is 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.harness import RESULTS, provenance
from freqdiff.photo import Photo, write_photo

_SUFFIXES = (".jpg", ".png", ".tif", ".webp")


def make_photos(folder: Path, count: int) -> None:
    """Write photos of smooth noise, a few in a sub-folder."""
    rng = np.random.default_rng(0)
    (folder / "more").mkdir(parents=True)
    for index in range(count):
        coarse = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        pixels = coarse.repeat(16, 0).repeat(16, 1)
        place = folder / "more" if index % 3 == 0 else folder
        write_photo(place / f"{index:03d}{_SUFFIXES[index % len(_SUFFIXES)]}", Photo(pixels))


def start(photos: Path, results: Path) -> subprocess.Popen[bytes]:
    """Begin the batch as a user would."""
    command = [sys.executable, "-m", "freqdiff", "deblur", str(photos), "-o", str(results)]
    options = ["--recursive", "--skip-existing", "--quiet"]
    return subprocess.Popen([*command, *options])


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def losses(results: Path, expected: dict[str, bytes]) -> Iterator[str]:
    """What is wrong with the results of a killed run; temporary files are no results."""
    for name, content in contents(results).items():
        if not Path(name).name.startswith(".freqdiff-") and content != expected.get(name):
            yield f"{name} is not what an undisturbed run writes"


def torture(kills: int, photos: int, seed: int) -> dict[str, object]:
    """Kill the batch `kills` times; returns what happened."""
    dice = random.Random(seed)
    lost: list[str] = []
    landed = 0
    with TemporaryDirectory() as name:
        folder = Path(name)
        make_photos(folder / "photos", photos)
        began = time.monotonic()
        assert start(folder / "photos", folder / "expected").wait() == 0
        whole = time.monotonic() - began
        expected = contents(folder / "expected")
        assert len(expected) == photos
        results = folder / "results"
        while landed < kills:  # a run that ends before its kill does not count
            # Some results go, so that there is always something left to write.
            for path in sorted(results.rglob("*.*")):
                if path.is_file() and dice.random() < 0.5:
                    path.unlink()
            process = start(folder / "photos", results)
            try:
                process.wait(dice.uniform(0.3, 1) * whole)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                landed += 1
            lost += losses(results, expected)
        if start(folder / "photos", results).wait() != 0:
            lost.append("the last run failed")
        if contents(results) != expected:
            lost.append("the last run did not complete the results")
    return {"kills": landed, "photos": photos, "lost": lost}


def main() -> int:
    """Torture and write what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "kills.json")
    options = parser.parse_args()
    row = torture(options.kills, options.photos, options.seed)
    line = json.dumps(row | {"provenance": provenance()}, indent=1)
    options.output.write_text(line + "\n", encoding="utf-8")
    print(json.dumps(row))
    return 1 if row["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
