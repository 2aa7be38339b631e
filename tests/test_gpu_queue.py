"""The script for a machine with a GPU does all its steps in miniature on a CPU."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_queue.sh"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(SCRIPT), *options], capture_output=True, text=True, env=environment, timeout=400
    )


@pytest.mark.slow
def test_dry_run_writes_results_and_resumes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    done = run("--output", str(first), "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line.split("\t") for line in (first / "queue.tsv").read_text().splitlines()[1:]]
    assert {name for name, _, _ in steps[-2:]} == {"train_base", "train_adv"}
    assert {code for _, code, _ in steps} == {"0"}
    assert json.loads((first / "deblur_gpu.json").read_text())[0]["median_us"] > 0
    files = [path for path in first.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) <= 15_000_000
    for name in ("base", "adv"):
        assert (first / name / "config.json").is_file()
        parts = sorted(first.glob(f"{name}.state.[0-9]*"))
        digest = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
        assert (first / f"{name}.state.sha256").read_text().split()[0] == digest
    options = ("--only", "train", "--train", "base", "--resume", str(first))
    again = run("--output", str(second), "--dry-run", *options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "goes on at step 2" in (second / "train_base.log").read_text()


@pytest.mark.slow
def test_dry_run_trains_the_diffusion_engine(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    if importlib.util.find_spec("open_clip") is None:
        pytest.skip("open-clip-torch is not installed")
    first, second = tmp_path / "first", tmp_path / "second"
    trained = []
    for folder, stages in ((first, "codec"), (second, "base align")):
        options = ("--only", "diffusion", "--stages", stages, "--resume", str(first))
        folder.mkdir()
        done = run("--output", str(folder), "--dry-run", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = [line.split("\t")[0] for line in (folder / "queue.tsv").read_text().splitlines()]
        trained.append(rows[2:])
    last = "benchmark_diffusion"
    assert trained == [["train_blur_codec"], ["train_blur_base", "train_blur_align", last]]
    files = [path for path in second.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) <= 15_000_000
    measured = json.loads((second / "diffusion_control.json").read_text())
    assert {row["engine"] for row in measured} == {"physics", "base", "aligned"}
    assert not (second / "blur_codec").exists()


@pytest.mark.slow
def test_peers_are_trained_with_one_budget_and_compared(tmp_path: Path) -> None:
    options = ("--dry-run", "--only", "peers", "--peers", "nafnet")
    done = run("--output", str(tmp_path), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "table1.json").read_text())
    assert [row["method"] for row in rows] == ["FreqDiff base", "NAFNet"]
    budgets = [(row["training"]["steps"], row["training"]["batch"]) for row in rows]
    assert budgets == [(2, 2)] * 2
    states = sorted(path.name for path in tmp_path.glob("*.state.sha256"))
    assert states == ["base_equal.state.sha256", "nafnet.state.sha256"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--output DIR is missing"),
        (["--output", "x", "--fast"], "unknown option --fast"),
        (["--output", "x"], "--data must name a folder"),
        (["--output", "x", "--data", ".", "--only", "diffusion"], "--real must name a folder"),
    ],
)
def test_wrong_options_are_named(options: list[str], message: str) -> None:
    result = run(*options)
    assert result.returncode == 2
    assert message in result.stderr
