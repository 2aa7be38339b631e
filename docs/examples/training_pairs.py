"""Blurs sharp photos as a hand-held camera would: `python training_pairs.py SHARP OUT`.

Writes OUT/NAME_blurred.png and OUT/NAME_sharp.png. `blursynth build` makes large data sets, with
metadata, shards and certificates of alignment.
"""

import sys
from pathlib import Path

from PIL import Image

import blursynth
from freqdiff.images import open_image

source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir(parents=True, exist_ok=True)
camera = blursynth.Camera(exposure_s=1 / 4, focal_mm=50, iso=800)
for seed, path in enumerate(sorted(source.glob("*.jpg"))):
    opened = open_image(path)
    made = blursynth.synthesize(opened.rgb[0], camera, seed=seed)
    for kind, image in (("blurred", made.blurred), ("sharp", opened.rgb[0])):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(target / f"{path.stem}_{kind}.png")
    print(f"{path.name}: {made.camera}")
