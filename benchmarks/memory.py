"""The memory that `freqdiff deblur` takes for large photos: `python -m benchmarks.memory`.

Photos of smooth noise, of the given sizes, are deblurred by the command line with and without a
limit. The peak is what the command itself reports, resident bytes of the process. Writes
benchmarks/results/memory.json; the exit code is 1 if a limit was not kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.harness import RESULTS, provenance
from freqdiff.arguments import memory_size
from freqdiff.photo import Photo, write_photo

CASES = ("4000x3000", "4000x3000:2G", "6000x4000:2G", "20000x1000:2G", "12000x8400:6G")


def measure(case: str, folder: Path) -> dict[str, Any]:
    """Deblur one photo, "WIDTHxHEIGHT" or "WIDTHxHEIGHT:LIMIT"; a row of the results."""
    size, _, limit = case.partition(":")
    width, height = map(int, size.split("x"))
    coarse = np.random.default_rng(0).integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    pixels = coarse.astype(np.uint8).repeat(8, 0).repeat(8, 1)[:height, :width]
    write_photo(folder / "photo.jpg", Photo(np.ascontiguousarray(pixels)))
    command = [sys.executable, "-m", "freqdiff", "deblur", str(folder / "photo.jpg"), "--json"]
    command += ["-o", str(folder / "result.jpg"), "--overwrite"]
    command += ["--max-memory", limit] if limit else []
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    told = json.loads(done.stdout)
    return {
        "width": width,
        "height": height,
        "limit_bytes": memory_size(limit) if limit else None,
        "peak_bytes": told["peak_memory_bytes"],
        "seconds": told["seconds"],
    }


def main() -> int:
    """Measure all cases and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="WxH[:LIMIT]")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.json")
    options = parser.parse_args()
    rows = []
    for case in options.cases:
        with TemporaryDirectory() as name:
            rows.append(measure(case, Path(name)))
        print(json.dumps(rows[-1]), flush=True)
    result = {"rows": rows, "provenance": provenance()}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(any(row["limit_bytes"] and row["peak_bytes"] > row["limit_bytes"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
