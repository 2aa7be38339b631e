"""Whether the diffusion engine obeys the camera, keeps the photo, and looks like real blur.

`python -m benchmarks.diffusion_control --base DIR [--lora DIR] --sharp HELD_OUT --real PHOTOS`

* Control: each photo is taken with a ladder of exposure times, apertures and sensitivities, all
  else equal. Blur width and noise are estimated from the generated photo (output "pixels", what the
  network made) by `blursynth.statistics`, and compared with what physics predicts: mean extent of
  the blur field, standard deviation of the noise. Spearman's rank correlation over the ladder, mean
  over the photos.
* Content: pairs with random settings are measured by `blursynth.certificate`; shift and PSNR of the
  low band are those of accepted pairs.
* Distance from real blurred photos that the alignment was not trained on (`train-diffusion
  --hold-out`), in the features of `blursynth.features`, of photos blurred with random settings in
  crops from anywhere: those above are of the parts with most texture. Few photos cannot come near
  to many, however they are blurred: the rows of the engine `real` are the distances of as many real
  photos from the other ones. `--distance-sharp` names more, which trainings may have seen sharp.

The rows of the engine `physics` say what the estimators can see at best. Writes
benchmarks/results/diffusion_control.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.crops import Crop, crop_of, crops_anywhere
from benchmarks.harness import RESULTS, provenance, rank_correlation
from blursynth.build_plan import list_photos
from blursynth.camera import Camera
from blursynth.certificate import certify
from blursynth.diffusion_conditions import physics_map
from blursynth.diffusion_config import DiffusionConfig, Output
from blursynth.distances import LEAST_PHOTOS, distance
from blursynth.engines import Engine, engine_of
from blursynth.features import Samples, gather, patch_features, spectrum_features
from blursynth.motion import Hand
from blursynth.photo_scale import read_at_scale
from blursynth.physics import Synthesis
from blursynth.shot import Conditions, sample_shot
from blursynth.statistics import measure

SPACES = {"spectrum": spectrum_features, "patches": patch_features}
SPLITS = 20
"""Choices of as few real photos, whose mean is compared."""
MOST_WINDOWS = 32
"""Of one real photo, so that large ones count no more than others."""
HANDS = 3
"""Exposures with each time, whose mean is compared: hands move by chance."""
OUTPUTS: tuple[Output, ...] = ("pixels", "attributes")

Ladder = tuple[list[Camera], Conditions]


def ladders() -> dict[str, Ladder]:
    """Cameras that differ in one setting, by the name of the setting.

    Without diffraction, whose blur grows where that of defocus falls.
    """
    still = Conditions(hand=None, diffraction=False, mosaic=False, highlights=0)
    plain = Camera(iso=100, f_number=8, exposure_s=1 / 1000, focal_mm=50, focus_distance_m=1.5)
    return {
        "exposure_s": (
            [dataclasses.replace(plain, exposure_s=2.0**-n, focal_mm=85) for n in range(9, 1, -1)],
            dataclasses.replace(still, hand=Hand()),
        ),
        "f_number": (
            [dataclasses.replace(plain, f_number=2 ** (n / 2)) for n in range(1, 9)],
            dataclasses.replace(still, distance_m=3),
        ),
        "iso": ([dataclasses.replace(plain, iso=100 * 2.0**n) for n in range(9)], still),
    }


def predicted(name: str, made: Synthesis, sharp: Tensor) -> float:
    """What physics expects of a photo of a ladder: pixels of blur, or noise."""
    if name == "iso":
        iso = float(made.scene.development.iso[0])
        return float(physics_map(made.field, sharp, iso)[3].mean())
    extent = torch.hypot(*made.field.motion) if name == "exposure_s" else made.field.defocus.abs()
    return float(extent.mean())


def control(engine: Engine, photos: Sequence[Crop], seed: int = 0) -> list[dict[str, Any]]:
    """Rows of rank correlations over each ladder."""
    rows = []
    for name, (cameras, conditions) in ladders().items():
        statistic = "noise" if name == "iso" else "blur_width_px"
        found, expected, each = [], [], []
        hands = HANDS if conditions.hand is not None else 1
        for number, photo in enumerate(photos):
            made = [
                [
                    photo.taken(engine, camera, conditions, seed + HANDS * number + hand)
                    for hand in range(hands)
                ]
                for camera in cameras
            ]
            found.append(
                [
                    np.mean([getattr(measure(one.blurred), statistic) for one in same])
                    for same in made
                ]
            )
            expected.append(
                [np.mean([predicted(name, one, photo.pixels) for one in same]) for same in made]
            )
            each.append(rank_correlation(found[-1], expected[-1]))
        rows.append(
            {
                "question": "control",
                "setting": name,
                "statistic": statistic,
                "rank_correlation": round(float(np.mean(each)), 4),
                "worst_photo": round(min(each), 4),
                "photos": len(photos),
                "steps_of_ladder": len(cameras),
                "measured": [round(float(v), 4) for v in np.mean(found, 0)],
                "predicted": [round(float(v), 4) for v in np.mean(expected, 0)],
            }
        )
    return rows


def pairs(
    engine: Engine, photos: Sequence[Crop], draws: int, seed: int = 0
) -> list[tuple[Crop, Tensor]]:
    """Photos blurred with random settings that blur visibly, the same for every engine."""
    made = []
    for number, photo in enumerate(photos):
        for draw in range(draws):
            one = seed + draws * number + draw
            camera, conditions = sample_shot(np.random.default_rng(one), photo.frame[1])
            made.append((photo, photo.taken(engine, camera, conditions, one).blurred))
    return made


def content(made: Sequence[tuple[Crop, Tensor]]) -> dict[str, Any]:
    """Certificates of pairs."""
    certificates = [certify(photo.pixels, blurred) for photo, blurred in made]
    accepted = [one for one in certificates if one.passed]
    row: dict[str, Any] = {
        "question": "content",
        "pairs": len(certificates),
        "accepted": len(accepted),
    }
    if accepted:
        row["low_band_psnr_db"] = round(float(np.mean([c.low_band_psnr_db for c in accepted])), 3)
        row["least_low_band_psnr_db"] = round(min(c.low_band_psnr_db for c in accepted), 3)
        row["shift_px"] = round(float(np.median([c.shift_px for c in accepted])), 4)
        row["largest_shift_px"] = round(max(c.shift_px for c in accepted), 4)
    return row


def features_of(real: Sequence[tuple[str, Tensor]]) -> dict[str, Samples]:
    """Features of real photos in each space."""
    return {space: gather(real, features, MOST_WINDOWS) for space, features in SPACES.items()}


def distances(
    made: Sequence[tuple[Crop, Tensor]], real: Mapping[str, Samples]
) -> list[dict[str, Any]]:
    """Rows of distances from real photos, one for each space of their features."""
    rows = []
    for space, target in real.items():
        samples = gather([(photo.name, blurred) for photo, blurred in made], SPACES[space])
        found = distance(samples, target)
        rows.append(
            {
                "question": "distance",
                "features": space,
                "frechet": round(found.frechet, 4),
                "kid": round(found.kid, 5),
                "kid_stderr": round(found.kid_stderr, 5),
                "photos": samples.photos,
                "windows": len(samples.photo),
                "real_photos": target.photos,
            }
        )
    return rows


def among_real(real: Mapping[str, Samples], count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of distances of `count` real photos from the others, means over `SPLITS` choices: what
    so few photos can come near to."""
    rows = []
    for space, every in real.items():
        rng, found = np.random.default_rng(seed), []
        for _ in range(SPLITS):
            chosen = np.isin(every.photo, rng.permutation(np.unique(every.photo))[:count])
            found.append(distance(every.where(chosen), every.where(~chosen)))
        rows.append(
            {
                "question": "distance",
                "features": space,
                "frechet": round(float(np.mean([one.frechet for one in found])), 4),
                "kid": round(float(np.mean([one.kid for one in found])), 5),
                "photos": count,
                "real_photos": every.photos - count,
            }
        )
    return rows


