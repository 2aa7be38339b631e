"""Trains a compared architecture exactly as `freqdiff train` trains FreqDiff.

`python -m benchmarks.peers.training --peer nafnet --data PHOTOS --output runs/nafnet`

The same stream of pairs, steps, crops, optimiser, schedule, averaging, precision and exact resume;
the loss is that of one step of FreqDiff from pure noise, where it is plain regression, as the mean
over the results that the paper compares with the truth.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.catalog import PEERS
from benchmarks.peers.peer import Peer
from blursynth.recipes import RECIPES
from freqdiff.checkpoint import most_bytes, read_shard
from freqdiff.data import DataConfig, Pairs
from freqdiff.denoiser import Prediction
from freqdiff.diffusion import Objective
from freqdiff.errors import ModelError
from freqdiff.loss import training_loss
from freqdiff.model import ModelConfig
from freqdiff.train import Training
from freqdiff.train_config import TrainConfig
from freqdiff.validation import Validation


@dataclasses.dataclass(frozen=True)
class PeerConfig:
    """A compared network, in what a training asks of a model's configuration.

    Attributes:
        name: key of `PEERS`.
        network: its configuration.
        objective, residual_std: of the loss, those of FreqDiff.
        alignment: any crop will do.
        camera: settings are not told.
    """

    name: str
    network: Any
    objective: Objective = "anchored"
    residual_std: float = ModelConfig.residual_std
    alignment: int = 1
    camera: bool = False


class TrainedPeer(nn.Module):
    """A compared network behind the methods of `Denoiser` that training and validation use.

    It knows no noise: whatever x_t and t are, it sees the blurred photo alone.
    """

    blur = None

    def __init__(self, config: PeerConfig) -> None:
        super().__init__()
        self.config = config
        self.network: Peer = PEERS[config.name].network(config.network)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, y: Tensor) -> tuple[Tensor, ...]:
        """Results of all stages for y (B, 3, H, W), all in [-1, 1]."""
        return tuple(2 * stage - 1 for stage in self.network.restore((y + 1) / 2))

    def condition(self, y: Tensor) -> Tensor:
        """What `denoise` needs of the blurred photo."""
        return y

    def denoise(self, _x_t: Tensor, _t: Tensor, y: Tensor) -> Tensor:
        """The sharp photo, in [-1, 1]."""
        result: Tensor = self(y)[-1]
        return result


class PeerTraining(Training):
    """A training of `TrainedPeer`; see `Training`."""

    def build(self, config: PeerConfig) -> TrainedPeer:  # type: ignore[override]
        """See `Training`."""
        return TrainedPeer(config)

    def loss(self, pairs: Pairs, generator: torch.Generator) -> Tensor:
        """The loss of FreqDiff where x_t is pure noise, over all stages."""
        stages = self.network(pairs.blurred)
        assert isinstance(stages, tuple)
        every = Pairs(*(torch.cat([values] * len(stages)) for values in pairs))
        prediction = Prediction(every.blurred, None, torch.cat(stages))
        config = dataclasses.replace(self.config, terminal_share=1.0)
        return training_loss(lambda *_: prediction, self.model.config, config, every, generator)


def load_peer(folder: Path) -> tuple[str, Peer]:
    """Name and network of a folder that a training wrote, in evaluation mode.

    Raises:
        ModelError: no such folder, or a damaged one.
    """
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings = content["model"]
        entry = PEERS[settings["name"]]
        network = {
            k: tuple(v) if isinstance(v, list) else v for k, v in settings["network"].items()
        }
        model = TrainedPeer(PeerConfig(settings["name"], type(entry.config)(**network)))
        digests = dict(content["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} holds no network of benchmarks.peers: {error}.") from error
    tensors: dict[str, Tensor] = {}
    for name, digest in digests.items():
        tensors |= read_shard(folder / name, digest, most_bytes(model))
    try:
        model.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        raise ModelError(f"The weights in {folder} are of another network.") from error
    return settings["name"], model.network.eval().requires_grad_(False)


def main() -> None:
    """Train, or go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--peer", required=True, choices=tuple(PEERS))
    add("--data", required=True, metavar="DIR", help="sharp photos")
    add("--output", required=True, metavar="DIR", help="state and model")
    add("--val", metavar="DIR", help="sharp photos for validation")
    add("--steps", type=int, default=TrainConfig.steps)
    add("--batch", type=int, default=TrainConfig.batch)
    add("--crop", type=int, default=DataConfig.crop)
    add("--blur", choices=tuple(RECIPES), default="physics_full")
    add("--learning-rate", type=float, default=TrainConfig.learning_rate)
    add("--minutes", type=float, default=math.inf, help="stop after this time")
    add("--finish", action="store_true", help="plan as many steps as --minutes allow")
    add("--compile", action="store_true")
    add("--workers", type=int)
    add("--seed", type=int, default=0)
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    recipe = TrainConfig(
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    data = DataConfig(crop=options.crop, seed=options.seed, recipe=RECIPES[options.blur])
    training = PeerTraining(
        options.output,
        options.data,
        PeerConfig(options.peer, PEERS[options.peer].config),
        recipe,
        data,
        None if options.val is None else Validation(options.val),
        options.workers,
        options.compile,
    )
    resumed = training.resume()
    where = f"goes on at step {training.step}" if resumed else "starts"
    print(f"Training of {options.peer} {where} on {training.accelerator.device}.", flush=True)
    training.run(seconds=60 * options.minutes, finish=options.finish)


if __name__ == "__main__":
    main()
