"""Training of the diffusion engine by two processes: one result, which resumes exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_base import tiny
from together import run_together
from toys import picture

from blursynth.training_state import STATE


def train(root: Path, output: Path, *options: str) -> str:
    """Two processes; returns what they print."""
    arguments = ["train-diffusion", "--stage", "align", "--base", root / "base"]
    arguments += ["--sharp", root / "sharp", "--real", root / "sharp", "--out", output]
    arguments += ["--crop", "64", "--batch", "2", "--device", "cpu", *options]
    return run_together("blursynth.cli", arguments, root)


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
