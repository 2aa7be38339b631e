"""The operations on a CUDA device against the reference in float64; skipped elsewhere."""

import functools
from collections.abc import Callable

import precision
import pytest
import torch
from torch import Tensor

from freqdiff_kernels import native, ops, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
DTYPES = [*FLOATS, torch.uint8, torch.uint16]
STARTS = ([-3, 15, 30], [0, 20, 41])
TILE, SIZE = (24, 32), (50, 70)
photo = functools.partial(precision.photo, device="cuda")


def wide(value: object) -> object:
    """float64 of a floating tensor."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return value


def check(op: Callable[..., Tensor], *inputs: object, dtype: torch.dtype) -> None:
    """The tolerance rule: at most twice the error of torch, and the rounding of the result."""
    result = op(*inputs)
    with ops.use_backend("reference"):
        expected = op(*inputs)
        exact = op(*map(wide, inputs))
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    assert (result.device, result.stride()) == (expected.device, expected.stride())
    if dtype == torch.float64:  # `exact` is no more exact than the result
        return torch.testing.assert_close(result, exact)
    rounding = torch.finfo(dtype).eps / 2 * exact.norm()
    assert (result - exact).norm() <= 2 * (expected - exact).norm() + rounding


def has(name: str) -> None:
    if not native.has_kernel(name, "cuda"):
        pytest.skip("built without CUDA")


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_features(window: int, layout: str) -> None:
    has("fft_features")
    for stride, taper in ((window, "none"), (window // 2, "hann")):
        image = photo(2, 3, 2 * stride, 5 * stride)
        options = (window, stride, taper, layout)
        check(ops.fft_features, image, *options, dtype=torch.float32)
        result = ops.fft_features(image.double(), *options)
        with ops.use_backend("reference"):
            exact = ops.fft_features(image.double(), *options)
        torch.testing.assert_close(result, exact)
        error = (ops.fft_features(image, *options) - exact).norm() / exact.norm()
        assert error <= 1e-6
        check(ops.fft_bands, image, window, stride, 4, 8, taper, layout, dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("source", [torch.uint8, *FLOATS[:3]], ids=str)
def test_dtypes_of_features(source: torch.dtype, dtype: torch.dtype) -> None:
    has("fft_features")
    image = photo(1, 3, 32, 48, dtype=source)
    exact_image = image.double() / 255 if source == torch.uint8 else image.double()
    for layout in ("luma", "rgb"):
        exact = reference.fft_features(exact_image, 16, 8, "hann", layout, torch.float64)
        expected = reference.fft_features(image, 16, 8, "hann", layout, dtype)
        result = ops.fft_features(image, 16, 8, "hann", layout, dtype)
        rounding = torch.finfo(dtype).eps / 2 * exact.norm()
        assert (result - exact).norm() <= 2 * (expected - exact).norm() + rounding


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_gradient_of_features(window: int, layout: str) -> None:
    has("fft_features_backward")
    for stride, taper in ((window, "none"), (window // 2, "hann")):
        image = photo(2, 3, 2 * stride, 3 * stride)
        options = (window, stride, taper, layout)
        # Small where the spectrum is, or its smallest entries would make up all of the error.
        parts = ops.fft_features(image, *options).unflatten(-1, (-1, 3, window**2 // 2))
        grad = (torch.randn_like(parts) * parts[..., :1, :].exp()).flatten(-3)

        def backward(values: Tensor, weights: Tensor, options: tuple[int, int, str, str]) -> Tensor:
            leaf = values.clone().requires_grad_()
            (result,) = torch.autograd.grad(ops.fft_features(leaf, *options), leaf, weights)
            return result

        check(backward, image, grad, options, dtype=torch.float32)
        first, second = backward(image, grad, options), backward(image, grad, options)
        assert torch.equal(first, second)


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_gradient_of_bands(window: int, layout: str) -> None:
    has("fft_bands_backward")
    image = photo(2, 3, 2 * window, 3 * window)
    options = (window, window // 2, 4, 8, "hann", layout)
    bands = ops.fft_bands(image, *options)
    grad = torch.randn_like(bands) * bands.exp()

    def backward(values: Tensor, weights: Tensor) -> Tensor:
        leaf = values.clone().requires_grad_()
        (result,) = torch.autograd.grad(ops.fft_bands(leaf, *options), leaf, weights)
        return result

    check(backward, image, grad, dtype=torch.float32)
    assert torch.equal(backward(image, grad), backward(image, grad))


@pytest.mark.parametrize("last", [False, True], ids=["planes", "interleaved"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tiles_give_the_image_back(dtype: torch.dtype, last: bool) -> None:
    has("stitch_tiles")
    image = photo(3, *SIZE, dtype=dtype)
    source = image.permute(1, 2, 0).contiguous().permute(2, 0, 1) if last else image
    tiles = ops.extract_tiles(source, TILE, STARTS, dtype=dtype)
    with ops.use_backend("reference"):
        expected = ops.extract_tiles(source, TILE, STARTS, dtype=dtype)
    assert torch.equal(tiles.double(), expected.double())
    assert tiles.stride() == expected.stride()
    for stored in (tiles, tiles.contiguous()):
        result = ops.stitch_tiles(stored, STARTS, SIZE, margin=2, channels_last=last)
        assert torch.equal(result.double(), image.double())


@pytest.mark.parametrize("target", DTYPES, ids=str)
@pytest.mark.parametrize("source", DTYPES, ids=str)
def test_dtype_pairs_of_tiles(source: torch.dtype, target: torch.dtype) -> None:
    has("stitch_tiles")
    top = 1.0 if source.is_floating_point else float(torch.iinfo(source).max)
    scale = (1.0 if target.is_floating_point else torch.iinfo(target).max) / top
    options = (([-3, 18], [-1, 24]), (40, 50), 1, target, scale * 1.2, -0.1 * scale)
    stored = photo(4, 3, 30, 28, dtype=source)
    for values in (stored, stored.contiguous(memory_format=torch.channels_last)):
        for last in (False, True):
            result = ops.stitch_tiles(values, *options, last)
            with ops.use_backend("reference"):
                expected = ops.stitch_tiles(values, *options, last)
            assert result.stride() == expected.stride()
            unit = torch.finfo(torch.float32).eps
            if target.is_floating_point:
                limit = 2 * max(torch.finfo(target).eps, unit) * float(expected.abs().max())
            else:
                limit = 1
            assert (result.double() - expected.double()).abs().max() <= limit


@pytest.mark.parametrize("f_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("x_dtype", FLOATS, ids=str)
def test_step(x_dtype: torch.dtype, f_dtype: torch.dtype) -> None:
    has("ddim_step")
    for width in (20, 7):
        x, f, y = (photo(2, 3, 12, width, dtype=d) - 0.5 for d in (x_dtype, f_dtype, torch.float32))
        dtype = torch.float64 if x_dtype == torch.float64 else torch.float32
        coefficients = torch.randn(2, 5, dtype=dtype, device=x.device)
        for anchor in (None, y):
            check(ops.ddim_step, x, f, anchor, coefficients, dtype=x_dtype)
        last = f.contiguous(memory_format=torch.channels_last)
        check(ops.ddim_step, x, last, y, coefficients, dtype=x_dtype)


def all_operations(image: Tensor) -> list[Tensor]:
    image = image.clone()
    tiles = ops.extract_tiles(image[0], TILE, STARTS)
    coefficients = torch.ones(1, 5, device=image.device)
    return [
        ops.fft_features(image, 16, 8),
        ops.fft_bands(image, 16, 8, 4, 8),
        tiles,
        ops.stitch_tiles(tiles, STARTS, SIZE),
        ops.ddim_step(image, image, None, coefficients),
    ]


def test_another_stream() -> None:
    image = photo(1, 3, 64, 96)
    expected = all_operations(image)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        # On any other stream the operations would run before the copy that they read.
        torch.cuda._sleep(100_000_000)
        result = all_operations(image)
    stream.synchronize()
    for value, wanted in zip(result, expected, strict=True):
        assert torch.equal(value, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_another_device() -> None:
    image = photo(1, 3, 64, 96)
    others = all_operations(image.to("cuda:1"))
    for value, wanted in zip(others, all_operations(image), strict=True):
        assert value.device.index == 1
        assert torch.equal(value.cpu(), wanted.cpu())
    assert torch.cuda.current_device() == 0


def test_cuda_graph_and_compile() -> None:
    image = photo(1, 3, 64, 96)
    expected = ops.fft_features(image, 16, 8)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.fft_features(image, 16, 8)
        tiles = ops.extract_tiles(image[0], TILE, STARTS)
        stitched = ops.stitch_tiles(tiles, STARTS, SIZE)
    captured.zero_()
    stitched.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)
    assert torch.equal(stitched, image[0, :, : SIZE[0], : SIZE[1]])
    compiled = torch.compile(lambda x: ops.fft_features(x, 16, 8), fullgraph=True)
    assert torch.equal(compiled(image), expected)


def test_double_gradients() -> None:
    image = photo(1, 3, 8, 12, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(lambda x: ops.fft_features(x, 8, 4), image)
    torch.autograd.gradcheck(lambda x: ops.fft_bands(x, 8, 4, 2, 3), image)
