"""The Triton kernels of fft_features and fft_bands against the reference and float64."""

import functools

import numpy as np
import precision
import pytest
import torch
from precision import data_rounding, error, in_float64

from freqdiff_kernels import gradients, ops, reference

pytest.importorskip("triton", reason="needs Triton")
pytestmark = pytest.mark.usefixtures("triton_backend")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
photo = functools.partial(precision.photo, device=DEVICE)


@pytest.mark.parametrize(
    ("overlap", "taper", "layout"), [(1, "none", "rgb"), (1, "hann", "luma"), (2, "hann", "luma")]
)
@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_as_precise_as_torch(window: int, overlap: int, taper: str, layout: str) -> None:
    stride = window // overlap
    image = photo(1, 3, stride, 3 * stride)
    options = (window, stride, taper, layout)
    exact = reference.fft_features(image.double(), *options, torch.float64)
    expected = reference.fft_features(image, *options, torch.float32)
    features = ops.fft_features(image, *options)
    assert features.shape == expected.shape
    assert error(features, exact) <= 2 * error(expected, exact) + data_rounding(torch.float32)


@pytest.mark.parametrize(
    "target", [torch.float32, torch.bfloat16, torch.float16], ids=lambda d: f"to {d}"
)
@pytest.mark.parametrize(
    "source", [torch.uint8, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_dtypes(source: torch.dtype, target: torch.dtype) -> None:
    image = photo(1, 3, 16, 24, dtype=source)
    for options in ((16, 8, "hann", "luma"), (8, 8, "hann", "rgb")):
        exact = reference.fft_features(in_float64(image), *options, torch.float64)
        expected = reference.fft_features(image, *options, target)
        features = ops.fft_features(image, *options, target)
        assert features.dtype == target
        assert error(features, exact) <= 2 * error(expected, exact) + data_rounding(target)


@pytest.mark.parametrize(
    ("window", "layout"), [(8, "rgb"), (8, "luma"), (16, "rgb"), (32, "luma"), (64, "luma")]
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16], ids=str)
def test_bands_as_precise_as_torch(window: int, dtype: torch.dtype, layout: str) -> None:
    image = photo(1, 3, window // 2, 3 * window // 2, dtype=dtype)
    options = (window, window // 2, "hann", layout, 4, 3)
    exact = reference.fft_bands(in_float64(image), *options, torch.float64)
    for target in (torch.float32, torch.bfloat16):
        expected = reference.fft_bands(image, *options, target)
        bands = ops.fft_bands(image, window, window // 2, 4, 3, "hann", layout, target)
        assert bands.shape == expected.shape
        assert error(bands, exact) <= 2 * error(expected, exact) + data_rounding(target)


@pytest.mark.parametrize(
    ("window", "stride", "layout"),
    [
        (8, 8, "luma"),
        (8, 4, "rgb"),
        (16, 8, "luma"),
        (16, 16, "rgb"),
        (32, 32, "luma"),
        (64, 32, "luma"),
    ],
)
def test_backward_as_precise_as_torch(window: int, stride: int, layout: str) -> None:
    image = photo(1, 3, stride, 2 * stride if window < 64 else stride).requires_grad_()
    options = (window, stride, "hann", layout)
    # The gradient divides by rho: rounding the image alone moves it by this much.
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    nudged = image.detach().double() * (1 + data_rounding(torch.float32) * noise)
    for name, extra in (("fft_features", ()), ("fft_bands", (4, 3))):
        result = getattr(torch.ops.freqdiff_triton, name)(*(image, *options, *extra), torch.float32)
        grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        plain = getattr(gradients, f"{name}_backward")
        exact = plain(grad.double(), image.detach().double(), *options, *extra)
        moved = error(plain(grad.double(), nudged, *options, *extra), exact)
        torch_error = error(plain(grad, image.detach(), *options, *extra), exact)
        (image_grad,) = torch.autograd.grad(result, image, grad)
        assert error(image_grad, exact) <= 2 * torch_error + moved


@pytest.mark.parametrize(("stride", "layout"), [(8, "rgb"), (4, "luma")])
def test_float64_and_gradcheck(stride: int, layout: str) -> None:
    image = photo(1, 3, stride, 2 * stride, dtype=torch.float64).requires_grad_()
    expected = reference.fft_features(image, 8, stride, "hann", layout, torch.float64)
    torch.testing.assert_close(ops.fft_features(image, 8, stride, "hann", layout), expected)
    for check in (
        lambda values: ops.fft_features(values, 8, stride, "hann", layout),
        lambda values: ops.fft_bands(values, 8, stride, 2, 3, layout=layout),
    ):
        assert torch.autograd.gradcheck(check, (image,), fast_mode=True)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 132), (36, 4)])
def test_small_and_long_images(height: int, width: int) -> None:
    image = photo(1, 3, height, width)
    expected = reference.fft_features(image, 8, 4, "hann", "luma", torch.float32)
    features = ops.fft_features(image, 8, 4)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    # A window repeated in a larger batch is bit for bit the same.
    batch = ops.fft_features(image.expand(3, -1, -1, -1), 8, 4)
    assert torch.equal(batch[2], features[0])


def test_strides() -> None:
    image = photo(2, 3, 16, 32)
    expected = ops.fft_features(image, 16, 16)
    wide = photo(2, 5, 20, 40)
    wide[:, 1:4, 3:19, 5:37] = image
    assert torch.equal(ops.fft_features(wide[:, 1:4, 3:19, 5:37], 16, 16), expected)
    last = image.contiguous(memory_format=torch.channels_last)
    assert torch.equal(ops.fft_features(last, 16, 16), expected)
    grad = torch.ones_like(expected)
    backward = torch.ops.freqdiff_triton.fft_features_backward
    options = (16, 16, "hann", "luma")
    scattered = torch.ones_like(expected[..., :1]).expand_as(expected)
    gradient = backward(grad, image, *options)
    assert torch.equal(backward(scattered, last, *options), gradient)


@pytest.mark.skipif(DEVICE == "cuda", reason="takes memory that is only reserved on a CPU")
def test_offsets_beyond_32_bits() -> None:
    image = photo(1, 3, 8, 16, dtype=torch.uint8)
    far = torch.from_numpy(np.zeros(2**31 + 2**10, np.uint8))
    view = far.as_strided(image.shape, (1, 2**30, 16, 1))
    view.copy_(image)
    assert torch.equal(ops.fft_features(view, 8, 8), ops.fft_features(image, 8, 8))
    tiles = [ops.extract_tiles(x[0], (8, 9), ([0], [0, 7]), torch.uint8) for x in (view, image)]
    assert torch.equal(*tiles)


def test_slice_of_the_frame_equals_the_tile_with_its_halo() -> None:
    frame = photo(1, 3, 32, 64)
    features = ops.fft_features(frame, 16, 8)
    tile = ops.fft_features(frame[..., 8:32, 16:56], 16, 8)
    assert torch.equal(features[:, 2:3, 3:6], tile[:, 1:2, 1:4])


def test_empty_batch() -> None:
    image = torch.rand(0, 3, 16, 16, device=DEVICE, requires_grad=True)
    for result in (ops.fft_features(image, 8, 8), ops.fft_bands(image, 8, 8, 2, 2)):
        assert result.shape[:3] == (0, 2, 2)
        result.sum().backward()
    assert image.grad is not None
    assert image.grad.shape == image.shape


# What numpy, and so the interpreter, says of infinities.
@pytest.mark.filterwarnings("ignore:.*invalid value:RuntimeWarning")
def test_not_a_number_stays_in_its_window() -> None:
    for window in (8, 16):
        image = photo(1, 3, window, 3 * window)
        image[0, 0, 3, 4] = float("nan")
        image[0, 0, 3, 4 + 2 * window] = float("inf")
        features = ops.fft_features(image, window, window)
        assert features[0, 0, 0].isnan().all()
        assert features[0, 0, 1].isfinite().all()
        assert not features[0, 0, 2].isfinite().any()


def test_a_constant_leaks_into_no_other_frequency() -> None:
    image = torch.full((1, 3, 16, 16), 0.7, device=DEVICE)
    for dtype in (torch.float32, torch.bfloat16):
        features = ops.fft_features(image, 16, 16, "none", "rgb", dtype).reshape(3, 3, 128)
        silent = torch.tensor(reference.noise_floor(16)).log().to(dtype)
        torch.testing.assert_close(features[:, 0, 1:].cpu(), silent.expand(3, 127))
        assert features[:, 1:, 1:].abs().max() <= torch.finfo(torch.float32).eps


def test_backward_is_repeatable() -> None:
    image = photo(1, 3, 8, 16).requires_grad_()
    grads = [
        torch.autograd.grad(ops.fft_features(image, 16, 8).square().sum(), image)[0]
        for _ in range(2)
    ]
    assert torch.equal(*grads)


@pytest.mark.parametrize(("name", "layout"), [("fft_features", "rgb"), ("fft_bands", "luma")])
def test_opcheck(name: str, layout: str) -> None:
    image = photo(2, 3, 8, 8).requires_grad_()
    options, bands = (8, 8, "hann", layout), (2, 3) if name == "fft_bands" else ()
    forward = getattr(torch.ops.freqdiff_triton, name).default
    torch.library.opcheck(forward, (image, *options, *bands, torch.float32))
    grad = torch.ones_like(forward(image.detach(), *options, *bands, torch.float32))
    backward = getattr(torch.ops.freqdiff_triton, f"{name}_backward").default
    torch.library.opcheck(backward, (grad, image.detach(), *options, *bands))
