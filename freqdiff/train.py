"""Training of the deblurrer on accelerate; a resumed run equals an uninterrupted one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from freqdiff import diffusion
from freqdiff.atomic import write_atomically
from freqdiff.checkpoint import save_model
from freqdiff.data import DataConfig, PairBlocks, Pairs, batches
from freqdiff.denoiser import Denoiser, Prediction
from freqdiff.errors import TrainingError
from freqdiff.info import device_name
from freqdiff.model import ModelConfig
from freqdiff.validation import Validation

_STATE = "state.safetensors"
_TELL_EVERY_S = 20
"""Where no progress bar can be shown, such as in a log file."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Recipe of a training run.

    Attributes:
        steps: optimiser steps of the whole run (the cosine ends there).
        batch: pairs per step and process.
        learning_rate, warmup, weight_decay: AdamW.
        schedule: "linear" stays at the peak and decays over the last `decay_share` of the steps, so
            that a run can be made longer when it is resumed; "cosine" is the paper's.
        decay_share: see `schedule`.
        ema: decay of the averaged weights, which are the ones that are saved.
        terminal_share: share of the samples at t = 999, where one step is plain regression.
        spectral_loss: weight of the L1 distance of spectra at high noise.
        anchor_steps: steps at the beginning, at most a quarter of all, in which the blur estimator
            learns alone, which takes a fraction of the time; it learns on in the others.
        psf_loss: weight of the cross entropy of the estimated kernels.
        relative_floor: samples are weighted by 1 / (|x0 - y|^2 / r^2 + relative_floor), so that
            lightly blurred photos count as in a mean of PSNR gains.
        validate_every, save_every: steps between validations and saved states.
        seed: of weights, noise and data.
    """

    steps: int = 20_000
    batch: int = 8
    learning_rate: float = 1e-3
    warmup: int = 300
    weight_decay: float = 1e-4
    schedule: Literal["linear", "cosine"] = "linear"
    decay_share: float = 0.3
    ema: float = 0.999
    terminal_share: float = 0.9
    spectral_loss: float = 0.1
    anchor_steps: int = 2_500
    psf_loss: float = 0.2
    relative_floor: float = 0.003
    validate_every: int = 1000
    save_every: int = 1000
    seed: int = 0


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, a constant, and a linear decay; or warm-up and a cosine."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    left = max(0.0, 1 - step / config.steps)
    if config.schedule == "cosine":
        return config.learning_rate * warm * (0.5 - 0.5 * math.cos(math.pi * left))
    return config.learning_rate * warm * min(1.0, left / config.decay_share)


def training_loss(
    model: torch.nn.Module,
    model_config: ModelConfig,
    config: TrainConfig,
    pairs: Pairs,
    generator: torch.Generator,
    *,
    anchor_only: bool = False,
) -> Tensor:
    """The objective's loss (Eq. 2 of the paper in `epsilon` mode) plus L1 of spectra at high noise.

    With the Wiener anchor also its error, and the cross entropy of the estimated kernels.

    Args:
        model: `Denoiser`.
        pairs: in [-1, 1].
        generator: on the CPU; source of noise levels and noise.
        anchor_only: the anchor's part alone.
    """
    y, x0, psf = pairs
    t, a = diffusion.sample_timesteps(len(y), config.terminal_share, generator)
    seed = int(torch.randint(2**62, (), generator=generator))
    on_device = torch.Generator(y.device).manual_seed(seed)
    noise = torch.randn(y.shape, generator=on_device, device=y.device)
    levels = a.to(y)[:, None, None, None]
    x_t = levels * x0 + (1 - levels**2).clamp_min(0).sqrt() * noise
    prediction: Prediction = model(None if anchor_only else x_t, t.to(y.device), y)
    r = model_config.residual_std
    weight = 1 / (_power(x0 - y) / r**2 + config.relative_floor)
    total = y.new_zeros(())
    if prediction.blur is not None:
        target = psf.flatten(1)[:, None, None]
        entropy = -(target * prediction.blur.log_psf).sum(-1).mean()
        error = _power(prediction.anchor.float() - x0) / r**2
        total = (weight * error).mean() + config.psf_loss * entropy
    if prediction.x0 is None:
        return total
    scale = diffusion.coefficients(model_config.objective, a, r).scale.abs().to(y.device)
    error = (prediction.x0.float() - x0) / scale.clamp_min(1e-4)  # the error of F
    # With more signal in x_t the loss is that of removing its noise, whatever the blur.
    weight = torch.where(a.to(y) == 0, weight, weight.clamp(max=1))
    total = total + (weight * _power(error)).mean()
    high = (t >= 600).to(y)
    spectrum: Tensor = torch.fft.rfft2(error, norm="ortho").abs().mean((1, 2, 3))
    return total + config.spectral_loss * (high * weight.sqrt() * spectrum).mean()


def _same_shapes(some: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> bool:
    return {k: v.shape for k, v in some.items()} == {k: v.shape for k, v in others.items()}


def _power(values: Tensor) -> Tensor:
    """Mean square of each sample (B,)."""
    return values.square().mean((1, 2, 3))


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
            mixed_precision="bf16" if torch.cuda.is_available() else "no",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        torch.manual_seed(config.seed)
        self.model = Denoiser(model)
        self.ema = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        process = self.accelerator.process_index
        data_config = dataclasses.replace(data_config, seed=data_config.seed + 7919 * process)
        device = self.accelerator.device
        gpu = device.type == "cuda"
        torch.backends.cudnn.benchmark = gpu  # all batches have one size
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            config.learning_rate,
            weight_decay=config.weight_decay,
            fused=gpu,
        )
        self.pairs = PairBlocks(data, data_config, device=str(device))
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
        self.prepared, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        self.ema = {k: v.to(device) for k, v in self.ema.items()}

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
            keys = ("step", "exp_avg", "exp_avg_sq")
            if f"step.{name}" in tensors:
                state["state"][index] = {key: tensors[f"{key}.{name}"] for key in keys}
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
        model = Denoiser(self.model.config)
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

    def run(self, *, seconds: float = math.inf, progress: bool = True) -> None:
        """Train until `config.steps`, or for a time budget; then save.

        Raises:
            TrainingError: the loss became infinite or exploded; the last state stays as it was.
        """
        self.accelerator.init_trackers("tensorboard")
        start, first = time.monotonic(), self.step
        told = start
        earlier = self.seconds
        # A GPU blurs by itself but wants many crops; a CPU has its cores for the network.
        default = min(12, os.cpu_count() or 1) if self.accelerator.device.type == "cuda" else 1
        workers = default if self.workers is None else self.workers
        stream = batches(self.pairs, self.config.batch, self.step, workers)
        bar = tqdm(
            total=self.config.steps, initial=self.step, unit="step", disable=None if progress else 1
        )
        while self.step < self.config.steps and time.monotonic() - start < seconds:
            loss = self._advance(next(stream))
            self.seconds = earlier + time.monotonic() - start
            bar.update()
            if self.step % 20 == 0:
                now = time.monotonic()
                rate = (self.step - first) / (now - start)
                crops = f"{rate * self.config.batch:.1f}"
                bar.set_postfix(loss=f"{loss:.4f}", crops_per_s=crops)
                if bar.disable and progress and now > told + _TELL_EVERY_S:
                    told = now
                    left = (self.config.steps - self.step) / rate / 60
                    print(
                        f"step {self.step} of {self.config.steps}: loss {loss:.4f}, "
                        f"{crops} crops/s, {left:.0f} min left",
                        flush=True,
                    )
                lr = learning_rate(self.config, self.step)
                self.accelerator.log({"loss": loss, "learning_rate": lr}, self.step)
            if self.step % self.config.validate_every == 0:
                self._validate()
            if self.step % self.config.save_every == 0:
                self.save()
        bar.close()
        self.seconds = earlier + time.monotonic() - start
        self.save()
        self.accelerator.end_training()

    def _advance(self, pairs: Pairs) -> float:
        config, device = self.config, self.accelerator.device
        memory = torch.channels_last
        y, x0 = (v.to(device).contiguous(memory_format=memory) for v in pairs[:2])
        pairs = Pairs(y, x0, pairs.psf.to(device))
        anchor_only = self.model.blur is not None and self.step < min(
            config.anchor_steps, config.steps // 4
        )
        seed = (config.seed * 1_000_003 + self.step) * 64 + self.accelerator.process_index
        generator = torch.Generator().manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        with self.accelerator.autocast():
            loss = training_loss(
                self.prepared, self.model.config, config, pairs, generator, anchor_only=anchor_only
            )
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
