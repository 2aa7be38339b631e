"""Compiles every Triton kernel for sm_90 without a GPU: `python triton_aot.py` prints JSON lines.

A program of its own, because triton decides at its import whether kernels are interpreted.
"""

import json
import multiprocessing
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from freqdiff_kernels import (
    triton_attention,
    triton_attention_backward,
    triton_attention_bias,
    triton_features,
    triton_features_backward,
    triton_launch,
    triton_steps,
    triton_tiles,
)

Case = tuple[str, Any, dict[str, Any]]

TENSORS = {"fp32": "*fp32:16", "bf16": "*bf16:16", "fp16": "*fp16:16", "u8": "*u8:16"}
TENSORS |= {"u16": "*u16:16"}
# "type:16" is a multiple of 16, as the addresses and strides of real images and layers are.
TYPES: dict[str, Any] = {"COMPUTE": tl.float32, "stride_x": 1}
for names, type_ in (
    ("height width stride_b stride_c stride_y q_b q_y q_x q_h", "i32:16"),
    ("k_b k_y k_x k_h v_b v_y v_x v_h", "i32:16"),
    ("heads rows columns top left windows blocks groups size row_length tile_height", "i32"),
    ("scale shift floor", "fp64"),
    ("basis_table shares coefficients lse dots sums weight_y weight_x", TENSORS["fp32"]),
    ("first_y second_y first_x second_x", "*i64:16"),
    ("starts_y starts_x", "*i32:16"),
):
    TYPES |= dict.fromkeys(names.split(), type_)


def of_tensors(dtype: str, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, TENSORS[dtype])


def spectral_cases() -> Iterator[Case]:
    for window, stride, source, target in (
        (16, 16, "fp32", "fp32"),
        (16, 16, "u8", "bf16"),
        (16, 8, "bf16", "bf16"),
        (8, 8, "fp32", "fp32"),
        (32, 16, "fp32", "fp32"),
        (32, 32, "u8", "bf16"),
        (64, 32, "fp32", "fp32"),
        (64, 64, "u8", "bf16"),
    ):
        name = f"P{window} S{stride} {source}"
        options = {"P": window, "S": stride, "LUMA": True} | of_tensors(source, "image")
        options |= of_tensors(target, "out", "grad") | of_tensors("fp32", "windows")
        side, across = triton_features.geometry(window, 16)
        dtype = torch.bfloat16 if target == "bf16" else torch.float32
        precision = triton_features.precision(side, dtype)
        forward = options | {"Q": side, "N": across, "PRECISION": precision}
        yield f"features {name} -> {target}", triton_features._features_kernel, forward
        bands = forward | {"BANDS": 32}
        yield f"bands {name} -> {target}", triton_features._bands_kernel, bands
        if target == "fp32":
            side, across = triton_features.geometry(window, 32)
            backward = options | {"Q": side, "N": across, "BANDS": False}
            backward["PRECISION"] = triton_features.precision(side, dtype)
            yield f"windows {name}", triton_features_backward._windows_kernel, backward
            gather = options | {"BLOCK": 1024}
            yield f"gather {name}", triton_features_backward._gather_kernel, gather


