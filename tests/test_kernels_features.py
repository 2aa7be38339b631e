"""fft_features: the kernel against its reference and against float64."""

import pytest
import torch
from precision import data_rounding, error, in_float64, photo
from torch import Tensor

from freqdiff_kernels import gradients, ops, reference


def plain(image: Tensor, *options: object) -> Tensor:
    """The reference."""
    return reference.fft_features(image, *options, reference.features_dtype(image, None))


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize(("overlap", "taper"), [(1, "none"), (1, "hann"), (2, "hann")])
@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_as_precise_as_torch(
    level: str, window: int, overlap: int, taper: str, layout: str
) -> None:
    stride = window // overlap
    image = photo(2, 3, 2 * stride, 5 * stride)
    exact = plain(image.double(), window, stride, taper, layout)
    torch_error = error(plain(image, window, stride, taper, layout), exact)
    kernel_error = error(ops.fft_features(image, window, stride, taper, layout), exact)
    assert kernel_error <= 2 * torch_error + data_rounding(image.dtype)
    assert kernel_error <= 1e-6


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["luma", "rgb"])
def test_dtypes(level: str, dtype: torch.dtype, layout: str) -> None:
    image = photo(1, 3, 32, 48, dtype=dtype)
    features = ops.fft_features(image, 16, 8, "hann", layout)
    expected = plain(image, 16, 8, "hann", layout)
    values = in_float64(image)
    exact = plain(values, 16, 8, "hann", layout)
    assert features.dtype == expected.dtype
    bound = 2 * error(expected, exact) + data_rounding(features.dtype)
    assert error(features, exact) <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("source", [torch.uint8, torch.float32, torch.bfloat16], ids=str)
def test_dtype_of_the_result(level: str, source: torch.dtype, dtype: torch.dtype) -> None:
    image = photo(1, 3, 32, 48, dtype=source)
    features = ops.fft_features(image, 16, 8, dtype=dtype)
    assert features.dtype == dtype
    values = in_float64(image)
    exact = plain(values, 16, 8, "hann", "luma")
    expected = reference.fft_features(image, 16, 8, "hann", "luma", dtype)
    assert error(features, exact) <= 2 * error(expected, exact) + data_rounding(dtype)
    if source != torch.uint8:
        image.requires_grad_()
        ops.fft_features(image, 16, 8, dtype=dtype).sum().backward()
        assert image.grad is not None
        assert image.grad.dtype == source


def test_float64_stays_with_float64() -> None:
    with pytest.raises(TypeError, match="dtype is float64 and that of image float32, expected"):
        ops.fft_features(photo(1, 3, 32, 48), 16, 8, dtype=torch.float64)


def test_float64() -> None:
    for options in ((8, 4, "hann", "rgb"), (32, 32, "none", "luma"), (64, 32, "hann", "luma")):
        image = photo(1, 3, 64, 32, dtype=torch.float64)
        expected = plain(image, *options)
        torch.testing.assert_close(ops.fft_features(image, *options), expected)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 132), (132, 4), (68, 4 * 33)])
def test_small_and_long_images(level: str, height: int, width: int) -> None:
    image = photo(1, 3, height, width)
    features = ops.fft_features(image, 8, 4)
    assert features.isfinite().all()
    # A window repeated in a larger batch is bit for bit the same, wherever its lane is.
    batch = ops.fft_features(image.expand(3, -1, -1, -1), 8, 4)
    assert torch.equal(batch[0], features[0])
    assert torch.equal(batch[2], features[0])


def test_strides(level: str) -> None:
    image = photo(2, 3, 32, 64)
    expected = ops.fft_features(image, 16, 16)
    wide = photo(2, 5, 40, 80)
    wide[:, 1:4, 3:35, 5:69] = image
    assert torch.equal(ops.fft_features(wide[:, 1:4, 3:35, 5:69], 16, 16), expected)
    last = image.contiguous(memory_format=torch.channels_last)
    assert torch.equal(ops.fft_features(last, 16, 16), expected)
    flipped = ops.fft_features(image.flip(-1).flip(-1), 16, 16)
    assert torch.equal(flipped, expected)


def test_slice_of_the_frame_equals_the_tile_with_its_halo(level: str) -> None:
    frame = photo(1, 3, 96, 128)
    features = ops.fft_features(frame, 16, 8)
    tile = ops.fft_features(frame[..., 16:72, 24:104], 16, 8)
    assert torch.equal(features[:, 3:8, 4:12], tile[:, 1:6, 1:9])


