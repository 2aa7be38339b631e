"""The diffusion engine behind `synthesize` and `build`; loading a base, LoRA, what is refused."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_base import like_stable_diffusion, make_tiny, tiny
from toys import photo, picture

import blursynth
from blursynth import diffusion_engine, diffusion_load
from blursynth.certificate import certify
from blursynth.checksums import SUMS
from blursynth.cli import main
from blursynth.diffusion_config import DiffusionConfig, parse_engine
from blursynth.diffusion_load import (
    LORA_FILE,
    add_lora,
    load_lora,
    load_pipeline,
    save_lora,
    save_pipeline,
    weights_digest,
)
from freqdiff.errors import InputError, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")

CAMERA = blursynth.Camera(exposure_s=1 / 8, focal_mm=85)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    tiny().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def blind_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of an untrained Stable Diffusion, which does not keep what the photo shows."""
    folder = tmp_path_factory.mktemp("blind_base")
    like_stable_diffusion().save_pretrained(folder)
    return str(folder)


def test_settings_as_one_word() -> None:
    for config in (
        DiffusionConfig("a/b"),
        DiffusionConfig(
            "runs/x", "c,n/d", lora="l", output="pixels", steps=4, guidance=2.5, tile=512
        ),
    ):
        assert parse_engine(str(config)) == config
    assert str(DiffusionConfig("x", steps=8)) == "diffusion:x,steps=8"
    assert parse_engine("diffusion") == DiffusionConfig() == DiffusionConfig("small")
    assert parse_engine("diffusion:,steps=3") == DiffusionConfig("small", steps=3)
    for text, message in {
        "diffusion:x,stops=3": "an option of the diffusion engine",
        "diffusion:x,steps=few": "a number for steps",
        "diffusion:x,steps=0": "steps of the diffusion engine from 1",
        "diffusion:x,output=both": "output of the diffusion engine to be one of",
    }.items():
        with pytest.raises(InputError, match=message):
            parse_engine(text)


@pytest.mark.parametrize("output", ["attributes", "pixels"])
def test_synthesize(base: str, output: Any) -> None:
    sharp = photo(96, 128)
    engine = DiffusionConfig(base, output=output, steps=2)
    conditions = blursynth.Conditions(noise=False, mosaic=False)
    result = blursynth.synthesize(sharp, CAMERA, engine=engine, seed=1, conditions=conditions)
    assert result.blurred.shape == sharp.shape
    levels = result.blurred * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    again = blursynth.synthesize(sharp, CAMERA, engine=str(engine), seed=1, conditions=conditions)
    assert torch.equal(result.blurred, again.blurred)
    other = blursynth.synthesize(sharp, CAMERA, engine=engine, seed=2, conditions=conditions)
    assert not torch.equal(result.blurred, other.blurred)
    # The same exposure as of the physics engine, whose field is told to the network.
    physics = blursynth.synthesize(sharp, CAMERA, seed=1, conditions=conditions)
    assert torch.equal(result.field.motion, physics.field.motion)
    noisy = blursynth.synthesize(sharp, CAMERA, engine=engine, seed=1)
    assert not torch.equal(result.blurred, noisy.blurred)


