"""Training of the diffusion engine by two processes: one result, which resumes exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_base import tiny
from toys import picture

from blursynth.training_state import STATE


def train(root: Path, output: Path, *options: str) -> str:
    """Two processes; returns what they print."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "blursynth"]
    command += ["train-diffusion", "--stage", "align", "--base", str(root / "base")]
    command += ["--sharp", str(root / "sharp"), "--out", str(output), "--device", "cpu"]
    command += ["--real", str(root / "sharp"), "--crop", "64", "--batch", "2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without processes")
def test_two_processes_resume_exactly(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path / "base")
    (tmp_path / "sharp").mkdir()
    Image.fromarray(picture(180, 180)).save(tmp_path / "sharp" / "a.png")
    once, twice = tmp_path / "once", tmp_path / "twice"
    told = train(tmp_path, once, "--steps", "3")
    assert told.count("starts on cpu") == told.count("Done: ") == 1
    # A time limit that only one process saw would leave the other one waiting.
    train(tmp_path, twice, "--steps", "3", "--minutes", "1e-9")
    assert "goes on at step 1" in train(tmp_path, twice, "--steps", "3")
    whole, resumed = (load_file(folder / STATE) for folder in (once, twice))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name
