"""Depth by a model of transformers: tiny untrained ones of both kinds, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import photo

from blursynth.cli import main
from blursynth.depth_model import estimate_depth
from freqdiff.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def save_metric(folder: Path) -> None:
    from transformers import GLPNConfig, GLPNForDepthEstimation

    torch.manual_seed(0)
    config = GLPNConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=8,
    )
    GLPNForDepthEstimation(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size_divisor": 32}))


def save_relative(folder: Path) -> None:
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 16],
        fusion_hidden_size=8,
        head_in_index=-1,
        head_hidden_size=8,
    )
    DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    settings = {
        "size": {"height": 56, "width": 56},
        "ensure_multiple_of": 14,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


@pytest.fixture(params=[save_metric, save_relative], ids=["metric", "relative"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    save: Callable[[Path], Any] = request.param
    save(tmp_path / "model")
    return tmp_path / "model"


def test_depth_of_a_photo(model: Path) -> None:
    image = photo(90, 140)
    depth = estimate_depth(image, str(model), near_m=2.0)
    assert (depth.shape, depth.dtype) == ((90, 140), torch.float32)
    assert bool((depth > 0).all())
    assert not depth.isnan().any()
    # Not the same everywhere, and the same again.
    assert float((1 / depth).std()) > 1e-4
    assert torch.equal(depth, estimate_depth(image, str(model), near_m=2.0))


def test_nearest_thing(tmp_path: Path) -> None:
    save_relative(tmp_path)
    near, far = (estimate_depth(photo(90, 140), str(tmp_path), near_m=m) for m in (2.0, 4.0))
    assert float(near.min()) == pytest.approx(2, rel=0.05)
    torch.testing.assert_close(far, 2 * near)


def test_on_the_command_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from PIL import Image

    pixels = (photo(96, 128) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    command = ["synthesize", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--tripod"]
    command += ["--aperture", "1.4", "--focal", "85", "--focus", "1.5"]
    assert main([*command, "--depth-model", str(model)]) == 0
    first = (tmp_path / "b.png").read_bytes()
    assert "defocus" in capsys.readouterr().out
    assert main([*command, "--distance", "3"]) == 0
    assert (tmp_path / "b.png").read_bytes() != first


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(64, 64)
    with pytest.raises(InputError, match="is no folder of a depth model, nor a name"):
        estimate_depth(image, str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"cannot be loaded as a depth model: .*\.$") as caught:
        estimate_depth(image, str(tmp_path / "empty"))
    assert "\n" not in str(caught.value)
    save_metric(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded as a depth model"):
        estimate_depth(image, str(tmp_path / "pickled"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install \"freqdiff-deblur\[synth\]\""):
        estimate_depth(image, str(tmp_path / "pickled"))
