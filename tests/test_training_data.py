"""The data stream of training: pairs as a function of seed and step, and unusable photos."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from toys import CALM, picture, write_photos
from toys import SMALL_PAIRS as DATA

from freqdiff.blur_filter import PSF_RADIUS, PSF_SIDE
from freqdiff.data import PairBlocks, list_photos
from freqdiff.errors import TrainingError
from freqdiff.stream import Lanes, batches
from freqdiff.tone import linear_to_srgb, srgb_to_linear


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


def test_photos_are_found_below_the_folder(photos: Path) -> None:
    names = [path.name for path in list_photos(photos)]
    assert names == ["coffee.png", "astronaut.JPG"]


def test_stream_is_a_function_of_seed_and_step(photos: Path) -> None:
    def take(first: int, count: int, workers: int = 0, seed: int = 0) -> list[Tensor]:
        pairs = PairBlocks(photos, dataclasses.replace(DATA, seed=seed))
        stream = batches(pairs, 4, first, workers)
        return [torch.cat([v.flatten(1) for v in next(stream)], 1) for _ in range(count)]

    # Blocks of 8 pairs, shown twice, are 4 steps of 4.
    whole = take(0, 10)
    assert whole[0].shape == (4, 2 * 3 * 16 * 16 + PSF_SIDE**2 + 6)
    assert float(whole[0][:, :-6].abs().max()) <= 1
    for first, workers in ((0, 1), (3, 0), (4, 0), (6, 2)):
        for ours, expected in zip(take(first, 10 - first, workers), whole[first:], strict=True):
            assert torch.equal(ours, expected)
    assert not torch.equal(take(0, 1, seed=1)[0], whole[0])
    assert not torch.equal(whole[0], whole[4])


def test_the_pairs_of_a_step_do_not_depend_on_who_has_which_lanes(photos: Path) -> None:
    def take(first: int, steps: int, lanes: Lanes) -> list[Tensor]:
        """The settings of the cameras, of which no two are equal."""
        stream = batches(PairBlocks(photos, DATA), 4, first, 0, lanes)
        return [next(stream).camera for _ in range(steps * len(lanes.own))]

    # Four lanes, of one process that accumulates four batches, or of two that accumulate two.
    whole = take(0, 6, Lanes(4, range(4)))
    for own in (range(2), range(2, 4)):
        part = take(3, 3, Lanes(4, own))
        expected = [whole[4 * step + lane] for step in range(3, 6) for lane in own]
        assert all(torch.equal(ours, its) for ours, its in zip(part, expected, strict=True))
    # No pair is seen by two lanes: the lanes of four steps show all pairs of four blocks twice.
    assert len(torch.unique(torch.cat(whole[:16]), dim=0)) == 4 * 8
    # A stream that begins at step 5 with block 12, as after a change of the lanes.
    moved = take(5, 1, Lanes(1, range(1), 5, 12))
    assert torch.equal(moved[0], take(4 * 12, 1, Lanes())[0])


def test_half_size(photos: Path) -> None:
    full = PairBlocks(photos, dataclasses.replace(DATA, crop=32))
    half = full.halved(4)
    assert half._cache is full._cache
    stream = batches(half, 16, 0, 0)
    assert next(stream).blurred.shape == (16, 3, 16, 16)
    assert full.pairs(0).blurred.shape == (8, 3, 32, 32)
    assert len(half.pairs(0).psf) == 32


def test_pairs_are_aligned_and_blurred(photos: Path) -> None:
    data = dataclasses.replace(DATA, crop=64, pairs_per_block=32)
    blurred, sharp = (v.float() / 255 for v in PairBlocks(photos, data).pairs(0)[:2])
    assert blurred.shape == sharp.shape == (32, 3, 64, 64)
    errors = []
    for dy, dx in ((0, 0), (0, 6), (6, 0), (0, -6), (-6, 0)):
        moved = torch.roll(blurred, (dy, dx), (2, 3))[..., 8:-8, 8:-8]
        errors.append(float((moved - sharp[..., 8:-8, 8:-8]).square().mean()))
    assert errors[0] < 0.7 * min(errors[1:])
    fine = [float(v.diff(dim=3).abs().mean()) for v in (blurred, sharp)]
    assert fine[0] < 0.8 * fine[1]


def test_every_pair_is_blurred_where_the_recipe_says_so(photos: Path) -> None:
    recipe = dataclasses.replace(DATA.recipe, unblurred=0.0)
    data = dataclasses.replace(DATA, crop=64, pairs_per_block=128, recipe=recipe)
    blurred, sharp = PairBlocks(photos, data).pairs(0)[:2]
    assert bool((blurred != sharp).any((1, 2, 3)).all())


def test_enlarged_crops_are_soft(photos: Path) -> None:
    def detail(**settings: float) -> float:
        data = dataclasses.replace(DATA, crop=64, pairs_per_block=16, **settings)
        sharp = PairBlocks(photos, data).pairs(0).sharp.float()
        return float(sharp.diff(dim=3).square().mean())

    assert detail(native=1.0, enlarged=1.0) < 0.7 * detail(native=1.0, enlarged=0.0)


def test_crops_hardly_depend_on_how_photos_are_shrunk(tmp_path: Path) -> None:
    """Photos are halved before the resampling filter of a crop is applied."""
    Image.fromarray(picture(600, 800)).save(tmp_path / "large.png")
    data = dataclasses.replace(DATA, pairs_per_block=16, min_scale=0.1, native=0.0, enlarged=0.0)
    pairs = PairBlocks(tmp_path, data)
    halved = pairs.sharp(0).crops
    (levels,) = pairs._cache.values()
    del levels[1:]
    difference = (halved.float() - pairs.sharp(0).crops.float()).abs()
    assert 0 < float(difference.mean()) < 2


def test_kernels_explain_the_blur(photos: Path) -> None:
    """However a pair was turned, the sharp photo blurred by its kernel is the blurred one."""
    recipe = dataclasses.replace(CALM, shake=1, unblurred=0, max_motion_px=10)
    data = dataclasses.replace(DATA, crop=64, pairs_per_block=16, recipe=recipe)
    stream = batches(PairBlocks(photos, data), 4, 0, 0)
    left, blur = [], []
    for _ in range(8):
        blurred, sharp, psf, _ = next(stream)
        torch.testing.assert_close(psf.sum((1, 2)), torch.ones(4))
        linear = srgb_to_linear(sharp / 2 + 0.5).transpose(0, 1)
        again = F.conv2d(linear, psf[:, None].flip(2, 3), groups=4).transpose(0, 1)
        expected = blurred[..., PSF_RADIUS:-PSF_RADIUS, PSF_RADIUS:-PSF_RADIUS] / 2 + 0.5
        left.append(float((linear_to_srgb(again) - expected).abs().mean()) * 255)
        inner = sharp[..., PSF_RADIUS:-PSF_RADIUS, PSF_RADIUS:-PSF_RADIUS] / 2 + 0.5
        blur.append(float((inner - expected).abs().mean()) * 255)
    # 8 bit, and roll, which changes the kernel a little from the middle of the crop outwards.
    assert max(left) < 1
    assert min(blur) > 1.5
    assert sum(left) < 0.2 * sum(blur)


def test_layers_have_no_single_kernel(photos: Path) -> None:
    recipe = dataclasses.replace(CALM, shake=1, unblurred=0, layer=1)
    data = dataclasses.replace(DATA, recipe=recipe)
    assert not bool(PairBlocks(photos, data).pairs(0).psf.any())


def first_batch(folder: Path, workers: int = 0, batch: int = 4) -> None:
    next(batches(PairBlocks(folder, DATA), batch, 0, workers))


def test_folders_without_photos(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"missing is not a folder; give a folder of sharp"):
        list_photos(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"holds no photos \(\.bmp, "):
        list_photos(tmp_path)
    with pytest.raises(TrainingError, match="is not a folder"):
        list_photos(tmp_path / "notes.txt")


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_photo(tmp_path: Path, workers: int) -> None:
    (tmp_path / "text.jpg").write_text("not a photo", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"text\.jpg cannot be read as a photo") as caught:
        first_batch(tmp_path, workers)
    assert "\n" not in str(caught.value)


def test_cut_photo(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    Image.fromarray(picture(256, 256)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(TrainingError, match=r"cut\.jpg cannot be read as a photo"):
        first_batch(tmp_path)


def test_small_photo(tmp_path: Path) -> None:
    Image.fromarray(picture(60, 200)).save(tmp_path / "small.png")
    message = r"small\.png is 200x60; training on crops of 16 needs 80 pixels a side\.$"
    with pytest.raises(TrainingError, match=message):
        first_batch(tmp_path)


def test_batch_must_divide_a_block(photos: Path) -> None:
    with pytest.raises(TrainingError, match=r"^batch is 3, expected a divisor of pairs_per_block"):
        first_batch(photos, batch=3)
