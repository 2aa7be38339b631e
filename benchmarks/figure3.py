"""How near blur of different engines comes to real blur, and what it looks like (Figure 3).

`python -m benchmarks.figure3 --sharp HELD_OUT --real PHOTOS --gan FOLDER`

Crops of sharp photos that no engine learned from are blurred by each of them with the same seeds
and compared, in the features of `blursynth.features`, with those real blurred photos that the GAN
was not trained on (`blursynth train-gan --hold-out`). Photos are shrunk to the longer side that the
GAN was trained at, sharp and real ones alike. Two rows to compare with: `real`, the photos that the
GAN was trained on, which no engine can be expected to beat, and `sharp`, the crops as they are.
Photos of the same kind lie in a sub-folder; `--kinds` measures from those of one kind alone.

Writes benchmarks/results/blur_engines.json and, of one scene of the demo, figure3.jpg.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from benchmarks.demo import PHOTOS, picture, side_by_side, tensor
from benchmarks.harness import RESULTS, provenance
from blursynth.build_plan import list_photos
from blursynth.distances import LEAST_PHOTOS, distance
from blursynth.features import Samples, gather, patch_features, spectrum_features
from blursynth.gan import Generator, blur, load_generator
from blursynth.photo_scale import read_at_scale
from blursynth.physics import MARGIN, synthesize
from blursynth.recipes import RECIPES
from freqdiff.errors import InputError

CROP = 256
DRAWS = 3
"""How often each crop is blurred."""
MOST_WINDOWS = 32
"""Of one real photo, so that large ones count no more than others."""
SPACES = {"spectrum": spectrum_features, "patches": patch_features}
SCENE = (slice(None), slice(60, 320), slice(240, 500))
"""Part of coffee.png."""
SCENE_SEED = 4
COLUMNS = {
    "sharp": "sharp",
    "gaussian": "Gaussian kernel",
    "frame_average": "frame averaging",
    "gan": "GAN",
    "physics_full": "BlurSynth",
}


@dataclasses.dataclass(frozen=True)
class Crop:
    """A crop with what lies around it in its photo.

    Attributes:
        photo: name of the photo.
        padded: (3, H, W) with margins.
        inner: where the crop is in it.
        origin: position (y, x) of `padded` in the frame.
        frame: height and width of the photo.
    """

    photo: str
    padded: Tensor
    inner: tuple[slice, slice, slice]
    origin: tuple[int, int]
    frame: tuple[int, int]


Engine = Callable[[Crop, int], Tensor]
Photos = list[tuple[str, Tensor]]


def crops_of(name: str, photo: Tensor) -> list[Crop]:
    """As many crops as lie side by side in a photo, evenly spread.

    Raises:
        InputError: the photo is smaller than a crop.
    """
    height, width = photo.shape[1:]
    if min(height, width) < CROP:
        raise InputError(f"{name!r} has {width} x {height} px at this scale, less than {CROP}.")
    spans = []
    for side in (height, width):
        count = side // CROP
        room = (side - count * CROP) / (count + 1)
        starts = [round(room * (k + 1) + k * CROP) for k in range(count)]
        # Multiples of 16, so that the blocks of a simulated JPEG begin where the crop does.
        before = [min(MARGIN, start) // 16 * 16 for start in starts]
        spans.append(
            [(s, b, min(MARGIN, side - s - CROP)) for s, b in zip(starts, before, strict=True)]
        )
    return [
        Crop(
            name,
            photo[:, top - above : top + CROP + below, left - before : left + CROP + after],
            (slice(None), slice(above, above + CROP), slice(before, before + CROP)),
            (top - above, left - before),
            (height, width),
        )
        for top, above, below in spans[0]
        for left, before, after in spans[1]
    ]


def engines(generator: Generator) -> dict[str, Engine]:
    """What blurs a crop, given a seed, by name."""

    def by_recipe(name: str, crop: Crop, seed: int) -> Tensor:
        return synthesize(
            crop.padded, recipe=RECIPES[name], seed=seed, frame_size=crop.frame, origin=crop.origin
        ).blurred

    made: dict[str, Engine] = {"sharp": lambda crop, seed: crop.padded}
    made |= {name: functools.partial(by_recipe, name) for name in RECIPES}
    made["gan"] = lambda crop, seed: blur(generator, crop.padded, seed)
    return made


def real_photos(folder: Path, names: Sequence[str], long_side: int) -> Photos:
    """Real photos at the scale of the comparison."""
    return [(name, read_at_scale(folder / name, long_side)) for name in names]


def measure(
    made: dict[str, Photos], others: Photos, held_out: Photos, kinds: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of each kind of real photos, in each space, from equally many windows of each engine.

    Args:
        made: blurred crops by engine.
        others, held_out: real photos that the GAN was and was not trained on.
        kinds: beginnings of the names of real photos; "" for all.
    """
    rows = []
    for space, features in SPACES.items():
        by_engine = {name: gather(photos, features) for name, photos in made.items()}
        for kind in kinds:
            real, target = (
                gather([one for one in photos if one[0].startswith(kind)], features, MOST_WINDOWS)
                for photos in (others, held_out)
            )
            found = {"real": real, **by_engine}
            count = min(len(samples.photo) for samples in found.values())
            for name, samples in found.items():
                row = {"engine": name, "features": space, "kind": kind or "all"}
                rows.append(row | compare(samples.thin(count), target))
    return rows


