"""One pair of a data set: a function of the seed, its index and the photo alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from blursynth.build_plan import MIN_SIDE, Plan, package_version
from blursynth.build_store import (
    SIDES,
    drop_record,
    file_of,
    is_whole,
    read_record,
    sha256,
    write_record,
)
from blursynth.camera import Camera
from blursynth.category import scene_category
from blursynth.certificate import certify
from blursynth.engines import synthesize
from blursynth.exif import write_camera
from blursynth.motion import Hand, Subject
from blursynth.physics import MARGIN
from blursynth.scene import Scene
from blursynth.shot import Conditions, sample_shot, take
from blursynth.statistics import measure
from freqdiff.errors import FreqDiffError, OutputError, PhotoError
from freqdiff.images import in_srgb_curve, open_image
from freqdiff.photo import Metadata, Photo, read_photo, write_photo

# Draws of a pair before it is given up, and places of a crop of which the most textured is taken.
_DRAWS, _PLACES = 4, 3


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a pair.

    Attributes:
        status: "kept" was there already; "rejected" was out of line in every draw; "failed" has a
            photo that cannot be used; after "fatal" nothing can be written any more.
        message: a sentence on what failed.
    """

    index: int
    status: Literal["written", "kept", "rejected", "failed", "fatal"]
    message: str = ""


class _Source:
    """A sharp photo that is read when it is first needed."""

    def __init__(self, plan: Plan, name: str) -> None:
        self.path, self.crop = plan.sharp / name, plan.settings.crop
        self._opened: tuple[Photo, bytes] | None = None

    def open(self) -> tuple[Photo, bytes]:
        """The photo and its file.

        Raises:
            PhotoError: unreadable, or smaller than the pairs.
        """
        if self._opened is None:
            photo = in_srgb_curve(read_photo(self.path))
            height, width = photo.pixels.shape[:2]
            least = self.crop or MIN_SIDE
            if min(height, width) < least:
                raise PhotoError(
                    f"Cannot use {str(self.path)!r}: it has {width} x {height} pixels and the "
                    f"pairs need {least} on each side, so leave it out or choose a smaller crop."
                )
            self._opened = photo, self.path.read_bytes()
        return self._opened


def run_task(
    plan: Plan, indices: Sequence[int], stopped: Callable[[], bool] = lambda: False
) -> Iterator[Outcome]:
    """Make those pairs of one photo that are not there yet, one after the other.

    Args:
        plan: what to make.
        indices: pairs of one photo.
        stopped: asked before each pair whether to leave out the rest.
    """
    source = _Source(plan, plan.photo_of(indices[0]))
    threads = torch.get_num_threads()
    # Sums over several threads round differently: one makes the same bytes whatever the workers.
    torch.set_num_threads(1)
    try:
        for index in indices:
            if stopped():
                break
            outcome = _run_pair(plan, index, source)
            yield outcome
            if outcome.status == "fatal":
                break
    finally:
        torch.set_num_threads(threads)


def _run_pair(plan: Plan, index: int, source: _Source) -> Outcome:
    record = read_record(plan, index)
    if record is not None and is_whole(plan, record):
        return Outcome(index, "rejected" if record["rejected"] else "kept")
    try:
        drop_record(plan, index)
        return Outcome(index, "written" if make_pair(plan, index, source) else "rejected")
    except OutputError as error:
        return Outcome(index, "fatal", str(error))
    except FreqDiffError as error:
        return Outcome(index, "failed", str(error))
    # Not only errors of our own: whatever one photo leads to, the others can be used.
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        return Outcome(index, "failed", f"Cannot use {str(source.path)!r}: {what}; leave it out.")


def make_pair(plan: Plan, index: int, source: _Source) -> bool:
    """Make a pair, its files and its record; False if no draw of it was aligned well enough.

    Raises:
        PhotoError: the photo cannot be used.
        OutputError: a file cannot be written.
    """
    photo, data = source.open()
    record: dict[str, Any] = {
        "index": index,
        "source": plan.photo_of(index),
        "source_sha256": sha256(data),
        "source_bytes": len(data),
        "engine": plan.settings.engine,
        "version": package_version(),
        "rejected": True,
    }
    for draw in range(_DRAWS):
        rng = np.random.default_rng([plan.settings.seed, index, draw])
        box = _place(rng, photo, plan.settings.crop)
        padded, margins = _cut(photo, box)
        frame = (photo.pixels.shape[0], photo.pixels.shape[1])
        camera, conditions = sample_shot(rng, frame[1], plan.prior)
        seed = int(rng.integers(2**31))
        result = synthesize(
            padded,
            camera,
            engine=plan.settings.engine,
            seed=seed,
            conditions=conditions,
            frame_size=frame,
            origin=(box[1] - margins[1], box[0] - margins[0]),
        )
        sharp, blurred = (_trim(image, margins) for image in (padded, result.blurred))
        certificate = certify(sharp, blurred)
        if not certificate.passed:
            continue
        pair = {"blur": blurred, "sharp": sharp}
        metadata = {
            "blur": _blurred_metadata(photo, result.camera, whole=plan.settings.crop is None),
            "sharp": Metadata(icc=_profile(photo)),
        }
        for side in SIDES:
            pixels = (pair[side] * 255).round().byte().permute(1, 2, 0).numpy()
            name = file_of(plan, index, side)
            write_photo(plan.output / name, Photo(pixels, metadata=metadata[side]))
            written = (plan.output / name).read_bytes()
            record[f"{side}_file_name"] = name
            record[f"{side}_bytes"], record[f"{side}_sha256"] = len(written), sha256(written)
        statistics = measure(blurred)
        record |= {
            "rejected": False,
            "draw": draw,
            "seed": seed,
            "crop": list(box),
            "frame": list(frame),
            "width": box[2],
            "height": box[3],
            "camera": _plain(result.camera),
            "conditions": _plain(conditions),
            "category": scene_category(record["source"], result.camera, statistics.brightness),
            **_rounded(dataclasses.asdict(certificate)),
            **_rounded(dataclasses.asdict(statistics)),
        }
        break
    write_record(plan, record)
    return not record["rejected"]


