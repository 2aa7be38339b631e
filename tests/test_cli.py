"""The command line as a whole: help, wrong arguments, unexpected errors, starting up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import commands
import pytest

from freqdiff import batch, errors
from freqdiff.errors import InputError, TrainingError
from freqdiff.photo import read_photo

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    "command", ["", "deblur", "inspect", "evaluate", "train", "info", "bench", "web"]
)
def test_help_fits_a_screen_and_has_examples(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = commands.run(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 36
    assert max(map(len, out.splitlines())) <= 80
    if command:
        assert f"examples:\n  freqdiff {command}" in out
    else:
        assert all(name in out for name in ("deblur", "evaluate", "train", "info", "bench"))


def test_version() -> None:
    assert commands.run("--version").out.startswith("freqdiff 0.")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("", "COMMAND"),
        ("sharpen a.jpg", "sharpen"),
        ("deblur", "IN"),
        ("deblur a.jpg", "--output"),
        ("deblur a.jpg -o b.jpg --steps 0", "--steps"),
        ("deblur a.jpg -o b.jpg --steps 1001", "from 1 to 1000"),
        ("deblur a.jpg -o b.jpg --seed -1", "--seed"),
        ("deblur a.jpg -o b.jpg --tile big", "'auto' or a number"),
        ("deblur a.jpg -o b.jpg --quality 101", "--quality"),
        ("deblur a.jpg -o b.jpg --nonsense", "--nonsense"),
        ("evaluate", "--pairs"),
        ("evaluate --unharmed a --synthetic b", "not allowed with"),
        ("evaluate --pairs a", "--pairs"),
        ("train --data a --output b", "--config"),
        ("train --config huge --data a --output b", "huge"),
        ("train --config tiny --data a --output b --minutes 0", "minutes above 0"),
        ("web --port 70000", "from 0 to 65535"),
        ("web --max-megapixels 0", "from 1 to 400"),
    ],
)
def test_wrong_arguments(arguments: str, word: str) -> None:
    commands.refused(commands.run(*arguments.split()), word, "--help", code=2)


def test_unexpected_errors_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("freqdiff.info.collect", fail)
    commands.refused(commands.run("info"), "RuntimeError: first line;", "--debug")
    shown = commands.run("info", "--debug").err
    assert "Traceback" in shown
    assert "second line" in shown
    monkeypatch.setenv("FREQDIFF_DEBUG", "1")
    assert "Traceback" in commands.run("info").err


def test_sentences() -> None:
    wrapped = TrainingError(
        "Caught TrainingError in DataLoader worker process 0.\nOriginal Traceback (most recent "
        'call last):\n  File "x.py"\nfreqdiff.errors.TrainingError: a.jpg is too small.\n'
    )
    assert errors.sentence(wrapped) == "a.jpg is too small."
    assert errors.sentence(InputError("Wrong.")) == "Wrong."
    assert "not enough memory" in errors.sentence(MemoryError())
    assert errors.sentence(ValueError()).startswith("Unexpected ValueError;")


def test_parsing_does_not_load_torch() -> None:
    program = (
        "import sys; from freqdiff.cli import build_parser; build_parser(); "
        "import freqdiff; assert 'deblur' in dir(freqdiff); assert 'torch' not in sys.modules; "
        "from freqdiff import deblur, load; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_package_has_no_other_names() -> None:
    import freqdiff

    with pytest.raises(AttributeError, match="no attribute 'sharpen'"):
        freqdiff.sharpen  # noqa: B018
    assert freqdiff.Details.__module__ == "freqdiff.api"


def test_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "freqdiff", "deblur", "no.jpg", "-o", "out.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT)
    commands.refused(commands.Result(done.returncode, done.stdout, done.stderr), "'no.jpg'")
    assert not list(tmp_path.iterdir())


def test_reader_that_leaves() -> None:
    command = [sys.executable, "-m", "freqdiff", "info", "--json"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=ENVIRONMENT)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c(tmp_path: Path) -> None:
    model = commands.toy_model(tmp_path)
    for number in range(60):
        commands.put_photo(tmp_path / "in" / f"{number:02}.png", 160, 160)
    before = commands.contents(tmp_path / "in")
    command = [sys.executable, "-m", "freqdiff", "deblur", "in", "-o", "out", "--model", str(model)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("[1/60]")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    commands.sentence(err, "Interrupted")
    results = commands.contents(tmp_path / "out")
    assert 1 <= len(results) < 60
    for name in results:
        assert name in before
        assert read_photo(tmp_path / "out" / name).pixels.shape == (160, 160, 3)
    assert commands.contents(tmp_path / "in") == before


def test_interrupted_while_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    photo = commands.put_photo(tmp_path / "a.png")
    model = commands.toy_model(tmp_path)
    before = commands.contents(tmp_path)
    monkeypatch.setattr(batch, "deblur_opened", interrupt)
    result = commands.run("deblur", photo, "-o", tmp_path / "b.png", "--model", model, "--json")
    commands.refused(result, "Interrupted: 0 of 1 photos", "was not written", code=130)
    assert commands.contents(tmp_path) == before


def test_the_web_page_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    commands.refused(commands.run("web"), "gradio", "freqdiff-deblur[web]")


def test_info() -> None:
    code, out, err = commands.run("info", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["ops"]["fft_features"]["cpu"] in ("cpp", "reference")
    code, out, _ = commands.run("info")
    assert code == 0
    for word in ("freqdiff", "torch", "extension", "fft_features", "halo_attention", "model"):
        assert word in out
