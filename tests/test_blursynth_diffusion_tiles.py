"""Large photos: tiles give what the whole frame gives, without seams and within the memory."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_base import like_stable_diffusion, make_tiny, tiny
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toys import photo

from blursynth import diffusion_tiles as tiles
from blursynth.camera import Camera
from blursynth.diffusion_base import check_parts, make_small_base, ready
from blursynth.diffusion_conditions import CONTROL_CHANNELS, Condition
from blursynth.diffusion_pipeline import BlurSynthPipeline
from blursynth.diffusion_predict import predict
from freqdiff.errors import InputError
from freqdiff.tiling import plan_tiles

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize(("scale_in", "scale_out"), [(1, 1), (1, 4), (4, 1)])
def test_a_function_that_sees_no_further_than_the_halo_is_exact(
    scale_in: int, scale_out: int
) -> None:
    weight = torch.randn(5, 2, 3, 3, generator=seeded())
    frame = torch.randn(2, 2, 70 * scale_in, 90 * scale_in, generator=seeded())

    def function(tile: torch.Tensor, _place: tuple[int, int]) -> torch.Tensor:
        if scale_in > 1:
            tile = F.avg_pool2d(tile, scale_in)
        return F.interpolate(F.conv2d(tile, weight, padding=1), scale_factor=float(scale_out))

    plan = plan_tiles((70, 90), 32, 2, blend=4)
    assert len(plan.positions) > 9
    found = tiles.apply_tiled(function, frame, plan, scale_in, scale_out)
    torch.testing.assert_close(found, function(frame, (0, 0)), rtol=1e-5, atol=1e-5)


def test_places_belong_to_the_tiles() -> None:
    frame = torch.arange(80.0 * 60).view(1, 1, 80, 60)
    plan = plan_tiles((80, 60), 32, 2, blend=4)

    def function(tile: torch.Tensor, place: tuple[int, int]) -> torch.Tensor:
        y, x = place
        assert torch.equal(tile, frame[..., y : y + tile.shape[2], x : x + tile.shape[3]])
        return tile

    assert torch.equal(tiles.apply_tiled(function, frame, plan), frame)


def local_tiny() -> Any:
    """A base whose layers see only what is near: no attention, no statistics of the whole tile."""
    pipeline = make_tiny()
    for part in (pipeline.unet, pipeline.controlnet, pipeline.vae):
        for module in part.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x, own=module: _affine(own, x)  # type: ignore[method-assign]
            if type(module).__name__ == "BasicTransformerBlock":
                torch.nn.init.zeros_(module.attn1.to_out[0].weight)
                torch.nn.init.zeros_(module.attn1.to_out[0].bias)
    return pipeline


def _affine(norm: torch.nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return x * norm.weight.view(shape) * 0.5 + norm.bias.view(shape)


def test_tiles_give_what_the_whole_frame_gives() -> None:
    pipeline, image = local_tiny(), photo(384, 448)[None]
    options: dict[str, Any] = {"num_inference_steps": 2, "output": "pixels"}
    camera = Camera(exposure_s=0.1)
    whole = pipeline(image, camera, tile=1024, generator=seeded(), **options).images
    tiled = pipeline(image, camera, tile=352, generator=seeded(), **options).images
    assert float(whole.std()) > 0.02
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-4)


def butt(
    parts: torch.Tensor, starts: tuple[list[int], list[int]], size: tuple[int, int], margin: int = 0
) -> torch.Tensor:
    """Tiles laid over each other without blending, in place of `stitch_tiles`."""
    frame = parts.new_zeros(parts.shape[1], *size)
    places = [(y, x) for y in starts[0] for x in starts[1]]
    for (y, x), tile in zip(places, parts, strict=True):
        frame[:, y : y + tile.shape[1], x : x + tile.shape[2]] = tile
    return frame


def test_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """With norms and attention over the tiles they differ, but no line between them shows: jumps
    between neighbouring pixels grow by at most 5 % more there than elsewhere."""
    pipeline, image = like_stable_diffusion(), photo(128, 960, "coffee")[None]
    unit = tiles.pitch(pipeline.vae)
    plan = tiles.denoiser_tiles(pipeline.unet, (32, 240), 352 // unit)
    ends = [x + plan.tile[1] for x in plan.starts[1][:-1]]
    lines = [unit * x - 1 for x in (*plan.starts[1][1:], *ends)]
    assert len(lines) == 6

    def jumps(tile: int) -> torch.Tensor:
        made = pipeline(
            image, Camera(), num_inference_steps=2, tile=tile, generator=seeded(), output="pixels"
        ).images
        return (made[..., 1:] - made[..., :-1]).abs().mean((0, 1, 2))

    def excess() -> float:
        growth = jumps(352) / whole
        return float(growth[lines].mean() / growth.mean())

    whole = jumps(960)
    assert excess() <= 1.05
    monkeypatch.setattr(tiles.ops, "stitch_tiles", butt)
    assert excess() > 1.05


def test_tile_sizes() -> None:
    pipeline = tiny()
    with pytest.raises(InputError, match=r"Tiles of \d+ latents are too small"):
        tiles.denoiser_tiles(pipeline.unet, (200, 200), 40)
    unit = tiles.alignment(pipeline.unet)
    few, many = (tiles.largest_tile(need, torch.device("cpu"), unit) for need in (1e12, 1.0))
    assert many == tiles.LARGEST
    # However little memory there is, the tiles overlap as they must.
    for side in (few, few + 1, 400, 401):
        assert max(tiles.denoiser_tiles(pipeline.unet, (side, 400), few).tile) <= few


class PeakMemory(TorchDispatchMode):
    """Largest sum of the sizes of tensors that live at once, without those that are given."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._seen:
                    self._seen.add(storage._cdata)
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())
        return made

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def measured_peaks(pipeline: Any, side: int, device: str, batch: int = 2) -> tuple[int, int]:
    """Bytes at the peak of U-Net and ControlNet, and of the VAE's decoder."""
    config, factor = pipeline.unet.config, tiles.pitch(pipeline.vae)
    channels = pipeline.vae.config.latent_channels
    z = torch.zeros(batch, channels, side, side, device=device)
    photo = None
    if pipeline.config.change_scale is not None:
        photo = torch.zeros(batch, config.in_channels - channels, side, side, device=device)
    tokens = torch.zeros(batch, 81, config.cross_attention_dim, device=device)
    control = torch.zeros(batch, CONTROL_CHANNELS, side * factor, side * factor, device=device)
    known = [z, tokens, control, *([] if photo is None else [photo])]
    for part in (pipeline.unet, pipeline.controlnet, pipeline.vae):
        known += [*part.parameters(), *part.buffers()]
    with torch.no_grad():
        with PeakMemory(known) as denoiser:
            condition = Condition(tokens, control, photo)
            noise = predict(pipeline, z, torch.tensor(5, device=device), condition).value
        assert noise.shape == z.shape
        assert noise.dtype == z.dtype
        with PeakMemory(known) as codec:
            pixels = pipeline.vae.decode(z[:1], return_dict=False)[0]
        assert pixels.shape == (1, 3, side * factor, side * factor)
    return denoiser.peak, codec.peak


