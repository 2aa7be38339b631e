"""What each part is worth: `python -m benchmarks.ablations --sharp PHOTOS --val HELD_OUT`.

Trains one network per change and seed with the same small budget, the pairs of a seed being the
same for all, and measures the gain in PSNR on blurred crops of held-out photos, and on `--pairs` of
folders. Each number comes with its standard error over the seeds; the difference to the whole model
is taken seed by seed. Stopped, the same command goes on. Writes benchmarks/results/ablations.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import RESULTS, provenance
from benchmarks.table_blur import add_pair_options, pair_gains, ways
from blursynth.recipes import RECIPES
from blursynth.scene import Recipe
from freqdiff.atomic import write_atomically
from freqdiff.data import DataConfig
from freqdiff.deblurrer import Deblurrer
from freqdiff.errors import TrainingError
from freqdiff.metrics import psnr
from freqdiff.model import CONFIGS, ModelConfig
from freqdiff.train import Training
from freqdiff.train_config import TrainConfig
from freqdiff.validation import Validation

WHOLE = "whole"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A change of the whole model.

    Attributes:
        title: what is different, for the table.
        model, train: fields of `ModelConfig` and `TrainConfig` that change.
        recipe: of the training blur.
    """

    title: str
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    train: dict[str, Any] = dataclasses.field(default_factory=dict)
    recipe: Recipe = RECIPES["physics_full"]


# Objectives without an anchor cannot learn from x_t that is noise alone.
_ALL_LEVELS = {"terminal_share": 0.0}
VARIANTS = {
    WHOLE: Variant("nothing"),
    "condition_freq": Variant("condition: spectra alone", {"condition": "freq"}),
    "condition_spatial": Variant("condition: photo alone", {"condition": "spatial"}),
    "anchor_input": Variant("anchor: the photo itself", {"anchor": "input"}),
    "taper_none": Variant("windows: without taper", {"taper": "none"}),
    "phase_off": Variant("spectra: without phase", {"phase": False}),
    "all_levels": Variant("training at all noise levels alike", train=_ALL_LEVELS),
    "objective_v": Variant("objective: v, all levels", {"objective": "v"}, _ALL_LEVELS),
    "objective_epsilon": Variant(
        "objective: epsilon, all levels", {"objective": "epsilon"}, _ALL_LEVELS
    ),
    "no_sensor": Variant("blur: without sensor", recipe=RECIPES["physics_clean"]),
    "no_defocus": Variant("blur: without defocus", recipe=Recipe(defocus=0, mixed=0)),
    "no_subjects": Variant("blur: without moving subjects", recipe=Recipe(layer=0)),
    "no_highlights": Variant("blur: without highlights", recipe=Recipe(highlights=0)),
}


def configurations(
    name: str, seed: int, options: argparse.Namespace
) -> tuple[ModelConfig, TrainConfig, DataConfig]:
    """Network, recipe and pairs of one run."""
    variant = VARIANTS[name]
    model = dataclasses.replace(CONFIGS[options.config], name=name, **variant.model)
    train = TrainConfig(steps=options.steps, batch=options.batch, seed=seed)
    if options.anchor_steps is not None:
        train = dataclasses.replace(train, anchor_steps=options.anchor_steps)
    train = dataclasses.replace(train, **variant.train)
    return model, train, DataConfig(crop=options.crop, seed=seed, recipe=variant.recipe)


def run(name: str, seed: int, options: argparse.Namespace) -> tuple[Training, Path]:
    """A training that is done, or was done before, and its folder."""
    folder = Path(options.runs) / f"{name}_{seed}"
    training = Training(
        folder,
        options.sharp,
        *configurations(name, seed, options),
        workers=options.workers,
        compiled=options.compile,
    )
    training.resume()
    if training.step < options.steps:
        training.run(progress=False)
    return training, folder


