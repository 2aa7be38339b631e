"""The camera's settings as a condition: from Exif, from a `blursynth.Camera`, or unknown."""

from __future__ import annotations

import math
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from PIL import Image
from toys import CAMERA_TOY, TOY, photo, picture, random_deblurrer, random_denoiser

import freqdiff
from blursynth.camera import Camera
from blursynth.exif import read_camera, write_camera
from freqdiff.checkpoint import load_model, save_model
from freqdiff.denoiser import Denoiser
from freqdiff.errors import InputError
from freqdiff.photo_settings import camera_vector, photo_vector

CAMERA = Camera(iso=3200, f_number=2.0, exposure_s=1 / 15, focal_mm=85, focus_distance_m=2.0)
OTHER = Camera(iso=100, f_number=11, exposure_s=1 / 500, focal_mm=20, focus_distance_m=30)


def unknown(count: int = 1) -> torch.Tensor:
    return torch.full((count, 6), math.nan)


def vectors(*cameras: Camera) -> torch.Tensor:
    return torch.from_numpy(np.stack([camera.vector() for camera in cameras]))


def exif_of(camera: Camera, size: tuple[int, int] = (96, 64)) -> bytes:
    return write_camera(camera, size=size)


def test_vector_of_exif_is_that_of_the_camera() -> None:
    exif = exif_of(CAMERA)
    expected = read_camera(exif).camera.vector()
    np.testing.assert_allclose(photo_vector(exif, (96, 64)), expected, atol=1e-5)
    np.testing.assert_allclose(expected, CAMERA.vector(), atol=1e-3)


def test_what_exif_does_not_tell_is_not_a_number() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x8827] = 800  # ISO alone
    vector = photo_vector(exif.tobytes(), (96, 64))
    assert vector[0] == camera_vector({"iso": 800})[0]
    assert np.isnan(vector[1:]).all()
    # A phone tells the equivalent focal length, but not its sensor.
    exif.get_ifd(0x8769)[0xA405] = 26
    vector = photo_vector(exif.tobytes(), (96, 64))
    assert vector[3] == pytest.approx(camera_vector({"focal35_mm": 26})[3])
    assert np.isnan(vector[4])


@pytest.mark.parametrize("exif", [None, b"", b"II*\0" + b"\xff" * 40, b"text"])
def test_photos_without_usable_exif(exif: bytes | None) -> None:
    assert np.isnan(photo_vector(exif, (96, 64))).all()


def test_settings_change_the_condition_and_unknown_ones_are_learned() -> None:
    model = random_denoiser(CAMERA_TOY)
    y = photo(64, 64)[None] * 2 - 1
    embeddings = [
        model.condition(y, camera).embedding
        for camera in (vectors(CAMERA), vectors(OTHER), unknown(), None)
    ]
    assert float((embeddings[0] - embeddings[1]).abs().max()) > 1e-3
    assert float((embeddings[0] - embeddings[2]).abs().max()) > 1e-3
    assert torch.equal(embeddings[2], embeddings[3])
    # One setting less is another condition than all or none.
    partly = vectors(CAMERA)
    partly[0, 5] = math.nan
    others = [embeddings[0], embeddings[2]]
    assert all(not torch.equal(model.condition(y, partly).embedding, e) for e in others)
    # Not knowing is not the same as a value of zero.
    assert not torch.equal(model.condition(y, torch.zeros(1, 6)).embedding, embeddings[2])


def test_every_parameter_of_the_camera_can_learn() -> None:
    model = random_denoiser(CAMERA_TOY).requires_grad_(True)
    y = photo(64, 64)[None].repeat(2, 1, 1, 1) * 2 - 1
    camera = torch.cat((vectors(CAMERA), unknown()))
    model(torch.randn(y.shape), torch.tensor([400, 300]), y, camera).x0.square().mean().backward()
    assert model.unet.camera is not None
    for name, value in model.unet.camera.named_parameters():
        assert value.grad is not None, name
        assert bool(value.grad.any()), name


def test_untrained_model_returns_its_input() -> None:
    y = photo(64, 64)[None] * 2 - 1
    noise, t = torch.randn(y.shape), torch.tensor([999])
    assert torch.equal(Denoiser(CAMERA_TOY)(noise, t, y, vectors(CAMERA)).x0, y)


def test_compiled_is_eager() -> None:
    model = random_denoiser(CAMERA_TOY)
    y = photo(64, 64)[None] * 2 - 1
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    noise, t = torch.randn(y.shape), torch.tensor([500])
    for camera in (vectors(CAMERA), None):
        both = [run(noise, t, y, camera).x0 for run in (model, compiled)]
        torch.testing.assert_close(*both, rtol=0, atol=1e-5)


def test_tiles_give_the_frame() -> None:
    model = random_deblurrer(CAMERA_TOY)
    image, camera = photo(480, 512)[None], vectors(CAMERA)[0]
    whole, tiled = (model.restore(image, steps=2, tile=tile, camera=camera) for tile in (1024, 384))
    assert tiled.tiles > 1
    assert float((whole.image - tiled.image).abs().max()) < 1e-4
    assert not torch.equal(whole.image, model.restore(image, steps=2, tile=1024).image)


def test_deblur_takes_the_settings_from_exif(tmp_path: Path) -> None:
    model = random_deblurrer(CAMERA_TOY)
    exif, pixels = exif_of(CAMERA), picture(64, 96)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path, exif=exif)

    def run(image: freqdiff.images.ImageInput, **options: object) -> np.ndarray:
        return np.asarray(freqdiff.deblur(image, model=model, **options))  # type: ignore[call-overload]

    told, untold = run(pixels, camera=CAMERA), run(pixels)
    assert not np.array_equal(told, untold)
    assert np.array_equal(run(pixels, camera=None), untold)
    with Image.open(path) as opened:
        results = [run(path), run(opened)]
    # Exif rounds a little.
    assert all(np.abs(r.astype(int) - told).max() <= 1 for r in results)
    assert np.array_equal(run(path, camera=None), untold)
    assert not np.array_equal(run(path, camera=OTHER), results[0])
    with pytest.raises(InputError, match=r"^camera is 'gps', expected 'exif', a blursynth\.Camera"):
        run(pixels, camera="gps")


def test_models_without_the_input_ignore_it() -> None:
    model = random_deblurrer(TOY)
    pixels = picture(64, 96)
    plain = freqdiff.deblur(pixels, model=model)
    assert np.array_equal(freqdiff.deblur(pixels, model=model, camera=CAMERA), plain)


def test_saved_and_on_the_command_line(tmp_path: Path) -> None:
    model = random_denoiser(CAMERA_TOY)
    save_model(tmp_path / "model", model)
    assert load_model(tmp_path / "model").config == CAMERA_TOY
    Image.fromarray(picture(64, 96)).save(tmp_path / "a.png", exif=exif_of(CAMERA))
    results = []
    for options in ((), ("--no-exif",)):
        output = tmp_path / f"result{len(options)}.png"
        command = ("deblur", tmp_path / "a.png", "-o", output, "--model", tmp_path / "model")
        assert commands.run(*command, *options).code == 0
        results.append(np.asarray(Image.open(output)))
    assert not np.array_equal(*results)
