"""Training pairs from a data set of `blursynth build`, in single files or in WebDataset shards.

A shard is never read from its beginning: where each file lies in it is known, so that any pair can
be read at any time, and block b of the stream is a function of (seed, b) alone here too.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import tarfile
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blursynth.build_pair import recorded_camera, recorded_scene
from blursynth.psf import point_spread
from freqdiff.blur_filter import PSF_RADIUS, PSF_SIDE
from freqdiff.data import Blocks, DataConfig, PairBlocks, Pairs, SharpBlock
from freqdiff.errors import TrainingError
from freqdiff.photo_settings import VECTOR_SIZE

_METADATA = "metadata.jsonl"


class _Stored(NamedTuple):
    """Bytes of a file: those of a member of a shard, or of a line; all of them without a size."""

    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


class _Entry(NamedTuple):
    """A pair: its photos, and its record if it has one."""

    name: str
    blurred: _Stored
    sharp: _Stored
    record: _Stored | None


class BuiltPairs(Blocks):
    """Blocks of crops of the pairs of a data set; an item holds uint8 on the CPU.

    All pairs come once, in random order, before any comes again.

    Args:
        source: folder of a data set, of its shards (*.tar), or one shard.
        config: crop, pairs_per_block, reuse and seed count; the rest was decided by the build.
        device: of the stream.

    Raises:
        TrainingError: the source holds no pairs, or not what `blursynth build` writes.
    """

    def __init__(
        self, source: str | os.PathLike[str], config: DataConfig, device: str = "cpu"
    ) -> None:
        super().__init__(config, device)
        self.entries = list_pairs(source)
        self._least = config.crop
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    @property
    def stock(self) -> str:
        """Number of the pairs."""
        return f"{len(self.entries)} pairs"

    def make(self, block: int) -> Pairs:
        """The pairs, whatever the device."""
        return self.pairs(block)

    def pairs(self, block: int) -> Pairs:
        """The pairs of a block."""
        count = self.config.pairs_per_block
        made = []
        for index in range(count):
            rng = np.random.default_rng([self.config.seed, block, index])
            made.append(self._pair(self._entry(block * count + index), rng))
        return Pairs(*(torch.stack(values) for values in zip(*made, strict=True)))

    def _entry(self, position: int) -> _Entry:
        epoch, place = divmod(position, len(self.entries))
        if epoch != self._epoch:
            rng = np.random.default_rng([self.config.seed, epoch])
            self._epoch, self._order = epoch, rng.permutation(len(self.entries))
        return self.entries[int(self._order[place])]

    def _pair(self, entry: _Entry, rng: np.random.Generator) -> tuple[Tensor, ...]:
        """Blurred and sharp crop (3, side, side), kernel, settings of the camera."""
        blurred, sharp = (_pixels(entry, stored) for stored in (entry.blurred, entry.sharp))
        height, width = sharp.shape[:2]
        if blurred.shape != sharp.shape or min(height, width) < self._least:
            raise TrainingError(
                f"{entry.name} has a blurred photo of {blurred.shape[1]}x{blurred.shape[0]} and a "
                f"sharp one of {width}x{height}; training on crops of {self._least} needs pairs "
                "of one size, and at least that."
            )
        side = self.config.crop
        top, left = (int(rng.integers(length - side + 1)) for length in (height, width))
        record = _record(entry)
        crops = (
            torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)
            for image in (blurred, sharp)
        )
        middle = (top + side / 2, left + side / 2)
        return (*crops, _kernel(record, middle), _camera(record))


class MixedBlocks(Blocks):
    """Blocks of which the share `DataConfig.built` comes from a data set, the rest from photos.

    Args:
        photos, source: of `PairBlocks` and `BuiltPairs`.
        config, device: of both.

    Raises:
        TrainingError: no photos or pairs, or a share that leaves none of one kind.
    """

    def __init__(
        self,
        photos: str | os.PathLike[str],
        source: str | os.PathLike[str],
        config: DataConfig,
        device: str = "cpu",
    ) -> None:
        super().__init__(config, device)
        count = round(config.built * config.pairs_per_block)
        if not 0 < count < config.pairs_per_block:
            raise TrainingError(
                f"The share of built pairs is {config.built:g}, expected one between 0 and 1 that "
                f"leaves some of both kinds in {config.pairs_per_block} pairs."
            )
        rest = config.pairs_per_block - count
        self._photos = PairBlocks(photos, dataclasses.replace(config, pairs_per_block=rest), device)
        self._built = BuiltPairs(source, dataclasses.replace(config, pairs_per_block=count), device)

    @property
    def stock(self) -> str:
        """Numbers of the photos and of the pairs."""
        return f"{self._photos.stock} and {self._built.stock}"

    def make(self, block: int) -> Pairs | SharpBlock:
        """Pairs, or what a GPU blurs by itself and the pairs that need no blurring."""
        made = dataclasses.replace(self._photos.sharp(block), built=self._built.pairs(block))
        return made.blur(self.device) if self.device == "cpu" else made

    def preload(self) -> None:
        """Read what the worker processes share."""
        self._photos.preload()

    def halved(self, times: int) -> Self:
        """See `Blocks`."""
        other = super().halved(times)
        other._photos, other._built = self._photos.halved(times), self._built.halved(times)
        return other


def pair_source(
    photos: str | os.PathLike[str] | None,
    built: str | os.PathLike[str] | None,
    config: DataConfig,
    device: str = "cpu",
) -> Blocks:
    """Pairs of photos, of a data set, or of both.

    Raises:
        TrainingError: neither is given, or one cannot be used.
    """
    if photos is not None and built is not None:
        return MixedBlocks(photos, built, config, device)
    if built is not None:
        return BuiltPairs(built, config, device)
    if photos is None:
        raise TrainingError("Training needs sharp photos or pairs: give a folder of them.")
    return PairBlocks(photos, config, device)


def list_pairs(source: str | os.PathLike[str]) -> tuple[_Entry, ...]:
    """The pairs of a data set, in a fixed order.

    Raises:
        TrainingError: see `BuiltPairs`.
    """
    root = Path(source)
    try:
        if root.is_file():
            found = _in_shard(root)
        elif (root / _METADATA).is_file():
            found = _in_folder(root)
        else:
            found = [entry for shard in sorted(root.glob("*.tar")) for entry in _in_shard(shard)]
    except (OSError, tarfile.TarError) as error:
        raise TrainingError(f"{root} cannot be read as a data set: {error}.") from error
    if not found:
        raise TrainingError(
            f"{root} holds no pairs: give a folder that `blursynth build` made, a folder of its "
            "shards (*.tar), or one shard."
        )
    return tuple(found)


def _in_folder(root: Path) -> list[_Entry]:
    entries, offset = [], 0
    with (root / _METADATA).open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                record = json.loads(line)
                names = [root / record[f"{side}_file_name"] for side in ("blur", "sharp")]
            except (ValueError, KeyError, TypeError) as error:
                raise TrainingError(
                    f"Line {number} of {root / _METADATA} is not the record of a pair: "
                    "build the data set again."
                ) from error
            stored = _Stored(root / _METADATA, offset, len(line))
            entries.append(_Entry(str(names[0]), _Stored(names[0]), _Stored(names[1]), stored))
            offset += len(line)
    return entries


def _in_shard(shard: Path) -> list[_Entry]:
    """Pairs by the part of their names before the first dot, as WebDataset groups them."""
    groups: dict[str, dict[str, _Stored]] = {}
    with tarfile.open(shard, "r:") as tar:
        for member in tar:
            if member.isfile():
                name, _, rest = member.name.partition(".")
                stored = _Stored(shard, member.offset_data, member.size)
                groups.setdefault(name, {})[rest.partition(".")[0]] = stored
    entries = []
    for name, parts in groups.items():
        if not {"blur", "sharp"} <= parts.keys():
            raise TrainingError(
                f"{shard} holds {name!r} without a blurred or a sharp photo "
                "(NAME.blur.png, NAME.sharp.png): build it again."
            )
        label = f"{shard}, {name}"
        entries.append(_Entry(label, parts["blur"], parts["sharp"], parts.get("json")))
    return entries


def _pixels(entry: _Entry, stored: _Stored) -> NDArray[np.uint8]:
    """(H, W, 3)."""
    try:
        with Image.open(io.BytesIO(stored.read())) as file:
            return np.asarray(file.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise TrainingError(f"{entry.name} cannot be read as a photo: {error}.") from error


def _record(entry: _Entry) -> dict[str, Any]:
    if entry.record is None:
        return {}
    try:
        record = json.loads(entry.record.read())
        return record if isinstance(record, dict) else {}
    except (OSError, ValueError) as error:
        raise TrainingError(f"The record of {entry.name} is damaged: {error}.") from error


def _camera(record: dict[str, Any]) -> Tensor:
    """(6,), unknown where the record does not tell it."""
    try:
        return torch.from_numpy(recorded_camera(record).vector())
    except (KeyError, TypeError, ValueError):
        return torch.full((VECTOR_SIZE,), math.nan)


def _kernel(record: dict[str, Any], middle: tuple[float, float]) -> Tensor:
    """(33, 33) at a place of the pair; zeros where it cannot be told."""
    scene = recorded_scene(record)
    if scene is None or scene.has_layer:
        return torch.zeros(PSF_SIDE, PSF_SIDE)
    left, top = record["crop"][:2]
    return point_spread(scene, torch.tensor([[top + middle[0], left + middle[1]]]), PSF_RADIUS)[0]
