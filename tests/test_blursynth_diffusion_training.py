"""Training of the diffusion engine: the stream, the three stages, exact resume, what stops it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import contents
from PIL import Image
from safetensors.torch import load_file
from test_blursynth_diffusion_stream import write_pictures
from tiny_base import like_stable_diffusion, tiny
from torch import Tensor
from toys import picture

from blursynth import diffusion_train
from blursynth.collapse import RECENT
from blursynth.diffusion_align import AlignTraining
from blursynth.diffusion_codec import CodecTraining, gradient_distance, spectrum_distance
from blursynth.diffusion_denoise import BaseTraining
from blursynth.diffusion_load import load_lora, load_pipeline
from blursynth.diffusion_run import prepare
from blursynth.diffusion_stage import Loss
from blursynth.diffusion_train import DiffusionTraining
from blursynth.training_state import STATE
from freqdiff.errors import InputError, ModelError, OutputError, TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")

SHARED: dict[str, Any] = {
    "batch": 2, "crop": 64, "steps": 3, "save_every": 2, "validate_every": 1000, "warmup": 0,
}  # fmt: skip
CONFIGS = {
    "codec": CodecTraining(**SHARED),
    "base": BaseTraining(**SHARED),
    "align": AlignTraining(**SHARED, rank=2, decoder=True, r1_every=2),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, sharp photos, and real ones."""
    folder = tmp_path_factory.mktemp("training")
    tiny().save_pretrained(folder / "base")
    like_stable_diffusion().save_pretrained(folder / "like")
    for kind, names in (("sharp", ("coffee", "astronaut")), ("real", ("chelsea",))):
        (folder / kind).mkdir()
        write_pictures(folder / kind, *names)
    return folder


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


def training(
    root: Path, output: Path, stage: str = "base", base: str = "base", **changes: Any
) -> DiffusionTraining:
    config = dataclasses.replace(CONFIGS[stage], **changes)
    real = root / "real" if stage == "align" else None
    return prepare(config, output, root / "sharp", real, base=str(root / base))


@pytest.mark.parametrize("stage", CONFIGS)
def test_a_resumed_run_equals_an_uninterrupted_one(root: Path, tmp_path: Path, stage: str) -> None:
    once = training(root, tmp_path / "once", stage)
    once.run(progress=False)
    half = training(root, tmp_path / "twice", stage)
    half.run(seconds=1e-9, progress=False)
    rest = training(root, tmp_path / "twice", stage)
    assert rest.step == 1
    rest.run(progress=False)
    whole, resumed = (load_file(tmp_path / name / STATE) for name in ("once", "twice"))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    start = training(root, tmp_path / "new", stage)
    moved = sum(not torch.equal(once.ema[k], v) for k, v in start.ema.items())
    assert moved > 0.5 * len(start.ema)


@pytest.mark.parametrize(("base", "rate", "share"), [("base", 2e-4, 1.0), ("like", 1e-3, 0.9)])
def test_the_codec_learns_and_its_latents_have_unit_power(
    root: Path, tmp_path: Path, base: str, rate: float, share: float
) -> None:
    options = {"steps": 30, "ema": 0.9, "validate_every": 30, "learning_rate": rate}
    run = training(root, tmp_path, "codec", base, **options)
    run.validate()
    run.run(progress=False)
    losses = [told["loss"] for told in run._recent]
    assert sum(losses[-8:]) < share * sum(losses[:8])
    first, last = (row["psnr_blurred"] for row in run.history)
    # Of the large decoder it scatters by 1 dB so early.
    assert last > first + 0.1 or base == "like"
    made = load_pipeline(str(tmp_path / "model"))
    batch = run.check_batch
    latents = made.encode(torch.cat((batch.sharp, batch.blurred)))
    assert 0.98 < float(latents.square().mean().sqrt()) < 1.02
    error = (made.decode(made.encode(batch.blurred)) - batch.blurred).square().mean()
    assert float(-10 * error.log10()) == pytest.approx(last, abs=0.1)
    with Image.open(tmp_path / "validation_0000030.png") as sheet:
        assert sheet.size == (4 * 64, 2 * 64)
    assert [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()] == (
        run.history
    )


