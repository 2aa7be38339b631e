"""Facts about the installation: versions, hardware, live kernels, models."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from freqdiff import __version__, memory
from freqdiff.checkpoint import load_model, shipped_models
from freqdiff.errors import ModelError
from freqdiff.processor import cpu_features, cpu_name
from freqdiff_kernels import native, ops

_OPTIONAL = ("triton", "accelerate", "tensorboard", "tifffile", "imagecodecs")


def collect() -> dict[str, Any]:
    """Everything that `freqdiff info` shows, ready for JSON."""
    return {
        "freqdiff": __version__,
        "git": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "packages": {name: _version(name) for name in _OPTIONAL},
        "platform": platform.platform(),
        "cpu": {
            "name": cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch_uses": torch.backends.cpu.get_cpu_capability(),
            "features": cpu_features(),
        },
        "gpus": [
            {
                "name": torch.cuda.get_device_name(index),
                "memory_bytes": torch.cuda.get_device_properties(index).total_memory,
                "capability": list(torch.cuda.get_device_capability(index)),
            }
            for index in range(torch.cuda.device_count())
        ],
        "extension": {
            "status": native.status,
            "instructions": native.cpu_level(),
            "build": native.build_info(),
        },
        "ops": ops.backends(),
        "models": {name: model_facts(path) for name, path in shipped_models().items()},
    }


def describe(facts: dict[str, Any]) -> str:
    """The facts as lines for people."""
    cpu = facts["cpu"]
    gib = 1024**3
    gpus = [f"{g['name']}, {g['memory_bytes'] / gib:.0f} GiB" for g in facts["gpus"]]
    packages = [f"{k} {v or 'not installed'}" for k, v in facts["packages"].items()]
    rows = [
        ("freqdiff", facts["freqdiff"] + (f" ({facts['git']})" if facts["git"] else "")),
        ("python", f"{facts['python']} on {facts['platform']}"),
        ("torch", f"{facts['torch']}, CUDA {facts['cuda'] or 'not built in'}"),
        ("packages", ", ".join(packages)),
        ("cpu", f"{cpu['name']}, {cpu['cores']} cores, {cpu['threads']} threads"),
        ("", f"torch uses {cpu['torch_uses']}; the CPU has {' '.join(cpu['features'])}"),
        ("gpu", "; ".join(gpus) or "none that torch can use"),
        ("extension", _extension(facts["extension"])),
    ]
    for name, live in facts["ops"].items():
        rows.append(("op", f"{name:<16}" + ", ".join(f"{k}: {v}" for k, v in live.items())))
    for name, model in facts["models"].items():
        size = f"{model['parameters']:,} parameters, {model['bytes'] / 1e6:.1f} MB"
        sound = f"{size}, sha256 {model['sha256']}"
        rows.append(("model", f"{name:<16}{model['error'] or sound}"))
    if not facts["models"]:
        rows.append(("model", "none are shipped with this installation"))
    return "\n".join(f"{title:<11}{text}" for title, text in rows)


def _extension(facts: dict[str, Any]) -> str:
    if facts["status"] != "loaded":
        return f"{facts['status']}; the plain-torch reference runs instead"
    build = ", ".join(f"{key} {value}" for key, value in facts["build"].items())
    return f"loaded, using {facts['instructions']} instructions; {build}"


def model_facts(name: str | Path) -> dict[str, Any]:
    """Parameters, size and sha256 of a model's weights, and `error` if it cannot be loaded.

    Weights in several files count as one file, in the order of their names.
    """
    facts: dict[str, Any] = {"parameters": 0, "bytes": 0, "sha256": None, "error": None}
    try:
        model = load_model(name)
        facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        folder = shipped_models().get(str(name), Path(name))
        contents = [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]
        facts["bytes"] = sum(map(len, contents))
        facts["sha256"] = hashlib.sha256(b"".join(contents)).hexdigest()
    except (ModelError, OSError) as error:
        facts["error"] = str(error)
    return facts


def provenance(device: torch.device) -> dict[str, Any]:
    """What a row of results says about where it was made."""
    return {
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "extension": native.status,
        "torch": torch.__version__,
        "freqdiff": __version__,
        "git": git_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def peak_memory(device: torch.device) -> int:
    """Most bytes that were in use: by torch on a GPU, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return memory.peak_memory()


def git_commit() -> str | None:
    """Commit of the checkout that runs, with "-dirty" if files differ; None if installed."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def device_name(device: torch.device) -> str:
    """Name of a GPU, or of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def _version(package: str) -> str | None:
    """Version of an installed package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
