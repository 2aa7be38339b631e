"""How far a training run is: a bar on a terminal, else a line now and then; how far it will get."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Hashable

from tqdm import tqdm

_EVERY_S = 20
_RECENT_STEPS = 100
_PACE_STEPS = 50
"""Steps between two looks at the speed."""
_KEPT_BACK = 0.95
"""Share of the time left that is planned with; validations and saving take some."""


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


class Pace:
    """How many steps fit into a time, by the speed of those that were taken.

    Args:
        seconds: the time; nothing is planned where it is infinite.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._from: tuple[Hashable, int, float] | None = None

    def plan(self, step: int, elapsed: float, falls: bool, kind: Hashable = None) -> int | None:
        """Steps of the whole run, or None where they stay as they are.

        Args:
            step: steps taken.
            elapsed: seconds of the time that are over.
            falls: whether the learning rate falls, from when on the steps stay as they are; unless
                steps of another kind begin with that, which are looked at once.
            kind: steps of one kind take equally long.
        """
        if step % _PACE_STEPS or math.isinf(self._seconds):
            return None
        if self._from is None or self._from[0] != kind:
            self._from = kind, step, elapsed  # what came before was slower: photos, compiling
            return None
        _, first, begun = self._from
        if falls and step > first + _PACE_STEPS:
            return None
        left = _KEPT_BACK * (self._seconds - elapsed) * (step - first) / (elapsed - begun)
        return step + max(1, int(left))
