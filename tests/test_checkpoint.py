"""Model folders: saved, loaded, damaged, incomplete."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toys import ATTENTION_TOY, TOY, random_denoiser

from freqdiff import atomic, checkpoint
from freqdiff.checkpoint import load_model, save_model, shipped_models
from freqdiff.errors import ModelError, OutputError
from freqdiff.model import ModelConfig

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "toy", random_denoiser(), {"steps": 7})
    return tmp_path / "toy"


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("config", [TOY, ATTENTION_TOY], ids=lambda c: c.name)
def test_round_trip(tmp_path: Path, config: ModelConfig) -> None:
    model = random_denoiser(config)
    save_model(tmp_path / "new" / "folder", model)
    loaded = load_model(tmp_path / "new" / "folder")
    assert loaded.config == config
    assert not loaded.training
    for (name, saved), (again, value) in zip(
        checkpoint.weights(model), checkpoint.weights(loaded), strict=True
    ):
        assert name == again
        assert value.dtype == torch.float32
        assert not value.requires_grad
        assert torch.equal(value, saved.half().float()), name


def test_second_save_of_loaded_weights_is_the_same_file(folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "again", load_model(folder))
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_folder_holds_facts_and_digests(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", WEIGHTS]
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert content["training"] == {"steps": 7}
    assert content["model"]["channels"] == list(TOY.channels)
    assert [len(digest) for digest in content["sha256"].values()] == [64]
    assert all(v.dtype == torch.float16 for v in load_file(folder / WEIGHTS).values())


def test_large_models_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_SHARD_BYTES", 20_000)
    model = random_denoiser()
    save_model(tmp_path, model)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    largest = max(2 * value.numel() for value in model.parameters())
    headers = 4000
    assert all(path.stat().st_size <= max(20_000, largest) + headers for path in shards)
    loaded = dict(checkpoint.weights(load_model(tmp_path)))
    for name, value in checkpoint.weights(model):
        assert torch.equal(loaded[name], value.half().float())
    shards[1].unlink()
    with pytest.raises(ModelError, match=rf"{shards[1].name} cannot be read; copy the whole"):
        load_model(tmp_path)


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "empty"])
def test_damaged_weights_are_refused(folder: Path, damage: str) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    if damage == "flipped bit":
        content[-100] ^= 1
    else:
        del content[0 if damage == "empty" else len(content) // 2 :]
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged .*; fetch the model"):
        load_model(folder)


def test_weights_that_are_no_safetensors(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"PK\3\4 a zip file")
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    edit(folder, lambda content: content["sha256"].update({WEIGHTS: digest}))
    with pytest.raises(ModelError, match="is not a readable safetensors file"):
        load_model(folder)


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", [0, 4])
def test_pickle_as_safetensors_is_not_run(folder: Path, tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "sprung"
    content = pickle.dumps({"unet.gate.bias": Trap(trap)}, protocol)
    (folder / WEIGHTS).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(folder, lambda config: config["sha256"].update({WEIGHTS: digest}))
    with pytest.raises(ModelError, match="is not a readable safetensors file") as refusal:
        load_model(folder)
    assert "\n" not in str(refusal.value)
    assert not trap.exists()
    pickle.loads(content)
    assert trap.exists()


@pytest.mark.parametrize("length", [2**63, 10**9, 0], ids=["huge", "longer than the file", "none"])
def test_headers_that_lie_about_their_length(folder: Path, length: int) -> None:
    content = length.to_bytes(8, "little") + (folder / WEIGHTS).read_bytes()[8:]
    (folder / WEIGHTS).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(folder, lambda config: config["sha256"].update({WEIGHTS: digest}))
    with pytest.raises(ModelError, match="is not a readable safetensors file"):
        load_model(folder)


def test_sizes_beyond_the_weights_take_no_memory(folder: Path) -> None:
    """The largest configuration would take 3 TB."""
    edit(folder, lambda config: config["model"].update(channels=[4096] * 2, embedding=4096))
    tracemalloc.start()
    with pytest.raises(ModelError, match="of another architecture"):
        load_model(folder)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4e6


def test_files_beyond_the_model_are_not_read(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as stream:
        stream.truncate(10**12)  # sparse
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read; copy the whole"):
        load_model(folder)


def test_pipes_are_not_waited_for(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read; copy the whole"):
        load_model(folder)


def test_missing_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read; copy the whole"):
        load_model(folder)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "[]",
            "{}",
            '{"model": {}, "sha256": {}}',
            '{"model": 3, "sha256": "x"}',
            "\xff",
        ),
        "[" * 200_000,
    ],
    ids=lambda text: repr(text[:30]),
)
def test_unreadable_configuration(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=r"config\.json is not a model configuration"):
        load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"condition": "time"},
        {"objective": "x0"},
        {"encoder_blocks": [1]},
        {"channels": "wide"},
        {"channels": [16.5, 16]},
        {"channels": []},
        {"channels": [-16, 16]},
        {"residual_std": None},
        {"residual_std": 0},
        {"residual_std": float("inf")},
        {"channels": [10**9, 10**9]},
        {"encoder_blocks": [10**9, 1]},
        {"blur_channels": [2**40] * 4},
        {"embedding": "x"},
        {"default_steps": 0},
        {"attention": [1]},
        {"attention": [5]},
    ],
    ids=str,
)
def test_wrong_configuration(folder: Path, change: dict[str, Any]) -> None:
    edit(folder, lambda content: content["model"].update(change))
    with pytest.raises(ModelError, match=r"config\.json is not a model configuration"):
        load_model(folder)


@pytest.mark.parametrize("name", ["../toy/" + WEIGHTS, "/etc/passwd", "a/../" + WEIGHTS])
def test_weights_outside_the_folder_are_refused(folder: Path, name: str) -> None:
    edit(folder, lambda content: content.update(sha256={name: "0" * 64}))
    with pytest.raises(ModelError, match="sha256 must name the weights files of the folder"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"channels": [16, 24]}, "unet.down.0"),
        ({"encoder_blocks": [2, 1]}, "unet.encoder.0.1"),
        ({"embedding": 32}, "unet.decoder"),
    ],
    ids=["wider", "deeper", "other embedding"],
)
def test_other_architecture(folder: Path, change: dict[str, Any], first: str) -> None:
    edit(folder, lambda content: content["model"].update(change))
    with pytest.raises(ModelError, match=rf"another architecture than .* first at '{first}"):
        load_model(folder)


@pytest.mark.parametrize("name", ["medium", "", "no/such/folder"])
def test_unknown_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=f"^There is no model '{name}': shipped are .*; otherwise"):
        load_model(name)


def test_name_is_looked_up_in_the_package_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "shipped_models", lambda: {"toy": folder})
    monkeypatch.chdir(tmp_path)
    assert load_model("toy").config == TOY
    with pytest.raises(ModelError, match="shipped are toy; otherwise"):
        load_model("tiny")


def test_shipped_models_load() -> None:
    for name in shipped_models():
        model = load_model(name)
        assert model.config.name == name
        assert all(bool(torch.isfinite(value).all()) for value in model.parameters())


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "_write_and_sync", write)


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch)
    with pytest.raises(OutputError, match=r"model\.safetensors': the disk is full"):
        save_model(tmp_path / "toy", random_denoiser())
    assert list((tmp_path / "toy").iterdir()) == []


def test_full_disk_keeps_the_earlier_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    full_disk(monkeypatch)
    with pytest.raises(OutputError, match="the disk is full"):
        save_model(folder, random_denoiser(seed=1))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load_model(folder)


def test_failed_rename_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError, match="the folder is not writable"):
        save_model(folder, random_denoiser(seed=1))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_interrupted_between_weights_and_configuration_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power goes off after the weights: the folder is not taken for a whole model."""
    replace, count = os.replace, 0

    def die(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save_model(folder, random_denoiser(seed=1))
    with pytest.raises(ModelError, match="is damaged"):
        load_model(folder)


def test_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match=r"^The model cannot be written to .*file"):
        save_model(tmp_path / "file" / "toy", random_denoiser())


def test_configuration_survives_json(tmp_path: Path) -> None:
    config = dataclasses.replace(
        TOY, condition="freq", objective="epsilon", residual_std=0.07, default_steps=8
    )
    save_model(tmp_path, random_denoiser(config))
    assert load_model(tmp_path).config == config
