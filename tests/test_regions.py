"""Frames that are sampled by regions: the same result, in less memory."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from toys import (
    ATTENTION_TOY,
    CAMERA_TOY,
    TOY,
    WIENER_TOY,
    photo,
    random_deblurrer,
    random_denoiser,
)

from freqdiff import memory, regions
from freqdiff.errors import FreqDiffError, InputError
from freqdiff.model import CONFIGS, ModelConfig
from freqdiff.regions import Region, plan_regions, reach, region_pixels, sample_regions
from freqdiff.sampler import FrameSampler, Request

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("size", [(8660, 11547), (1000, 20000), (20000, 999), (4001, 6000)])
@pytest.mark.parametrize(("pixels", "steps"), [(4e6, 1), (12e6, 4)])
def test_regions_give_every_pixel_once(size: tuple[int, int], pixels: float, steps: int) -> None:
    config = CONFIGS["tiny"]
    planned = plan_regions(size, pixels, config, steps)
    assert len(planned) > 1
    given = np.zeros(tuple(-(-side // 8) for side in size), np.int64)
    around = reach(config, steps)
    for region in planned:
        spans = list(zip(region.seen, region.given, size, strict=True))
        assert math.prod(seen.stop - seen.start for seen, *_ in spans) <= pixels
        for seen, own, side in spans:
            assert seen.start % 128 == 0
            assert seen.start == max(0, own.start - around)
            assert seen.stop == min(side, own.stop + around)
        given[tuple(slice(own.start // 8, -(-own.stop // 8)) for own in region.given)] += 1
    assert (given == 1).all()


def test_a_frame_that_fits_is_one_region() -> None:
    whole = (slice(0, 300), slice(0, 400))
    assert plan_regions((300, 400), 120_000, CONFIGS["tiny"], 1) == [Region(whole, whole)]


@pytest.mark.parametrize(
    ("config", "size", "steps"),
    [(TOY, (301, 420), 1), (ATTENTION_TOY, (1000, 130), 2), (CAMERA_TOY, (90, 700), 3)],
    ids=["steps-1", "attention", "camera"],
)
def test_regions_change_nothing(config: ModelConfig, size: tuple[int, int], steps: int) -> None:
    sampler, image = FrameSampler(random_denoiser(config)), photo(*size)[None]
    request = Request(steps, 5, 4096, camera=torch.arange(6.0))
    least = math.prod(min(side, 8 + 2 * reach(config, steps)) for side in size)
    planned = plan_regions(size, 1.2 * least, config, steps)
    assert len(planned) > 1
    seen = []
    with torch.inference_mode():
        whole = sampler(image, request, None).image
        parts = sample_regions(sampler, image, planned, request, lambda *call: seen.append(call))
    torch.testing.assert_close(parts.image, whole, rtol=0, atol=1e-5)
    assert parts.tiles == len(planned)
    assert all(done < total for done, total in seen[:-1])
    assert seen[-1][0] == seen[-1][1]


def test_regions_change_no_estimate_of_the_blur() -> None:
    sampler, image = FrameSampler(random_denoiser(WIENER_TOY)), photo(1500, 150)[None]
    planned = plan_regions((1500, 150), 1400 * 150, WIENER_TOY, 1)
    assert len(planned) > 1
    request = Request(1, 0, 4096, keep_blur=True)
    with torch.inference_mode():
        whole = sampler(image, request, None)
        parts = sample_regions(sampler, image, planned, request, lambda *_: None)
    torch.testing.assert_close(parts.image, whole.image, rtol=0, atol=1e-5)
    assert whole.blur is not None
    assert parts.blur is not None
    for field in dataclasses.fields(whole.blur):
        one, other = (getattr(blur, field.name) for blur in (parts.blur, whole.blur))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_deblurrer_keeps_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = random_deblurrer(seed=3), photo(300, 260)[None]
    whole = model.restore(image, ensemble=2)
    assert whole.tiles == 1
    monkeypatch.setattr(memory, "used_memory", lambda: 10**9)
    photo_bytes = regions.BYTES_PER_PIXEL["result"] + regions.BYTES_PER_PIXEL["turned"]
    limit = 10**9 + 300 * 260 * photo_bytes
    limit += int(200 * 200 * regions.BYTES_PER_PIXEL["region"])
    parts = model.restore(image, ensemble=2, max_memory=limit)
    assert parts.tiles > 1
    torch.testing.assert_close(parts.image, whole.image, rtol=0, atol=1e-5)
    limit -= 150 * 150 * regions.BYTES_PER_PIXEL["region"]
    with pytest.raises(InputError, match="allow more, or take fewer steps"):
        model.restore(image, ensemble=2, max_memory=limit)
    with pytest.raises(InputError, match=r"max_memory is 1\.0 GB, but a photo of 260x300 takes"):
        model.restore(image, max_memory=10**9)


def test_free_memory_decides_where_no_limit_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.used_memory() > 10**7
    assert memory.free_memory() is not None
    monkeypatch.setattr(memory, "free_memory", lambda: 2 * 10**9)
    photo_bytes = 1000 * 1000 * regions.BYTES_PER_PIXEL["result"]
    expected = (1.6e9 - photo_bytes) / regions.BYTES_PER_PIXEL["region"]
    assert region_pixels((1000, 1000), None) == pytest.approx(expected)
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    assert region_pixels((1000, 1000), None) == math.inf


def test_out_of_memory_leads_to_smaller_tiles_then_regions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, image = random_deblurrer(seed=3), photo(900, 200)[None]
    expected = model.restore(image).image
    real, tried = FrameSampler.__call__, []

    def small_memory(
        self: FrameSampler, part: torch.Tensor, request: Request, *more: object
    ) -> object:
        tried.append((request.largest, part.shape[2]))
        if part.shape[2] > 400:
            raise torch.OutOfMemoryError
        return real(self, part, request, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(FrameSampler, "__call__", small_memory)
    result = model.restore(image)
    torch.testing.assert_close(result.image, expected, rtol=0, atol=1e-5)
    assert [largest for largest, _ in tried] == sorted((t[0] for t in tried), reverse=True)
    heights = [height for _, height in tried]
    assert heights[0] == 900
    assert heights.index(next(h for h in heights if h < 900)) == heights.count(900) == 2

    def no_memory(*_: object) -> object:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(FrameSampler, "__call__", no_memory)
    with pytest.raises(FreqDiffError, match="The memory of cpu is too small for model 'toy'"):
        model.restore(image)
