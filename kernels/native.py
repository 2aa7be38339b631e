"""The compiled extension: loading it, and telling why it is not there."""

import importlib.util
import warnings

import torch


def _load() -> str:
    """Load the extension, which registers its kernels; returns the status."""
    if importlib.util.find_spec("freqdiff_kernels._C") is None:
        return "not built"
    try:
        importlib.import_module("freqdiff_kernels._C")
    except (ImportError, OSError, RuntimeError) as error:
        return f"failed: {error}"
    return "loaded"


status = _load()
"""'loaded', 'not built' or 'failed: why' (for example, built for an older torch)."""

_warned: set[str] = set()


def has_kernel(name: str, device: str) -> bool:
    """Whether freqdiff::name has a kernel of its own for a device type such as "cpu" or "cuda"."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device, device)
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
