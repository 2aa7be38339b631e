"""Model folders: fp16 weights (safetensors), the configuration, their sha256, and a model card."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.resources
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from freqdiff.denoiser import Denoiser
from freqdiff.errors import ModelError, OutputError
from freqdiff.model import ModelConfig

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def save_model(
    folder: str | os.PathLike[str], model: Denoiser, training: dict[str, Any] | None = None
) -> str:
    """Write a model folder: `model.safetensors` in fp16 and `config.json` with its sha256.

    Args:
        folder: made if it is missing.
        model: the weights to save.
        training: facts about the training (steps, data, results), kept in `config.json`.

    Returns:
        The sha256 of the weights file.

    Raises:
        OutputError: the folder cannot be written.
    """
    root = Path(folder)
    tensors = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in weights(model)}
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = root / (_WEIGHTS + ".partial")
        save_file(tensors, temporary)
        digest = _sha256(temporary)
        os.replace(temporary, root / _WEIGHTS)
        config = {
            "model": dataclasses.asdict(model.config),
            "sha256": {_WEIGHTS: digest},
            "training": training or {},
        }
        temporary = root / (_CONFIG + ".partial")
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, root / _CONFIG)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"The model cannot be written to {root}: {error}.") from error
    return digest


def weights(model: Denoiser) -> list[tuple[str, Tensor]]:
    """Names and tensors of a model's state, in a fixed order."""
    return sorted(model.state_dict().items())


def shipped_models() -> dict[str, Path]:
    """Names and folders of the models inside the package."""
    root = importlib.resources.files("freqdiff") / "weights"
    folders = [Path(str(p)) for p in root.iterdir()] if root.is_dir() else []
    return {p.name: p for p in sorted(folders) if (p / _CONFIG).is_file()}


def load_model(name: str | os.PathLike[str]) -> Denoiser:
    """Load a shipped model by name, or a model folder by path; fp32 on the CPU, in eval mode.

    Raises:
        ModelError: unknown name, no such folder, a damaged file (its sha256 differs), or weights
            that do not fit the configuration.
    """
    shipped = shipped_models()
    root = shipped.get(str(name)) or Path(name)
    if not (root / _CONFIG).is_file():
        known = ", ".join(shipped) or "none"
        raise ModelError(
            f"There is no model {str(name)!r}: shipped are {known}; otherwise give the path of a "
            f"folder that holds {_CONFIG} and {_WEIGHTS}."
        )
    config, digest = _read_config(root / _CONFIG)
    path = root / _WEIGHTS
    if not path.is_file():
        raise ModelError(f"{path} is missing; copy the whole model folder again.")
    if _sha256(path) != digest:
        raise ModelError(
            f"{path} is damaged (its sha256 is not the one in {_CONFIG}); fetch the model again."
        )
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}.") from error
    model = Denoiser(config)
    expected = {k: v.shape for k, v in weights(model)}
    if expected != {k: v.shape for k, v in tensors.items()}:
        wrong = sorted(set(expected) ^ set(tensors)) or sorted(
            k for k, v in tensors.items() if v.shape != expected[k]
        )
        raise ModelError(
            f"{path} holds another architecture than {_CONFIG} describes, first at {wrong[0]!r}."
        )
    model.load_state_dict({k: v.float() for k, v in tensors.items()})
    return model.eval().requires_grad_(False)


def _read_config(path: Path) -> tuple[ModelConfig, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content["model"].items()
        }
        return ModelConfig(**settings), str(content["sha256"][_WEIGHTS])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a model configuration: {error}.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
