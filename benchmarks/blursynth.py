"""How fast blur is synthesised: `python -m benchmarks.blursynth [--photos FOLDER]`.

Measures the training stream in crops per second, with one and two worker processes of one thread
each; one 4K pair by `synthesize` for several kinds of blur; and the data-set builder with its
memory over time. Every case runs in a process of its own, so that its peak memory is its own.
Without a folder of photos, the photo of the demo is enlarged to 4K.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.harness import RESULTS, Timing, provenance
from blursynth import dataset
from blursynth.camera import Camera
from blursynth.physics import synthesize
from blursynth.scene import Recipe
from blursynth.shot import Conditions
from freqdiff.data import DataConfig, PairBlocks, list_photos
from freqdiff.memory import peak_memory

PHOTO = Path(__file__).parent / "demo" / "coffee.png"
SIZE = (2160, 3840)
MILESTONES = (100, 500, 1000)
CAMERA = Camera(focal_mm=85, f_number=2.8, focus_distance_m=4, exposure_s=1 / 60)


def peak_gb() -> float:
    """The most memory that this process has held so far."""
    return round(peak_memory() / 1e9, 2)


def stream(photos: Path, blocks: int, workers: int) -> dict[str, Any]:
    """Crops of 256 pixels per second that `workers` processes make; the photos are in memory."""
    torch.set_num_threads(1)
    config = DataConfig(pairs_per_block=64)
    pairs = PairBlocks(photos, config)
    if workers == 0:
        return stream_parts(pairs, blocks)
    # Each worker has read its photos after a few blocks.
    warm = workers * (1 + len(list_photos(photos)) // config.pairs_per_block)
    count = warm + blocks * workers
    loader = DataLoader(pairs, batch_size=None, sampler=range(count), num_workers=workers)
    start = 0.0
    for number, _ in enumerate(loader, start=1):
        if number == warm:
            start = time.perf_counter()
    rate = (count - warm) * config.pairs_per_block / (time.perf_counter() - start)
    return {"workers": workers, "crops_per_s": round(rate, 1), "seeds": [config.seed]}


def stream_parts(pairs: PairBlocks, blocks: int) -> dict[str, Any]:
    """Milliseconds per crop of loading and of blurring, in this process."""
    loading, blurring = [], []
    for block in range(blocks + 1):
        start = time.perf_counter()
        sharp = pairs.sharp(block)
        loaded = time.perf_counter()
        sharp.blur("cpu")
        loading.append(loaded - start)
        blurring.append(time.perf_counter() - loaded)
    per_crop = 1e3 / pairs.config.pairs_per_block
    return {
        "workers": 0,
        "loading_ms": round(statistics.median(loading[1:]) * per_crop, 2),
        "blurring_ms": round(statistics.median(blurring[1:]) * per_crop, 2),
        "seeds": [pairs.config.seed],
        "peak_rss_gb": peak_gb(),
    }


def stream_on_gpu(photos: Path, runs: int) -> dict[str, Any]:
    """Crops of 256 pixels per second that a GPU blurs, prepared beforehand and lying on it."""
    config = DataConfig(pairs_per_block=512)
    block = PairBlocks(photos, config, "cuda").sharp(0)
    block = dataclasses.replace(block, crops=block.crops.cuda(), origins=block.origins.cuda())
    seconds = []
    for _ in range(runs + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        block.blur("cuda")
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    rate = config.pairs_per_block / statistics.median(seconds[1:])
    return {"workers": None, "crops_per_s": round(rate, 1), "seeds": [config.seed]}


def only(kind: str) -> Recipe:
    """A recipe of one kind of blur."""
    kinds = dict.fromkeys(("shake", "video", "defocus", "mixed", "unblurred"), 0.0)
    return dataclasses.replace(Recipe(), **{**kinds, kind: 1.0})


def depth_map() -> Tensor:
    """Distances in metres that fall from the horizon to the feet, with hills in between."""
    down = torch.linspace(12, 1.5, SIZE[0])[:, None]
    return (down + torch.linspace(0, 9, SIZE[1]).sin()).clamp_min(1)


def frames(photo: Tensor) -> dict[str, Callable[[int], Any]]:
    """Blurs of one 4K frame, as functions of the seed."""
    rolling = dataclasses.replace(CAMERA, focal_mm=50, f_number=8, exposure_s=1 / 8)
    depth = depth_map()
    cut = Conditions(cat_eye=0.6)
    return {
        "shake": lambda seed: synthesize(photo, seed=seed, recipe=only("shake")),
        "defocus": lambda seed: synthesize(photo, seed=seed, recipe=only("defocus")),
        "random recipe": lambda seed: synthesize(photo, seed=seed),
        "camera, rolling shutter": lambda seed: synthesize(
            photo, rolling, seed=seed, conditions=Conditions(readout_s=1 / 30)
        ),
        "camera, depth map": lambda seed: synthesize(photo, CAMERA, seed=seed, depth_m=depth),
        "camera, depth map, cat eye": lambda seed: synthesize(
            photo, CAMERA, seed=seed, depth_m=depth, conditions=cut
        ),
    }


def frame(photos: Path, case: str, runs: int, threads: int) -> dict[str, Any]:
    """Seconds of one 4K pair."""
    torch.set_num_threads(threads)
    with Image.open(list_photos(photos)[0]) as picture:
        pixels = np.array(picture.convert("RGB").resize(SIZE[::-1], Image.Resampling.BICUBIC))
    photo = torch.from_numpy(pixels).permute(2, 0, 1).contiguous() / 255
    blur = frames(photo)[case]
    seconds = []
    for seed in range(runs + 1):
        start = time.perf_counter()
        blur(seed)
        seconds.append(time.perf_counter() - start)
    timing = Timing.of(seconds[1:])
    return {
        "size": f"{SIZE[1]}x{SIZE[0]}",
        "threads": threads,
        "seeds": list(range(1, runs + 1)),
        "cold_s": round(seconds[0], 2),
        "median_s": round(timing.median_us / 1e6, 2),
        "p20_s": round(timing.p20_us / 1e6, 2),
        "p80_s": round(timing.p80_us / 1e6, 2),
        "peak_rss_gb": peak_gb(),
    }


def build(photos: Path, count: int, workers: int) -> dict[str, Any]:
    """Pairs of 256 pixels per second of the data-set builder, and its memory on the way."""
    memory: dict[str, float] = {}
    done = threading.Event()

    def watch(folder: Path) -> None:
        while not done.wait(0.1):
            made = len(list(folder.glob("*"))) if folder.is_dir() else 0
            for milestone in MILESTONES:
                if made >= milestone and str(milestone) not in memory:
                    pages = int(Path("/proc/self/statm").read_text().split()[1])
                    memory[str(milestone)] = round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)

    with tempfile.TemporaryDirectory() as folder:
        watcher = threading.Thread(target=watch, args=(Path(folder) / "out" / "blur",))
        watcher.start()
        summary = dataset.build(
            photos, Path(folder) / "out", count=count, crop=256, workers=workers, progress=False
        )
        done.set()
        watcher.join()
    facts = {"workers": workers, "pairs": summary.written, "rejected": summary.rejected}
    facts |= {"pairs_per_s": round(summary.pairs / summary.seconds, 2), "seeds": [0]}
    if workers == 1:
        facts |= {"rss_mb_at_pair": memory, "peak_rss_gb": peak_gb()}
    return facts


def measure(photos: Path, op: str, case: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row, measured in this process."""
    device = "cuda" if case == "cuda" else "cpu"
    if device == "cuda":
        facts = stream_on_gpu(photos, options.runs)
    elif op == "stream":
        facts = stream(photos, options.blocks, int(case))
    elif op == "frame":
        facts = frame(photos, case, options.runs, options.threads)
    else:
        facts = build(photos, options.pairs, int(case))
    name = f"{case} workers" if case.isdigit() else case
    return {"op": op, "case": name, **facts, "provenance": provenance(device)}


