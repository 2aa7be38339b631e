"""The Triton kernels of halo_attention against the reference and float64."""

from typing import NamedTuple

import pytest
import torch
from precision import data_rounding, error
from torch import Tensor

from freqdiff_kernels import ops, reference_attention

pytest.importorskip("triton", reason="needs Triton")
pytestmark = pytest.mark.usefixtures("triton_backend")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRITON = torch.ops.freqdiff_triton


class Case(NamedTuple):
    window: int
    halo: int
    depth: int
    size: tuple[int, int]
    origin: tuple[int, int] = (0, 0)
    batch: int = 1
    heads: int = 1
    dtype: torch.dtype = torch.float32
    biased: bool = True

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """q, k, v and bias."""
        generator = torch.Generator().manual_seed(self.depth)
        shape = (3, self.batch, *self.size, self.heads, self.depth)
        reach = 2 * (self.window + self.halo) - 1
        qkv = torch.randn(shape, generator=generator).to(DEVICE, self.dtype)
        bias = torch.randn((self.heads, reach, reach), generator=generator).to(DEVICE, self.dtype)
        return *qkv.unbind(), bias if self.biased else None

    def options(self) -> tuple[int, int, float, list[int]]:
        return self.window, self.halo, self.depth**-0.5, list(self.origin)


def double(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if x is None else x.double() for x in tensors)


@pytest.mark.parametrize(
    "case",
    [
        Case(8, 4, 16, (11, 5), (3, 2), batch=2, heads=3),
        Case(8, 0, 32, (8, 16), biased=False),
        Case(8, 3, 64, (3, 9), (-1, 15), dtype=torch.bfloat16),
        Case(8, 8, 16, (3, 17), (1, 0), dtype=torch.float16),
        Case(8, 1, 128, (1, 1), (7, 7)),
        Case(16, 1, 32, (17, 5), (0, 11)),
        Case(16, 8, 16, (3, 20), dtype=torch.bfloat16, biased=False),
        Case(16, 8, 16, (5, 6), (15, 0), dtype=torch.float16),
    ],
    ids=str,
)
def test_as_precise_as_torch(case: Case) -> None:
    tensors, options = case.tensors(), case.options()
    exact, exact_lse = reference_attention.halo_attention(*double(*tensors), *options)
    expected, expected_lse = reference_attention.halo_attention(*tensors, *options)
    out, lse = TRITON.halo_attention(*tensors, *options)
    assert (out.dtype, lse.dtype) == (case.dtype, torch.float32)
    assert error(out, exact) <= 2 * error(expected, exact) + data_rounding(case.dtype)
    assert error(lse, exact_lse) <= 2 * error(expected_lse, exact_lse) + data_rounding(lse.dtype)


@pytest.mark.parametrize(
    "case",
    [
        Case(8, 4, 16, (9, 5), (3, 2)),
        Case(8, 0, 16, (3, 5), (2, 5), batch=2, heads=2),
        Case(8, 3, 32, (2, 5), (6, 0), dtype=torch.bfloat16),
        Case(8, 6, 16, (1, 5), (7, 6), biased=False),
        Case(16, 8, 16, (2, 3), (0, 0), dtype=torch.float16, biased=False),
        Case(16, 0, 16, (3, 2), dtype=torch.bfloat16),
    ],
    ids=str,
)
def test_backward_as_precise_as_torch(case: Case) -> None:
    tensors, options = case.tensors(), case.options()
    out, lse = reference_attention.halo_attention(*tensors, *options)
    exact_result = reference_attention.halo_attention(*double(*tensors), *options)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    backward = reference_attention.halo_attention_backward
    exact = backward(grad.double(), *double(*tensors), *exact_result, *options)
    expected = backward(grad, *tensors, out, lse, *options)
    results = TRITON.halo_attention_backward(grad, *tensors, out, lse, *options)
    for result, plain, right in zip(results, expected, exact, strict=True):
        assert (result.dtype, result.shape) == (plain.dtype, plain.shape)
        if result.numel():
            assert error(result, right) <= 2 * error(plain, right) + data_rounding(case.dtype)


def test_strides() -> None:
    case = Case(8, 1, 16, (5, 6), heads=2)
    q, k, v, bias = case.tensors()
    grad = torch.ones_like(q)
    expected = TRITON.halo_attention(q, k, v, bias, *case.options())
    saved = (*expected, *case.options())
    gradients = TRITON.halo_attention_backward(grad, q, k, v, bias, *saved)
    packed = torch.stack((q, k, v), 4)
    for views in (
        packed.unbind(4),
        tuple(x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)),
        tuple(x.mT.contiguous().mT for x in (q, k, v)),
    ):
        result = TRITON.halo_attention(*views, bias, *case.options())
        torch.testing.assert_close(result, expected, rtol=0, atol=0)
    scattered = torch.ones_like(q[..., :1]).expand_as(q)
    again = TRITON.halo_attention_backward(scattered, *packed.unbind(4), bias, *saved)
    # The same values in any layout, and in every run, give the same bits.
    for result, gradient in zip(again, gradients, strict=True):
        assert torch.equal(result, gradient)


def test_tile_gives_what_the_frame_gives() -> None:
    case = Case(8, 4, 16, (20, 16), dtype=torch.float16)
    q, k, v, _ = case.tensors()
    frame = ops.halo_attention(q, k, v, 8, 4)
    q, k, v = (x[:, 3:, 4:] for x in (q, k, v))
    tile = ops.halo_attention(q, k, v, 8, 4, origin=(3, 4))
    assert torch.equal(tile[:, 9:, 8:], frame[:, 12:, 12:])


def test_gradcheck() -> None:
    case = Case(8, 1, 16, (2, 3), dtype=torch.float64)
    q, k, v, bias = case.tensors()
    assert bias is not None
    inputs = [x.clone().requires_grad_() for x in (q, k, v, bias)]
    assert torch.autograd.gradcheck(
        lambda q, k, v, bias: ops.halo_attention(q, k, v, 8, 1, bias),
        inputs,
        fast_mode=True,
    )


@pytest.mark.parametrize(("window", "depth"), [(4, 16), (8, 24)])
def test_what_no_kernel_covers_runs_the_reference(window: int, depth: int) -> None:
    case = Case(window, 1, depth, (5, 6))
    tensors = tuple(None if x is None else x.requires_grad_() for x in case.tensors())
    expected, _ = reference_attention.halo_attention(*tensors, *case.options())
    result, _ = TRITON.halo_attention(*tensors, *case.options())
    assert torch.equal(result, expected)
    result.sum().backward()
    assert tensors[0] is not None
    assert tensors[0].grad is not None


def test_empty_batch() -> None:
    q = torch.rand(0, 5, 6, 2, 16, device=DEVICE, requires_grad=True)
    bias = torch.rand(2, 19, 19, device=DEVICE, requires_grad=True)
    result = ops.halo_attention(q, q, q, 8, 2, bias)
    assert result.shape == q.shape
    result.sum().backward()
    assert bias.grad is not None
    assert bias.grad.eq(0).all()


@pytest.mark.parametrize("biased", [True, False])
def test_opcheck(biased: bool) -> None:
    case = Case(8, 0, 16, (3, 2), biased=biased)
    tensors = case.tensors()
    arguments = tuple(None if x is None else x.clone().requires_grad_() for x in tensors)
    torch.library.opcheck(TRITON.halo_attention.default, (*arguments, *case.options()))
    out, lse = TRITON.halo_attention(*tensors, *case.options())
    torch.library.opcheck(
        TRITON.halo_attention_backward.default, (out, *tensors, out, lse, *case.options())
    )
