"""The state of a training run as one safetensors file: tensors, and JSON of where it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from freqdiff.atomic import write_atomically
from freqdiff.errors import TrainingError

STATE = "state.safetensors"


def write_state(
    folder: Path, tensors: Mapping[str, Tensor], settings: str, facts: dict[str, Any]
) -> None:
    """Write a state.

    Args:
        folder: of the run.
        tensors: weights and moments by name.
        settings: what a run must share to go on from here.
        facts: where the run stands, as JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"settings": settings, "facts": json.dumps(facts)}
    write_atomically(folder / STATE, save(content, metadata))


def read_state(folder: Path, settings: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and facts of `write_state`; None if the folder holds no state.

    Raises:
        TrainingError: the state is of a run with other settings or photos, or damaged.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{str(path)!r} is not a training state ({error}): give another folder."
        ) from error
    if metadata.get("settings") != settings:
        raise TrainingError(
            f"{str(path)!r} was written by a run with other settings or photos: "
            "give the same ones, or another folder."
        )
    return tensors, json.loads(metadata["facts"])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments of an optimiser as "index.field"."""
    return {
        f"{index}.{field}": value
        for index, moments in optimizer.state_dict()["state"].items()
        for field, value in moments.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the moments of `optimizer_tensors`, in the memory formats of its weights,
    which fused steps take for granted."""
    state = optimizer.state_dict()
    weights = [one for group in optimizer.param_groups for one in group["params"]]
    for key, value in tensors.items():
        index, _, field = key.partition(".")
        like = weights[int(index)]
        if value.shape == like.shape:
            value = torch.empty_like(like, requires_grad=False).copy_(value)
        state["state"].setdefault(int(index), {})[field] = value
    optimizer.load_state_dict(state)


def put(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same under a common name."""
    return {f"{name}.{key}": value for key, value in tensors.items()}


def take(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `put` has put under a name."""
    start = f"{name}."
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
