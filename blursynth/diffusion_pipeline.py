"""PhysicsGuided-BlurSynth, Algorithm 1 of the paper, as a pipeline of diffusers.

Stable Diffusion with a ControlNet blurs a sharp photo as its camera would: this module needs the
packages diffusers and transformers; `diffusion_load.load_pipeline` says so in a sentence.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from blursynth import diffusion_tiles as tiles
from blursynth.blur_transfer import BlurEstimate, apply_blur, estimate_blur
from blursynth.camera import Camera
from blursynth.clip_tokens import CONTEXT
from blursynth.diffusion_conditions import (
    PHYSICS_CHANNELS,
    Condition,
    Content,
    Physics,
    camera_vectors,
    check_request,
    combine,
    stack,
)
from blursynth.diffusion_config import Output
from blursynth.diffusion_foretell import foretell
from blursynth.diffusion_predict import predict
from freqdiff.errors import InputError
from freqdiff.tone import linear_to_srgb, srgb_to_linear


@dataclasses.dataclass(frozen=True)
class BlurSynthOutput:
    """What the pipeline makes of B photos.

    Attributes:
        images: (B, 3, H, W) blurred photos, sRGB in [0, 1]; what they are depends on `output`.
        generated: (B, 3, H, W) as the VAE decoded them.
        blur: with "attributes", the blur of each generated photo, which `images` have.
    """

    images: Tensor
    generated: Tensor
    blur: list[BlurEstimate] | None


class BlurSynthPipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin):  # type: ignore[misc]
    """Blurs photos with a Stable Diffusion of any size.

    Args:
        vae: `AutoencoderKL`.
        text_encoder, tokenizer: `CLIPTextModel`, `CLIPTokenizer`.
        unet: `UNet2DConditionModel`.
        controlnet: `ControlNetModel` with the 7 channels of `Condition.control`.
        scheduler: `DDIMScheduler`.
        camera_encoder: `CameraEncoder`, or None: the text alone tells the settings.
        change_scale: of a base whose latents are what blur changes: one over their usual deviation.
            Its U-Net sees what is known of the latents (`diffusion_change`) beside the noisy ones,
            as InstructPix2Pix (Brooks et al. 2023), and tells the change as a normal distribution.
            None, as in Stable Diffusion: latents are those of the blurred photo, without more.
    """

    model_cpu_offload_seq = "text_encoder->camera_encoder->unet->vae"
    _optional_components: ClassVar = ["camera_encoder"]
    _callback_tensor_inputs: ClassVar = ["latents"]

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        controlnet: Any,
        scheduler: Any,
        camera_encoder: Any = None,
        change_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
            camera_encoder=camera_encoder,
        )
        self.register_to_config(change_scale=change_scale)

    @torch.no_grad()
    def __call__(
        self,
        sharp: Tensor,
        cameras: Camera | Sequence[Camera],
        physics_maps: Tensor | None = None,
        *,
        prompts: Sequence[str] | None = None,
        num_inference_steps: int = 10,
        guidance_scale: float = 1.0,
        controlnet_conditioning_scale: float = 1.0,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        tile: int | None = None,
        output: Output = "attributes",
        callback_on_step_end: Callable[[Any, int, int, dict[str, Tensor]], Any] | None = None,
    ) -> BlurSynthOutput:
        """Blur sharp photos: Algorithm 1.

        Args:
            sharp: (B, 3, H, W) sRGB in [0, 1], of any size.
            cameras: settings of each photo, or of all.
            physics_maps: (B, 4, H, W) of `physics_map`; without, nothing is told of the blur but
                the settings.
            prompts: instead of `Camera.prompt`.
            num_inference_steps: of DDIM.
            guidance_scale: w of classifier-free guidance: noise(c_content) + w (noise(c) -
                noise(c_content)); 1 evaluates c alone.
            controlnet_conditioning_scale: of what the ControlNet adds; 0 blurs without seeing photo
                and maps.
            eta: 0 is deterministic, 1 ancestral sampling.
            generator: source of the noise, one for all or one for each photo.
            latents: z_T, (B, C, h, w) standard normal, instead of drawing it.
            tile: side of the tiles in pixels, rounded down; None: as large as the memory allows.
            output: "attributes" gives the sharp photo with the blur of the generated one, "pixels"
                the generated one.
            callback_on_step_end: called as `callback(pipeline, step, timestep, {"latents": z})`
                after each step; may return a dictionary with other latents.

        Raises:
            InputError: a shape or a setting that cannot be used.
        """
        cameras = [cameras] * len(sharp) if isinstance(cameras, Camera) else list(cameras)
        check_request(sharp, cameras, physics_maps, guidance_scale, output)
        device, dtype = self._execution_device, self.unet.dtype
        padded = self._padded(sharp.to(device, dtype))
        maps = None if physics_maps is None else self._padded(physics_maps.to(device, dtype))

        # Algorithm 1: sharp photo I_s, camera settings p -> blurred photo I_b.
        # 1: c_content <- I_s, the input of the ControlNet
        c_content = self.encode_content(padded, tile=tile)
        # 2: c_physics <- CLIP(text of p), numbers of p, map of the blur that physics predicts
        c_physics = self.encode_physics(cameras, padded, maps, prompts, tile=tile)
        # 3: c <- Combine(c_content, c_physics)
        c = [combine(c_content, c_physics)]
        guided = guidance_scale > 1
        if guided:
            c.insert(0, combine(c_content, self.unknown_physics(padded)))
        # 4: z_T ~ N(0, I)
        z = self.initial_latents(padded, generator, latents)
        # 5: for t = T, ..., 1, trailing
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            # 6: noise <- UNet(z_t, t, c, ControlNet(z_t, t, c)), by tiles
            noise = self._predict_tiled(z, t, c, controlnet_conditioning_scale, tile)
            if guided:
                without, told = noise.chunk(2)
                noise = without + guidance_scale * (told - without)
            # 7: z_{t-1} <- DDIM(z_t, noise, t)
            z = self.scheduler.step(
                noise, t, z, eta=eta, generator=generator if eta > 0 else None, return_dict=False
            )[0]
            if callback_on_step_end is not None:
                changed = callback_on_step_end(self, i, int(t), {"latents": z})
                z = (changed or {}).get("latents", z)
        # 8: I_b <- VAE decoder(z_0)
        generated = self.decode_blurred(z, c_content, tile=tile).clamp(0, 1)
        generated = generated[..., : sharp.shape[-2], : sharp.shape[-1]]

        images, blur = generated, None
        if output == "attributes":
            seen = self.decode(self.encode(padded, tile=tile), tile=tile).clamp(0, 1)
            seen = seen[..., : sharp.shape[-2], : sharp.shape[-1]]
            light = srgb_to_linear(sharp.to(device).float())
            blur = [
                estimate_blur(srgb_to_linear(after), srgb_to_linear(before), one)
                for after, before, one in zip(generated, seen, light, strict=True)
            ]
            blurred = [apply_blur(one, b) for one, b in zip(light, blur, strict=True)]
            images = linear_to_srgb(torch.stack(blurred).clamp(0, 1))
        self.maybe_free_model_hooks()
        return BlurSynthOutput(images, generated, blur)

    def encode_content(self, sharp: Tensor, *, tile: int | None = None) -> Content:
        """c_content of B photos (B, 3, H, W), with latents where the base needs them."""
        if self.config.change_scale is None:
            return Content(sharp)
        return Content(sharp, self.encode(sharp, tile=tile))

    def encode_physics(
        self,
        cameras: Sequence[Camera],
        content: Tensor,
        maps: Tensor | None = None,
        prompts: Sequence[str] | None = None,
        known: Sequence[bool] | None = None,
        *,
        tile: int | None = None,
    ) -> Physics:
        """c_physics of B photos.

        Args:
            cameras: of each photo.
            content: (B, 3, H, W) the photos, for device, dtype and size.
            maps: (B, 4, H, W) of `physics_map`; without, nothing is told.
            prompts: instead of `Camera.prompt`.
            known: false where the camera is not told at all; without, all are.
            tile: of the VAE, as in a call.
        """
        known = [True] * len(content) if known is None else list(known)
        text = [camera.prompt() for camera in cameras] if prompts is None else list(prompts)
        tokens = self.encode_text([one if k else "" for one, k in zip(text, known, strict=True)])
        mask = torch.tensor(known, device=tokens.device)
        if self.camera_encoder is not None:
            vectors = camera_vectors(cameras).to(tokens)
            tokens = torch.cat((tokens, self.camera_encoder(vectors, mask)), 1)
        if maps is None or not any(known):
            size = (len(content), PHYSICS_CHANNELS, *content.shape[-2:])
            return Physics(tokens, content.new_zeros(size))
        maps = maps * mask[:, None, None, None]
        if self.config.change_scale is None:
            return Physics(tokens, maps)
        return Physics(tokens, maps, self.encode(foretell(content, maps), tile=tile))

    def unknown_physics(self, content: Tensor) -> Physics:
        """c_physics of B photos (B, 3, H, W) whose camera is not told: for guidance."""
        count = len(content)
        return self.encode_physics([Camera()] * count, content, known=[False] * count)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """(B, 77, D) of the text encoder; what is longer than 77 tokens is cut."""
        ids = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=CONTEXT,
            return_tensors="pt",
        ).input_ids
        hidden: Tensor = self.text_encoder(ids.to(self._execution_device))[0]
        return hidden

    def encode(
        self, images: Tensor, *, tile: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Latents (B, C, h, w), scaled to unit variance, of photos (B, 3, H, W) sRGB in [0, 1].

        H and W are multiples of `diffusion_tiles.pitch`. The mean of the posterior without a
        generator, a sample of it with one.
        """
        factor = tiles.pitch(self.vae)

        def encoded(pixels: Tensor, _place: tuple[int, int]) -> Tensor:
            posterior = self.vae.encode(pixels).latent_dist
            latent: Tensor = posterior.mode() if generator is None else posterior.sample(generator)
            return latent

        size = (images.shape[-2] // factor, images.shape[-1] // factor)
        plan = self._codec_plan(size, tile)
        pixels = 2 * images.to(self.vae.dtype) - 1
        z = tiles.apply_tiled(encoded, pixels, plan, scale_in=factor)
        config = self.vae.config
        scaled: Tensor = (z - (config.shift_factor or 0.0)) * config.scaling_factor
        return scaled

    def decode(self, latents: Tensor, *, tile: int | None = None) -> Tensor:
        """Photos (B, 3, H, W) float32 sRGB, not clamped, of latents (B, C, h, w)."""
        config = self.vae.config
        z = latents.to(self.vae.dtype) / config.scaling_factor + (config.shift_factor or 0.0)

        def decoded(part: Tensor, _place: tuple[int, int]) -> Tensor:
            pixels: Tensor = self.vae.decode(part, return_dict=False)[0].float()
            return pixels

        plan = self._codec_plan((z.shape[-2], z.shape[-1]), tile)
        pixels = tiles.apply_tiled(decoded, z, plan, scale_out=tiles.pitch(self.vae))
        return pixels.add_(1).div_(2)

    def encode_blurred(
        self, blurred: Tensor, content: Content, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """z_0 (B, C, h, w) of blurred photos (B, 3, H, W), which the diffusion learns to make."""
        z = self.encode(blurred, generator=generator)
        scale = self.config.change_scale
        if scale is None:
            return z
        assert content.latents is not None
        change: Tensor = scale * (z - content.latents)
        return change

    def decode_blurred(self, z: Tensor, content: Content, *, tile: int | None = None) -> Tensor:
        """Blurred photos (B, 3, H, W) float32 sRGB, not clamped, of z_0 and the sharp photos."""
        scale = self.config.change_scale
        if scale is not None:
            assert content.latents is not None
            z = content.latents + z / scale
        return self.decode(z, tile=tile)

    def _predict_tiled(
        self, z: Tensor, timestep: Tensor, c: list[Condition], scale: float, tile: int | None
    ) -> Tensor:
        """Predictions (len(c) B, C, h, w) of whole frames with each condition."""
        factor = tiles.pitch(self.vae)
        z = self.scheduler.scale_model_input(z, timestep).repeat(len(c), 1, 1, 1)
        if tile is None:
            need = tiles.denoiser_bytes(self.unet, z.dtype, len(z))
            largest = tiles.largest_tile(need, z.device, tiles.alignment(self.unet))
        else:
            largest = tile // factor
        plan = tiles.denoiser_tiles(self.unet, (z.shape[-2], z.shape[-1]), largest)

        def predicted(part: Tensor, place: tuple[int, int]) -> Tensor:
            # Side by side only here, as whole frames would take the memory once more.
            seen = functools.reduce(stack, (one.cut(place, part.shape[-2:], factor) for one in c))
            return predict(self, part, timestep, seen, scale, sampling=True).value

        return tiles.apply_tiled(predicted, z, plan)

    def _codec_plan(self, size: tuple[int, int], tile: int | None) -> Any:
        if tile is None:
            need = tiles.codec_bytes(self.vae, self.vae.dtype)
            largest = tiles.largest_tile(need, self._execution_device)
        else:
            largest = tile // tiles.pitch(self.vae)
        return tiles.codec_tiles(size, largest)

    def _padded(self, images: Tensor) -> Tensor:
        """Photos whose sides the VAE and the U-Net can halve."""
        unit = tiles.pitch(self.vae) * tiles.alignment(self.unet)
        height, width = images.shape[-2:]
        return F.pad(images, (0, -width % unit, 0, -height % unit), mode="replicate")

    def initial_latents(
        self,
        images: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """z_T (B, C, h, w) for photos (B, 3, H, W) as for `encode`.

        Args:
            images: for device, dtype and size.
            generator, latents: as in a call.

        Raises:
            InputError: latents of another shape.
        """
        rows, columns = (side // tiles.pitch(self.vae) for side in images.shape[-2:])
        shape = (len(images), self.vae.config.latent_channels, rows, columns)
        if latents is None:
            latents = randn_tensor(
                shape, generator=generator, device=images.device, dtype=images.dtype
            )
        elif latents.shape != shape:
            raise InputError(f"latents are {tuple(latents.shape)}, expected {shape} for the photo.")
        noise: Tensor = latents.to(images) * self.scheduler.init_noise_sigma
        return noise
