"""Writes the API reference from the docstrings: `python docs/api_reference.py [--check]`."""

import argparse
import dataclasses
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import blursynth
import freqdiff
import freqdiff.export
import freqdiff.pipeline
from freqdiff_kernels import ops

TARGET = Path(__file__).resolve().parent / "api.md"
HEAD = """\
# API reference

Written by `python docs/api_reference.py` from the docstrings.

## What is public

Public are the names on this page, which are those of `freqdiff.__all__`, `blursynth.__all__` and
`freqdiff_kernels.ops.__all__`, the pipeline and the exports below, the commands with their options,
exit codes and `--json`, and the formats of model folders and data sets. From version 1.0 on they
follow semantic versioning: what goes away or changes its meaning warns for one minor version
before. Until then each minor version may change them, and the changelog says how. Everything else
may change in any version. The packages are typed (`py.typed`).
"""
SECTIONS: list[tuple[str, ModuleType, list[str]]] = [
    ("freqdiff", freqdiff, sorted(freqdiff.__all__, key=str.lower)),
    ("freqdiff, with diffusers", freqdiff.pipeline, ["FreqDiffPipeline", "FreqDiffModel"]),
    (
        "freqdiff.export",
        freqdiff.export,
        ["export", "to_onnx", "to_torch_export", "DeblurGraph", "DenoiserGraph"],
    ),
    ("blursynth", blursynth, sorted(blursynth.__all__, key=str.lower)),
    ("freqdiff_kernels.ops", ops, sorted(ops.__all__, key=str.lower)),
]
METHODS = ("__call__", "forward", "compile", "restore", "from_pretrained", "of")


def signature(name: str, thing: Any) -> str:
    """The call as it stands in the code, one argument a line where it is long."""
    parameters = [
        value.replace(annotation=_plain(value.annotation))
        for value in inspect.signature(thing).parameters.values()
    ]
    parameters = [
        value.replace(default=_Name(value.default.__name__))
        if inspect.isfunction(value.default)
        else value
        for value in parameters
    ]
    texts = [str(value) for value in parameters if value.name not in ("self", "cls")]
    star = next((i for i, v in enumerate(parameters) if v.kind is v.KEYWORD_ONLY), None)
    if star is not None:
        texts.insert(star - (len(parameters) - len(texts)), "*")
    returned = inspect.signature(thing).return_annotation
    end = "" if returned is inspect.Signature.empty else f" -> {_plain(returned)}"
    line = f"{name}({', '.join(texts)}){end}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{name}(", *(f"    {text}," for text in texts), f"){end}"])


class _Name(str):
    """An annotation that shows as it is written."""

    __slots__ = ()
    __repr__ = str.__str__


def _plain(annotation: Any) -> Any:
    if annotation is inspect.Parameter.empty:
        return annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    for long in ("torch.", "collections.abc.", "pathlib.", "typing.", "numpy."):
        text = text.replace(long, "")
    return _Name(text)


def entry(name: str, thing: Any, level: int = 3) -> list[str]:
    """Heading, signature and docstring of a function or class, and methods of a class."""
    lines = [f"{'#' * level} `{name}`", ""]
    error = inspect.isclass(thing) and issubclass(thing, Exception)
    if callable(thing) and not error:
        lines += ["```text", signature(name, thing), "```", ""]
    text = inspect.getdoc(thing) or ""
    lines += ["```text", text, "```", ""]
    if inspect.isclass(thing) and not error and not dataclasses.is_dataclass(thing):
        for method in METHODS:
            if method in vars(thing):
                found = inspect.unwrap(getattr(thing, method))
                lines += entry(f"{thing.__name__}.{method}", found, level + 1)
    return lines


def reference() -> str:
    """The page."""
    lines = [HEAD]
    for title, module, names in SECTIONS:
        lines += [f"## {title}", ""]
        for name in names:
            lines += entry(name, getattr(module, name))
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines()).rstrip() + "\n"


def main() -> int:
    """Write the page, or tell whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page is not current")
    page = reference()
    if not parser.parse_args().check:
        TARGET.write_text(page, encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != page:
        print("docs/api.md is not current: run python docs/api_reference.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
