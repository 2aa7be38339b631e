"""Imports go strictly downward through the layers, and `import freqdiff` stays light."""

import ast
import graphlib
import json
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"freqdiff_kernels": "kernels", "freqdiff": "freqdiff", "blursynth": "blursynth"}

# Lowest first. A module may import its own layer and those below it, never in a circle.
LAYERS = (
    ("freqdiff_kernels", "freqdiff_kernels.*"),
    ("freqdiff.errors", "freqdiff.gaussian"),
    (
        "freqdiff.alignment",
        "freqdiff.arguments",
        "freqdiff.atomic",
        "freqdiff.command_line",
        "freqdiff.images",
        "freqdiff.memory",
        "freqdiff.metrics",
        "freqdiff.niqe",
        "freqdiff.photo",
        "freqdiff.photo_*",
        "freqdiff.processor",
        "freqdiff.progress",
        "freqdiff.protocol",
        "freqdiff.ray_workers",
        "freqdiff.registration",
        "freqdiff.tiling",
        "freqdiff.tone",
        "freqdiff.workers",
    ),
    ("blursynth", "blursynth.*"),
    (
        "freqdiff",
        "freqdiff.anchor",
        "freqdiff.api",
        "freqdiff.blur_filter",
        "freqdiff.checkpoint",
        "freqdiff.deblurrer",
        "freqdiff.denoiser",
        "freqdiff.diffusion",
        "freqdiff.layers",
        "freqdiff.export",
        "freqdiff.model",
        "freqdiff.pipeline",
        "freqdiff.regions",
        "freqdiff.sampler",
        "freqdiff.sampling",
        "freqdiff.self_check",
        "freqdiff.spectral",
    ),
    (
        "freqdiff.batch",
        "freqdiff.batch_run",
        "freqdiff.built_pairs",
        "freqdiff.check_picture",
        "freqdiff.compare_*",
        "freqdiff.data",
        "freqdiff.datasets",
        "freqdiff.detection",
        "freqdiff.downstream",
        "freqdiff.downstream_models",
        "freqdiff.evaluate",
        "freqdiff.info",
        "freqdiff.loss",
        "freqdiff.pairs",
        "freqdiff.reading",
        "freqdiff.report",
        "freqdiff.segmentation",
        "freqdiff.sharding",
        "freqdiff.stream",
        "freqdiff.train",
        "freqdiff.train_config",
        "freqdiff.train_state",
        "freqdiff.validation",
        "freqdiff.web",
        "freqdiff.web_*",
    ),
    ("freqdiff.cli", "freqdiff.cli_*", "freqdiff.__main__"),
)
BLURSYNTH, DEBLURRER = 3, 4


@cache
def modules() -> dict[str, Path]:
    """Import name of every module of the three packages, and its file."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def layer(module: str) -> int:
    for index, patterns in enumerate(LAYERS):
        if any(fnmatchcase(module, pattern) for pattern in patterns):
            return index
    raise AssertionError(f"{module} has no layer: add it to LAYERS in {Path(__file__).name}")


def imported(name: str) -> set[str]:
    """Absolute names of all that a module imports, in functions too: modules of ours in full, and
    of others whatever the statement names."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, *filter(None, [base])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                names.add(full if full in modules() else base)
    return names


def ours(name: str) -> set[str]:
    return {target for target in imported(name) if target.split(".")[0] in FOLDERS} - {name}


@pytest.mark.parametrize("module", modules())
def test_imports_go_downward(module: str) -> None:
    own = layer(module)
    for target in ours(module):
        assert layer(target) <= own, f"{module} imports {target}, which lies above it"
        assert not (own == DEBLURRER and layer(target) == BLURSYNTH), (
            f"{module} imports {target}: deblurring must work without the blur synthesizer"
        )


def test_no_import_goes_in_a_circle() -> None:
    order = graphlib.TopologicalSorter({name: ours(name) for name in modules()})
    order.prepare()


def test_the_packages_import_nothing_of_the_repository_around_them() -> None:
    around = {"benchmarks", "csrc", "kernels", "setup", "tests"}
    for module in modules():
        for target in imported(module):
            assert target.split(".")[0] not in around, f"{module} imports {target}"


def import_cost(package: str) -> tuple[float, list[str]]:
    """CPU seconds that an import costs beyond torch and numpy, and all modules loaded after it."""
    program = f"""
import json, sys, time
import numpy, torch
start = time.process_time()
import {package}
print(json.dumps([time.process_time() - start, sorted(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    seconds, loaded = json.loads(done.stdout)
    return seconds, loaded


def test_import_is_fast_and_light() -> None:
    # A busy machine only ever adds time, so one good try of three is enough.
    for _ in range(3):
        seconds, loaded = import_cost("freqdiff")
        if seconds <= 0.3:
            break
    assert seconds <= 0.3, f"import freqdiff takes {seconds:.2f} s beyond torch"

    heavy = {"accelerate", "diffusers", "imagecodecs", "peft", "scipy", "skimage"}
    heavy |= {"blursynth", "gradio", "onnx", "onnxruntime", "tensorboard", "tifffile"}
    heavy |= {"transformers"}
    assert not heavy & {name.split(".")[0] for name in loaded}
    assert not [name for name in loaded if fnmatchcase(name, "PIL.*ImagePlugin")]
