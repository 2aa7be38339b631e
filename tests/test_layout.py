"""What may lie where in the repository, and what its files must not hold."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    ".ci",
    ".github",
    ".gitignore",
    ".pre-commit-config.yaml",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "blursynth",
    "csrc",
    "docs",
    "freqdiff",
    "kernels",
    "pyproject.toml",
    "setup.py",
    "tests",
}
PACKAGES = ("freqdiff", "blursynth", "kernels")
SOURCE_SUFFIXES = {".py", ".cpp", ".cu", ".cuh", ".h"}


def git_files(*options: str) -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z", *options], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("needs a git checkout")
    names = [Path(name) for name in done.stdout.split("\0") if name]
    return [name for name in names if (ROOT / name).is_file()]


@cache
def files() -> list[Path]:
    """Tracked files, and new ones that git does not ignore."""
    return git_files("--cached", "--others", "--exclude-standard")


def sources() -> list[Path]:
    return [path for path in files() if path.suffix in SOURCE_SUFFIXES]


@cache
def package_trees() -> dict[Path, ast.Module]:
    return {
        path: ast.parse((ROOT / path).read_text(encoding="utf-8"))
        for path in files()
        if path.suffix == ".py" and path.parts[0] in PACKAGES
    }


def test_top_level_is_fixed() -> None:
    assert {path.parts[0] for path in git_files("--cached")} == TOP_LEVEL


def test_source_files_are_short() -> None:
    lengths = {str(path): len((ROOT / path).read_bytes().splitlines()) for path in sources()}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_no_drawer_for_everything() -> None:
    assert [str(path) for path in sources() if path.stem in {"utils", "util", "helpers"}] == []


def test_packages_never_unpickle() -> None:
    """Weights and training states are safetensors and JSON: loading a file never runs its code."""
    modules = {"_pickle", "cloudpickle", "cPickle", "dill", "joblib", "marshal", "pickle", "shelve"}
    calls = {"torch.load", "torch.save"}
    found = []
    for path, tree in package_trees().items():
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module.split(".")[0]]
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute):
                names = [ast.unparse(node)]
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                names = ["pickle"] if ast.unparse(node.value) != "False" else []
            found += [f"{path}: {name}" for name in names if name in modules | calls]
    assert found == []


@pytest.mark.parametrize(
    "pattern",
    [r"(?<![\w.}])/(?:work|home|root|Users)/\w", r"(?:extra-)?index[-_]url|find[-_]links"],
    ids=["a path of one machine", "a package index"],
)
def test_text_files_name_nothing_of_one_machine(pattern: str) -> None:
    found = []
    for path in files():
        data = (ROOT / path).read_bytes()
        if b"\0" in data:
            continue
        text = data.decode("utf-8", errors="replace")
        found += [f"{path}: {match.group()}" for match in re.finditer(pattern, text)]
    assert found == []
