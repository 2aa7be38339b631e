"""Training of the plain GAN: unpaired sharp and real blurred photos, hinge loss, R1, low-band loss.

A resumed run equals an uninterrupted one: step k is a function of (seed, k) and the state.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from blursynth.build_plan import list_photos
from blursynth.collapse import RECENT, collapsed, means
from blursynth.gan import Discriminator, Generator, GeneratorConfig, draw_noise, save_generator
from blursynth.photo_crops import Crops
from blursynth.training_state import (
    load_optimizer,
    optimizer_tensors,
    put,
    read_state,
    take,
    write_state,
)
from freqdiff import memory
from freqdiff.errors import InputError, TrainingError

_LOW_BAND = 16


@dataclasses.dataclass(frozen=True)
class GanConfig:
    """Recipe of a training run.

    Attributes:
        steps: of the whole run.
        batch: crops of each kind per step.
        crop: their side in pixels, a multiple of 16.
        learning_rate: of both networks (Adam, betas 0 and 0.99).
        r1, r1_every: weight of the gradient penalty on real photos (Mescheder et al. 2018), and
            steps from one to the next.
        content: weight of the L1 distance of means of 16x16 px from those of the sharp photo.
        ema: decay of the averaged weights, which are the ones that are saved.
        save_every: steps between saved states.
        seed: of weights, crops and noise.
        generator: what is trained, and the scale of the photos.
    """

    steps: int = 1500
    batch: int = 8
    crop: int = 128
    learning_rate: float = 6e-4
    r1: float = 0.05
    r1_every: int = 8
    content: float = 10.0
    ema: float = 0.995
    save_every: int = 250
    seed: int = 0
    generator: GeneratorConfig = dataclasses.field(default_factory=GeneratorConfig)


class GanTraining:
    """One run in one folder: both networks, averaged weights, optimisers, history."""

    def __init__(self, folder: Path, sharp: Crops, real: Crops, config: GanConfig) -> None:
        if config.crop % _LOW_BAND:
            raise InputError(
                f"Expected crops of a multiple of {_LOW_BAND} px, got {config.crop}: choose one."
            )
        self.folder, self.sharp, self.real, self.config = folder, sharp, real, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.generator, self.discriminator = Generator(config.generator), Discriminator()
        self.networks = nn.ModuleDict(
            {"generator": self.generator, "discriminator": self.discriminator}
        )
        self.averaged = copy.deepcopy(self.generator).requires_grad_(False)
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), config.learning_rate, betas=(0.0, 0.99))
            for name, network in self.networks.items()
        }
        settings = dataclasses.asdict(config) | {"sharp": sharp.names, "real": real.names}
        del settings["steps"], settings["save_every"]
        self.settings = json.dumps(settings, sort_keys=True)
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._recent: list[dict[str, float]] = []

    @memory.keeping()
    def run(self, *, progress: bool = True) -> None:
        """Train until `config.steps`, then save.

        Raises:
            TrainingError: one of the networks collapsed; the last saved state stays as it was.
        """
        bar = tqdm(
            total=self.config.steps, initial=self.step, unit="step", disable=None if progress else 1
        )
        with bar:
            while self.step < self.config.steps:
                self._check(self.advance())
                bar.update()
                if self.step % 50 == 0:
                    self.history.append({"step": self.step, **means(self._recent[-50:])})
                    bar.set_postfix({k: f"{v:.3f}" for k, v in self.history[-1].items()})
                if self.step % self.config.save_every == 0:
                    self.save()
        self.save()

    def advance(self) -> dict[str, float]:
        """One step of the discriminator and one of the generator; returns the losses."""
        config = self.config
        rng = np.random.default_rng([config.seed, self.step])
        sharp, real = (crops.draw(rng, config.batch) for crops in (self.sharp, self.real))
        source = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = draw_noise(config.batch, (config.crop, config.crop), source)
        made = self.generator(sharp, noise)

        penalised = self.step % config.r1_every == 0
        real.requires_grad_(penalised)
        scores = self.discriminator(real)
        hinge = F.relu(1 - scores).mean() + F.relu(1 + self.discriminator(made.detach())).mean()
        loss = hinge
        if penalised:
            (slope,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
            # Of one patch, as the gradients of many add up.
            steepness = slope.square().sum() / scores.numel()
            loss = loss + 0.5 * config.r1 * config.r1_every * steepness
        self._improve("discriminator", loss)

        self.discriminator.requires_grad_(False)
        adversarial = -self.discriminator(made).mean()
        self.discriminator.requires_grad_(True)
        content = (F.avg_pool2d(made, _LOW_BAND) - F.avg_pool2d(sharp, _LOW_BAND)).abs().mean()
        self._improve("generator", adversarial + config.content * content)
        self.step += 1
        decay = min(config.ema, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(
                self.averaged.parameters(), self.generator.parameters(), strict=True
            ):
                mean.lerp_(value, 1 - decay)
        change = (made.detach() - sharp).square().mean().sqrt()
        return {
            "discriminator": float(hinge.detach()),
            "generator": float(adversarial.detach()),
            "content": float(content.detach()),
            "change": float(change),
        }

    def _improve(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _check(self, losses: dict[str, float]) -> None:
        self._recent = [*self._recent[1 - RECENT :], losses]
        if (what := collapsed(self._recent)) is not None:
            raise TrainingError(
                f"Training diverged at step {self.step}: {what}; give another seed or more photos."
            )

    def save(self) -> None:
        """Write the generator with averaged weights, and the state for `resume`.

        Raises:
            OutputError: the folder cannot be written.
        """
        facts = {"steps": self.step, **json.loads(self.settings), "history": self.history}
        save_generator(self.folder, self.averaged, facts)
        tensors = put("network", self.networks.state_dict())
        tensors |= put("average", self.averaged.state_dict())
        for name, optimizer in self.optimizers.items():
            tensors |= put(name, optimizer_tensors(optimizer))
        facts = {"step": self.step, "history": self.history, "recent": self._recent}
        write_state(self.folder, tensors, self.settings, facts)

    def resume(self) -> bool:
        """Go on from the folder's state; False if there is none.

        Raises:
            TrainingError: the state is of a run with other settings or photos, or damaged.
        """
        state = read_state(self.folder, self.settings)
        if state is None:
            return False
        tensors, facts = state
        self.networks.load_state_dict(take("network", tensors))
        self.averaged.load_state_dict(take("average", tensors))
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, take(name, tensors))
        self.step, self.history, self._recent = (facts[k] for k in ("step", "history", "recent"))
        return True


def train_gan(
    sharp_folder: str | os.PathLike[str],
    real_folder: str | os.PathLike[str],
    output_folder: str | os.PathLike[str],
    config: GanConfig,
    *,
    hold_out: bool = False,
    progress: bool = True,
) -> GanTraining:
    """Train a generator, or go on with the run that the output folder holds.

    Args:
        sharp_folder, real_folder: sharp photos and real blurred ones, of anything.
        output_folder: gets `generator.safetensors`, `config.json` and the state of the run.
        config: how to train.
        hold_out: leave out every second real photo, to measure with (see `config.json`, "real").
        progress: show a bar where stderr is a terminal.

    Returns:
        The finished run.

    Raises:
        InputError: a folder holds no photo that is large enough, or one that cannot be read.
        TrainingError: the run diverged, or the folder holds one of other settings.
        OutputError: the output folder cannot be written.
    """
    output = Path(output_folder)
    sharp, real = Path(sharp_folder), Path(real_folder)
    sharp_names, real_names = (
        list_photos(one, leave_out=output.resolve()) for one in (sharp, real)
    )
    real_names = real_names[:: 2 if hold_out else 1]
    side, long_side = config.crop, config.generator.long_side
    training = GanTraining(
        output,
        Crops(sharp, sharp_names, side, long_side),
        Crops(real, real_names, side, long_side),
        config,
    )
    training.resume()
    training.run(progress=progress)
    return training
