"""Cutting a frame into tiles that overlap enough to give the result of the whole frame."""

from __future__ import annotations

import dataclasses

from freqdiff.errors import InputError


@dataclasses.dataclass(frozen=True)
class TilePlan:
    """Tiles of one size over a frame.

    Attributes:
        size: (height, width) of the frame in pixels.
        tile: (height, width) of every tile.
        starts: first rows and first columns of the tiles; tiles are their product, row-major.
        margin: pixels at an inner edge of a tile whose values depend on what the tile cannot see.
    """

    size: tuple[int, int]
    tile: tuple[int, int]
    starts: tuple[tuple[int, ...], tuple[int, ...]]
    margin: int

    @property
    def positions(self) -> list[tuple[int, int]]:
        """Top left pixel (y, x) of each tile."""
        return [(y, x) for y in self.starts[0] for x in self.starts[1]]


def plan_tiles(
    size: tuple[int, int], largest: int, halo: int, *, alignment: int = 1, blend: int = 32
) -> TilePlan:
    """Evenly spread tiles of at most `largest` pixels a side.

    Neighbours overlap by at least 2 `halo` + `blend`: in the middle `blend` pixels, where both see
    `halo` pixels around, they are cross-faded. At most two tiles per axis cover a pixel.

    Args:
        size: (height, width) of the frame, multiples of `alignment`.
        largest: longest side of a tile, in pixels.
        halo: pixels that an output pixel depends on, in each direction.
        alignment: starts and sizes of tiles are multiples of it.
        blend: width of the cross-fade.

    Raises:
        InputError: `largest` is too small for the overlap.
    """
    needed = smallest_tile(halo, alignment=alignment, blend=blend)
    if largest < max(size) and largest // alignment * alignment < needed:
        raise InputError(
            f"Tiles of {largest} px are too small: this model sees {halo} px around each pixel "
            f"and needs tiles of at least {needed} px."
        )
    overlap = -(-(2 * halo + blend) // alignment)
    rows, columns = (_axis(length // alignment, largest // alignment, overlap) for length in size)
    starts = (tuple(alignment * y for y in rows[1]), tuple(alignment * x for x in columns[1]))
    return TilePlan(size, (alignment * rows[0], alignment * columns[0]), starts, halo)


def smallest_tile(halo: int, *, alignment: int = 1, blend: int = 32) -> int:
    """Shortest `largest` that `plan_tiles` takes for every frame, in pixels.

    With shorter tiles there are frames where three in a row would have to share pixels.
    """
    overlap = -(-(2 * halo + blend) // alignment)
    return alignment * (-(-5 * overlap // 2) + 3)


def _axis(length: int, largest: int, overlap: int) -> tuple[int, tuple[int, ...]]:
    """Tile length and starts along one axis, all in units of the alignment."""
    if length <= largest:
        return length, (0,)
    count = -(-(length - overlap) // (largest - overlap))
    # As short as `count` tiles allow, so that hardly more than the asked overlap is computed twice.
    tile = -(-(length + (count - 1) * overlap) // count)
    return tile, tuple(i * (length - tile) // (count - 1) for i in range(count))
