"""The CUDA kernels of halo_attention, emulated on the CPU, against the reference."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import precision
import pytest
import torch
from emulated import Library, operation_library
from torch import Tensor

from freqdiff_kernels import autograd, reference_attention

operations = torch.ops.freqdiff_emulated_attention


@pytest.fixture(scope="module")
def compiled() -> Library:
    library = operation_library("attention")
    autograd._register("freqdiff_emulated_attention")
    return library


@pytest.fixture
def backwards(compiled: Library) -> Iterator[Library]:
    """The emulated kernels, with the threads of a block in the unusual order."""
    compiled.set_order(True)
    yield compiled
    compiled.set_order(False)


@dataclass(eq=False)
class Case:
    """Arguments of one call; those of a `dtype` other than float64 are rounded to it."""

    size: tuple[int, int]
    heads: int
    depth: int
    window: int
    halo: int
    dtype: torch.dtype = torch.bfloat16
    origin: tuple[int, int] = (0, 0)
    batch: int = 1
    bias: torch.dtype | None = torch.float32

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        shape = (self.batch, *self.size, self.heads, self.depth)
        self.scale = self.depth**-0.5
        self.q, self.k, self.v, self.grad = (
            torch.randn(shape, generator=generator, dtype=torch.float64).mul(factor).to(self.dtype)
            for factor in (2, 1, 1, 1)
        )
        span = 2 * (self.window + self.halo) - 1
        table = torch.randn(self.heads, span, span, generator=generator)
        self.table = None if self.bias is None else table.to(self.bias)

    def inputs(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return self.q.to(dtype), self.k.to(dtype), self.v.to(dtype)

    def options(self) -> tuple[int, int, float, tuple[int, int]]:
        return self.window, self.halo, self.scale, self.origin


@functools.cache
def reference(case: Case, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Result and lse, and the gradients by q, k, v and, where there is one, the bias."""
    table = case.table if case.table is None or dtype == case.dtype else case.table.double()
    options = case.options()
    out, lse = reference_attention.halo_attention(*case.inputs(dtype), table, *options)
    grads = reference_attention.halo_attention_backward(
        case.grad.to(dtype), *case.inputs(dtype), table, out, lse, *options
    )
    return (out, lse), grads[: 3 if table is None else 4]


def run_forward(library: Library, case: Case) -> tuple[Tensor, Tensor]:
    inputs = [library.guarded(x) for x in (case.q, case.k, case.v)]
    result: tuple[Tensor, Tensor] = operations.halo_attention(*inputs, case.table, *case.options())
    return result


def run_backward(library: Library, case: Case) -> tuple[Tensor, ...]:
    """Gradients by q, k, v and, where there is one, the bias."""
    grad, *inputs = (library.guarded(x) for x in (case.grad, case.q, case.k, case.v))
    table, options = case.table, case.options()
    out, lse = operations.halo_attention(*inputs, table, *options)
    grads = operations.halo_attention_backward(grad, *inputs, table, out, lse, *options)
    assert grads[3].shape == (torch.Size([0]) if table is None else table.shape)
    return tuple(grads[: 3 if table is None else 4])


def assert_as_close_as_torch(
    result: Tensor, same: Tensor, exact: Tensor, data: torch.dtype
) -> None:
    """At most twice the error of torch in the same dtype, plus the rounding of the data."""
    if same.dtype == torch.float64 and data == torch.float64:
        return torch.testing.assert_close(result, exact)
    precision.assert_as_precise(result, same, exact)


TILES = [
    Case((19, 21), 2, 32, 8, 4, origin=(3, 5), batch=2),
    Case((16, 24), 1, 32, 8, 0, dtype=torch.float16, bias=None),
    Case((17, 9), 1, 64, 8, 8, dtype=torch.float16, bias=torch.float16),
    Case((9, 40), 2, 64, 8, 3, bias=torch.bfloat16, origin=(-2, 1)),
    Case((20, 18), 1, 32, 16, 8, dtype=torch.float16, origin=(7, 0)),
    Case((17, 14), 1, 64, 16, 8, bias=None),
    Case((5, 3), 1, 128, 8, 4, origin=(6, 7)),
    Case((9, 17), 1, 128, 16, 16),
    Case((33, 12), 1, 32, 16, 1, bias=torch.float64),
    Case((6, 37), 1, 64, 16, 16),
]
PLAIN = [
    Case((11, 9), 2, 24, 4, 2, torch.float32, origin=(1, 2), batch=2),
    Case((10, 9), 1, 32, 8, 4, torch.float64),
    Case((6, 7), 1, 130, 5, 5, torch.float32, bias=None),
    Case((9, 5), 1, 16, 7, 0, torch.bfloat16),
    Case((3, 4), 2, 5, 1, 1, torch.float16, bias=torch.float16),
]


