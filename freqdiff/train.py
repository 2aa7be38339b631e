"""Training of the deblurrer on accelerate; a resumed run equals an uninterrupted one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, broadcast
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm

from freqdiff import memory, train_state
from freqdiff.built_pairs import pair_source
from freqdiff.checkpoint import save_model
from freqdiff.data import DataConfig, Pairs
from freqdiff.denoiser import Denoiser, Prediction
from freqdiff.errors import TrainingError
from freqdiff.info import device_name
from freqdiff.loss import training_loss
from freqdiff.model import ModelConfig
from freqdiff.processor import fast_in_bf16
from freqdiff.progress import Pace, Progress, Throughput
from freqdiff.sharding import local, shard, whole
from freqdiff.stream import Lanes, batches, steps_per_block
from freqdiff.train_config import TrainConfig, check_crops, learning_rate
from freqdiff.validation import Validation

_STATE = "state.safetensors"
_MOST_LANES = 4096
_OTHER_SHARDING = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


class Training:
    """One run in one folder: model, averaged weights, optimiser, position in the data.

    Args:
        folder: for everything that the run writes.
        data: folder of sharp photos, or None.
        model, config, data_config: network and recipe.
        validation: what is measured now and then.
        workers: processes that prepare crops; as many as the machine is likely to want if None.
        compiled: compile the network.
        built: data set of `blursynth build`, instead of the photos or mixed with what they give.
        sharded: share the weights out over the processes (FSDP) instead of copying them (DDP).

    Raises:
        TrainingError: settings that do not go together, or data that cannot be used.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        data: str | os.PathLike[str] | None,
        model: ModelConfig,
        config: TrainConfig,
        data_config: DataConfig,
        validation: Validation | None = None,
        workers: int | None = None,
        compiled: bool = False,
        built: str | os.PathLike[str] | None = None,
        sharded: bool = False,
    ) -> None:
        self.folder, self.config, self.validation = Path(folder), config, validation
        self.workers = workers
        check_crops(model, config, data_config)
        self.accelerator = Accelerator(
            log_with="tensorboard",
            project_dir=str(self.folder),
            mixed_precision="bf16" if fast_in_bf16() else "no",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        if self.accelerator.distributed_type in _OTHER_SHARDING:
            raise TrainingError(
                "accelerate is configured to share out the weights by itself: start with torchrun "
                "and give --fsdp instead."
            )
        torch.manual_seed(config.seed)
        self.model = self.build(model)
        device, processes = self.accelerator.device, self.accelerator.num_processes
        torch.backends.cudnn.benchmark = device.type == "cuda"  # all batches have one size
        self.pairs = pair_source(data, built, data_config, str(device))
        first = self.accelerator.process_index * config.accumulate
        own = range(first, first + config.accumulate)
        self.lanes = Lanes(processes * config.accumulate, own)
        if self.lanes.count > _MOST_LANES:
            raise TrainingError(
                f"{processes} processes of {config.accumulate} batches make {self.lanes.count} a "
                f"step, expected at most {_MOST_LANES}: accumulate fewer."
            )
        kinds = (("photos", data), ("pairs", built))
        kind = " and ".join(name for name, where in kinds if where is not None)
        self.settings = train_state.run_settings(model, config, data_config, kind)
        self.step = 0
        self.seconds = 0.0
        self.speed = Throughput()
        self.history: list[dict[str, float]] = []
        self._recent: list[float] = []
        self.network: Callable[..., Prediction]
        self.sharded = sharded
        if sharded and (processes == 1 or compiled):
            raise TrainingError(
                "Weights are shared out over several processes and not compiled: start --fsdp with "
                "torchrun and without --compile, or leave it out."
            )
        if sharded:
            self.model.to(device)
            shard(self.model, processes)
            self.network, self.optimizer = self.model, self._optimizer()
        else:
            self.network, self.optimizer = self.accelerator.prepare(self.model, self._optimizer())
        if compiled:
            if processes > 1:
                raise TrainingError("Compiled training runs in one process: leave out --compile.")
            # Without accelerate's wrappers, of which one process needs the autocast alone. A GPU
            # replays the launches as CUDA graphs: one by one they take longer than the work.
            forward = functools.partial(type(self.model).forward, self.model)
            mode = "reduce-overhead" if device.type == "cuda" else None
            self.network = torch.compile(forward, fullgraph=True, dynamic=False, mode=mode)
        self.ema = {k: v.detach().clone() for k, v in self.model.named_parameters()}

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.model.parameters(),
            self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=self.accelerator.device.type == "cuda",
        )

    def build(self, config: ModelConfig) -> Denoiser:
        """The network to train; a comparison with other networks replaces this and `loss`."""
        return Denoiser(config)

    def loss(self, pairs: Pairs, generator: torch.Generator) -> Tensor:
        """What a step minimises, of pairs in [-1, 1] on the device; noise is of `generator`."""
        return training_loss(
            self.network,
            self.model.config,
            self.config,
            pairs,
            generator,
            anchor_only=self._anchor_only(),
        )

    def save(self) -> None:
        """Write the state for `resume` (atomically) and the averaged weights as a model folder.

        All processes have to call it together; the main one writes.
        """
        if not (self.sharded or self.accelerator.is_main_process):
            return
        tensors = train_state.gather(self.model, self.ema, self.optimizer)
        averaged = self.averaged()
        if not self.accelerator.is_main_process:
            return
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "settings": self.settings,
            "history": self.history,
            "lanes": [self.lanes.count, self.lanes.step, self.lanes.block],
            "speed": [self.speed.crops, self.speed.seconds],
        }
        train_state.write(self.folder / _STATE, tensors, facts)
        save_model(self.folder / "model", averaged, self.facts())

    def resume(self) -> bool:
        """Continue from the folder's state; False if there is none.

        With another number of processes or of accumulated batches than before, the data goes on
        behind what all processes have seen. If their product is the same, so are the pairs.

        Raises:
            TrainingError: the state is of a run with other settings, or damaged.
        """
        path = self.folder / _STATE
        if not path.is_file():
            return False
        tensors, facts = train_state.read(path)
        if not train_state.same_settings(facts.get("settings"), self.settings):
            raise TrainingError(
                f"{path} was written by a run with other settings; "
                "give the same settings, or another folder for a new run."
            )
        train_state.spread(tensors, self.model, self.ema, self.optimizer)
        self.step = int(facts["step"])
        self.seconds = float(facts["seconds"])
        self.history = facts["history"]
        self.speed = Throughput(*facts.get("speed", ()))
        count, step, block = facts.get("lanes", (self.lanes.count, 0, 0))
        if count != self.lanes.count:
            rounds = -(-(self.step - step) // steps_per_block(self.pairs.config, self.config.batch))
            step, block = self.step, block + rounds * count
        self.lanes = dataclasses.replace(self.lanes, step=step, block=block)
        return True

    def start_from(self, weights: Denoiser) -> str:
        """Begin with the weights of another model: with all, or with those of its blur estimator.

        Returns:
            "weights", or "blur estimator" where only that has the same architecture.

        Raises:
            TrainingError: the architectures differ.
        """
        return train_state.take_weights(self.model, self.ema, weights)

    def averaged(self) -> Denoiser:
        """A copy of the model with the averaged weights, on the CPU.

        With shared out weights all processes have to ask for it together.
        """
        model = self.build(self.model.config)
        model.load_state_dict({k: whole(v) for k, v in self.ema.items()})
        return model.eval()

    def facts(self) -> dict[str, Any]:
        """What `config.json` says about the training."""
        return {
            "steps": self.step,
            "seconds": round(self.seconds),
            "device": device_name(self.accelerator.device),
            "processes": self.accelerator.num_processes,
            "crops_per_step": self.config.batch * self.lanes.count,
            "crops_per_second": self.speed.mean(),
            "settings": self.settings,
            "history": self.history,
        }

    @memory.keeping()
    def run(
        self, *, seconds: float = math.inf, finish: bool = False, progress: bool = True
    ) -> None:
        """Train until `config.steps`, or for a time budget; then save.

        Args:
            seconds: the time budget.
            finish: make the linear schedule as long as the time allows, so that it ends then.
            progress: show a bar or, where there is no terminal, print a line now and then.

        Raises:
            TrainingError: the loss became infinite or exploded; the last state stays as it was.
        """
        self.accelerator.init_trackers("tensorboard")
        start, earlier, timed = time.monotonic(), self.seconds, math.isfinite(seconds)
        stream, pace = self._batches(), Pace(seconds)
        talks = progress and self.accelerator.is_main_process
        shown = Progress(self.step, self.config.steps, talks)
        elapsed = 0.0
        some: list[Pairs] | None = None
        while self.step < self.config.steps and elapsed < seconds:
            begun = time.monotonic()
            some = some or next(stream)
            crops = sum(len(pairs.psf) for pairs in some) * self.accelerator.num_processes
            total = self._advance(some)
            # The next pairs are made while a GPU works on these.
            some = next(stream) if self.step < self.config.steps else None
            self._check(loss := float(total))
            self.speed.add(crops, time.monotonic() - begun)
            elapsed = self._common(time.monotonic() - start) if timed else 0.0
            self.seconds = earlier + time.monotonic() - start
            if self.step % 20 == 0:
                speed, lr = self.speed.recent(), learning_rate(self.config, self.step)
                shown.update(self.step, self.config.steps, loss, speed)
                values = {"loss": loss, "learning_rate": lr, "crops_per_second": speed}
                self.accelerator.log(values, self.step)
            kind = self._times_as_many(), self._anchor_only()
            if finish and (steps := pace.plan(self.step, elapsed, self._falls(), kind)):
                self.config = dataclasses.replace(self.config, steps=steps)
            if self.step % self.config.validate_every == 0:
                self._validate()
            if self.step % self.config.save_every == 0:
                self.save()
        shown.close()
        self.seconds = earlier + time.monotonic() - start
        self.save()
        self.accelerator.end_training()

    def _batches(self) -> Iterator[list[Pairs]]:
        """What this process learns from in each step, from the present one on."""
        # A GPU blurs by itself but wants many crops; a CPU has its cores for the network.
        default = min(12, os.cpu_count() or 1) if self.accelerator.device.type == "cuda" else 1
        workers = default if self.workers is None else self.workers
        while True:
            times = self._times_as_many()
            source = self.pairs if times == 1 else self.pairs.halved(times)
            stream = batches(source, times * self.config.batch, self.step, workers, self.lanes)
            while times == self._times_as_many():
                yield [next(stream) for _ in self.lanes.own]

    def _times_as_many(self) -> int:
        """By what factor a batch has more crops in the present step; above 1, of half the side."""
        if not self.config.progressive or self._falls():
            return 1
        return 4 if self._anchor_only() else 2

    def _falls(self) -> bool:
        """Whether the present step belongs to the last ones, in which the learning rate falls."""
        return self.step >= (1 - self.config.decay_share) * self.config.steps

    def _anchor_only(self) -> bool:
        """Whether the blur estimator learns alone in the present step."""
        steps = min(self.config.anchor_steps, self.config.steps // 4)
        return self.model.blur is not None and self.step < steps

    def _common(self, seconds: float) -> float:
        """The main process's time, so that all processes decide alike."""
        if self.accelerator.num_processes == 1:
            return seconds
        value = torch.tensor(seconds, dtype=torch.float64, device=self.accelerator.device)
        return float(broadcast(value))

    def _advance(self, some: list[Pairs]) -> Tensor:
        """One step of the optimiser with this process's batches.

        Returns:
            The mean loss of all processes, on the device, which may still be working on it.
        """
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.accelerator.device)
        for lane, pairs in zip(self.lanes.own, some, strict=True):
            with self._gathering(last=lane == self.lanes.own[-1]):
                loss = self._loss(pairs, lane) / len(some)
                self.accelerator.backward(loss)
            total += loss.detach()
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        if self.accelerator.num_processes > 1:
            # All see the same loss, so that all stop where it is not finite.
            total = self.accelerator.reduce(total, "mean")
        self.optimizer.step()
        self.step += 1
        decay = min(config.ema, self.step / (self.step + 10))
        with torch.no_grad():
            averages = [local(value) for value in self.ema.values()]
            weights = [local(value) for value in self.model.parameters()]
            torch._foreach_lerp_(averages, weights, 1 - decay)
        return total

    def _loss(self, pairs: Pairs, lane: int) -> Tensor:
        pairs = Pairs(*(values.to(self.accelerator.device) for values in pairs))
        seed = (self.config.seed * 1_000_003 + self.step) * _MOST_LANES + lane
        with self.accelerator.autocast():
            return self.loss(pairs, torch.Generator().manual_seed(seed))

    def _gathering(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients stay in their process until the last batch of a step."""
        if self.sharded:
            assert isinstance(self.model, FSDPModule)
            self.model.set_requires_gradient_sync(last)
        elif not last:
            kept: contextlib.AbstractContextManager[Any] = self.accelerator.no_sync(self.network)
            return kept
        return contextlib.nullcontext()

    def _check(self, loss: float) -> None:
        self._recent = [*self._recent[-199:], loss]
        typical = sorted(self._recent)[len(self._recent) // 2]
        recent = self._recent[-20:]
        exploded = len(self._recent) == 200 and sum(recent) / len(recent) > 20 * typical
        if not math.isfinite(loss) or exploded:
            raise TrainingError(
                f"Training diverged at step {self.step} (loss {loss:.3g}, typically {typical:.3g}):"
                f" the last state in {self.folder} is intact; lower the learning rate and resume."
            )

    def _validate(self) -> None:
        if self.validation is None or not (self.sharded or self.accelerator.is_main_process):
            return
        model = self.averaged().to(self.accelerator.device)
        if not self.accelerator.is_main_process:
            return
        result = self.validation.measure(model, self.folder / f"val_{self.step:07d}.png")
        self.accelerator.log({f"validation/{k}": v for k, v in result.items()}, self.step)
        speed = {"crops_per_second": self.speed.mean()}
        self.history.append({"step": self.step, "seconds": round(self.seconds), **speed, **result})
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.history[-1]) + "\n")
        tqdm.write(json.dumps(self.history[-1]))
