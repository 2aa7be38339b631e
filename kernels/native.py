"""The compiled extension: loading it, and telling why it is not there."""

import importlib
import importlib.util
import warnings
from types import ModuleType
from typing import Any

import torch


def _load() -> tuple[ModuleType | None, str]:
    """Load the extension, which registers its kernels; returns it and the status."""
    if importlib.util.find_spec("freqdiff_kernels._C") is None:
        return None, "not built"
    try:
        return importlib.import_module("freqdiff_kernels._C"), "loaded"
    except (ImportError, OSError, RuntimeError) as error:
        return None, f"failed: {error}"


_extension, status = _load()
"""`status` is 'loaded', 'not built' or 'failed: why' (for example, built for another torch)."""

_warned: set[str] = set()


def build_info() -> dict[str, Any]:
    """Compiler, torch and CUDA of the build; empty where there is none."""
    return dict(_extension.build_info()) if _extension else {}


def cpu_levels() -> list[str]:
    """Instruction sets that the processor can run, slowest first; empty without the extension."""
    return list(_extension.cpu_levels()) if _extension else []


def cpu_level() -> str:
    """The instruction set in use; 'none' without the extension."""
    return str(_extension.cpu_level()) if _extension else "none"


def set_cpu_level(name: str) -> None:
    """Use one of `cpu_levels()` from now on. ValueError for another name."""
    if _extension:
        _extension.set_cpu_level(name)


def release_memory() -> None:
    """Free the block that the CPU kernels keep for their next large result (less than 256 MB)."""
    if _extension:
        _extension.release_memory()


def has_kernel(name: str, device: str) -> bool:
    """Whether freqdiff::name has a kernel of its own for a device type such as "cpu" or "cuda"."""
    key = {"cpu": "CPU", "cuda": "CUDA"}[device]
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(f"freqdiff::{name}", key))


def warn_fallback(name: str, device: torch.device) -> None:
    """Warn once per operation when the plain-torch reference runs on a GPU."""
    if device.type != "cpu" and name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"{name} has no kernel for {device.type} in this installation; "
            "the slower plain-torch version runs instead (see `python -m freqdiff info`)",
            stacklevel=3,
        )
