"""Pictures and tables of the kernel benchmarks: `python -m benchmarks.roofline [ROWS.json]`.

Beside results/NAME.json it writes NAME.png, the roofline, and NAME.md, the table.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS

HEAD = (
    *("operation", "case", "dtype", "direction", "backend", "threads", "device"),
    *("median (us)", "20 to 80 % (us)", "floor (us)", "times the floor", "error", "faster than"),
)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file; none where it was not measured."""
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.is_file() else []
    return rows


def ratios(row: dict[str, Any]) -> str:
    """What else was timed, and what was not and why."""
    parts = [f"{name} {ratio:.1f}x" for name, ratio in row["speedup"].items()]
    parts += [f"{name}: {why}" for name, why in row["missing"].items()]
    return ", ".join(parts)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown table of all that was measured."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for row in rows:
        cells = (
            *(row[key] for key in ("op", "case", "dtype", "direction", "backend", "threads")),
            row["provenance"]["device"],
            f"{row['median_us']:.1f}",
            f"{row['p20_us']:.1f} to {row['p80_us']:.1f}",
            f"{row['floor_us']:.1f}",
            f"{row['median_us'] / row['floor_us']:.2f}",
            f"{row['max_error']:.1e}",
            ratios(row),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Arithmetic against bytes: how close the cases of the first row's machine come to its roof."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    threads = max(row["threads"] for row in rows)
    rows = [row for row in rows if row["threads"] == threads]
    facts = rows[0]["provenance"]
    rows = [row for row in rows if row["provenance"]["device"] == facts["device"]]
    copy_rate, flop_rate = facts["copy_rate"], facts["flop_rate"]
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    ridge = flop_rate / copy_rate
    intensities = [row["flops"] / row["bytes_moved"] for row in rows]
    low, high = min(*intensities, ridge) / 2, max(*intensities, ridge) * 2
    axes.plot([low, ridge, high], [low * copy_rate, flop_rate, flop_rate], color="black")
    for number, (row, x) in enumerate(zip(rows, intensities, strict=True), start=1):
        name = f"{number} {row['op']} {row['direction']}, {row['dtype']}, {row['backend']}"
        name += f": {row['median_us'] / row['floor_us']:.1f}x the floor"
        y = row["flops"] / row["median_us"] * 1e6
        axes.plot(x, y, marker="o", linestyle="none", label=name)
        axes.annotate(str(number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte moved", ylabel="FLOP/s")
    axes.set_title(
        f"{facts['device']}, {threads} threads: copy {copy_rate / 1e9:.0f} GB/s, "
        f"matrix product {flop_rate / 1e9:.0f} GFLOP/s"
    )
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Write picture and table of every results file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "rows", type=Path, nargs="*", help="results/kernels_*.json if none is given"
    )
    for path in parser.parse_args().rows or sorted(RESULTS.glob("kernels_*.json")):
        rows = read(path)
        path.with_suffix(".md").write_text(table(rows), encoding="utf-8")
        plot(rows, path.with_suffix(".png"))
        print(f"wrote {path.with_suffix('.md')} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()
