"""`blursynth build` when it is killed, interrupted, run twice, out of disk, or in processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import commands
import pytest
from commands import contents
from PIL import Image
from toys import picture

from blursynth import build_pair, cli, dataset
from blursynth.build_pair import Outcome
from freqdiff import atomic, workers

OPTIONS = ("--crop", "64", "--count", "12", "--seed", "5", "--shards", "4")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "coffee"):
        Image.fromarray(picture(140, 140, name)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of the data set that was never interrupted."""
    output = tmp_path_factory.mktemp("whole")
    assert run("build", "--sharp", photos, "--out", output, *OPTIONS).code == 0
    return contents(output)


def run(*arguments: object) -> commands.Result:
    """Run `blursynth ARGUMENTS` in this process."""
    return commands.run(*arguments, main=cli.main)


def sentence(text: str, *words: str) -> None:
    commands.sentence(text, *words, program="blursynth")


def start(photos: Path, output: Path, *more: object) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    return commands.start("blursynth", "build", "--sharp", photos, "--out", output, *OPTIONS, *more)


def wait_for(output: Path, pairs: int) -> None:
    """Wait until some pairs are there."""
    deadline = time.monotonic() + 60
    while len(list(output.glob("records/0*.json"))) < pairs:
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "moments"), [(1, (0, 2, 5, 8)), (2, (1, 6))])
def test_killed_at_any_moment(
    photos: Path, tmp_path: Path, whole: dict[str, bytes], workers: int, moments: tuple[int, ...]
) -> None:
    chance = random.Random(workers)
    for pairs in moments:
        process = start(photos, tmp_path / "out", "--workers", workers)
        wait_for(tmp_path / "out", pairs)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.communicate()
    process = start(photos, tmp_path / "out", "--workers", workers)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "kept" in out
    assert contents(tmp_path / "out") == whole


@pytest.mark.slow
def test_workers_end_with_a_killed_build(photos: Path, tmp_path: Path) -> None:
    process = start(photos, tmp_path / "out", "--workers", 2, "--count", 4000)
    wait_for(tmp_path / "out", 1)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while session_members(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def session_members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().rpartition(") ")
            state, _, _, of = rest.split()[:4]
            if int(of) == session and state != "Z":
                found.append(int(name.split()[0]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt_keeps_finished_pairs(
    photos: Path, tmp_path: Path, whole: dict[str, bytes], workers: int
) -> None:
    process = start(photos, tmp_path / "out", "--workers", workers, "--count", 4000)
    wait_for(tmp_path / "out", 3)
    # As a terminal does it: to the workers too.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    sentence(err, "Interrupted", "of 4000 pairs are done")
    made = contents(tmp_path / "out")
    assert not [name for name in made if name.endswith(".tmp")]
    for index in range(3):
        name = f"records/{index:06d}.json"
        if name in made:
            assert made[name] == whole[name]
            assert made[f"blur/{index:06d}.png"] == whole[f"blur/{index:06d}.png"]


@pytest.mark.slow
def test_workers_change_nothing(photos: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    result = run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS, "--workers", 3)
    assert result.code == 0, result.err
    assert contents(tmp_path) == whole


def test_second_build_into_one_folder_is_refused(photos: Path, tmp_path: Path) -> None:
    with (tmp_path / ".build.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        result = run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS)
    assert result.code == 1
    sentence(result.err, "Another build")
    assert {path.name for path in tmp_path.iterdir()} == {".build.lock"}


def test_full_disk(
    photos: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, room = atomic._write_and_sync, [40_000]

    def fill(path: Path, data: bytes) -> None:
        room[0] -= len(data)
        if room[0] < 0:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        genuine(path, data)

    monkeypatch.setattr(atomic, "_write_and_sync", fill)
    result = run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS)
    assert result.code == 1
    sentence(result.err, "disk is full")
    made = contents(tmp_path)
    assert 2 < len(made) < len(whole)
    assert {name: data for name, data in made.items() if whole[name] != data} == {}
    monkeypatch.undo()
    assert run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS).code == 0
    assert contents(tmp_path) == whole


def test_full_disk_while_a_shard_is_written(
    photos: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(*_: Any) -> int:
        monkeypatch.setattr(os, "fsync", fill)
        return genuine(*_)

    genuine = dataset.write_shards
    monkeypatch.setattr(dataset, "write_shards", full)
    result = run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS)
    assert result.code == 1
    sentence(result.err, "000000.tar", "disk is full")
    assert list((tmp_path / "shards").iterdir()) == []
    monkeypatch.undo()
    assert run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS).code == 0
    assert contents(tmp_path) == whole


def test_one_bug_stops_one_pair(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = build_pair.make_pair

    def broken(plan: Any, index: int, source: Any) -> bool:
        if index == 3:
            raise RuntimeError("a bug\nand its details")
        return genuine(plan, index, source)

    monkeypatch.setattr(build_pair, "make_pair", broken)
    result = run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS, "--json")
    assert result.code == 1
    sentence(result.err, "coffee.png", "RuntimeError: a bug")
    report = json.loads(result.out)
    assert (report["written"], report["failed"]) == (11, 1)
    assert report["problems"][0]["source"] == "coffee.png"


def test_a_killed_worker_is_one_sentence(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures.process import BrokenProcessPool

    def wait(*_: Any, **__: Any) -> NoReturn:
        raise BrokenProcessPool("A process died")

    monkeypatch.setattr(workers.concurrent.futures, "wait", wait)
    result = run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS, "--workers", 2)
    assert result.code == 1
    sentence(result.err, "killed", "fewer workers")


def test_command_line(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("build", "--sharp", photos, "--out", tmp_path / "out", *OPTIONS)
    assert result.code == 0, result.err
    assert result.err == ""
    assert "blur_width_px" in result.out
    assert "12 written, 3 shards" in result.out
    result = run("build", "--sharp", tmp_path / "none", "--out", tmp_path / "b")
    assert result.code == 1
    sentence(result.err, "is not a folder")
    for wrong in (("--crop", "9"), ("--format", "gif"), ()):
        result = run("build", "--sharp", photos, *wrong)
        assert result.code == 2
        assert result.err.startswith("blursynth: ")

    def fail(*_: Any, **__: Any) -> list[Outcome]:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(dataset, "_outcomes", fail)
    arguments = ("build", "--sharp", photos, "--out", tmp_path / "c")
    sentence(run(*arguments).err, "Unexpected ZeroDivisionError: oh", "--debug")
    assert "Traceback" in run(*arguments, "--debug").err


def resident_kib() -> int:
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0])


@pytest.mark.slow
def test_memory_does_not_grow(photos: Path, tmp_path: Path) -> None:
    levels = []

    def watch(*given: Any) -> Any:
        for number, outcome in enumerate(genuine(*given)):
            if number in (20, 79):
                levels.append(resident_kib())
            yield outcome

    genuine = dataset._outcomes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "_outcomes", watch)
        summary = dataset.build(photos, tmp_path, count=80, crop=64, progress=False)
    assert summary.written == 80
    assert levels[1] - levels[0] < 6 * 1024


def test_ray_is_named_where_it_is_missing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "freqdiff.ray_workers", raising=False)
    result = run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS, "--ray")
    assert result.code == 1
    sentence(result.err, "freqdiff-deblur[ray]")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_makes_the_same(photos: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    pytest.importorskip("ray")
    result = run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS, "--ray")
    assert result.code == 0, result.err
    assert contents(tmp_path) == whole
    again = run("build", "--sharp", photos, "--out", tmp_path, *OPTIONS, "--ray")
    assert "12 kept" in again.out
