"""The public functions: checked arguments, documented results.

Each runs `torch.ops.freqdiff.NAME`: differentiable, traceable by torch.compile and torch.export,
on the fastest backend of the tensor's device (see `backends`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# The imports of shapes and autograd register them.
from freqdiff_kernels import autograd, checks, reference, registry, shapes  # noqa: F401
from freqdiff_kernels.registry import backends, use_backend

__all__ = [
    "backends",
    "band_energy",
    "ddim_step",
    "extract_tiles",
    "fft_bands",
    "fft_features",
    "filter_grid",
    "halo_attention",
    "rasterize_paths",
    "stitch_tiles",
    "use_backend",
]

Starts = tuple[Sequence[int], Sequence[int]]


def fft_features(
    image: Tensor,
    window: int,
    stride: int,
    taper: str = "hann",
    layout: str = "luma",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Log magnitude and phase of windowed Fourier spectra, differentiable in the image.

    Args:
        image: (B, 3, H, W), floating in [0, 1] or uint8; H and W are multiples of `stride`.
        window: P, side of the analysed window: 8, 16, 32 or 64 pixels.
        stride: S, pitch of the tokens: P or P/2 pixels. A window is centred on its token; pixels
            outside the image are reflected.
        taper: "hann" (periodic, separable) or "none".
        layout: "luma" (one spectrum per token) or "rgb" (one per colour).
        dtype: of the result, floating; that of the image (float32 for uint8) if None.

    Returns:
        (B, H/S, W/S, G*3*P*P/2), G = 1 or 3, with blocks [log rho | Re X/rho | Im X/rho] of P*P/2
        channels per plane, rho = sqrt(|X|^2 + e^2), e = P / (255 sqrt(12)), the 8-bit noise floor.

    Raises:
        TypeError: unsupported dtype.
        ValueError: wrong shape or option.
    """
    checks.check_features(image, window, stride, taper, layout)
    dtype = reference.features_dtype(image, dtype)
    checks.check_features_dtype(dtype, image)
    result: Tensor = registry.implementation().fft_features(
        image, window, stride, taper, layout, dtype
    )
    return result


