"""Graphs for other runtimes: nothing in them but plain operations, and the same photos."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import refused, run, toy_model
from torch import Tensor
from torch.export import ExportedProgram
from toys import ATTENTION_TOY, TOY, WIENER_TOY, photo, random_deblurrer

import freqdiff
from freqdiff import export
from freqdiff.errors import InputError
from freqdiff.model import ModelConfig
from freqdiff.sampling import frame_noise
from freqdiff_kernels.portable import portable

WIENER_ATTENTION_TOY = dataclasses.replace(
    WIENER_TOY, name="Wiener attention toy", channels=(16, 32), attention=(1,)
)
EPSILON_TOY = dataclasses.replace(TOY, name="epsilon toy", objective="epsilon", condition="freq")


def near(got: Tensor, expected: Tensor, photo: Tensor, model: freqdiff.Deblurrer) -> None:
    """A graph may be off by ten times what the rounding of its input changes in the result."""
    nudged = (photo * (1 - 1e-7)).clamp(0, 1)
    noise = (model.restore(nudged).image - model.restore(photo).image).abs().max()
    assert (got - expected).abs().max() <= 10 * float(noise) + 1e-5


def plain(program: ExportedProgram) -> None:
    """No complex numbers, and operations of torch alone."""
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            assert node.target.namespace in ("aten", "prims"), node.target
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            assert not value.is_complex(), node.name


@pytest.mark.parametrize(
    "config", [WIENER_ATTENTION_TOY, ATTENTION_TOY, EPSILON_TOY], ids=lambda config: config.name
)
def test_portable_form_is_the_same_function(config: ModelConfig) -> None:
    denoiser = random_deblurrer(config).denoiser
    y = photo(96, 160)[None] * 2 - 1
    x, t = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)), torch.tensor([400])
    with torch.no_grad():
        expected = denoiser.denoise(x, t, denoiser.condition(y))
        with portable():
            got = denoiser.denoise(x, t, denoiser.condition(y))
        exact = denoiser.double()
        truth = exact.denoise(x.double(), t, exact.condition(y.double()))
    own = (expected - truth).abs().max()
    assert not torch.equal(got, expected)
    # A sum of 64 products rounds 64 / log2(64) times as often as an FFT.
    assert (got - truth).abs().max() <= 64 / 6 * own


def test_fixed_size_with_noise() -> None:
    model = random_deblurrer(WIENER_ATTENTION_TOY)
    program = export.to_torch_export(model, size=(64, 96), steps=2)
    plain(program)
    blurred = photo(64, 96)[None]
    with torch.no_grad():
        got = program.module()(photo=blurred, noise=frame_noise(3, 64, 96))
    near(got, freqdiff.deblur(blurred, model=model, steps=2, seed=3), blurred, model)
    assert (got - blurred).abs().max() > 0.01


def test_a_photo_without_blur_comes_back() -> None:
    from toys import untrained_deblurrer

    program = export.to_torch_export(untrained_deblurrer(), size=(33, 50))
    blurred = photo(33, 50)[None]
    with torch.no_grad():
        assert torch.equal(program.module()(photo=blurred), blurred)


def test_denoiser_of_fixed_size() -> None:
    model = random_deblurrer(TOY)
    program = export.to_torch_export(model, part="denoiser", size=(64, 32))
    plain(program)
    blurred = photo(64, 32)[None] * 2 - 1
    x = torch.randn(blurred.shape, generator=torch.Generator().manual_seed(1))
    for t in (999, 10):
        time = torch.tensor([t])
        with torch.no_grad():
            expected = model.denoiser.denoise(x, time, model.denoiser.condition(blurred))
            got = program.module()(x_t=x, t=time, blurred=blurred)
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def session(program: ExportedProgram) -> Any:
    """ONNX Runtime with the program, whose file holds operations of ONNX alone."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    content = export.to_onnx(program)
    graph = onnx.load_from_string(content).graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    kinds = {value.type.tensor_type.elem_type for value in graph.value_info}
    assert not kinds & {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_any_size_in_torch_and_in_onnx_runtime() -> None:
    model = random_deblurrer(WIENER_TOY)
    program = export.to_torch_export(model, steps=1)
    plain(program)
    cases = {}
    for size in ((200, 330), (160, 160), (161, 352), (640, 383)):
        blurred = photo(*size)[None]
        cases[size] = blurred, freqdiff.deblur(blurred, model=model, steps=1)
        with torch.no_grad():
            near(program.module()(photo=blurred), cases[size][1], blurred, model)
    runtime = session(program)
    for blurred, expected in cases.values():
        (got,) = runtime.run(["sharp"], {"photo": blurred.numpy()})
        near(torch.from_numpy(got), expected, blurred, model)


@pytest.mark.slow
def test_steps_and_attention_in_onnx_runtime() -> None:
    model = random_deblurrer(ATTENTION_TOY)
    runtime = session(export.to_torch_export(model, size=(96, 64), steps=2))
    blurred = photo(96, 64)[None]
    inputs = {"photo": blurred.numpy(), "noise": frame_noise(9, 96, 64).contiguous().numpy()}
    (got,) = runtime.run(["sharp"], inputs)
    expected = freqdiff.deblur(blurred, model=model, steps=2, seed=9)
    near(torch.from_numpy(got), expected, blurred, model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (31, 64)}, r"size is \(31, 64\), expected .* at least 32 px"),
        ({"steps": 0}, "steps is 0, expected a whole number from 1 to 1000"),
        ({"part": "encoder"}, "part is 'encoder', expected 'deblur' or 'denoiser'"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export.to_torch_export(random_deblurrer(), **options)


def test_attention_needs_a_size() -> None:
    with pytest.raises(InputError, match=r"'attention toy' has attention, .*: give a size"):
        export.to_torch_export(random_deblurrer(ATTENTION_TOY))


def test_command_writes_a_file_that_loads(tmp_path: Path) -> None:
    target = tmp_path / "model.pt2"
    options = ("--format", "torch-export", "--size", 32, 64, "--model", toy_model(tmp_path))
    result = run("export", *options, "-o", target)
    assert (result.code, result.err) == (0, "")
    assert str(target) in result.out
    program = torch.export.load(io.BytesIO(target.read_bytes()))  # type: ignore[arg-type]
    blurred = photo(32, 64)[None]
    model = freqdiff.load(str(tmp_path / "toy"), "cpu")
    with torch.no_grad():
        near(program.module()(photo=blurred), model(blurred), blurred, model)


def test_command_with_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ("export", "--format", "torch-export", "--size", 32, 32)
    nowhere = tmp_path / "no" / "folder" / "model.pt2"
    refused(run(*base, "--model", toy_model(tmp_path), "-o", nowhere), "its folder does not exist")
    refused(run(*base, "--model", "huge", "-o", tmp_path / "x"), "There is no model 'huge'")
    wrong = run("export", "--format", "tflite", "-o", tmp_path / "x")
    refused(wrong, "--format", "'tflite'", code=2)
    refused(run(*base[:-2], 31, 32, "-o", tmp_path / "x"), "expected a whole number", code=2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(run("export", "--format", "onnx", "-o", tmp_path / "x"), 'freqdiff-deblur[onnx]"')
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
