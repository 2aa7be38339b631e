"""Training of the diffusion engine on accelerate, whatever the stage.

A resumed run equals an uninterrupted one: step k is a function of (seed, k), of the number of the
process and of the state.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from tqdm import tqdm

from blursynth.collapse import RECENT, means
from blursynth.diffusion_stage import Loss, Stage
from blursynth.diffusion_stream import Batch, Stream, batches
from blursynth.training_state import (
    load_optimizer,
    optimizer_tensors,
    put,
    read_state,
    take,
    write_state,
)
from freqdiff import memory
from freqdiff.atomic import make_folder
from freqdiff.errors import OutputError, TrainingError
from freqdiff.photo import Photo, write_photo
from freqdiff.processor import fast_in_bf16
from freqdiff.progress import Pace, Progress, Throughput

MODEL = "model"
"""Folder of the result, in that of the run."""
_TOLD_STEPS = 20


class DiffusionTraining:
    """One run of a stage in one folder.

    Args:
        folder: gets the state, the result, validation pictures and logs.
        stage: what is trained.
        stream: of this process.
        checks: whose first batch validates.
        accelerator: of `make_accelerator`.
        workers: processes that prepare crops; None: as many as make sense.
        compile: make U-Net and ControlNet faster by `torch.compile`, which takes minutes first.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        stage: Stage,
        stream: Stream,
        checks: Stream,
        accelerator: Accelerator,
        workers: int | None = None,
        compile: bool = False,
    ) -> None:
        self.folder, self.stage, self.config, self.stream = folder, stage, stage.config, stream
        self.accelerator = accelerator
        device = self.accelerator.device
        stage.pipeline.to(device)
        for module in stage.others:
            module.to(device)
        small = stage.pipeline.config.change_scale is not None
        for module in (stage.pipeline.unet, stage.pipeline.controlnet):
            if small and device.type == "cpu":
                # A step of 1.05 s takes 0.70 s on two cores.
                module.set_attn_processor(AttnProcessor())
                module.to(memory_format=torch.channels_last)
            if compile:
                module.compile(dynamic=False)
        self.learning = next(iter(stage.networks.values()))
        self.ema = {k: v.detach().clone() for k, v in self.learning.items()}
        self.optimizers = {
            name: torch.optim.Adam(
                weights.values(), self.config.learning_rate, self.config.betas, fused=True
            )
            for name, weights in stage.networks.items()
        }
        self.check_batch = checks[0].blur(device)
        gpu = device.type == "cuda"
        self.workers = (min(12, os.cpu_count() or 1) if gpu else 0) if workers is None else workers
        told = {**dataclasses.asdict(self.config), "stage": stage.name, **stage.settings}
        for name in ("steps", "save_every", "validate_every"):
            del told[name]
        told["sharp"] = stream.sharp.names
        told["real"] = () if stream.real is None else stream.real.names
        told["processes"] = self.accelerator.num_processes
        self.settings = json.dumps(told, sort_keys=True)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self._recent: list[dict[str, float]] = []
        self._talks = False
        make_folder(folder)

    @memory.keeping()
    def run(
        self, *, seconds: float = math.inf, finish: bool = False, progress: bool = True
    ) -> None:
        """Train until `config.steps`, or for a time budget; then save.

        Args:
            seconds: the time budget.
            finish: make the schedule as long as the time allows, so that it ends then.
            progress: show a bar or, where there is no terminal, print a line now and then.

        Raises:
            TrainingError: a loss became infinite or exploded, or a network collapsed; the last
                state stays as it was.
            OutputError: the folder cannot be written.
        """
        self.accelerator.init_trackers("tensorboard")
        start, earlier, pace = time.monotonic(), self.seconds, Pace(seconds)
        stream = batches(self.stream, self.step, self.accelerator.device, self.workers)
        self._talks = progress and self.accelerator.is_main_process
        shown, speed = Progress(self.step, self.config.steps, self._talks), Throughput()
        crops = self.config.batch * self.accelerator.num_processes
        elapsed = 0.0
        while self.step < self.config.steps and elapsed < seconds:
            before = elapsed
            told = self._advance(next(stream))
            elapsed = self._common(time.monotonic() - start)
            speed.add(crops, elapsed - before)
            self.seconds = earlier + elapsed
            if self.step % _TOLD_STEPS == 0:
                loss, rate = next(iter(told.values())), speed.recent()
                shown.update(self.step, self.config.steps, loss, rate)
                more = {"rate": self.config.rate(self.step), "crops_per_s": rate}
                self.accelerator.log({**told, **more}, self.step)
            falls = self.step >= (1 - self.config.decay_share) * self.config.steps
            if finish and (steps := pace.plan(self.step, elapsed, falls)):
                self.config = dataclasses.replace(self.config, steps=steps)
            if self.step % self.config.validate_every == 0:
                self.validate()
            if self.step % self.config.save_every == 0:
                self.save()
        shown.close()
        if not self.history or self.history[-1]["step"] < self.step:
            self.validate()
        self.save()
        self.accelerator.end_training()

    def _common(self, seconds: float) -> float:
        """The main process's time, so that all processes decide alike."""
        if self.accelerator.num_processes == 1:
            return seconds
        value = torch.tensor(seconds, dtype=torch.float64, device=self.accelerator.device)
        return float(broadcast(value))

    def _advance(self, batch: Batch) -> dict[str, float]:
        seed = [self.config.seed, self.step, self.accelerator.process_index]
        noise = torch.Generator().manual_seed(_hash(seed))
        losses = self.stage.losses(batch, self.step, noise)
        told: dict[str, float] = {}
        while True:
            with self.accelerator.autocast():
                loss = next(losses, None)
            if loss is None:
                break
            told |= {name: float(value) for name, value in loss.told.items()}
            self._check(told)
            self._improve(loss)
        self._recent = [*self._recent[1 - RECENT :], told]
        self.step += 1
        if (why := self.stage.stopped(self._recent)) is not None:
            self._diverged(why)
        decay = min(self.config.ema, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), list(self.learning.values()), 1 - decay)
        return told

    def _improve(self, loss: Loss) -> None:
        optimizer = self.optimizers[loss.network]
        weights = list(self.stage.networks[loss.network].values())
        for group in optimizer.param_groups:
            group["lr"] = loss.pace * self.config.rate(self.step)
        optimizer.zero_grad()
        self.accelerator.backward(loss.value)
        if self.accelerator.num_processes > 1:
            _average_gradients(self.accelerator, weights)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()

    def _check(self, told: dict[str, float]) -> None:
        """Stop before a step that would spoil the weights."""
        if not all(map(math.isfinite, told.values())):
            self._diverged("a loss is not finite")
        name = next(iter(told))
        losses = sorted(one[name] for one in self._recent)
        typical = losses[len(losses) // 2] if losses else 0.0
        latest = [one[name] for one in self._recent[-20:]]
        if len(losses) == RECENT and sum(latest) / len(latest) > 20 * max(typical, 1e-3):
            self._diverged(f"{name} rose from {typical:.3g} to {latest[-1]:.3g}")

    def _diverged(self, why: str) -> None:
        raise TrainingError(
            f"Training diverged at step {self.step}: {why}; the last state in "
            f"{str(self.folder)!r} is intact, so try another seed, more photos or a lower rate."
        )

    def validate(self) -> None:
        """Measure the averaged weights, and write a picture and a line of history.jsonl."""
        if not self.accelerator.is_main_process:
            return
        # Other shapes than those of the steps, not worth compiling for.
        eager = torch.compiler.set_stance("force_eager")
        with eager, self.averaged(), torch.no_grad(), self.accelerator.autocast():
            numbers, pictures = self.stage.validate(self.check_batch)
        numbers = {name: round(value, 5) for name, value in numbers.items()}
        self.accelerator.log({f"validation/{k}": v for k, v in numbers.items()}, self.step)
        # One row for each photo.
        sheet = torch.cat([torch.cat(list(one), 1) for one in pictures], 2)
        pixels = (sheet.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        write_photo(self.folder / f"validation_{self.step:07d}.png", Photo(pixels))
        row = {"step": self.step, "seconds": round(self.seconds), **means(self._recent), **numbers}
        self.history.append(row)
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if self._talks:
            tqdm.write(json.dumps(row))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Lend the averaged weights to the pipeline."""
        with torch.no_grad():
            own = {name: value.clone() for name, value in self.learning.items()}
            _copy(self.ema, self.learning)
            try:
                yield
            finally:
                _copy(own, self.learning)

    def save(self) -> None:
        """Write the state for `resume`, and the result with averaged weights.

        Raises:
            OutputError: the folder cannot be written.
        """
        if not self.accelerator.is_main_process:
            return
        tensors = put("average", self.ema)
        for name, weights in self.stage.networks.items():
            tensors |= put(f"weights.{name}", weights)
            tensors |= put(f"moments.{name}", optimizer_tensors(self.optimizers[name]))
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "recent": self._recent,
        }
        write_state(self.folder, tensors, self.settings, facts)
        try:
            with self.averaged():
                self.stage.save(self.folder / MODEL, self.check_batch)
            del facts["recent"]
            facts["settings"] = json.loads(self.settings)
            text = json.dumps(facts, indent=1) + "\n"
            (self.folder / MODEL / "training.json").write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"Cannot write the result to {str(self.folder)!r} ({error.strerror or error}): "
                "free some space, or choose another folder."
            ) from error

    def resume(self) -> bool:
        """Go on from the folder's state; False if there is none.

        Raises:
            TrainingError: the state is of a run with other settings or photos, or damaged.
        """
        state = read_state(self.folder, self.settings)
        if state is None:
            return False
        tensors, facts = state
        with torch.no_grad():
            _copy(take("average", tensors), self.ema)
            for name, weights in self.stage.networks.items():
                _copy(take(f"weights.{name}", tensors), weights)
                load_optimizer(self.optimizers[name], take(f"moments.{name}", tensors))
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.history, self._recent = facts["history"], facts["recent"]
        return True


def make_accelerator(folder: Path) -> Accelerator:
    """In bfloat16 where that is fast."""
    return Accelerator(
        log_with="tensorboard",
        project_dir=str(folder),
        mixed_precision="bf16" if fast_in_bf16() else "no",
    )


def _average_gradients(accelerator: Any, weights: list[nn.Parameter]) -> None:
    """The mean over all processes, in one message."""
    parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    flat = accelerator.reduce(torch.cat([part.flatten() for part in parts]), "mean")
    for weight, part in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
        weight.grad = part.view_as(weight)


def _copy(source: dict[str, Any], target: dict[str, Any]) -> None:
    for name, value in target.items():
        value.copy_(source[name])


def _hash(numbers: list[int]) -> int:
    """A seed of its own for each tuple of numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number) % 2**63
    return seed
