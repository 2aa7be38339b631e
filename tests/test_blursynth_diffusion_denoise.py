"""What the stages of training ask the diffusion engine: noise, conditions, and photos it makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_blursynth_diffusion_stream import CPU, stream, write_pictures
from tiny_base import tiny

from blursynth import diffusion_denoise
from blursynth.diffusion_denoise import sampled, spread
from blursynth.diffusion_stream import Batch

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    photos = write_pictures(tmp_path_factory.mktemp("photos"), "coffee", "astronaut")
    return stream(photos, batch=2)[0].blur(CPU)


@pytest.mark.parametrize("steps", [1, 3])
def test_photos_that_are_judged_are_those_of_the_pipeline(batch: Batch, steps: int) -> None:
    pipeline, noise = tiny(), torch.Generator().manual_seed(1)
    weight = pipeline.unet.conv_in.weight.requires_grad_()
    images = sampled(pipeline, batch, steps, noise)
    noise.manual_seed(1)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        batch.sharp,
        batch.cameras,
        batch.maps,
        num_inference_steps=steps,
        generator=noise,
        output="pixels",
    )
    torch.testing.assert_close(images.detach().clamp(0, 1), made.images)
    images.mean().backward()
    assert float(weight.grad.abs().max()) > 0


def test_the_last_step_learns(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []
    predict = diffusion_denoise.predict

    def watched(
        pipeline: Any, z: torch.Tensor, timestep: torch.Tensor, *args: Any, **kw: Any
    ) -> Any:
        seen.append((int(timestep), torch.is_grad_enabled()))
        return predict(pipeline, z, timestep, *args, **kw)

    monkeypatch.setattr(diffusion_denoise, "predict", watched)
    sampled(tiny(), batch, 4, torch.Generator().manual_seed(1))
    assert seen == [(999, False), (749, False), (499, False), (249, True)]


def test_what_is_not_known_is_not_told(batch: Batch) -> None:
    pipeline = tiny()
    both = pipeline.encode_physics(batch.cameras, batch.sharp, batch.maps, known=[True, False])
    told = pipeline.encode_physics(batch.cameras, batch.sharp, batch.maps)
    nothing = pipeline.unknown_physics(batch.sharp)
    for found, expected in ((both.tokens, told.tokens), (both.maps, told.maps)):
        torch.testing.assert_close(found[0], expected[0])
    for found, expected in ((both.tokens, nothing.tokens), (both.maps, nothing.maps)):
        torch.testing.assert_close(found[1], expected[1])
    assert float(nothing.maps.abs().max()) == 0


def test_timesteps_are_spread_over_all_spans() -> None:
    noise = torch.Generator().manual_seed(0)
    for _ in range(20):
        times = spread(8, 1000, noise).sort().values
        assert torch.equal(times // 125, torch.arange(8))
