"""`freqdiff.deblur` and the model that `freqdiff.load` gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import (
    ATTENTION_TOY,
    TOY,
    photo,
    picture,
    random_deblurrer,
    random_denoiser,
    untrained_deblurrer,
)

import freqdiff
from freqdiff.api import deblur
from freqdiff.checkpoint import save_model, shipped_models
from freqdiff.deblurrer import BAND_CELL, BRIGHTNESS_SLACK, Deblurrer, load, tie_low_band
from freqdiff.errors import FreqDiffError, InputError, ModelError
from freqdiff.model import ModelConfig
from freqdiff.sampler import Sample

SIZE = (75, 101)


@pytest.fixture(scope="module")
def model() -> Deblurrer:
    return random_deblurrer()


@pytest.fixture(scope="module")
def untrained() -> Deblurrer:
    return untrained_deblurrer()


def as_array(image: Any) -> np.ndarray:
    return image.numpy() if isinstance(image, Tensor) else np.asarray(image)


def kinds() -> dict[str, Any]:
    pixels = picture(*SIZE)
    alpha = np.arange(pixels[..., :1].size, dtype=np.uint8).reshape(*SIZE, 1)
    floats = pixels.astype(np.float32) / 255
    return {
        "pillow": Image.fromarray(pixels),
        "pillow grey": Image.fromarray(pixels[..., 0]),
        "pillow with alpha": Image.fromarray(np.concatenate((pixels, alpha), 2)),
        "u8": pixels,
        "u8 grey": pixels[..., 1],
        "u8 with alpha": np.concatenate((pixels, alpha), 2),
        "u16": pixels.astype(np.uint16) * 257,
        "f32": floats,
        "f64": floats.astype(np.float64),
        "tensor": torch.from_numpy(floats).permute(2, 0, 1),
        "tensor of bytes": torch.from_numpy(pixels).permute(2, 0, 1),
        "batch": torch.stack([photo(*SIZE), photo(*SIZE, "coffee")]),
        "half": photo(*SIZE).half(),
    }


@pytest.mark.parametrize("kind", kinds())
def test_same_kind_comes_back(model: Deblurrer, kind: str) -> None:
    image = kinds()[kind]
    before = as_array(image).copy()
    result = deblur(image, model=model)
    assert type(result) is type(image)
    np.testing.assert_array_equal(as_array(image), before, "the input was changed")
    assert as_array(result).shape == before.shape
    assert as_array(result).dtype == before.dtype
    if isinstance(image, Image.Image):
        assert isinstance(result, Image.Image)
        assert result.mode == image.mode
    changed = (as_array(result).astype(float) - before).astype(float)
    assert np.abs(changed).mean() > 0.01 * np.abs(before.astype(float)).mean()
    if "alpha" in kind:
        np.testing.assert_array_equal(as_array(result)[..., 3], before[..., 3])


def test_kinds_agree(model: Deblurrer) -> None:
    """The same picture in another kind gives the same result, to the kind's rounding."""
    results = {
        kind: np.asarray(as_array(deblur(image, model=model)), np.float64)
        for kind, image in kinds().items()
        if kind in ("pillow", "u8", "u16", "f32", "f64", "tensor")
    }
    exact = results["f64"]
    np.testing.assert_allclose(results["f32"], exact, rtol=0, atol=1e-6)
    np.testing.assert_allclose(results["tensor"].transpose(1, 2, 0), exact, rtol=0, atol=1e-6)
    np.testing.assert_allclose(results["u16"] / 65535, exact, rtol=0, atol=0.5 / 65535 + 1e-6)
    np.testing.assert_allclose(results["u8"] / 255, exact, rtol=0, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(results["pillow"], results["u8"])


def test_path_gives_a_pillow_image(model: Deblurrer, tmp_path: Path) -> None:
    Image.fromarray(picture(*SIZE)).save(tmp_path / "photo.png")
    result = deblur(tmp_path / "photo.png", model=model)
    assert isinstance(result, Image.Image)
    np.testing.assert_array_equal(result, deblur(picture(*SIZE), model=model))
    again = deblur(str(tmp_path / "photo.png"), model=model)
    np.testing.assert_array_equal(result, again)


def test_batch_is_one_by_one(model: Deblurrer) -> None:
    batch = kinds()["batch"]
    together = deblur(batch, model=model)
    for image, result in zip(batch, together, strict=True):
        assert torch.equal(deblur(image, model=model), result)


@pytest.mark.parametrize("steps", [1, 4])
def test_same_seed_same_result(model: Deblurrer, steps: int) -> None:
    pixels = picture(*SIZE)
    first, again, other = (
        deblur(pixels, model=model, seed=seed, steps=steps) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    # One step is plain regression from the photo: it does not look at the noise.
    assert np.array_equal(first, other) == (steps == 1)


def test_whole_numbers_of_numpy_are_taken(model: Deblurrer) -> None:
    pixels = picture(*SIZE)
    result = deblur(pixels, model=model, steps=np.int64(2), seed=np.uint8(7))  # type: ignore
    np.testing.assert_array_equal(result, deblur(pixels, model=model, steps=2, seed=7))


def test_grey_stays_grey(model: Deblurrer) -> None:
    grey = np.repeat(picture(*SIZE)[..., :1], 3, axis=2)
    one = deblur(grey[..., 0].copy(), model=model)
    assert one.shape == SIZE
    as_colour = np.asarray(Image.fromarray(deblur(grey, model=model)).convert("L"), float)
    np.testing.assert_allclose(one, as_colour, rtol=0, atol=1.5)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("kind", ["u8", "u16", "f32", "f64", "u8 with alpha", "pillow", "batch"])
def test_untrained_model_returns_the_input(untrained: Deblurrer, kind: str, steps: int) -> None:
    image = kinds()[kind]
    details = deblur(image, model=untrained, steps=steps, return_details=True)
    np.testing.assert_array_equal(as_array(details.image), as_array(image))
    assert not details.changed
    note = "no blur that this model can remove was found: returned unchanged"
    assert details.notes[-1] == note


@pytest.mark.parametrize(
    ("places", "change", "share", "note"),
    [
        (1, 3, 0, "no blur that this model can remove was found: returned unchanged"),
        (1, 6, 1 / 300, "little blur that this model can remove: under 1% of the photo changed"),
        (9, 3, 9 / 300, None),
        (300, 0.5, 0, "no blur that this model can remove was found: returned unchanged"),
    ],
    ids=["faint", "small", "large", "weak"],
)
def test_what_counts_as_a_change(
    monkeypatch: pytest.MonkeyPatch, places: int, change: float, share: float, note: str | None
) -> None:
    """A model that changes some cells of 16 px by some levels of 255."""
    image = torch.full((3, 240, 320), 0.5)
    image[:, ::2] = 0.4
    result = image[None].clone()
    for place in range(places):
        row, column = divmod(place, 20)
        result[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += change / 255
    model = random_deblurrer()
    monkeypatch.setattr(model, "_sampler", lambda *_: Sample(result.clone(), None, 1))
    monkeypatch.setattr("freqdiff.deblurrer.tie_low_band", lambda result, _: result)
    details = deblur(image, model=model, return_details=True)
    assert details.changed_share == pytest.approx(share)
    assert details.changed == (share > 0)
    assert details.notes == (() if note is None else (note,))
    assert isinstance(details.image, Tensor)
    assert torch.equal(details.image, image) == (share == 0)


@pytest.mark.parametrize("level", [0, 255])
def test_untrained_model_keeps_black_and_white(untrained: Deblurrer, level: int) -> None:
    flat = np.full((*SIZE, 3), level, np.uint8)
    np.testing.assert_array_equal(deblur(flat, model=untrained), flat)


@pytest.mark.skipif("tiny" not in shipped_models(), reason="no weights are shipped yet")
@pytest.mark.parametrize("level", [0, 255])
def test_shipped_model_keeps_black_and_white(level: int) -> None:
    flat = np.full((200, 300, 3), level, np.uint8)
    np.testing.assert_array_equal(deblur(flat), flat)


def test_details(model: Deblurrer) -> None:
    pixels = picture(*SIZE)
    details = deblur(pixels, model=model, steps=3, seed=9, return_details=True)
    np.testing.assert_array_equal(details.image, deblur(pixels, model=model, steps=3, seed=9))
    assert details.changed
    assert details.notes == ()
    assert (details.model, details.steps, details.seed, details.tiles) == ("toy", 3, 9, 1)
    assert 0 < details.seconds < 60


def test_default_steps_are_those_of_the_model() -> None:
    model = random_deblurrer(dataclasses.replace(TOY, default_steps=2))
    pixels = picture(*SIZE)
    details = deblur(pixels, model=model, return_details=True)
    assert details.steps == 2
    np.testing.assert_array_equal(details.image, deblur(pixels, model=model, steps=2))
    assert not np.array_equal(details.image, deblur(pixels, model=model, steps=1))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 900), (3, 17), (8, 8), (128, 1)])
