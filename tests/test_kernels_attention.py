"""halo_attention: the kernel against its reference, float64 and one query at a time."""

import pytest
import torch
from precision import assert_as_precise
from torch import Tensor

from freqdiff_kernels import native, ops

Arguments = tuple[Tensor, Tensor, Tensor, Tensor | None, int, int, float, list[int]]

kernel = torch.ops.freqdiff
plain = torch.ops.freqdiff_reference


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype)


def problem(
    size: tuple[int, int] = (13, 18),
    heads: int = 2,
    depth: int = 16,
    window: int = 8,
    halo: int = 4,
    origin: tuple[int, int] = (0, 0),
    dtype: torch.dtype = torch.float32,
    biased: bool = True,
    batch: int = 1,
) -> Arguments:
    """The arguments of the operation."""
    q, k, v = random(3, batch, *size, heads, depth, dtype=dtype).unbind()
    span = 2 * (window + halo) - 1
    bias = random(heads, span, span, seed=1, dtype=dtype) if biased else None
    return q, k, v, bias, window, halo, depth**-0.5, list(origin)


def wide(arguments: Arguments) -> Arguments:
    """The same in float64."""
    q, k, v, bias, *options = arguments
    return q.double(), k.double(), v.double(), None if bias is None else bias.double(), *options