def name(case: Case) -> str:
    short = str(case.dtype).removeprefix("torch.")
    height, width = case.size
    return f"{short}-{height}x{width}-d{case.depth}-w{case.window}-h{case.halo}"


def check_forward(library: Library, case: Case) -> None:
    exact, same = (reference(case, dtype)[0] for dtype in (torch.float64, case.dtype))
    for trio in zip(run_forward(library, case), same, exact, strict=True):
        assert_as_close_as_torch(*trio, case.dtype)


def check_backward(library: Library, case: Case) -> None:
    exact, same = (reference(case, dtype)[1] for dtype in (torch.float64, case.dtype))
    for trio in zip(run_backward(library, case), same, exact, strict=True):
        assert_as_close_as_torch(*trio, case.dtype)


@pytest.mark.parametrize("case", TILES + PLAIN, ids=name)
def test_forward(compiled: Library, case: Case) -> None:
    check_forward(compiled, case)


@pytest.mark.parametrize("case", TILES + PLAIN, ids=name)
def test_backward(compiled: Library, case: Case) -> None:
    check_backward(compiled, case)


@pytest.mark.parametrize("case", [TILES[0], TILES[4], TILES[6], PLAIN[0]], ids=name)
def test_threads_in_another_order(backwards: Library, case: Case) -> None:
    check_forward(backwards, case)
    check_backward(backwards, case)


@pytest.mark.parametrize("case", [TILES[0], TILES[4], PLAIN[0]], ids=name)
def test_results_repeat_bit_by_bit(compiled: Library, case: Case) -> None:
    first, second = (run_backward(compiled, case) for _ in range(2))
    compiled.set_order(True)
    third = run_backward(compiled, case)
    compiled.set_order(False)
    for one, other, last in zip(first, second, third, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, last)


def test_too_little_shared_memory_takes_the_plain_path(compiled: Library) -> None:
    case = TILES[1]
    with_tiles, _ = run_forward(compiled, case)
    compiled.set_max_shared(16 << 10)
    try:
        check_forward(compiled, case)
        check_backward(compiled, case)
        plain, _ = run_forward(compiled, case)
    finally:
        compiled.set_max_shared(227 << 10)
    assert not torch.equal(plain, with_tiles)


@pytest.mark.parametrize("case", [TILES[1], TILES[4], PLAIN[0]], ids=name)
def test_strides(compiled: Library, case: Case) -> None:
    names = ("grad", "q", "k", "v")
    together = torch.stack([getattr(case, name) for name in names], dim=3)
    spread = torch.stack([getattr(case, name) for name in names], dim=5)
    shifted = torch.zeros(4, case.q.numel() + 1, dtype=case.dtype)
    shifted[:, 1:] = torch.stack([getattr(case, name).flatten() for name in names])
    kinds = {
        "slices": [compiled.guarded(together)[:, :, :, i] for i in range(4)],
        "transposed": [
            compiled.guarded(getattr(case, name).permute(0, 3, 2, 1, 4)).permute(0, 3, 2, 1, 4)
            for name in names
        ],
        "spread depth": [compiled.guarded(spread)[..., i] for i in range(4)],
        "unaligned": [compiled.guarded(shifted)[i, 1:].view(case.q.shape) for i in range(4)],
    }
    options = (case.table, *case.options())
    dense = run_forward(compiled, case)
    dense_grads = run_backward(compiled, case)
    for kind, (grad, *inputs) in kinds.items():
        out, lse = operations.halo_attention(*inputs, *options)
        assert torch.equal(out, dense[0]), kind
        assert torch.equal(lse, dense[1]), kind
        wide = out[..., None].repeat(1, 1, 1, 1, 1, 2)[..., 0]
        grads = operations.halo_attention_backward(
            grad, *inputs, case.table, wide, lse.mT.contiguous().mT, *case.options()
        )
        for result, expected in zip(grads, dense_grads, strict=False):
            assert torch.equal(result, expected), kind


