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
    overlap = -(-(2 * halo + blend) // alignment) * alignment
    largest = largest // alignment * alignment
    needed = 2 * overlap + 2 * alignment
    if largest < min(needed, max(size)):
        raise InputError(
            f"Tiles of {largest} px are too small: this model sees {halo} px around each pixel "
            f"and needs tiles of at least {needed} px."
        )
    rows, columns = (_axis(length, largest, overlap, alignment) for length in size)
    return TilePlan(size, (rows[0], columns[0]), (rows[1], columns[1]), halo)


def _axis(length: int, largest: int, overlap: int, alignment: int) -> tuple[int, tuple[int, ...]]:
    """Tile length and starts along one axis."""
    if length <= largest:
        return length, (0,)
    count = -(-(length - overlap) // (largest - overlap))
    # As short as `count` tiles allow: so the overlap is the asked one and no pixel is seen thrice.
    tile = -(-(length + (count - 1) * (overlap + alignment)) // count)
    tile = min(-(-tile // alignment) * alignment, largest)
    last = length - tile
    starts = (i * last / (count - 1) for i in range(count))
    return tile, tuple(round(s / alignment) * alignment for s in starts)
