"""Device code of the windowed spectra, run by the CPU emulation, against the reference."""

import pytest
import torch
from emulated import Library, operation_library
from precision import assert_as_precise, error, in_float64, photo
from torch import Tensor

from freqdiff_kernels import gradients, reference

operations = torch.ops.freqdiff_emulated_spectra


@pytest.fixture(scope="module")
def compiled() -> Library:
    return operation_library("spectra")


def features(
    library: Library,
    image: Tensor,
    window: int,
    stride: int,
    taper: str = "hann",
    layout: str = "luma",
    dtype: torch.dtype | None = None,
) -> Tensor:
    dtype = reference.features_dtype(image, dtype)
    result: Tensor = operations.fft_features(image, window, stride, taper, layout, dtype)
    return result


def check(library: Library, image: Tensor, *options: object, dtype: torch.dtype) -> Tensor:
    """The tolerance rule: at most twice the error of torch, and the rounding of the result."""
    result = features(library, image, *options, dtype)
    expected = reference.fft_features(image, *options, dtype)
    exact = reference.fft_features(in_float64(image), *options, torch.float64)
    assert_as_precise(result, expected, exact)
    return result


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize(("overlap", "taper"), [(1, "none"), (1, "hann"), (2, "hann")])
@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_as_precise_as_torch(
    library: Library, window: int, overlap: int, taper: str, layout: str
) -> None:
    stride = window // overlap
    batch = 1 if window == 64 else 2
    image = library.guarded(photo(batch, 3, 2 * stride, 3 * stride))
    result = check(library, image, window, stride, taper, layout, dtype=torch.float32)
    exact = reference.fft_features(image.double(), window, stride, taper, layout, torch.float64)
    assert error(result, exact) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "source", [torch.uint8, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_dtypes(compiled: Library, source: torch.dtype, dtype: torch.dtype) -> None:
    for layout in ("luma", "rgb"):
        for window in (8, 16):
            image = compiled.guarded(photo(1, 3, 32, 48, dtype=source))
            check(compiled, image, window, 8, "hann", layout, dtype=dtype)


@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_float64(compiled: Library, window: int) -> None:
    for stride, layout in ((window, "rgb"), (window // 2, "luma")):
        image = photo(1, 3, 64, 64, dtype=torch.float64)
        result = features(compiled, image, window, stride, "hann", layout)
        expected = reference.fft_features(image, window, stride, "hann", layout, torch.float64)
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 132), (132, 4), (8, 12)])
def test_small_and_long_images(library: Library, height: int, width: int) -> None:
    image = library.guarded(photo(1, 3, height, width))
    check(library, image, 8, 4, "hann", "luma", dtype=torch.float32)


def test_strides(library: Library) -> None:
    image = photo(2, 3, 32, 64)
    expected = features(library, image, 16, 8)
    for columns in (slice(5, 69), slice(6, 70)):
        roomy = photo(2, 5, 40, 81)
        roomy[:, 1:4, 3:35, columns] = image
        assert torch.equal(features(library, roomy[:, 1:4, 3:35, columns], 16, 8), expected)
    last = image.contiguous(memory_format=torch.channels_last)
    assert torch.equal(features(library, last, 16, 8), expected)
    assert torch.equal(features(library, image.expand(2, -1, -1, -1)[:1], 16, 8), expected[:1])


def test_slice_of_the_frame_equals_the_tile_with_its_halo(compiled: Library) -> None:
    frame = photo(1, 3, 96, 128)
    whole = features(compiled, frame, 16, 8)
    tile = features(compiled, frame[..., 16:72, 24:104], 16, 8)
    assert torch.equal(whole[:, 3:8, 4:12], tile[:, 1:6, 1:9])


def test_nan_stays_in_its_window(library: Library) -> None:
    image = photo(1, 3, 32, 48)
    clean = features(library, image, 16, 16)
    image[0, 1, 3, 20] = torch.nan
    result = features(library, image, 16, 16)
    assert result[0, 0, 1].isnan().all()
    result[0, 0, 1] = clean[0, 0, 1]
    assert torch.equal(result, clean)


def test_empty_batch(library: Library) -> None:
    assert features(library, photo(0, 3, 16, 16), 16, 16).shape == (0, 1, 1, 384)


Options = tuple[int, int, str, str]


def bands(
    library: Library, image: Tensor, options: Options, radial: int, angular: int, dtype: torch.dtype
) -> Tensor:
    result: Tensor = operations.fft_bands(image, *options, radial, angular, dtype)
    return result


