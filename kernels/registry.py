"""Schemas of the operations, and which backend runs each of them.

Every operation is `torch.ops.freqdiff.NAME`. Its body is the plain-torch reference; the compiled
extension and Triton add faster kernels to the same operation by dispatch key. The same schemas
stand in the namespaces `freqdiff_reference` and `freqdiff_triton`, bound to that backend, for tests
and benchmarks.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from freqdiff_kernels import (
    gradients,
    native,
    portable,
    reference,
    reference_attention,
    reference_filter,
)

_ATTENTION = "int window, int halo, float scale, int[] origin"
_WINDOWS = "int window, int stride, str taper, str layout"

SCHEMAS = {
    "fft_features": f"(Tensor image, {_WINDOWS}, ScalarType dtype) -> Tensor",
    "fft_features_backward": f"(Tensor grad, Tensor image, {_WINDOWS}) -> Tensor",
    "fft_bands": f"(Tensor image, {_WINDOWS}, int radial, int angular, ScalarType dtype) -> Tensor",
    "fft_bands_backward": f"(Tensor grad, Tensor image, {_WINDOWS}, int radial, int angular)"
    " -> Tensor",
    "extract_tiles": "(Tensor image, int[] tile, int[] ys, int[] xs, ScalarType dtype, "
    "float scale, float shift) -> Tensor",
    "stitch_tiles": "(Tensor tiles, int[] ys, int[] xs, int[] size, int margin, ScalarType dtype, "
    "float scale, float shift, bool channels_last) -> Tensor",
    "halo_attention": f"(Tensor q, Tensor k, Tensor v, Tensor? bias, {_ATTENTION})"
    " -> (Tensor, Tensor)",
    "halo_attention_backward": "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? bias, "
    f"Tensor out, Tensor lse, {_ATTENTION}) -> (Tensor, Tensor, Tensor, Tensor)",
    "ddim_step": "(Tensor x, Tensor f, Tensor? y, Tensor coefficients, bool clamp) -> Tensor",
    "rasterize_paths": "(Tensor displacements, Tensor weights, int radius) -> Tensor",
    "filter_grid": "(Tensor image, Tensor kernels, int step) -> Tensor",
}

_REFERENCE: dict[str, Callable[..., Any]] = {
    "fft_features": reference.fft_features,
    "fft_features_backward": gradients.fft_features_backward,
    "fft_bands": reference.fft_bands,
    "fft_bands_backward": gradients.fft_bands_backward,
    "extract_tiles": reference.extract_tiles,
    "stitch_tiles": reference.stitch_tiles,
    "halo_attention": reference_attention.halo_attention,
    "halo_attention_backward": reference_attention.halo_attention_backward,
    "ddim_step": reference.ddim_step,
    "rasterize_paths": reference_filter.rasterize_paths,
    "filter_grid": reference_filter.filter_grid,
}
_PLAIN = SimpleNamespace(**_REFERENCE)
"""The references themselves, which leave nothing but plain torch in a trace."""

_TRITON = {
    "halo_attention": "triton_attention",
    "halo_attention_backward": "triton_attention_backward",
    "fft_features": "triton_features",
    "fft_features_backward": "triton_features_backward",
    "fft_bands": "triton_features",
    "fft_bands_backward": "triton_features_backward",
    "ddim_step": "triton_steps",
    "extract_tiles": "triton_tiles",
    "stitch_tiles": "triton_tiles",
}
"""Module of the Triton version of an operation, which has its name and arguments."""

BACKENDS = {
    "default": "freqdiff",
    "reference": "freqdiff_reference",
    "triton": "freqdiff_triton",
}
NAMESPACES = tuple(BACKENDS.values())

_has_triton = importlib.util.find_spec("triton") is not None
_namespace = BACKENDS["default"]


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run all operations on one backend inside this context, for tests and benchmarks.

    Args:
        name: "reference" (plain torch), "triton" (an operation without a Triton kernel runs its
            reference), or "default", the owner that `backends` reports.

    Raises:
        ValueError: the name is unknown, or Triton is not installed.
    """
    global _namespace
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}, expected one of {', '.join(BACKENDS)}")
    if name == "triton" and not _has_triton:
        raise ValueError("backend is 'triton', which is not installed")
    before, _namespace = _namespace, BACKENDS[name]
    try:
        yield
    finally:
        _namespace = before


def implementation() -> Any:
    """The namespace whose operations run now, of torch.ops but in portable form."""
    return _PLAIN if portable.is_portable() else getattr(torch.ops, _namespace)


def backends() -> dict[str, dict[str, str]]:
    """Live backend per operation and device: {"fft_features": {"cpu": "cpp", "cuda": ...}, ...}.

    "cpp" and "cuda" are compiled kernels, "triton" is Triton, "reference" plain torch.
    """
    report = {}
    for name in SCHEMAS:
        if name.endswith("_backward"):
            continue
        cpu = "cpp" if name in _compiled["cpu"] else "reference"
        plain = "triton" if name in _TRITON and _has_triton else "reference"
        report[name] = {"cpu": cpu, "cuda": "cuda" if name in _compiled["cuda"] else plain}
    return report


def _triton(name: str) -> Callable[..., Any]:
    """The Triton version of an operation; the module is imported at the first call."""

    def run(*arguments: Any) -> Any:
        module = importlib.import_module(f"freqdiff_kernels.{_TRITON[name]}")
        return getattr(module, name)(*arguments)

    return run


def _plain(name: str) -> Callable[..., Any]:
    """The reference, in the precision that it asks for: its products are not for autocast."""

    def run(*arguments: Any) -> Any:
        with torch.autocast(arguments[0].device.type, enabled=False):
            return _REFERENCE[name](*arguments)

    return run


def _fallback(name: str) -> Callable[..., Any]:
    """The reference, with one warning where it runs on a GPU."""

    plain = _plain(name)

    def run(*arguments: Any) -> Any:
        native.warn_fallback(name, arguments[0].device)
        return plain(*arguments)

    return run


for _name, _schema in SCHEMAS.items():
    for _space in NAMESPACES:
        torch.library.define(f"{_space}::{_name}", _schema)

# What the extension brought, before anything here adds to it.
_compiled = {
    device: {name for name in SCHEMAS if native.has_kernel(name, device)}
    for device in ("cpu", "cuda")
}

for _name in SCHEMAS:
    _any = "CompositeExplicitAutograd"
    torch.library.impl(f"freqdiff::{_name}", _any, _fallback(_name))
    torch.library.impl(f"freqdiff_reference::{_name}", _any, _plain(_name))
    _ours = _triton(_name) if _name in _TRITON else _plain(_name)
    torch.library.impl(f"freqdiff_triton::{_name}", _any, _ours)
    if _name in _TRITON and _has_triton and _name not in _compiled["cuda"]:
        torch.library.impl(f"freqdiff::{_name}", "CUDA", _ours)
