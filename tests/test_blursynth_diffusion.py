"""The diffusion engine's pipeline: Algorithm 1, its conditions, and guidance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from tiny_base import MERGES, like_stable_diffusion, make_tiny, tiny
from toys import photo

from blursynth.camera import Camera
from blursynth.clip_tokens import clip_merges, clip_tokenizer
from blursynth.diffusion_base import make_scheduler, make_small_base
from blursynth.diffusion_conditions import (
    CONTROL_CHANNELS,
    Content,
    Physics,
    combine,
    physics_map,
    physics_maps,
    stack,
    widen_controlnet,
)
from blursynth.diffusion_predict import predict
from blursynth.physics import draw_exposure
from blursynth.psf import BlurField, blur_field
from blursynth.scene import stack_scenes
from freqdiff.errors import InputError, ModelError

pytestmark = pytest.mark.usefixtures("one_thread")

SLOW = Camera(exposure_s=1 / 4, iso=3200)
FAST = Camera(exposure_s=1 / 2000, iso=100)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def sharp(height: int = 64, width: int = 72) -> torch.Tensor:
    return photo(height, width)[None]


def generated(pipeline: Any, cameras: Any = SLOW, maps: Any = None, **options: Any) -> torch.Tensor:
    options = {"num_inference_steps": 3, "generator": seeded(), **options}
    made = pipeline(sharp(), cameras, maps, output="pixels", **options)
    assert made.blur is None
    return made.images


@pytest.mark.parametrize(("steps", "eta"), [(8, 0.0), (10, 0.0), (4, 0.7)])
def test_sampling_is_the_scheduler_of_diffusers_bit_for_bit(steps: int, eta: float) -> None:
    pipeline = tiny()
    seen: list[tuple[int, torch.Tensor]] = []
    pipeline(
        sharp(),
        SLOW,
        num_inference_steps=steps,
        guidance_scale=2.0,
        eta=eta,
        generator=seeded(),
        output="pixels",
        callback_on_step_end=lambda _, i, t, values: seen.append((t, values["latents"])),
    )
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    content = torch.nn.functional.pad(sharp(), (0, 0, 0, 0))
    known = pipeline.encode_content(content)
    c = combine(known, pipeline.encode_physics([SLOW], content))
    nothing = combine(known, pipeline.unknown_physics(content))
    generator = seeded()
    z = torch.randn(1, 4, 16, 18, generator=generator)
    with torch.no_grad():
        for (told_t, told), t in zip(seen, scheduler.timesteps, strict=True):
            both = predict(pipeline, torch.cat((z, z)), t, stack(nothing, c), sampling=True).value
            noise = both[:1] + 2.0 * (both[1:] - both[:1])
            source = generator if eta > 0 else None
            z = scheduler.step(noise, t, z, eta=eta, generator=source).prev_sample
            assert told_t == int(t)
            assert torch.equal(told, z)
    assert seen[0][0] == 999


def test_ddim_in_double_precision() -> None:
    """Song et al. 2021, Eq. 12, from the betas of Lin et al. 2024: nothing of diffusers."""
    pipeline = tiny()
    steps: list[torch.Tensor] = []
    z = torch.randn(1, 4, 16, 18, generator=seeded())
    pipeline(
        sharp(),
        SLOW,
        num_inference_steps=5,
        guidance_scale=1.0,
        latents=z,
        output="pixels",
        callback_on_step_end=lambda _, i, t, values: steps.append(values["latents"]),
    )
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    a = np.sqrt(np.cumprod(1 - betas))
    a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    c = combine(pipeline.encode_content(sharp()), pipeline.encode_physics([SLOW], sharp()))
    for k, t in enumerate((999, 799, 599, 399, 199)):
        with torch.no_grad():
            v = predict(pipeline, z, torch.tensor(t), c, sampling=True).value.double()
        now, then = a[t], a[t - 200] if t > 200 else 1.0
        s, s_then = np.sqrt(1 - now**2), np.sqrt(1 - then**2)
        x0, noise = now * z.double() - s * v, now * v + s * z.double()
        z = (then * x0 + s_then * noise).float()
        torch.testing.assert_close(steps[k], z, rtol=1e-4, atol=1e-4)
        z = steps[k]


def test_every_condition_changes_the_photo() -> None:
    pipeline = tiny()
    field = BlurField(torch.full((2, 4, 5), 9.0), torch.full((4, 5), -4.0))
    maps = physics_map(field, sharp()[0], 800)[None]
    base = generated(pipeline, SLOW, maps)
    assert torch.equal(base, generated(pipeline, SLOW, maps))
    others = {
        "ControlNet off": generated(pipeline, SLOW, maps, controlnet_conditioning_scale=0.0),
        "prompt empty": generated(pipeline, SLOW, maps, prompts=[""]),
        "another camera": generated(pipeline, FAST, maps),
        "no map": generated(pipeline, SLOW),
        "guidance": generated(pipeline, SLOW, maps, guidance_scale=1.5),
        "another seed": generated(pipeline, SLOW, maps, generator=torch.Generator().manual_seed(8)),
    }
    for what, image in others.items():
        assert float((image - base).abs().max()) > 1e-4, what


def test_what_sees_the_photo() -> None:
    """Of Stable Diffusion the ControlNet alone, of the small base the U-Net too."""
    blind = {"controlnet_conditioning_scale": 0.0, "output": "pixels", "num_inference_steps": 2}
    for pipeline, sees in ((like_stable_diffusion(), False), (tiny(), True)):
        seen: list[torch.Tensor] = []

        def keep(_: Any, i: int, t: int, values: Any, seen: list[torch.Tensor] = seen) -> None:
            seen.append(values["latents"])

        for content in (sharp(), 1 - sharp()):
            pipeline(content, SLOW, generator=seeded(), callback_on_step_end=keep, **blind)
        assert torch.equal(seen[1], seen[3]) is not sees


def test_guidance_is_linear_in_its_scale() -> None:
    """One step from the same noise: z(w) = z(c_content) + w (z(c) - z(c_content))."""
    pipeline = tiny()
    z = torch.randn(1, 4, 16, 18, generator=seeded())
    found = {}
    for scale in (1.0, 2.0, 3.0):
        pipeline(
            sharp(),
            SLOW,
            guidance_scale=scale,
            num_inference_steps=1,
            latents=z,
            output="pixels",
            callback_on_step_end=lambda _, i, t, values, s=scale: found.update(
                {s: values["latents"]}
            ),
        )
    assert float((found[2.0] - found[1.0]).abs().max()) > 1e-3
    torch.testing.assert_close(
        found[3.0] - found[2.0], found[2.0] - found[1.0], rtol=1e-3, atol=1e-5
    )


def test_a_callback_can_change_the_latents() -> None:
    pipeline = tiny()
    still = generated(
        pipeline,
        callback_on_step_end=lambda _, i, t, v: {"latents": torch.zeros_like(v["latents"])},
    )
    torch.testing.assert_close(still, pipeline.decode(pipeline.encode(sharp())).clamp(0, 1))


def test_photos_of_a_batch_do_not_see_each_other() -> None:
    pipeline = tiny()
    both = torch.cat((sharp(), 1 - sharp()))
    cameras = [SLOW, FAST]
    generators = [torch.Generator().manual_seed(s) for s in (1, 2)]
    options: dict[str, Any] = {"num_inference_steps": 2, "output": "pixels"}
    together = pipeline(both, cameras, generator=generators, **options).images
    for k, camera in enumerate(cameras):
        alone = pipeline(
            both[k : k + 1], camera, generator=torch.Generator().manual_seed(k + 1), **options
        ).images
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-3, atol=1e-4)


def test_any_size_and_attributes() -> None:
    image = photo(65, 83)[None]
    made = tiny()(image, SLOW, num_inference_steps=2, generator=seeded())
    assert made.images.shape == made.generated.shape == image.shape
    assert float(made.images.min()) >= 0
    assert float(made.images.max()) <= 1
    assert made.blur is not None
    torch.testing.assert_close(made.blur[0].kernels.sum((2, 3)), torch.ones(2, 2))


def test_physics_map_tells_motion_focus_and_noise() -> None:
    motion = torch.zeros(2, 2, 2)
    motion[1, :, 0] = 8.0  # to the right
    motion[0, :, 1] = 8.0  # downwards
    field = BlurField(motion, torch.tensor([[0.0, 0.0], [-64.0, 64.0]]))
    flat = torch.full((3, 32, 32), 0.25)
    cosine, sine, defocus, noise = physics_map(field, flat, 800)
    level = np.log(9) / np.log(65)
    assert float(cosine[0, 0]) == pytest.approx(level)
    assert float(cosine[0, -1]) == pytest.approx(-level)
    assert float(sine.abs().max()) < 1e-6
    assert float(defocus[-1, 0]) == pytest.approx(-1)
    assert float(defocus[-1, -1]) == pytest.approx(1)
    # The same blur in the opposite direction is the same motion.
    turned = physics_map(BlurField(-motion, field.defocus), flat, 800)
    torch.testing.assert_close(turned[0], cosine)
    levels = [float(physics_map(field, flat, iso)[3].mean()) for iso in (0, 100, 800, 6400)]
    assert levels[0] == 0
    assert levels == sorted(levels)
    assert float(noise.std()) < 1e-6


def test_maps_of_a_batch() -> None:
    images = torch.stack([photo(64, 96), photo(64, 96, "coffee")])
    drawn = [
        draw_exposure(image, camera, seed=3)
        for image, camera in zip(images, (SLOW, FAST), strict=True)
    ]
    origins = torch.tensor([[0.0, 0.0], [32.0, 16.0]])
    together = physics_maps(stack_scenes([one.scene for one in drawn]), images, origins)
    assert together.shape == (2, 4, 64, 96)
    for made, image, one, origin in zip(together, images, drawn, ((0, 0), (32, 16)), strict=True):
        field = blur_field(one.scene, (64, 96), origin)
        assert torch.equal(made, physics_map(field, image, float(one.scene.development.iso)))
    # The slow one is blurred more, and noisier.
    assert float(together[0, :2].norm()) > 2 * float(together[1, :2].norm())
    assert float(together[0, 3].mean()) > float(together[1, 3].mean())


def test_a_foreign_controlnet_is_widened_without_effect() -> None:
    from diffusers import ControlNetModel

    pipeline = like_stable_diffusion()
    options = {"conditioning_embedding_out_channels": (8, 8, 8)}
    narrow = ControlNetModel.from_unet(pipeline.unet, conditioning_channels=3, **options).eval()
    torch.nn.init.normal_(narrow.controlnet_cond_embedding.conv_out.weight)
    torch.nn.init.normal_(narrow.controlnet_down_blocks[0].weight)
    z, t = torch.randn(1, 4, 16, 18, generator=seeded()), torch.tensor(500)
    physics = pipeline.encode_physics([SLOW], sharp(), torch.rand(1, 4, 64, 72))
    with torch.no_grad():
        options = {"encoder_hidden_states": physics.tokens, "return_dict": False}
        before = narrow(z, t, controlnet_cond=sharp(), **options)[0]
        widen_controlnet(narrow)
        control = combine(Content(sharp()), Physics(physics.tokens, physics.maps)).control
        after = narrow(z, t, controlnet_cond=control, **options)[0]
    assert narrow.config.conditioning_channels == CONTROL_CHANNELS
    assert float(before[0].abs().max()) > 0
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other)


def test_zero_terminal_snr_where_the_base_allows() -> None:
    own = tiny().scheduler
    assert float(own.alphas_cumprod[-1]) == 0
    foreign = make_scheduler({"prediction_type": "epsilon", "clip_sample": True})
    assert float(foreign.alphas_cumprod[-1]) == pytest.approx(0.00466, rel=0.01)
    assert foreign.config.timestep_spacing == "trailing"
    assert not foreign.config.clip_sample
    with pytest.raises(ModelError, match="cannot start from a signal of 0"):
        make_scheduler({"prediction_type": "epsilon"}, zero_terminal_snr=True)


def test_small_base_has_the_promised_size() -> None:
    pipeline = make_small_base(merges=MERGES)
    words = 49408 - len(pipeline.tokenizer)
    width = pipeline.text_encoder.config.hidden_size
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    count = sum(value.numel() for part in parts for value in part.parameters()) + words * width
    assert 10e6 < 2 * count < 11e6


def test_vocabulary_of_clip() -> None:
    try:
        merges = clip_merges()
    except ModelError:
        pytest.skip("open-clip-torch is not installed")
    tokenizer = clip_tokenizer(merges)
    assert len(tokenizer) == 49408
    # What the tokenizers of OpenAI and of Hugging Face say.
    assert tokenizer("a photo of a cat")["input_ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    for camera in (SLOW, FAST, Camera()):
        assert len(tokenizer(camera.prompt())["input_ids"]) <= 77


def test_a_missing_vocabulary_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install --no-deps open-clip-torch"):
        clip_merges()


def test_save_and_load(tmp_path: Path) -> None:
    from blursynth.diffusion_load import load_pipeline
    from blursynth.diffusion_pipeline import BlurSynthPipeline

    pipeline = tiny()
    pipeline.save_pretrained(tmp_path)
    wanted = generated(pipeline)
    assert torch.equal(generated(quiet(load_pipeline(str(tmp_path)))), wanted)
    assert torch.equal(generated(quiet(BlurSynthPipeline.from_pretrained(tmp_path))), wanted)
    half = load_pipeline(str(tmp_path), dtype=torch.bfloat16)
    assert {p.dtype for p in half.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in half.text_encoder.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(generated(quiet(half)), wanted, rtol=0, atol=0.1)


def test_offloading_gives_the_same() -> None:
    """The hooks of accelerate, here from the CPU to the CPU, reach every part that is called."""
    pipeline = make_tiny()
    pipeline.enable_model_cpu_offload(device="cpu")
    made = pipeline(sharp(), SLOW, num_inference_steps=2, generator=seeded())
    plain = tiny()(sharp(), SLOW, num_inference_steps=2, generator=seeded())
    assert torch.equal(made.images, plain.images)
    names = set(pipeline.model_cpu_offload_seq.split("->"))
    assert names | {"controlnet"} == {
        name for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)
    }


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sharp": torch.zeros(3, 64, 64)}, r"sharp is .* expected a floating-point"),
        ({"sharp": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)}, "sharp is torch.uint8"),
        ({"cameras": [SLOW, FAST]}, "2 cameras for 1 photos"),
        ({"physics_maps": torch.zeros(1, 3, 64, 72)}, "physics_maps are"),
        ({"guidance_scale": 0.5}, "expected at least 1"),
        ({"output": "both"}, "output is 'both'"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, "latents are"),
        ({"tile": 32}, "too small"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"sharp": sharp(), "cameras": SLOW, **change}
    with pytest.raises(InputError, match=message):
        tiny()(**arguments)
