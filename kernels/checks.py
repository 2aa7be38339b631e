"""Argument checks of the public functions. Every message names the argument, got and expected."""

import torch
from torch import Tensor

WINDOWS = (8, 16, 32, 64)
TAPERS = ("hann", "none")
LAYOUTS = ("luma", "rgb")
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
FILTER_DTYPES = (torch.float32, torch.float64)
TILE_DTYPES = (*FLOATS, torch.uint8, torch.uint16)


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def check_dtype(name: str, dtype: torch.dtype, allowed: tuple[torch.dtype, ...]) -> None:
    """TypeError unless `dtype` is one of `allowed`."""
    if dtype not in allowed:
        got = str(dtype).removeprefix("torch.")
        raise TypeError(f"{name} is {got}, expected one of {_names(allowed)}")


def check_tensor_dtype(name: str, tensor: Tensor, allowed: tuple[torch.dtype, ...]) -> None:
    """TypeError unless `tensor` is a tensor of an allowed dtype."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}, expected a torch.Tensor")
    check_dtype(f"dtype of {name}", tensor.dtype, allowed)


def check_tensor(name: str, tensor: Tensor, dims: str, allowed: tuple[torch.dtype, ...]) -> None:
    """TypeError unless `tensor` is a tensor of an allowed dtype, ValueError on a wrong rank."""
    check_tensor_dtype(name, tensor, allowed)
    if tensor.dim() != dims.count(",") + 1:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected ({dims})")


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """ValueError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, allowed))}")


def check_image(image: Tensor, stride: int) -> None:
    """An RGB image (B, 3, H, W) whose sides are positive multiples of `stride`."""
    check_tensor("image", image, "B, 3, H, W", (*FLOATS, torch.uint8))
    _, channels, height, width = image.shape
    if channels != 3:
        raise ValueError(f"image has {channels} channels, expected 3 (red, green, blue)")
    if height < 1 or width < 1 or height % stride or width % stride:
        raise ValueError(
            f"image is {height} x {width} pixels, "
            f"expected positive multiples of the stride {stride}"
        )


