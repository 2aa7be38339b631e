"""Device code of the CUDA kernels, compiled for the CPU by the emulation in cuda_emulation/."""

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from freqdiff_kernels.registry import SCHEMAS

ROOT = Path(__file__).parents[1]
EMULATION = ROOT / "tests" / "cuda_emulation"
BUILT = ROOT / "build" / "emulated"
FLAGS = (
    *("-std=c++17", "-O1", "-march=native", "-fPIC", "-shared", "-w", "-fno-strict-aliasing"),
    # A trap instead of a message, because the runtime of the sanitizer cannot live in Python.
    *("-fsanitize=alignment,bounds", "-fsanitize-undefined-trap-on-error"),
)

DTYPE_CODES = {
    torch.uint8: 0,
    torch.uint16: 1,
    torch.bfloat16: 2,
    torch.float16: 3,
    torch.float32: 4,
    torch.float64: 5,
}
"""The enum Dtype of csrc/kernels.h."""


class EmulationError(Exception):
    """What a kernel did wrong."""


class Library:
    """A compiled C++ file of cuda_emulation/, whose functions return null or what went wrong."""

    def __init__(
        self, source: str | Path, flags: Sequence[str] = (), includes: Sequence[Path] = ()
    ) -> None:
        compiler = os.environ.get("CXX") or shutil.which("g++")
        if compiler is None:
            pytest.skip("no C++ compiler")
        includes = (*includes, EMULATION, ROOT / "csrc")
        paths = [f"-I{path}" for path in includes] + [str(EMULATION / source)]
        made = _compiled(Path(source).stem, [compiler, *FLAGS, *flags, *paths])
        self._library = ctypes.CDLL(str(made))
        self._library.emulation_allocate.restype = ctypes.c_void_p

    def call(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Call a function whose parameters are pointers, int64_t and double.

        Raises:
            EmulationError: with the message that the function returned.
        """
        function = self._library[name]
        function.restype = ctypes.c_char_p
        message = function(*map(_convert, arguments))
        if message is not None:
            raise EmulationError(message.decode())

    def set_max_shared(self, count: int) -> None:
        """How many bytes of shared memory a block can have, for an `operation_library`."""
        self._library.emulation_max_shared(ctypes.c_int64(count))

    def set_order(self, backwards: bool) -> None:
        """Whether warps run from the last to the first, and asynchronous copies arrive at once."""
        self._library.emulation_order(ctypes.c_int64(backwards))

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor full of NaN that ends directly before inaccessible memory."""
        count = torch.Size(shape).numel()
        size = count * dtype.itemsize
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        release = self._library.emulation_release
        address = self._library.emulation_allocate(ctypes.c_int64(size))
        memory = (ctypes.c_char * size).from_address(address)
        result = torch.frombuffer(memory, dtype=dtype, count=count).view(*shape)
        weakref.finalize(memory, release, ctypes.c_void_p(address), ctypes.c_int64(size))
        return result

    def guarded(self, tensor: Tensor) -> Tensor:
        """A contiguous copy that ends directly before inaccessible memory."""
        result = self.empty(tensor.shape, tensor.dtype)
        return result.copy_(tensor)


def _compiled(name: str, command: list[str]) -> Path:
    """What a command of the compiler makes; once for all processes, until the code changes."""
    machine = _output([*command[:1], "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    code = _output([*command, "-E", "-P"])
    key = hashlib.sha256("\0".join((machine, code, *FLAGS)).encode()).hexdigest()[:16]
    target = BUILT / f"{name}-{key}.so"
    BUILT.mkdir(parents=True, exist_ok=True)
    with (BUILT / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            for old in BUILT.glob(f"{name}-*.so"):
                old.unlink()
            begun = target.with_suffix(".tmp")
            _output([*command, "-o", str(begun)])
            begun.rename(target)
    return target


def _output(command: list[str]) -> str:
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[:5000]
    return run.stdout


SOURCES = {
    "spectra": (
        *("fft_features.cu", "fft_features_backward.cu", "fft_bands.cu"),
        *("fft_bands_backward.cu", "../tests/cuda_emulation/band_table.cpp"),
    ),
    "attention": ("halo_attention.cu",),
    "tiles": ("tiles.cu",),
    "steps": ("ddim_step.cu",),
}


@functools.cache
def operation_library(name: str) -> Library:
    """Host and device code of `SOURCES[name]`, registered for tensors on the CPU as the operations
    of `torch.ops.freqdiff_emulated_NAME`.

    What csrc/check_cuda.h declares comes from cuda_emulation/host.
    """
    namespace = f"freqdiff_emulated_{name}"
    torch_folder = Path(torch.__file__).parent
    flags = (
        *(f"-Dfreqdiff={namespace}", "-DTORCH_TARGET_VERSION=0x020b000000000000ull"),
        *(str(ROOT / "csrc" / "empty.cpp"), f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"),
    )
    for operation, schema in SCHEMAS.items():
        torch.library.define(f"{namespace}::{operation}", schema)
    # A copy, because a file finds the headers beside it first.
    copy = BUILT / f"{name}.cpp"
    code = "".join((ROOT / "csrc" / source).read_text() for source in SOURCES[name])
    if not copy.exists() or copy.read_text() != code:
        BUILT.mkdir(parents=True, exist_ok=True)
        begun = copy.with_suffix(f".{os.getpid()}")
        begun.write_text(code)
        begun.rename(copy)
    return Library(copy, flags, (EMULATION / "host", torch_folder / "include"))


def _convert(argument: Tensor | int | float | None) -> object:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_void_p(None) if argument is None else ctypes.c_int64(argument)
