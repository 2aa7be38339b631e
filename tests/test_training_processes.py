"""Training by several processes on one machine: it resumes exactly, and only one of them talks."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import load_file
from together import run_together
from toys import write_photos

import freqdiff.cli
from freqdiff import data, model
from freqdiff.denoiser import Denoiser


def main(arguments: Sequence[str]) -> int:
    """The command line, in a process of its own, with a small model called tiny and few pairs."""
    model.CONFIGS["tiny"] = toys.TOY
    small = [("pairs_per_block", int, 8)]
    data.DataConfig = dataclasses.make_dataclass(  # type: ignore[assignment, misc]
        "Small", small, bases=(data.DataConfig,), frozen=True
    )
    return freqdiff.cli.main(arguments)


def options_of(photos: Path, folder: Path, *options: str) -> list[str]:
    base = ["train", "--config", "tiny", "--data", str(photos), "--output", str(folder)]
    return [*base, "--batch", "2", "--crop", "32", "--device", "cpu", *options]


def train(photos: Path, folder: Path, *options: str, processes: int = 2) -> str:
    """Returns what the processes print."""
    arguments = options_of(photos, folder, *options)
    return run_together(__name__, arguments, photos, processes=processes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """Five steps of two processes, each with all weights, started by torchrun."""
    folder = tmp_path_factory.mktemp("copies")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", __file__]
    command += options_of(photos, folder, "--steps", "5")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    assert told.count("starts on cpu") == 1
    assert "5 steps of 2 x 2 crops" in told
    return folder


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without processes"),
]


def test_two_processes_resume_exactly(tmp_path: Path, photos: Path, copies: Path) -> None:
    # A time limit that only one process saw would leave the other one waiting.
    train(photos, tmp_path, "--steps", "5", "--minutes", "1e-9")
    assert "goes on at step 1" in train(photos, tmp_path, "--steps", "5")
    whole, resumed = (load_file(folder / "state.safetensors") for folder in (copies, tmp_path))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def test_weights_that_are_shared_out(tmp_path: Path, photos: Path, copies: Path) -> None:
    """The same training as with copies of the weights, and as in one process that does the work of
    two; a run can go on from each to the other."""
    shards, moved = tmp_path / "shards", tmp_path / "moved"
    assert "3 steps of 2 x 2" in train(photos, shards, "--steps", "3", "--fsdp")
    shutil.copytree(shards, moved)
    assert "goes on at step 3" in train(photos, shards, "--steps", "5", "--fsdp")
    options = ("--steps", "5", "--accumulate", "2")
    assert "5 steps of 2 x 2" in train(photos, moved, *options, processes=1)
    torch.manual_seed(0)
    begun = dict(Denoiser(toys.TOY).named_parameters())
    start = torch.cat([value.detach().flatten() for value in begun.values()])
    states = [load_file(folder / "state.safetensors") for folder in (copies, shards, moved)]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    for kind in ("model", "ema"):
        learned, *others = (
            torch.cat(
                [state[f"{kind}.{n}"].flatten() for n, _ in Denoiser(toys.TOY).named_parameters()]
            )
            - start
            for state in states
        )
        assert float(learned.abs().max()) > 1e-5
        for other in others:
            # Adam turns the rounding of the smallest gradients into whole steps.
            assert float((other - learned).norm() / learned.norm()) < 0.1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
