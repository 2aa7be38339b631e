"""Every operation on shapes and options that nobody thought of: each backend against the reference.

The tolerance is loose on purpose, because the precision is tested elsewhere: what lies in the wrong
place or was never written is off by more.
"""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from emulated import operation_library
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import quick_interpreter
from torch import Tensor

from freqdiff_kernels import native, registry

Call = Callable[..., Any]
Backend = Callable[[str], Iterator[Call]]

plain = getattr(torch.ops, registry.BACKENDS["reference"])
GPU = torch.cuda.is_available()


def on_gpu(operation: Call) -> Call:
    """The operation, with its tensors on the GPU."""
    return lambda *arguments: operation(
        *(value.cuda() if isinstance(value, Tensor) else value for value in arguments)
    )


def cpp(name: str) -> Iterator[Call]:
    """The compiled kernel with each instruction set."""
    for level in native.cpu_levels():
        native.set_cpu_level(level)
        yield getattr(torch.ops.freqdiff, name)


def cuda(name: str) -> Iterator[Call]:
    yield on_gpu(getattr(torch.ops.freqdiff, name))


def cuda_emulated(name: str) -> Iterator[Call]:
    """The CUDA kernel on the CPU, with its threads in both orders."""
    family = {"fft": "spectra", "halo": "attention", "ddim": "steps"}
    source = family.get(name.partition("_")[0], "tiles")
    library = operation_library(source)
    for backwards in (False, True):
        library.set_order(backwards)
        yield getattr(getattr(torch.ops, f"freqdiff_emulated_{source}"), name)


def triton(name: str) -> Iterator[Call]:
    """The Triton kernel, in its interpreter where there is no GPU."""
    operation = getattr(getattr(torch.ops, registry.BACKENDS["triton"]), name)
    if GPU:
        yield on_gpu(operation)
        return
    from triton.runtime.interpreter import interpreter_builder

    # Looking at every integer for overflow takes a third of the time; the other tests do that.
    options = interpreter_builder.options
    interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)
    try:
        with quick_interpreter():
            yield operation
    finally:
        interpreter_builder.options = options


def entry(call: Backend, unless: bool, reason: str) -> Any:
    marks = [pytest.mark.skipif(unless, reason=reason)]
    if call in (cuda_emulated, triton):
        marks.append(pytest.mark.slow)
    return pytest.param(call, marks=marks, id=call.__name__)


BACKENDS = [
    entry(cpp, native.status != "loaded", "needs the compiled kernels"),
    entry(cuda, not GPU, "no CUDA device"),
    entry(cuda_emulated, False, ""),
    entry(triton, not importlib.util.find_spec("triton"), "needs Triton"),
]
some = settings(derandomize=True, deadline=None, max_examples=8, database=None)

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


def agree(backend: Backend, name: str, *arguments: object) -> Any:
    """Compare a backend with the reference; returns its result."""
    expected = getattr(plain, name)(*arguments)
    for call in backend(name):
        result = call(*arguments)
        for values, same in zip(as_tuple(result), as_tuple(expected), strict=True):
            assert_alike(values.cpu(), same)
    return expected


def as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def draw_windows(data: st.DataObject) -> tuple[Tensor, int, int, str, str]:
    window = data.draw(st.sampled_from([8, 16, 32, 64]))
    stride = window // data.draw(st.sampled_from([1, 2]))
    most = 4 if window < 64 else 2
    batch, rows, columns = (data.draw(st.integers(low, most)) for low in (0, 1, 1))
    dtype = data.draw(st.one_of(floats, st.just(torch.uint8)))
    image = data.draw(tensors((batch, 3, rows * stride, columns * stride), dtype))
    taper = data.draw(st.sampled_from(["hann", "none"]))
    layout = data.draw(st.sampled_from(["luma", "rgb"]))
    return image, window, stride, taper, layout


@pytest.mark.parametrize("backend", BACKENDS)
@some
@given(data=st.data())
def test_fft_features(backend: Backend, data: st.DataObject) -> None:
    image, *options = draw_windows(data)
    dtype = image.dtype if image.dtype.is_floating_point else torch.float32
    result = agree(backend, "fft_features", image, *options, dtype)
    if image.dtype.is_floating_point:
        grad = data.draw(tensors(tuple(result.shape), dtype))
        agree(backend, "fft_features_backward", grad, image, *options)


@pytest.mark.parametrize("backend", BACKENDS)
@some
@given(data=st.data())
def test_fft_bands(backend: Backend, data: st.DataObject) -> None:
    image, *options = draw_windows(data)
    dtype = image.dtype if image.dtype.is_floating_point else torch.float32
    bands = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    result = agree(backend, "fft_bands", image, *options, *bands, dtype)
    if image.dtype.is_floating_point:
        grad = data.draw(tensors(tuple(result.shape), dtype))
        agree(backend, "fft_bands_backward", grad, image, *options, *bands)


