"""The deblurrer as one graph for other runtimes: `torch.export` programs and ONNX files.

The graphs hold operations that every runtime knows: Fourier transforms are products with DFT
matrices, there are no complex numbers and no operations of this package. They take one photo at a
time, of a fixed size or of any size from `SMALLEST_SIDE` on; what is too large for the memory is
the caller's to tile.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_config

from freqdiff.atomic import write_atomically
from freqdiff.deblurrer import Deblurrer, changed_share, keep_flat, tie_low_band
from freqdiff.denoiser import Denoiser
from freqdiff.errors import FreqDiffError, InputError
from freqdiff.sampling import ddim, trailing_timesteps
from freqdiff_kernels.portable import portable

Part = Literal["deblur", "denoiser"]
Format = Literal["onnx", "torch-export"]
PARTS: tuple[Part, ...] = ("deblur", "denoiser")
FORMATS: tuple[Format, ...] = ("onnx", "torch-export")
SMALLEST_SIDE, LARGEST_SIDE = 160, 16384
"""Of photos of any size: below, tracing takes sizes of 1 in coarse maps for constants."""
_ALIGNMENT = 32
_OPSET = 20
_ONNX_MISSING = (
    "ONNX files need the packages onnx and onnxscript: install them with "
    'pip install "freqdiff-deblur[onnx]".'
)


class DeblurGraph(nn.Module):
    """What `freqdiff.deblur` does with a photo that is not tiled, for a number of steps."""

    def __init__(self, denoiser: Denoiser, steps: int) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.steps = steps

    def forward(self, photo: Tensor, noise: Tensor | None = None) -> Tensor:
        """Deblur.

        Args:
            photo: (1, 3, H, W) in [0, 1].
            noise: (1, 3, H, W) standard normal; None where a single step does not depend on it.

        Returns:
            (1, 3, H, W) in [0, 1].
        """
        y = _aligned(photo) * 2 - 1
        maps = self.denoiser.condition(y)
        x = torch.zeros_like(y) if noise is None else _aligned(noise)

        def denoise(x_t: Tensor, t: int) -> Tensor:
            return self.denoiser.denoise(x_t, torch.full((1,), t, device=x_t.device), maps)

        x0 = ddim(denoise, x, self.steps)
        result = x0[..., : photo.shape[2], : photo.shape[3]] * 0.5 + 0.5
        result = keep_flat(tie_low_band(result, photo), photo).clamp(0, 1)
        return torch.where(changed_share(result, photo) > 0, result, photo)


class DenoiserGraph(nn.Module):
    """One evaluation of the network with its condition, for samplers of one's own."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x_t: Tensor, t: Tensor, blurred: Tensor) -> Tensor:
        """x0^ (1, 3, H, W) at time step t (1,) int64 in [0, 999]; all photos in [-1, 1]."""
        maps = self.denoiser.condition(_aligned(blurred))
        x0 = self.denoiser.denoise(_aligned(x_t), t, maps)
        return x0[..., : blurred.shape[2], : blurred.shape[3]]


