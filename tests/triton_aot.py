"""Compiles every Triton kernel for sm_90 without a GPU: `python triton_aot.py` prints JSON.

A program of its own, because triton decides at its import whether kernels are interpreted.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from freqdiff_kernels import triton_features, triton_features_backward

FLOAT, HALF, BYTE = "*fp32:16", "*bf16:16", "*u8:16"
IMAGE = {"height": "i32:16", "width": "i32:16", "stride_b": "i32:16", "stride_c": "i32:16"}
IMAGE |= {"stride_y": "i32:16", "stride_x": 1, "basis_table": FLOAT, "floor": "fp64"}
F32 = {"COMPUTE": tl.float32}


def spectral(
    window: int, stride: int, side: int, across: int, planes: str = "luma", tf32: bool = False
) -> dict[str, Any]:
    options = {"P": window, "S": stride, "Q": side, "N": across, "LUMA": planes == "luma"}
    return IMAGE | F32 | options | {"PRECISION": "tf32" if tf32 else "ieee"}


def cases() -> dict[str, tuple[Any, dict[str, Any], dict[str, int]]]:
    """Kernel, types or values of its arguments, and launch options, by name."""
    table: dict[str, tuple[Any, dict[str, Any], dict[str, int]]] = {}
    features = triton_features._features_kernel
    for window in (8, 16, 32, 64):
        for stride in (window, window // 2):
            side, across = triton_features.geometry(window, 16)
            wide = spectral(window, stride, side, across)
            table[f"features P{window} S{stride} fp32"] = (
                features,
                wide | {"image": FLOAT, "out": FLOAT},
                {},
            )
            half = spectral(window, stride, side, across, tf32=True)
            table[f"features P{window} S{stride} u8 bf16"] = (
                features,
                half | {"image": BYTE, "out": HALF},
                {},
            )
            table[f"bands P{window} S{stride} fp32"] = (
                triton_features._bands_kernel,
                wide | {"image": FLOAT, "out": FLOAT, "shares": FLOAT, "BANDS": 32},
                {},
            )
            side, across = triton_features.geometry(window, 32)
            wide = spectral(window, stride, side, across)
            table[f"features backward P{window} S{stride} fp32"] = (
                triton_features_backward._windows_kernel,
                wide | {"image": FLOAT, "grad": FLOAT, "windows": FLOAT, "BANDS": False},
                {},
            )
    return table


def compile_one(kernel: Any, arguments: dict[str, Any], options: dict[str, int]) -> dict[str, int]:
    """Registers per thread, stack and shared memory in bytes of one kernel."""
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        value = arguments[name]
        if isinstance(value, str) and name not in ("PRECISION",):
            signature[name], _, divisor = value.partition(":")
            if divisor:
                attributes[(index,)] = [["tt.divisibility", int(divisor)]]
        else:
            signature[name] = "constexpr"
            constants[name] = value
    source = ASTSource(kernel, signature, constants, attributes)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "registers": numbers["REG"],
        "stack": numbers["STACK"] + numbers["LOCAL"],
        "shared": built.metadata.shared,
        "warps": built.metadata.num_warps,
    }


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, case in cases().items():
        if wanted in name:
            print(json.dumps({"name": name} | compile_one(*case)), flush=True)


if __name__ == "__main__":
    main()
