"""What a deblurrer learns from different blur: the first claim of the paper, measured.

`python -m benchmarks.table_blur --sharp TRAINING_PHOTOS --pairs gopro BLURRED SHARP [--pairs ...]`

Trains the tiny model once per kind of synthetic blur (`blursynth.recipes`) and seed, all with the
same budget, and measures each on real pairs. With `--real` also on real blurred photos that nobody
has a sharp version of: their blur width, and NIQE where `--niqe` names its parameters. Stopped, the
same command goes on; the trainings can be done elsewhere (`--train-only`) and their folders brought
here. With `--built` one more training gets a quarter of its pairs from a data set of `blursynth
build`, as of the diffusion engine, and the others from the full physics engine. Writes
benchmarks/results/table_blur.json, one row per kind of blur.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import RESULTS, provenance
from blursynth.recipes import RECIPES
from blursynth.statistics import measure
from freqdiff.cli import main as freqdiff
from freqdiff.deblurrer import Deblurrer, load
from freqdiff.images import open_image
from freqdiff.niqe import Pristine, niqe
from freqdiff.pairs import photos_in

MIXED, PHYSICS = "physics_mixed", "physics_full"
"""The training with pairs that were built, and the one whose pairs they are added to."""
LARGEST = 1024
"""Side of the middle of a real photo that is measured, in pixels."""
SMALLEST = 192


def train(name: str, seed: int, options: argparse.Namespace) -> Path:
    """The model folder of one run, trained or found there."""
    folder = Path(options.runs) / f"{name}_{seed}"
    there = (folder / "model" / "config.json").is_file()
    if there and training_facts(folder / "model")["steps"] >= options.steps:
        return folder / "model"
    arguments = ["train", "--config", "tiny", "--data", options.sharp, "--output", str(folder)]
    for option in ("steps", "batch", "crop", "anchor_steps", "workers"):
        if (value := getattr(options, option)) is not None:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    if options.compile:
        arguments.append("--compile")
    if name == MIXED:
        arguments += ["--pairs", options.built]
    blur = PHYSICS if name == MIXED else name
    if code := freqdiff([*arguments, "--blur", blur, "--seed", str(seed)]):
        raise SystemExit(code)
    return folder / "model"


def training_facts(model: Path) -> dict[str, Any]:
    """What a model folder says about its training."""
    facts: dict[str, Any] = json.loads((model / "config.json").read_text())["training"]
    return facts


def add_pair_options(add: Callable[..., object]) -> None:
    """Add the options that name pairs, and how they are to be compared."""
    names: dict[str, Any] = {"nargs": "+", "default": [], "metavar": "NAME"}
    add("--pairs", nargs=3, action="append", default=[], metavar=("NAME", "BLURRED", "SHARP"))
    add("--align", help="pairs to compare up to a shift", **names)
    add("--linear", help="pairs that hold linear light", **names)


def ways(label: str, options: argparse.Namespace) -> list[str]:
    """Options of `freqdiff evaluate` for some pairs."""
    return [f"--{way}" for way in ("align", "linear") if label in getattr(options, way)]


def pair_gains(model: Path, blurred: str, sharp: str, options: list[str]) -> list[float]:
    """Gain in PSNR (RGB, dB) of each pair of two folders; options as of `ways`."""
    output = model.parent / "evaluation.json"
    where = ["--model", str(model), "--output", str(output), *options]
    if code := freqdiff(["evaluate", "--pairs", blurred, sharp, *where]):
        raise SystemExit(code)
    return [image["gain"]["psnr_rgb"] for image in json.loads(output.read_text())["images"]]


def unpaired(model: Deblurrer, folder: Path, pristine: Pristine | None) -> dict[str, float]:
    """Means over real blurred photos before and after: blur width in pixels, and NIQE."""
    columns: dict[str, list[float]] = {}
    for path in photos_in(folder):
        image = open_image(path).rgb
        height, width = (min(side, LARGEST) for side in image.shape[-2:])
        if min(height, width) < SMALLEST:
            continue
        top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
        image = image[..., top : top + height, left : left + width]
        for when, shown in (("in", image), ("out", model.restore(image).image)):
            width_px = measure(shown[0]).blur_width_px
            columns.setdefault(f"real_blur_width_{when}_px", []).append(width_px)
            if pristine is not None:
                columns.setdefault(f"real_niqe_{when}", []).append(niqe(shown[0], pristine))
    means = {name: round(statistics.mean(values), 4) for name, values in columns.items()}
    return {"real_photos": len(columns["real_blur_width_in_px"]), **means}


def measure_run(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one training."""
    model = train(name, seed, options)
    training = training_facts(model)
    gains = {
        label: pair_gains(model, *folders, ways(label, options))
        for label, *folders in options.pairs
    }
    every = [gain for values in gains.values() for gain in values]
    facts: dict[str, Any] = {
        "seed": seed,
        "trained_on": training["device"],
        "training_s": training["seconds"],
        "real_pairs_gain_db": round(statistics.mean(every), 4),
        **{f"{label}_gain_db": round(statistics.mean(v), 4) for label, v in gains.items()},
    }
    if options.real:
        pristine = Pristine.read(options.niqe) if options.niqe else None
        facts |= unpaired(load(model, "cpu"), Path(options.real), pristine)
    return facts


