"""Model folders: fp16 weights (safetensors shards), the configuration with their sha256, a card."""

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
from safetensors.torch import load, save
from torch import Tensor, nn

from freqdiff.atomic import write_atomically
from freqdiff.denoiser import Denoiser
from freqdiff.errors import ModelError, OutputError
from freqdiff.model import ModelConfig

_CONFIG = "config.json"
_SHARD_BYTES = 15_000_000


def save_model(
    folder: str | os.PathLike[str], model: Denoiser, training: dict[str, Any] | None = None
) -> None:
    """Write a model folder: fp16 weights in shards of at most 15 MB and `config.json`.

    The configuration is written last and names the shards by their sha256, so a folder whose
    writing was interrupted is never taken for a whole one.

    Args:
        folder: made if it is missing.
        model: the weights to save.
        training: facts about the training (steps, data, results), kept in `config.json`.

    Raises:
        OutputError: the folder cannot be written.
    """
    root = Path(folder)
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in weights(model):
        tensor = value.detach().to("cpu", torch.float16).contiguous()
        size += tensor.nbytes
        if size > _SHARD_BYTES and shards[-1]:
            shards.append({})
            size = tensor.nbytes
        shards[-1][name] = tensor
    try:
        root.mkdir(parents=True, exist_ok=True)
        digests = {}
        for number, shard in enumerate(shards, start=1):
            several = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
            content = save(shard)
            write_atomically(root / f"model{several}.safetensors", content)
            digests[f"model{several}.safetensors"] = hashlib.sha256(content).hexdigest()
        config = {
            "model": dataclasses.asdict(model.config),
            "sha256": digests,
            "training": training or {},
        }
        write_atomically(root / _CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    except (OSError, SafetensorError) as error:
        raise OutputError(f"The model cannot be written to {root}: {error}.") from error


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
            f"folder that holds {_CONFIG} and its weights."
        )
    config, digests = _read_config(root / _CONFIG)
    # A configuration may ask for any amount of memory: it gets that of the weights that are there.
    with torch.device("meta"):
        model = Denoiser(config)
    expected = {k: v.shape for k, v in weights(model)}
    largest = most_bytes(model)
    tensors: dict[str, Tensor] = {}
    for name_of_shard, digest in digests.items():
        tensors |= read_shard(root / name_of_shard, digest, largest)
    if expected != {k: v.shape for k, v in tensors.items()}:
        wrong = sorted(set(expected) ^ set(tensors)) or sorted(
            k for k, v in tensors.items() if v.shape != expected[k]
        )
        raise ModelError(
            f"The weights in {root} are of another architecture than {_CONFIG} describes, "
            f"first at {wrong[0]!r}."
        )
    model = Denoiser(config)
    model.load_state_dict({k: v.float() for k, v in tensors.items()})
    return model.eval().requires_grad_(False)


def model_config(settings: dict[str, Any]) -> ModelConfig:
    """The configuration of JSON, where tuples are lists.

    Raises:
        ValueError, TypeError: it describes no model.
    """
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
    }
    return ModelConfig(**values)


def _read_config(path: Path) -> tuple[ModelConfig, dict[str, str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digests = {str(k): str(v) for k, v in content["sha256"].items()}
        if not digests or any(Path(name).name != name for name in digests):
            raise ValueError("sha256 must name the weights files of the folder")
        return model_config(content["model"]), digests
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is not a model configuration: {error}.") from error


def most_bytes(model: nn.Module) -> int:
    """Most that a file of a network's weights takes."""
    return sum(4 * value.numel() + 1000 for value in model.state_dict().values())


def read_shard(path: Path, digest: str, largest: int) -> dict[str, Tensor]:
    """A file of weights of at most `largest` bytes and of this sha256; else raises ModelError."""
    try:
        if not path.is_file() or path.stat().st_size > largest:
            raise OSError(f"it is no file of at most {largest} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read; copy the whole model folder again.") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelError(
            f"{path} is damaged (its sha256 is not the one in {_CONFIG}); fetch the model again."
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a readable safetensors file: {error}.") from error
