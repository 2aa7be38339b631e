"""Chooses what to compile: nothing, or the C++ extension for the CPU, or for CPU and CUDA.

FREQDIFF_BUILD is one of
  auto    compile what the machine can: C++ where g++ and torch are, CUDA where nvcc is as well
  python  compile nothing
  cpu     compile for the CPU only
  cuda    compile for CPU and CUDA
A compile that fails is always an error. TORCH_CUDA_ARCH_LIST ("8.6 9.0+PTX") names other GPUs.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
TORCH_2_11 = (2 << 56) | (11 << 48)
# Ampere and Hopper, and what the driver translates for newer ones.
GPUS = ("80,code=sm_80", "90a,code=sm_90a", "90,code=compute_90")


def torch_folder() -> Path | None:
    """The installed torch, found without importing it."""
    spec = importlib.util.find_spec("torch")
    return Path(spec.origin).parent if spec and spec.origin else None


def find_nvcc() -> str | None:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [f"{home}/bin" for home in homes if home]
    places += [os.environ.get("PATH", ""), "/usr/local/cuda/bin"]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def cuda_libraries(nvcc: str) -> list[str]:
    """Where nvcc links from. Asked of nvcc itself, because the one on PATH may be a wrapper."""
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    folders = re.findall(r"^#\$ LIBRARIES=(.*)$", printed, re.MULTILINE)
    return re.findall(r'-L([^"\s]+)', " ".join(folders))


def gpu_flags() -> list[str]:
    names = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    targets = [] if any(names) else list(GPUS)
    for name in filter(None, names):
        number = name.removesuffix("+PTX").replace(".", "")
        targets.append(f"{number},code=sm_{number}")
        if name.endswith("+PTX"):
            targets.append(f"{number},code=compute_{number}")
    return [f"--generate-code=arch=compute_{target}" for target in targets]


class Build(build_ext):
    """Compiles the files side by side, and those in CUDA by nvcc."""

    def build_extensions(self) -> None:
        compile_cpp = self.compiler.compile

        def compile_one(source: str, **options: Any) -> list[str]:
            if not source.endswith(".cu"):
                return list(compile_cpp([source], **options))
            target = Path(options["output_dir"], source).with_suffix(".cu.o")
            target.parent.mkdir(parents=True, exist_ok=True)
            flags = [f"-D{name}={value}" for name, value in options["macros"]]
            flags += [f"-I{folder}" for folder in options["include_dirs"]]
            flags += ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xfatbin=-compress-all"]
            flags += ["-Xcompiler=-fPIC,-fvisibility=hidden", *gpu_flags()]
            if "CXX" in os.environ:
                flags.append(f"-ccbin={os.environ['CXX']}")
            self.spawn([find_nvcc(), "-c", source, "-o", str(target), *flags])
            return [str(target)]

        def compile_all(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                parts = pool.map(lambda source: compile_one(source, **options), sources)
                return [target for part in parts for target in part]

        self.compiler.compile = compile_all
        super().build_extensions()


def extensions() -> list[Extension]:
    mode = os.environ.get("FREQDIFF_BUILD", "auto")
    if mode not in ("auto", "python", "cpu", "cuda"):
        raise SystemExit(f"FREQDIFF_BUILD is {mode!r}, expected auto, python, cpu or cuda")
    if mode == "python":
        return []
    torch, nvcc = torch_folder(), find_nvcc()
    missing = []
    if torch is None or not (torch / "include" / "torch" / "csrc" / "stable").is_dir():
        missing.append("torch >= 2.11 in the build environment (pip install --no-build-isolation)")
    if not (os.environ.get("CXX") or shutil.which("g++")):
        missing.append("a C++ compiler (g++)")
    if mode == "cuda" and nvcc is None:
        missing.append("the CUDA toolkit (nvcc on PATH, or CUDA_HOME)")
    if missing or torch is None:
        if mode != "auto":
            raise SystemExit(f"FREQDIFF_BUILD={mode} needs {' and '.join(missing)}")
        print(f"freqdiff: building pure Python, compiled kernels need {' and '.join(missing)}")
        return []
    import pybind11

    cuda = mode != "cpu" and nvcc is not None
    kinds = ["*.cpp", "*.cu"] if cuda else ["*.cpp"]
    macros: list[tuple[str, str | None]] = [("TORCH_TARGET_VERSION", f"{TORCH_2_11:#018x}ull")]
    return [
        Extension(
            "freqdiff_kernels._C",
            sources=sorted(f"csrc/{path.name}" for k in kinds for path in ROOT.glob(f"csrc/{k}")),
            depends=sorted(f"csrc/{path.name}" for path in ROOT.glob("csrc/*.*h")),
            include_dirs=[str(torch / "include"), pybind11.get_include()],
            define_macros=macros + ([("FREQDIFF_CUDA", "1")] if cuda else []),
            library_dirs=[str(torch / "lib"), *(cuda_libraries(nvcc) if cuda and nvcc else [])],
            libraries=[
                "torch_cpu",
                "c10",
                *(["cudart_static", "dl", "rt", "pthread"] if cuda else []),
            ],
            extra_compile_args=["-std=c++17", "-O3", "-fno-math-errno", "-fvisibility=hidden"],
            # Python's flags ask for debug information, three quarters of the file; CFLAGS keep it.
            extra_link_args=[] if "CFLAGS" in os.environ else ["-Wl,-S"],
            language="c++",
        )
    ]


setup(
    package_dir={"freqdiff_kernels": "kernels", "freqdiff": "freqdiff", "blursynth": "blursynth"},
    packages=["freqdiff_kernels", "freqdiff", "blursynth"]
    + [
        f"{package}.{name}"
        for package in ("freqdiff", "blursynth")
        for name in find_namespace_packages(package, include=["weights*"])
    ],
    package_data={
        "freqdiff": ["py.typed", "weights/**"],
        "blursynth": ["py.typed", "weights/**"],
        "freqdiff_kernels": ["py.typed"],
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": Build},
)