@pytest.mark.parametrize("steps", [1, 2])
def test_any_size(model: Deblurrer, size: tuple[int, int], steps: int) -> None:
    pixels = picture(*size)
    result = deblur(pixels, model=model, steps=steps)
    assert result.shape == pixels.shape


@pytest.mark.parametrize("size", [(600, 300), (5, 700)])
@pytest.mark.parametrize("brightness", [0.0, 0.01, -0.1, 0.1])
def test_large_areas_keep_their_colour(size: tuple[int, int], brightness: float) -> None:
    """A tint goes; brightness may move as far as an average before the tone curve moves it."""
    image = 0.3 + 0.4 * photo(*size)[None]
    tint = torch.tensor([0.05, -0.02, -0.03])[:, None, None]
    detail = 0.01 * torch.tensor([1.0, -1.0]).repeat(size[1] // 2)
    result = tie_low_band(image + tint + brightness + detail, image)
    kept = min(max(brightness, -BRIGHTNESS_SLACK), BRIGHTNESS_SLACK)
    # Means of 90,000 pixels, summed one after the other in float32.
    torch.testing.assert_close(result, image + kept + detail, rtol=0, atol=1e-4)


def test_low_band_is_tied_unless_asked() -> None:
    model = random_deblurrer(seed=4)
    image = 0.25 + 0.5 * photo(2 * BAND_CELL, BAND_CELL)[None]
    drift = []
    for keep_band in (True, False):
        result = model.restore(image, keep_band=keep_band).image
        mean = (result - image).mean((0, 2, 3))
        drift.append(float((mean - mean.mean()).abs().max()))
    assert drift[0] < 0.5 / 255
    assert drift[1] > 4 * drift[0]


def test_tile_changes_nothing_that_can_be_seen(model: Deblurrer) -> None:
    pixels = picture(100, 520)
    whole = deblur(pixels, model=model, return_details=True)
    tiled = deblur(pixels, model=model, tile=384, return_details=True)
    assert (whole.tiles, tiled.tiles) == (1, 2)
    difference = np.asarray(whole.image, int) - np.asarray(tiled.image, int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("config", [TOY, ATTENTION_TOY], ids=["convolutions", "attention"])
def test_compiled_network_gives_the_same(config: ModelConfig) -> None:
    denoiser = random_denoiser(config)
    plain, compiled = Deblurrer(denoiser, "toy").eval(), Deblurrer(denoiser, "toy").eval()
    compiled.compile(backend="aot_eager")
    for size in ((96, 64), (160, 224), (160, 224)):
        image = photo(*size)[None]
        expected = plain.restore(image, steps=2).image
        result = compiled.restore(image, steps=2).image
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


def test_callback_counts_and_cancels(model: Deblurrer) -> None:
    calls: list[tuple[int, int]] = []
    pixels = picture(100, 520)
    deblur(pixels, model=model, tile=384, steps=3, callback=lambda *call: calls.append(call))
    assert calls == [(done, 6) for done in range(1, 7)]

    class Cancelled(Exception):
        pass

    def cancel(done: int, total: int) -> None:
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        deblur(pixels, model=model, tile=384, steps=3, callback=cancel)


def test_progress(model: Deblurrer, capsys: pytest.CaptureFixture[str]) -> None:
    deblur(picture(*SIZE), model=model, steps=2)
    assert capsys.readouterr() == ("", "")
    deblur(picture(*SIZE), model=model, steps=2, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "deblur: " in shown.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, r"^steps is 0, expected a whole number from 1 to 1000\.$"),
        ({"steps": 1001}, r"^steps is 1001, expected a whole number from 1 to 1000\.$"),
        ({"steps": 2.5}, r"^steps is 2\.5, expected a whole number from 1 to 1000\.$"),
        ({"seed": -1}, r"^seed is -1, expected a whole number from 0\.$"),
        ({"seed": 0.5}, r"^seed is 0\.5, expected a whole number from 0\.$"),
        ({"tile": 0}, r"^tile is 0, expected 'auto' or a number of pixels\.$"),
        ({"tile": "large"}, r"^tile is 'large', expected 'auto' or a number of pixels\.$"),
    ],
    ids=str,
)
def test_impossible_options(model: Deblurrer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        deblur(picture(*SIZE), model=model, **options)


def test_unknown_model_and_device(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^There is no model 'medium'"):
        deblur(picture(*SIZE), model="medium")
    save_model(tmp_path, random_denoiser())
    with pytest.raises(InputError, match=r"^device is 'toaster', which this machine"):
        deblur(picture(*SIZE), model=str(tmp_path), device="toaster")


def test_model_folder_by_its_path(tmp_path: Path) -> None:
    save_model(tmp_path / "mine", random_denoiser())
    details = deblur(picture(*SIZE), model=str(tmp_path / "mine"), return_details=True)
    assert details.model == str(tmp_path / "mine")
    loaded = load(str(tmp_path / "mine"), device="cpu")
    np.testing.assert_array_equal(details.image, deblur(picture(*SIZE), model=loaded))


@pytest.mark.parametrize("image", [np.full((*SIZE, 3), np.nan, np.float32), None, 3, []])
def test_what_is_no_picture(model: Deblurrer, image: Any) -> None:
    with pytest.raises(InputError):
        deblur(image, model=model)


def test_weights_that_are_not_finite() -> None:
    model = random_deblurrer()
    with torch.no_grad():
        model.denoiser.unet.output.bias[0] = torch.nan
    with pytest.raises(FreqDiffError, match=r"^Model 'toy' gave values that are not finite"):
        deblur(picture(*SIZE), model=model)


def test_loaded_model_is_a_module(model: Deblurrer) -> None:
    """For embedding: tensors in, tensors out, the same shape and type."""
    batch = kinds()["batch"]
    result = model(batch, steps=2, seed=3)
    assert torch.equal(result, deblur(batch, model=model, steps=2, seed=3))
    assert model(batch[:0]).shape == (0, *batch.shape[1:])
    assert model(batch.half()).dtype == torch.float16
    with pytest.raises(InputError, match=r"^image is \(1, 1, 9, 9\), expected \(1, 3, H, W\)"):
        model(torch.rand(1, 1, 9, 9))


def test_public_names() -> None:
    assert freqdiff.deblur is deblur
    assert freqdiff.load is load
    for name in freqdiff.__all__:
        assert hasattr(freqdiff, name)
