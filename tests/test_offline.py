"""Nothing opens a network connection that the user did not ask for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from toys import write_photos

from freqdiff.checkpoint import shipped_models

GUARD = """
import sys

def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        sys.stderr.write(f"NETWORK: {event} {arguments}\\n")
        raise OSError("this process has no network")

sys.addaudithook(guard)
"""
"""An audit hook cannot be taken away, and sees what C code connects through Python's sockets."""

PROGRAMS = {
    "api": """
import freqdiff
freqdiff.load("tiny")
sharp = freqdiff.deblur("photos/coffee.png", return_details=True)
assert sharp.image.size == (400, 300)
""",
    "command line": """
from freqdiff.cli import main
assert main(["deblur", "photos/coffee.png", "-o", "out.png", "--steps", "2"]) == 0
assert main(["inspect", "photos/coffee.png", "-o", "maps.png"]) == 0
assert main(["info"]) == 0
""",
    "blursynth": """
from blursynth.cli import main
assert main(["synthesize", "photos/coffee.png", "-o", "blurred.png", "--seed", "1"]) == 0
assert main(["build", "--sharp", "photos", "--out", "pairs", "--count", "2"]) == 0
""",
    "training": """
from freqdiff.cli import main
arguments = ["train", "--config", "tiny", "--data", "photos", "--output", "runs", "--steps", "1"]
assert main([*arguments, "--batch", "1", "--crop", "32", "--workers", "0"]) == 0
""",
    "pipeline": """
from freqdiff import FreqDiffPipeline
pipe = FreqDiffPipeline.from_pretrained("tiny")
pipe.save_pretrained("pipe")
FreqDiffPipeline.from_pretrained("pipe")("photos/coffee.png")
""",
}
pytestmark = pytest.mark.skipif("tiny" not in shipped_models(), reason="no weights are shipped")


def guarded(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", GUARD + program], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "training")) for name in PROGRAMS],
)
def test_no_connection(name: str, tmp_path: Path) -> None:
    if name == "pipeline":
        pytest.importorskip("diffusers")
    if name == "training":
        pytest.importorskip("accelerate")
    (tmp_path / "photos").mkdir()
    write_photos(tmp_path / "photos")
    done = guarded(PROGRAMS[name], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr


def test_the_guard_notices(tmp_path: Path) -> None:
    program = "import urllib.request; urllib.request.urlopen('http://example.org')"
    done = guarded(program, tmp_path)
    assert done.returncode != 0
    assert "NETWORK: socket.getaddrinfo" in done.stderr