def recorded_camera(record: dict[str, Any]) -> Camera:
    """The settings of a pair, from its record.

    Raises:
        KeyError, TypeError, ValueError: the record has none.
    """
    settings = record["camera"]
    if settings["focus_distance_m"] is None:  # JSON has no infinity
        settings = {**settings, "focus_distance_m": math.inf}
    return Camera(**settings)


def recorded_scene(record: dict[str, Any]) -> Scene | None:
    """What happened during the exposure of a pair, drawn again from its record.

    None for a data set of another version of this package, which may have drawn something else,
    or one that was not made by `build`.
    """
    if record.get("version") != package_version() or record.get("engine") != "physics":
        return None
    try:
        parts = dict(record["conditions"])
        hand, subject = parts.pop("hand"), parts.pop("subject")
        conditions = Conditions(
            hand=None if hand is None else Hand(**hand),
            subject=None if subject is None else Subject(**subject),
            **parts,
        )
        rng = np.random.default_rng(record["seed"])
        height, width = record["frame"]
        return take(rng, recorded_camera(record), (height, width), conditions)
    except (KeyError, TypeError, ValueError):
        return None


def _blurred_metadata(photo: Photo, camera: Camera, whole: bool) -> Metadata:
    """What the file of a blurred photo says about itself: its colours and its camera."""
    height, width = photo.pixels.shape[:2]
    # The sensor that Exif tells belongs to the frame: no size of a crop fits to it.
    exif = write_camera(camera, size=(width, height) if whole else None)
    return Metadata(icc=_profile(photo), exif=exif)


def _profile(photo: Photo) -> bytes | None:
    """The colour profile; that of a grey photo does not fit the three channels of a pair."""
    return photo.metadata.icc if photo.pixels.shape[2] == 3 else None


def _place(rng: np.random.Generator, photo: Photo, crop: int | None) -> tuple[int, int, int, int]:
    """Box (left, top, width, height) of a pair: the most textured of some random places."""
    height, width = photo.pixels.shape[:2]
    if crop is None:
        return 0, 0, width, height
    places = [
        (int(rng.integers(width - crop + 1)), int(rng.integers(height - crop + 1)))
        for _ in range(_PLACES)
    ]

    def texture(place: tuple[int, int]) -> float:
        left, top = place
        grey = photo.pixels[top : top + crop : 2, left : left + crop : 2, 0].astype(np.float32)
        return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())

    return (*max(places, key=texture), crop, crop)


def _cut(photo: Photo, box: tuple[int, int, int, int]) -> tuple[Tensor, tuple[int, int, int, int]]:
    """A box as (3, H, W) sRGB in [0, 1], with what lies around it for the blur to reach into.

    The margins (left, top, right, bottom) are multiples of 16, so that the blocks of a simulated
    JPEG begin where the pair does.
    """
    left, top, width, height = box
    frame_height, frame_width = photo.pixels.shape[:2]
    room = (left, top, frame_width - left - width, frame_height - top - height)
    margins = tuple(min(MARGIN, side) // 16 * 16 for side in room)
    rows = slice(top - margins[1], top + height + margins[3])
    columns = slice(left - margins[0], left + width + margins[2])
    rgb = open_image(photo.pixels[rows, columns].copy()).rgb[0]
    return (rgb * 255).round() / 255, (margins[0], margins[1], margins[2], margins[3])


def _trim(image: Tensor, margins: tuple[int, int, int, int]) -> Tensor:
    left, top, right, bottom = margins
    height, width = image.shape[1:]
    return image[:, top : height - bottom, left : width - right]


def _plain(settings_of: Camera | Conditions) -> dict[str, Any]:
    """Settings for JSON, which has no infinity."""
    settings = dataclasses.asdict(settings_of)
    return {
        name: None if isinstance(value, float) and math.isinf(value) else value
        for name, value in settings.items()
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}
