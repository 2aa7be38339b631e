"""Batches from blocks of pairs, shared out over processes, as a deterministic stream."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from freqdiff.data import Blocks, DataConfig, Item, Pairs, SharpBlock
from freqdiff.errors import TrainingError


@dataclasses.dataclass(frozen=True)
class Lanes:
    """How the stream is shared out: in a step each lane gives one batch, from blocks of its own.

    Lane l reads block `block` + l, that + `count`, ... from step `step` on. So the pairs of a step
    are the same whatever process has which lanes.

    Attributes:
        count: lanes of all processes.
        own: those of this process.
        step, block: where the stream begins.
    """

    count: int = 1
    own: range = range(1)
    step: int = 0
    block: int = 0


def steps_per_block(config: DataConfig, batch: int) -> int:
    """Steps for which a block lasts.

    Raises:
        TrainingError: `batch` does not divide a block.
    """
    if config.pairs_per_block % batch:
        raise TrainingError(
            f"batch is {batch}, expected a divisor of pairs_per_block ({config.pairs_per_block})."
        )
    return config.pairs_per_block * config.reuse // batch


def batches(
    pairs: Blocks, batch: int, first_step: int, workers: int = 1, lanes: Lanes | None = None
) -> Iterator[Pairs]:
    """Endless batches from step `first_step` on, a function of (seed, step, lane) alone.

    Yields:
        Pairs of float32 in [-1, 1] on the stream's device: of each step one for each own lane.

    Raises:
        TrainingError: `batch` does not divide a block, or pairs or photos cannot be used.
    """
    lanes = lanes or Lanes()
    per_block = steps_per_block(pairs.config, batch)
    first_round, skip = divmod(first_step - lanes.step, per_block)
    if workers > 1 and multiprocessing.get_start_method() == "fork":
        pairs.preload()

    def blocks() -> Iterator[int]:
        for turn in itertools.count(first_round):
            yield from (lanes.block + turn * lanes.count + lane for lane in lanes.own)

    loader: DataLoader[Item] = DataLoader(
        pairs,
        batch_size=None,
        sampler=blocks(),
        num_workers=workers,
        prefetch_factor=1 if workers else None,
        persistent_workers=workers > 0,
    )
    made = zip(blocks(), loader, strict=True)
    while True:
        shown = [_Shown(block, item, pairs, batch, per_block) for block, item in _some(made, lanes)]
        for step in range(skip, per_block):
            for block in shown:
                yield block.batch(step)
        skip = 0


def _some(made: Iterator[tuple[int, Item]], lanes: Lanes) -> list[tuple[int, Item]]:
    return list(itertools.islice(made, len(lanes.own)))


class _Shown:
    """A block on its device, and in which order and how turned its pairs are shown."""

    def __init__(self, block: int, item: Item, pairs: Blocks, batch: int, steps: int) -> None:
        if isinstance(item, TrainingError):
            raise item
        made = item.blur(pairs.device) if isinstance(item, SharpBlock) else item
        self._pairs = Pairs(*(values.to(pairs.device) for values in made))
        self._size = batch
        count, config = len(made.psf), pairs.config
        generator = torch.Generator().manual_seed(block * 1_000_003 + config.seed)
        orders = [torch.randperm(count, generator=generator) for _ in range(config.reuse)]
        self._order = torch.cat(orders).to(pairs.device)
        self._turns = [int(torch.randint(0, 8, (1,), generator=generator)) for _ in range(steps)]

    def batch(self, step: int) -> Pairs:
        """The pairs of a step within the block."""
        index = self._order[step * self._size : (step + 1) * self._size]
        turns = self._turns[step]
        blurred, sharp, psf = (_turn(values[index], turns) for values in self._pairs[:3])
        camera = self._pairs.camera[index]
        return Pairs(blurred.float() / 127.5 - 1, sharp.float() / 127.5 - 1, psf, camera)


def _turn(images: Tensor, turns: int) -> Tensor:
    images = torch.rot90(images, turns % 4, (-2, -1))
    return (images.flip(-1) if turns >= 4 else images).contiguous()
