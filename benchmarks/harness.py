"""Timing and provenance that all benchmarks share."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Timing:
    """Quantiles of the runs, in microseconds."""

    median_us: float
    p20_us: float
    p80_us: float

    @staticmethod
    def of(seconds: Iterable[float]) -> "Timing":
        ordered = torch.tensor(sorted(seconds), dtype=torch.float64) * 1e6
        points = torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)
        return Timing(*(round(value, 1) for value in ordered.quantile(points).tolist()))


@dataclass
class Row:
    """One measured case; `speedup` and `competitors_us` are by name of the competitor."""

    op: str
    case: str
    direction: str
    backend: str
    device: str
    threads: int
    dtype: str
    median_us: float
    p20_us: float
    p80_us: float
    floor_us: float | None
    max_error: float
    speedup: dict[str, float] = field(default_factory=dict)
    competitors_us: dict[str, float] = field(default_factory=dict)


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip()


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Where, when and from what the numbers come."""
    sources = ("kernels", "csrc", "freqdiff", "blursynth", "benchmarks/*.py", "setup.py")
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_sha": git("rev-parse", "HEAD"),
        "git_dirty": bool(git("status", "--porcelain", "--", *sources)),
        "device": cpu_name() if device == "cpu" else torch.cuda.get_device_name(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device != "cpu":
        facts["cuda"] = torch.version.cuda
    return facts


def measure(
    contestants: dict[str, Callable[[int], Any]],
    runs: dict[str, int],
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time all contestants in turns, so that other work on the machine meets them all alike.

    Args:
        contestants: name -> function of the run number (to rotate its inputs).
        runs: name -> how often to run it; the turns are spread evenly over the whole time.
        synchronize: waits for the device.
    """
    for function in contestants.values():
        for warm_up in range(2):
            function(warm_up)
    turns = sorted(
        ((turn + 0.5) / runs[name], name, turn)
        for name in contestants
        for turn in range(runs[name])
    )
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _, name, turn in turns:
        synchronize()
        start = time.perf_counter()
        result = contestants[name](turn)
        synchronize()
        seconds[name].append(time.perf_counter() - start)
        del result
    return {name: Timing.of(values) for name, values in seconds.items()}


def row(
    timings: dict[str, Timing], ours: str, *, bytes_moved: float, rate: float | None, **facts: Any
) -> Row:
    """The row of one case: `ours` against every other contestant.

    Args:
        bytes_moved: the least that any implementation has to read and write.
        rate: measured copy rate in bytes per second, or None for no floor.
    """
    mine = timings[ours]
    others = {name: timing for name, timing in timings.items() if name != ours}
    return Row(
        **facts,
        **asdict(mine),
        threads=torch.get_num_threads(),
        floor_us=round(bytes_moved / rate * 1e6, 1) if rate else None,
        speedup={
            name: round(other.median_us / mine.median_us, 2) for name, other in others.items()
        },
        competitors_us={name: other.median_us for name, other in others.items()},
    )


def copy_rate(device: str = "cpu", megabytes: int = 128) -> float:
    """Bytes read plus written per second by a large copy between existing tensors."""
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    synchronize = torch.cuda.synchronize if device != "cpu" else (lambda: None)
    timing = measure({"copy": lambda _: target.copy_(source)}, {"copy": 15}, synchronize)["copy"]
    return 2 * source.numel() * 4 / (timing.median_us * 1e-6)


def write(name: str, rows: list[Row], facts: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    report = {"provenance": facts, "rows": [asdict(entry) for entry in rows]}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path


def show(entry: Row) -> None:
    """Print one row."""
    against = ", ".join(f"{ratio:.1f}x {name}" for name, ratio in entry.speedup.items())
    floor = f", floor {entry.floor_us / 1e3:.1f}" if entry.floor_us else ""
    print(
        f"{entry.op} {entry.direction} [{entry.case}; {entry.dtype}; {entry.threads} threads]\n"
        f"  {entry.median_us / 1e3:.2f} ms "
        f"({entry.p20_us / 1e3:.2f} to {entry.p80_us / 1e3:.2f}{floor}): {against}; "
        f"error {entry.max_error:.1e}",
        flush=True,
    )
