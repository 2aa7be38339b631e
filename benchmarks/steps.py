"""What the number of sampling steps trades: `python -m benchmarks.steps --sharp HELD_OUT_PHOTOS`.

Blurs crops with BlurSynth and deblurs them with more and more steps: PSNR and SSIM against the
truth, NIQE where `--niqe` names its parameters, and the distance of the spectra, in dB of the
radial bands above 1/8 cycle per pixel: texture that is missing, or too much. Writes
benchmarks/results/steps.json and its picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

import freqdiff
from benchmarks.harness import RESULTS, provenance
from blursynth.scene import Recipe
from freqdiff.data import DataConfig, PairBlocks
from freqdiff.metrics import psnr, ssim
from freqdiff.niqe import Pristine, niqe
from freqdiff_kernels import ops

WINDOW, BANDS = 32, 8
FIRST_BAND = 2
"""Radial bands of 1/16 cycles per pixel below it hold what blur leaves alone."""


def spectrum_db(result: Tensor, truth: Tensor) -> tuple[float, float]:
    """Mean absolute and mean signed difference of the bands' power, in dB; images (3, H, W)."""
    bands = [
        ops.band_energy(image[None], WINDOW, BANDS, 1)[0, FIRST_BAND:] for image in (result, truth)
    ]
    difference = 10 / math.log(10) * (bands[0] - bands[1])
    return float(difference.abs().mean()), float(difference.mean())


def measure(
    images: Sequence[Tensor], sharp: Sequence[Tensor], pristine: Pristine | None
) -> dict[str, Any]:
    """Means over photos (3, H, W) in [0, 1]."""
    spectra = [spectrum_db(image, truth) for image, truth in zip(images, sharp, strict=True)]
    row: dict[str, Any] = {
        "psnr_rgb": statistics.mean(map(psnr, images, sharp)),
        "ssim_matlab3d": statistics.mean(map(ssim, images, sharp)),
        "spectrum_db": statistics.mean(absolute for absolute, _ in spectra),
        "spectrum_bias_db": statistics.mean(signed for _, signed in spectra),
    }
    if pristine is not None:
        row["niqe"] = statistics.mean(niqe(image, pristine) for image in images)
    return {name: round(value, 4) for name, value in row.items()}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR against the distance of the spectra, a point for each number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    before, *rest = rows
    steps = [row["steps"] for row in rest]
    for panel, name, title in (
        (axes[0], "psnr_rgb", "PSNR (dB)"),
        (axes[1], "spectrum_bias_db", "fine texture against the truth (dB)"),
    ):
        panel.plot(steps, [row[name] for row in rest], marker="o")
        panel.axhline(before[name], linestyle="--", color="grey", label="blurred photo")
        panel.set(xscale="log", xlabel="sampling steps", title=title)
        panel.set_xticks(steps, [str(count) for count in steps])
        panel.minorticks_off()
        panel.legend()
    axes[1].axhline(0, color="black", linewidth=0.8)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def main() -> None:
    """Measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--sharp", type=Path, required=True, metavar="DIR", help="held-out sharp photos")
    add("--niqe", metavar="FILE", help="pristine parameters (.npz) of NIQE")
    add("--model", default="tiny")
    add("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    add("--count", type=int, default=32)
    add("--crop", type=int, default=256)
    add("--seed", type=int, default=1234)
    add("--output", type=Path, default=RESULTS / "steps.json")
    options = parser.parse_args()
    recipe = dataclasses.replace(Recipe(), unblurred=0)
    data = DataConfig(
        crop=options.crop,
        pairs_per_block=options.count,
        seed=options.seed,
        enlarged=0,
        recipe=recipe,
    )
    blurred, sharp = (v.float() / 255 for v in PairBlocks(options.sharp, data).pairs(0)[:2])
    pristine = Pristine.read(options.niqe) if options.niqe else None
    model = freqdiff.load(options.model, "cpu")
    facts = {"model": options.model, "crops": options.count, "crop": options.crop}
    rows = [{"steps": 0, **facts, **measure(list(blurred), list(sharp), pristine)}]
    for steps in options.steps:
        results = [model.restore(photo[None], steps=steps).image[0] for photo in blurred]
        rows.append({"steps": steps, **facts, **measure(results, list(sharp), pristine)})
        print(rows[-1], flush=True)
    for row in rows:
        row["provenance"] = provenance()
    options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    plot(rows, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
