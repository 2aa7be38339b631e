"""The training pairs of the diffusion engine: a function of seed and step, whoever makes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from toys import picture

from blursynth import diffusion_stream
from blursynth.diffusion_conditions import physics_maps
from blursynth.diffusion_stream import Stream, batches
from blursynth.photo_crops import Crops
from blursynth.physics import MARGIN, expose

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("sharp"), "coffee", "astronaut")


def write_pictures(folder: Path, *names: str) -> Path:
    """A folder of pictures of 180x220 px."""
    for name in names:
        Image.fromarray(picture(180, 220, name)).save(folder / f"{name}.png")
    return folder


def stream(folder: Path, seed: int = 0, batch: int = 4) -> Stream:
    crops = Crops(folder, ["coffee.png", "astronaut.png"], 64 + 2 * MARGIN, 220)
    return Stream(crops, batch, (seed,))


def test_a_step_of_the_stream_is_a_function_of_seed_and_step(folder: Path) -> None:
    first = [next(batches(stream(folder), step, CPU)) for step in (0, 1)]
    ahead = batches(stream(folder), 0, CPU)
    for batch, other in zip(first, ahead, strict=False):
        assert torch.equal(batch.blurred, other.blurred)
        assert torch.equal(batch.maps, other.maps)
        assert batch.cameras == other.cameras
    assert not torch.equal(first[0].sharp, first[1].sharp)
    assert not torch.equal(first[0].sharp, next(batches(stream(folder, 1), 0, CPU)).sharp)
    torch.testing.assert_close(
        first[0].blurred * 255, (first[0].blurred * 255).round(), rtol=0, atol=1e-3
    )
    assert (first[0].sharp - first[0].blurred).abs().amax((1, 2, 3)).min() > 0.02


def test_beside_real_photos_all_blur_visibly(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unseen(*_: object) -> None:
        raise AssertionError("drawn without visible blur")

    monkeypatch.setattr(diffusion_stream, "sample_independent", unseen)
    plain = stream(folder, batch=8)
    with pytest.raises(AssertionError, match="without visible blur"):
        plain[0]
    assert len(Stream(plain.sharp, 8, (0,), plain.sharp)[0].cameras) == 8


def test_workers_change_nothing(folder: Path) -> None:
    ours, theirs = batches(stream(folder), 3, CPU), batches(stream(folder), 3, CPU, workers=1)
    for _ in range(2):
        assert torch.equal(next(ours).blurred, next(theirs).blurred)


def test_joined_exposures_blur_as_alone(folder: Path) -> None:
    """Paths of more points than others of the batch are not changed, nor are the shorter ones."""
    source = stream(folder, batch=12)
    exposures = source[0]
    scenes = exposures.scenes
    light = expose(exposures.pixels, scenes, exposures.origins)
    sharp = exposures.pixels[..., MARGIN:-MARGIN, MARGIN:-MARGIN].float() / 255
    torch.testing.assert_close(exposures.maps, physics_maps(scenes, sharp, exposures.origins))
    assert float(exposures.maps[:, :3].abs().amax((1, 2, 3)).max()) > 0.1
    for index in range(12):
        one = scenes.map(lambda values, i=index: values[i : i + 1])
        # Every second point: what a batch of shorter paths would have.
        count = one.weights.shape[1]
        if count % 2 == 0:
            continue
        short = dataclasses.replace(
            one,
            rotations=one.rotations[:, ::2],
            object_shift=one.object_shift[:, ::2],
            weights=torch.full((1, count // 2 + 1), 1 / (count // 2 + 1)),
        )
        part = slice(index, index + 1)
        alone = expose(exposures.pixels[part], short, exposures.origins[part])
        assert float((alone - light[part]).abs().mean()) < 2e-3
