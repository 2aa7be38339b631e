"""Training from data sets of `blursynth build`: files and shards, order, kernels, bad input."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from toys import SMALL_PAIRS, write_photos

from blursynth import build_pair
from blursynth.camera import Camera
from blursynth.dataset import build
from freqdiff.blur_filter import PSF_RADIUS
from freqdiff.built_pairs import BuiltPairs, MixedBlocks, list_pairs, pair_source
from freqdiff.data import PairBlocks, Pairs, SharpBlock
from freqdiff.errors import TrainingError
from freqdiff.stream import batches
from freqdiff.tone import linear_to_srgb, srgb_to_linear

DATA = dataclasses.replace(SMALL_PAIRS, crop=32, pairs_per_block=4)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pairs of 96 px, in files and in shards of four."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "photos").mkdir()
    photos = write_photos(folder / "photos")
    build(photos, folder / "set", count=10, seed=3, crop=96, shard_size=4, progress=False)
    return folder / "set"


def equal(one: Pairs, two: Pairs) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_files_and_shards_give_the_same_pairs(built: Path) -> None:
    count = len(list_pairs(built))
    assert 8 <= count <= 10
    sources = [BuiltPairs(source, DATA) for source in (built, built / "shards")]
    assert len(sources[1].entries) == count
    for block in (0, 5):
        one, two = (source.pairs(block) for source in sources)
        assert equal(one, two)
        assert one.blurred.shape == (4, 3, 32, 32)
        assert one.blurred.dtype == torch.uint8
        assert bool(torch.isfinite(one.camera).all())
    first = BuiltPairs(built / "shards" / "000000.tar", DATA)
    assert 1 <= len(first.entries) <= 4


def test_every_pair_comes_once_in_an_epoch(built: Path) -> None:
    pairs = BuiltPairs(built, DATA)
    count = len(pairs.entries)
    epochs = [[pairs._entry(i + e * count).name for i in range(count)] for e in range(3)]
    assert all(len(set(epoch)) == count for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = BuiltPairs(built, DATA)
    assert [again._entry(2 * count + i).name for i in range(count)] == epochs[2]


def test_stream_resumes_exactly_with_any_workers(built: Path) -> None:
    def take(first: int, count: int, workers: int) -> list[Pairs]:
        stream = batches(BuiltPairs(built / "shards", DATA), 2, first, workers)
        return [next(stream) for _ in range(count)]

    whole = take(0, 10, 0)
    for first, workers in ((3, 0), (6, 2)):
        for ours, expected in zip(take(first, 10 - first, workers), whole[first:], strict=True):
            assert equal(ours, expected)


def test_pairs_mixed_with_photos(built: Path) -> None:
    photos = built.parent / "photos"
    config = dataclasses.replace(DATA, pairs_per_block=8, built=0.3)
    mixed = pair_source(photos, built / "shards", config)
    rest = PairBlocks(photos, dataclasses.replace(config, pairs_per_block=6))
    few = BuiltPairs(built, dataclasses.replace(config, pairs_per_block=2))
    assert (rest.stock, few.stock) == ("2 photos", f"{len(list_pairs(built))} pairs")
    assert mixed.stock == f"{rest.stock} and {few.stock}"
    for block in (0, 3):
        made = mixed.make(block)
        assert isinstance(made, Pairs)
        parts = zip(rest.pairs(block), few.pairs(block), strict=True)
        assert equal(made, Pairs(*(torch.cat(both) for both in parts)))
    whole, later = (batches(mixed, 4, first, workers) for first, workers in ((0, 0), (3, 2)))
    expected = [next(whole) for _ in range(6)][3:]
    assert all(equal(next(later), one) for one in expected)
    half = mixed.halved(2).make(1)
    assert isinstance(half, Pairs)
    assert half.blurred.shape == (16, 3, 16, 16)
    assert equal(Pairs(*(v[12:] for v in half)), few.halved(2).pairs(1))


def test_a_gpu_blurs_the_photos_of_a_mixture(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = built.parent / "photos"
    config = dataclasses.replace(DATA, pairs_per_block=8, built=0.25)
    waiting = MixedBlocks(photos, built, config, "cuda").make(0)
    assert isinstance(waiting, SharpBlock)
    assert len(waiting.crops) == 6
    monkeypatch.setattr(PairBlocks, "sharp", lambda *_: dataclasses.replace(waiting, built=None))
    made = MixedBlocks(photos, built, config).make(0)
    assert isinstance(made, Pairs)
    assert equal(waiting.blur("cpu"), made)


@pytest.mark.parametrize("share", [0.01, 0.99, 3.0])
def test_a_mixture_has_both_kinds(built: Path, share: float) -> None:
    config = dataclasses.replace(DATA, built=share)
    with pytest.raises(TrainingError, match=f"is {share:g}, expected one between 0 and 1"):
        pair_source(built.parent / "photos", built, config)


def test_one_source_is_needed(built: Path) -> None:
    with pytest.raises(TrainingError, match="needs sharp photos or pairs"):
        pair_source(None, None, DATA)
    assert isinstance(pair_source(None, built, DATA), BuiltPairs)
    assert isinstance(pair_source(built.parent / "photos", None, DATA), PairBlocks)


def test_kernels_and_settings_are_those_of_the_build(built: Path) -> None:
    """The sharp crop blurred by the kernel that the record gives is the blurred crop, nearly."""
    data = dataclasses.replace(DATA, crop=80, pairs_per_block=10)
    pairs = BuiltPairs(built, data).pairs(0)
    torch.testing.assert_close(pairs.psf.sum((1, 2)), torch.ones(10))
    inner = slice(PSF_RADIUS, -PSF_RADIUS)
    linear = srgb_to_linear(pairs.sharp / 255).transpose(0, 1)
    again = F.conv2d(linear, pairs.psf[:, None].flip(2, 3), groups=10).transpose(0, 1)
    blurred, sharp = (v[..., inner, inner] / 255 for v in (pairs.blurred, pairs.sharp))
    explained = (linear_to_srgb(again) - blurred).square().mean((1, 2, 3))
    before = (sharp - blurred).square().mean((1, 2, 3))
    # Noise, tone and colour of the development are left over.
    assert float((explained / before).median()) < 0.5
    vectors = torch.stack(
        [
            torch.from_numpy(Camera(**json.loads(line)["camera"]).vector())
            for line in (built / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        ]
    )
    found = (pairs.camera[:, None] - vectors).abs().amax(2).amin(1)
    assert float(found.max()) < 1e-6


def test_kernels_of_another_version_are_not_known(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_pair, "package_version", lambda: "0.0.0")
    assert not bool(BuiltPairs(built, DATA).pairs(0).psf.any())


def copy_shards(built: Path, folder: Path) -> Path:
    return Path(shutil.copytree(built / "shards", folder / "shards"))


def test_no_pairs(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "missing"):
        with pytest.raises(TrainingError, match="holds no pairs: give a folder that `blursynth"):
            list_pairs(source)
    (tmp_path / "a.tar").write_bytes(b"text" * 300)
    with pytest.raises(TrainingError, match="cannot be read as a data set"):
        list_pairs(tmp_path)


def test_damaged_data(built: Path, tmp_path: Path) -> None:
    shard = copy_shards(built, tmp_path) / "000000.tar"
    entry = list_pairs(shard)[0]
    content = bytearray(shard.read_bytes())
    content[entry.sharp.offset : entry.sharp.offset + 200] = bytes(200)
    shard.write_bytes(content)
    with pytest.raises(TrainingError, match=r"000000\.tar, .* cannot be read as a photo"):
        next(batches(BuiltPairs(shard, DATA), 2, 0, 1))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "metadata.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"^Line 1 of .* is not the record of a pair: build"):
        list_pairs(tmp_path / "set")


def test_pairs_smaller_than_the_crop(built: Path) -> None:
    with pytest.raises(TrainingError, match=r"sharp one of 96x96; training on crops of 128 needs"):
        BuiltPairs(built, dataclasses.replace(DATA, crop=128)).pairs(0)
