"""Deblurs the frames of a video, one after the other: `python video_frames.py FRAMES OUT`.

Before it, `ffmpeg -i in.mp4 FRAMES/%06d.png` writes the frames; after it
`ffmpeg -framerate 30 -i OUT/%06d.png -i in.mp4 -map 0:v -map 1:a? out.mp4` joins them with sound.
One step, the default of `tiny`, needs no noise, so frames do not flicker; with more steps the same
seed keeps the noise still.
"""

import sys
from pathlib import Path

import freqdiff

frames, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir(parents=True, exist_ok=True)
model = freqdiff.load("tiny")
for path in sorted(frames.glob("*.png")):
    freqdiff.deblur(path, model=model, steps=1, seed=0).save(target / path.name)
