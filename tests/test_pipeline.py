"""`FreqDiffPipeline`: the same photos as `freqdiff.deblur`, by the conventions of diffusers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import TOY, WIENER_TOY, photo, picture, random_deblurrer

import freqdiff
from freqdiff.checkpoint import save_model
from freqdiff.errors import InputError, ModelError

pytest.importorskip("diffusers")
from freqdiff.pipeline import FreqDiffModel, FreqDiffPipeline, default_scheduler


def toy_pipeline(config: Any = TOY) -> FreqDiffPipeline:
    model = FreqDiffModel.of(random_deblurrer(config).denoiser)
    pipe = FreqDiffPipeline(model, default_scheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("config", [TOY, WIENER_TOY], ids=lambda config: config.name)
def test_same_photo_as_deblur(config: Any, steps: int) -> None:
    blurred = photo(70, 90)
    generator = torch.Generator().manual_seed(5)
    result = toy_pipeline(config)(
        blurred, num_inference_steps=steps, generator=generator, output_type="pt"
    ).images
    expected = freqdiff.deblur(blurred, model=random_deblurrer(config), steps=steps, seed=5)
    assert (result[0] - expected).abs().max() < 1e-4
    assert (result[0] - blurred).abs().max() > 0.01


def test_other_numbers_of_steps_are_near() -> None:
    blurred = photo(64, 64)
    expected = freqdiff.deblur(blurred, model=random_deblurrer(), steps=3)
    result = toy_pipeline()(blurred, num_inference_steps=3, output_type="pt").images
    assert (result[0] - expected).abs().mean() < 2 / 255


def test_large_photos_are_tiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from freqdiff import deblurrer

    blurred = photo(340, 500)
    pipe = toy_pipeline()
    whole = pipe(blurred, num_inference_steps=2, output_type="pt").images
    monkeypatch.setitem(deblurrer._WHOLE_FRAME_PIXELS, "cpu", 1000)
    monkeypatch.setitem(deblurrer._LARGEST_TILE, "cpu", 320)
    calls = 0
    denoise = pipe.denoiser.denoiser.denoise

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return denoise(*arguments)

    monkeypatch.setattr(pipe.denoiser.denoiser, "denoise", counted)
    tiled = pipe(blurred, num_inference_steps=2, output_type="pt").images
    assert calls >= 4
    assert (tiled - whole).abs().max() < 1e-4


def test_kinds_of_results() -> None:
    pipe = toy_pipeline()
    image = Image.fromarray(picture(48, 64))
    one = pipe(image).images
    assert [kind.size for kind in one] == [(64, 48)]
    array = pipe([image, image], output_type="np").images
    assert array.shape == (2, 48, 64, 3)
    assert array.dtype == np.float32
    tensor = pipe(photo(48, 64)[None].repeat(2, 1, 1, 1), output_type="pt", return_dict=False)[0]
    assert tensor.shape == (2, 3, 48, 64)
    assert np.abs(np.asarray(one[0]) / 255 - array[0]).max() <= 0.5 / 255 + 1e-6
    assert torch.equal(tensor[0].permute(1, 2, 0), torch.from_numpy(array[0]))
    pillow = pipe(photo(48, 64)[None].repeat(2, 1, 1, 1)).images
    assert [np.array_equal(kind, one[0]) for kind in pillow] == [True, True]


def test_alpha_and_grey_of_pillow_images_stay() -> None:
    pixels = np.dstack([picture(48, 64), np.full((48, 64), 77, np.uint8)])
    clear, grey = toy_pipeline()(
        [Image.fromarray(pixels), Image.fromarray(picture(40, 40)[..., 0])]
    ).images
    assert clear.mode == "RGBA"
    assert (np.asarray(clear)[..., 3] == 77).all()
    assert grey.mode == "L"


def test_generators() -> None:
    pipe, image = toy_pipeline(), photo(48, 64)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    both = pipe([image, image], generator=generators, **options).images
    assert not torch.equal(both[0], both[1])
    assert torch.equal(both[1], pipe(image, generator=generators[1], **options).images[0])
    with pytest.raises(InputError, match="2 generators for 1 photos"):
        pipe(image, generator=generators)


def test_callback_sees_and_changes_the_steps() -> None:
    pipe, seen = toy_pipeline(), []

    def watch(pipe: Any, step: int, t: int, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        seen.append((step, int(t), sorted(tensors), tuple(tensors["latents"].shape)))
        return {}

    names = ["latents", "denoised"]
    options: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt"}
    plain = pipe(photo(44, 60), **options).images
    watched = pipe(
        photo(44, 60),
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=names,
        **options,
    ).images
    assert torch.equal(plain, watched)
    shape = (1, 3, 48, 64)
    assert seen == [(i, t, sorted(names), shape) for i, t in enumerate((999, 749, 499, 249))]

    def wipe(pipe: Any, step: int, t: int, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {"latents": torch.zeros_like(tensors["latents"])}

    wiped = pipe(photo(44, 60), callback_on_step_end=wipe, **options).images
    assert (wiped - plain).abs().max() > 0.01


def test_interrupt_ends_with_the_estimate() -> None:
    pipe, steps = toy_pipeline(), []

    def stop(pipe: Any, step: int, t: int, tensors: dict[str, torch.Tensor]) -> None:
        steps.append(step)
        pipe._interrupt = True

    options: dict[str, Any] = {"num_inference_steps": 4, "output_type": "pt"}
    stopped = pipe(photo(44, 60), callback_on_step_end=stop, **options).images
    assert steps == [0]
    assert stopped.shape == (1, 3, 44, 60)
    whole = pipe(photo(44, 60), callback_on_step_end=lambda *arguments: None, **options).images
    assert not torch.equal(stopped, whole)


def test_saved_and_loaded(tmp_path: Path) -> None:
    pipe = toy_pipeline(WIENER_TOY)
    pipe.save_pretrained(tmp_path / "pipe")
    assert not [path for path in (tmp_path / "pipe").rglob("*") if path.suffix in (".bin", ".pt")]
    again = freqdiff.FreqDiffPipeline.from_pretrained(tmp_path / "pipe").to("cpu")
    again.set_progress_bar_config(disable=True)
    image = photo(64, 64)
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt"}
    assert torch.equal(again(image, **options).images, pipe(image, **options).images)
    assert again.denoiser.denoiser.config == WIENER_TOY


def test_model_folders_and_shipped_models(tmp_path: Path) -> None:
    denoiser = random_deblurrer().denoiser
    save_model(tmp_path / "model", denoiser)
    pipe = FreqDiffPipeline.from_pretrained(tmp_path / "model")
    weights = denoiser.state_dict()
    assert all(
        torch.equal(value, weights[name].half().float())
        for name, value in pipe.denoiser.denoiser.state_dict().items()
        if value.dtype == torch.float32
    )
    with pytest.raises(InputError, match="'variant' is an option for folders of save_pretrained"):
        FreqDiffPipeline.from_pretrained(tmp_path / "model", variant="fp16")
    for name in ("medium", str(tmp_path / "nothing")):
        with pytest.raises(ModelError, match="There is no model"):
            FreqDiffPipeline.from_pretrained(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_type": "latent"}, "output_type is 'latent', expected 'pil', 'np' or 'pt'"),
        ({"num_inference_steps": 0}, "steps is 0, expected a whole number from 1 to 1000"),
        ({"callback_on_step_end_tensor_inputs": ["prompt"]}, "has 'prompt', expected 'latents'"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        toy_pipeline()(photo(32, 32), **options)


def test_wrong_photos() -> None:
    pipe = toy_pipeline()
    with pytest.raises(InputError, match="empty list"):
        pipe([])
    with pytest.raises(InputError, match="differ in size"):
        pipe([photo(32, 32), photo(32, 40)], output_type="np")
    with pytest.raises(InputError, match=r"weights are torch\.float16, expected torch\.float32"):
        toy_pipeline().to(torch.float16)(photo(32, 32))


def test_without_diffusers_one_sentence() -> None:
    program = (
        "import sys; sys.modules['diffusers'] = None\n"
        "import freqdiff\n"
        "from freqdiff import *\n"
        "try:\n    freqdiff.FreqDiffPipeline\n"
        "except freqdiff.InputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'install it with pip install "freqdiff-deblur[synth]"' in done.stdout
    assert done.stdout.count("\n") == 1
