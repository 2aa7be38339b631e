"""Facts about the installation."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import commands
import pytest
import torch
import toys

from freqdiff import __version__, info, processor
from freqdiff_kernels import native


def test_facts_fit_into_json_and_name_everything() -> None:
    facts = info.collect()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["freqdiff"] == __version__
    assert facts["torch"] == torch.__version__
    assert facts["extension"]["status"] == native.status
    assert set(facts["packages"]) >= {"triton", "accelerate"}
    assert len(facts["gpus"]) == torch.cuda.device_count()
    for model in facts["models"].values():
        assert model["error"] is None
        assert model["parameters"] > 0


def test_optional_packages_are_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    info.collect()
    assert "triton" not in sys.modules


def test_model_facts(tmp_path: Path) -> None:
    folder = commands.toy_model(tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    facts = info.model_facts(folder)
    assert facts == {
        "parameters": sum(p.numel() for p in toys.random_denoiser().parameters()),
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "error": None,
    }
    (folder / "model.safetensors").write_bytes(content[:-1] + b"x")
    facts = info.model_facts(folder)
    assert "damaged" in facts["error"]
    assert facts["sha256"] is None


def facts_with(**changes: object) -> dict[str, object]:
    return {**info.collect(), **changes}


def test_description_tells_why_the_extension_is_not_there() -> None:
    for status in ("not built", "failed: undefined symbol"):
        extension = {"status": status, "instructions": "none", "build": {}}
        assert f"{status}; the plain-torch reference runs" in info.describe(
            facts_with(extension=extension)
        )


def test_description_lists_gpus_and_models() -> None:
    gpus = [{"name": "Some GPU", "memory_bytes": 80 * 1024**3, "capability": [9, 0]}]
    models = {
        "good": {"parameters": 1_234_567, "bytes": 2_500_000, "sha256": "abc", "error": None},
        "bad": {"parameters": 0, "bytes": 0, "sha256": None, "error": "It is damaged."},
    }
    text = info.describe(facts_with(gpus=gpus, models=models))
    assert "Some GPU, 80 GiB" in text
    assert "1,234,567 parameters, 2.5 MB, sha256 abc" in text
    assert "It is damaged." in text
    assert "none are shipped" in info.describe(facts_with(models={}))


def test_git_commit_only_in_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "__file__", str(tmp_path / "site-packages" / "freqdiff" / "info.py"))
    assert info.git_commit() is None
    (tmp_path / "site-packages" / ".git").mkdir(parents=True)
    assert info.git_commit() is None


def test_provenance_and_memory() -> None:
    facts = info.provenance(torch.device("cpu"))
    assert set(facts) >= {"device", "device_name", "torch", "freqdiff", "git", "date"}
    assert facts["device_name"]
    assert info.peak_memory(torch.device("cpu")) > 10_000_000


def test_unknown_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_cpuinfo", dict)
    assert processor.cpu_features() == []
    assert isinstance(processor.cpu_name(), str)
