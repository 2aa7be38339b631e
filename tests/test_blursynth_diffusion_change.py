"""Latents of the small base, which are what blur changes, and those of Stable Diffusion."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from test_blursynth_diffusion_stream import CPU, stream, write_pictures
from tiny_base import MERGES, TINY, like_stable_diffusion, tiny
from toys import photo

from blursynth.diffusion_base import make_small_base
from blursynth.diffusion_conditions import LATENT_SETS, add_details, with_details
from blursynth.diffusion_denoise import denoise

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def sharp(height: int, width: int) -> torch.Tensor:
    return photo(height, width)[None]


def test_latents_are_what_blur_changes() -> None:
    pipeline = tiny()
    pair = sharp(64, 64), sharp(64, 64).roll(1, -1)
    content = pipeline.encode_content(pair[0])
    z = pipeline.encode_blurred(pair[1], content)
    assert float(pipeline.encode_blurred(pair[0], content).abs().max()) == 0
    double = make_small_base(dataclasses.replace(TINY, change_scale=2.0), MERGES)
    torch.testing.assert_close(double.encode_blurred(pair[1], content), 2 * z)
    for one in (pipeline, double):
        there = one.encode_blurred(pair[1], content)
        back = one.decode_blurred(there, content)
        torch.testing.assert_close(back, one.decode(one.encode(pair[1])))


def test_details_of_latents() -> None:
    latents = torch.randn(2, 3, 11, 13, generator=seeded())
    own, fine, coarse = with_details(latents).chunk(LATENT_SETS, 1)
    assert torch.equal(own, latents)
    around = latents[1, 2, 4:7, 5:8].mean()
    torch.testing.assert_close(fine[1, 2, 5, 6], latents[1, 2, 5, 6] - around)
    assert float(with_details(torch.full((1, 2, 9, 9), 3.0))[:, 2:].abs().max()) < 1e-5
    # What is left are means over 9 x 9 of means over 3 x 3; here the frame cuts none of them off.
    means = torch.nn.functional.avg_pool2d(latents, 3, 1)
    torch.testing.assert_close(
        (own - fine - coarse)[:, :, 5, 5:8], means.unfold(3, 9, 1).mean((2, 4))
    )


def test_gains_of_details_are_added_to_the_prediction() -> None:
    latents = with_details(torch.randn(1, 2, 8, 8, generator=seeded()))
    made = torch.zeros(1, 6, 8, 8)
    made[:, 0], made[:, 2], made[:, 5] = 7, 0.5, -3
    found = add_details(made, latents, 2.0)
    torch.testing.assert_close(found[:, 0], 7 + latents[:, 2])
    torch.testing.assert_close(found[:, 1], -6 * latents[:, 5])


def test_latents_of_stable_diffusion_are_those_of_the_blurred_photo() -> None:
    pipeline = like_stable_diffusion()
    assert pipeline.config.change_scale is None
    content = pipeline.encode_content(1 - sharp(64, 64))
    z = pipeline.encode_blurred(sharp(64, 64), content)
    assert torch.equal(z, pipeline.encode(sharp(64, 64)))
    assert torch.equal(pipeline.decode_blurred(z, content), pipeline.decode(z))


def test_photos_that_blur_changes_much_count_less(tmp_path: Path) -> None:
    batch = stream(write_pictures(tmp_path, "coffee", "astronaut"))[0].blur(CPU)
    timestep = torch.tensor([100, 300, 500, 900])
    for pipeline, even in ((tiny(), False), (like_stable_diffusion(), True)):
        with torch.no_grad():
            noise = torch.Generator().manual_seed(1)
            made = denoise(pipeline, batch, timestep, noise, batch.maps)
        missing = (made.predicted - made.target).square().mean((1, 2, 3))
        change = made.clean.square().mean((1, 2, 3))
        weight = torch.ones(4) if even else 1.1 / (change + 0.1)
        torch.testing.assert_close(made.loss, (weight * missing).mean())
