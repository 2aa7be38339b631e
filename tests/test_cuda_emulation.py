"""The CPU emulation of CUDA that the tests of the kernels stand on."""

import pytest
import torch
from emulated import EmulationError, Library


@pytest.fixture(scope="module")
def compiled() -> Library:
    return Library("self_test.cpp")


def test_sum_with_shuffles_and_shared_memory(library: Library) -> None:
    values = library.guarded(torch.rand(1000))
    result = library.empty((3,), torch.float32)
    library.call("run_sum", values, result, 1000, 3)
    torch.testing.assert_close(result.sum(), values.sum())


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tensor_cores(library: Library, dtype: torch.dtype, by_columns: bool) -> None:
    a, b = torch.randn(16, 16).to(dtype), torch.randn(16, 8).to(dtype)
    stored = b.T if by_columns else b
    result = library.empty((16, 8), torch.float32)
    arguments = (library.guarded(a), library.guarded(stored), result, by_columns)
    library.call("run_tile", *arguments, dtype == torch.float16)
    torch.testing.assert_close(result, a.float() @ b.float())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (0, r"waits forever in __syncthreads\(\) of line \d+; 1 of 64 threads have left"),
        (1, r"waits in __syncthreads\(\) of line \d+, others in that of line \d+"),
        (2, r"waits forever in __syncwarp\(\) of line \d+; 2 of 64 threads have left"),
        (3, r"access beyond shared memory, offset \d+"),
        (4, r"misaligned access"),
        (6, r"invalid or misaligned access"),
        (9, r"something was written before shared memory"),
    ],
    ids=["exit", "lines", "warp", "shared", "alignment", "global", "underrun"],
)
def test_faults_are_found(library: Library, kind: int, message: str) -> None:
    out = library.empty((64,), torch.float32)
    with pytest.raises(EmulationError, match=message):
        library.call("run_divergent", kind, out)


def test_unwritten_shared_memory_is_nan(library: Library) -> None:
    out = library.empty((64,), torch.float32).zero_()
    library.call("run_divergent", 5, out)
    assert out.isnan().all()


def test_a_copy_without_wait_shows_in_one_order(compiled: Library) -> None:
    out = compiled.empty((64,), torch.float32).zero_()
    compiled.call("run_divergent", 7, out)
    assert out.isnan().all()


def test_a_missing_barrier_shows_in_one_order(compiled: Library) -> None:
    out = compiled.empty((64,), torch.float32)
    for backwards in (False, True):
        compiled.set_order(backwards)
        compiled.call("run_divergent", 8, out)
        early = out[32:] if backwards else out[:32]
        assert early.isnan().all()
    compiled.set_order(False)


def test_invalid_launch_is_refused(compiled: Library) -> None:
    with pytest.raises(EmulationError, match="invalid configuration"):
        compiled.call("run_sum", None, None, 0, 0)
