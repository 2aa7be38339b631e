"""halo_attention on a CUDA device against the reference in float64; skipped elsewhere."""

import precision
import pytest
import torch
from torch import Tensor

from freqdiff_kernels import native, ops

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(
        not native.has_kernel("halo_attention", "cuda"), reason="no CUDA kernel in this build"
    ),
]


def inputs(
    size: tuple[int, int], heads: int, depth: int, reach: int, dtype: torch.dtype
) -> list[Tensor]:
    """q, k and v as slices of one tensor, bias, and the gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    together = torch.randn(2, *size, 4, heads, depth, generator=generator)
    bias = torch.randn(heads, 2 * reach - 1, 2 * reach - 1, generator=generator)
    q, k, v, grad = together.to("cuda", dtype).unbind(3)
    return [q, k, v, bias.to("cuda", torch.promote_types(dtype, torch.float32)), grad]


def run(tensors: list[Tensor], window: int, halo: int) -> list[Tensor]:
    """The result and the gradients by q, k, v and bias."""
    *leaves, grad = (x.detach() for x in tensors)
    for leaf in leaves:
        leaf.requires_grad_()
    q, k, v, bias = leaves
    result = ops.halo_attention(q, k, v, window, halo, bias, origin=(3, 5))
    return [result.detach(), *torch.autograd.grad(result, leaves, grad)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("depth", [32, 64, 128, 24])
@pytest.mark.parametrize(("window", "halo"), [(8, 0), (8, 4), (8, 3), (16, 8), (16, 16), (5, 2)])
def test_attention(window: int, halo: int, depth: int, dtype: torch.dtype) -> None:
    tensors = inputs((37, 50), 3, depth, window + halo, dtype)
    results = run(tensors, window, halo)
    with ops.use_backend("reference"):
        same = run(tensors, window, halo)
        exact = run([x.double() for x in tensors], window, halo)
    for trio in zip(results, same, exact, strict=True):
        # The float32 sums of the bias share errors of 16-bit results, which are few to average.
        precision.assert_as_precise(*trio, data=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_attention_repeats_bit_by_bit(dtype: torch.dtype) -> None:
    tensors = inputs((96, 120), 8, 32, 12, dtype)
    for first, second in zip(run(tensors, 8, 4), run(tensors, 8, 4), strict=True):
        assert torch.equal(first, second)
