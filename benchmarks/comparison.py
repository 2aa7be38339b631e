"""The README's tables of compared methods and of ablations, from their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PAPER = {("FreqDiff adv", "GoPro"): "33.05 / 0.963"}
"""Table 1 of the paper, as far as it is known: PSNR in dB / SSIM."""
PUBLISHED = {
    "Restormer": "32.92 / 0.961",
    "Restormer, local statistics": "33.57",
    "NAFNet-64": "33.71 / 0.967",
    "HI-Diff": "33.33 / 0.964",
    "FFTformer": "34.21 / 0.969",
    "EVSSM": "34.51 / 0.971",
    "AdaRevD": "34.60",
}
"""On GoPro, trained on GoPro, as their own papers give them."""
WAYS = {"ours": "by us", "peer": "by us, same pairs", "official": "by others"}


def table1(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Methods side by side, a table for each test set; nothing where it was not measured."""
    lines: list[str] = ["### Methods side by side"] if rows else []
    for name in dict.fromkeys(row["data_set"] for row in rows):
        of_set = [row for row in rows if row["data_set"] == name]
        first = of_set[0]
        ssim = next(key for key in first["output"] if key.startswith("ssim_"))
        before = f"{_number(first['input']['psnr_rgb'], 2)} / {_number(first['input'][ssim], 4)}"
        lines += [
            "",
            f"{name}: {first['count']} photo{'s' * (first['count'] != 1)}, compared by "
            f"`{first['protocol']}`, SSIM `{ssim.removeprefix('ssim_')}`; blurred {before}.",
            "",
            "| method | trained | parameters | MFLOP/px | PSNR in -> out (dB) | SSIM | s/MP "
            "| peak memory | in the paper |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in sorted(of_set, key=lambda row: -(row["output"]["psnr_rgb"] or 0)):
            steps = f", {row['steps']} steps" if (row["steps"] or 1) > 1 else ""
            millions = None if row["parameters"] is None else row["parameters"] / 1e6
            given, reached = (row[when]["psnr_rgb"] for when in ("input", "output"))
            cells = [
                f"{row['method']}{steps}",
                f"{WAYS[row['way']]}{_budget(row['training'])}",
                "" if millions is None else f"{millions:.2f} M",
                _number(row["mflop_per_pixel"], 3),
                f"{_number(given, 2)} -> {_number(reached, 2)}",
                _number(row["output"][ssim], 4),
                f"{row['seconds_per_megapixel']:.2f}",
                f"{row['peak_memory_bytes'] / 1e9:.2f} GB",
                PAPER.get((row["method"], name), ""),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        if name == "GoPro":
            others = ", ".join(f"{title} {value}" for title, value in PUBLISHED.items())
            lines += ["", f"Published by their own papers, trained on GoPro: {others}."]
    return lines


def ablations(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What each change costs; nothing where it was not measured."""
    if not rows:
        return []
    first = rows[0]
    columns = [(f"gain_db_{steps}", _steps(steps)) for steps in first["eval_steps"]]
    columns += [(f"{label}_gain_db", label) for label in first["pairs"]]
    lines = [
        "### What each part is worth",
        "",
        f"| changed | {' | '.join(f'{title} (dB) | change' for _, title in columns)} |",
        f"| --- | {' | '.join('--- | ---' for _ in columns)} |",
    ]
    for row in rows:
        cells = []
        for key, _ in columns:
            cells.append(f"{row[key]:+.2f}{_error(row[f'{key}_error'])}")
            change = row[f"{key}_difference"]
            whole = row["variant"] == first["variant"]
            cells.append("" if whole else f"{change:+.2f}{_error(row[f'{key}_difference_error'])}")
        lines.append(f"| {row['title']} | {' | '.join(cells)} |")
    seeds = f"means of {first['seeds']} seeds with their standard errors"
    return [
        *lines,
        "",
        f"Gain in PSNR of `{first['config']}` after {first['steps']} steps of {first['batch']} "
        f"crops of {first['crop']} px on {first['runs'][0]['device']}, "
        f"{seeds if first['seeds'] > 1 else 'one seed'}; the change is taken seed by seed.",
    ]


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _error(value: float | None) -> str:
    return "" if value is None else f" ± {value:.2f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _budget(training: dict[str, Any] | None) -> str:
    """How much a network was trained, for those that we know of."""
    if training is None:
        return ""
    return f", {training['steps']} steps of {training['batch']}"
