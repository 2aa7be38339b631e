"""Latents of the small base, which are what blur changes, and those of Stable Diffusion."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_blursynth_diffusion_stream import CPU, stream, write_pictures
from tiny_base import MERGES, TINY, like_stable_diffusion, tiny
from toys import photo

from blursynth.camera import Camera
from blursynth.diffusion_base import make_small_base
from blursynth.diffusion_change import (
    LATENT_SETS,
    Change,
    change_of,
    doubt,
    known_latents,
    velocity,
)
from blursynth.diffusion_conditions import physics_map
from blursynth.diffusion_denoise import denoise
from blursynth.diffusion_foretell import foretell
from blursynth.psf import BlurField

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


def test_what_is_known_of_the_latents() -> None:
    latents, foretold = torch.randn(2, 2, 3, 11, 13, generator=seeded())
    own, change, fine, coarse = known_latents(latents, foretold).chunk(LATENT_SETS, 1)
    assert torch.equal(own, latents)
    assert torch.equal(change, foretold - latents)
    around = foretold[1, 2, 4:7, 5:8].mean()
    torch.testing.assert_close(fine[1, 2, 5, 6], foretold[1, 2, 5, 6] - around)
    # What is left are means over 9 x 9 of means over 3 x 3; here the frame cuts none of them off.
    means = F.avg_pool2d(foretold, 3, 1)
    left = (foretold - fine - coarse)[:, :, 5, 5:8]
    torch.testing.assert_close(left, means.unfold(3, 9, 1).mean((2, 4)))
    even = torch.full((1, 2, 9, 9), 3.0)
    assert float(known_latents(latents[:1, :2, :9, :9], even)[:, 4:].abs().max()) < 1e-5
    assert torch.equal(known_latents(latents), known_latents(latents, latents))


def test_a_u_net_adds_shares_of_what_is_known() -> None:
    known = known_latents(*torch.randn(2, 1, 2, 8, 8, generator=seeded()))
    noise = torch.full((1, 1, 8, 8), 0.02)
    _, foretold, fine, coarse = known.chunk(LATENT_SETS, 1)
    unit = 2 * doubt(known, noise)
    silent = change_of(torch.zeros(1, 8, 8, 8), known, noise, 2.0)
    torch.testing.assert_close(silent.mean, 2 * foretold)
    torch.testing.assert_close(silent.log_variance, 2 * unit.log())
    made = torch.zeros(1, 8, 8, 8)
    made[:, 0], made[:, 3], made[:, 5], made[:, 6] = 7, 0.5, -3, 100
    change = change_of(made, known, noise, 2.0)
    torch.testing.assert_close(change.mean[:, 0], (2 * foretold + 7 * unit)[:, 0])
    expected = 2 * foretold[:, 1] + fine[:, 1] - 6 * coarse[:, 1]
    torch.testing.assert_close(change.mean[:, 1], expected)
    assert 0 < float((change.log_variance - 2 * unit.log())[:, 0].min()) < 20


def test_doubt_is_least_where_nothing_is() -> None:
    flat, silent = torch.full((1, 3, 16, 16), 2.0), torch.zeros(1, 1, 16, 16)
    least = doubt(known_latents(flat), silent)
    # Sensors' noise is about twice as strong in latents as white noise, as mosaics correlate it.
    white = 0.01 * torch.randn(1, 3, 256, 256, generator=seeded())
    pipeline, even = make_small_base(merges=MERGES), torch.full_like(white, 0.5)
    found = float((pipeline.encode(even + white) - pipeline.encode(even)).std())
    noisy = doubt(known_latents(flat), torch.full_like(silent, 0.01))
    assert found < float(noisy.mean()) < 2 * found
    # Details that blur left, and what it took of a photo.
    flat[:, :, 8, 8] = 5
    detailed, blurred = (
        doubt(known_latents(*pair), silent)
        for pair in ((flat,), (flat, torch.full_like(flat, 2.0)))
    )
    for one in (detailed, blurred):
        torch.testing.assert_close(one[..., :2, :2], least[..., :2, :2])
    middle = [float(one[0, 0, 8, 8]) for one in (least, blurred, detailed)]
    assert middle == sorted(middle)
    assert middle[2] > 3 * middle[1] > 9 * middle[0]


def test_the_velocity_is_that_of_the_expected_change() -> None:
    """By Bayes' rule, in double precision and other terms: precisions add up."""
    mean, log_variance, noisy = torch.randn(3, 4, 2, 3, 3, generator=seeded())
    share = torch.tensor([0.0, 0.02, 0.6, 0.998])
    v = velocity(Change(mean, log_variance), noisy, share).double()
    a = share.double().view(-1, 1, 1, 1)
    certain, seen = 1 / log_variance.double().exp(), a / (1 - a)
    # Where a is 0, z_t says nothing of z_0.
    told = torch.where(a > 0, noisy / a.clamp_min(1e-9).sqrt(), 0)
    expected = (certain * mean + seen * told) / (certain + seen)
    found = a.sqrt() * noisy - (1 - a).sqrt() * v
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    unsure = velocity(Change(mean, torch.zeros_like(mean)), noisy, share).double()
    torch.testing.assert_close(unsure, -(1 - a).sqrt() * mean.double(), rtol=1e-5, atol=1e-6)


def test_surprise_is_least_for_the_true_deviation() -> None:
    clean = 3 + 0.5 * torch.randn(1, 1, 200, 200, generator=seeded())
    deviations = torch.linspace(0.3, 0.8, 51)
    mean = torch.full_like(clean, 3.0, requires_grad=True)
    found = [Change(mean, torch.full_like(clean, 2 * s.log())).surprise(clean) for s in deviations]
    assert not found[0].requires_grad
    assert float(deviations[torch.cat(found).argmin()]) == pytest.approx(0.5, abs=0.011)


def test_only_noise_is_drawn() -> None:
    noise = torch.linspace(0, 0.1, 64).view(1, 1, 8, 8)
    mean, log_variance = torch.randn(2, 1, 2, 8, 8, generator=seeded())
    change = Change(mean, 4 * log_variance)
    drawn = change.without_grain(noise, 2.0)
    assert torch.equal(drawn.mean, mean)
    even = known_latents(torch.ones_like(mean))
    most = 2 * (2.0 * doubt(even, noise)).log().expand_as(mean)
    surer = change.log_variance < most
    assert 0 < int(surer.sum()) < surer.numel()
    assert torch.equal(drawn.log_variance[surer], change.log_variance[surer])
    torch.testing.assert_close(drawn.log_variance[~surer], most[~surer])


def test_what_the_map_foretells_gets_noise_and_no_grain() -> None:
    """Where the network adds nothing, however unsure it is."""
    pipeline, photos = make_small_base(merges=MERGES), sharp(64, 64)
    for weights in pipeline.unet.conv_out.parameters():
        torch.nn.init.zeros_(weights)
    pipeline.set_progress_bar_config(disable=True)
    field = BlurField(torch.full((2, 2, 2), 3.0), torch.full((2, 2), 4.0))
    maps = physics_map(field, photos[0], 100)[None]
    made = pipeline(
        photos, Camera(), maps, num_inference_steps=4, generator=seeded(), output="pixels"
    )
    expected = pipeline.decode(pipeline.encode(foretell(photos, maps)))
    assert float((expected - photos).std()) > 0.03
    assert float((made.images - expected).std()) < 0.004


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
