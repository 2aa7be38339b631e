"""Whether the errors that a result expects of itself are where they are:
`python -m benchmarks.self_check --sharp HELD_OUT_PHOTOS`.

Blurs crops with BlurSynth, deblurs them and compares, cell by cell, the expected error with the
true one. Writes benchmarks/results/self_check.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

import freqdiff
from benchmarks.harness import RESULTS, provenance, rank_correlation
from blursynth.scene import Recipe
from freqdiff.data import DataConfig, PairBlocks
from freqdiff.self_check import cell_rms


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sharp", type=Path, required=True, metavar="DIR", help="sharp photos")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=64, help="crops of 256 px")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--output", type=Path, default=RESULTS / "self_check.json")
    options = parser.parse_args()
    recipe = dataclasses.replace(Recipe(), unblurred=0.05)
    data = DataConfig(pairs_per_block=options.count, seed=options.seed, enlarged=0, recipe=recipe)
    blurred, sharp = (v.float() / 255 for v in PairBlocks(options.sharp, data).pairs(0)[:2])
    model = freqdiff.load(options.model, "cpu")
    expected, true, before = [], [], []
    for y, x in zip(blurred, sharp, strict=True):
        result = model.restore(y[None], check=True)
        assert result.check is not None
        expected.append(result.check.expected_error)
        true.append(cell_rms(result.image - x))
        before.append(cell_rms(y[None] - x))
    guess, error, blur = (torch.stack(values) for values in (expected, true, before))
    row = {
        "model": options.model,
        "crops": options.count,
        "crop": data.crop,
        "seed": options.seed,
        "cells": error.numel(),
        "rank_correlation": round(rank_correlation(guess, error), 3),
        "rank_correlation_of_crops": round(
            rank_correlation(guess.mean((1, 2)), error.mean((1, 2))), 3
        ),
        "mean_expected_error": round(255 * float(guess.mean()), 2),
        "mean_error": round(255 * float(error.mean()), 2),
        "mean_error_of_input": round(255 * float(blur.mean()), 2),
        "provenance": provenance(),
    }
    options.output.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    print({key: value for key, value in row.items() if key != "provenance"})


if __name__ == "__main__":
    main()
