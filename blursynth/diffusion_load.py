"""Loading a base for the diffusion engine: from a folder, or by its name on the hub."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from blursynth.checksums import check_sums, write_sums
from blursynth.diffusion_config import SHIPPED
from freqdiff.errors import ModelError

if TYPE_CHECKING:
    from blursynth.diffusion_pipeline import BlurSynthPipeline

LORA_FILE = "pytorch_lora_weights.safetensors"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def load_pipeline(
    base: str,
    controlnet: str | None = None,
    lora: str | None = None,
    *,
    new_parts: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> BlurSynthPipeline:
    """A pipeline of this project, or Stable Diffusion 1.x or 2.x with a ControlNet, ready to blur.

    Weights must be safetensors. The network is used only for names that are no folders.

    Args:
        base: folder, name on the hub, or "small", the shipped one.
        controlnet: the same; without, the one in `base`.
        lora: folder or file of LoRA weights, which are added to those of the parts.
        new_parts: make what a base lacks, untrained: ControlNet and camera encoder.
        dtype: of the weights.
        device: where they go.

    Raises:
        ModelError: a package or a part is missing, damaged or does not fit; one sentence.
    """
    require("diffusers", "the diffusion engine")
    require("transformers", "the diffusion engine")
    from blursynth.diffusion_base import check_parts, ready
    from blursynth.diffusion_pipeline import BlurSynthPipeline

    if base == SHIPPED:
        base = str(Path(__file__).with_name("weights") / SHIPPED)
    index = _index(base)
    check_sums(base)
    with _quiet():
        parts = _parts(base, index, controlnet, new_parts, dtype)
    check_parts(parts)
    pipeline = ready(BlurSynthPipeline(**parts))
    if lora is not None:
        load_lora(pipeline, lora)
        _fuse_lora(pipeline)
    pipeline.to(device)
    return pipeline


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers: reading and writing weights takes seconds."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def require(package: str, what: str, extra: str = "synth") -> None:
    """Raise ModelError, which says how to install it, if a package is not there."""
    try:
        __import__(package)
    except ImportError as error:
        install = f'install it with pip install "freqdiff-deblur[{extra}]"'
        raise ModelError(f"{what} needs the package {package}: {install}.".capitalize()) from error


def _where(name: str) -> dict[str, bool]:
    """Whether to stay off the network, for the functions of diffusers and transformers."""
    return {"local_files_only": Path(name).is_dir() or bool(os.environ.get("HF_HUB_OFFLINE"))}


def _index(base: str) -> dict[str, Any]:
    """What parts a base says to have."""
    if not Path(base).is_dir() and not _HUB_NAME.fullmatch(base):
        raise ModelError(f"{base!r} is no folder of a base, nor a name of one on the hub.")
    path = Path(base) / "model_index.json"
    try:
        if not Path(base).is_dir():
            from huggingface_hub import hf_hub_download

            offline = _where(base)["local_files_only"]
            path = Path(hf_hub_download(base, path.name, local_files_only=offline))
        index = dict(json.loads(path.read_text(encoding="utf-8")))
    # The hub's library has many errors, of several packages.
    except Exception as error:
        raise _unusable(base, "model_index.json", error) from error
    for part in ("text_encoder_2", "transformer"):
        if index.get(part, [None])[0] is not None:
            raise ModelError(
                f"The base {base!r} is a Stable Diffusion XL or newer, as it has a {part}: "
                "give a Stable Diffusion 1.x or 2.x."
            )
    for part in ("unet", "vae", "text_encoder"):
        if index.get(part, [None])[0] is None:
            raise ModelError(
                f"The base {base!r} has no {part}: give a whole Stable Diffusion 1.x or 2.x."
            )
    return index


def _parts(
    base: str,
    index: dict[str, Any],
    controlnet: str | None,
    new_parts: bool,
    dtype: torch.dtype,
) -> dict[str, Any]:
    from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from blursynth.clip_tokens import clip_merges, clip_tokenizer
    from blursynth.diffusion_base import make_controlnet, make_scheduler
    from blursynth.diffusion_conditions import CameraEncoder
    from blursynth.pixel_codec import PixelCodec

    def load(kind: Any, part: str, name: str = base, folder: str | None = None) -> Any:
        if name == base:
            folder = part
        options: dict[str, Any] = {} if folder is None else {"subfolder": folder}
        options |= _where(name)
        if issubclass(kind, torch.nn.Module):
            options["use_safetensors"] = True
            options["dtype" if kind is CLIPTextModel else "torch_dtype"] = dtype
        try:
            return kind.from_pretrained(name, **options)
        except Exception as error:
            raise _unusable(name, part, error) from error

    def has(part: str) -> bool:
        return bool(index.get(part, [None])[0] is not None)

    parts: dict[str, Any] = {
        "change_scale": index.get("change_scale"),
        "vae": load(PixelCodec if "PixelCodec" in index["vae"] else AutoencoderKL, "vae"),
        "text_encoder": load(CLIPTextModel, "text_encoder"),
        "unet": load(UNet2DConditionModel, "unet"),
        "tokenizer": load(CLIPTokenizer, "tokenizer")
        if has("tokenizer")
        else clip_tokenizer(clip_merges()),
    }
    own = load(DDIMScheduler, "scheduler").config if has("scheduler") else {}
    parts["scheduler"] = make_scheduler(own)
    if controlnet is not None:
        if not Path(controlnet).is_dir() and not _HUB_NAME.fullmatch(controlnet):
            raise ModelError(f"{controlnet!r} is no folder of a ControlNet, nor a name on the hub.")
        parts["controlnet"] = load(ControlNetModel, "ControlNet", controlnet)
    elif has("controlnet"):
        parts["controlnet"] = load(ControlNetModel, "controlnet")
    elif new_parts:
        parts["controlnet"] = make_controlnet(parts["unet"], parts["vae"])
    else:
        raise ModelError(
            f"The base {base!r} has no ControlNet, without which it would not see the photo: "
            "give one that was made for this base."
        )
    if has("camera_encoder"):
        parts["camera_encoder"] = load(CameraEncoder, "camera_encoder")
    elif new_parts:
        width = parts["text_encoder"].config.hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            parts["camera_encoder"] = CameraEncoder(width)
    return parts


def _unusable(name: str, part: str, error: Exception) -> ModelError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    what = (lines[0] if lines else type(error).__name__).rstrip(".:")
    where = "a complete folder" if Path(name).is_dir() else "a folder, or check name and network"
    return ModelError(f"Cannot load the {part} of {name!r} ({what}): give {where}.")


def load_lora(pipeline: BlurSynthPipeline, path: str) -> None:
    """Add LoRA weights to U-Net, text encoder, ControlNet and decoder, by PEFT.

    Args:
        pipeline: that the weights were made for.
        path: a .safetensors file, or a folder with `pytorch_lora_weights.safetensors`.

    Raises:
        ModelError: PEFT is not installed, no such file, or weights of another base.
    """
    require("peft", "LoRA")
    from safetensors.torch import load_file

    file = Path(path) / LORA_FILE if Path(path).is_dir() else Path(path)
    try:
        weights = load_file(file)
        parts = {
            part: {key: value for key, value in weights.items() if key.startswith(f"{part}.")}
            for part in ("unet", "controlnet", "vae")
        }
        rest = {key: value for key, value in weights.items() if key.split(".")[0] not in parts}
        if rest:
            # A text encoder's, or names of other programs, which the pipelines of diffusers know.
            pipeline.load_lora_weights(rest | parts.pop("unet"))
        for part, own in parts.items():
            if own:
                getattr(pipeline, part).load_lora_adapter(own, prefix=part)
        if not weights:
            raise ValueError("the file is empty")
    except Exception as error:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise ModelError(
            f"Cannot use the LoRA weights {str(file)!r} ({what}): give weights of this base."
        ) from error


def _fuse_lora(pipeline: BlurSynthPipeline) -> None:
    """Add the LoRA weights to those of the parts: quicker, and `save_pipeline` keeps them."""
    for name in ("unet", "controlnet", "vae"):
        part = getattr(pipeline, name)
        if getattr(part, "peft_config", None):
            part.fuse_lora()
            part.unload_lora()
    if getattr(pipeline.text_encoder, "peft_config", None):
        pipeline.fuse_lora(["text_encoder"])
        pipeline.unload_lora_weights()


def add_lora(
    pipeline: BlurSynthPipeline,
    rank: int = 8,
    parts: tuple[str, ...] = ("unet", "controlnet"),
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"),
) -> list[torch.nn.Parameter]:
    """Add trainable LoRA weights, which do nothing yet, and give them; all others stay frozen.

    Of the part "vae" the decoder gets them.

    Raises:
        ModelError: PEFT is not installed.
    """
    require("peft", "LoRA")
    from peft import LoraConfig

    added = []
    for name in parts:
        part = getattr(pipeline, name)
        within = "decoder." if name == "vae" else ""
        names = [key for key, _ in part.named_modules() if key.startswith(within)]
        chosen = [key for key in names if key.endswith(tuple(f".{end}" for end in targets))]
        part.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=chosen))
        added += [value for key, value in part.named_parameters() if "lora_" in key]
    return added


def save_lora(
    pipeline: BlurSynthPipeline,
    folder: str | os.PathLike[str],
    parts: tuple[str, ...] = ("unet", "controlnet"),
) -> None:
    """Write the LoRA weights for `load_lora`; other programs read those of the U-Net.

    Raises:
        ModelError: PEFT is not installed.
        OutputError: the file cannot be written.
    """
    require("peft", "LoRA")
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    from freqdiff.atomic import make_folder, write_atomically

    weights = {
        f"{name}.{key}": value.detach().contiguous()
        for name in parts
        for key, value in get_peft_model_state_dict(getattr(pipeline, name)).items()
    }
    make_folder(folder)
    write_atomically(Path(folder) / LORA_FILE, save(weights))


def save_pipeline(pipeline: BlurSynthPipeline, folder: Path) -> None:
    """Write a pipeline with weights in float16 for `load_pipeline`; the one that the folder holds
    is replaced by the whole new one.

    Raises:
        OSError: the folder cannot be written.
    """
    parts: dict[str, Any] = {
        name: copy.deepcopy(part).half() if isinstance(part, torch.nn.Module) else part
        for name, part in pipeline.components.items()
    }
    for part in parts.values():
        if hasattr(part, "register_to_config"):
            part.register_to_config(_name_or_path="")  # a folder of this machine
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    with _quiet():
        type(pipeline)(**parts, change_scale=pipeline.config.change_scale).save_pretrained(new)
    write_sums(new)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def weights_digest(pipeline: BlurSynthPipeline) -> str:
    """SHA-256 of all weights of a pipeline."""
    digest = hashlib.sha256()
    for name, part in sorted(pipeline.components.items()):
        if isinstance(part, torch.nn.Module):
            for key, value in sorted(part.state_dict().items()):
                digest.update(f"{name}.{key}".encode())
                digest.update(value.float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
