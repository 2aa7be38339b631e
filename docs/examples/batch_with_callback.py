"""Deblurs a folder of photos with progress of one's own: `python batch_with_callback.py IN OUT`."""

import sys
from pathlib import Path

import freqdiff

source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir(parents=True, exist_ok=True)
model = freqdiff.load("tiny")  # once for all photos


def show(done: int, total: int) -> None:
    """Called after each tile; an exception raised here would cancel the photo."""
    print(f"\r{path.name}: {100 * done // total} %", end="")


for path in sorted(source.glob("*.jpg")):
    try:
        sharp = freqdiff.deblur(path, model=model, callback=show)
    except freqdiff.PhotoError as error:
        print(f"{path.name}: {error}")
        continue
    sharp.save(target / path.name, quality=95, icc_profile=sharp.info.get("icc_profile"))
    print()
