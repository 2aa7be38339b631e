"""The benchmark of the blur synthesizer, in miniature."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import blursynth as bench


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One photo, just large enough for the crops of the training stream."""
    monkeypatch.setattr(bench, "SIZE", (330, 500))
    return bench.enlarged(tmp_path)


@pytest.fixture
def run(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Any]:
    """Measures one case as the command does and returns its row."""
    threads = torch.get_num_threads()

    def measured(*case: str) -> dict[str, Any]:
        options = ["--blocks", "1", "--runs", "2", "--pairs", "3", "--threads", "1"]
        command = ["blursynth", "--photos", str(photos), *options, "--case", *case]
        monkeypatch.setattr("sys.argv", command)
        bench.main()
        row: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert (row["op"], row["provenance"]["torch"]) == (case[0], torch.__version__)
        return row

    yield measured
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", [case for op, case in bench.cases() if op == "frame"])
def test_frames_are_timed(run: Any, case: str) -> None:
    row = run("frame", case)
    assert row["size"] == "500x330"
    assert row["seeds"] == [1, 2]
    assert 0 < row["p20_s"] <= row["median_s"] <= row["p80_s"] < 60
    assert row["peak_rss_gb"] > 0.1


def test_the_stream_is_timed_in_parts(run: Any) -> None:
    row = run("stream", "0")
    assert 0 < row["loading_ms"] < 1000
    assert 0 < row["blurring_ms"] < 1000


@pytest.mark.slow
def test_the_stream_is_timed_in_workers(run: Any) -> None:
    row = run("stream", "2")
    assert row["workers"] == 2
    assert 1 < row["crops_per_s"] < 10_000


def test_the_builder_is_timed_and_watched(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MILESTONES", (1, 1000))
    row = run("build", "1")
    assert row["pairs"] + row["rejected"] == 3
    assert row["pairs_per_s"] > 0
    assert set(row["rss_mb_at_pair"]) <= {"1"}
    assert row["peak_rss_gb"] > 0.1
