"""The examples of the documentation run, and its links lead somewhere."""

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from toys import picture

import blursynth.cli
import freqdiff.cli

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
PACKAGES = ("freqdiff", "blursynth", "kernels")
WITHOUT_CODE = {"api", "troubleshooting"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/photo.jpg"):
        Image.fromarray(picture(128, 192)).save(name, quality=98)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks or page.stem in WITHOUT_CODE
    if "freqdiff.web" in "".join(blocks):
        if importlib.util.find_spec("gradio") is None:
            pytest.skip("needs gradio")
        # In a process of its own, because Gradio leaves event loops open.
        subprocess.run([sys.executable, "-c", "\n".join(blocks)], check=True)
        return
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    titles = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in titles
        else:
            assert (DOCS / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_understood(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    for name, cli in (("blursynth", blursynth.cli), ("freqdiff", freqdiff.cli)):
        for line in lines:
            if line.startswith(f"{name} "):
                cli.build_parser().parse_args(shlex.split(line)[1:])


def test_quoted_messages_are_those_of_the_code() -> None:
    """Headings in quotes of the page on messages are parts of sentences that the code raises."""
    root = DOCS.parent
    text = ""
    for path in [root / "setup.py", *(p for d in PACKAGES for p in (root / d).glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
                text += "".join(str(part) for part in parts) + "\n"
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text += node.value + "\n"
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    assert len(quoted) > 10
    assert [message for message in quoted if message not in text] == []


def test_reference_is_current() -> None:
    pytest.importorskip("diffusers")
    command = [sys.executable, str(DOCS / "api_reference.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
