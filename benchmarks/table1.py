"""Table 1 of the paper, measured: methods of three kinds on public test sets, side by side.

`python -m benchmarks.table1 --dataset gopro GOPRO_Large --ours tiny base --peer runs/nafnet/model
    --official NAFNet nafnet.pth --official MPRNet results_of_mprnet/`

`--ours` names our models, `--peer` networks that `benchmarks.peers.training` has trained on our
data (the fair comparison), `--official` what others have trained: a file or a folder of their
results. Test sets are public ones (`--dataset`, see freqdiff.datasets), pairs of folders, and sharp
photos that BlurSynth blurs. Each row of benchmarks/results/table1.json is one method on one test
set; none comes without the value of its input. Rows of an earlier run stay unless the same method
is measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import methods
from benchmarks.harness import RESULTS, provenance
from freqdiff.atomic import write_atomically
from freqdiff.datasets import DATA_SETS, find_pairs
from freqdiff.deblurrer import choose_device
from freqdiff.errors import FreqDiffError
from freqdiff.evaluate import Sample, mean, pair_samples, synthetic_samples
from freqdiff.info import peak_memory
from freqdiff.pairs import match_pairs, photos_in
from freqdiff.protocol import PROTOCOLS, Scores

Samples = Callable[[], Iterator[Sample]]


def reset_peak(device: torch.device) -> None:
    """Let `peak` begin again."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: the peak is that of the process
        return


def peak(device: torch.device) -> int:
    """Most bytes in use since `reset_peak`: by torch on a GPU, else by this process."""
    status = Path("/proc/self/status")
    if device.type == "cuda" or not status.is_file():
        return peak_memory(device)
    lines = status.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def means(scores: list[Scores]) -> dict[str, float | None]:
    """Means over photos; those that are equal to the truth have no PSNR."""
    columns = {name: mean([score[name] for score in scores]) for name in scores[0]}
    return {k: None if value is None else round(value, 4) for k, value in columns.items()}


def measure(
    method: methods.Method, samples: Iterator[Sample], protocol: str, device: torch.device
) -> dict[str, Any]:
    """A method on a test set: quality of input and result, time and memory."""
    compare = PROTOCOLS[protocol]
    before, after, speeds = [], [], []
    reset_peak(device)
    for sample in samples:
        photo = sample.opened.rgb.float()
        start = time.perf_counter()
        result = method.restore(sample.name, photo)
        speeds.append((time.perf_counter() - start) * 1e6 / (photo.shape[2] * photo.shape[3]))
        assert sample.sharp is not None
        rounded = (result[0].clamp(0, 1) * 255).round() / 255
        before.append(compare(photo[0], sample.sharp))
        after.append(compare(rounded, sample.sharp))
    given, reached = means(before), means(after)
    return {
        "count": len(after),
        "protocol": protocol,
        "input": given,
        "output": reached,
        "gain": means([{k: a[k] - b[k] for k in a} for a, b in zip(after, before, strict=True)]),
        # The first photo also warms up.
        "seconds_per_megapixel": round(statistics.median(speeds), 4),
        "peak_memory_bytes": peak(device),
    }


def data_sets(options: argparse.Namespace) -> Iterator[tuple[str, str, Samples]]:
    """Name, protocol and samples of what the command line names."""
    limit = options.limit
    for name, folder in options.dataset:
        found = find_pairs(name, Path(folder))
        if found.note:
            print(f"Note: {found.note}", flush=True)
        pairs, root = found.pairs[:limit], Path(folder)
        title = DATA_SETS[name].title
        yield title, found.protocol, lambda p=pairs, r=root: pair_samples(p, r)
    for title, blurred, sharp in options.pairs:
        pairs, root = match_pairs(Path(blurred), Path(sharp)).pairs[:limit], Path(blurred)
        yield title, "plain", lambda p=pairs, r=root: pair_samples(p, r)
    if options.synthetic is not None:
        folder = Path(options.synthetic)
        paths = photos_in(folder)[:limit]
        yield "BlurSynth", "plain", lambda: synthetic_samples(paths, folder, options.seed)


def all_methods(options: argparse.Namespace, device: str) -> Iterator[methods.Method]:
    """What the command line names, one after the other, so that only one is in memory."""
    for name in options.ours:
        yield methods.ours(name, options.steps, device)
    for folder in options.peer:
        yield methods.peer(folder, options.tile, device)
    for title, path in options.official:
        yield methods.official(title, path, options.tile, device)


def merge(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """New rows in the place of old ones of the same method and test set, the others behind them."""

    def what(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["method"], row["way"], row["steps"], row["data_set"]

    again = {what(row): row for row in new}
    kept = [again.pop(what(row), row) for row in old]
    return kept + list(again.values())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--dataset", nargs=2, action="append", default=[], metavar=("NAME", "ROOT"))
    add("--pairs", nargs=3, action="append", default=[], metavar=("TITLE", "BLURRED", "SHARP"))
    add("--synthetic", metavar="DIR", help="sharp photos that BlurSynth blurs")
    add("--ours", nargs="+", action="extend", default=[], metavar="MODEL")
    add("--peer", nargs="+", action="extend", default=[], metavar="FOLDER")
    add("--official", nargs=2, action="append", default=[], metavar=("TITLE", "PATH"))
    add("--steps", type=int, default=1, help="of our models (1: the best PSNR)")
    add("--tile", type=int, metavar="N", help="largest photo that networks of others see whole")
    add("--limit", type=int, metavar="N", help="only the first N photos of each test set")
    add("--seed", type=int, default=1)
    add("--device", default="auto")
    add("--output", type=Path, default=RESULTS / "table1.json")
    options = parser.parse_args()
    device = choose_device(options.device)
    try:
        sets = list(data_sets(options))
        if not sets or not (options.ours or options.peer or options.official):
            parser.error("name at least one test set and one method")
        rows = []
        for method in all_methods(options, str(device)):
            for title, protocol, samples in sets:
                row = {
                    "method": method.title,
                    "way": method.way,
                    "data_set": title,
                    **measure(method, samples(), protocol, device),
                    **method.facts,
                    "dtype": "float32",
                    "limit": options.limit,
                    "provenance": provenance(device.type),
                }
                rows.append(row)
                print(json.dumps({k: v for k, v in row.items() if k != "provenance"}), flush=True)
    except FreqDiffError as error:
        raise SystemExit(f"table1: {error}") from error
    old = json.loads(options.output.read_text()) if options.output.is_file() else []
    content = json.dumps(merge(old, rows), indent=1, allow_nan=False) + "\n"
    write_atomically(options.output, content.encode())


if __name__ == "__main__":
    main()