def test_the_base_learns(root: Path, tmp_path: Path) -> None:
    run = training(root, tmp_path, "base", steps=12, ema=0.5)
    start = {k: v.clone() for k, v in run.learning.items()}
    run.validate()
    run.run(progress=False)
    losses = [row["check"] for row in run.history]
    assert losses[0] > losses[1], losses
    for part in ("unet", "controlnet", "text_encoder", "camera_encoder"):
        names = [name for name in start if name.startswith(part)]
        assert any(not torch.equal(start[name], run.learning[name]) for name in names), part
    made = load_pipeline(str(tmp_path / "model"))
    weights = dict(made.unet.named_parameters())
    for name, value in weights.items():
        torch.testing.assert_close(value, run.ema[f"unet.{name}"], rtol=1e-3, atol=1e-6)
    told = "".join(path.read_text() for path in (tmp_path / "model").rglob("*.json"))
    assert str(root) not in told
    frozen = tiny().vae.state_dict()
    for name, value in made.vae.state_dict().items():
        torch.testing.assert_close(value, frozen[name], rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the tracer, about diffusers
def test_compiled_steps_are_the_same(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as on any device, but run by PyTorch: a compiler would take a minute."""
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", functools.partialmethod(compiled, backend="eager")
    )
    plain, traced = (
        prepare(
            CONFIGS["base"],
            tmp_path / str(way),
            root / "sharp",
            base=str(root / "base"),
            compile=way,
        )
        for way in (False, True)
    )
    for run in (plain, traced):
        run.run(progress=False)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    for name, value in plain.ema.items():
        torch.testing.assert_close(traced.ema[name], value, rtol=1e-4, atol=1e-6)


def test_only_the_parts_that_are_named_learn(root: Path, tmp_path: Path) -> None:
    run = training(root, tmp_path, parts=("camera_encoder",), steps=1)
    run.run(progress=False)
    assert {name.split(".")[0] for name in run.learning} == {"camera_encoder"}
    with pytest.raises(ModelError, match="no part 'vae' that could learn"):
        training(root, tmp_path, parts=("vae",))


def test_alignment_moves_the_lora_weights_alone(root: Path, tmp_path: Path) -> None:
    run = training(root, tmp_path, "align", learning_rate=1e-2)
    pipeline: Any = run.stage.pipeline
    run.run(progress=False)
    made: Any = load_pipeline(str(root / "base"))
    plain: Any = load_pipeline(str(root / "base"))
    load_lora(made, str(tmp_path / "model"))
    batch = run.check_batch
    with run.averaged(), torch.no_grad():
        expected = pipeline.decode(pipeline.encode(batch.sharp))
        decoded, before = (one.decode(one.encode(batch.sharp)) for one in (made, plain))
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-4)
    assert float((decoded - before).abs().max()) > 1e-3
    # The encoder has none.
    assert torch.equal(made.encode(batch.sharp), plain.encode(batch.sharp))
    assert all("lora_" in name for name in run.learning)
    assert {name.split(".")[0] for name in run.learning} == {"unet", "controlnet", "vae"}
    paces = {name: one.param_groups[0]["lr"] for name, one in run.optimizers.items()}
    assert paces["discriminator"] == pytest.approx(run.stage.config.lead * paces["generator"])


def test_distances_see_what_they_are_for() -> None:
    noise = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 32, 32, generator=noise)
    assert float(gradient_distance(images, images)) == 0
    assert float(gradient_distance(images + 0.3, images)) == pytest.approx(0, abs=1e-6)
    moved = images.roll(1, 3)
    assert float(spectrum_distance(moved, images)) < 0.3 * float(
        spectrum_distance(torch.zeros_like(images), images)
    )
    edge = torch.zeros(1, 3, 16, 16)
    edge[..., 8:] = 1
    # One step of 1 in 15 differences, 7 and 3 at the smaller scales.
    expected = (1 / 15 + 1 / 7 + 1 / 3) / 3
    assert float(gradient_distance(edge, torch.zeros_like(edge))) == pytest.approx(expected)


def test_the_learning_rate() -> None:
    config = BaseTraining(steps=100, warmup=10, decay_share=0.5, learning_rate=1.0)
    assert [config.rate(step) for step in (0, 4, 9, 49)] == [0.1, 0.5, 1.0, 1.0]
    assert config.rate(75) == pytest.approx(0.5)
    assert config.rate(100) == 0


def test_the_schedule_ends_with_the_time(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten steps a second, after a first one that takes three."""
    run = training(root, tmp_path, "codec", steps=10**6, save_every=10**6, validate_every=10**6)
    batch, clock, rates = run.check_batch, [0.0], []

    def advance(_: Any) -> dict[str, float]:
        clock[0] += 0.1 if run.step else 3.0
        rates.append(run.config.rate(run.step))
        run.step += 1
        return {"loss": 1.0}

    monkeypatch.setattr(run, "_advance", advance)
    monkeypatch.setattr(diffusion_train, "batches", lambda *_: iter(lambda: batch, None))
    monkeypatch.setattr(diffusion_train, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    run.run(seconds=30.0, finish=True, progress=False)
    assert 240 < run.step == run.config.steps < 271
    assert rates[-1] < 0.05 * max(rates)
    assert 27 < run.seconds < 30
    assert training(root, tmp_path, "codec", steps=10**6).step == run.step


def test_a_loss_that_is_not_finite_stops_before_the_weights_are_spoiled(
    root: Path, tmp_path: Path
) -> None:
    run = training(root, tmp_path, steps=2)
    run.run(progress=False)
    kept = contents(tmp_path / "model")
    run = training(root, tmp_path, steps=9)
    run.stage.pipeline.unet.conv_out.bias.data[0] = float("nan")
    with pytest.raises(TrainingError, match="at step 2: a loss is not finite; the last state in"):
        run.run(progress=False)
    assert contents(tmp_path / "model") == kept
    assert training(root, tmp_path, steps=9).step == 2


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"discriminator": 0.001}, "tells all photos apart"),
        ({"discriminator": 2.0}, "the same score"),
        ({"content": 0.4}, "does not keep what the photo shows"),
        ({}, None),
    ],
)
def test_collapse_stops_the_alignment(
    root: Path,
    tmp_path: Path,
    told: dict[str, float],
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = training(root, tmp_path, "align", steps=RECENT + 19, save_every=10**6)
    weight = next(iter(run.learning.values()))

    def losses(batch: Any, step: int, noise: Any) -> Iterator[Loss]:
        fine = {"discriminator": 1.5, "generator": 0.1, "content": 0.01}
        yield Loss("generator", 0 * weight.sum(), fine | told)

    batch = run.check_batch
    monkeypatch.setattr(run.stage, "losses", losses)
    monkeypatch.setattr(diffusion_train, "batches", lambda *_: iter(lambda: batch, None))
    if words is None:
        run.run(progress=False)
        assert run.step == RECENT + 19
        assert len(run._recent) == RECENT
    else:
        with pytest.raises(TrainingError, match=f"at step {RECENT}: .*{words}"):
            run.run(progress=False)
        assert not (tmp_path / STATE).exists()


def test_gradients_are_averaged_over_processes() -> None:
    class Two:
        """The other process has gradients of 0."""

        def reduce(self, values: Tensor, how: str) -> Tensor:
            assert how == "mean"
            return values / 2

    weights = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
    weights[0].grad = torch.arange(6.0).view(2, 3)
    diffusion_train._average_gradients(Two(), weights)
    torch.testing.assert_close(weights[0].grad, torch.arange(6.0).view(2, 3) / 2)
    torch.testing.assert_close(weights[1].grad, torch.zeros(4))


def test_an_exploding_loss_stops(root: Path, tmp_path: Path) -> None:
    run = training(root, tmp_path)
    run._recent = [{"loss": 0.1}] * (RECENT - 20) + [{"loss": 3.0}] * 20
    with pytest.raises(TrainingError, match=r"loss rose from 0\.1 to 3"):
        run._check({"loss": 3.0})
    run._recent = [{"loss": 0.1}] * RECENT
    run._check({"loss": 3.0})


def test_what_cannot_be_trained(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 64, got 68"):
        training(root, tmp_path, crop=68)
    with pytest.raises(InputError, match="192 px on each side"):
        training(root, tmp_path, crop=128)
    sharp = root / "sharp"
    for stage, real, base, message in (
        ("align", None, "x", "needs real blurred photos"),
        ("base", root / "real", "x", "leave them out"),
        ("align", "real", None, "needs a base"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(CONFIGS[stage], tmp_path, sharp, real, base=base)
    with pytest.raises(InputError, match="not a folder"):
        prepare(CONFIGS["codec"], tmp_path, root / "none", base=str(root / "base"))
    with pytest.raises(ModelError, match="is no folder of a base"):
        prepare(CONFIGS["base"], tmp_path, sharp, base="none")
    training(root, tmp_path).save()
    with pytest.raises(TrainingError, match="other settings or photos"):
        training(root, tmp_path, drop_maps=0.2)
    (tmp_path / STATE).write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="not a training state"):
        training(root, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot make the folder"):
        training(root, tmp_path / "file")


def test_a_held_out_half_of_the_real_photos(root: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name in "abc":
        Image.fromarray(picture(90, 90)).save(tmp_path / "real" / f"{name}.png")
    run = prepare(
        CONFIGS["align"],
        tmp_path / "out",
        root / "sharp",
        tmp_path / "real",
        base=str(root / "base"),
        hold_out=True,
    )
    assert json.loads(run.settings)["real"] == ["a.png", "c.png"]
    batch = run.check_batch
    assert isinstance(batch.real, Tensor)
    assert batch.real.shape == batch.sharp.shape
