"""Photos in linear light and wide gamuts: worked on as well as in sRGB, and given back as such."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torch import Tensor
from toys import CALM, photo, picture

import freqdiff
from blursynth.physics import synthesize
from freqdiff import tone
from freqdiff.images import open_image
from freqdiff.metrics import psnr
from freqdiff.photo import Metadata, Photo, read_photo, write_photo

pytestmark = pytest.mark.usefixtures("own_folder")

SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
PROPHOTO = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
"""Red, green and blue in XYZ under D50."""


def gamma(exponent: float) -> bytes:
    """A curve tag; one without an entry is the identity (ICC.1:2022, 10.6)."""
    if exponent == 1:
        return b"curv" + struct.pack(">II", 0, 0)
    return b"curv" + struct.pack(">IIHxx", 0, 1, round(exponent * 256))


def profile(curve: bytes, primaries: Any = SRGB, space: bytes = b"RGB ") -> bytes:
    """An ICC profile of version 2 for a display."""

    def xyz(values: Any) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    text = b"test\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0" + text,
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
    }
    if space == b"RGB ":
        names = (b"rXYZ", b"gXYZ", b"bXYZ")
        tags |= {name: xyz(values) for name, values in zip(names, primaries, strict=True)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    else:
        tags[b"kTRC"] = curve
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", 0, b"\0" * 4, 0x02400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)
    head = head.ljust(128, b"\0")
    return struct.pack(">I", len(head + table + body)) + (head + table + body)[4:]


LINEAR = profile(gamma(1))


def of_pillow(space: Any) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


@pytest.mark.parametrize(
    ("icc", "expected"),
    [
        (LINEAR, True),
        (profile(gamma(1), PROPHOTO), True),
        (profile(gamma(1), space=b"GRAY"), True),
        (profile(b"curv" + struct.pack(">II3H2x", 0, 3, 0, 32768, 65535)), True),
        (profile(b"para" + struct.pack(">IHHi", 0, 0, 0, 65536)), True),
        (profile(gamma(1.8), PROPHOTO), False),
        (profile(gamma(2.2)), False),
        (profile(gamma(2.2), space=b"GRAY"), False),
        (of_pillow("sRGB"), False),
        (of_pillow("LAB"), False),
        (LINEAR[:150], False),
        (b"no profile", False),
        (None, False),
    ],
)
def test_linear_light_is_told_by_the_profile(icc: bytes | None, expected: bool) -> None:
    assert tone.is_linear(icc) is expected


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_what_is_not_changed_keeps_its_samples(dtype: Any, channels: int) -> None:
    if dtype == np.float32:
        values = np.linspace(0, 1, 65536, dtype=np.float32)
    else:
        values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    pixels = np.repeat(values.reshape(256, -1, 1), channels, 2)
    icc = profile(gamma(1), space=b"RGB " if channels == 3 else b"GRAY")
    write_photo("a.tif", Photo(pixels, metadata=Metadata(icc=icc)))
    opened = open_image("a.tif")
    light = torch.from_numpy(values.astype(np.float64) / (1 if dtype == np.float32 else values[-1]))
    encoded = tone.linear_to_srgb(light).float().view(opened.rgb.shape[2:])
    torch.testing.assert_close(opened.rgb[0, 0], encoded, rtol=0, atol=1e-6)
    assert opened.profile is None
    assert "linear light" in opened.notes[-1]
    again = opened.restore_photo(opened.rgb)
    np.testing.assert_array_equal(again.pixels, pixels)
    assert again.metadata.icc == icc


def blurred_and_sharp(name: str) -> tuple[Tensor, Tensor]:
    recipe = dataclasses.replace(CALM, unblurred=0, shake=1, min_motion_px=4, max_motion_px=8)
    sharp = photo(256, 256, name)
    return synthesize(sharp, seed=0, recipe=recipe).blurred, sharp


def test_linear_light_is_deblurred_like_srgb() -> None:
    blurred, sharp = blurred_and_sharp("astronaut")
    light = (tone.srgb_to_linear(blurred) * 65535).round().permute(1, 2, 0).numpy()
    write_photo("a.tif", Photo(light.astype(np.uint16), metadata=Metadata(icc=LINEAR)))
    assert commands.run("deblur", "a.tif", "-o", "b.tif", "--compare", "c.png").code == 0
    result = read_photo("b.tif")
    assert result.metadata.icc == LINEAR
    light = torch.from_numpy(result.pixels.astype(np.float32) / 65535).permute(2, 0, 1)
    expected = freqdiff.deblur(blurred)
    torch.testing.assert_close(tone.linear_to_srgb(light), expected, rtol=0, atol=0.01)
    assert psnr(tone.linear_to_srgb(light), sharp) > psnr(blurred, sharp) + 0.4
    with Image.open("c.png") as sheet:
        assert "icc_profile" not in sheet.info


@pytest.mark.parametrize("kind", ["array", "tensor", "path"])
def test_linear_light_that_the_caller_tells_of(kind: str) -> None:
    blurred, _ = blurred_and_sharp("astronaut")
    light = tone.srgb_to_linear(blurred)
    write_photo("light.tif", Photo(light.permute(1, 2, 0).contiguous().numpy()))
    image: Any = {"array": light.permute(1, 2, 0).numpy(), "tensor": light, "path": "light.tif"}[
        kind
    ]
    result = torch.as_tensor(freqdiff.deblur(image, linear=True))
    result = result if kind == "tensor" else result.permute(2, 0, 1)
    expected = freqdiff.deblur(blurred)
    torch.testing.assert_close(tone.linear_to_srgb(result), expected, rtol=0, atol=1e-3)
    assert (result - torch.as_tensor(freqdiff.deblur(light))).abs().max() > 0.01
    if kind == "path":
        assert commands.run("deblur", "light.tif", "-o", "b.tif", "--linear").code == 0
        written = torch.from_numpy(read_photo("b.tif").pixels).permute(2, 0, 1)
        torch.testing.assert_close(written, result)


def test_a_wide_gamut_costs_little() -> None:
    narrow, wide = (torch.tensor(primaries).mT for primaries in (SRGB, PROPHOTO))
    to_wide = torch.linalg.inv(wide) @ narrow

    def mixed(matrix: Tensor, light: Tensor) -> Tensor:
        return torch.einsum("oi,ihw->ohw", matrix, light).clamp(0, 1)

    gains, kept = [], []
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        blurred, sharp = blurred_and_sharp(name)
        there = mixed(to_wide, tone.srgb_to_linear(blurred)) ** (1 / 1.8)
        back = mixed(torch.linalg.inv(to_wide), freqdiff.deblur(there) ** 1.8)
        before = psnr(blurred, sharp)
        gains.append(psnr(freqdiff.deblur(blurred), sharp) - before)
        kept.append(psnr(tone.linear_to_srgb(back), sharp) - before)
    assert sum(gains) / len(gains) > 1
    assert sum(kept) > 0.85 * sum(gains)


def test_the_profile_of_a_wide_gamut_stays_with_its_pictures(model: Path) -> None:
    wide = profile(gamma(1.8), PROPHOTO)
    write_photo("a.png", Photo(picture(48, 64), metadata=Metadata(icc=wide)))
    assert open_image("a.png").profile == wide
    result = commands.run("deblur", "a.png", "-o", "b.png", "--compare", "c.png", "--model", model)
    assert result.code == 0
    assert [read_photo(name).metadata.icc for name in ("b.png", "c.png")] == [wide, wide]
