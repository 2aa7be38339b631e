"""The operations inside other people's programs: tracing, export, autocast, threads."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from freqdiff_kernels import native, ops

STARTS = ([0, 16], [0, 16])


def attention(x: Tensor) -> Tensor:
    q = x.permute(0, 2, 3, 1)[..., None, :].repeat(1, 1, 1, 2, 4)
    return ops.halo_attention(q, q * 2, q + 1, 4, 2, origin=(1, 2))


def step(x: Tensor) -> Tensor:
    coefficients = torch.full((len(x), 5), 0.5, dtype=x.dtype)
    return ops.ddim_step(x, x.sin(), x.cos(), coefficients)


def rasterize(x: Tensor) -> Tensor:
    """Six kernels of paths through the pixels of the image."""
    return ops.rasterize_paths(4 * x.reshape(-1, 128, 2)[:6], x.reshape(-1, 128)[:6], 3)


DIFFERENTIABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "fft_features": lambda x: ops.fft_features(x, 16, 8),
    "fft_bands": lambda x: ops.fft_bands(x, 16, 8, 2, 3, layout="rgb"),
    "band_energy": lambda x: ops.band_energy(x, 16, 2, 3),
    "halo_attention": attention,
    "extract_tiles": lambda x: ops.extract_tiles(x[0], (20, 20), STARTS, scale=2.0),
    "stitch_tiles": lambda x: ops.stitch_tiles(
        torch.stack([x[0, :, :20, :20]] * 4), STARTS, (32, 32)
    ),
    "ddim_step": step,
}
CALLS = DIFFERENTIABLE | {
    "rasterize_paths": rasterize,
    "filter_grid": lambda x: ops.filter_grid(x, rasterize(x)[:4].reshape(2, 2, 7, 7), 26),
}


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", CALLS)
def test_compiles_in_one_graph(name: str, image: Tensor) -> None:
    compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image), CALLS[name](image))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_compiles_in_one_graph_with_its_gradient(name: str, image: Tensor) -> None:
    compiled = torch.compile(CALLS[name], fullgraph=True, backend="aot_eager")
    inputs = [image.clone().requires_grad_() for _ in range(2)]
    expected, result = CALLS[name](inputs[0]), compiled(inputs[1])
    torch.testing.assert_close(result, expected)
    for value in (expected, result):
        value.square().sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)


@pytest.mark.parametrize("name", CALLS)
def test_exports(name: str, image: Tensor) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return CALLS[name](x)

    program = torch.export.export(Module(), (image,))
    assert any("freqdiff" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(image), CALLS[name](image))


@pytest.mark.parametrize("name", CALLS)
def test_autocast_leaves_the_dtype_alone(name: str, image: Tensor) -> None:
    expected = CALLS[name](image)
    with torch.autocast("cpu", torch.bfloat16):
        result = CALLS[name](image)
    assert result.dtype == expected.dtype == torch.float32
    assert torch.equal(result, expected)


@pytest.mark.parametrize("name", CALLS)
def test_threads_do_not_disturb_each_other(name: str) -> None:
    images = [torch.rand(1, 3, 32, 32) for _ in range(16)]
    expected = [CALLS[name](image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(CALLS[name], images))
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("name", ["fft_features", "fft_bands", "halo_attention"])
def test_second_derivatives_are_refused(name: str, image: Tensor) -> None:
    image.requires_grad_()
    result = CALLS[name](image).square().sum()
    (grad,) = torch.autograd.grad(result, image, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"{name} has no second derivative"):
        grad.square().sum().backward()


@pytest.mark.parametrize("name", ["extract_tiles", "stitch_tiles", "ddim_step"])
def test_others_can_be_differentiated_twice(name: str, image: Tensor) -> None:
    wide = image.double().requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda x: CALLS[name](x).square().sum(), (wide,), fast_mode=True
    )


@pytest.mark.parametrize("name", CALLS)
def test_inference_mode(name: str, image: Tensor) -> None:
    expected = CALLS[name](image)
    with torch.inference_mode():
        assert torch.equal(CALLS[name](image), expected)


needs_extension = pytest.mark.skipif(native.status != "loaded", reason="needs the compiled kernels")


def large_tiles(value: float) -> Tensor:
    return ops.extract_tiles(torch.full((3, 1024, 1024), value), (1024, 1024), ([0], [0]))


@needs_extension
def test_memory_of_a_large_result_serves_the_next_one() -> None:
    first = large_tiles(1.0)
    address, part = first.data_ptr(), first[0, 0, :2, :2]
    del first
    second = large_tiles(2.0)
    assert second.data_ptr() != address, "somebody still looks at it"
    assert part.tolist() == [[1, 1], [1, 1]]
    del part
    third = large_tiles(3.0)
    assert third.data_ptr() == address
    assert bool((third == 3).all() and (second == 2).all())


@needs_extension
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="ASan keeps what is freed")
def test_kept_memory_can_be_released() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    tiles = ops.extract_tiles(torch.zeros(3, 32, 32), (4096, 4096), ([-9], [-9]))
    size = tiles.nbytes
    with_tiles = resident()
    del tiles
    assert resident() > with_tiles - size / 2
    native.release_memory()
    assert resident() < with_tiles - size / 2


@needs_extension
def test_threads_do_not_share_large_results() -> None:
    def right(value: int) -> bool:
        return bool((large_tiles(float(value)) == value).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(40)))