def cases() -> list[tuple[str, str]]:
    """Everything that there is to measure: on a machine with a GPU, that alone."""
    if torch.cuda.is_available():
        return [("stream", "cuda")]
    kinds = frames(torch.zeros(3, 1, 1))
    return [
        *(("stream", workers) for workers in ("0", "1", "2")),
        *(("frame", kind) for kind in kinds),
        *(("build", workers) for workers in ("1", "2")),
    ]


def enlarged(folder: Path) -> Path:
    """The photo of the demo in 4K, in a folder of its own."""
    with Image.open(PHOTO) as picture:
        large = picture.convert("RGB").resize(SIZE[::-1], Image.Resampling.BICUBIC)
    large.save(folder / "coffee.jpg", quality=95)
    return folder


def main() -> None:
    """Measure every case and write benchmarks/results/blursynth_<device>.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, help="folder of sharp 4K photos")
    parser.add_argument("--only", choices=("stream", "frame", "build"), help="leave out the rest")
    parser.add_argument("--blocks", type=int, default=8, help="of 64 crops, for each worker")
    parser.add_argument("--runs", type=int, default=5, help="of each frame, with seeds 1, 2, ...")
    parser.add_argument("--pairs", type=int, default=1000, help="of the data set")
    parser.add_argument("--threads", type=int, default=2, help="for a frame")
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--output", type=Path, default=RESULTS / f"blursynth_{kind}.json")
    parser.add_argument("--case", nargs=2, metavar=("OP", "CASE"), help="one row, printed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = options.photos or enlarged(Path(folder))
        if options.case:
            print(json.dumps(measure(photos, *options.case, options)))
            return
        rows = []
        for op, case in cases():
            if options.only not in (None, op):
                continue
            command = [sys.executable, "-m", "benchmarks.blursynth", "--photos", str(photos)]
            for name in ("blocks", "runs", "pairs", "threads"):
                command += [f"--{name}", str(getattr(options, name))]
            command += ["--case", op, case]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            rows[-1]["photos"] = options.photos.name if options.photos else "enlarged demo photo"
            told = {k: v for k, v in rows[-1].items() if k not in ("provenance", "seeds", "photos")}
            print(told, file=sys.stderr, flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
