"""How far a training run is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import collections
import dataclasses
import time

from tqdm import tqdm

_EVERY_S = 20
_RECENT_STEPS = 100


@dataclasses.dataclass
class Throughput:
    """Crops of all processes and the time that they took, without validations and saved states.

    Attributes:
        crops, seconds: of the whole run.
    """

    crops: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._last: collections.deque[tuple[int, float]] = collections.deque(maxlen=_RECENT_STEPS)

    def add(self, crops: int, seconds: float) -> None:
        """Count one step."""
        self.crops, self.seconds = self.crops + crops, self.seconds + seconds
        self._last.append((crops, seconds))

    def mean(self) -> float:
        """Crops per second of the whole run."""
        return round(self.crops / self.seconds, 1) if self.seconds else 0.0

    def recent(self) -> float:
        """Crops per second of the last steps."""
        seconds = sum(seconds for _, seconds in self._last)
        return round(sum(crops for crops, _ in self._last) / seconds, 1)


class Progress:
    """Throughput, loss and time left.

    Args:
        step, steps: where the run begins and ends.
        shown: False for silence.
    """

    def __init__(self, step: int, steps: int, shown: bool) -> None:
        self._first, self._shown = step, shown
        self._start = self._told = time.monotonic()
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=None if shown else True)

    def update(self, step: int, steps: int, loss: float, crops_per_s: float) -> None:
        """After `step` of `steps` steps."""
        now = time.monotonic()
        rate = (step - self._first) / (now - self._start)
        self._bar.total = steps
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix(loss=f"{loss:.4f}", crops_per_s=f"{crops_per_s:.1f}")
        if self._shown and self._bar.disable and now > self._told + _EVERY_S:
            self._told = now
            print(
                f"step {step} of {steps}: loss {loss:.4f}, {crops_per_s:.1f} crops/s, "
                f"{(steps - step) / rate / 60:.0f} min left",
                flush=True,
            )

    def close(self) -> None:
        """End the bar."""
        self._bar.close()
