"""Device code of the CUDA kernels, compiled for the CPU by the emulation in cuda_emulation/."""

import ctypes
import os
import shutil
import subprocess
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
EMULATION = ROOT / "tests" / "cuda_emulation"
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

    def __init__(self, source: str, folder: Path, flags: Sequence[str] = ()) -> None:
        compiler = os.environ.get("CXX") or shutil.which("g++")
        if compiler is None:
            pytest.skip("no C++ compiler")
        target = folder / f"{Path(source).stem}.so"
        includes = (f"-I{EMULATION}", f"-I{ROOT / 'csrc'}")
        command = [compiler, *FLAGS, *flags, *includes, str(EMULATION / source), "-o", str(target)]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[:5000]
        self._library = ctypes.CDLL(str(target))
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

    def set_order(self, backwards: bool) -> None:
        """Whether the threads of a block take turns from the last to the first."""
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


def _convert(argument: Tensor | int | float | None) -> object:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_void_p(None) if argument is None else ctypes.c_int64(argument)
