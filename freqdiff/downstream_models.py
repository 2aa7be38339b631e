"""Detectors and segmenters of others: ONNX files, and models of Hugging Face transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff.errors import InputError

Network = Callable[[Tensor], dict[str, Tensor]]
"""Image (3, H, W) in [0, 1] -> outputs by name, on the CPU, with `input`, height and width that the
network saw, and `no_object`, whether "nothing" is its last class."""

_MULTIPLE = 32


def load_network(kind: Literal["detection", "segmentation"], model: str, device: str) -> Network:
    """A network by file, folder or name on the hub, from where it is downloaded then.

    Raises:
        InputError: a package is missing, or the model cannot be used.
    """
    if model.endswith(".onnx"):
        return _onnx_network(Path(model))
    return _transformers_network(kind, model, device)


def _onnx_network(path: Path) -> Network:
    """An ONNX file of one picture as input.

    A JSON file of the same name beside it may tell more: how pictures are prepared, by `channels`
    ("rgb" or "bgr"), and `mean` and `std` of values in [0, 1], each of one number or three; and
    `no_object`, whether the last class of a detector's logits is "nothing".
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "ONNX files need the package onnxruntime: install it with "
            'pip install "freqdiff-deblur[downstream]".'
        ) from error
    if not path.is_file():
        raise InputError(f"There is no file {str(path)!r}: give the path of an ONNX model.")
    providers = onnxruntime.get_available_providers()
    try:
        session = onnxruntime.InferenceSession(str(path), providers=providers)
        (source,) = session.get_inputs()
        _, channels, height, width = source.shape
        if isinstance(channels, int) and channels != 3:
            raise ValueError(f"its input has {channels} channels, expected 3")
    # Its errors have no common class below Exception.
    except Exception as error:
        what = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(
            f"{str(path)!r} cannot be used as an ONNX model of photos: {what}."
        ) from error
    settings = _settings_beside(path)
    names = [output.name for output in session.get_outputs()]

    def run(image: Tensor) -> dict[str, Tensor]:
        size = tuple(
            wanted if isinstance(wanted, int) else max(1, round(own / _MULTIPLE)) * _MULTIPLE
            for wanted, own in zip((height, width), image.shape[1:], strict=True)
        )
        values = _resized(image, size)
        if settings["channels"] == "bgr":
            values = values.flip(1)
        values = _normalised(values, settings["mean"], settings["std"])
        found = session.run(names, {source.name: values.numpy()})
        outputs = {
            name: torch.from_numpy(np.asarray(value))
            for name, value in zip(names, found, strict=True)
        }
        facts = {"input": torch.tensor(size), "no_object": torch.tensor(settings["no_object"])}
        return outputs | facts

    return run


def _settings_beside(path: Path) -> dict[str, Any]:
    """What the JSON file beside an ONNX file says, and what holds without it."""
    settings: dict[str, Any] = {"channels": "rgb", "mean": 0.0, "std": 1.0, "no_object": True}
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return settings
    try:
        given = json.loads(beside.read_text(encoding="utf-8"))
        known = set(settings)
        settings |= given
        if set(settings) != known or settings["channels"] not in ("rgb", "bgr"):
            raise ValueError(f'expected {", ".join(known)}, and channels "rgb" or "bgr"')
        for name in ("mean", "std"):
            torch.tensor(settings[name], dtype=torch.float32).expand(3)
        settings["no_object"] = bool(settings["no_object"])
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{str(beside)!r} does not say how to use the model: {error}.") from error
    return settings


def _transformers_network(kind: str, model: str, device: str) -> Network:
    try:
        from transformers import AutoModelForObjectDetection, AutoModelForSemanticSegmentation
        from transformers.image_processing_base import ImageProcessingMixin
    except ImportError as error:
        raise InputError(
            f"A model for {kind} needs the package transformers: install it with "
            'pip install "freqdiff-deblur[downstream]", or give an ONNX file.'
        ) from error
    local = Path(model).is_dir()
    if not local and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
        raise InputError(
            f"{model!r} is no ONNX file, no folder of a model, nor the name of one on the hub."
        )
    where: dict[str, Any] = {"local_files_only": local or bool(os.environ.get("HF_HUB_OFFLINE"))}
    auto = AutoModelForObjectDetection
    if kind == "segmentation":
        auto = AutoModelForSemanticSegmentation
    try:
        network = auto.from_pretrained(model, use_safetensors=True, **where).eval().to(device)
        settings, _ = ImageProcessingMixin.get_image_processor_dict(model, **where)
    except (OSError, ValueError, KeyError) as error:
        what = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"{model!r} cannot be loaded for {kind}: {what}.") from error
    # transformers' own preparation needs torchvision.
    mean, std = 0.0, 1.0
    if settings.get("do_normalize", True) and "image_mean" in settings:
        mean, std = settings["image_mean"], settings["image_std"]

    @torch.inference_mode()
    def run(image: Tensor) -> dict[str, Tensor]:
        size = _wanted_size(settings.get("size"), (image.shape[1], image.shape[2]))
        values = _normalised(_resized(image, size), mean, std)
        outputs = network(pixel_values=values.to(device))
        found = {k: v.float().cpu() for k, v in outputs.items() if isinstance(v, Tensor)}
        logits = found.get("logits", torch.zeros(0))
        no_object = logits.shape[-1] == network.config.num_labels + 1
        return found | {"input": torch.tensor(size), "no_object": torch.tensor(no_object)}

    return run


def _wanted_size(size: Any, own: tuple[int, int]) -> tuple[int, int]:
    """Height and width that a processor's `size` asks for."""
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if not isinstance(size, dict):
        return own
    if "height" in size:
        return int(size["height"]), int(size["width"])
    scale = int(size.get("shortest_edge", min(own))) / min(own)
    if longest := size.get("longest_edge"):
        scale = min(scale, int(longest) / max(own))
    return max(1, round(own[0] * scale)), max(1, round(own[1] * scale))


def _resized(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """(1, 3, h, w), stretched."""
    values = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)
    return values.clamp(0, 1)


def _normalised(values: Tensor, mean: Any, std: Any) -> Tensor:
    centre, spread = (
        torch.tensor(number, dtype=torch.float32).expand(3)[:, None, None] for number in (mean, std)
    )
    return (values - centre) / spread
