"""What an installed FreqDiff consists of."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import setuptools
from PIL import Image
from skimage import data

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDERS = {"kernels": "freqdiff_kernels", "freqdiff": "freqdiff", "blursynth": "blursynth"}
ENVIRONMENT = {**os.environ, "FREQDIFF_BUILD": "python"}


def python(*arguments: str, path: Path | None = None) -> str:
    environment = ENVIRONMENT | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_the_folder_kernels_is_no_package() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_the_folder_kernels_hides_no_other_package(tmp_path: Path) -> None:
    """transformers and diffusers probe for a package `kernels`. With the repository's root first
    on the path the real one must be found, and without it nothing that looks like it."""
    probe = "import kernels; print(kernels.__file__)"
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    assert python("-c", probe, path=tmp_path) == str(tmp_path / "kernels" / "__init__.py")

    alone = """
try:
    import kernels
except ModuleNotFoundError:
    print(None)
else:
    print(kernels.__file__)
"""
    found = python("-c", alone)
    assert found == "None" or not Path(found).is_relative_to(ROOT / "kernels")


def test_the_distribution_is_installed_under_its_own_name() -> None:
    distribution = metadata.distribution("freqdiff-deblur")
    assert distribution.version == PROJECT["version"]
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    scripts = {entry.name: entry.value for entry in distribution.entry_points}
    assert scripts == PROJECT["scripts"]


def repository_files() -> list[Path]:
    """Files that git tracks or would track."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip("needs a git checkout")
    names = [Path(name) for name in done.stdout.split("\0") if name]
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """A pure-Python wheel, built from a copy: a build leaves files beside the sources."""
    source = tmp_path_factory.mktemp("source")
    for name in repository_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    output = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    python("-m", "pip", "wheel", *options, "--wheel-dir", str(output), str(source))
    (path,) = output.iterdir()
    return zipfile.Path(path)


def names_in(wheel: zipfile.Path) -> set[str]:
    return {name for name in wheel.root.namelist() if not name.endswith("/")}


@pytest.mark.slow
def test_the_wheel_without_extension_fits_every_machine(wheel: zipfile.Path) -> None:
    version = PROJECT["version"]
    assert Path(str(wheel.root.filename)).name == f"freqdiff_deblur-{version}-py3-none-any.whl"


@pytest.mark.slow
def test_the_wheel_holds_all_of_the_packages_and_nothing_else(wheel: zipfile.Path) -> None:
    expected = {
        str(PurePosixPath(FOLDERS[name.parts[0]], *name.parts[1:]))
        for name in repository_files()
        if name.parts[0] in FOLDERS
    }
    held = {name for name in names_in(wheel) if ".dist-info/" not in name}
    assert held == expected
    assert {"freqdiff/py.typed", "blursynth/py.typed", "freqdiff_kernels/ops.py"} <= held
    assert any(name.startswith("freqdiff/weights/") for name in held)


@pytest.mark.slow
def test_the_wheel_carries_the_licence(wheel: zipfile.Path) -> None:
    (name,) = (name for name in names_in(wheel) if name.endswith("/licenses/LICENSE"))
    assert (wheel / name).read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text("utf-8")


@pytest.mark.slow
def test_the_wheel_deblurs_in_an_empty_environment_without_network(
    wheel: zipfile.Path, tmp_path: Path
) -> None:
    """What it depends on is lent by a path file, which leaves out this repository's own install."""
    venv.create(tmp_path / "venv")
    empty = str(tmp_path / "venv" / "bin" / "python")
    own = "import sysconfig; print(sysconfig.get_path('purelib'))"
    folder = subprocess.run([empty, "-c", own], capture_output=True, text=True, check=True)
    lent = Path(folder.stdout.strip(), "lent.pth")
    lent.write_text(python("-c", own), encoding="utf-8")
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "--ignore-installed"]
    python("-m", "pip", "--python", empty, "install", *options, str(wheel.root.filename))
    Image.fromarray(data.coffee()[:96, :128]).save(tmp_path / "photo.png")
    program = """
import sys

def guard(event, arguments):
    if event.startswith("socket.") and event != "socket.__new__":
        raise OSError(f"network: {event}")

sys.addaudithook(guard)
import freqdiff
assert freqdiff.__file__.startswith(sys.prefix), freqdiff.__file__
from freqdiff.cli import main
sys.exit(main(["deblur", "photo.png", "-o", "sharp.png"]))
"""
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [empty, "-P", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "sharp.png") as sharp:
        assert sharp.size == (128, 96)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The functions of setup.py, which does nothing here."""
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    for name in ("FREQDIFF_BUILD", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("setup_of_freqdiff", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cuda_is_built_where_nvcc_is(
    build: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if shutil.which("g++") is None and "CXX" not in os.environ:
        pytest.skip("no C++ compiler")
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text('#!/bin/sh\necho \'#$ LIBRARIES=  "-L/there/stubs" "-L/there"\' >&2\n')
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build.find_nvcc() == str(nvcc)
    (extension,) = build.extensions()
    assert {"csrc/tiles.cpp", "csrc/tiles.cu"} <= set(extension.sources)
    assert ("FREQDIFF_CUDA", "1") in extension.define_macros
    assert "cudart_static" in extension.libraries
    assert extension.library_dirs[-2:] == ["/there/stubs", "/there"]
    monkeypatch.setenv("FREQDIFF_BUILD", "cpu")
    (extension,) = build.extensions()
    assert not any(name.endswith(".cu") for name in extension.sources)
    assert "cudart_static" not in extension.libraries


def test_cuda_without_nvcc_is_refused(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    monkeypatch.setenv("FREQDIFF_BUILD", "cuda")
    with pytest.raises(SystemExit, match=r"FREQDIFF_BUILD=cuda needs .*the CUDA toolkit"):
        build.extensions()
    monkeypatch.setenv("FREQDIFF_BUILD", "rocm")
    with pytest.raises(SystemExit, match="'rocm', expected auto, python, cpu or cuda"):
        build.extensions()


def test_gpus_that_are_built_for(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = "--generate-code=arch=compute_"
    default = ["80,code=sm_80", "90a,code=sm_90a", "90,code=compute_90"]
    assert build.gpu_flags() == [prefix + target for target in default]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6;9.0+PTX")
    named = ["86,code=sm_86", "90,code=sm_90", "90,code=compute_90"]
    assert build.gpu_flags() == [prefix + target for target in named]
