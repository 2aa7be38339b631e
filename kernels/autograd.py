"""Gradients of the operations as autograd sees them; the formulas are in `gradients`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from freqdiff_kernels import gradients
from freqdiff_kernels.registry import NAMESPACES, SCHEMAS

Setup = Callable[[Any, tuple[Any, ...], Any], None]
Backward = Callable[..., tuple[Any, ...]]


def _save_spectral(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, *ctx.arguments, _ = inputs
    ctx.save_for_backward(image)


def _differentiate_spectral(name: str, namespace: str) -> Backward:
    backward = getattr(getattr(torch.ops, namespace), f"{name}_backward")

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (image,) = ctx.saved_tensors
        return backward(grad, image, *ctx.arguments), *(None,) * (len(ctx.arguments) + 1)

    return differentiate


def _save_extract(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, _, ys, xs, _, scale, _ = inputs
    ctx.arguments = (tuple(image.shape[1:]), list(ys), list(xs), image.dtype, scale)


def _differentiate_extract(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return gradients.extract_tiles_backward(grad, *ctx.arguments), *(None,) * 6


def _save_stitch(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tiles, ys, xs, _, margin, _, scale, _, _ = inputs
    ctx.arguments = (list(ys), list(xs), tuple(tiles.shape[2:]), margin, tiles.dtype, scale)


def _differentiate_stitch(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return gradients.stitch_tiles_backward(grad, *ctx.arguments), *(None,) * 8


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, bias, *ctx.arguments = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.save_for_backward(q, k, v, bias, out, lse)


def _differentiate_attention(namespace: str) -> Backward:
    backward = getattr(torch.ops, namespace).halo_attention_backward

    def differentiate(ctx: Any, grad: Tensor, lse_grad: Tensor | None) -> tuple[Any, ...]:
        *gradients_of_inputs, bias_grad = backward(grad, *ctx.saved_tensors, *ctx.arguments)
        if ctx.saved_tensors[3] is None:
            bias_grad = None
        return *gradients_of_inputs, bias_grad, *(None,) * len(ctx.arguments)

    return differentiate


def _save_step(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, y, coefficients, ctx.clamp = inputs
    ctx.save_for_backward(x, f, y, coefficients)


def _differentiate_step(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, f, y, coefficients = ctx.saved_tensors
    result = gradients.ddim_step_backward(grad, x, f, y, coefficients, ctx.clamp)
    return *result, None


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    pass


def _refuse(name: str) -> Backward:
    """The backward of an operation that has none: of a gradient, or of what synthesises data."""
    forward = name.removesuffix("_backward")
    reason = (
        f"{forward} has no second derivative: its gradient cannot be differentiated again"
        if forward != name
        else f"{name} has no gradient: it cannot be differentiated, so detach its inputs"
    )

    def refuse(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        raise NotImplementedError(reason)

    return refuse


def _register(namespace: str) -> None:
    pairs: dict[str, tuple[Backward, Setup]] = {
        "fft_features": (_differentiate_spectral("fft_features", namespace), _save_spectral),
        "fft_bands": (_differentiate_spectral("fft_bands", namespace), _save_spectral),
        "extract_tiles": (_differentiate_extract, _save_extract),
        "stitch_tiles": (_differentiate_stitch, _save_stitch),
        "halo_attention": (_differentiate_attention(namespace), _save_attention),
        "ddim_step": (_differentiate_step, _save_step),
    }
    pairs |= {name: (_refuse(name), _save_nothing) for name in SCHEMAS if name not in pairs}
    for name, (backward, setup) in pairs.items():
        torch.library.register_autograd(f"{namespace}::{name}", backward, setup_context=setup)


for _namespace in NAMESPACES:
    _register(_namespace)
