"""The codec of the small base: it keeps photos before it has learned anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")
from toys import photo

from blursynth.pixel_codec import PixelCodec
from freqdiff.metrics import psnr


@torch.no_grad()
def through(codec: PixelCodec, image: torch.Tensor) -> torch.Tensor:
    """A photo (3, H, W) in [0, 1] to latents and back."""
    latents = codec.encode(2 * image[None] - 1).latent_dist.mode()
    return (codec.decode(latents).sample[0] + 1) / 2


def test_more_latents_keep_more_until_nothing_is_lost() -> None:
    image = photo(192, 256, "coffee")
    kept = [psnr(through(PixelCodec(count), image), image) for count in (4, 8, 16, 32)]
    assert kept == sorted(kept)
    assert kept[2] > 34
    torch.testing.assert_close(through(PixelCodec(48), image), image, rtol=0, atol=1e-5)


def test_latents_of_photos_have_about_unit_power() -> None:
    codec = PixelCodec()
    with torch.no_grad():
        latents = codec.encode(2 * photo(256, 256, "astronaut")[None] - 1).latent_dist.mode()
    power = latents.square().mean((0, 2, 3))
    assert latents.shape == (1, 16, 64, 64)
    assert 0.5 < float(power.mean()) < 2
    assert float(power.max() / power.min()) < 300


@pytest.mark.parametrize("channels", [(3, 8), (3, 3, 8), (3, 3, 3, 8)], ids=str)
def test_any_pitch(channels: tuple[int, ...]) -> None:
    pitch = 2 ** (len(channels) - 1)
    codec = PixelCodec(3 * pitch**2, channels)
    image = photo(8 * pitch, 4 * pitch)
    assert codec.encode(image[None]).latent_dist.mean.shape == (1, 3 * pitch**2, 8, 4)
    torch.testing.assert_close(through(codec, image), image, rtol=0, atol=1e-5)


def test_a_part_is_decoded_as_in_the_whole() -> None:
    codec = PixelCodec(4, (3, 3, 8))
    torch.nn.init.normal_(codec.decoder.conv2.weight, std=0.1)
    latents = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, part = codec.decode(latents).sample, codec.decode(latents[..., :16, :16]).sample
    # Four convolutions of 3 x 3 latents of 4 px.
    torch.testing.assert_close(part[..., :48, :48], whole[..., :48, :48], rtol=0, atol=1e-5)
    assert not torch.allclose(part[..., :60, :60], whole[..., :60, :60], atol=1e-3)


def test_save_and_load(tmp_path: Path) -> None:
    codec = PixelCodec(8, (3, 3, 8), scaling_factor=0.5)
    torch.nn.init.normal_(codec.decoder.conv2.weight)
    codec.save_pretrained(tmp_path)
    again = PixelCodec.from_pretrained(tmp_path)
    assert again.config.scaling_factor == 0.5
    image = photo(32, 32)
    assert torch.equal(through(again, image), through(codec, image))
    latents = codec.encode(image[None], return_dict=False)[0].sample(torch.Generator())
    with torch.no_grad():
        tuple_form = codec.decode(latents, return_dict=False)[0]
    assert tuple_form.shape == (1, 3, 32, 32)


def test_no_more_latents_than_values() -> None:
    with pytest.raises(
        ValueError, match="latent_channels is 13, expected 1 to 12, which blocks of 2 px"
    ):
        PixelCodec(13, (3, 8))
