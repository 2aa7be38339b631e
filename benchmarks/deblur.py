"""How long a whole photo takes, and how much memory: `python -m benchmarks.deblur`.

Each case runs in a process of its own, so that its peak memory is its own; the photo is random
texture, which costs what any photo costs. The competitor is the same model on plain torch, without
the kernels of this package. The first run of a process is reported as `cold_s`. On a GPU the
network is compiled, and `sampler_us` is the time without the photo's way there and back.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import RESULTS, Timing, measure_copy_rate, provenance
from benchmarks.harness import measure as measure_runs
from freqdiff.memory import peak_memory

if TYPE_CHECKING:
    from torch import Tensor

    from freqdiff.deblurrer import Deblurrer

CASES = [(1080, 1920, 1), (1080, 1920, 4), (2160, 3840, 1), (2160, 3840, 4)]


def load(name: str) -> "Deblurrer":
    """A shipped model or a model folder; else an untrained network, which takes as long."""
    import torch

    import freqdiff
    from freqdiff.checkpoint import shipped_models
    from freqdiff.deblurrer import choose_device
    from freqdiff.denoiser import Denoiser
    from freqdiff.model import CONFIGS

    if name in shipped_models() or name not in CONFIGS:
        return freqdiff.load(name)
    torch.manual_seed(0)
    denoiser = Denoiser(CONFIGS[name])
    with torch.no_grad():
        for value in denoiser.parameters():
            if not bool(value.any()):
                value.normal_(0, 0.02)
    return freqdiff.Deblurrer(denoiser, f"{name}, untrained").to(choose_device("auto")).eval()


def measure(model: str, height: int, width: int, steps: int, runs: int) -> dict[str, Any]:
    """Time `freqdiff.deblur` on a uint8 photo in this process."""
    import numpy as np
    import torch

    import freqdiff
    from freqdiff_kernels import native, ops

    loaded = load(model)
    device = loaded.device.type
    if device == "cuda":
        loaded.compile()
    generator = torch.Generator().manual_seed(0)
    photo = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)

    def deblur(network: freqdiff.Deblurrer = loaded) -> tuple[float, Any]:
        start = time.perf_counter()
        result = freqdiff.deblur(photo.numpy(), model=network, steps=steps, progress=False)
        return time.perf_counter() - start, np.asarray(result)

    cold, result = deblur()
    timing = Timing.of(deblur()[0] for _ in range(runs))
    peak = peak_memory()
    more = {"peak_rss_gb": round(peak / 1e9, 2)}
    if device == "cuda":
        more["peak_gpu_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        more["sampler_us"] = time_sampler(loaded, photo.permute(2, 0, 1)[None], steps, runs)
    with ops.use_backend("reference"):
        # A compiled network would replay the kernels that it was compiled with.
        seconds, plain = deblur(load(model) if device == "cuda" else loaded)
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
        **more,
        "provenance": provenance(device),
    }


def time_sampler(model: "Deblurrer", photo: "Tensor", steps: int, runs: int) -> float:
    """Microseconds of all steps for a photo that lies on the GPU, between two events."""
    import torch

    from freqdiff.sampler import Request

    image = photo.to(model.device).float() / 255
    request = Request(steps, seed=0, largest=max(photo.shape) + 64)
    with torch.inference_mode():

        def sample(_: int) -> "Tensor":
            return model._sampler(image, request, None).image

        return measure_runs({"sampler": sample}, "cuda", runs)[0]["sampler"].median_us


def main() -> None:
    """Measure every case and write benchmarks/results/deblur_<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model",
        nargs="+",
        default=["tiny"],
        help="shipped names or model folders, or networks of freqdiff.model.CONFIGS, untrained",
    )
    parser.add_argument("--large", action="store_true", help="4K in 4 steps alone")
    parser.add_argument("--runs", type=int, default=5, help="warm runs per case")
    parser.add_argument("--json", action="store_true", help="print the rows, write no file")
    parser.add_argument("--output", type=Path, help="results file")
    parser.add_argument("--smallest", action="store_true", help="one small case, to try it out")
    parser.add_argument("--case", nargs=3, type=int, metavar=("H", "W", "STEPS"))
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.model[0], *options.case, options.runs)))
        return
    rows: list[dict[str, Any]] = []
    cases = [(180, 320, 1)] if options.smallest else CASES[-1:] if options.large else CASES
    for model, case in itertools.product(options.model, cases):
        command = [sys.executable, "-m", "benchmarks.deblur", "--model", model]
        command += ["--runs", str(options.runs), "--case", *map(str, case)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows.append(json.loads(output.splitlines()[-1]))
        row = rows[-1]
        told = f"{row['model']}, {row['case']}: {row['median_s']} s, {row['peak_rss_gb']} GB"
        print(f"{told}, plain torch {row['speedup']['reference']}x", file=sys.stderr, flush=True)
        if not options.json:
            write(options, rows)
    if options.json:
        print(json.dumps(rows, indent=1))


def write(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write what was measured so far."""
    kind = "cpu" if rows[0]["device"] == "cpu" else "gpu"
    path = options.output or RESULTS / f"deblur_{kind}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
