"""`freqdiff.deblur` on whatever a program may hand over: the same kind back, or a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import random_deblurrer

from freqdiff import deblur
from freqdiff.errors import FreqDiffError, InputError

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = random_deblurrer()

sides = st.integers(0, 40)
few = st.integers(0, 5)
array_shapes = st.one_of(st.tuples(sides, sides), st.tuples(sides, sides, few))
tensor_shapes = st.one_of(st.tuples(few, sides, sides), st.tuples(few, few, sides, sides))
other_shapes = st.lists(few, max_size=5).map(tuple)
ARRAY_TYPES = ("u1", "<u2", ">u2", "f2", "<f4", ">f4", "f8", "i4", "?", "c8", "U3", "O", "M8[s]")
TENSOR_TYPES = (
    *(torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int64, torch.bool, torch.complex64),
)
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F")
# The last ones are no brightness: beyond the range, or not even numbers.
levels = st.one_of(
    st.just("noise"), st.sampled_from(["zero", "one", "negative", "nan", "infinite"])
)


def values(shape: tuple[int, ...], level: str) -> np.ndarray[Any, Any]:
    """Float64 values of a picture, or of none."""
    noise = np.random.default_rng(0).random(shape)
    special = {"zero": 0.0, "one": 1.0, "negative": -3.0, "nan": np.nan, "infinite": np.inf}
    if level != "noise" and noise.size:
        noise.flat[noise.size // 2] = special[level]
    return noise


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    shape = draw(st.one_of(array_shapes, array_shapes, other_shapes))
    kind = np.dtype(draw(st.sampled_from(ARRAY_TYPES)))
    picture = values(shape, draw(levels))
    if kind.kind in "uiM":
        picture = np.nan_to_num(picture * 255, posinf=0, neginf=0).astype("i8")
    picture = picture.astype(kind)
    return picture[..., ::-1] if draw(st.booleans()) and picture.ndim else picture


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from(TENSOR_TYPES))
    shape = draw(st.one_of(tensor_shapes, tensor_shapes, other_shapes))
    picture = torch.from_numpy(values(shape, draw(levels)))
    scaled = picture if kind.is_floating_point or kind.is_complex else (picture * 255).nan_to_num(0)
    tensor = scaled.clamp(-9, 65535).to(kind)
    return tensor.requires_grad_() if kind.is_floating_point and draw(st.booleans()) else tensor


@st.composite
def pillow_images(draw: st.DrawFn) -> Any:
    return Image.new(draw(st.sampled_from(MODES)), (draw(sides), draw(sides)))


others = st.sampled_from([None, 7, "no such file", "", "\0", b"bytes", [[1, 2]], object()])
options = st.fixed_dictionaries(
    {},
    optional={
        "steps": st.sampled_from([None, 1, 2, 0, -1, 1001, 1.5, "two"]),
        "seed": st.sampled_from([0, 7, -1, 2**63, 2**80, 0.5, None]),
        "tile": st.sampled_from(["auto", 1, 64, 0, -5, 2.0, None]),
        "ensemble": st.sampled_from([1, 2, 3, 0, "8", None]),
        "max_memory": st.sampled_from([None, 10**12, 1, 0, -1]),
        "camera": st.sampled_from(["exif", None, "nikon", 7]),
        "model": st.sampled_from([MODEL, "no such model", ""]),
    },
)


@settings(derandomize=True, deadline=None, max_examples=400, database=None)
@given(picture=st.one_of(arrays(), tensors(), pillow_images(), others), chosen=options)
def test_a_result_of_the_same_kind_or_a_sentence(picture: Any, chosen: dict[str, Any]) -> None:
    try:
        result: Any = deblur(picture, **{"model": MODEL, **chosen})
    except FreqDiffError as error:
        text = str(error)
        assert text.endswith(".")
        assert "\n" not in text
        assert len(text) < 500
        return
    if isinstance(picture, Image.Image):
        assert isinstance(result, Image.Image)
        assert result.size == picture.size
        return
    assert type(result) is type(picture)
    assert (result.shape, result.dtype) == (picture.shape, picture.dtype)
    finite = np.asarray(result.double() if isinstance(result, torch.Tensor) else result, "f8")
    assert np.isfinite(finite).all()


def test_one_pixel_from_behind() -> None:
    pixel = np.array([[[68, 162, 3]]], np.uint8)[..., ::-1]
    np.testing.assert_array_equal(deblur(pixel, model=MODEL), deblur(pixel.copy(), model=MODEL))


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_alpha_that_is_not_finite(kind: str) -> None:
    picture: Any = np.full((2, 3, 4), 0.5, np.float32)
    picture[1, 2, 3] = np.nan
    picture = picture if kind == "array" else torch.from_numpy(picture).permute(2, 0, 1)
    with pytest.raises(InputError, match=f"finite values in the alpha of the {kind}"):
        deblur(picture, model=MODEL)
