"""Settings of all tests: uninitialised memory is NaN, and torch stays on few threads.

Tests that run side by side (pytest-xdist) and what they start get one thread each.

Without a GPU, Triton kernels run in Triton's interpreter.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from emulated import Library
from interpreted import quick_interpreter

from freqdiff_kernels import native, ops

# Read when triton is imported, which nothing above does.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
LEVELS = native.cpu_levels() or ["reference"]
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Programs that a shell starts in the background ignore it, and so would those of the tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ
if SIDE_BY_SIDE:
    os.environ["OMP_NUM_THREADS"] = "1"
# What torch says on a GPU of the deterministic algorithms that poison memory below.
DETERMINISM = ("Deterministic behavior was enabled", ".*not have a deterministic implementation")
torch.set_num_threads(1 if SIDE_BY_SIDE else min(2, os.cpu_count() or 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: side by side, none of them is left alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            for warning in DETERMINISM:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}:UserWarning"))


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fill torch.empty with NaN (or the largest integer), so that unwritten results are noticed."""
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    native.release_memory()
    yield
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Two threads on a busy machine wait for each other more than they work on small models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model that changes its input."""
    import commands

    return commands.toy_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def library(compiled: Library, request: pytest.FixtureRequest) -> Iterator[Library]:
    """The emulated device code of a module, with its threads run in one order and in the other."""
    compiled.set_order(request.param)
    yield compiled
    compiled.set_order(False)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once with every instruction set of the compiled kernels."""
    native.set_cpu_level(request.param)
    yield str(request.param)
    native.set_cpu_level(LEVELS[-1])


@pytest.fixture
def triton_backend() -> Iterator[None]:
    """Every operation by its Triton kernel, in Triton's interpreter where there is no GPU."""
    with ops.use_backend("triton"):
        if torch.cuda.is_available():
            yield
        else:
            with quick_interpreter():
                yield