def test_memory_of_the_small_base() -> None:
    pipeline = make_small_base(merges=[("i", "s")])
    for side in (32, 64):
        denoiser, codec = measured_peaks(pipeline, side, "cpu")
        need = tiles.denoiser_bytes(pipeline.unet, torch.float32) * side**2
        assert denoiser <= need <= 1.5 * denoiser
        need = tiles.codec_bytes(pipeline.vae, torch.float32) * side**2
        assert codec <= need <= 1.5 * codec


def full_size(version: int) -> Any:
    """Stable Diffusion 1.5 or 2.1 with a ControlNet, by their configurations, without weights."""
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    heads: dict[str, Any] = {"cross_attention_dim": 768, "attention_head_dim": 8}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
    if version == 2:
        heads = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20)}
        heads["use_linear_projection"] = True
        text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23}
    scheduler = tiny().scheduler
    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel(sample_size=64, **heads),
            "controlnet": ControlNetModel(**heads),
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512),
                layers_per_block=2,
                sample_size=512,
            ),
            "text_encoder": CLIPTextModel(
                CLIPTextConfig(num_attention_heads=text["hidden_size"] // 64, **text)
            ),
        }
    parts |= {"tokenizer": tiny().tokenizer, "scheduler": scheduler}
    check_parts(parts)
    return ready(BlurSynthPipeline(**parts))


@pytest.mark.parametrize(
    ("version", "millions"), [(1, (860, 361, 84, 123)), (2, (866, 364, 84, 340))]
)
def test_full_size_stable_diffusion_on_the_meta_device(
    version: int, millions: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real sizes fit together: number of weights, shapes and dtypes through widened ControlNet,
    U-Net and decoder, and memory of activations within the estimate by which tiles are chosen.

    It computes nothing, so it says nothing about values; attention is taken to need no memory
    beyond its result, as the fused kernels do."""
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, *_, **__: torch.empty_like(q))
    pipeline = full_size(version)
    for name, wanted in zip(("unet", "controlnet", "vae", "text_encoder"), millions, strict=True):
        count = sum(value.numel() for value in getattr(pipeline, name).parameters()) / 1e6
        assert count == pytest.approx(wanted, abs=1), name
    assert (tiles.pitch(pipeline.vae), tiles.alignment(pipeline.unet)) == (8, 8)
    denoiser, codec = measured_peaks(pipeline, 64, "meta")
    need = tiles.denoiser_bytes(pipeline.unet, torch.float32) * 64**2
    assert denoiser <= need <= 1.5 * denoiser
    need = tiles.codec_bytes(pipeline.vae, torch.float32) * 64**2
    assert codec <= need <= 1.5 * codec
    # In half precision a tile of 1024 px with guidance fits a GPU of 8 GB beside 2.9 GB of weights.
    weights = 2e6 * sum(millions)
    tile = 128**2 * tiles.codec_bytes(pipeline.vae, torch.float16)
    assert weights + tile < 8e9