def compared(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By how much the alignment lowers each distance, as a share of that before it."""
    found = []
    for row in rows:
        if row["question"] == "distance" and row["engine"] == "aligned":
            same = ("question", "features", "output")
            (before,) = (
                one
                for one in rows
                if one["engine"] == "base" and all(one.get(k) == row.get(k) for k in same)
            )
            falls = {
                f"{name}_falls_by": round(1 - row[name] / before[name], 4)
                for name in ("frechet", "kid")
                if before[name] > 0
            }
            keys = {"features": row["features"], "output": row["output"]}
            found.append({"question": "alignment", "engine": "aligned", **keys, **falls})
    return found


def run(
    engines: dict[str, tuple[Output | None, Engine]],
    photos: Sequence[Crop],
    anywhere: Sequence[Crop],
    real: Sequence[tuple[str, Tensor]],
    draws: int,
    seed: int,
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """All rows.

    Args:
        engines: "physics", "base output" and "aligned output" with their outputs.
        photos: sharp ones.
        anywhere: crops for the distances.
        real: blurred ones; where either are of fewer than `LEAST_PHOTOS`, no distance is measured.
        draws: pairs of each photo, for the content.
        seed: of the settings.
        say: told of each row.
    """
    rows: list[dict[str, Any]] = []

    def add(own: list[dict[str, Any]], engine: str, output: Output | None) -> None:
        for row in own:
            row |= {"engine": engine, "output": output}
            say(json.dumps(row))
        rows.extend(own)

    count = len({crop.name for crop in anywhere})
    target = features_of(real) if min(count, len(real)) >= LEAST_PHOTOS else {}
    if target and len(real) >= count + LEAST_PHOTOS:
        add(among_real(target, count, seed), "real", None)
    for name, (output, engine) in engines.items():
        own = [content(pairs(engine, photos, draws, seed))]
        if target:
            own += distances(pairs(engine, anywhere, 1, seed), target)
        # With attributes the noise is that of the physics engine, and blur follows the pixels.
        if output != "attributes":
            own += control(engine, photos, seed)
        add(own, name.split()[0], output)
    return rows + compared(rows)


def names_in(folder: Path) -> list[str]:
    """Names of all photos of a folder."""
    return list(list_photos(folder, leave_out=folder / ".none"))


def read_photos(folder: Path, names: Sequence[str], long_side: int) -> list[tuple[str, Tensor]]:
    """Names and photos of a folder, shrunk."""
    return [(name, read_at_scale(folder / name, long_side)) for name in names]


def held_out(folder: Path, lora: Path | None) -> list[str]:
    """Names of the real photos that the alignment has not seen."""
    names = names_in(folder)
    if lora is None:
        return names
    seen = json.loads((lora / "training.json").read_text(encoding="utf-8"))["settings"]["real"]
    return [name for name in names if name not in set(seen)]


def main() -> None:
    """Generate, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--base", required=True, metavar="DIR", help="result of the stage base")
    add("--lora", type=Path, metavar="DIR", help="result of the stage align")
    add("--sharp", type=Path, required=True, metavar="DIR", help="sharp photos nobody learned from")
    add("--distance-sharp", type=Path, metavar="DIR", help="sharp photos for the distances (same)")
    add("--real", type=Path, metavar="DIR", help="real blurred photos")
    add("--photos", type=int, default=8, help="sharp photos that are used (8)")
    add("--draws", type=int, default=4, help="pairs of each (4)")
    add("--places", type=int, default=16, help="crops of each for the distances (16)")
    add("--crop", type=int, default=256)
    add("--long-side", type=int, default=1280, help="larger photos are shrunk to it (1280)")
    add("--steps", type=int, default=8, help="of DDIM (8)")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=RESULTS / "diffusion_control.json")
    options = parser.parse_args()
    sharp = read_photos(options.sharp, names_in(options.sharp)[: options.photos], options.long_side)
    photos = [crop_of(name, photo, options.crop) for name, photo in sharp]
    if options.distance_sharp is not None:
        names = names_in(options.distance_sharp)
        sharp = read_photos(options.distance_sharp, names, options.long_side)
    anywhere = [
        crop
        for number, (name, photo) in enumerate(sharp)
        for crop in crops_anywhere(name, photo, options.crop, options.places, options.seed + number)
    ]
    real = []
    if options.real is not None:
        names = held_out(options.real, options.lora)
        real = read_photos(options.real, names, options.long_side)
    engines: dict[str, tuple[Output | None, Engine]] = {"physics": (None, engine_of("physics"))}
    for name, lora in (("base", None), ("aligned", options.lora)):
        for output in OUTPUTS if name == "base" or lora else ():
            config = DiffusionConfig(
                options.base,
                lora=None if lora is None else str(lora),
                output=output,
                steps=options.steps,
            )
            engines[f"{name} {output}"] = (output, engine_of(config))
    rows = run(engines, photos, anywhere, real, options.draws, options.seed)
    settings = {
        "steps": options.steps,
        "crop": options.crop,
        "long_side": options.long_side,
        "seed": options.seed,
    }
    facts = provenance("cuda" if torch.cuda.is_available() else "cpu")
    written = [row | settings | {"provenance": facts} for row in rows]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
