"""Every operation on shapes and options that nobody thought of: the kernel against the reference.

The tolerance is loose on purpose, because the precision is tested elsewhere: what lies in the wrong
place or was never written is off by more.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from freqdiff_kernels import native, registry

pytestmark = pytest.mark.skipif(native.status != "loaded", reason="needs the compiled kernels")

kernel = getattr(torch.ops, registry.BACKENDS["default"])
plain = getattr(torch.ops, registry.BACKENDS["reference"])
some = settings(derandomize=True, deadline=None, max_examples=40, database=None)

floats = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
stored = st.one_of(floats, st.sampled_from([torch.uint8, torch.uint16]))
sizes = st.integers(1, 20)


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random values in any order of the axes, with or without gaps."""
    order = draw(st.permutations(range(len(shape))))
    stored_shape = [shape[axis] for axis in order]
    whole = torch.rand(*stored_shape[:-1], stored_shape[-1] + draw(st.integers(0, 3)))
    values = whole if dtype.is_floating_point else whole * 255
    values = values.to(dtype)[..., : stored_shape[-1]]
    return values.permute([order.index(axis) for axis in range(len(shape))])


def assert_alike(result: Tensor, expected: Tensor) -> None:
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    if result.numel() == 0:
        return
    result, expected = result.double(), expected.double()
    largest = float(expected.abs().max())
    torch.testing.assert_close(result, expected, rtol=0, atol=max(0.02 * largest, 1e-3))


def on_every_level(operation: str, *arguments: object) -> tuple[Tensor, ...]:
    """Compare all instruction sets with the reference; returns the result of the last."""
    expected = getattr(plain, operation)(*arguments)
    expected = expected if isinstance(expected, tuple) else (expected,)
    result: tuple[Tensor, ...] = ()
    for level in native.cpu_levels():
        native.set_cpu_level(level)
        got = getattr(kernel, operation)(*arguments)
        result = got if isinstance(got, tuple) else (got,)
        for values, same in zip(result, expected, strict=True):
            assert_alike(values, same)
    return result


def draw_windows(data: st.DataObject) -> tuple[Tensor, int, int, str, str]:
    window = data.draw(st.sampled_from([8, 16, 32, 64]))
    stride = window // data.draw(st.sampled_from([1, 2]))
    batch, rows, columns = (data.draw(st.integers(low, 4)) for low in (0, 1, 1))
    dtype = data.draw(st.one_of(floats, st.just(torch.uint8)))
    image = data.draw(tensors((batch, 3, rows * stride, columns * stride), dtype))
    taper = data.draw(st.sampled_from(["hann", "none"]))
    layout = data.draw(st.sampled_from(["luma", "rgb"]))
    return image, window, stride, taper, layout


@some
@given(st.data())
def test_fft_features(data: st.DataObject) -> None:
    image, *options = draw_windows(data)
    dtype = image.dtype if image.dtype.is_floating_point else torch.float32
    (result,) = on_every_level("fft_features", image, *options, dtype)
    if image.dtype.is_floating_point:
        grad = data.draw(tensors(tuple(result.shape), dtype))
        on_every_level("fft_features_backward", grad, image, *options)


@some
@given(st.data())
def test_fft_bands(data: st.DataObject) -> None:
    image, *options = draw_windows(data)
    dtype = image.dtype if image.dtype.is_floating_point else torch.float32
    bands = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    on_every_level("fft_bands", image, *options, *bands, dtype)


def draw_axis(data: st.DataObject) -> tuple[int, list[int], int]:
    """Size of the tile, its starts, and the size of the image that they cover."""
    tile = data.draw(st.integers(4, 24))
    starts = [data.draw(st.integers(-3, 0))]
    for _ in range(data.draw(st.integers(0, 3))):
        lowest = starts[-1] + 1 if len(starts) < 2 else max(starts[-1] + 1, starts[-2] + tile)
        starts.append(data.draw(st.integers(lowest, starts[-1] + tile)))
    size = data.draw(st.integers(1, starts[-1] + tile))
    return tile, starts, size


@some
@given(st.data())
def test_tiles(data: st.DataObject) -> None:
    (height, ys, rows), (width, xs, columns) = draw_axis(data), draw_axis(data)
    channels = data.draw(st.integers(0, 20))
    image = data.draw(tensors((channels, rows, columns), data.draw(stored)))
    finish = data.draw(stored), data.draw(st.sampled_from([1.0, 2.0])), 0.25
    (tiles,) = on_every_level("extract_tiles", image, [height, width], ys, xs, *finish)
    tiles = data.draw(tensors(tuple(tiles.shape), tiles.dtype))
    last = data.draw(st.booleans())
    on_every_level("stitch_tiles", tiles, ys, xs, [rows, columns], 0, *finish, last)


@some
@given(st.data())
def test_halo_attention(data: st.DataObject) -> None:
    window = data.draw(st.integers(1, 9))
    halo = data.draw(st.integers(0, window))
    heads, depth = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 36))
    shape = (data.draw(st.integers(0, 2)), data.draw(sizes), data.draw(sizes), heads, depth)
    dtype = data.draw(floats)
    q, k, v, grad = (data.draw(tensors(shape, dtype)) for _ in range(4))
    span = 2 * (window + halo) - 1
    bias = data.draw(st.one_of(st.none(), tensors((heads, span, span), data.draw(floats))))
    origin = [data.draw(st.integers(-30, 30)) for _ in range(2)]
    options = (window, halo, data.draw(st.floats(0.1, 1)), origin)
    forward = on_every_level("halo_attention", q, k, v, bias, *options)
    on_every_level("halo_attention_backward", grad, q, k, v, bias, *forward, *options)


@some
@given(st.data())
def test_ddim_step(data: st.DataObject) -> None:
    shape = (
        data.draw(st.integers(0, 3)),
        data.draw(st.integers(1, 5)),
        *data.draw(st.tuples(sizes, sizes)),
    )
    x, f = (data.draw(tensors(shape, data.draw(floats))) for _ in range(2))
    y = data.draw(st.one_of(st.none(), tensors(shape, data.draw(floats))))
    coefficients = data.draw(tensors((shape[0], 5), torch.float32))
    (result,) = on_every_level("ddim_step", x, f, y, coefficients, data.draw(st.booleans()))
    assert result.stride() == torch.empty_like(x).stride()
