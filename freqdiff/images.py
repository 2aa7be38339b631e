"""Pictures in memory: from what the caller has to float RGB, and back to the same kind."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from freqdiff.errors import InputError, PhotoError
from freqdiff.photo import MAX_PIXELS, Photo, read_photo
from freqdiff.photo_decode import samples_from_pillow
from freqdiff.tone import is_linear, linear_to_srgb, srgb_to_linear

ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor
ImageOutput: TypeAlias = Image.Image | NDArray[Any] | Tensor

_WHITE = {torch.uint8: 255, torch.uint16: 65535}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_TYPE_NAMES = "uint8, uint16, float16, float32 or float64"
# Resizing and colour conversion overshoot a little; more than this is another scale, or HDR.
_OVERSHOOT = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedImage:
    """A picture ready for the model, and the way back.

    Attributes:
        photo: the photo file, if a path was given.
        notes: conversions that were needed, for people.
        exif: the Exif block of a photo file or a Pillow image.
        profile: the colour profile for pictures of `rgb`; None for grey, whose own does not fit
            three channels, and for linear light.
        linear: the picture's own samples are proportional to light; `rgb` has the tone curve of
            sRGB all the same.
    """

    photo: Photo | None
    notes: tuple[str, ...]
    exif: bytes | None
    profile: bytes | None
    linear: bool
    _colour: Tensor
    _finish: Callable[[Tensor], ImageOutput]

    @property
    def count(self) -> int:
        """B, number of pictures."""
        return len(self._colour)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self._colour.shape[2:]
        return height, width

    @functools.cached_property
    def rgb(self) -> Tensor:
        """(B, 3, H, W) float32 on the CPU in [0, 1], contiguous; grey has three equal channels."""
        rgb = _to_rgb(self._colour)
        if self.linear:
            for plane in rgb.flatten(0, 1):
                plane.copy_(linear_to_srgb(plane))
        return rgb

    def frame(self, index: int, device: torch.device) -> Tensor:
        """Picture `index` of ``rgb``, (1, 3, H, W), on a device.

        Whole numbers go to a GPU as they are, which is a quarter of the bytes.
        """
        if device.type == "cpu" or self.linear:
            return self.rgb[index : index + 1].to(device)
        return _to_rgb(self._colour[index : index + 1].to(device))

    def restore(self, rgb: Tensor) -> ImageOutput:
        """Return ``rgb`` in the kind, sample type, device and layout of the opened picture.

        Integers are rounded half to even, grey stays grey, alpha is put back untouched. A path
        gives a Pillow image for 8 bits, else an (H, W, C) array of uint16 or float32.

        Args:
            rgb: (B, 3, H, W) of the same size as ``self.rgb``, on any device; values outside [0, 1]
                are clipped.

        Raises:
            InputError: another shape, or NaN or infinity.
        """
        return self._finish(self._to_colour(rgb))

    def restore_photo(self, rgb: Tensor) -> Photo:
        """Return ``rgb`` as a photo with alpha and metadata of the opened file.

        Raises:
            InputError: no path was opened; or as in ``restore``.
        """
        if self.photo is None:
            raise InputError("Expected an image opened from a path: use restore for other kinds.")
        return self.photo.with_pixels(_to_array(self._to_colour(rgb)))

    def _to_colour(self, rgb: Tensor) -> Tensor:
        """Return (B, 1 or 3, H, W) in the sample type of the opened picture, on the CPU."""
        expected = (self.count, 3, *self.size)
        if rgb.shape != expected:
            raise InputError(
                f"Expected a result of shape {expected}, got {tuple(rgb.shape)}: "
                "pass a picture of the same size as the opened one."
            )
        rgb = rgb.detach().float()
        _check_finite(rgb, "the result")
        grey = self._colour.shape[1] == 1
        colour = _luma(rgb) if grey else rgb
        if (white := _WHITE.get(self._colour.dtype)) is not None:
            if colour.device.type == "cpu":
                result = torch.empty(colour.shape, dtype=self._colour.dtype)
            else:  # in the order that is wanted in the end, which takes a CPU longer to make
                result = torch.empty_like(self._colour, device=colour.device)
            for picture, target in zip(colour, result, strict=True):
                for plane, samples in zip(picture, target, strict=True):  # a float plane at a time
                    plane = srgb_to_linear(plane) if self.linear else plane
                    samples.copy_((plane * white).round_().clamp_(0, white))
            return result.cpu()
        colour = colour.cpu()
        result = colour.clamp(0, 1)
        result = (srgb_to_linear(result) if self.linear else result).to(self._colour.dtype)
        if self._colour.dtype == torch.float64 or self.linear:
            # Samples that went through the model untouched keep the digits that float32 cut.
            same = colour == (self.rgb[:, :1] if grey else self.rgb)
            result = torch.where(same, self._colour, result)
        return result


def open_image(
    image: ImageInput, *, max_pixels: int = MAX_PIXELS, linear: bool = False
) -> OpenedImage:
    """Open a picture of any supported kind.

    Args:
        image: one of
            a path to a photo file, turned upright as its Exif asks;
            a Pillow image of mode L, LA, RGB, RGBA, P, CMYK, 1 or I;16, taken as it lies;
            a NumPy array (H, W) or (H, W, C), or a torch tensor (C, H, W) or (B, C, H, W) on any
            device, with C = 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA); uint8, uint16, or
            floats in [0, 1].
        max_pixels: limit for files.
        linear: the samples are proportional to light, also where no colour profile says so.

    Raises:
        PhotoError: a file that cannot be read.
        InputError: another kind, shape, sample type or range, or NaN or infinity.
    """
    if isinstance(image, str | os.PathLike):
        opened = _open_photo(read_photo(image, max_pixels=max_pixels))
    elif isinstance(image, Image.Image):
        opened = _open_pillow(image)
    elif isinstance(image, np.ndarray):
        opened = _open_array(image)
    elif isinstance(image, Tensor):
        opened = _open_tensor(image)
    else:
        raise InputError(
            "Expected a path, a Pillow image, a NumPy array or a torch tensor, "
            f"got {type(image).__name__}: convert it first."
        )
    return _encoded(opened) if linear and not opened.linear else opened


def _encoded(opened: OpenedImage) -> OpenedImage:
    """A picture in linear light, whose `rgb` gets the tone curve of sRGB."""
    notes = (*opened.notes, "linear light: worked on in the tone curve of sRGB")
    return dataclasses.replace(opened, notes=notes, profile=None, linear=True)


def in_srgb_curve(photo: Photo) -> Photo:
    """A photo in linear light as one in the tone curve of sRGB, in 16 bit, without alpha and
    profile; others as they are."""
    if not is_linear(photo.metadata.icc):
        return photo
    rgb = _open_photo(photo).rgb[0]
    pixels = (rgb * 65535).round_().to(torch.uint16).permute(1, 2, 0).contiguous().numpy()
    metadata = dataclasses.replace(photo.metadata, icc=None)
    return dataclasses.replace(photo, pixels=pixels, alpha=None, metadata=metadata)


def _open_photo(photo: Photo) -> OpenedImage:
    def finish(colour: Tensor) -> ImageOutput:
        samples = _join(_to_array(colour), photo.alpha)
        if samples.dtype != np.uint8:
            return samples
        result = _to_pillow(samples)
        metadata = photo.metadata
        blocks = {"icc_profile": metadata.icc, "xmp": metadata.xmp, "dpi": metadata.dpi}
        blocks["exif"] = metadata.exif and b"Exif\0\0" + metadata.exif
        result.info.update({key: value for key, value in blocks.items() if value is not None})
        return result

    colour = _from_array(photo.pixels)
    name, metadata = f"{str(photo.path)!r}", photo.metadata
    _check_alpha(photo.alpha, name)
    return _opened(colour, finish, name, photo, photo.notes, metadata.exif, metadata.icc)


def _open_pillow(image: Image.Image) -> OpenedImage:
    if 0 in image.size:
        raise InputError(f"Expected an image with pixels, got size {image.size}: check its source.")
    try:
        pixels, alpha, icc, notes = samples_from_pillow(image)
    except PhotoError as error:
        raise InputError(f"Cannot use the Pillow image: {error}.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"Cannot use the Pillow image: its file is damaged or closed ({error}), "
            "so open it anew."
        ) from error

    def finish(colour: Tensor) -> ImageOutput:
        result = _to_pillow(_join(_to_array(colour), alpha))
        kept = {**image.info, "icc_profile": icc}
        keys = ("icc_profile", "exif", "xmp", "dpi")
        result.info.update({key: kept[key] for key in keys if kept.get(key) is not None})
        return result

    exif = image.info.get("exif")
    return _opened(_from_array(pixels), finish, "the Pillow image", None, notes, exif, icc)


def _open_array(array: NDArray[Any]) -> OpenedImage:
    shape = array.shape
    if array.ndim not in (2, 3) or 0 in shape or (array.ndim == 3 and shape[2] not in (1, 2, 3, 4)):
        raise InputError(
            f"Expected an array of shape (H, W) or (H, W, C) with 1 to 4 channels, got {shape}: "
            "put the channels last and pass one picture at a time."
        )
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if native.dtype not in (np.uint8, np.uint16, np.float16, np.float32, np.float64):
        raise InputError(
            f"Expected samples in {_TYPE_NAMES}, got {array.dtype}: convert the array first."
        )
    samples = native.reshape(*shape[:2], -1)
    alpha = samples[..., -1].copy() if samples.shape[2] in (2, 4) else None
    pixels = samples if alpha is None else samples[..., :-1]
    _check_alpha(alpha, "the array")

    def finish(colour: Tensor) -> ImageOutput:
        result = _join(_to_array(colour), alpha).reshape(shape)
        return result.astype(array.dtype, copy=False)

    return _opened(_from_array(pixels), finish, "the array", None, ())


def _open_tensor(tensor: Tensor) -> OpenedImage:
    shape = tuple(tensor.shape)
    if len(shape) not in (3, 4) or 0 in shape or shape[-3] not in (1, 2, 3, 4):
        raise InputError(
            f"Expected a tensor of shape (C, H, W) or (B, C, H, W) with 1 to 4 channels, got "
            f"{shape}: put the channels before height and width."
        )
    if tensor.dtype not in _WHITE and tensor.dtype not in _FLOATS:
        raise InputError(
            f"Expected samples in bfloat16, {_TYPE_NAMES}, got {tensor.dtype}: "
            "convert the tensor first."
        )
    samples = tensor.detach().cpu().reshape(-1, *shape[-3:])
    has_alpha = shape[-3] in (2, 4)
    alpha = samples[:, -1:].clone() if has_alpha else None
    if alpha is not None and alpha.is_floating_point():
        _check_finite(alpha, "the alpha of the tensor")

    def finish(colour: Tensor) -> ImageOutput:
        result = colour if alpha is None else torch.cat([colour, alpha], dim=1)
        return result.reshape(shape).to(tensor.device)

    return _opened(samples[:, :-1] if has_alpha else samples, finish, "the tensor", None, ())


def _opened(
    colour: Tensor,
    finish: Callable[[Tensor], ImageOutput],
    name: str,
    photo: Photo | None,
    notes: tuple[str, ...],
    exif: bytes | None = None,
    icc: bytes | None = None,
) -> OpenedImage:
    """Check the values of ``colour`` (B, 1 or 3, H, W) and build the picture."""
    if colour.dtype not in _WHITE:
        low, high = _check_finite(colour, name)
        if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
            raise InputError(
                f"Expected float values in [0, 1] in {name}, got {low:g} to {high:g}: "
                "divide by the white level, or clip highlights first."
            )
        if low < 0 or high > 1:
            colour = colour.clamp(0, 1)
    opened = OpenedImage(
        photo=photo,
        notes=notes,
        exif=exif,
        profile=None if colour.shape[1] == 1 else icc,
        linear=False,
        _colour=colour,
        _finish=finish,
    )
    return _encoded(opened) if is_linear(icc) else opened


def _to_rgb(colour: Tensor) -> Tensor:
    """(B, 3, H, W) float32 in [0, 1], contiguous, in memory of its own."""
    rgb = colour.expand(-1, 3, -1, -1).to(
        torch.float32, copy=True, memory_format=torch.contiguous_format
    )
    white = _WHITE.get(colour.dtype)
    return rgb if white is None else rgb.div_(white)


def _check_alpha(alpha: NDArray[Any] | None, name: str) -> None:
    if alpha is not None and alpha.dtype.kind == "f":
        _check_finite(torch.from_numpy(alpha), f"the alpha of {name}")


def _check_finite(values: Tensor, name: str) -> tuple[float, float]:
    """Return the smallest and largest value; both are NaN as soon as one value is."""
    low, high = (float(value) for value in values.aminmax())
    if not np.isfinite([low, high]).all():
        raise InputError(
            f"Expected finite values in {name}, got NaN or infinity: check its source."
        )
    return low, high


def _luma(rgb: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W), exactly the grey of pixels whose three channels are equal."""
    red, green, blue = rgb[:, 0:1], rgb[:, 1:2], rgb[:, 2:3]
    return green + 0.299 * (red - green) + 0.114 * (blue - green)


def _from_array(pixels: NDArray[Any]) -> Tensor:
    """Return (H, W, C) samples as a (1, C, H, W) tensor; torch takes only writable arrays."""
    contiguous = np.require(pixels, requirements=["C", "W"])
    # Contiguity leaves axes with one entry out of account.
    if min(contiguous.strides) < 0:
        contiguous = contiguous.copy()
    return torch.from_numpy(contiguous).permute(2, 0, 1)[None]


def _to_array(colour: Tensor) -> NDArray[Any]:
    """Return one (1, C, H, W) picture as (H, W, C) samples."""
    return np.asarray(colour[0].permute(1, 2, 0).contiguous().numpy())


def _join(pixels: NDArray[Any], alpha: NDArray[Any] | None) -> NDArray[Any]:
    return pixels if alpha is None else np.concatenate([pixels, alpha[..., None]], axis=2)


def _to_pillow(samples: NDArray[Any]) -> Image.Image:
    return Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
