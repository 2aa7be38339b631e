"""Chooses what to compile: nothing, or the C++ extension for the CPU, or for CPU and CUDA.

FREQDIFF_BUILD is one of
  auto    compile when a C++ compiler and the headers of torch are there, else pure Python
  python  compile nothing
  cpu     compile for the CPU only
  cuda    compile for CPU and CUDA (refused while there are no CUDA sources)
A compile that fails is always an error.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
TORCH_2_11 = (2 << 56) | (11 << 48)


def torch_folder() -> Path | None:
    """The installed torch, found without importing it."""
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec and spec.origin else None


def extensions() -> list[Extension]:
    mode = os.environ.get("FREQDIFF_BUILD", "auto")
    if mode not in ("auto", "python", "cpu", "cuda"):
        raise SystemExit(f"FREQDIFF_BUILD is {mode!r}, expected auto, python, cpu or cuda")
    if mode == "python":
        return []
    if mode == "cuda":
        raise SystemExit("FREQDIFF_BUILD=cuda: this version has no CUDA kernels, use cpu")
    torch = torch_folder()
    missing = []
    if torch is None or not (torch / "include" / "torch" / "csrc" / "stable").is_dir():
        missing.append("torch >= 2.11 in the build environment (pip install --no-build-isolation)")
    if not (os.environ.get("CXX") or shutil.which("g++")):
        missing.append("a C++ compiler (g++)")
    if missing or torch is None:
        if mode != "auto":
            raise SystemExit(f"FREQDIFF_BUILD={mode} needs {' and '.join(missing)}")
        print(f"freqdiff: building pure Python, compiled kernels need {' and '.join(missing)}")
        return []
    import pybind11

    return [
        Extension(
            "freqdiff_kernels._C",
            sources=sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*.cpp")),
            depends=sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/*.h")),
            include_dirs=[str(torch / "include"), pybind11.get_include()],
            define_macros=[("TORCH_TARGET_VERSION", f"{TORCH_2_11:#018x}ull")],
            library_dirs=[str(torch / "lib")],
            libraries=["torch_cpu", "c10"],
            extra_compile_args=["-std=c++17", "-O3", "-fno-math-errno", "-fvisibility=hidden"],
            language="c++",
        )
    ]


setup(
    package_dir={"freqdiff_kernels": "kernels", "freqdiff": "freqdiff", "blursynth": "blursynth"},
    packages=["freqdiff_kernels", "freqdiff", "blursynth"]
    + (["freqdiff.weights"] if (ROOT / "freqdiff" / "weights").is_dir() else []),
    package_data={
        "freqdiff": ["py.typed", "weights/**"],
        "blursynth": ["py.typed"],
        "freqdiff_kernels": ["py.typed"],
    },
    ext_modules=extensions(),
)