def assert_forward_and_backward_as_precise(arguments: Arguments) -> None:
    q, k, v, bias, *options = arguments
    grad = random(*q.shape, seed=2, dtype=q.dtype)
    result, expected = kernel.halo_attention(*arguments), plain.halo_attention(*arguments)
    exact_inputs = wide(arguments)
    exact = plain.halo_attention(*exact_inputs)
    for number in range(2):
        assert_as_precise(result[number], expected[number], exact[number])
    assert result[0].is_contiguous()

    gradients = kernel.halo_attention_backward(grad, q, k, v, bias, *result, *options)
    expected = plain.halo_attention_backward(grad, q, k, v, bias, *expected, *options)
    exact = plain.halo_attention_backward(grad.double(), *exact_inputs[:4], *exact, *options)
    for number in range(3 if bias is None else 4):
        assert_as_precise(gradients[number], expected[number], exact[number])


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("window", "halo"), [(8, 4), (8, 0), (8, 8), (7, 3), (16, 8), (3, 2)])
def test_as_precise_as_torch(level: str, window: int, halo: int, biased: bool) -> None:
    arguments = problem(window=window, halo=halo, biased=biased, origin=(3, 5))
    assert_forward_and_backward_as_precise(arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_dtypes(level: str, dtype: torch.dtype) -> None:
    assert_forward_and_backward_as_precise(problem(dtype=dtype))


@pytest.mark.parametrize("depth", [1, 5, 32, 40, 72])
def test_depths(level: str, depth: int) -> None:
    # 49 keys: no multiple of any register tile.
    assert_forward_and_backward_as_precise(problem((9, 12), depth=depth, window=3, halo=2))


@pytest.mark.parametrize("size", [(1, 2), (1, 33), (33, 1), (8, 16), (17, 7)])
def test_sizes(level: str, size: tuple[int, int]) -> None:
    arguments = problem(size, biased=False, batch=3)
    assert_forward_and_backward_as_precise(arguments)


def test_bias_of_another_dtype(level: str) -> None:
    q, k, v, bias, *options = problem(dtype=torch.bfloat16)
    assert bias is not None
    single = kernel.halo_attention(q, k, v, bias.float(), *options)
    assert torch.equal(single[0], kernel.halo_attention(q, k, v, bias, *options)[0])
    q.requires_grad_()
    bias = bias.float().requires_grad_()
    ops.halo_attention(q, k, v, 8, 4, bias).float().sum().backward()
    assert bias.grad is not None
    assert bias.grad.dtype == torch.float32


def relaid(values: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same values with the axes stored in another order, and gaps between them."""
    stored = values.permute(order)
    gaps = torch.full((*stored.shape[:-1], stored.shape[-1] + 3), float("nan"), dtype=values.dtype)
    gaps[..., : stored.shape[-1]] = stored
    back = [order.index(axis) for axis in range(values.dim())]
    return gaps[..., : stored.shape[-1]].permute(back)


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (0, 3, 4, 1, 2), (2, 4, 0, 3, 1)])
def test_strides(level: str, order: tuple[int, ...]) -> None:
    q, k, v, bias, *options = problem()
    grad = random(*q.shape, seed=2)
    expected = kernel.halo_attention(q, k, v, bias, *options)
    moved = [relaid(x, order) for x in (q, k, v)]
    result = kernel.halo_attention(*moved, bias, *options)
    expected_gradients = kernel.halo_attention_backward(grad, q, k, v, bias, *expected, *options)
    gradients = kernel.halo_attention_backward(
        relaid(grad, order),
        *moved,
        bias,
        relaid(expected[0], order),
        relaid(expected[1], order[: order.index(4)] + order[order.index(4) + 1 :]),
        *options,
    )
    # The compiled kernel computes the same from any layout; the library's products do not.
    tolerance = 1e-5 if level == "reference" else 0
    torch.testing.assert_close(
        (*result, *gradients), (*expected, *expected_gradients), rtol=tolerance, atol=tolerance
    )


def test_tile_equals_the_frame(level: str) -> None:
    frame = problem((40, 56), halo=4)
    q, k, v, bias, window, halo, scale, _ = frame
    whole = kernel.halo_attention(*frame)[0]
    rows, columns = slice(5, 37), slice(9, 51)
    cut = [x[:, rows, columns] for x in (q, k, v)]
    tile = kernel.halo_attention(*cut, bias, window, halo, scale, [5, 9])[0]
    # Blocks whose halo the tile holds: pixels 16 to 32 and 16 to 40 of the frame.
    assert torch.equal(tile[:, 11:27, 7:31], whole[:, 16:32, 16:40])


def test_repeatable_for_any_number_of_threads(level: str) -> None:
    arguments = problem((37, 50), batch=2)
    grad = random(*arguments[0].shape, seed=2)
    q, k, v, bias, *options = arguments
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5, 1):
            torch.set_num_threads(count)
            forward = kernel.halo_attention(*arguments)
            backward = kernel.halo_attention_backward(grad, q, k, v, bias, *forward, *options)
            results.append((*forward, *backward))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for values, same in zip(results[0], other, strict=True):
            assert torch.equal(values, same)


@pytest.mark.parametrize("halo", [0, 2])
def test_gradcheck(halo: int) -> None:
    q, k, v, bias, *_ = problem((5, 7), 2, 3, 4, halo, dtype=torch.float64)
    inputs = tuple(x.requires_grad_() for x in (q, k, v, bias) if x is not None)
    assert torch.autograd.gradcheck(
        lambda q, k, v, bias: ops.halo_attention(q, k, v, 4, halo, bias, origin=(1, 3)),
        inputs,
        fast_mode=True,
    )


def test_empty_batch(level: str) -> None:
    q = torch.rand(0, 9, 12, 2, 8, requires_grad=True)
    bias = torch.rand(2, 23, 23, requires_grad=True)
    result = ops.halo_attention(q, q, q, 8, 4, bias)
    assert result.shape == q.shape
    result.sum().backward()
    assert q.grad is not None
    assert q.grad.shape == q.shape
    assert bias.grad is not None
    assert not bias.grad.any()


def test_large_logits(level: str) -> None:
    q, k, v, _, *options = problem(biased=False)
    arguments = (100 * q, 100 * k, v, None, *options)
    result, expected = kernel.halo_attention(*arguments), plain.halo_attention(*arguments)
    exact = plain.halo_attention(*wide(arguments))
    for number in range(2):
        assert_as_precise(result[number], expected[number], exact[number])


def test_not_a_number_stays_in_sight(level: str) -> None:
    q, k, v, *_ = problem((24, 24), biased=False)
    v[:, 3, 3, 0, 2] = float("nan")
    k[:, 20, 20, 1] = float("nan")
    result = ops.halo_attention(q, k, v, 8, 4)
    assert result[:, :8, :8, 0, 2].isnan().all()
    assert result[:, :8, :8, 0, 3].isfinite().all()
    assert result[:, 16:, 16:, 1].isnan().all()
    assert result[:, :8, :8, 1].isfinite().all()


def naive_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, halo: int, origin: tuple[int, int]
) -> Tensor:
    """One query at a time."""
    _, height, width, _, depth = q.shape
    out = torch.empty_like(q)
    for y in range(height):
        for x in range(width):
            top = (y + origin[0]) // window * window - origin[0] - halo
            left = (x + origin[1]) // window * window - origin[1] - halo
            rows = slice(max(top, 0), top + window + 2 * halo)
            columns = slice(max(left, 0), left + window + 2 * halo)
            keys = k[:, rows, columns].flatten(1, 2)
            weights = torch.einsum("bhd,bnhd->bnh", q[:, y, x], keys) * depth**-0.5
            values = v[:, rows, columns].flatten(1, 2)
            out[:, y, x] = torch.einsum("bnh,bnhd->bhd", weights.softmax(1), values)
    return out


@pytest.mark.parametrize("origin", [(0, 0), (3, 5)])
@pytest.mark.parametrize("halo", [0, 2])
def test_halo_attention_equals_one_query_at_a_time(halo: int, origin: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 11, 9, 2, 4, generator=generator, dtype=torch.float64).unbind()
    result = ops.halo_attention(q, k, v, 4, halo, origin=origin)
    torch.testing.assert_close(result, naive_attention(q, k, v, 4, halo, origin))


def test_halo_attention_bias() -> None:
    q, k, v = torch.rand(3, 1, 8, 8, 2, 4).unbind()
    bias = torch.zeros(2, 11, 11)
    plain = ops.halo_attention(q, k, v, 4, 2)
    torch.testing.assert_close(ops.halo_attention(q, k, v, 4, 2, bias), plain)
    bias[:, 5 + 1, 5 - 2] = 1e9  # every query looks one pixel down and two to the left
    result = ops.halo_attention(q, k, v, 4, 2, bias)
    torch.testing.assert_close(result[:, :7, 2:], v[:, 1:, :6])
    with pytest.raises(ValueError, match=r"bias has shape \(2, 11, 10\), expected"):
        ops.halo_attention(q, k, v, 4, 2, bias[..., 1:])


@pytest.mark.skipif(native.status != "loaded", reason="needs the compiled kernels")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": random(1, 13, 18, 2, 8)}, "k has size 8 in dimension 4, expected that of q, 16"),
        ({"v": random(1, 13, 18, 2, 16).half()}, "v has dtype Half, expected that of q, Float"),
        ({"halo": 9}, "halo is 9, expected 0 to the window"),
        ({"origin": [1]}, "length of origin is 1, expected 2"),
        ({"bias": random(2, 5, 5)}, r"bias has 3 dimensions, expected \(heads, R, R\)"),
    ],
)
def test_errors_of_the_kernel(change: dict[str, object], message: str) -> None:
    names = ("q", "k", "v", "bias", "window", "halo", "scale", "origin")
    arguments = dict(zip(names, problem(), strict=True)) | change
    with pytest.raises(RuntimeError, match=message):
        kernel.halo_attention(*arguments.values())
