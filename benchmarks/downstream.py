"""What a detector and a reader lose by blur and get back:
`python -m benchmarks.downstream --detector MODEL --pairs NAME BLURRED SHARP --sharp PHOTOS`.

Runs `freqdiff evaluate --downstream` on pairs of folders, on held-out photos that BlurSynth blurs,
and on pages of text that are made here and blurred in the same way (`--pages 0` leaves them out).
Writes benchmarks/results/downstream.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.harness import RESULTS, provenance
from freqdiff.cli import main as freqdiff

WIDTH, HEIGHT = 960, 640
WORDS = """\
anchor autumn bridge camera candle carpet circle cloud coffee copper corner cotton desert door
dragon eleven engine evening falcon farmer feather finger forest garden gentle glass golden hammer
harbour honey island jacket kettle ladder lemon letter marble market meadow mirror morning mountain
needle number ocean orange paper pencil pepper pigeon planet pocket quiet river saddle salmon silver
spring stone summer table thunder timber tunnel valley velvet village violin water window winter"""


def page(seed: int) -> Image.Image:
    """Lines of words in ink of several sizes on uneven paper."""
    rng = np.random.default_rng(seed)
    shade = np.linspace(*rng.uniform(205, 250, 2), WIDTH)[None, :, None]
    paper = shade + rng.normal(0, 2, (HEIGHT, WIDTH, 1)) + np.array([3, 0, -8])
    picture = Image.fromarray(paper.clip(0, 255).astype(np.uint8))
    draw, words, top = ImageDraw.Draw(picture), WORDS.split(), 24
    while top < HEIGHT - 60:
        size = int(rng.integers(20, 44))
        line, font = "", ImageFont.load_default(size)
        while font.getlength(line) < 0.7 * WIDTH:
            line += f"{words[int(rng.integers(len(words)))]} {int(rng.integers(100))} "
        ink = tuple(int(value) for value in rng.integers(0, 80, 3))
        draw.text((30, top), line.strip(), fill=ink, font=font)
        top += int(1.7 * size)
    return picture


def evaluate(name: str, *options: str) -> dict[str, Any]:
    """Run `freqdiff evaluate`, and keep what is about the program."""
    print(f"== {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        if code := freqdiff(["evaluate", *options, "--output", str(path)]):
            raise SystemExit(code)
        report = json.loads(path.read_text(encoding="utf-8"))
    kept = ("model", "model_sha256", "steps", "count", "downstream_model", "downstream", "gain")
    return {"set": name} | {key: report[key] for key in kept}


def main() -> None:
    """Measure all that the command line names, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--detector", metavar="MODEL", help="ONNX file, or model of transformers")
    add("--pairs", nargs=3, action="append", default=[], metavar=("NAME", "BLURRED", "SHARP"))
    add("--sharp", metavar="DIR", help="held-out sharp photos, to be blurred by BlurSynth")
    add("--pages", type=int, default=24, help="of text")
    add("--model", default="tiny")
    add("--steps", default="1")
    add("--output", type=Path, default=RESULTS / "downstream.json")
    options = parser.parse_args()
    common = ("--model", options.model, "--steps", options.steps, "--seed", "1")
    rows: list[dict[str, Any]] = []

    def measure(name: str, *arguments: str) -> None:
        rows.append(evaluate(name, *arguments, *common) | {"provenance": provenance()})
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    if options.pages:
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(options.pages):
                page(seed).save(Path(folder) / f"page{seed:03d}.png")
            measure("pages", "--synthetic", folder, "--downstream", "ocr")
    if options.detector:
        detector = ("--downstream", "detection", "--downstream-model", options.detector)
        for name, blurred, sharp in options.pairs:
            measure(name, "--pairs", blurred, sharp, *detector)
        if options.sharp:
            measure("simulated", "--synthetic", options.sharp, *detector)


if __name__ == "__main__":
    main()
