"""Timing, floors and provenance that all benchmarks share."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from freqdiff.info import device_name
from freqdiff_kernels import native

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SETS = 3
"""Sets of inputs that the runs go through in turn, so that no cache holds them from last time."""

Contestant = Callable[[int], Any]
_BUDGET = {"cpu": 12.0, "cuda": 3.0}
"""Seconds for the runs of a contestant."""


@dataclass(frozen=True)
class Case:
    """One question: how fast is an operation on this input, beside what else one would write?

    Attributes:
        op, case, direction, device, dtype: what is measured, for the report.
        ours: runs the operation on the input set of the run's number.
        competitors: by name; a text instead of a function says why it cannot run here.
        check: raises AssertionError unless the result is right; returns its error.
        bytes_moved: the least that any implementation has to read and write.
        flops: the arithmetic that the operation stands for.
    """

    op: str
    case: str
    direction: str
    device: str
    dtype: str
    ours: Contestant
    competitors: dict[str, Contestant | str]
    check: Callable[[], float]
    bytes_moved: float
    flops: float


@dataclass
class Row:
    """One measured case; `speedup` and `competitors_us` are by name of the competitor.

    `floor_us` is the time of copying as many bytes, measured in the same run; `missing` says why a
    competitor did not run.
    """

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
    floor_us: float
    speedup: dict[str, float]
    max_error: float
    competitors_us: dict[str, float]
    missing: dict[str, str]
    bytes_moved: float
    flops: float
    runs: dict[str, int]
    provenance: dict[str, Any] = field(default_factory=dict)


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


def git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.strip()


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Where, when and from what the numbers come."""
    sources = ("kernels", "csrc", "freqdiff", "blursynth", "benchmarks/*.py", "setup.py")
    commit = os.environ.get("FREQDIFF_COMMIT", "")
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        # Of a copy of the sources without their history the caller knows the commit.
        "git_sha": commit or git("rev-parse", "HEAD"),
        "git_dirty": not commit and bool(git("status", "--porcelain", "--", *sources)),
        "device": device_name(torch.device(device)),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device != "cpu":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        facts |= {"cuda": torch.version.cuda, "driver": driver.strip()}
    return facts


def _seconds_on_cpu(contestant: Contestant, run: int) -> Callable[[], float]:
    start = time.perf_counter()
    result = contestant(run)
    seconds = time.perf_counter() - start
    del result
    return lambda: seconds


