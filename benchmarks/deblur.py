"""How long a whole photo takes, and how much memory: `python -m benchmarks.deblur`.

Each case runs in a process of its own, so that its peak memory is its own; the photo is random
texture, which costs what any photo costs. The competitor is the same model on plain torch, without
the kernels of this package. The first run of a process is reported as `cold_s`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, Timing, measure_copy_rate, provenance

CASES = [(1080, 1920, 1), (1080, 1920, 4), (2160, 3840, 1), (2160, 3840, 4)]


def measure(model: str, height: int, width: int, steps: int, runs: int) -> dict[str, Any]:
    """Time `freqdiff.deblur` on a uint8 photo in this process."""
    import numpy as np
    import torch

    import freqdiff
    from freqdiff_kernels import native, ops

    loaded = freqdiff.load(model)
    generator = torch.Generator().manual_seed(0)
    photo = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)

    def deblur() -> tuple[float, Any]:
        start = time.perf_counter()
        result = freqdiff.deblur(photo.numpy(), model=loaded, steps=steps, progress=False)
        return time.perf_counter() - start, np.asarray(result)

    cold, result = deblur()
    timing = Timing.of(deblur()[0] for _ in range(runs))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    device = loaded.device.type
    memory = {"peak_rss_gb": round(peak / 1e9, 2)}
    if device == "cuda":
        memory["peak_gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    with ops.use_backend("reference"):
        seconds, plain = deblur()
    difference = np.abs(result.astype(np.int16) - plain.astype(np.int16)).max()
    return {
        "op": "deblur",
        "case": f"{width}x{height}, {steps} steps",
        "direction": "forward",
        "backend": f"cpp {native.cpu_level()}" if device == "cpu" else "cuda",
        "device": device,
        "threads": torch.get_num_threads(),
        "dtype": "uint8",
        "model": loaded.name,
        "steps": steps,
        "median_us": timing.median_us,
        "p20_us": timing.p20_us,
        "p80_us": timing.p80_us,
        "floor_us": round(2 * photo.numel() / measure_copy_rate(device) * 1e6, 1),
        "speedup": {"reference": round(seconds * 1e6 / timing.median_us, 2)},
        "max_error": float(difference) / 255,
        "cold_s": round(cold, 2),
        "median_s": round(timing.median_us / 1e6, 2),
        **memory,
        "provenance": provenance(device),
    }


def main() -> None:
    """Measure every case and write benchmarks/results/deblur_<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="tiny", help="shipped name or model folder")
    parser.add_argument("--runs", type=int, default=5, help="warm runs per case")
    parser.add_argument("--json", action="store_true", help="print the rows, write no file")
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
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        row = rows[-1]
        told = f"{row['case']}: {row['median_s']} s, {row['peak_rss_gb']} GB"
        print(f"{told}, plain torch {row['speedup']['reference']}x", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    path = (
        options.output or RESULTS / f"deblur_{'cpu' if rows[0]['device'] == 'cpu' else 'gpu'}.json"
    )
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
