"""The examples of the documentation run, and its links lead somewhere."""

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/photo.jpg"):
        Image.fromarray(picture(128, 192)).save(name, quality=98)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
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
            assert (DOCS / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_understood(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    for name, cli in (("blursynth", blursynth.cli), ("freqdiff", freqdiff.cli)):
        for line in lines:
            if line.startswith(f"{name} "):
                cli.build_parser().parse_args(shlex.split(line)[1:])