def attention_cases() -> Iterator[Case]:
    for name, window, halo, depth, dtype, biased in (
        ("A1", 8, 4, 32, "bf16", False),
        ("A2 and A4", 16, 8, 64, "bf16", False),
        ("A3", 8, 0, 32, "bf16", False),
        ("A1 with bias", 8, 4, 32, "bf16", True),
        ("A2 with bias", 16, 8, 64, "bf16", True),
        ("deep", 16, 8, 128, "bf16", True),
        ("fp32", 8, 4, 32, "fp32", True),
        ("fp32 of A2", 16, 8, 64, "fp32", True),
        ("fp32 deep", 16, 8, 128, "fp32", False),
    ):
        options = of_tensors(dtype, "q", "k", "v", "bias", "grad", "out")
        options |= of_tensors(dtype, "q_grad", "k_grad", "v_grad")
        options |= {"WINDOW": window, "HALO": halo, "DEPTH": depth, "HAS_BIAS": biased}
        options |= {"DOT": tl.float32 if dtype == "fp32" else tl.bfloat16, "COUNT": 16}
        wide = dtype == "fp32"
        forward = triton_attention.forward_launch(window, depth, wide, biased)
        yield f"attention {name}", triton_attention._forward_kernel, options | forward
        of_queries, of_keys = triton_attention_backward.backward_launch(depth, wide)
        queries = triton_attention_backward._query_kernel
        yield f"attention queries {name}", queries, options | of_queries
        block, near = triton_attention_backward.key_parts(window, halo)
        of_keys |= {"BLOCK": block, "NEAR": near}
        yield f"attention keys {name}", triton_attention_backward._key_kernel, options | of_keys
        if biased:
            yield f"attention bias {name}", triton_attention_bias._bias_kernel, options | of_queries


def other_cases() -> Iterator[Case]:
    block = {"BLOCK": triton_tiles.BLOCK}
    extract = of_tensors("u8", "image") | of_tensors("bf16", "out") | block
    extract |= {"CHANNELS": 3, "AFFINE": True, "TOP": 0, "stride_x": 3, "stride_c": 1}
    yield "extract u8 -> bf16", triton_tiles._extract_kernel, extract
    for source, target, interleaved in (
        ("bf16", "u8", True),
        ("fp32", "fp32", False),
        ("fp32", "u8", False),
        ("bf16", "u16", True),
    ):
        stitch = of_tensors(source, "tiles") | of_tensors(target, "out") | block
        stitch |= {"INTERLEAVED": interleaved, "PLANES": 1 if interleaved else 3}
        stitch |= {"stride_c": 1, "CHANNELS": 3}
        stitch |= {"AFFINE": True, "TOP": {"u8": 255, "u16": 65535}.get(target, 0)}
        yield f"stitch {source} -> {target}", triton_tiles._stitch_kernel, stitch
    step = of_tensors("fp32", "x", "y", "out") | of_tensors("bf16", "f")
    step |= {"HAS_Y": True, "CLAMP": True, "BLOCK": triton_steps.BLOCK}
    yield "step", triton_steps._step_kernel, step


def cases() -> Iterator[Case]:
    """Name, kernel, and types or values of its arguments with options of its launch."""
    yield from spectral_cases()
    yield from attention_cases()
    yield from other_cases()


def compile_one(kernel: Any, arguments: dict[str, Any]) -> dict[str, int]:
    """Registers per thread, and bytes of stack and shared memory."""
    signature, constants, attributes = {}, {}, {}
    for index, parameter in enumerate(kernel.params):
        name = parameter.name
        value = arguments.get(name, TYPES.get(name))
        if value is None:
            raise KeyError(f"{kernel.fn.__name__}: {name} has no type")
        if parameter.is_constexpr or isinstance(value, int):
            signature[name], constants[name] = "constexpr", value
            continue
        signature[name], _, divisor = value.partition(":")
        if divisor:
            attributes[(index,)] = [["tt.divisibility", int(divisor)]]
    options = {name: arguments[name] for name in ("num_warps", "num_stages") if name in arguments}
    built = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", 90, 32),
        options=triton_launch.OPTIONS | options,
    )
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return {
        "registers": int(found["REG"]),
        "stack": int(found["STACK"]) + int(found["LOCAL"]),
        "shared": built.metadata.shared,
        "warps": built.metadata.num_warps,
    }


def compile_case(index: int) -> dict[str, Any]:
    """One of `cases`, by its number, which another process can be told."""
    name, kernel, arguments = list(cases())[index]
    return {"name": name, "kernel": kernel.fn.__name__} | compile_one(kernel, arguments)


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [index for index, (name, *_) in enumerate(cases()) if wanted in name]
    with multiprocessing.get_context("spawn").Pool() as pool:
        for facts in pool.imap(compile_case, chosen):
            print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
