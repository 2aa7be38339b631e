"""The state of a training run as one file: what `resume` needs to go on exactly."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.optim import Optimizer

from freqdiff.atomic import make_folder, write_atomically
from freqdiff.data import DataConfig
from freqdiff.denoiser import Denoiser
from freqdiff.errors import TrainingError
from freqdiff.model import ModelConfig
from freqdiff.sharding import shared_out, whole
from freqdiff.train_config import TrainConfig

Averages = dict[str, Tensor]
Settings = dict[str, dict[str, Any]]
_MOMENTS = ("exp_avg", "exp_avg_sq")


def gather(model: nn.Module, ema: Averages, optimizer: Optimizer) -> dict[str, Tensor]:
    """Weights, averages and moments in full; all processes have to ask for it together."""
    tensors: dict[str, Tensor] = {}
    moments = optimizer.state_dict()["state"]
    for index, (name, value) in enumerate(model.named_parameters()):
        tensors[f"model.{name}"] = whole(value)
        tensors[f"ema.{name}"] = whole(ema[name])
        for key, moment in moments.get(index, {}).items():
            tensors[f"{key}.{name}"] = whole(moment)
    return tensors


def spread(
    tensors: dict[str, Tensor], model: nn.Module, ema: Averages, optimizer: Optimizer
) -> None:
    """The reverse of `gather`, whatever number of processes wrote the tensors."""
    state = optimizer.state_dict()
    with torch.no_grad():
        for index, (name, value) in enumerate(model.named_parameters()):
            value.copy_(shared_out(tensors[f"model.{name}"], value))
            ema[name].copy_(shared_out(tensors[f"ema.{name}"], value))
            if f"step.{name}" in tensors:
                state["state"][index] = {"step": tensors[f"step.{name}"]} | {
                    key: shared_out(tensors[f"{key}.{name}"], value) for key in _MOMENTS
                }
    optimizer.load_state_dict(state)


def _same_shapes(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return {k: v.shape for k, v in some.items()} == {k: v.shape for k, v in others.items()}


def take_weights(model: Denoiser, ema: Averages, weights: Denoiser) -> str:
    """Copy the weights of another model, or those of its blur estimator; see the caller.

    Raises:
        TrainingError: the architectures differ.
    """
    tensors = dict(weights.named_parameters())
    own = dict(model.named_parameters())
    part = "weights"
    if not _same_shapes(tensors, own):
        part = "blur estimator"
        tensors, own = (
            {name: value for name, value in values.items() if name.startswith("blur.")}
            for values in (tensors, own)
        )
    if not own or not _same_shapes(tensors, own):
        raise TrainingError(
            f"The weights to start from are of model {weights.config.name!r}, whose "
            f"architecture is not that of {model.config.name!r}."
        )
    with torch.no_grad():
        for name, value in own.items():
            for own_value in (value, ema[name]):
                own_value.copy_(shared_out(tensors[name], value))
    return part


def write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and what else is known, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    make_folder(path.parent)
    write_atomically(path, save(tensors, {key: json.dumps(value) for key, value in facts.items()}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote.

    Raises:
        TrainingError: it is damaged or something else.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return load_file(path), {key: json.loads(value) for key, value in metadata.items()}
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainingError(f"{path} is not a training state: {error}.") from error


def run_settings(
    model: ModelConfig, config: TrainConfig, data: DataConfig, source: str
) -> Settings:
    """What a run that goes on must not change, ready for JSON."""
    settings = {
        "model": dataclasses.asdict(model),
        "train": dataclasses.asdict(dataclasses.replace(config, steps=0, accumulate=1)),
        "data": dataclasses.asdict(data) | {"recipe": repr(data.recipe), "source": source},
    }
    ready: Settings = json.loads(json.dumps(settings, sort_keys=True))
    return ready


_DEFAULTS = run_settings(ModelConfig(""), TrainConfig(), DataConfig(), "photos")
"""Of settings that came later than a run."""


def same_settings(found: Any, own: Settings) -> bool:
    """Whether a run was begun with the settings `own`; those unknown then had their defaults."""
    if not isinstance(found, dict):
        return False
    completed = {
        part: {key: value for key, value in _DEFAULTS[part].items() if key in settings}
        | found.get(part, {})
        for part, settings in own.items()
    }
    return completed == own
