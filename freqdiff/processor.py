"""What the processor is and can do, and whether to train in bfloat16."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

_FEATURES = (
    *("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl"),
    *("avx512_bf16", "avx512_fp16", "amx_bf16", "neon", "asimd"),
)


def fast_in_bf16() -> bool:
    """Whether training is faster in bfloat16: on a GPU, and on CPUs with AMX (1.7 times for the
    model tiny on 8 crops of 256 px; 2.2 times for the VAE of the small base of blursynth, whose
    denoiser loses a quarter)."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU") == "true" or not torch.cuda.is_available()
    return "amx_bf16" in cpu_features() if on_cpu else True


def cpu_name() -> str:
    """Name of the processor, as far as the system tells."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """The vector instructions of the processor that matter here; empty if unknown."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [name for name in _FEATURES if name in flags]


def _cpuinfo() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    rows = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in rows}
