"""The benchmarks: what a row holds, and that nothing wrong is timed."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import commands
import pytest
import torch

from benchmarks import (
    harness,
    kernels,
    kernels_attention,
    kernels_features,
    kernels_filter,
    kernels_steps,
    kernels_tiles,
)
from benchmarks.harness import Case, run_case
from benchmarks.roofline import plot, read, table

REQUIRED = {
    *("op", "case", "direction", "backend", "device", "dtype", "median_us", "p20_us", "p80_us"),
    *("floor_us", "speedup", "max_error", "provenance"),
}


def broken(number: int) -> None:
    raise RuntimeError("no compiler here\nsecond line")


CASE = Case(
    op="add",
    case="1000 numbers",
    direction="forward",
    device="cpu",
    dtype="float32",
    ours=lambda n: torch.zeros(1000) + n,
    competitors={
        "loop": lambda n: [torch.zeros(1000) + n for _ in range(20)],
        "absent": "not installed",
        "broken": broken,
    },
    check=lambda: 0.0,
    bytes_moved=4000,
    flops=1000,
)


def test_a_row_holds_ratios_and_reasons(tmp_path: Path) -> None:
    row = run_case(CASE, "cpp", copy_rate=4e9, runs=15)
    assert row.floor_us == 1.0
    assert row.p20_us <= row.median_us <= row.p80_us
    assert row.speedup["loop"] > 2
    assert row.missing == {"absent": "not installed", "broken": "RuntimeError: no compiler here"}
    assert row.runs == {"ours": 15, "loop": 15}
    row.provenance = {"copy_rate": 4e9, "flop_rate": 1e11, "device": "a processor"}
    harness.write(tmp_path / "rows.json", [row])
    rows = read(tmp_path / "rows.json")
    assert set(rows[0]) >= REQUIRED
    assert "| add | 1000 numbers | float32 |" in table(rows)
    plot(rows, tmp_path / "rows.png")
    assert (tmp_path / "rows.png").stat().st_size > 10_000


def test_a_wrong_result_is_not_timed() -> None:
    def check() -> float:
        exact = torch.ones(10, dtype=torch.float64)
        return harness.assert_as_precise(1.001 * exact.float(), exact.float(), exact)

    with pytest.raises(AssertionError, match=r"error 1.00e-03, allowed"):
        run_case(replace(CASE, check=check), "cpp", copy_rate=4e9)


def test_memory_is_poisoned_while_checking() -> None:
    with harness.poisoned_memory():
        assert torch.empty(1000).isnan().all()


@pytest.mark.slow
def test_cases_check_their_competitors(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (kernels_features, kernels_tiles, kernels_steps, kernels_filter):
        monkeypatch.setattr(module, "HEIGHT", 512 + 412)
        monkeypatch.setattr(module, "WIDTH", 512 + 416)
    monkeypatch.setattr(kernels_tiles, "STARTS", ([0, 412], [0, 416]))
    half = torch.bfloat16
    shape = replace(kernels_attention.CPU_SHAPES[0], height=37, width=41)
    cases = [
        kernels_features.features("cpu", half, half, 8),
        kernels_features.bands("cpu"),
        kernels_steps.step("cpu", half, anchored=True),
        kernels_attention.attention(shape, "cpu", torch.float32, backward=True),
        kernels_tiles.stitch("cpu", half, torch.uint16),
        kernels_tiles.extract("cpu"),
        *kernels_filter.cases("cpu"),
    ]
    for case in cases:
        with harness.poisoned_memory():
            assert case.check() <= 1e-2


def test_the_command_needs_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freqdiff.cli_bench.__file__", str(tmp_path / "freqdiff" / "cli_bench.py"))
    code, _, err = commands.run("bench", "kernels")
    assert code == 1
    assert "needs a source checkout" in err


def test_the_command_runs_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        seen.append((command[1:], options["cwd"]))
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr("freqdiff.cli_bench.subprocess.run", record)
    rows = tmp_path / "rows.json"
    options = ["--only", "ddim_step", "--runs", "3", "--output", str(rows)]
    assert commands.run("bench", "kernels", *options).code == 7
    root = Path(__file__).resolve().parents[1]
    assert seen == [(["-m", "benchmarks.kernels", *options], root)]


def test_the_rows_of_one_operation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernels_steps, "cases", lambda device: iter([CASE]))
    monkeypatch.setattr(kernels, "live_backend", lambda name, device: "cpp")
    monkeypatch.setattr(kernels, "measure_flop_rate", lambda device, dtype: 1e11)
    monkeypatch.setattr(kernels, "measure_copy_rate", lambda device: 4e9)
    arguments = [
        "--only",
        "ddim_step",
        "--runs",
        "9",
        "--json",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    monkeypatch.setattr("sys.argv", ["kernels", *arguments])
    kernels.main()
    (row,) = json.loads(capsys.readouterr().out)
    assert set(row) >= REQUIRED
    assert row["provenance"]["torch"] == torch.__version__
