"""Every Triton kernel compiles for sm_90, without spilling registers; no GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="needs Triton")

TESTS = Path(__file__).parent

# Bytes per thread that may be put aside: at a window of 64 the gradient keeps a whole strip and its
# three-fold factors in registers, and a few values leave them between thousands of multiplications.
STACK = {"windows P64 S32 fp32": 128}
SHARED, REGISTERS = 227 * 1024, 65536
"""Bytes for a program and registers of a multiprocessor, of an H100."""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each kernel uses."""
    environment = {name: os.environ[name] for name in os.environ if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    run = subprocess.run(
        [sys.executable, "-W", "error", str(TESTS / "triton_aot.py")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.slow
def test_kernels_fit_into_registers_and_shared_memory(kernels: list[dict[str, Any]]) -> None:
    for kernel in kernels:
        name = kernel["name"]
        assert kernel["stack"] <= STACK.get(name, 0), f"{name} spills: {kernel}"
        assert kernel["shared"] <= SHARED, f"{name}: {kernel}"
        assert kernel["registers"] * 32 * kernel["warps"] <= REGISTERS, f"{name}: {kernel}"


@pytest.mark.slow
def test_every_kernel_is_compiled(kernels: list[dict[str, Any]]) -> None:
    compiled = {kernel["kernel"] for kernel in kernels}
    folder = TESTS.parent / "kernels"
    written = {
        line.removeprefix("def ").split("(")[0]
        for path in folder.glob("triton_*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("def _") and "_kernel(" in line
    }
    assert compiled == written
