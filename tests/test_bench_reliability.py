"""The tools that damage files and kill batches find what they look for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fuzz, kills, load, memory, web_speed
from benchmarks.fuzz_corpus import corpus, damaged
from freqdiff import atomic
from freqdiff.errors import PhotoError
from freqdiff.photo import read_photo


def test_the_corpus_is_whole_and_its_damage_is_repeatable(tmp_path: Path) -> None:
    files = corpus()
    formats = set()
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        photo = read_photo(path)
        assert sorted(photo.pixels.shape[:2]) == [40, 56], name
        formats.add(photo.format)
    assert formats == {"JPEG", "PNG", "WEBP", "TIFF", "BMP", "HEIF", "AVIF", "RAW"}
    names = set()
    for seed in range(60):
        name, content = damaged(np.random.default_rng(seed), files)
        assert damaged(np.random.default_rng(seed), files) == (name, content)
        names.add(name)
        assert content != files[name] or seed not in range(10)
    assert len(names) > 10


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    counts = fuzz.fuzz(40, 7, tmp_path / "kept")
    assert set(counts) <= {"refused", "read", "read, not written"}
    assert sum(counts.values()) == 40
    assert counts["refused"] > 5
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize("message", ["no end", "two\nlines.", "x" * 700 + "."])
def test_messages_that_are_not_a_sentence_are_findings(message: str) -> None:
    with pytest.raises(fuzz.Finding):
        fuzz.sentence_of(PhotoError(message))


def test_a_lost_result_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"half")
    (tmp_path / ".freqdiff-0123456789abcdef.tmp").write_bytes(b"a fragment")
    assert list(kills.losses(tmp_path, {"a.jpg": b"half of it"})) != []
    assert list(kills.losses(tmp_path, {"a.jpg": b"half"})) == []


@pytest.mark.slow
def test_a_killed_batch_loses_nothing() -> None:
    result = kills.torture(1, 6, 0)
    assert result["lost"] == []


def test_leftovers_of_the_dead_go_and_files_of_the_living_stay(tmp_path: Path) -> None:
    program = f"""
import sys, time
from freqdiff.atomic import atomic_stream
with atomic_stream({str(tmp_path / "a.bin")!r}) as stream:
    stream.write(b"part")
    stream.flush()
    print("here", flush=True)
    time.sleep(60)
"""
    writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"here\n"
    (temporary,) = tmp_path.iterdir()
    atomic.remove_leftovers(tmp_path)
    assert temporary.exists()
    writer.kill()
    writer.communicate()
    assert temporary.exists()
    (tmp_path / "mine.tmp").write_bytes(b"")
    atomic.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["mine.tmp"]


def test_a_file_that_was_taken_for_a_leftover_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = atomic.fcntl.flock, []

    def lock(stream: object, how: int) -> None:
        calls.append(time.monotonic())
        if len(calls) == 1:
            atomic.remove_leftovers(tmp_path)
        real(stream, how)  # type: ignore[arg-type]

    monkeypatch.setattr(atomic.fcntl, "flock", lock)
    atomic.write_atomically(tmp_path / "a.bin", b"whole")
    assert len(calls) == 3
    assert (tmp_path / "a.bin").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_memory_of_a_photo(tmp_path: Path) -> None:
    row = memory.measure("300x200:1G", tmp_path)
    assert (row["width"], row["height"], row["limit_bytes"]) == (300, 200, 10**9)
    assert 10**8 < row["peak_bytes"] < 10**9
    assert row["seconds"] > 0


@pytest.mark.slow
def test_mixed_use(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    row = load.put_to_load(0.1, tmp_path / "log")
    assert row["findings"] == []
    assert sum(row["counts"].values()) > 0
    assert len(row["memory_mb"]["server"]) == len(row["files"]) > 1
    assert min(row["memory_mb"]["server"]) > 50


def test_growing_memory_is_seen() -> None:
    flat = [900.0, 1000.0] * 50
    assert load.growth(flat) == 0
    assert load.growth([*flat[:80], *(1.1 * value for value in flat[80:])]) == pytest.approx(0.1)


def test_what_users_should_not_see_is_a_finding() -> None:
    watcher = load.Load.__new__(load.Load)
    watcher.expected = {}
    watcher.same("photo", b"result")
    watcher.same("photo", b"result")
    with pytest.raises(load.Finding, match="another result"):
        watcher.same("photo", b"other")
    assert watcher.told({"data": ['<p class="error">It is damaged.</p>']})
    for output in ({"error": None}, {"data": [""]}, {"data": ['<p class="error">Oops</p>']}):
        with pytest.raises(load.Finding):
            watcher.told(output)


def test_how_long_a_visitor_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    output = tmp_path / "web_speed.json"
    options = ["web_speed", "--size", "80", "64", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", options)
    web_speed.main()
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert [row["photo"] for row in rows] == [1, 2]
    for row in rows:
        assert 0 < row["upload_s"] <= row["progress_s"] <= row["result_s"] <= row["download_s"]
