"""Writes a few generated pictures, for trying out training where no photos are at hand.

`python -m benchmarks.photos FOLDER`
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image


def texture(seed: int, side: int = 256) -> Image.Image:
    """Noise of every scale with hard edges, so that there is something to blur."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side, 3))
    for cells in (4, 16, 64, side):
        layer = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        grown = Image.fromarray(layer).resize((side, side), Image.Resampling.NEAREST)
        picture += np.asarray(grown) / 4
    return Image.fromarray(picture.astype(np.uint8))


def main() -> None:
    """Write four pictures into the folder that the command line names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(4):
        texture(seed).save(folder / f"texture{seed}.png")


if __name__ == "__main__":
    main()
