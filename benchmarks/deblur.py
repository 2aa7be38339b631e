"""How long a whole photo takes, and how much memory: `python -m benchmarks.deblur`.

Each case runs in a process of its own, so that its peak memory is its own; the photo is random
texture, which costs what any photo costs. The first run of a process is reported as `cold_s`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import provenance

RESULTS = Path(__file__).parent / "results"
CASES = [(1080, 1920, 1), (1080, 1920, 4), (2160, 3840, 1), (2160, 3840, 4)]


def measure(model: str, height: int, width: int, steps: int, runs: int) -> dict[str, Any]:
    """Time `freqdiff.deblur` on a uint8 photo in this process."""
    import torch

    import freqdiff

    loaded = freqdiff.load(model)
    generator = torch.Generator().manual_seed(0)
    photo = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        freqdiff.deblur(photo.numpy(), model=loaded, steps=steps, progress=False)
        seconds.append(time.perf_counter() - start)
    warm = sorted(seconds[1:])
    row = {
        "case": f"{width}x{height}",
        "model": loaded.name,
        "steps": steps,
        "device": str(loaded.device),
        "threads": torch.get_num_threads(),
        "cold_s": round(seconds[0], 2),
        "median_s": round(warm[len(warm) // 2], 2),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }
    if loaded.device.type == "cuda":
        row["peak_gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    return row


def main() -> None:
    """Measure every case and write benchmarks/results/deblur_<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny", help="shipped name or model folder")
    parser.add_argument("--runs", type=int, default=3, help="warm runs per case")
    parser.add_argument("--output", type=Path, help="results file")
    parser.add_argument("--smallest", action="store_true", help="one small case, to try it out")
    parser.add_argument("--case", nargs=3, type=int, metavar=("H", "W", "STEPS"))
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.model, *options.case, options.runs)))
        return
    rows = []
    for case in [(180, 320, 1)] if options.smallest else CASES:
        command = [sys.executable, "-m", "benchmarks.deblur", "--model", options.model]
        command += ["--runs", str(options.runs), "--case", *map(str, case)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        print(rows[-1], flush=True)
    device = "cpu" if rows[0]["device"] == "cpu" else "gpu"
    path = options.output or RESULTS / f"deblur_{device}.json"
    path.write_text(json.dumps({"provenance": provenance(), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