@pytest.mark.parametrize("window", [8, 16])
def test_results_too_large_for_the_caches(level: str, window: int) -> None:
    image = photo(1, 3, 1024, 1024)
    features = ops.fft_features(image, window, window, "none", "rgb")
    assert features.numel() * 4 > 2**24
    for half, rows in zip(features.chunk(2, dim=1), image.chunk(2, dim=2), strict=True):
        assert torch.equal(half, ops.fft_features(rows, window, window, "none", "rgb"))


def test_empty_batch() -> None:
    image = torch.rand(0, 3, 16, 16, requires_grad=True)
    features = ops.fft_features(image, 8, 8)
    assert features.shape == (0, 2, 2, 96)
    features.sum().backward()
    assert image.grad is not None
    assert image.grad.shape == image.shape


@pytest.mark.parametrize("window", [8, 16, 32, 64])
def test_slots_are_the_dft(window: int) -> None:
    image = photo(1, 3, window, window, dtype=torch.float64)
    features = ops.fft_features(image, window, window, "none", "rgb").reshape(3, 3, window, -1)
    spectrum = torch.fft.fft2(image[0])
    sign = 1 - 2 * (torch.arange(window) % 2)
    spectrum = spectrum * (sign[:, None] * sign)
    half = window // 2
    level_exact = 0.5 * torch.log(spectrum.abs().square() + reference.noise_floor(window) ** 2)
    torch.testing.assert_close(features[:, 0, :, 1:], level_exact[:, :, 1:half])
    cosine, sine = features[:, 1].clone(), features[:, 2].clone()
    value = torch.complex(cosine, sine) * features[:, 0].exp()
    torch.testing.assert_close(value[:, :, 1:], spectrum[:, :, 1:half])
    torch.testing.assert_close(value[:, 1:half, 0], spectrum[:, 1:half, 0])
    torch.testing.assert_close(value[:, half + 1 :, 0], spectrum[:, half + 1 :, half])
    torch.testing.assert_close(value[:, 0, 0].real, spectrum[:, 0, 0].real)
    torch.testing.assert_close(value[:, 0, 0].imag, spectrum[:, 0, half].real)
    torch.testing.assert_close(value[:, half, 0].real, spectrum[:, half, 0].real)
    torch.testing.assert_close(value[:, half, 0].imag, spectrum[:, half, half].real)


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 4), (16, 8), (32, 32), (64, 32)])
def test_backward_as_precise_as_torch(level: str, window: int, stride: int, layout: str) -> None:
    image = photo(2, 3, 3 * stride, 5 * stride)
    options = (window, stride, "hann", layout)
    shape = plain(image, *options).shape
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    exact = gradients.fft_features_backward(grad.double(), image.double(), *options)
    torch_error = error(gradients.fft_features_backward(grad, image, *options), exact)
    # The gradient divides by rho: rounding the image alone moves it by this much.
    nudged = image.double() * (1 + torch.finfo(torch.float32).eps / 2 * torch.randn(image.shape))
    rounding = error(gradients.fft_features_backward(grad.double(), nudged, *options), exact)
    image.requires_grad_()
    ops.fft_features(image, *options).backward(grad)
    assert image.grad is not None
    assert error(image.grad, exact) <= 2 * torch_error + rounding


@pytest.mark.parametrize("layout", ["luma", "rgb"])
@pytest.mark.parametrize("stride", [8, 4])
def test_gradcheck(stride: int, layout: str) -> None:
    image = photo(1, 3, 8, 8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda values: ops.fft_features(values, 8, stride, "hann", layout),
        (image,),
        fast_mode=layout == "rgb" or stride < 8,
    )


def test_backward_is_repeatable(level: str) -> None:
    image = photo(1, 3, 64, 96).requires_grad_()
    grads = [
        torch.autograd.grad(ops.fft_features(image, 16, 8).square().sum(), image)[0]
        for _ in range(2)
    ]
    assert torch.equal(*grads)


def test_not_a_number_stays(level: str) -> None:
    image = photo(1, 3, 16, 32)
    image[0, 0, 3, 4] = float("nan")
    features = ops.fft_features(image, 16, 16)
    assert features[0, 0, 0].isnan().all()
    assert features[0, 0, 1].isfinite().all()