def fft_bands(
    image: Tensor,
    window: int,
    stride: int,
    radial: int,
    angular: int,
    taper: str = "hann",
    layout: str = "luma",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Log of the mean power of each window in frequency bands, differentiable in the image.

    Args:
        image, window, stride, taper, layout, dtype: as for `fft_features`.
        radial: rings of equal width up to 0.5 cycles per pixel; what lies beyond, towards the
            corners, belongs to the last.
        angular: sectors of the direction of the wave vector over [0, pi).

    Returns:
        (B, H/S, W/S, G*radial*angular), all sectors of a ring side by side. White noise of variance
        s^2 gives log(s^2 + f) in every band, f = 1 / (12 * 255^2), the power of 8-bit rounding,
        which is all that a band without frequencies holds. DC is excluded.

    Raises:
        TypeError: unsupported dtype.
        ValueError: wrong shape or option.
    """
    checks.check_features(image, window, stride, taper, layout)
    checks.check_bands(radial, angular)
    dtype = reference.features_dtype(image, dtype)
    checks.check_features_dtype(dtype, image)
    result: Tensor = registry.implementation().fft_bands(
        image, window, stride, taper, layout, radial, angular, dtype
    )
    return result


def band_energy(image: Tensor, window: int, radial: int, angular: int) -> Tensor:
    """Log of the mean power of all windows side by side (Welch) in bands: (B, radial*angular).

    See `fft_bands`; H and W of the image (B, 3, H, W) are multiples of `window`.

    Raises:
        TypeError: unsupported dtype.
        ValueError: wrong shape or option.
    """
    wide = reference.compute_dtype(image.dtype)
    bands = fft_bands(image, window, window, radial, angular, dtype=wide)
    result = bands.exp().mean((1, 2)).log()
    return result.to(reference.features_dtype(image, None))


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
    result: Tensor = registry.implementation().extract_tiles(
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
    result: Tensor = registry.implementation().stitch_tiles(
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
    """Attention of each window x window block of queries to its block plus `halo` pixels around.

    Differentiable in q, k, v and bias; the backward is deterministic.

    Args:
        q, k, v: (B, H, W, heads, d), any strides, floating; H and W need not be multiples of the
            window. Keys outside the image are masked.
        window, halo: in pixels, 0 <= halo <= window.
        bias: (heads, R, R), R = 2 (window + halo) - 1, relative position bias: entry
            [h, dy + R // 2, dx + R // 2] is added to the logits of the pairs whose key lies
            (dy, dx) below and to the right of the query; or None.
        scale: factor of the logits, d^-0.5 if None.
        origin: (y, x) of pixel (0, 0) in the frame. The grid of blocks is anchored to the frame, so
            that a tile gives what the frame gives.

    Returns:
        (B, H, W, heads, d), contiguous, in the dtype of q.

    Raises:
        TypeError: unsupported dtype.
        ValueError: wrong shape or option.
    """
    checks.check_attention(q, k, v, window, halo, bias)
    scale = q.shape[4] ** -0.5 if scale is None else float(scale)
    result: Tensor = registry.implementation().halo_attention(
        q, k, v, bias, window, halo, scale, list(origin)
    )[0]
    return result


def ddim_step(
    x: Tensor, f: Tensor, y: Tensor | None, coefficients: Tensor, clamp: bool = True
) -> Tensor:
    """One step of DDIM with its preconditioning: x' = kx x + k0 x0^, x0^ = cx x + cf f + cy y.

    Covers the anchored, epsilon and v objectives; differentiable in all tensors. kx = 0 and k0 = 1
    give the estimate x0^ itself.

    Args:
        x: (B, C, H, W) the noisy image x_t, floating.
        f: (B, C, H, W) output of the network, floating, of any dtype.
        y: (B, C, H, W) what the preconditioning is anchored to, floating, or None where cy = 0.
        coefficients: (B, 5) float32 (float64 for float64) on the same device: cx, cf, cy, kx, k0.
        clamp: whether x0^ is clamped to [-1, 1].

    Returns:
        x' (B, C, H, W) in dtype and memory format of x.

    Raises:
        TypeError: unsupported dtype.
        ValueError: wrong shape.
    """
    checks.check_step(x, f, y, coefficients)
    result: Tensor = registry.implementation().ddim_step(x, f, y, coefficients, clamp)
    return result


def rasterize_paths(displacements: Tensor, weights: Tensor, radius: int) -> Tensor:
    """Blur kernels of motion paths: every shift splits its weight between its four nearest pixels.

    Convolution with such a kernel moves each share of the light by its shift; `filter_grid` does
    that. The split is bilinear, so a kernel has no negative values and keeps the centroid of its
    path. Not differentiable.

    Args:
        displacements: (..., N, 2) shifts (dy, dx) in pixels, downwards and to the right, float32 or
            float64; clamped to [-radius, radius] along each axis.
        weights: (..., N) in the same dtype, such as the share of the exposure at each shift.
        radius: r, of the kernels in pixels, >= 0.

    Returns:
        (..., 2r+1, 2r+1), contiguous, in the dtype of the displacements: no shift lies at (r, r),
        and the sum is that of the weights up to rounding. A NaN makes its kernel useless: some or
        all of it is NaN.

    Raises:
        TypeError: unsupported or different dtypes.
        ValueError: wrong shape or radius.
    """
    checks.check_paths(displacements, weights, radius)
    result: Tensor = registry.implementation().rasterize_paths(displacements, weights, radius)
    return result


def filter_grid(image: Tensor, kernels: Tensor, step: int = 192) -> Tensor:
    """Convolution with a kernel that varies over the image, known at the nodes of a grid.

    Efficient filter flow (Hirsch et al., Efficient filter flow for space-variant multiframe blind
    deconvolution, CVPR 2010) with bilinear weights: a pixel of the result is the mean of the images
    that the kernels of its four nodes would give there, weighted by where its centre lies between
    them. Not differentiable.

    On the CPU the time grows with the number of taps: only those that are 0 at all four nodes
    around a block are left out. docs/kernels.md tells from how many on an FFT is faster. Sums are
    taken in the dtype of the image, in groups of taps: with kernels of one sign float32 is off by
    about 1e-7 of the result at 1000 taps and 2e-7 at 16000.

    Args:
        image: (C, H + k - 1, W + k - 1) or (B, C, H + k - 1, W + k - 1), finite, float32 or
            float64: what the result sees, (k - 1) / 2 pixels more on each side. Any strides;
            adjacent pixels in a row are read in place.
        kernels: (ny, nx, k, k), or (B, ny, nx, k, k) for a grid per image, of the dtype of the
            image; k is odd. Entry (i, j) moves light by (i - k // 2, j - k // 2) pixels, as
            `rasterize_paths` lays it out. The nodes number ny = ceil(H / step) + 1 and
            nx = ceil(W / step) + 1, or 1 along an axis for the same kernels all along it.
        step: distance of the nodes in pixels, >= 1: node (i, j) lies at (i step, j step), where
            the upper left corner of the result is (0, 0) and the centre of its first pixel
            (0.5, 0.5).

    Returns:
        (C, H, W) or (B, C, H, W), contiguous, in the dtype of the image.

    Raises:
        TypeError: unsupported or different dtypes.
        ValueError: wrong shape or step.
    """
    checks.check_filter(image, kernels, step)
    images = image if image.dim() == 4 else image[None]
    grids = kernels if kernels.dim() == 5 else kernels[None]
    result: Tensor = registry.implementation().filter_grid(images, grids, step)
    return result if image.dim() == 4 else result[0]
