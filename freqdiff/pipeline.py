"""`FreqDiffPipeline`: the deblurrer with the conventions of Hugging Face diffusers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from freqdiff.checkpoint import load_model, model_config, shipped_models
from freqdiff.deblurrer import Deblurrer
from freqdiff.denoiser import Denoiser
from freqdiff.diffusion import TRAIN_STEPS
from freqdiff.errors import InputError
from freqdiff.images import ImageInput, open_image
from freqdiff.model import ModelConfig
from freqdiff.sampler import Solver
from freqdiff.sampling import trailing_timesteps

try:
    from diffusers import (
        ConfigMixin,
        DDIMScheduler,
        DiffusionPipeline,
        ImagePipelineOutput,
        ModelMixin,
    )
    from diffusers.configuration_utils import register_to_config
except ImportError as missing:
    raise InputError(
        "FreqDiffPipeline needs the package diffusers: install it with "
        'pip install "freqdiff-deblur[synth]", or use freqdiff.deblur.'
    ) from missing

OutputType = Literal["pil", "np", "pt"]
StepCallback = Callable[[Any, int, int, dict[str, Tensor]], dict[str, Tensor] | None]
_OUTPUTS = ("pil", "np", "pt")


class FreqDiffModel(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The denoiser as a model of diffusers: `save_pretrained`, `from_pretrained`, safetensors.

    Args:
        model: the fields of `freqdiff.model.ModelConfig`.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__()
        self.denoiser = Denoiser(model_config(model))

    @classmethod
    def of(cls, denoiser: Denoiser) -> FreqDiffModel:
        """The model with the weights of a denoiser."""
        model: FreqDiffModel = cls(dataclasses.asdict(denoiser.config))
        model.denoiser.load_state_dict(denoiser.state_dict())
        model.eval().requires_grad_(False)
        return model

    def forward(self, sample: Tensor, timestep: Tensor, blurred: Tensor) -> Tensor:
        """The estimate of the sharp photo, (B, 3, H, W) as all photos, in [-1, 1].

        Args:
            sample: the noisy photo; sides are multiples of the model's alignment.
            timestep: (B,) int64 in [0, 999].
            blurred: the photo.
        """
        return self.denoiser.denoise(sample, timestep, self.denoiser.condition(blurred))


def default_scheduler() -> DDIMScheduler:
    """DDIM as `freqdiff.deblur` runs it: trailing steps, zero terminal SNR, x0 predicted."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="sample",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
    )


class FreqDiffPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Deblurs photos as pipelines of diffusers do; large ones are tiled by themselves.

    Gives what `freqdiff.deblur` gives with the same seed, if the number of steps divides 1000; with
    others diffusers places some of them a thousandth elsewhere. Another scheduler with the same
    noise schedule may take the place of `scheduler`.

    Example:
        pipe = freqdiff.FreqDiffPipeline.from_pretrained("tiny"); sharp = pipe(photo).images[0]

    Args:
        denoiser: the network.
        scheduler: of the steps; see `default_scheduler`.
    """

    _callback_tensor_inputs = ("latents", "denoised")

    def __init__(self, denoiser: FreqDiffModel, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(denoiser=denoiser, scheduler=scheduler)
        self._interrupt = False

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, **options: Any
    ) -> FreqDiffPipeline:
        """Load a pipeline.

        Args:
            pretrained_model_name_or_path: name of a shipped model ("tiny"), a model folder of
                `freqdiff train`, a folder of `save_pretrained`, or a repository ("owner/name") of
                the Hugging Face hub, which is fetched.
            options: of `DiffusionPipeline.from_pretrained`, for the latter two. Weights are read
                from safetensors alone.

        Raises:
            ModelError: there is no such model, or its weights are damaged.
        """
        name = str(pretrained_model_name_or_path)
        folder = Path(name)
        saved = (folder / "model_index.json").is_file()
        hub = name.count("/") == 1 and not name.startswith((".", "~", "/")) and not folder.exists()
        if name in shipped_models() or not (saved or hub):
            if options:
                raise InputError(
                    f"{sorted(options)[0]!r} is an option for folders of save_pretrained; "
                    "use .to() for the device of a model of FreqDiff."
                )
            return cls(FreqDiffModel.of(load_model(name)), default_scheduler())
        pipe = super().from_pretrained(name, use_safetensors=True, **options)
        assert isinstance(pipe, cls)
        pipe.denoiser.to(memory_format=torch.channels_last)
        return pipe

    @property
    def interrupt(self) -> bool:
        """Set `pipe._interrupt = True` in a callback to end with the estimate that is there."""
        return self._interrupt

    def __call__(
        self,
        image: ImageInput | Sequence[ImageInput],
        num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple[Any]:
        """Deblur photos.

        Args:
            image: what `freqdiff.deblur` takes, or a list of that.
            num_inference_steps: 1 (closest to the truth) .. 1000; the model's default if None.
            generator: its `initial_seed()` is the seed of the noise, so that the same generator
                gives the same photo; one for all photos, or a list of one for each. Seed 0 if None.
            output_type: "pil" (list of images; those given as Pillow images keep mode and alpha),
                "np" ((B, H, W, 3) float32 in [0, 1]) or "pt" ((B, 3, H, W) on the CPU).
            return_dict: False returns a tuple (images,).
            callback_on_step_end: called as (pipe, step, timestep, tensors) after each step; may
                return tensors to go on with.
            callback_on_step_end_tensor_inputs: what is in `tensors`: "latents" (x_t, the next noisy
                photo) and "denoised" (x0^, the estimate), (1, 3, rows, columns) in [-1, 1] with
                sides rounded up to the model's alignment.

        Raises:
            InputError: a photo or an option that cannot be used.
        """
        if output_type not in _OUTPUTS:
            raise InputError(f"output_type is {output_type!r}, expected 'pil', 'np' or 'pt'.")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise InputError(
                f"callback_on_step_end_tensor_inputs has {sorted(unknown)[0]!r}, expected "
                "'latents' or 'denoised'."
            )
        if self.denoiser.dtype != torch.float32:
            raise InputError(
                f"The weights are {self.denoiser.dtype}, expected torch.float32: on a GPU the "
                "network runs in bfloat16 by itself, so use .to() for the device alone."
            )
        opened = [open_image(photo) for photo in _listed(image)]
        frames = [frame[None] for photo in opened for frame in photo.rgb]
        seeds = _seeds(generator, len(frames))
        if output_type != "pil" and len({frame.shape for frame in frames}) > 1:
            raise InputError(
                f"The photos differ in size, which output_type={output_type!r} cannot hold: "
                "use 'pil', or give them one by one."
            )
        config: ModelConfig = self.denoiser.denoiser.config
        steps = config.default_steps if num_inference_steps is None else num_inference_steps
        trailing_timesteps(steps)  # refuses what is no number of steps
        deblurrer = Deblurrer(self.denoiser.denoiser, config.name)
        self._interrupt = False
        results = []
        for frame, seed in zip(frames, seeds, strict=True):
            with self.progress_bar(total=steps) as bar:
                solver = self._solver(
                    callback_on_step_end, callback_on_step_end_tensor_inputs, bar.update
                )
                result = deblurrer.restore(frame, steps=steps, seed=seed, solver=solver)
            results.append(result.image)
        self.maybe_free_model_hooks()
        images: Any
        if output_type == "pil":
            images, first = [], 0
            for photo in opened:
                batch = torch.cat(results[first : first + len(photo.rgb)])
                first += len(batch)
                restored = photo.restore(batch)
                whole = isinstance(restored, Image.Image)
                images += [restored] if whole else [_to_pillow(frame) for frame in batch]
        else:
            images = torch.cat(results)
            images = images.permute(0, 2, 3, 1).numpy() if output_type == "np" else images
        return ImagePipelineOutput(images) if return_dict else (images,)

    def _solver(
        self, callback: StepCallback | None, names: Sequence[str], advance: Callable[[], object]
    ) -> Solver:
        """Sampling by the scheduler, with the callback after each step."""

        def solve(denoise: Callable[[Tensor, int], Tensor], noise: Tensor, steps: int) -> Tensor:
            self.scheduler.set_timesteps(steps, device=noise.device)
            x: Tensor = noise * self.scheduler.init_noise_sigma
            denoised = x
            for step, t in enumerate(self.scheduler.timesteps):
                if self.interrupt:
                    return denoised
                seen = self.scheduler.scale_model_input(x, t)
                denoised = denoise(seen, int(t)).clamp_(-1, 1)
                x = self.scheduler.step(denoised, t, x, return_dict=False)[0]
                if callback is not None:
                    tensors = {"latents": x, "denoised": denoised}
                    given = {name: tensors[name] for name in names}
                    tensors |= callback(self, step, int(t), given) or {}
                    x, denoised = tensors["latents"], tensors["denoised"]
                advance()
            return x.clamp(-1, 1)

        return solve


def _listed(image: ImageInput | Sequence[ImageInput]) -> list[ImageInput]:
    if isinstance(image, list | tuple):
        if not image:
            raise InputError("image is an empty list, expected at least one photo.")
        return list(image)
    return [image]  # type: ignore[list-item]


def _seeds(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    if generator is None:
        return [0] * count
    if isinstance(generator, torch.Generator):
        return [generator.initial_seed()] * count
    if len(generator) != count:
        raise InputError(
            f"There are {len(generator)} generators for {count} photos: give one each, or one."
        )
    return [one.initial_seed() for one in generator]


def _to_pillow(frame: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] -> an 8-bit image."""
    pixels = (frame * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels.numpy()))