def measure(
    training: Training, folder: Path, validation: Validation, options: argparse.Namespace
) -> dict[str, Any]:
    """Gains of one run, in dB."""
    model = Deblurrer(training.averaged(), "ablation").eval().to(training.accelerator.device)
    blurred, sharp = ((v + 1) / 2 for v in (validation.blurred, validation.sharp))
    facts: dict[str, Any] = {
        "seed": training.config.seed,
        "seconds": round(training.seconds),
        "device": training.facts()["device"],
    }
    for steps in options.eval_steps:
        gains = [
            psnr(model.restore(y[None], steps=steps).image[0], x) - psnr(y, x)
            for y, x in zip(blurred, sharp, strict=True)
        ]
        facts[f"gain_db_{steps}"] = round(statistics.fmean(gains), 4)
    for label, *folders in options.pairs:
        gains = pair_gains(folder / "model", *folders, ways(label, options))
        facts[f"{label}_gain_db"] = round(statistics.fmean(gains), 4)
    return facts


def spread(values: list[float]) -> float | None:
    """Standard error of their mean; None for a single one."""
    return round(statistics.stdev(values) / math.sqrt(len(values)), 4) if len(values) > 1 else None


def row(
    name: str, runs: list[dict[str, Any]], whole: list[dict[str, Any]], options: argparse.Namespace
) -> dict[str, Any]:
    """Means over the seeds with their standard errors, and the same of the differences."""
    numbers = [key for key in runs[0] if "gain_db" in key]
    facts: dict[str, Any] = {}
    for key in numbers:
        values = [one[key] for one in runs]
        differences = [one[key] - other[key] for one, other in zip(runs, whole, strict=True)]
        facts[key] = round(statistics.fmean(values), 4)
        facts[f"{key}_error"] = spread(values)
        facts[f"{key}_difference"] = round(statistics.fmean(differences), 4)
        facts[f"{key}_difference_error"] = spread(differences)
    return {
        "variant": name,
        "title": VARIANTS[name].title,
        "config": options.config,
        "seeds": len(runs),
        **{key: getattr(options, key) for key in ("steps", "batch", "crop", "eval_steps")},
        **facts,
        "pairs": [label for label, *_ in options.pairs],
        "aligned": options.align,
        "linear": options.linear,
        "runs": runs,
        "provenance": provenance("cuda" if torch.cuda.is_available() else "cpu"),
    }


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--sharp", metavar="DIR", required=True, help="sharp photos to train on")
    add("--val", metavar="DIR", required=True, help="held-out sharp photos")
    add("--val-count", type=int, default=48, help="blurred crops of them")
    add_pair_options(add)
    add("--runs", metavar="DIR", default="runs/ablations")
    add("--variants", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    add("--config", choices=tuple(CONFIGS), default="tiny")
    add("--seeds", type=int, default=3)
    add("--steps", type=int, default=2000)
    add("--batch", type=int, default=8)
    add("--crop", type=int, default=128)
    add("--eval-steps", type=int, nargs="+", default=[1, 8], help="sampling steps to measure")
    add("--anchor-steps", type=int, help="see freqdiff train")
    add("--compile", action="store_true", help="see freqdiff train")
    add("--workers", type=int, help="processes that prepare crops")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--output", type=Path, default=RESULTS / "ablations.json")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    names = dict.fromkeys((WHOLE, *options.variants))  # all others are compared with the whole
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    try:
        validation = Validation(options.val, count=options.val_count, crop=options.crop)
        for seed in range(options.seeds):
            for name in names:
                print(f"== {name}, seed {seed}", flush=True)
                facts = measure(*run(name, seed, options), validation, options)
                runs[name].append(facts)
                print(json.dumps(facts), flush=True)
    except TrainingError as error:
        raise SystemExit(f"ablations: {error}") from error
    rows = [row(name, found, runs[WHOLE], options) for name, found in runs.items()]
    content = json.dumps(rows, indent=1, allow_nan=False) + "\n"
    write_atomically(options.output, content.encode())


if __name__ == "__main__":
    main()
