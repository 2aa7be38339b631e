"""Tiles cover the frame, and a tiled photo is the photo of the whole frame."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ATTENTION_TOY, TOY, photo, random_deblurrer

from freqdiff.errors import InputError
from freqdiff.tiling import plan_tiles


@settings(max_examples=300, deadline=None)
@given(
    blocks=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    alignment=st.sampled_from([1, 4, 8, 16, 32]),
    halo=st.integers(0, 300),
    blend=st.integers(0, 64),
    extra=st.integers(0, 2000),
)
def test_plan(blocks: tuple[int, int], alignment: int, halo: int, blend: int, extra: int) -> None:
    size = (blocks[0] * alignment, blocks[1] * alignment)
    overlap = -(-(2 * halo + blend) // alignment) * alignment
    largest = -(-5 * overlap // 2) + 4 * alignment + extra
    plan = plan_tiles(size, largest, halo, alignment=alignment, blend=blend)
    assert plan.size == size
    assert plan.margin == halo
    assert len(plan.positions) == len(plan.starts[0]) * len(plan.starts[1])
    for length, tile, starts in zip(size, plan.tile, plan.starts, strict=True):
        assert tile <= largest
        assert tile % alignment == 0
        assert all(start % alignment == 0 for start in starts)
        assert starts[0] == 0
        assert starts[-1] + tile == length
        for first, second in itertools.pairwise(starts):
            assert first < second
            assert first + tile - second >= 2 * halo + blend
        # No third tile where two overlap.
        for first, third in zip(starts, starts[2:], strict=False):
            assert third >= first + tile
        if length <= largest:
            assert starts == (0,)


def test_positions_are_row_major() -> None:
    plan = plan_tiles((300, 500), 120, 10, blend=10)
    assert plan.positions == sorted(plan.positions)
    assert len(plan.positions) > 10


def test_too_small_tiles_are_refused() -> None:
    message = r"^Tiles of 200 px are too small: .* sees 56 px .* needs tiles of at least 384 px"
    with pytest.raises(InputError, match=message):
        plan_tiles((512, 512), 200, 56, alignment=8)
    # A frame that fits into one tile needs no overlap.
    assert plan_tiles((200, 160), 200, 56, alignment=8).positions == [(0, 0)]


@pytest.mark.parametrize("keep_band", [True, False], ids=["band kept", "band free"])
@pytest.mark.parametrize("steps", [1, 4])
def test_tiled_is_whole(steps: int, keep_band: bool) -> None:
    model = random_deblurrer(TOY, seed=2)
    image = photo(509, 723)[None]
    whole = model.restore(image, steps=steps, tile=800, keep_band=keep_band)
    assert whole.tiles == 1
    for tile, tiles in ((384, 6), (456, 4)):
        result = model.restore(image, steps=steps, tile=tile, keep_band=keep_band)
        assert result.tiles == tiles
        difference = (result.image - whole.image).abs()
        assert float(difference.max()) <= 1e-4
        rounded = (result.image * 255).round() - (whole.image * 255).round()
        assert float(rounded.abs().max()) <= 1
    assert float((whole.image - image).abs().max()) > 0.05


def test_tiled_is_whole_with_attention() -> None:
    config = ATTENTION_TOY
    model = random_deblurrer(config, seed=2)
    needed = 5 * config.receptive_radius + 80 + 4 * config.alignment
    image = photo(65, needed + 103)[None]
    whole = model.restore(image, steps=2, tile=needed + 200)
    result = model.restore(image, steps=2, tile=needed)
    assert (whole.tiles, result.tiles) == (1, 2)
    assert float((result.image - whole.image).abs().max()) <= 1e-4


def test_tile_option_that_the_model_cannot_use() -> None:
    model = random_deblurrer(TOY)
    with pytest.raises(InputError, match=r"^Tiles of 64 px are too small"):
        model.restore(torch.rand(1, 3, 65, 400), tile=64)


def test_ensemble_is_the_mean_over_turned_photos() -> None:
    model = random_deblurrer()
    image = photo(70, 102)[None]
    plain = {}
    for turns in range(8):
        turned = torch.rot90(image, turns % 4, (-2, -1))
        turned = turned.flip(-1) if turns >= 4 else turned
        result = model.restore(turned.contiguous(), keep_band=False).image
        result = result.flip(-1) if turns >= 4 else result
        plain[turns] = torch.rot90(result, -(turns % 4), (-2, -1))
    for count, turns in ((1, [0]), (2, [0, 4]), (4, [0, 2, 4, 6]), (8, list(range(8)))):
        told: list[tuple[int, int]] = []
        result = model.restore(
            image,
            ensemble=count,
            keep_band=False,
            callback=lambda done, total, told=told: told.append((done, total)),
        )
        mean = torch.stack([plain[index] for index in turns]).mean(0)
        # Each of them is cut to [0, 1], and flat parts put back, before the mean is taken.
        assert float((result.image - mean).abs().max()) < 2e-2
        assert float((result.image - mean).abs().mean()) < 1e-3
        assert told == [(index + 1, count) for index in range(count)]
    with pytest.raises(InputError, match="ensemble is 3, expected 1, 2, 4 or 8"):
        model.restore(image, ensemble=3)