def check_features(image: Tensor, window: int, stride: int, taper: str, layout: str) -> None:
    """Arguments of `fft_features`."""
    check_choice("window", window, WINDOWS)
    check_choice("stride", stride, (window, window // 2))
    check_choice("taper", taper, TAPERS)
    check_choice("layout", layout, LAYOUTS)
    check_image(image, stride)


def check_features_dtype(dtype: torch.dtype, image: Tensor) -> None:
    """A floating dtype of spectral features: float64 exactly where the image is float64."""
    check_dtype("dtype", dtype, FLOATS)
    if (dtype == torch.float64) != (image.dtype == torch.float64):
        raise TypeError(
            f"dtype is {_names((dtype,))} and that of image {_names((image.dtype,))}, "
            "expected float64 for both or for none"
        )


def check_bands(radial: int, angular: int) -> None:
    """Numbers of bands of `fft_bands`."""
    for name, value in (("radial", radial), ("angular", angular)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected at least 1")


def check_extract(
    image: Tensor, tile: tuple[int, int], starts: tuple[list[int], list[int]], dtype: torch.dtype
) -> None:
    """Arguments of `extract_tiles`, whose image is checked already."""
    check_dtype("dtype", dtype, TILE_DTYPES)
    if min(image.shape[1:]) < 1:
        raise ValueError(f"image has shape {tuple(image.shape)}, expected at least one pixel")
    if min(tile) < 1:
        raise ValueError(f"tile is {tuple(tile)}, expected a positive height and width")
    if not (starts[0] and starts[1]):
        raise ValueError("starts is empty along one axis, expected at least one tile along each")


def check_cover(axis: str, starts: list[int], tile: int, size: int, margin: int) -> None:
    """ValueError unless the tiles cover every pixel of one axis, each at most twice."""
    if not starts:
        raise ValueError(f"starts along {axis} is empty, expected at least one tile")
    if starts[0] > 0 or starts[-1] + tile < size:
        raise ValueError(
            f"tiles along {axis} span [{starts[0]}, {starts[-1] + tile}), "
            f"expected at least [0, {size})"
        )
    for number in range(1, len(starts)):
        overlap = starts[number - 1] + tile - starts[number]
        if starts[number] <= starts[number - 1]:
            raise ValueError(f"starts along {axis} are {starts}, expected increasing numbers")
        if overlap < 2 * margin:
            raise ValueError(
                f"tiles {number - 1} and {number} along {axis} overlap by {overlap} pixels, "
                f"expected at least twice the margin, {2 * margin}"
            )
        if number > 1 and starts[number] < starts[number - 2] + tile:
            raise ValueError(
                f"tiles {number - 2} and {number} along {axis} overlap, "
                "expected at most two tiles over a pixel"
            )


def check_stitch(
    tiles: Tensor,
    starts: tuple[list[int], list[int]],
    size: tuple[int, int],
    margin: int,
    dtype: torch.dtype,
) -> None:
    """Arguments of `stitch_tiles`, whose tiles are checked already."""
    check_dtype("dtype", dtype, TILE_DTYPES)
    expected = len(starts[0]) * len(starts[1])
    if tiles.shape[0] != expected:
        raise ValueError(
            f"tiles holds {tiles.shape[0]} tiles, expected {expected} "
            f"({len(starts[0])} rows of {len(starts[1])})"
        )
    if margin < 0:
        raise ValueError(f"margin is {margin}, expected at least 0")
    if min(size) < 1:
        raise ValueError(f"size is {tuple(size)}, expected a positive height and width")
    check_cover("y", starts[0], tiles.shape[2], size[0], margin)
    check_cover("x", starts[1], tiles.shape[3], size[1], margin)


def check_same_device(name: str, tensor: Tensor, other: str, expected: torch.device) -> None:
    """ValueError unless `tensor` lies on the device of another tensor."""
    if tensor.device != expected:
        raise ValueError(f"{name} is on {tensor.device}, expected that of {other}, {expected}")


def check_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, halo: int, bias: Tensor | None
) -> None:
    """Arguments of `halo_attention`."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, tensor, "B, H, W, heads, d", FLOATS)
        if tensor.shape != q.shape or tensor.dtype != q.dtype:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype}, "
                f"expected that of q, {tuple(q.shape)} {q.dtype}"
            )
        check_same_device(name, tensor, "q", q.device)
    if min(q.shape[1:]) < 1:
        raise ValueError(f"q has shape {tuple(q.shape)}, expected no empty side")
    if window < 1:
        raise ValueError(f"window is {window}, expected at least 1")
    if not 0 <= halo <= window:
        raise ValueError(f"halo is {halo}, expected 0 to the window, {window}")
    if bias is not None:
        check_tensor("bias", bias, "heads, R, R", FLOATS)
        span = 2 * (window + halo) - 1
        expected = (q.shape[3], span, span)
        if tuple(bias.shape) != expected:
            raise ValueError(f"bias has shape {tuple(bias.shape)}, expected {expected}")
        check_same_device("bias", bias, "q", q.device)


def check_step(x: Tensor, f: Tensor, y: Tensor | None, coefficients: Tensor) -> None:
    """Arguments of `ddim_step`."""
    check_tensor("x", x, "B, C, H, W", FLOATS)
    for name, tensor in (("f", f), ("y", y)):
        if tensor is None:
            continue
        check_tensor(name, tensor, "B, C, H, W", FLOATS)
        if tensor.shape != x.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected that of x, {tuple(x.shape)}"
            )
        check_same_device(name, tensor, "x", x.device)
    check_tensor("coefficients", coefficients, "B, 5", (torch.float32, torch.float64))
    if tuple(coefficients.shape) != (len(x), 5):
        raise ValueError(
            f"coefficients has shape {tuple(coefficients.shape)}, expected ({len(x)}, 5)"
        )
    check_same_device("coefficients", coefficients, "x", x.device)


def check_alike(name: str, tensor: Tensor, other: str, expected: Tensor) -> None:
    """Unless `tensor` has the dtype (TypeError) and the device (ValueError) of another tensor."""
    if tensor.dtype != expected.dtype:
        raise TypeError(
            f"dtype of {name} is {_names((tensor.dtype,))}, "
            f"expected that of {other}, {_names((expected.dtype,))}"
        )
    check_same_device(name, tensor, other, expected.device)


def check_paths(displacements: Tensor, weights: Tensor, radius: int) -> None:
    """Arguments of `rasterize_paths`."""
    check_tensor_dtype("displacements", displacements, FILTER_DTYPES)
    check_tensor_dtype("weights", weights, FILTER_DTYPES)
    shape = tuple(displacements.shape)
    if len(shape) < 2 or shape[-1] != 2:
        raise ValueError(f"displacements has shape {shape}, expected (..., N, 2)")
    if tuple(weights.shape) != shape[:-1]:
        raise ValueError(f"weights has shape {tuple(weights.shape)}, expected {shape[:-1]}")
    check_alike("weights", weights, "displacements", displacements)
    if radius < 0:
        raise ValueError(f"radius is {radius}, expected at least 0")


def check_filter(image: Tensor, kernels: Tensor, step: int) -> None:
    """Arguments of `filter_grid`."""
    check_tensor_dtype("image", image, FILTER_DTYPES)
    check_tensor_dtype("kernels", kernels, FILTER_DTYPES)
    if image.dim() not in (3, 4):
        raise ValueError(
            f"image has shape {tuple(image.shape)}, expected (C, H, W) or (B, C, H, W)"
        )
    shape = tuple(kernels.shape)
    batched = image.dim() == 4 and kernels.dim() == 5
    if kernels.dim() != 4 and not batched:
        expected = "(ny, nx, k, k)" + (" or (B, ny, nx, k, k)" if image.dim() == 4 else "")
        raise ValueError(f"kernels has shape {shape}, expected {expected}")
    if batched and len(kernels) != len(image):
        raise ValueError(
            f"kernels holds {len(kernels)} grids, expected one per image, {len(image)}"
        )
    if shape[-1] != shape[-2] or shape[-1] % 2 == 0:
        raise ValueError(
            f"kernels are {shape[-2]} x {shape[-1]} pixels, expected a square of an odd side"
        )
    check_alike("kernels", kernels, "image", image)
    if step < 1:
        raise ValueError(f"step is {step}, expected at least 1")
    height, width = (size - shape[-1] + 1 for size in image.shape[-2:])
    if height < 1 or width < 1:
        raise ValueError(
            f"image is {image.shape[-2]} x {image.shape[-1]} pixels, "
            f"expected at least the size of the kernels, {shape[-1]}"
        )
    for axis, size, nodes in (("y", height, shape[-4]), ("x", width, shape[-3])):
        expected_nodes = -(-size // step) + 1
        if nodes not in (1, expected_nodes):
            raise ValueError(
                f"kernels has {nodes} nodes along {axis}, "
                f"expected 1 or {expected_nodes} ({size} pixels, step {step})"
            )
