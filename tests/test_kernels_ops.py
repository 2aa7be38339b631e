"""The operations as the dispatcher and the compiler see them, and what the installation reports."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from freqdiff_kernels import native, ops

STARTS = ([-2, 20], [0, 30])


def attention_inputs() -> tuple[Tensor, ...]:
    """q, k, v and bias of window 4 and halo 2."""
    q, k, v = torch.rand(3, 1, 7, 9, 2, 4).unbind()
    bias = torch.rand(2, 11, 11)
    return tuple(x.requires_grad_() for x in (q, k, v, bias))


CASES = {
    "features": (
        torch.ops.freqdiff.fft_features.default,
        lambda: (torch.rand(2, 3, 16, 24, requires_grad=True), 16, 8, "hann", "rgb", torch.float32),
    ),
    "features of bytes": (
        torch.ops.freqdiff.fft_features.default,
        lambda: (
            torch.zeros(1, 3, 16, 24, dtype=torch.uint8),
            8,
            8,
            "none",
            "luma",
            torch.bfloat16,
        ),
    ),
    "features backward": (
        torch.ops.freqdiff.fft_features_backward.default,
        lambda: (torch.rand(2, 2, 3, 384), torch.rand(2, 3, 16, 24), 16, 8, "hann", "luma"),
    ),
    "bands": (
        torch.ops.freqdiff.fft_bands.default,
        lambda: (
            torch.rand(1, 3, 16, 24, requires_grad=True),
            *(16, 8, "hann", "rgb", 2, 3, torch.float32),
        ),
    ),
    "bands backward": (
        torch.ops.freqdiff.fft_bands_backward.default,
        lambda: (
            torch.rand(1, 2, 3, 6),
            torch.rand(1, 3, 16, 24),
            *(16, 8, "hann", "luma", 2, 3),
        ),
    ),
    "attention": (
        torch.ops.freqdiff.halo_attention.default,
        lambda: (*attention_inputs(), 4, 2, 0.3, [1, 2]),
    ),
    "attention without bias": (
        torch.ops.freqdiff.halo_attention.default,
        lambda: (*attention_inputs()[:3], None, 4, 0, 0.3, [0, 0]),
    ),
    "attention backward": (
        torch.ops.freqdiff.halo_attention_backward.default,
        lambda: (
            torch.rand(1, 7, 9, 2, 4),
            *(x.detach() for x in attention_inputs()),
            torch.rand(1, 7, 9, 2, 4),
            torch.rand(1, 7, 9, 2),
            *(4, 2, 0.3, [1, 2]),
        ),
    ),
    "step": (
        torch.ops.freqdiff.ddim_step.default,
        lambda: (
            torch.rand(2, 3, 4, 5, requires_grad=True),
            torch.rand(2, 3, 4, 5, dtype=torch.bfloat16, requires_grad=True),
            torch.rand(2, 3, 4, 5, requires_grad=True),
            *(torch.rand(2, 5), True),
        ),
    ),
    "step without anchor": (
        torch.ops.freqdiff.ddim_step.default,
        lambda: (
            torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
            torch.rand(2, 3, 4, 5),
            *(None, torch.rand(2, 5), False),
        ),
    ),
    "extract": (
        torch.ops.freqdiff.extract_tiles.default,
        lambda: (
            torch.rand(3, 40, 50, requires_grad=True),
            [24, 28],
            *STARTS,
            torch.float32,
            2.0,
            -1.0,
        ),
    ),
    "stitch": (
        torch.ops.freqdiff.stitch_tiles.default,
        lambda: (
            torch.rand(4, 3, 24, 32, requires_grad=True),
            *STARTS,
            [40, 50],
            1,
            torch.float32,
            1.0,
            0.0,
            False,
        ),
    ),
    "paths": (
        torch.ops.freqdiff.rasterize_paths.default,
        lambda: (torch.randn(2, 3, 8, 2), torch.rand(2, 3, 8), 4),
    ),
    "grid": (
        torch.ops.freqdiff.filter_grid.default,
        lambda: (torch.rand(2, 3, 24, 34), torch.rand(2, 3, 4, 5, 5), 10),
    ),
    "shared kernel": (
        torch.ops.freqdiff.filter_grid.default,
        lambda: (torch.rand(2, 3, 24, 34).double(), torch.rand(1, 1, 1, 5, 5).double(), 10),
    ),
    "stitch to bytes": (
        torch.ops.freqdiff.stitch_tiles.default,
        lambda: (
            torch.rand(4, 3, 24, 32),
            *STARTS,
            [40, 50],
            0,
            torch.uint8,
            255.0,
            0.0,
            True,
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_opcheck(case: str) -> None:
    operation, arguments = CASES[case]
    torch.library.opcheck(operation, arguments())


def pipeline(image: Tensor) -> Tensor:
    tiles = ops.extract_tiles(image, (24, 32), STARTS, scale=2.0, shift=-1.0)
    features = ops.fft_features(image[None, :, :40, :48], 16, 8).mean()
    return ops.stitch_tiles(tiles * features, STARTS, (40, 50), margin=1)


def test_compiles_as_one_graph() -> None:
    image = torch.rand(3, 40, 50)
    eager_input, compiled_input = image.clone().requires_grad_(), image.clone().requires_grad_()
    expected = pipeline(eager_input)
    result = torch.compile(pipeline, fullgraph=True, backend="aot_eager")(compiled_input)
    torch.testing.assert_close(result, expected)
    expected.square().sum().backward()
    result.square().sum().backward()
    torch.testing.assert_close(compiled_input.grad, eager_input.grad)


# The default compiler of torch uses something that torch itself calls deprecated.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
def test_compiles_with_the_default_backend() -> None:
    image = torch.rand(1, 3, 32, 48)

    def half(values: Tensor) -> Tensor:
        return ops.fft_features(values, 16, 8) * 0.5

    # Else torch first compiles a program for each instruction set that the processor names.
    with torch._inductor.config.patch({"cpp.vec_isa_ok": True}):
        torch.testing.assert_close(torch.compile(half, fullgraph=True)(image), half(image))


def test_reference_can_be_forced() -> None:
    image = torch.rand(1, 3, 32, 32)
    with ops.use_backend("reference"):
        plain = ops.fft_features(image, 16, 16)
    torch.testing.assert_close(ops.fft_features(image, 16, 16), plain, rtol=1e-4, atol=1e-4)


def test_backends_name_what_runs() -> None:
    live = "cpp" if native.status == "loaded" else "reference"
    for devices in ops.backends().values():
        assert devices["cpu"] == live


def test_cuda_kernels_are_registered_without_a_gpu() -> None:
    report = ops.backends()
    live = "triton" if importlib.util.find_spec("triton") else "reference"
    if native.build_info().get("cuda"):
        live = "cuda"
    for name in ("fft_features", "fft_bands", "extract_tiles", "stitch_tiles", "ddim_step"):
        assert report[name]["cuda"] == live
        if live == "cuda":
            assert native.has_kernel(name, "cuda")
    for name in ("rasterize_paths", "filter_grid"):
        assert report[name]["cuda"] == "reference"


def test_status_of_the_extension() -> None:
    assert native.status in ("loaded", "not built")
    if native.status == "loaded":
        assert native.build_info()["torch"].split(".")[0] == "2"
        with pytest.raises(ValueError, match="level is 'sse9', expected one of"):
            native.set_cpu_level("sse9")
    else:
        assert native.cpu_levels() == []


def test_fallback_warns_once_per_operation_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_warned", set())
    native.warn_fallback("fft_features", torch.device("cpu"))
    with pytest.warns(UserWarning, match="fft_features has no kernel for cuda"):
        native.warn_fallback("fft_features", torch.device("cuda"))
    native.warn_fallback("fft_features", torch.device("cuda"))


def test_importing_leaves_heavy_packages_alone() -> None:
    code = "import sys, freqdiff_kernels.ops; print('kernels' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
