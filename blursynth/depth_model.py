"""Depth of a photo by a network of Hugging Face transformers, for photos that come without."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff.errors import InputError

_METRIC = ("glpn", "zoedepth", "depth_pro", "prompt_depth_anything")
"""Kinds of models whose values are metres; others say so, or give inverse depth on no scale."""
_SHORT_SIDE, _MULTIPLE = 480, 32
_NEAREST_M = 0.05


def estimate_depth(photo: Tensor, model: str, *, near_m: float = 1.0) -> Tensor:
    """Depth in metres, as `depth.read_depth` gives it.

    Args:
        photo: (3, H, W) sRGB in [0, 1].
        model: folder of a depth model of transformers, or its name on the hub, from where it is
            downloaded then. Its weights must be safetensors.
        near_m: distance of the nearest thing, for models that know no scale; the farthest thing
            is at infinity then.

    Returns:
        float32 (H, W), > 0; infinity is far away.

    Raises:
        InputError: transformers is not installed, or the model cannot be used.
    """
    network, settings = _load(model)
    values = _prepared(photo, settings)
    with torch.inference_mode():
        predicted = network(values).predicted_depth.float()[:, None]
    if not bool(torch.isfinite(predicted).all()):
        raise InputError(f"Depth model {model} gave values that are not finite: use another one.")
    config = network.config
    kind = getattr(config, "depth_estimation_type", None)
    if kind == "metric" or (kind is None and config.model_type in _METRIC):
        inverse = 1 / predicted.clamp_min(_NEAREST_M)
    else:
        # A few outliers shall not decide what is nearest and farthest.
        low, high = (torch.quantile(_sample(predicted), q) for q in (0.02, 0.98))
        inverse = ((predicted - low) / (high - low).clamp_min(1e-12)).clamp(0, 1) / near_m
    inverse = F.interpolate(inverse, tuple(photo.shape[1:]), mode="bilinear", align_corners=False)
    return (1 / inverse[0, 0]).clone()


def _sample(values: Tensor) -> Tensor:
    """At most a million of them: more are too many for `torch.quantile`."""
    flat = values.flatten()
    return flat[:: 1 + len(flat) // 1_000_000]


def _load(model: str) -> tuple[Any, dict[str, Any]]:
    """The network, and how its pictures are prepared."""
    try:
        from transformers import AutoModelForDepthEstimation
        from transformers.image_processing_base import ImageProcessingMixin
    except ImportError as error:
        raise InputError(
            "A depth model needs the package transformers: install it with "
            'pip install "freqdiff-deblur[synth]", or give a depth map.'
        ) from error
    local = Path(model).is_dir()
    if not local and (model.count("/") != 1 or model.startswith((".", "/", "~"))):
        raise InputError(f"{model} is no folder of a depth model, nor a name of one on the hub.")
    where: dict[str, Any] = {"local_files_only": local or bool(os.environ.get("HF_HUB_OFFLINE"))}
    try:
        network = AutoModelForDepthEstimation.from_pretrained(model, use_safetensors=True, **where)
        settings, _ = ImageProcessingMixin.get_image_processor_dict(model, **where)
    except (OSError, ValueError, KeyError) as error:
        what = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(f"{model} cannot be loaded as a depth model: {what}.") from error
    return network.eval(), settings


def _prepared(photo: Tensor, settings: dict[str, Any]) -> Tensor:
    """(1, 3, h, w) as the network wants it; the shape of the photo is kept, nearly."""
    size = settings.get("size")
    sides = list(size.values()) if isinstance(size, dict) else [size]
    short = min([int(side) for side in sides if side], default=_SHORT_SIDE)
    multiple = int(settings.get("ensure_multiple_of") or settings.get("size_divisor") or _MULTIPLE)
    scale = short / min(photo.shape[1:])
    target = [max(1, round(side * scale / multiple)) * multiple for side in photo.shape[1:]]
    values = F.interpolate(
        photo[None].float(), target, mode="bicubic", align_corners=False, antialias=True
    ).clamp(0, 1)
    if settings.get("do_normalize"):
        mean, std = (
            torch.tensor(settings[name], dtype=torch.float32)[:, None, None]
            for name in ("image_mean", "image_std")
        )
        values = (values - mean) / std
    return values
