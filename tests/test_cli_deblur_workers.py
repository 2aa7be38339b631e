"""`freqdiff deblur` with photos that are shared out to processes, or to a Ray cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import commands
import pytest

from freqdiff import batch_run, memory
from freqdiff.batch import Settings
from freqdiff.photo import read_photo

pytestmark = pytest.mark.usefixtures("own_folder")


def put_photos(count: int, side: int = 64) -> set[str]:
    """Photos in the folder `in`; their names."""
    names = {f"{number:02}.png" for number in range(count)}
    for name in names:
        commands.put_photo(Path("in", name), side, side)
    return names


def start(model: Path, *more: object) -> subprocess.Popen[str]:
    """Start the command for the folders `in` and `out` in a process of its own."""
    return commands.start("freqdiff", "deblur", "in", "-o", "out", "--model", model, *more)


def test_workers_make_the_same(model: Path) -> None:
    names = put_photos(3)
    Path("in/no.jpg").write_text("no photo")
    commands.run("deblur", "in", "-o", "one", "--model", model)
    options = ("--model", model, "--workers", 2, "--json")
    result = commands.run("deblur", "in", "-o", "two", *options)
    assert result.code == 1
    commands.sentence(result.err, "no.jpg")
    report = json.loads(result.out)
    assert [Path(file["input"]).name for file in report["files"]] == [*sorted(names), "no.jpg"]
    assert (report["written"], report["failed"]) == (3, 1)
    assert report["peak_memory_bytes"] > 2 * 10**8  # of two processes with torch
    assert commands.contents(Path("two")) == commands.contents(Path("one"))
    again = commands.run("deblur", "in", "-o", "two", *options[:-1], "--skip-existing")
    assert "3 skipped" in again.out
    lines = again.out.splitlines()
    assert [re.match(r"\[(\d)/4\]", line) is not None for line in lines] == [True] * 3 + [False]


def test_ctrl_c_and_go_on(model: Path) -> None:
    names = put_photos(40, 160)
    process = start(model, "--workers", 2)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert re.fullmatch(r"\[1/40\] .* about \d+ (s|min) left\n", line)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    commands.sentence(err, "Interrupted", "of 40 photos are done")
    results = commands.contents(Path("out"))
    assert 1 <= len(results) < 40
    assert set(results) < names
    for name in results:
        assert read_photo(Path("out", name)).pixels.shape == (160, 160, 3)
    out, err = start(model, "--workers", 2, "--skip-existing").communicate(timeout=120)
    assert err == ""
    kept = re.search(r"(\d+) written, (\d+) skipped", out)
    assert kept is not None
    assert int(kept[2]) >= len(results)
    assert set(commands.contents(Path("out"))) == names


def test_a_killed_worker_is_one_sentence(model: Path) -> None:
    put_photos(40, 160)
    process = start(model, "--workers", 2, "--json")
    done = Path("out")
    while not done.is_dir() or len(list(done.glob("*.png"))) < 2:
        assert process.poll() is None
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [
        int(child)
        for child in children
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    os.kill(workers[-1], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    commands.sentence(err, "killed", "fewer workers")
    report = json.loads(out)
    assert report["written"] + report["failed"] == len(report["files"]) == 40
    assert report["failed"] > 0


def test_workers_divide_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 10**10)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    work = batch_run.Deblurring("tiny", "cpu", Settings())
    part = batch_run._part_of(work, 4)
    assert (part.settings.max_memory, part.threads) == (2 * 10**9, 2)
    given = batch_run.Deblurring("tiny", "cpu", Settings(max_memory=4 * 10**9))
    part = batch_run._part_of(given, 16)
    assert (part.settings.max_memory, part.threads) == (25 * 10**7, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_makes_the_same(model: Path) -> None:
    pytest.importorskip("ray")
    put_photos(3)
    Path("in/no.jpg").write_text("no photo")
    for folder, more in (("one", ()), ("cluster", ("--ray",))):
        result = commands.run("deblur", "in", "-o", folder, "--model", model, *more)
        assert result.code == 1
        commands.sentence(result.err, "no.jpg")
        assert "3 written, 1 failed" in result.out
    assert commands.contents(Path("cluster")) == commands.contents(Path("one"))


def test_ray_is_named_where_it_is_missing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "freqdiff.ray_workers", raising=False)
    put_photos(1)
    result = commands.run("deblur", "in", "-o", "out", "--model", model, "--ray")
    commands.refused(result, "freqdiff-deblur[ray]")
