"""The compared networks train as FreqDiff does: the same pairs and loss, resumed exactly."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_peers import SMALL
from toys import SMALL_PAIRS, TOY, photo, write_photos

from benchmarks.peers import training
from benchmarks.peers.catalog import PEERS
from benchmarks.peers.training import PeerConfig, PeerTraining, TrainedPeer, load_peer
from freqdiff.data import Pairs
from freqdiff.denoiser import Prediction
from freqdiff.errors import ModelError
from freqdiff.loss import training_loss
from freqdiff.train import TrainConfig, Training
from freqdiff.validation import Validation

RECIPE = TrainConfig(steps=6, batch=4, warmup=2, save_every=3, validate_every=1000)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


def begin(folder: Path, photos: Path, name: str, recipe: TrainConfig = RECIPE) -> PeerTraining:
    return PeerTraining(folder, photos, PeerConfig(name, SMALL[name]), recipe, SMALL_PAIRS)


def watch(run: Training, until: int | None = None) -> list[tuple[torch.Tensor, float]]:
    """Train, and die before step `until`; returns the blurred crops and the losses."""
    seen, advance = [], run._advance

    def watched(some: list[Pairs]) -> torch.Tensor:
        if run.step == until:
            raise KeyboardInterrupt
        total = advance(some)
        seen.append((some[0].blurred.clone(), float(total)))
        return total

    run._advance = watched
    try:
        run.run(progress=False)
    except KeyboardInterrupt:
        assert until is not None
    return seen


@pytest.mark.parametrize("name", ["nafnet", "mprnet"])
def test_interrupted_and_resumed_is_uninterrupted(name: str, photos: Path, tmp_path: Path) -> None:
    whole = watch(begin(tmp_path / "whole", photos, name))
    watch(begin(tmp_path / "parts", photos, name), until=5)
    second = begin(tmp_path / "parts", photos, name)
    assert second.resume()
    assert second.step == 3
    rest = watch(second)
    assert [loss for _, loss in rest] == [loss for _, loss in whole[3:]]
    states = [load_file(tmp_path / part / "state.safetensors") for part in ("whole", "parts")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    found, network = load_peer(tmp_path / "parts" / "model")
    assert found == name
    key, value = next(iter(network.named_parameters()))
    assert torch.equal(value, states[1][f"ema.network.{key}"].half().float())


def test_peers_see_the_pairs_that_freqdiff_sees(photos: Path, tmp_path: Path) -> None:
    ours = watch(Training(tmp_path / "ours", photos, TOY, RECIPE, SMALL_PAIRS))
    theirs = watch(begin(tmp_path / "theirs", photos, "nafnet"))
    assert len(ours) == len(theirs) == 6
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(ours, theirs, strict=True))


def test_loss_is_that_of_one_step_over_all_stages(photos: Path, tmp_path: Path) -> None:
    run = begin(tmp_path, photos, "mprnet")
    sharp = torch.stack([photo(32, 32), photo(32, 32, "coffee")]) * 2 - 1
    pairs = Pairs(sharp.roll(1, 3), sharp, torch.zeros(2, 33, 33), torch.zeros(2, 6))
    loss = run.loss(pairs, torch.Generator().manual_seed(0))
    config = dataclasses.replace(RECIPE, terminal_share=1.0)
    each = [
        training_loss(
            lambda *_, stage=stage: Prediction(pairs.blurred, None, stage),
            TOY,
            config,
            pairs,
            torch.Generator().manual_seed(1),
        )
        for stage in run.model(pairs.blurred)
    ]
    assert len(each) == 3
    assert torch.allclose(loss, torch.stack(each).mean())


def test_loss_falls(photos: Path, tmp_path: Path) -> None:
    changes = {"learning_rate": 3e-3, "relative_floor": 4.0}
    recipe = dataclasses.replace(RECIPE, steps=30, save_every=1000, **changes)
    run = PeerTraining(
        tmp_path,
        photos,
        PeerConfig("nafnet", SMALL["nafnet"]),
        recipe,
        dataclasses.replace(SMALL_PAIRS, reuse=100),
    )
    losses = [loss for _, loss in watch(run)]
    assert sum(losses[-8:]) < 0.95 * sum(losses[:8])


def test_validation_measures_a_peer(photos: Path) -> None:
    model = TrainedPeer(PeerConfig("nafnet", SMALL["nafnet"])).eval()
    with torch.no_grad():
        model.network.outro.weight.zero_()
        model.network.outro.bias.zero_()
    result = Validation(photos, count=2, crop=32).measure(model)
    assert result["gain"] == 0


def test_command_in_miniature_and_again(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = dataclasses.replace(PEERS["restormer"], config=SMALL["restormer"])
    monkeypatch.setitem(training.PEERS, "restormer", small)
    command = "training --peer restormer --steps 2 --batch 2 --crop 32 --device cpu"
    where = ["--data", str(photos), "--output", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", [*command.split(), *where])
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    training.main()
    training.main()
    out = capsys.readouterr().out
    assert "restormer starts" in out
    assert "restormer goes on at step 2" in out
    name, network = load_peer(tmp_path / "run" / "model")
    assert name == "restormer"
    assert network(torch.rand(1, 3, 20, 30)).shape == (1, 3, 20, 30)


def test_folders_that_hold_no_peer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no network"):
        load_peer(tmp_path)
    (tmp_path / "config.json").write_text('{"model": {"name": "tiny"}, "sha256": {}}')
    with pytest.raises(ModelError, match="holds no network"):
        load_peer(tmp_path)