@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_band_of_every_entry(compiled: Library, window: int) -> None:
    table = torch.zeros(window, window // 2 + 1, dtype=torch.int64)
    weights = torch.ones(window, dtype=torch.float64)
    for radial, angular in ((1, 1), (4, 8), (3, 5), (7, 6), (8, 12), (5, 16), (16, 3)):
        compiled.call("run_table", window, radial, angular, table)
        shares = reference.band_shares(window, radial, angular, weights)
        expected = torch.where(shares.sum(1) > 0, shares.argmax(1), -1)
        assert torch.equal(table.flatten(), expected)


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_bands(library: Library, window: int, layout: str) -> None:
    for stride, taper, radial, angular in ((window, "none", 4, 8), (window // 2, "hann", 3, 5)):
        options = (window, stride, taper, layout)
        image = library.guarded(photo(1, 3, window, 3 * stride))
        result = bands(library, image, options, radial, angular, torch.float32)
        arguments = (*options, radial, angular)
        expected = reference.fft_bands(image, *arguments, torch.float32)
        exact = reference.fft_bands(image.double(), *arguments, torch.float64)
        assert_as_precise(result, expected, exact)
        same = bands(library, image.double(), options, radial, angular, torch.float64)
        torch.testing.assert_close(same, exact)


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize("taper", ["none", "hann"])
@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_bands_of_bytes(library: Library, window: int, taper: str, layout: str) -> None:
    """Of windows that lie side by side, whose rows are loaded whole, and of others."""
    columns = 3 if window == 64 else 5
    roomy = photo(2, 3, 2 * window, (columns + 1) * window, dtype=torch.uint8)
    for image, stride in (
        (library.guarded(roomy[..., window:]), window),
        (roomy[..., window:], window),
        (roomy[..., 4 : 4 + columns * window], window // 2),
        (roomy[..., 2 : 2 + columns * window], window),
    ):
        options = (window, stride, taper, layout)
        exact = reference.fft_bands(in_float64(image), *options, 4, 8, torch.float64)
        for dtype in (torch.float32, torch.bfloat16):
            result = bands(library, image, options, 4, 8, dtype)
            expected = reference.fft_bands(image, *options, 4, 8, dtype)
            assert_as_precise(result, expected, exact)


def test_bands_of_many_windows_and_odd_numbers_of_bands(library: Library) -> None:
    image, options = photo(2, 3, 48, 16 * 19, dtype=torch.uint8), (16, 16, "none", "rgb")
    for counts in ((4, 8), (1, 1), (3, 5), (7, 6), (5, 8), (20, 13)):
        exact = reference.fft_bands(in_float64(image), *options, *counts, torch.float64)
        for dtype in (torch.float32, torch.float16):
            result = bands(library, image, options, *counts, dtype)
            expected = reference.fft_bands(image, *options, *counts, dtype)
            assert_as_precise(result, expected, exact)
            later = bands(library, image[1:], options, *counts, dtype)
            assert torch.equal(later, result[1:])


def test_more_bands_than_one_launch_takes(library: Library) -> None:
    image = photo(2, 3, 16, 16, dtype=torch.uint8)
    for dtype in (torch.float32, torch.bfloat16):
        result = bands(library, image, (8, 8, "hann", "rgb"), 30, 20, dtype)
        expected = reference.fft_bands(image, 8, 8, "hann", "rgb", 30, 20, dtype)
        torch.testing.assert_close(result, expected)


def backward(
    library: Library, grad: Tensor, image: Tensor, options: Options, *counts: int
) -> Tensor:
    """Gradient of the features, or of bands where there are `counts` of them."""
    backwards = operations.fft_bands_backward if counts else operations.fft_features_backward
    result: Tensor = backwards(grad, image, *options, *counts)
    return result


def gradient_like(features: Tensor) -> Tensor:
    return torch.randn(features.shape, generator=torch.Generator().manual_seed(3))


def calm_gradient(features: Tensor, window: int) -> Tensor:
    """Small where the spectrum is: else the few smallest of its entries, divided by themselves,
    would be all that the error of the image's gradient is made of."""
    parts = features.unflatten(-1, (-1, 3, window**2 // 2))
    rho = parts[..., :1, :].exp()
    return (gradient_like(parts) * rho).flatten(-3)


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_backward(library: Library, window: int, layout: str) -> None:
    for stride, taper in ((window, "none"), (window // 2, "hann")):
        options = (window, stride, taper, layout)
        batch = 1 if window == 64 else 2
        image = library.guarded(photo(batch, 3, 2 * stride, 2 * stride))
        spectra = reference.fft_features(image, *options, torch.float32)
        grad = library.guarded(calm_gradient(spectra, window))
        result = backward(library, grad, image, options)
        expected = gradients.fft_features_backward(grad, image, *options)
        exact = gradients.fft_features_backward(grad.double(), image.double(), *options)
        assert_as_precise(result, expected, exact)
        same = backward(library, grad.double(), image.double(), options)
        torch.testing.assert_close(same, exact)


@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes_of_the_backward(
    compiled: Library, dtype: torch.dtype, grad_dtype: torch.dtype
) -> None:
    image, options = photo(1, 3, 16, 24, dtype=dtype), (16, 8, "hann", "luma")
    features = reference.fft_features(image, *options, grad_dtype)
    grad = calm_gradient(features.float(), 16).to(grad_dtype)
    result = backward(compiled, grad, image, options)
    expected = gradients.fft_features_backward(grad, image, *options)
    exact = gradients.fft_features_backward(grad.double(), image.double(), *options)
    assert_as_precise(result, expected, exact)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 300), (12, 8)])
def test_backward_of_small_and_long_images(library: Library, height: int, width: int) -> None:
    image, options = photo(2, 3, height, width), (8, 4, "hann", "rgb")
    grad = gradient_like(reference.fft_features(image, *options, torch.float32)).double()
    result = backward(library, grad, image.double(), options)
    exact = gradients.fft_features_backward(grad, image.double(), *options)
    torch.testing.assert_close(result, exact)


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_backward_of_bands(library: Library, window: int, layout: str) -> None:
    for stride, taper, counts in ((window, "none", (4, 8)), (window // 2, "hann", (30, 20))):
        options = (window, stride, taper, layout)
        image = library.guarded(photo(1, 3, window, 2 * stride))
        bands = reference.fft_bands(image, *options, *counts, torch.float32)
        grad = library.guarded(gradient_like(bands) * bands.exp())
        result = backward(library, grad, image, options, *counts)
        expected = gradients.fft_bands_backward(grad, image, *options, *counts)
        exact = gradients.fft_bands_backward(grad.double(), image.double(), *options, *counts)
        assert_as_precise(result, expected, exact)
        same = backward(library, grad.double(), image.double(), options, *counts)
        torch.testing.assert_close(same, exact)
