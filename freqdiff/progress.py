"""How far a training run is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time

from tqdm import tqdm

_EVERY_S = 20


class Progress:
    """Throughput, loss and time left.

    Args:
        step, steps: where the run begins and ends.
        batch: crops per step.
        shown: False for silence.
    """

    def __init__(self, step: int, steps: int, batch: int, shown: bool) -> None:
        self._first, self._batch, self._shown = step, batch, shown
        self._start = self._told = time.monotonic()
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=None if shown else True)

    def update(self, step: int, steps: int, loss: float) -> None:
        """After `step` of `steps` steps."""
        now = time.monotonic()
        rate = (step - self._first) / (now - self._start)
        crops = f"{rate * self._batch:.1f}"
        self._bar.total = steps
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix(loss=f"{loss:.4f}", crops_per_s=crops)
        if self._shown and self._bar.disable and now > self._told + _EVERY_S:
            self._told = now
            print(
                f"step {step} of {steps}: loss {loss:.4f}, {crops} crops/s, "
                f"{(steps - step) / rate / 60:.0f} min left",
                flush=True,
            )

    def close(self) -> None:
        """End the bar."""
        self._bar.close()