@pytest.mark.parametrize("layout", ["luma", "rgb"])
def test_bands_of_noise_are_its_power(layout: str) -> None:
    noise = 0.1 * torch.randn(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    bands = ops.fft_bands(noise, 32, 16, 4, 3, layout=layout)
    assert bands.shape == (1, 32, 32, (3 if layout == "rgb" else 1) * 12)
    luma = 0.299**2 + 0.587**2 + 0.114**2 if layout == "luma" else 1.0
    power = bands.exp().mean((1, 2)) - reference.BAND_FLOOR
    torch.testing.assert_close(power, torch.full_like(power, 0.01 * luma), rtol=0.1, atol=0)


@pytest.mark.parametrize("window", [8, 16, 32, 64])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16], ids=str)
def test_bands_as_precise_as_torch(level: str, window: int, dtype: torch.dtype) -> None:
    image = photo(2, 3, window, 3 * window, dtype=dtype)
    options = (window, window // 2, "hann", "rgb", 4, 3)
    values = in_float64(image)
    exact = reference.fft_bands(values, *options, torch.float64)
    expected = reference.fft_bands(image, *options, torch.float32)
    bands = ops.fft_bands(image, window, window // 2, 4, 3, "hann", "rgb", torch.float32)
    assert error(bands, exact) <= 2 * error(expected, exact) + data_rounding(torch.float32)


@pytest.mark.parametrize("angular", [1, 4, 7, 20])
@pytest.mark.parametrize("radial", [1, 5, 8])
@pytest.mark.parametrize("window", [8, 16, 32])
def test_every_frequency_is_in_its_band(window: int, radial: int, angular: int) -> None:
    image = photo(1, 3, window, 2 * window, dtype=torch.float64)
    options = (window, window, "none", "luma", radial, angular)
    bands = ops.fft_bands(image, window, window, radial, angular, "none")
    torch.testing.assert_close(bands, reference.fft_bands(image, *options, torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_bands_of_any_dtype_strides_and_count(level: str, dtype: torch.dtype) -> None:
    image = photo(2, 3, 24, 40)
    options = (8, 4, "hann", "luma", 3, 7)
    exact = reference.fft_bands(image.double(), *options, torch.float64)
    expected = reference.fft_bands(image, *options, dtype)
    bands = ops.fft_bands(image.mT.contiguous().mT, 8, 4, 3, 7, dtype=dtype)
    assert bands.dtype == dtype
    assert error(bands, exact) <= 2 * error(expected, exact) + data_rounding(dtype)
    assert ops.fft_bands(image[:0], 8, 4, 3, 7).shape == (0, 6, 10, 21)
    # A window gives the same wherever its lane is.
    assert torch.equal(ops.fft_bands(image[1:], 8, 4, 3, 7, dtype=dtype), bands[1:])


@pytest.mark.parametrize("layout", ["luma", "rgb"])
def test_gradcheck_of_bands(layout: str) -> None:
    image = photo(1, 3, 8, 12, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda values: ops.fft_bands(values, 8, 4, 2, 3, layout=layout), (image,), fast_mode=True
    )


def test_band_energy_of_noise_and_stripes() -> None:
    noise = 0.1 * torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    luma_variance = 0.01 * (0.299**2 + 0.587**2 + 0.114**2)
    bands = ops.band_energy(noise, 16, 3, 4)
    assert bands.shape == (1, 12)
    torch.testing.assert_close(bands, torch.full_like(bands, luma_variance).log(), atol=0.2, rtol=0)
    stripes = torch.cos(2 * torch.pi * 0.3 * torch.arange(256.0)).expand(1, 3, 256, 256)
    strongest = ops.band_energy(stripes, 16, 4, 4).argmax()
    assert strongest == 2 * 4 + 0
    assert ops.band_energy(stripes.mT, 16, 4, 4).argmax() == 2 * 4 + 2


@pytest.mark.parametrize(
    ("image", "options", "exception", "message"),
    [
        (
            torch.zeros(1, 3, 16, 16, dtype=torch.int32),
            (8, 8),
            TypeError,
            "dtype of image is int32, expected",
        ),
        (torch.zeros(1, 4, 16, 16), (8, 8), ValueError, "4 channels, expected 3"),
        (torch.zeros(3, 16, 16), (8, 8), ValueError, r"expected \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 12, 16), (8, 8), ValueError, "12 x 16 pixels, expected positive"),
        (torch.zeros(1, 3, 16, 16), (12, 12), ValueError, "window is 12, expected one of 8, 16"),
        (torch.zeros(1, 3, 16, 16), (8, 2), ValueError, "stride is 2, expected one of 8, 4"),
        (torch.zeros(1, 3, 16, 16), (8, 8, "box"), ValueError, "taper is 'box', expected one of"),
    ],
)
def test_errors(
    image: Tensor, options: tuple[int, int], exception: type[Exception], message: str
) -> None:
    with pytest.raises(exception, match=message):
        ops.fft_features(image, *options)