def _seconds_on_gpu(contestant: Contestant, run: int) -> Callable[[], float]:
    """Time between two events; the device sleeps first, so that the launches are not timed."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(1_000_000)
    begin.record()
    contestant(run)
    end.record()

    def seconds() -> float:
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    return seconds


def measure(
    contestants: dict[str, Contestant],
    device: str = "cpu",
    runs: int = 51,
) -> tuple[dict[str, Timing], dict[str, int]]:
    """Time all contestants in turns, so that other work on the machine meets them all alike.

    One that takes longer than `_BUDGET` runs less often, but at least nine times.

    Args:
        contestants: name -> function of the run number (to rotate its inputs).
        device: "cpu" or "cuda".
        runs: of each contestant.

    Returns:
        The timings and the number of runs, by name.
    """
    clock = _seconds_on_cpu if device == "cpu" else _seconds_on_gpu
    counts = {}
    for name, function in contestants.items():
        function(0)
        seconds = clock(function, 1)()
        counts[name] = int(min(runs, max(min(runs, 9), _BUDGET[device] / max(seconds, 1e-9))))
    turns = sorted(
        ((turn + 0.5) / counts[name], name, turn)
        for name in contestants
        for turn in range(counts[name])
    )
    times: dict[str, list[Callable[[], float]]] = {name: [] for name in contestants}
    for _, name, turn in turns:
        times[name].append(clock(contestants[name], turn))
    return {name: Timing.of(time() for time in values) for name, values in times.items()}, counts


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill uninitialised memory with NaN, so that a result that was not written is noticed."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    native.release_memory()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def run_case(case: Case, backend: str, copy_rate: float, runs: int = 51) -> Row:
    """Check the case, then time it against its competitors.

    Args:
        case: what to measure.
        backend: name of what runs the operation.
        copy_rate: of `measure_copy_rate`, in bytes per second.
        runs: of each contestant.

    Raises:
        AssertionError: a result is wrong; nothing is timed then.
    """
    with poisoned_memory():
        error = case.check()
    missing = {name: why for name, why in case.competitors.items() if isinstance(why, str)}
    contestants: dict[str, Contestant] = {"ours": case.ours}
    for name, function in case.competitors.items():
        if isinstance(function, str):
            continue
        try:
            function(0)
        except Exception as failure:  # such as a compiler that does not support this device
            missing[name] = f"{type(failure).__name__}: {str(failure).splitlines()[0][:120]}"
        else:
            contestants[name] = function
    timings, counts = measure(contestants, case.device, runs)
    mine = timings.pop("ours")
    return Row(
        op=case.op,
        case=case.case,
        direction=case.direction,
        backend=backend,
        device=case.device,
        threads=torch.get_num_threads(),
        dtype=case.dtype,
        **asdict(mine),
        floor_us=round(case.bytes_moved / copy_rate * 1e6, 1),
        speedup={name: round(t.median_us / mine.median_us, 2) for name, t in timings.items()},
        max_error=error,
        competitors_us={name: timing.median_us for name, timing in timings.items()},
        missing=missing,
        bytes_moved=case.bytes_moved,
        flops=case.flops,
        runs=counts,
    )


def measure_copy_rate(device: str = "cpu", megabytes: int = 128) -> float:
    """Bytes read plus written per second by a large copy between existing tensors."""
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)
    timings, _ = measure({"copy": lambda _: target.copy_(source)}, device, 15)
    return 2 * source.numel() * 4 / (timings["copy"].median_us * 1e-6)


def measure_flop_rate(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations per second of a large matrix product."""
    side = 1024 if device == "cpu" else 8192
    a = torch.rand(side, side, device=device, dtype=dtype)
    timings, _ = measure({"product": lambda _: a @ a}, device, 15)
    return 2 * side**3 / (timings["product"].median_us * 1e-6)


def relative_error(values: Tensor, exact: Tensor) -> float:
    """|values - exact| / |exact| in the Euclidean norm."""
    return float((values.double() - exact).norm() / exact.norm())


def assert_as_precise(ours: Tensor, plain: Tensor, exact: Tensor) -> float:
    """The error of `ours`, which may be twice that of plain torch plus the rounding of the result.

    Args:
        ours, plain: the same result by the operation and by plain torch, of one dtype.
        exact: the same in float64.
    """
    error, allowed = relative_error(ours, exact), 2 * relative_error(plain, exact)
    allowed += torch.finfo(ours.dtype).eps / 2 if ours.dtype.is_floating_point else 0.5
    assert error <= allowed, f"error {error:.2e}, allowed {allowed:.2e}"
    return error


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's; equal values share the mean of their ranks, and a constant gives 0."""
    ranks = []
    for values in (np.ravel(a), np.ravel(b)):
        below, same = (f(values[:, None], values).sum(1) for f in (np.greater, np.equal))
        ranks.append(below + same / 2)
    if min(np.ptp(one) for one in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def write(path: Path, rows: list[Row]) -> None:
    """Write the rows as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(entry) for entry in rows], indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def describe(entry: Row) -> str:
    """One row for people."""
    against = [f"{ratio:.2f}x {name}" for name, ratio in entry.speedup.items()]
    against += [f"{name} not run ({why})" for name, why in entry.missing.items()]
    return (
        f"{entry.op} {entry.direction} [{entry.case}; {entry.dtype}; {entry.backend}; "
        f"{entry.threads} threads]\n"
        f"  {entry.median_us / 1e3:.3f} ms ({entry.p20_us / 1e3:.3f} to {entry.p80_us / 1e3:.3f}, "
        f"floor {entry.floor_us / 1e3:.3f}): {', '.join(against)}; error {entry.max_error:.1e}"
    )