def draw_axis(data: st.DataObject) -> tuple[int, list[int], int]:
    """Size of the tile, its starts, and the size of the image that they cover."""
    tile = data.draw(st.integers(4, 24))
    starts = [data.draw(st.integers(-3, 0))]
    for _ in range(data.draw(st.integers(0, 3))):
        lowest = starts[-1] + 1 if len(starts) < 2 else max(starts[-1] + 1, starts[-2] + tile)
        starts.append(data.draw(st.integers(lowest, starts[-1] + tile)))
    size = data.draw(st.integers(1, starts[-1] + tile))
    return tile, starts, size


@pytest.mark.parametrize("backend", BACKENDS)
@some
@given(data=st.data())
def test_tiles(backend: Backend, data: st.DataObject) -> None:
    (height, ys, rows), (width, xs, columns) = draw_axis(data), draw_axis(data)
    channels = data.draw(st.integers(0, 20))
    image = data.draw(tensors((channels, rows, columns), data.draw(stored)))
    finish = data.draw(stored), data.draw(st.sampled_from([1.0, 2.0])), 0.25
    tiles = agree(backend, "extract_tiles", image, [height, width], ys, xs, *finish)
    tiles = data.draw(tensors(tuple(tiles.shape), tiles.dtype))
    last = data.draw(st.booleans())
    agree(backend, "stitch_tiles", tiles, ys, xs, [rows, columns], 0, *finish, last)


@pytest.mark.parametrize("backend", BACKENDS)
@some
@given(data=st.data())
def test_halo_attention(backend: Backend, data: st.DataObject) -> None:
    window = data.draw(st.one_of(st.integers(1, 9), st.sampled_from([8, 16])))
    halo = data.draw(st.integers(0, window))
    heads = data.draw(st.integers(1, 3))
    depth = data.draw(st.one_of(st.integers(1, 36), st.sampled_from([16, 32, 64, 128])))
    shape = (data.draw(st.integers(0, 2)), data.draw(sizes), data.draw(sizes), heads, depth)
    dtype = data.draw(floats)
    q, k, v, grad = (data.draw(tensors(shape, dtype)) for _ in range(4))
    span = 2 * (window + halo) - 1
    bias = data.draw(st.one_of(st.none(), tensors((heads, span, span), data.draw(floats))))
    origin = [data.draw(st.integers(-30, 30)) for _ in range(2)]
    options = (window, halo, data.draw(st.floats(0.1, 1)), origin)
    forward = agree(backend, "halo_attention", q, k, v, bias, *options)
    agree(backend, "halo_attention_backward", grad, q, k, v, bias, *forward, *options)


@pytest.mark.parametrize("backend", BACKENDS)
@some
@given(data=st.data())
def test_ddim_step(backend: Backend, data: st.DataObject) -> None:
    shape = (
        data.draw(st.integers(0, 3)),
        data.draw(st.integers(1, 5)),
        *data.draw(st.tuples(sizes, sizes)),
    )
    x, f = (data.draw(tensors(shape, data.draw(floats))) for _ in range(2))
    y = data.draw(st.one_of(st.none(), tensors(shape, data.draw(floats))))
    coefficients = data.draw(tensors((shape[0], 5), torch.float32))
    result = agree(backend, "ddim_step", x, f, y, coefficients, data.draw(st.booleans()))
    assert result.stride() == torch.empty_like(x).stride()


only_cpp = pytest.mark.parametrize("backend", BACKENDS[:1])
"""For operations that have no other kernel."""

wide = st.sampled_from([torch.float32, torch.float64])


@only_cpp
@some
@given(data=st.data())
def test_rasterize_paths(backend: Backend, data: st.DataObject) -> None:
    shape = (*data.draw(st.lists(st.integers(0, 4), max_size=2)), data.draw(st.integers(0, 70)))
    dtype = data.draw(wide)
    scale = data.draw(st.floats(0, 20))
    displacements = (data.draw(tensors((*shape, 2), dtype)) - 0.5) * scale
    weights = data.draw(tensors(shape, dtype))
    agree(backend, "rasterize_paths", displacements, weights, data.draw(st.integers(0, 9)))


@only_cpp
@some
@given(data=st.data())
def test_filter_grid(backend: Backend, data: st.DataObject) -> None:
    # Wide blocks fill all registers, and larger ones are cut.
    height, width = data.draw(sizes), data.draw(st.one_of(sizes, st.integers(90, 420)))
    step = data.draw(st.one_of(sizes, st.integers(20, 420)))
    side = 2 * data.draw(st.integers(0, 4)) + 1
    batch, channels = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 3))
    nodes = [data.draw(st.sampled_from([1, -(-size // step) + 1])) for size in (height, width)]
    dtype = data.draw(wide)
    image = data.draw(tensors((batch, channels, height + side - 1, width + side - 1), dtype))
    grids = data.draw(st.sampled_from([1, batch])), *nodes, side, side
    kernels = data.draw(tensors(grids, dtype))
    kernels = kernels.where(data.draw(tensors(grids, dtype)) < data.draw(st.floats(0, 1)), 0)
    agree(backend, "filter_grid", image, kernels, step)