def row(name: str, runs: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Means over the seeds, the spread of the main number, and the runs."""
    numbers = [key for key in runs[0] if key not in ("seed", "trained_on")]
    means = {key: round(statistics.mean(run[key] for run in runs), 4) for key in numbers}
    main = [run["real_pairs_gain_db"] for run in runs]
    return {
        "training": name,
        "seeds": len(runs),
        "steps": options.steps,
        "batch": options.batch,
        "crop": options.crop,
        "trained_on": runs[0]["trained_on"],
        **means,
        "real_pairs_gain_db_std": round(statistics.stdev(main), 4) if len(main) > 1 else None,
        "aligned": options.align,
        "linear": options.linear,
        "pairs": {label: len(photos_in(Path(blurred))) for label, blurred, _ in options.pairs},
        "runs": runs,
        "provenance": provenance("cuda" if torch.cuda.is_available() else "cpu"),
    }


def main() -> None:
    """Train, measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--sharp", metavar="DIR", required=True, help="sharp photos to train on")
    add_pair_options(add)
    add("--real", metavar="DIR", help="real blurred photos without a sharp version")
    add("--niqe", metavar="FILE", help="pristine parameters (.npz) of NIQE")
    add("--runs", metavar="DIR", default="runs/table_blur")
    add("--built", metavar="DIR", help=f"data set of blursynth build, for {MIXED}")
    add("--trainings", nargs="+", choices=tuple(RECIPES), default=tuple(RECIPES))
    add("--seeds", type=int, default=2)
    add("--steps", type=int, default=2000)
    add("--batch", type=int, default=8)
    add("--crop", type=int, default=128)
    add("--anchor-steps", type=int, help="see freqdiff train")
    add("--compile", action="store_true", help="see freqdiff train")
    add("--workers", type=int, help="processes that prepare crops, for each training")
    add("--train-only", action="store_true", help="measure nothing, write no table")
    add("--output", type=Path, default=RESULTS / "table_blur.json")
    options = parser.parse_args()
    if not (options.pairs or options.train_only):
        parser.error("the following arguments are required: --pairs")
    trainings = [*options.trainings, *([MIXED] if options.built else [])]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in trainings}
    for seed in range(options.seeds):
        for name in runs:
            print(f"== {name}, seed {seed}", flush=True)
            if options.train_only:
                train(name, seed, options)
                continue
            runs[name].append(measure_run(name, seed, options))
            print(json.dumps(runs[name][-1]), flush=True)
    if options.train_only:
        return
    rows = [row(name, found, options) for name, found in runs.items()]
    options.output.write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
