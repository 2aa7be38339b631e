"""The tolerance rule of the kernel tests, and their images.

A kernel may be twice as far off as torch in the same dtype, plus the rounding of the data.
"""

import torch
from torch import Tensor


def photo(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    """Noise over the range of a photo, of integers over theirs; the shape decides which."""
    values = torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))
    if not dtype.is_floating_point:
        values = (values * torch.iinfo(dtype).max).to(torch.int32)
    return values.to(dtype).to(device)


def interleaved(image: Tensor) -> Tensor:
    """The same (C, H, W) image, laid out as (H, W, C)."""
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def in_float64(image: Tensor) -> Tensor:
    """What the spectra analyse: the values of an image, those of bytes in [0, 1]."""
    return image.double() / 255 if image.dtype == torch.uint8 else image.double()


def error(values: Tensor, exact: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    return float((values.double() - exact.double()).norm() / exact.double().norm())


def data_rounding(dtype: torch.dtype) -> float:
    """Relative error of values stored in `dtype`."""
    return torch.finfo(dtype).eps / 2 if dtype.is_floating_point else 0.0


def assert_as_precise(
    result: Tensor, plain: Tensor, exact: Tensor, data: torch.dtype | None = None
) -> None:
    """`result` of a kernel, `plain` of torch in the same dtype, `exact` computed in float64.

    `data` is the dtype of what the result was made from, where that is another.
    """
    assert (result.dtype, result.shape) == (plain.dtype, plain.shape)
    if exact.numel():
        bound = 2 * error(plain, exact) + data_rounding(data or result.dtype)
        assert error(result, exact) <= bound
