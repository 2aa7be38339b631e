"""Measures a model on folders of photos and keeps the results for the README's table.

`python -m benchmarks.quality --sharp HELD_OUT --pairs gopro BLURRED SHARP [--pairs ...]`

Writes benchmarks/results/evaluate_NAME.json: `validation` (the held-out sharp photos, blurred by
BlurSynth), `unharmed` (the same photos as they are) and one file per pair of folders.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.table_blur import add_pair_options, ways
from freqdiff.cli import main as freqdiff

RESULTS = Path(__file__).parent / "results"


def evaluate(name: str, *options: str) -> None:
    """Run `freqdiff evaluate` and keep its result."""
    print(f"== {name}", flush=True)
    path = RESULTS / f"evaluate_{name}.json"
    if code := freqdiff(["evaluate", *options, "--output", str(path)]):
        raise SystemExit(code)


def main() -> None:
    """Measure all that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sharp", metavar="DIR", required=True, help="held-out sharp photos")
    add_pair_options(parser.add_argument)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--steps", default="1")
    options = parser.parse_args()
    common = ("--model", options.model, "--steps", options.steps)
    for name, blurred, sharp in options.pairs:
        evaluate(name, "--pairs", blurred, sharp, *ways(name, options), *common)
    blurs = ("--synthetic", options.sharp, "--seed", "1", "--draws", "5")
    evaluate("validation", *blurs, *common)
    evaluate("unharmed", "--unharmed", options.sharp, *common)


if __name__ == "__main__":
    main()