@pytest.mark.parametrize("depth", [3, 32])
def test_gradients_in_float64(compiled: Library, depth: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (1, 4, 5, 2, depth)
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    inputs.append(torch.randn(2, 7, 7, generator=generator, dtype=torch.float64))

    def attention(*tensors: Tensor) -> Tensor:
        result: Tensor = operations.halo_attention(*tensors, 3, 1, 0.4, [2, 1])[0]
        return result

    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(attention, inputs, fast_mode=True)


def test_a_tile_gives_what_the_frame_gives(compiled: Library) -> None:
    case = Case((32, 35), 1, 32, 8, 4)
    whole, _ = run_forward(compiled, case)
    part = Case((27, 29), 1, 32, 8, 4, origin=(3, 4))
    part.q, part.k, part.v = (x[:, 3:30, 4:33].contiguous() for x in case.inputs(case.dtype))
    part.table = case.table
    result, _ = run_forward(compiled, part)
    # The blocks whose whole region lies in the tile.
    assert torch.equal(result[:, 5:21, 4:20], whole[:, 8:24, 8:24])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_keys_that_no_one_may_see_do_not_matter(compiled: Library, dtype: torch.dtype) -> None:
    case = Case((7, 24), 1, 32, 8, 4, dtype)
    result, _ = run_forward(compiled, case)
    for x in (case.k, case.v):
        x[:, :, 12:] = math.inf
    again, _ = run_forward(compiled, case)
    assert torch.equal(again[:, :, :8], result[:, :, :8])
    assert again[:, :, 8:16].isnan().any()


def test_large_and_infinite_logits(compiled: Library) -> None:
    case = Case((8, 8), 1, 32, 8, 4)
    assert case.table is not None
    case.table *= 100
    case.table[:, :, ::2] = -math.inf
    case.table[:, 11, 11] = 0
    check_forward(compiled, case)
    check_backward(compiled, case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_that_rise_along_the_keys(compiled: Library, dtype: torch.dtype) -> None:
    case = Case((16, 21), 1, 32, 8, 8, dtype)
    case.q[:], case.k[..., 1:] = case.q.abs(), 0
    case.k[..., 0] = torch.arange(16)[:, None, None] * 8 + torch.arange(21)[:, None]
    check_forward(compiled, case)


def test_float32_is_precise(compiled: Library) -> None:
    case = PLAIN[0]
    result, _ = run_forward(compiled, case)
    exact = reference(case, torch.float64)[0][0]
    assert (result - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_bfloat16_is_precise_enough(compiled: Library) -> None:
    case = TILES[0]
    result, _ = run_forward(compiled, case)
    exact = reference(case, torch.float64)[0][0]
    assert (result - exact).abs().max() <= 1e-2 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_empty_batch(compiled: Library, dtype: torch.dtype) -> None:
    case = Case((8, 9), 2, 32, 8, 4, dtype, batch=0)
    out, lse = run_forward(compiled, case)
    assert out.shape == (0, 8, 9, 2, 32)
    assert lse.shape == (0, 8, 9, 2)
    assert lse.dtype == torch.float32
    *grads, bias_grad = run_backward(compiled, case)
    assert all(x.shape == out.shape and x.dtype == dtype for x in grads)
    assert not bias_grad.any()


def test_wrong_arguments(compiled: Library) -> None:
    case = Case((8, 9), 2, 32, 8, 4)
    q, k, v = case.inputs(case.dtype)
    attention, rest = operations.halo_attention, (8, 4, 0.2, [0, 0])
    for arguments, message in (
        ((q[0], k, v, None, *rest), "q has 4 dimensions, expected 5"),
        ((q, k[:, 1:], v, None, *rest), "k has size 7 in dimension 1, expected that of q, 8"),
        ((q, k, v.float(), None, *rest), "v has dtype Float, expected that of q, BFloat16"),
        ((q.int(), k.int(), v.int(), None, *rest), "q has dtype Int"),
        ((q, k, v, None, 8, 9, 0.2, [0, 0]), "halo is 9, expected 0 to the window"),
        ((q, k, v, None, 0, 0, 0.2, [0, 0]), "window is 0, expected 1 to"),
        ((q, k, v, torch.zeros(2, 22, 23), *rest), "bias has size 22 in dimension 1, expected 23"),
        ((q, k, v, None, 8, 4, 0.2, [0]), "origin has 1 numbers, expected 2"),
    ):
        with pytest.raises(RuntimeError, match=message):
            attention(*arguments)