def _aligned(photo: Tensor) -> Tensor:
    """Sides rounded up to multiples of 32 by reflection."""
    for axis in (2, 3):
        length = photo.shape[axis]
        index = torch.arange((length + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT)
        index = torch.minimum(index, 2 * (length - 1) - index).to(photo.device)
        photo = photo.index_select(axis, index)
    return photo


def needs_noise(denoiser: Denoiser, steps: int) -> bool:
    """Whether the result of so many steps depends on the noise."""
    return steps > 1 or denoiser.config.objective != "anchored"


def to_torch_export(
    model: Deblurrer,
    *,
    part: Part = "deblur",
    size: tuple[int, int] | None = None,
    steps: int | None = None,
) -> ExportedProgram:
    """Trace a part of a model as a graph of plain torch operations in float32.

    Args:
        model: on the CPU.
        part: "deblur" (`DeblurGraph`) or "denoiser" (`DenoiserGraph`).
        size: (height, width) of the photos, at least 32 px; any from 160 to 16384 px if None,
            for models without attention.
        steps: of "deblur"; the model's default if None. The graph holds each of them.

    Returns:
        Inputs are named as the arguments of the `forward` of these classes.

    Raises:
        InputError: an option that cannot be used.
    """
    denoiser = model.denoiser
    steps = denoiser.config.default_steps if steps is None else steps
    trailing_timesteps(steps)
    if part not in PARTS:
        raise InputError(f"part is {part!r}, expected 'deblur' or 'denoiser'.")
    if size is not None and min(size) < _ALIGNMENT:
        raise InputError(f"size is {size}, expected a height and a width of at least 32 px.")
    if size is None and denoiser.config.attention:
        raise InputError(
            f"Model {model.name!r} has attention, whose windows need a photo of known size: give "
            "a size."
        )
    if model.device.type != "cpu":
        raise InputError(f"The model is on {model.device}, expected the CPU: load it with 'cpu'.")
    height, width = size or (SMALLEST_SIDE + 40, SMALLEST_SIDE + 170)
    # Other than H = W, so that tracing does not take the one for the other.
    photo, noise = torch.rand(1, 3, height, width), torch.randn(1, 3, height, width)
    graph: nn.Module
    arguments: dict[str, Tensor]
    if part == "denoiser":
        graph = DenoiserGraph(denoiser)
        arguments = {"x_t": noise, "t": torch.tensor([500]), "blurred": photo * 2 - 1}
    else:
        graph = DeblurGraph(denoiser, steps)
        arguments = {"photo": photo}
        if needs_noise(denoiser, steps):
            arguments["noise"] = noise
    shapes = None
    if size is None:
        sides = {
            axis: Dim(name, min=SMALLEST_SIDE, max=LARGEST_SIDE)
            for axis, name in ((2, "height"), (3, "width"))
        }
        shapes = {name: sides if value.ndim == 4 else None for name, value in arguments.items()}
    # Sizes are not to be told from 0, 1 or each other while tracing, and what the solver cannot
    # prove of them, such as that 4 floor((n - 1) / 4) < n + 1, may be checked at run time.
    with torch.no_grad(), portable(), _oblivious(size is None):
        graph.eval()(**arguments)  # makes the constants
        return torch.export.export(
            graph,
            (),
            arguments,
            dynamic_shapes=shapes,
            prefer_deferred_runtime_asserts_over_guards=size is None,
        )


def to_onnx(program: ExportedProgram) -> bytes:
    """An ONNX file (opset 20) of a program of `to_torch_export`; its output is called "sharp".

    Raises:
        InputError: onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(_ONNX_MISSING) from error
    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, opset_version=_OPSET, output_names=["sharp"], verbose=False
        )
    assert exported is not None
    proto = exported.model_proto
    if foreign := {node.domain for node in proto.graph.node} - {"", "ai.onnx"}:
        raise FreqDiffError(f"The graph holds operations of {sorted(foreign)}, expected none.")
    proto.producer_name = "freqdiff"
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def export(
    path: str | os.PathLike[str],
    model: Deblurrer,
    *,
    format: Format = "onnx",
    part: Part = "deblur",
    size: tuple[int, int] | None = None,
    steps: int | None = None,
) -> None:
    """Write a graph to a file, whole or not at all; arguments as of `to_torch_export`.

    Raises:
        InputError: an option that cannot be used, or "onnx" without the packages for it.
        OutputError: the file cannot be written.
    """
    if format not in FORMATS:
        raise InputError(f"format is {format!r}, expected 'onnx' or 'torch-export'.")
    if format == "onnx" and importlib.util.find_spec("onnxscript") is None:
        raise InputError(_ONNX_MISSING)  # before the minute that tracing takes
    program = to_torch_export(model, part=part, size=size, steps=steps)
    if format == "onnx":
        content = to_onnx(program)
    else:
        stream = io.BytesIO()
        with _quiet():
            torch.export.save(program, stream)
        content = stream.getvalue()
    write_atomically(path, content)


def _oblivious(wanted: bool) -> contextlib.AbstractContextManager[None]:
    patch: contextlib.AbstractContextManager[None] = symbolic_config.patch(  # type: ignore[attr-defined]
        backed_size_oblivious=wanted
    )
    return patch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter tells of torchvision and of constants that it folds."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
