"""Training by several processes on one machine: it resumes exactly, and only one of them talks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import write_photos

TESTS = Path(__file__).parent
SCRIPT = """
    import dataclasses, sys
    sys.path.insert(0, {tests!r})
    import toys
    from freqdiff import data, model
    from freqdiff.cli import main
    model.CONFIGS["tiny"] = toys.TOY
    data.DataConfig = dataclasses.make_dataclass(
        "Small", [("pairs_per_block", int, 8)], bases=(data.DataConfig,), frozen=True
    )
    sys.exit(main(sys.argv[1:]))
"""


def train(script: Path, photos: Path, folder: Path, *options: str) -> str:
    """Two processes; returns what they print."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script), "train"]
    command += ["--config", "tiny", "--data", str(photos), "--output", str(folder)]
    command += ["--batch", "2", "--crop", "32", "--device", "cpu", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without processes")
def test_two_processes_resume_exactly(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photos = write_photos(tmp_path / "photos")
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT.format(tests=str(TESTS))), encoding="utf-8")
    once, twice = tmp_path / "once", tmp_path / "twice"
    told = train(script, photos, once, "--steps", "5")
    assert told.count("starts on cpu") == 1
    assert "5 steps of 2 x 2 crops" in told
    train(script, photos, twice, "--steps", "3")
    assert "goes on at step 3" in train(script, photos, twice, "--steps", "5")
    whole, resumed = (load_file(folder / "state.safetensors") for folder in (once, twice))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
    # A time limit that only one process saw would leave the other one waiting.
    train(script, photos, twice, "--steps", "1000000", "--minutes", "0.05")
