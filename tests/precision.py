"""The tolerance rule of the kernel tests: twice what torch is off in the same dtype."""

import torch
from torch import Tensor


def error(values: Tensor, exact: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    return float((values.double() - exact.double()).norm() / exact.double().norm())


def data_rounding(dtype: torch.dtype) -> float:
    """Relative error of values stored in `dtype`."""
    return torch.finfo(dtype).eps / 2 if dtype.is_floating_point else 0.0


def assert_as_precise(result: Tensor, plain: Tensor, exact: Tensor) -> None:
    """`result` of a kernel, `plain` of torch in the same dtype, `exact` computed in float64."""
    assert (result.dtype, result.shape) == (plain.dtype, plain.shape)
    if exact.numel():
        bound = 2 * error(plain, exact) + data_rounding(result.dtype)
        assert error(result, exact) <= bound