class Copy:
    """A pipeline that generates what it is told, through a codec that loses nothing."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.pipeline, self.function = like_stable_diffusion(), function
        self.pipeline.encode = lambda images, **_: images
        self.pipeline._codec_plan = None
        self.decoded = 0

    def decode(self, latents: torch.Tensor, **_: Any) -> torch.Tensor:
        self.decoded += 1
        return self.function(self.sharp) if self.decoded == 1 else self.sharp

    def __call__(self, sharp: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        self.decoded, self.sharp = 0, sharp
        self.pipeline.decode = self.decode
        return self.pipeline(sharp, *arguments, **options)


def box(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(images, 5, 1, 2, count_include_pad=False)


def test_attributes_are_those_of_the_generated_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    sharp, conditions = photo(128, 160, "coffee"), blursynth.Conditions(noise=False, mosaic=False)
    monkeypatch.setattr(diffusion_engine, "pipeline_of", lambda config: Copy(box))
    engine = DiffusionConfig("none", steps=1)
    result = blursynth.synthesize(sharp, CAMERA, engine=engine, conditions=conditions)
    error = (result.blurred - box(sharp[None])[0]).square().mean()
    assert float(error) < 0.1 * float((sharp - box(sharp[None])[0]).square().mean())
    assert certify(sharp, result.blurred).passed
    # A codec that changes the photo, and a network that does not blur it: the photo stays.
    monkeypatch.setattr(diffusion_engine, "pipeline_of", lambda config: Copy(lambda x: x))
    still = blursynth.synthesize(sharp, CAMERA, engine=engine, conditions=conditions).blurred
    assert float((still - sharp).abs().mean()) < 2 / 255


def test_build_rejects_and_counts(blind_base: str, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "sharp").mkdir()
    Image.fromarray(picture(128, 160, "coffee")).save(tmp_path / "sharp" / "a.png")
    engine = f"diffusion:{blind_base},steps=1,output=pixels"
    options: dict[str, Any] = {"count": 2, "crop": 96, "engine": engine, "progress": False}
    summary = blursynth.build(tmp_path / "sharp", tmp_path / "bad", **options)
    assert (summary.written, summary.rejected, summary.failed) == (0, 2, 0)
    monkeypatch.setattr(diffusion_engine, "pipeline_of", lambda config: Copy(box))
    summary = blursynth.build(tmp_path / "sharp", tmp_path / "good", **options)
    assert (summary.written, summary.rejected, summary.failed) == (2, 0, 0)
    rows = (tmp_path / "good" / "metadata.jsonl").read_text().splitlines()
    assert {json.loads(row)["engine"] for row in rows} == {engine}
    assert all(json.loads(row)["low_band_psnr_db"] > 20 for row in rows)


def test_a_build_without_base_stops_at_once(tmp_path: Path) -> None:
    (tmp_path / "sharp").mkdir()
    Image.fromarray(picture(96, 96)).save(tmp_path / "sharp" / "a.png")
    with pytest.raises(ModelError, match="is no folder of a base"):
        blursynth.build(tmp_path / "sharp", tmp_path / "out", engine=f"diffusion:{tmp_path}/none")
    assert not (tmp_path / "out").exists()


def test_command_line(blind_base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(96, 128)).save(tmp_path / "a.png")
    command = ["synthesize", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--json"]
    assert main([*command, "--engine", f"diffusion:{blind_base},steps=1,output=pixels"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["certificate"]["low_band_psnr_db"] < 20
    assert "not fit for training" in report["notes"][-1]
    assert main([*command, "--engine", "diffusion:/nowhere"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no folder of a base" in error


def test_lora_round_trip(base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = load_pipeline(base)
    weights = add_lora(trained, rank=2)
    assert all(weight.requires_grad for weight in weights)
    assert not any(
        p.requires_grad for name, p in trained.unet.named_parameters() if "lora_" not in name
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in weights:
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    save_lora(trained, tmp_path / "lora")
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    fused = load_pipeline(base, lora=str(tmp_path / "lora"))
    logger.removeHandler(caplog.handler)
    assert caplog.records == []
    for part in (fused.unet, fused.controlnet):
        assert not any("lora_" in key for key, _ in part.named_parameters())
    save_pipeline(fused, tmp_path / "fused")
    plain = load_pipeline(base)
    made = []
    for pipeline in (trained, fused, plain, load_pipeline(str(tmp_path / "fused"))):
        pipeline.set_progress_bar_config(disable=True)
        source = torch.Generator().manual_seed(1)
        options = {"num_inference_steps": 2, "generator": source, "output": "pixels"}
        made.append(pipeline(photo(64, 64)[None], CAMERA, **options).images)
    torch.testing.assert_close(made[0], made[1])
    assert float((made[0] - made[2]).abs().max()) > 1e-3
    torch.testing.assert_close(made[3], made[0], rtol=0, atol=2e-3)  # of float16
    with pytest.raises(ModelError, match="Cannot use the LoRA weights"):
        load_lora(plain, str(tmp_path / "none"))


def test_lora_of_the_text_encoder_beside_that_of_the_unet(base: str, tmp_path: Path) -> None:
    trained = load_pipeline(base)
    add_lora(trained, rank=2, parts=("unet",))
    save_lora(trained, tmp_path, parts=("unet",))
    weights = load_file(tmp_path / LORA_FILE)
    name = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight"
    for part, shape in (("A", (2, 16)), ("B", (16, 2))):
        weights[name.format(part)] = torch.ones(shape)
    save_file(weights, tmp_path / LORA_FILE)
    before, after = load_pipeline(base), load_pipeline(base, lora=str(tmp_path))
    for part in (after.unet, after.text_encoder):
        assert not any("lora_" in key for key, _ in part.named_parameters())
    told = [float(one.encode_text(["1/60 s"]).sum()) for one in (before, after)]
    assert told[0] != told[1]


def test_stable_diffusion_from_its_parts(base: str, tmp_path: Path) -> None:
    """A base as others save it: another pipeline class, PNDM, a ControlNet of photos beside it."""
    from diffusers import ControlNetModel, PNDMScheduler, UNet2DConditionModel

    folder = tmp_path / "sd"
    shutil.copytree(base, folder)
    for part in ("controlnet", "camera_encoder"):
        shutil.rmtree(folder / part)
    sizes = {**tiny().unet.config, "in_channels": 4, "out_channels": 4}
    unet = UNet2DConditionModel.from_config(sizes)
    unet.save_pretrained(folder / "unet")
    PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    ).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    del index["controlnet"], index["camera_encoder"], index["change_scale"]
    index |= {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None]}
    index["scheduler"] = ["diffusers", "PNDMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="has no ControlNet"):
        load_pipeline(str(folder))
    fresh = load_pipeline(str(folder), new_parts=True)
    assert fresh.camera_encoder is not None
    options = {"conditioning_embedding_out_channels": (8, 8, 8)}
    ControlNetModel.from_unet(unet, **options).save_pretrained(tmp_path / "control")
    pipeline = load_pipeline(str(folder), str(tmp_path / "control"))
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert float(pipeline.scheduler.alphas_cumprod[-1]) > 0
    assert pipeline.camera_encoder is None
    made = pipeline(photo(64, 64)[None], CAMERA, num_inference_steps=2, output="pixels")
    assert bool(made.images.isfinite().all())
    ControlNetModel.from_unet(unet).save_pretrained(tmp_path / "eighth")
    with pytest.raises(ModelError, match="shrinks photos by 8 and the VAE by 4"):
        load_pipeline(str(folder), str(tmp_path / "eighth"))
    with pytest.raises(ModelError, match="is no folder of a ControlNet"):
        load_pipeline(str(folder), "nothing at all")


def change_index(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_config(folder: Path, part: str, **changes: Any) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda f: change_index(f, text_encoder_2=["transformers", "CLIPTextModel"]),
            "XL or newer",
        ),
        (lambda f: change_index(f, transformer=["diffusers", "FluxTransformer2DModel"]), "newer"),
        (lambda f: change_index(f, text_encoder=[None, None]), "has no text_encoder"),
        (lambda f: (f / "model_index.json").unlink(), "Cannot load the model_index.json"),
        (lambda f: (f / "model_index.json").write_text("{"), "Cannot load the model_index.json"),
        (lambda f: shutil.rmtree(f / "unet"), "Cannot load the unet"),
        (
            lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").rename(f / "x.bin"),
            "Cannot load the vae",
        ),
    ],
)
def test_bases_that_are_refused(
    base: str, tmp_path: Path, harm: Callable[[Path], Any], message: str
) -> None:
    shutil.copytree(base, tmp_path / "base")
    harm(tmp_path / "base")
    with pytest.raises(ModelError, match=message) as caught:
        load_pipeline(str(tmp_path / "base"))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    made = make_tiny()
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.half().float()  # as it is saved
    save_pipeline(made, folder)
    assert weights_digest(load_pipeline(str(folder))) == weights_digest(made)
    sums = (folder / SUMS).read_text().splitlines()
    assert sorted(line.partition("/")[0].split("  ")[1] for line in sums) == [
        "camera_encoder", "controlnet", "text_encoder", "unet", "vae",
    ]  # fmt: skip
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    for _ in range(2):
        with pytest.raises(ModelError, match="missing or not the ones that were saved") as caught:
            load_pipeline(str(folder))
        assert "\n" not in str(caught.value)
        file.unlink(missing_ok=True)


def test_parts_that_do_not_fit() -> None:
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from blursynth.diffusion_base import check_parts
    from blursynth.pixel_codec import PixelCodec

    parts = {**make_tiny().components, "change_scale": 1.0}
    latents = PixelCodec(latent_channels=16)
    inpainting = UNet2DConditionModel.from_config({**parts["unet"].config, "in_channels": 9})
    wide = UNet2DConditionModel.from_config({**parts["unet"].config, "cross_attention_dim": 24})
    deep = UNet2DConditionModel.from_config({**parts["unet"].config, "layers_per_block": 2})
    for changes, message in (
        ({"vae": latents}, "16 latent channels and its U-Net takes 20 and gives 16"),
        ({"unet": inpainting}, "takes 9 and gives 16"),
        ({"change_scale": None}, "4 latent channels and its U-Net takes 20 and gives 16"),
        ({"scheduler": DDIMScheduler()}, "its scheduler expects epsilon"),
        ({"unet": wide}, "has 16 channels and its U-Net expects 24"),
        ({"unet": deep}, r"does not fit the base \(layers_per_block is 1 instead of 2\)"),
        ({"text_encoder": None}, "has no text_encoder"),
    ):
        with pytest.raises(ModelError, match=message):
            check_parts({**parts, **changes})


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="check name and network") as caught:
        load_pipeline("somebody/blur-that-nobody-has")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_missing_packages(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"needs the package {package}: .*freqdiff-deblur\[synth"):
        load_pipeline("anything")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match="needs the package peft"):
        diffusion_load.require("peft", "LoRA")
