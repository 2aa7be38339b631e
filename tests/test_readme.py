"""The README says what was measured, and its examples run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import photo

import blursynth.cli
import freqdiff.cli
from freqdiff.checkpoint import shipped_models

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_come_from_the_results() -> None:
    command = [sys.executable, "-m", "benchmarks.readme", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_links_and_pictures_exist() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_commands_are_understood() -> None:
    for name, cli, least in (("freqdiff", freqdiff.cli, 5), ("blursynth", blursynth.cli, 3)):
        lines = [line.split("  #")[0] for line in TEXT.splitlines() if line.startswith(f"{name} ")]
        assert len(lines) >= least
        for line in lines:
            cli.build_parser().parse_args(shlex.split(line)[1:])


@pytest.mark.skipif("tiny" not in shipped_models(), reason="no weights are shipped yet")
def test_three_lines_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    pixels = (photo(64, 96) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save("photo.jpg", quality=98)
    exec(compile(code.group(1), "README.md", "exec"), {})
    assert np.asarray(Image.open("sharp.jpg")).shape == pixels.shape