def compare(samples: Samples, target: Samples) -> dict[str, Any]:
    """Distances and how much they come from."""
    found = distance(samples, target)
    return {
        "frechet": round(found.frechet, 4),
        "kid": round(found.kid, 5),
        "kid_stderr": round(found.kid_stderr, 5),
        "windows": len(samples.photo),
        "photos": samples.photos,
        "real_windows": len(target.photo),
        "real_photos": target.photos,
    }


def draw_figure(generator: Generator, path: Path) -> None:
    """Write one scene, blurred by each engine."""
    photo = tensor(Image.open(PHOTOS / "coffee.png"))
    whole = Crop("coffee.png", photo, SCENE, (0, 0), (photo.shape[1], photo.shape[2]))
    made = engines(generator)
    shown = {
        title: picture(made[name](whole, SCENE_SEED)[SCENE]) for name, title in COLUMNS.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    side_by_side(shown, scale=1).save(path, quality=92)


def run(
    sharp: Path, real: Path, gan: Path, *, kinds: Sequence[str] = (), seed: int = 0
) -> list[dict[str, Any]]:
    """All rows; see `main` for the arguments.

    Raises:
        InputError: too few photos, or a GAN that has seen all real ones.
        ModelError: no trained GAN.
    """
    generator, training = load_generator(gan)
    long_side = generator.config.long_side
    seen = set(training["real"])
    names = list_photos(real, leave_out=gan.resolve())
    held_out = [name for name in names if name not in seen]
    others = [name for name in names if name in seen]
    for kind in ("", *kinds):
        counts = [sum(name.startswith(kind) for name in one) for one in (others, held_out)]
        if min(counts) < LEAST_PHOTOS:
            raise InputError(
                f"Of the photos in {str(real)!r} whose names start with {kind!r} the GAN was "
                f"trained on {counts[0]} and not on {counts[1]}: give more, and train it with "
                "--hold-out on the same folder."
            )
    crops = [
        crop
        for name in list_photos(sharp, leave_out=gan.resolve())
        for crop in crops_of(name, read_at_scale(sharp / name, long_side))
    ]
    made = {}
    for name, engine in engines(generator).items():
        print(f"== {name}", flush=True)
        made[name] = [
            (crop.photo, engine(crop, seed + DRAWS * number + draw)[crop.inner])
            for number, crop in enumerate(crops)
            for draw in range(DRAWS if name != "sharp" else 1)
        ]
    photos = (real_photos(real, names, long_side) for names in (others, held_out))
    rows = measure(made, *photos, kinds=["", *kinds])
    settings = {"long_side": long_side, "crop": CROP, "draws": DRAWS, "seed": seed}
    settings |= {"gan_steps": training["steps"]}
    facts = provenance()
    return [row | settings | {"provenance": facts} for row in rows]


def main() -> None:
    """Blur, measure, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sharp", type=Path, required=True, help="sharp photos nobody trained on")
    parser.add_argument("--real", type=Path, required=True, help="real blurred photos")
    parser.add_argument("--gan", type=Path, required=True, help="folder of blursynth train-gan")
    parser.add_argument(
        "--kinds", nargs="*", default=[], metavar="START", help="also only real photos named so"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    rows = run(options.sharp, options.real, options.gan, kinds=options.kinds, seed=options.seed)
    for row in rows:
        print(
            f"{row['kind']:14} {row['features']:9} {row['engine']:14} "
            f"Fréchet {row['frechet']:9.3f}  KID {row['kid']:9.4f} +- {row['kid_stderr']:.4f}"
        )
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "blur_engines.json"
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    draw_figure(load_generator(options.gan)[0], options.output / "figure3.jpg")
    print(f"wrote {path} and figure3.jpg")


if __name__ == "__main__":
    main()
