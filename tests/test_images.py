"""Pictures in memory: every kind goes to float RGB and comes back exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from skimage import data
from torch import Tensor

from freqdiff.errors import InputError, PhotoError
from freqdiff.images import OpenedImage, open_image
from freqdiff.photo import Metadata, Photo, read_photo, write_photo

DTYPES = ["u1", "u2", ">u2", "f2", "f4", ">f4", "f8"]
TORCH_DTYPES = [
    *(torch.uint8, torch.uint16),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
]


def samples(*shape: int, dtype: str = "u1") -> NDArray[Any]:
    values = np.random.default_rng(0).random(shape)
    white = {"u1": 255, "u2": 65535}.get(dtype[-2:], 1)
    return (values * white).round(0 if white > 1 else 20).astype(dtype)


def checked(opened: OpenedImage) -> Tensor:
    rgb = opened.rgb
    assert rgb.dtype == torch.float32
    assert rgb.ndim == 4
    assert rgb.shape[1] == 3
    assert rgb.is_contiguous()
    assert rgb.min() >= 0
    assert rgb.max() <= 1
    return rgb


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,), (4,)], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (1, 20000)], ids=str)
def test_numpy_round_trip(dtype: str, channels: tuple[int, ...], size: tuple[int, int]) -> None:
    array = samples(*size, *channels, dtype=dtype)
    array.flags.writeable = False
    opened = open_image(array)
    rgb = checked(opened)
    assert rgb.shape == (1, 3, *size)
    back = opened.restore(rgb)
    assert isinstance(back, np.ndarray)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array, strict=True)


@pytest.mark.parametrize("view", [np.s_[::-1], np.s_[:, ::-1], np.s_[::2, 1::3], np.s_[..., ::-1]])
def test_numpy_views(view: Any) -> None:
    array = samples(8, 9, 3)[view]
    opened = open_image(array)
    np.testing.assert_array_equal(opened.restore(checked(opened)), array)
    expected = torch.from_numpy(array.copy()).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(opened.rgb, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 6, 5), (1, 6, 5), (2, 2, 6, 5), (2, 4, 6, 5)], ids=str)
def test_torch_round_trip(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tensor = (tensor if dtype.is_floating_point else (tensor * 255).int()).to(dtype)
    opened = open_image(tensor)
    back = opened.restore(checked(opened))
    assert isinstance(back, Tensor)
    torch.testing.assert_close(back, tensor, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_torch_on_a_device() -> None:
    tensor = torch.rand(3, 6, 5, device="cuda")
    opened = open_image(tensor)
    assert opened.rgb.device.type == "cpu"
    torch.testing.assert_close(opened.restore(opened.rgb), tensor, rtol=0, atol=0)


def test_torch_gradients_and_strides_do_not_matter() -> None:
    tensor = torch.rand(2, 6, 5, 3, requires_grad=True).permute(0, 3, 1, 2)
    opened = open_image(tensor)
    assert not checked(opened).requires_grad
    torch.testing.assert_close(opened.restore(opened.rgb), tensor.detach(), rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pillow_round_trip(mode: str) -> None:
    channels = {"L": (), "I;16": ()}.get(mode, (len(mode),))
    image = Image.fromarray(samples(7, 5, *channels, dtype="u2" if mode == "I;16" else "u1"))
    assert image.mode == mode
    image.info.update(icc_profile=b"profile", dpi=(300, 300), exif=b"Exif\0\0II", other=1)
    opened = open_image(image)
    back = opened.restore(checked(opened))
    assert isinstance(back, Image.Image)
    assert back.mode == mode
    np.testing.assert_array_equal(np.asarray(back), np.asarray(image))
    assert back.info == {"icc_profile": b"profile", "dpi": (300, 300), "exif": b"Exif\0\0II"}
    assert opened.notes == ()


@pytest.mark.parametrize(
    ("mode", "restored", "note"),
    [
        ("P", "RGB", "converted from a palette"),
        ("CMYK", "RGB", "converted from CMYK"),
        ("1", "L", "converted from one bit"),
    ],
)
def test_pillow_conversions(mode: str, restored: str, note: str) -> None:
    image = Image.fromarray(data.astronaut()[:40, :60]).convert(mode)
    opened = open_image(image)
    assert opened.notes == (note,)
    back = opened.restore(checked(opened))
    assert isinstance(back, Image.Image)
    np.testing.assert_array_equal(np.asarray(back), np.asarray(image.convert(restored)))


def test_pillow_orientation_is_left_as_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(samples(20, 30, 3)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        opened = open_image(image)
        assert opened.rgb.shape == (1, 3, 20, 30)
        back = opened.restore(opened.rgb)
    assert isinstance(back, Image.Image)
    assert back.getexif()[274] == 6
    assert open_image(tmp_path / "a.png").rgb.shape == (1, 3, 30, 20)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_path_of_8_bits(tmp_path: Path, channels: int) -> None:
    array = samples(20, 30, channels)
    path = tmp_path / "a.png"
    Image.fromarray(array.squeeze()).save(path, dpi=(72, 72), icc_profile=b"p" * 64)
    opened = open_image(str(path))
    back = opened.restore(checked(opened))
    assert isinstance(back, Image.Image)
    np.testing.assert_array_equal(np.asarray(back), array.squeeze())
    assert back.info["icc_profile"] == b"p" * 64
    assert opened.photo is not None
    assert opened.photo.path == path
    inverted = opened.restore_photo(1 - opened.rgb)
    np.testing.assert_array_equal(inverted.pixels, 255 - opened.photo.pixels)
    assert inverted.alpha is opened.photo.alpha


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_path_of_16_bits_and_floats(tmp_path: Path, dtype: str, channels: int) -> None:
    array = samples(20, 30, channels, dtype=dtype)
    alpha = array[..., -1] if channels in (2, 4) else None
    pixels = array if alpha is None else array[..., :-1]
    write_photo(tmp_path / "a.tif", Photo(pixels, alpha, metadata=Metadata(dpi=(100, 100))))
    opened = open_image(tmp_path / "a.tif")
    back = opened.restore(checked(opened))
    np.testing.assert_array_equal(back, array, strict=True)
    write_photo(tmp_path / "b.tif", opened.restore_photo(opened.rgb))
    np.testing.assert_array_equal(read_photo(tmp_path / "b.tif").pixels, pixels)


def test_rounding_is_half_to_even_and_clipped() -> None:
    opened = open_image(np.zeros((1, 6, 1), np.uint8))
    steps = torch.tensor([0.5, 1.5, 2.5, -3.0, 254.6, 300.0]) / 255
    back = opened.restore(steps.expand(1, 3, 1, 6))
    np.testing.assert_array_equal(np.ravel(back), [0, 2, 2, 0, 255, 255])  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_grey_is_the_luma_of_the_result(dtype: str) -> None:
    opened = open_image(samples(64, 64, 1, dtype=dtype))
    assert torch.equal(opened.rgb[:, 0], opened.rgb[:, 2])
    rgb = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    luma = torch.einsum("c,bchw->hw", weights, rgb.double()).numpy()
    white = {"u1": 255, "u2": 65535}.get(dtype, 1)
    back = np.asarray(opened.restore(rgb)).squeeze() / white
    np.testing.assert_allclose(back, luma, rtol=0, atol=0.5 / white + 1e-6 if white > 1 else 1e-6)


def test_alpha_is_untouched() -> None:
    array = samples(9, 9, 4)
    opened = open_image(array)
    back = opened.restore(torch.zeros_like(opened.rgb))
    assert isinstance(back, np.ndarray)
    np.testing.assert_array_equal(back[..., 3], array[..., 3])
    assert back[..., :3].max() == 0


def test_input_is_untouched() -> None:
    for array in (samples(9, 9, 3), samples(9, 9, 3, dtype="f4"), samples(9, 9, dtype="f8")):
        before = array.copy()
        opened = open_image(array)
        opened.rgb.mul_(0.5)
        opened.restore(opened.rgb)
        np.testing.assert_array_equal(array, before)
        tensor = torch.from_numpy(array[None, ..., 0] if array.ndim == 3 else array[None])
        open_image(tensor).rgb.zero_()
        np.testing.assert_array_equal(array, before)


def test_small_overshoot_is_clipped() -> None:
    for dtype in (np.float32, np.float64):
        opened = open_image(np.array([[-0.0005, 0.5, 1.0005]], dtype))
        np.testing.assert_array_equal(opened.restore(checked(opened)), np.array([[0, 0.5, 1]]))


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (samples(9, 9, 3) * 1.0, "got 1 to 254"),
        (samples(9, 9, 3, dtype="f4") - 0.5, "got -0.4"),
        (torch.full((3, 4, 4), 2.5), "got 2.5 to 2.5"),
        (np.full((4, 4), np.nan), "NaN or infinity"),
        (np.array([[0, np.inf]]), "NaN or infinity"),
        (torch.tensor([[[0.0, float("nan"), 1.0]]]), "NaN or infinity"),
        (np.zeros((4, 4, 5)), r"got \(4, 4, 5\)"),
        (np.zeros((3, 40, 40)), r"got \(3, 40, 40\)"),
        (np.zeros((2, 4, 4, 3)), r"got \(2, 4, 4, 3\)"),
        (np.zeros(4), r"got \(4,\)"),
        (np.zeros((0, 4, 3)), r"got \(0, 4, 3\)"),
        (torch.zeros(4, 4), r"got \(4, 4\)"),
        (torch.zeros(4, 4, 5, 5, 5), r"got \(4, 4, 5, 5, 5\)"),
        (torch.zeros(40, 40, 3), r"got \(40, 40, 3\)"),
        (torch.zeros(0, 3, 4, 4), r"got \(0, 3, 4, 4\)"),
        (np.zeros((4, 4), complex), "got complex128"),
        (np.zeros((4, 4), bool), "got bool"),
        (np.zeros((4, 4), np.int32), "got int32"),
        (np.zeros((4, 4), object), "got object"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "got torch.int64"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "got torch.bool"),
        (Image.new("F", (4, 4)), "got F"),
        (Image.new("HSV", (4, 4)), "got HSV"),
        (Image.new("RGB", (0, 4)), r"got size \(0, 4\)"),
        ([[1, 2], [3, 4]], "got list"),
        (None, "got NoneType"),
        (b"photo.jpg", "got bytes"),
    ],
)
def test_refused(image: Any, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as error:
        open_image(image)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="no such file"):
        open_image(tmp_path / "no.jpg")
    tifffile.imwrite(tmp_path / "hdr.tif", np.full((4, 4, 3), 7, np.float32), photometric="rgb")
    with pytest.raises(InputError, match=r"hdr\.tif.*got 7 to 7"):
        open_image(tmp_path / "hdr.tif")
    Image.fromarray(samples(64, 64, 3)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with (
        Image.open(tmp_path / "a.jpg") as image,
        pytest.raises(InputError, match="damaged or closed"),
    ):
        open_image(image)


def test_results_that_cannot_be_restored() -> None:
    opened = open_image(samples(7, 5, 3))
    with pytest.raises(InputError, match=r"\(1, 3, 7, 5\), got \(1, 3, 8, 5\)"):
        opened.restore(torch.zeros(1, 3, 8, 5))
    for bad in (float("nan"), float("inf"), -float("inf")):
        rgb = opened.rgb.clone()
        rgb[0, 1, 2, 3] = bad
        with pytest.raises(InputError, match="in the result, got NaN"):
            opened.restore(rgb)
    with pytest.raises(InputError, match="opened from a path"):
        opened.restore_photo(opened.rgb)
