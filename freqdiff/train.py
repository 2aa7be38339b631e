"""Training of the deblurrer on accelerate; a resumed run equals an uninterrupted one."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import broadcast
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from freqdiff.atomic import write_atomically
from freqdiff.checkpoint import save_model
from freqdiff.data import DataConfig, PairBlocks, Pairs, batches
from freqdiff.denoiser import Denoiser, Prediction
from freqdiff.errors import TrainingError
from freqdiff.info import cpu_features, device_name
from freqdiff.loss import training_loss
from freqdiff.model import ModelConfig
from freqdiff.progress import Progress
from freqdiff.train_config import TrainConfig, learning_rate
from freqdiff.validation import Validation

_STATE = "state.safetensors"
_RATE_STEPS = 100
"""Steps between two looks at the speed."""
_KEPT_BACK = 0.97
"""Share of the time left that is planned with; validations take some."""


def _fast_in_bf16() -> bool:
    """On a GPU, and on CPUs with AMX: 1.7 times as fast there (tiny, 8 crops of 256 px)."""
    on_cpu = os.environ.get("ACCELERATE_USE_CPU") == "true" or not torch.cuda.is_available()
    return "amx_bf16" in cpu_features() if on_cpu else True


def _same_shapes(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return {k: v.shape for k, v in some.items()} == {k: v.shape for k, v in others.items()}


class Training:
    """One run in one folder: model, averaged weights, optimiser, position in the data."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        data: str | os.PathLike[str],
        model: ModelConfig,
        config: TrainConfig,
        data_config: DataConfig,
        validation: Validation | None = None,
        workers: int | None = None,
        compiled: bool = False,
    ) -> None:
        if data_config.crop % model.alignment:
            raise TrainingError(
                f"Model {model.name!r} cannot train on crops of {data_config.crop} pixels: "
                f"give a multiple of {model.alignment}."
            )
        self.folder, self.config, self.validation = Path(folder), config, validation
        self.workers = workers
        self.accelerator = Accelerator(
            log_with="tensorboard",
            project_dir=str(self.folder),
            mixed_precision="bf16" if _fast_in_bf16() else "no",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        torch.manual_seed(config.seed)
        self.model = self.build(model)
        self.ema = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        process = self.accelerator.process_index
        own_data = dataclasses.replace(data_config, seed=data_config.seed + 7919 * process)
        device = self.accelerator.device
        gpu = device.type == "cuda"
        torch.backends.cudnn.benchmark = gpu  # all batches have one size
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.learning_rate,
            weight_decay=config.weight_decay,
            fused=gpu,
        )
        self.pairs = PairBlocks(data, own_data, device=str(device))
        self.settings = json.dumps(
            {
                "model": dataclasses.asdict(model),
                "train": dataclasses.asdict(dataclasses.replace(config, steps=0)),
                "data": dataclasses.asdict(data_config) | {"recipe": repr(data_config.recipe)},
            },
            sort_keys=True,
        )
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self._recent: list[float] = []
        self.network: Callable[..., Prediction]
        self.network, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        if compiled:
            if self.accelerator.num_processes > 1:
                raise TrainingError("Compiled training runs in one process: leave out --compile.")
            # Without accelerate's wrappers, of which one process needs the autocast alone.
            forward = functools.partial(type(self.model).forward, self.model)
            self.network = torch.compile(forward, fullgraph=True, dynamic=False)
        self.ema = {k: v.to(device) for k, v in self.ema.items()}

    def build(self, config: ModelConfig) -> Denoiser:
        """The network to train; a comparison with other networks replaces this and `loss`."""
        return Denoiser(config)

    def loss(self, pairs: Pairs, generator: torch.Generator) -> Tensor:
        """What a step minimises, of pairs in [-1, 1] on the device; noise is of `generator`."""
        config = self.config
        anchor_only = self.model.blur is not None and self.step < min(
            config.anchor_steps, config.steps // 4
        )
        return training_loss(
            self.network, self.model.config, config, pairs, generator, anchor_only=anchor_only
        )

    def save(self) -> None:
        """Write the state for `resume` (atomically) and the averaged weights as a model folder."""
        if not self.accelerator.is_main_process:
            return
        tensors: dict[str, Tensor] = {}
        moments = self.optimizer.state_dict()["state"]
        for index, (name, value) in enumerate(self.model.named_parameters()):
            tensors[f"model.{name}"] = value.detach()
            tensors[f"ema.{name}"] = self.ema[name]
            for key, moment in moments.get(index, {}).items():
                tensors[f"{key}.{name}"] = moment
        metadata = {
            "step": str(self.step),
            "seconds": str(self.seconds),
            "settings": self.settings,
            "history": json.dumps(self.history),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        content = save({k: v.cpu().contiguous() for k, v in tensors.items()}, metadata)
        write_atomically(self.folder / _STATE, content)
        save_model(self.folder / "model", self.averaged(), self.facts())

    def resume(self) -> bool:
        """Continue from the folder's state; False if there is none.

        Raises:
            TrainingError: the state is of a run with other settings, or damaged.
        """
        path = self.folder / _STATE
        if not path.is_file():
            return False
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"{path} is not a training state: {error}.") from error
        if metadata.get("settings") != self.settings:
            raise TrainingError(
                f"{path} was written by a run with other settings; "
                "give the same settings, or another folder for a new run."
            )
        state = self.optimizer.state_dict()
        for index, (name, value) in enumerate(self.model.named_parameters()):
            with torch.no_grad():
                value.copy_(tensors[f"model.{name}"])
                self.ema[name].copy_(tensors[f"ema.{name}"])
            if f"step.{name}" in tensors:
                state["state"][index] = {"step": tensors[f"step.{name}"]}
                for key in ("exp_avg", "exp_avg_sq"):
                    # Laid out in memory as the weights: fused steps on a GPU ask for it.
                    moment = torch.empty_like(value).copy_(tensors[f"{key}.{name}"])
                    state["state"][index][key] = moment.detach()
        self.optimizer.load_state_dict(state)
        self.step = int(metadata["step"])
        self.seconds = float(metadata["seconds"])
        self.history = json.loads(metadata["history"])
        return True

    def start_from(self, weights: Denoiser) -> str:
        """Begin with the weights of another model: with all, or with those of its blur estimator.

        Returns:
            "weights", or "blur estimator" where only that has the same architecture.

        Raises:
            TrainingError: the architectures differ.
        """
        tensors = dict(weights.named_parameters())
        own = dict(self.model.named_parameters())
        part = "weights"
        if not _same_shapes(tensors, own):
            part = "blur estimator"
            tensors, own = (
                {name: value for name, value in values.items() if name.startswith("blur.")}
                for values in (tensors, own)
            )
        if not own or not _same_shapes(tensors, own):
            raise TrainingError(
                f"The weights to start from are of model {weights.config.name!r}, whose "
                f"architecture is not that of {self.model.config.name!r}."
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(tensors[name])
                self.ema[name].copy_(tensors[name])
        return part

    def averaged(self) -> Denoiser:
        """A copy of the model with the averaged weights, on the CPU."""
        model = self.build(self.model.config)
        model.load_state_dict({k: v.cpu() for k, v in self.ema.items()})
        return model.eval()

    def facts(self) -> dict[str, Any]:
        """What `config.json` says about the training."""
        return {
            "steps": self.step,
            "seconds": round(self.seconds),
            "device": device_name(self.accelerator.device),
            "settings": json.loads(self.settings),
            "history": self.history,
        }

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
        self._rate_from: tuple[int, float] | None = None
        self.accelerator.init_trackers("tensorboard")
        start, earlier, timed = time.monotonic(), self.seconds, math.isfinite(seconds)
        # A GPU blurs by itself but wants many crops; a CPU has its cores for the network.
        default = min(12, os.cpu_count() or 1) if self.accelerator.device.type == "cuda" else 1
        workers = default if self.workers is None else self.workers
        stream = batches(self.pairs, self.config.batch, self.step, workers)
        shown = Progress(self.step, self.config, progress and self.accelerator.is_main_process)
        elapsed = 0.0
        while self.step < self.config.steps and elapsed < seconds:
            loss = self._advance(next(stream))
            elapsed = self._common(time.monotonic() - start) if timed else 0.0
            self.seconds = earlier + time.monotonic() - start
            if self.step % 20 == 0:
                shown.update(self.step, self.config.steps, loss)
                lr = learning_rate(self.config, self.step)
                self.accelerator.log({"loss": loss, "learning_rate": lr}, self.step)
            if finish and self.step % _RATE_STEPS == 0:
                self._finish_in(elapsed, seconds)
            if self.step % self.config.validate_every == 0:
                self._validate()
            if self.step % self.config.save_every == 0:
                self.save()
        shown.close()
        self.seconds = earlier + time.monotonic() - start
        self.save()
        self.accelerator.end_training()

    def _common(self, seconds: float) -> float:
        """The main process's time, so that all processes decide alike."""
        if self.accelerator.num_processes == 1:
            return seconds
        value = torch.tensor(seconds, dtype=torch.float64, device=self.accelerator.device)
        return float(broadcast(value))

    def _finish_in(self, elapsed: float, seconds: float) -> None:
        """Let the schedule end when the time does; as it is once the learning rate falls."""
        if self._rate_from is None:  # what came before was slower: compiling, first photos
            self._rate_from = self.step, elapsed
            return
        first, begun = self._rate_from
        falls = self.step >= (1 - self.config.decay_share) * self.config.steps
        if not falls:
            rate = (self.step - first) / (elapsed - begun)
            left = _KEPT_BACK * (seconds - elapsed) * rate
            self.config = dataclasses.replace(self.config, steps=self.step + max(1, int(left)))

    def _advance(self, pairs: Pairs) -> float:
        config, device = self.config, self.accelerator.device
        pairs = Pairs(*(values.to(device) for values in pairs))
        seed = (config.seed * 1_000_003 + self.step) * 64 + self.accelerator.process_index
        generator = torch.Generator().manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        with self.accelerator.autocast():
            loss = self.loss(pairs, generator)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        value = float(loss.detach())
        self._check(value)
        self.optimizer.step()
        self.step += 1
        decay = min(config.ema, self.step / (self.step + 10))
        with torch.no_grad():
            averages = list(self.ema.values())
            torch._foreach_lerp_(averages, list(self.model.parameters()), 1 - decay)
        return value

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
        if self.validation is None or not self.accelerator.is_main_process:
            return
        model = self.averaged().to(self.accelerator.device)
        result = self.validation.measure(model, self.folder / f"val_{self.step:07d}.png")
        self.accelerator.log({f"validation/{k}": v for k, v in result.items()}, self.step)
        self.history.append({"step": self.step, "seconds": round(self.seconds), **result})
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(self.history[-1]) + "\n")
        tqdm.write(json.dumps(self.history[-1]))
