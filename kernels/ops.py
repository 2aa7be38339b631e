"""The operations: schemas, fallbacks, gradients and the public functions.

Every operation is `torch.ops.freqdiff.NAME`. Its body is the plain-torch reference; the compiled
extension adds faster kernels to the same operation by dispatch key.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from freqdiff_kernels import checks, gradients, native, reference

Starts = tuple[Sequence[int], Sequence[int]]

_SCHEMAS = {
    "fft_features": "(Tensor image, int window, int stride, str taper, str layout) -> Tensor",
    "fft_features_backward": "(Tensor grad, Tensor image, int window, int stride, str taper, "
    "str layout) -> Tensor",
    "extract_tiles": "(Tensor image, int[] tile, int[] ys, int[] xs, ScalarType dtype, "
    "float scale, float shift) -> Tensor",
    "stitch_tiles": "(Tensor tiles, int[] ys, int[] xs, int[] size, int margin, ScalarType dtype, "
    "float scale, float shift, bool channels_last) -> Tensor",
}
for _name, _schema in _SCHEMAS.items():
    torch.library.define(f"freqdiff::{_name}", _schema)

_reference_forced = False


@contextmanager
def reference_only() -> Iterator[None]:
    """Run the plain-torch reference instead of every kernel inside this context."""
    global _reference_forced
    before, _reference_forced = _reference_forced, True
    try:
        yield
    finally:
        _reference_forced = before


def _implementation() -> Any:
    return reference if _reference_forced else torch.ops.freqdiff


def backends() -> dict[str, dict[str, str]]:
    """Live backend per operation and device: {"fft_features": {"cpu": "cpp", "cuda": ...}, ...}.

    "cpp" is the compiled kernel, "reference" plain torch.
    """
    names = [name for name in _SCHEMAS if not name.endswith("_backward")]
    report = {
        name: {
            device: "cpp" if native.has_kernel(name, device) else "reference"
            for device in ("cpu", "cuda")
        }
        for name in names
    }
    plain = {"cpu": "reference", "cuda": "reference"}
    return report | {"band_energy": dict(plain), "halo_attention": dict(plain)}


def _register_body(name: str, body: Callable[..., Tensor]) -> None:
    def run(*arguments: Any) -> Tensor:
        native.warn_fallback(name, arguments[0].device)
        return body(*arguments)

    torch.library.impl(f"freqdiff::{name}", "CompositeExplicitAutograd", run)


_register_body("fft_features", reference.fft_features)
_register_body("fft_features_backward", gradients.fft_features_backward)
_register_body("extract_tiles", reference.extract_tiles)
_register_body("stitch_tiles", reference.stitch_tiles)


# Shapes, for tracing.


def _fft_features_fake(image: Tensor, window: int, stride: int, taper: str, layout: str) -> Tensor:
    batch, channels, height, width = image.shape
    planes = channels if layout == "rgb" else 1
    dtype = image.dtype if image.dtype.is_floating_point else torch.float32
    shape = (batch, height // stride, width // stride, planes * 3 * window**2 // 2)
    return image.new_empty(shape, dtype=dtype)


def _fft_features_backward_fake(grad: Tensor, image: Tensor, *options: Any) -> Tensor:
    return image.new_empty(image.shape)


def _extract_tiles_fake(
    image: Tensor,
    tile: list[int],
    ys: list[int],
    xs: list[int],
    dtype: torch.dtype,
    scale: float,
    shift: float,
) -> Tensor:
    shape = (len(ys) * len(xs), image.shape[0], tile[0], tile[1])
    return torch.empty(shape, dtype=dtype, device=image.device, memory_format=torch.channels_last)


def _stitch_tiles_fake(
    tiles: Tensor,
    ys: list[int],
    xs: list[int],
    size: list[int],
    margin: int,
    dtype: torch.dtype,
    scale: float,
    shift: float,
    channels_last: bool,
) -> Tensor:
    channels, (height, width) = tiles.shape[1], size
    if channels_last:
        return tiles.new_empty((height, width, channels), dtype=dtype).permute(2, 0, 1)
    return tiles.new_empty((channels, height, width), dtype=dtype)


torch.library.register_fake("freqdiff::fft_features", _fft_features_fake)
torch.library.register_fake("freqdiff::fft_features_backward", _fft_features_backward_fake)
torch.library.register_fake("freqdiff::extract_tiles", _extract_tiles_fake)
torch.library.register_fake("freqdiff::stitch_tiles", _stitch_tiles_fake)


# Gradients.


def _save_features(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, *ctx.arguments = inputs
    ctx.save_for_backward(image)


def _differentiate_features(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (image,) = ctx.saved_tensors
    result = torch.ops.freqdiff.fft_features_backward(grad, image, *ctx.arguments)
    return result, None, None, None, None


def _save_extract(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, _, ys, xs, _, scale, _ = inputs
    ctx.arguments = (tuple(image.shape[1:]), list(ys), list(xs), image.dtype, scale)


def _differentiate_extract(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return gradients.extract_tiles_backward(grad, *ctx.arguments), *(None,) * 6


def _save_stitch(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tiles, ys, xs, _, margin, _, scale, _, _ = inputs
    ctx.arguments = (list(ys), list(xs), tuple(tiles.shape[2:]), margin, tiles.dtype, scale)


def _differentiate_stitch(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return gradients.stitch_tiles_backward(grad, *ctx.arguments), *(None,) * 8


for _name, _differentiate, _save in (
    ("fft_features", _differentiate_features, _save_features),
    ("extract_tiles", _differentiate_extract, _save_extract),
    ("stitch_tiles", _differentiate_stitch, _save_stitch),
):
    torch.library.register_autograd(f"freqdiff::{_name}", _differentiate, setup_context=_save)


# Public functions.


def fft_features(
    image: Tensor, window: int, stride: int, taper: str = "hann", layout: str = "luma"
) -> Tensor:
    """Log magnitude and phase of windowed Fourier spectra, differentiable in the image.

    Args:
        image: (B, 3, H, W), floating in [0, 1] or uint8; H and W are multiples of `stride`.
        window: P, side of the analysed window: 8, 16, 32 or 64 pixels.
        stride: S, pitch of the tokens: P or P/2 pixels. A window is centred on its token; pixels
            outside the image are reflected.
        taper: "hann" (periodic, separable) or "none".
        layout: "luma" (one spectrum per token) or "rgb" (one per colour).

    Returns:
        (B, H/S, W/S, G*3*P*P/2), G = 1 or 3, with blocks [log rho | Re X/rho | Im X/rho] of P*P/2
        channels per plane, rho = sqrt(|X|^2 + e^2), in the dtype of the image (float32 for uint8).

    Raises:
        TypeError: unsupported dtype.
        ValueError: wrong shape or option.
    """
    checks.check_features(image, window, stride, taper, layout)
    result: Tensor = _implementation().fft_features(image, window, stride, taper, layout)
    return result


def band_energy(image: Tensor, window: int, radial: int, angular: int) -> Tensor:
    """Log of the mean window power of (B, 3, H, W) in frequency bands: (B, radial*angular).

    See `reference.band_energy`. H and W are multiples of `window`.

    Raises:
        TypeError: unsupported dtype.
        ValueError: wrong shape or option.
    """
    checks.check_bands(image, window, radial, angular)
    return reference.band_energy(image, window, radial, angular)


def extract_tiles(
    image: Tensor,
    tile: tuple[int, int],
    starts: Starts,
    dtype: torch.dtype | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
) -> Tensor:
    """Cut (C, H, W), any strides, into tiles (len(ys)*len(xs), C, th, tw), channels last.

    Args:
        image: uint8, uint16 or floating.
        tile: (th, tw) in pixels.
        starts: (ys, xs), first row and column of the tiles; outside the image it is reflected.
        dtype: of the result; the image's if that is floating, else float32, if None.
        scale, shift: every value becomes value*scale + shift, in float32 (float64 for float64).

    Raises:
        TypeError: unsupported dtype.
        ValueError: wrong shape.
    """
    checks.check_tensor("image", image, "C, H, W", checks.TILE_DTYPES)
    if dtype is None:
        dtype = image.dtype if image.dtype.is_floating_point else torch.float32
    ys, xs = list(starts[0]), list(starts[1])
    checks.check_extract(image, tile, (ys, xs), dtype)
    result: Tensor = _implementation().extract_tiles(
        image, list(tile), ys, xs, dtype, float(scale), float(shift)
    )
    return result


def stitch_tiles(
    tiles: Tensor,
    starts: Starts,
    size: tuple[int, int],
    margin: int = 0,
    dtype: torch.dtype | None = None,
    scale: float = 1.0,
    shift: float = 0.0,
    channels_last: bool = False,
) -> Tensor:
    """Blend overlapping tiles (N, C, th, tw), any strides, into (C, H, W).

    Neighbours are blended with a raised cosine over their overlap, less `margin` pixels at each end
    where only the tile further from its own border counts. Bit exact where the tiles agree.

    Args:
        tiles: row-major over (ys, xs); uint8, uint16 or floating.
        starts: (ys, xs), first row and column of the tiles in the image, increasing.
        size: (H, W). The tiles must cover it, at most two over a pixel along each axis.
        margin: in pixels.
        dtype: of the result; that of the tiles if None. Integers are clamped and rounded half to
            even.
        scale, shift: every value becomes value*scale + shift.
        channels_last: lay the memory out as (H, W, C).

    Raises:
        TypeError: unsupported dtype.
        ValueError: wrong shape, an uncovered pixel or too many tiles over one.
    """
    checks.check_tensor("tiles", tiles, "N, C, th, tw", checks.TILE_DTYPES)
    dtype = tiles.dtype if dtype is None else dtype
    ys, xs = list(starts[0]), list(starts[1])
    checks.check_stitch(tiles, (ys, xs), size, margin, dtype)
    result: Tensor = _implementation().stitch_tiles(
        tiles, ys, xs, list(size), margin, dtype, float(scale), float(shift), channels_last
    )
    return result


def halo_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    halo: int,
    bias: Tensor | None = None,
    scale: float | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Tensor:
    """Attention of window x window blocks of queries to their block plus `halo` pixels around.

    See `reference.halo_attention`; q, k, v and the result are (B, H, W, heads, d).

    Raises:
        TypeError: unsupported dtype.
        ValueError: wrong shape.
    """
    checks.check_attention(q, k, v, window, halo, bias)
    return reference.halo_attention(q, k, v, window, halo, bias, scale, origin)
