"""Chooses what to compile: nothing, or the C++ extension for the CPU, or for CPU and CUDA.

FREQDIFF_BUILD is one of
  auto    compile when a C++ compiler and the headers of torch are there, else pure Python
  python  compile nothing
  cpu     compile for the CPU only
  cuda    compile for CPU and CUDA
A compile that fails is always an error.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

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
    if mode == "python" or not any((ROOT / "csrc").glob("*.cpp")):
        return []
    torch, compiler = torch_folder(), os.environ.get("CXX") or shutil.which("g++")
    missing = "torch (try --no-build-isolation)" if torch is None else None if compiler else "g++"
    if missing:
        if mode != "auto":
            raise SystemExit(f"FREQDIFF_BUILD={mode} needs {missing}, which is not there")
        print(f"freqdiff: building pure Python, as there is no {missing}")
        return []
    return []


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
    cmdclass={"build_ext": build_ext},
)
