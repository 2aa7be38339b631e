"""How fast the operations are, beside what one would write with torch alone.

python -m benchmarks.kernels [--device cpu|cuda] [--threads 1 2] [--only OP] [--json]

On a machine that is busy with other work, believe the rows of one thread: threads of the
competitors that wait for each other on a shared core make those look slower than they are.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import (
    kernels_attention,
    kernels_features,
    kernels_filter,
    kernels_steps,
    kernels_tiles,
)
from benchmarks.harness import (
    RESULTS,
    Row,
    describe,
    measure_copy_rate,
    measure_flop_rate,
    provenance,
    run_case,
    write,
)
from freqdiff_kernels import native, ops

MODULES = {
    "fft_features": kernels_features,
    "stitch_tiles": kernels_tiles,
    "ddim_step": kernels_steps,
    "filter_grid": kernels_filter,
    "halo_attention": kernels_attention,  # last: its competitors take minutes to compile
}


def live_backend(name: str, device: str) -> str:
    """The backend behind an operation, as rows name it."""
    live = ops.backends()[name][device]
    return f"cpp {native.cpu_level()}" if live == "cpp" else live


def measure_all(
    device: str, threads: list[int], only: str | None, backends: list[str], runs: int
) -> Iterator[Row]:
    """Rows of all cases, or of those of one operation."""
    facts = provenance(device)
    modules = [module for name, module in MODULES.items() if only in (None, name)]
    for count in threads:
        torch.set_num_threads(count)
        copy_rate = measure_copy_rate(device)
        dtype = torch.float32 if device == "cpu" else torch.bfloat16
        rates = {"copy_rate": copy_rate, "flop_rate": measure_flop_rate(device, dtype)}
        for backend in backends:
            for case in itertools.chain.from_iterable(module.cases(device) for module in modules):
                label = live_backend(case.op, device) if backend == "default" else backend
                with ops.use_backend(backend):
                    row = run_case(case, label, copy_rate, runs)
                row.provenance = facts | rates
                print(describe(row), file=sys.stderr, flush=True)
                yield row


def main() -> None:
    """Measure and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, nargs="+", help="of the CPU; 1 and 2 if not given")
    parser.add_argument("--only", choices=MODULES, help="the cases of one operation")
    parser.add_argument("--runs", type=int, default=51, help="of each contestant, if it is fast")
    parser.add_argument("--backend", nargs="+", default=["default"], choices=["default", "triton"])
    parser.add_argument("--json", action="store_true", help="print the rows, write no file")
    parser.add_argument("--output", type=Path, help="results file")
    options = parser.parse_args()
    torch.manual_seed(0)
    device = "cpu" if options.device == "cpu" else "cuda"
    threads = options.threads or ([1, 2] if device == "cpu" else [torch.get_num_threads()])
    measured = measure_all(device, threads, options.only, options.backend, options.runs)
    if options.json:
        print(json.dumps([asdict(row) for row in measured], indent=1))
        return
    path = options.output or RESULTS / f"kernels_{'cpu' if device == 'cpu' else 'gpu'}.json"
    rows: list[Row] = []
    for row in measured:
        rows.append(row)
        write(path, rows)  # whatever stops it, what was measured is there
    if not rows:
        sys.exit(f"{options.only} has no case for {device}")
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
