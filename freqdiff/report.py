"""Reports of measurements: one JSON object, and a table for people."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from freqdiff import downstream
from freqdiff.downstream import Task
from freqdiff.evaluate import ImageScore, mean
from freqdiff.protocol import Scores


def summarize(
    kind: str, scores: Sequence[ImageScore], facts: dict[str, Any], task: Task | None = None
) -> dict[str, Any]:
    """The results as one JSON object; infinite numbers become null.

    Args:
        kind: "pairs", "unharmed" or "synthetic".
        scores: at least one photo.
        facts: model, settings and where it ran.
        task: what gave the answers.

    Returns:
        Means over the photos with finite values under `input`, `output` and `gain` (all null for
        "unharmed", where the input is the truth), the lowest PSNR of a result under `worst`, the
        median of the photos' `seconds_per_megapixel` (the first one also warms up), the scores of
        each photo under `images`, and with a task its summary under `downstream`.
    """
    gains = [score.gain for score in scores]
    shifts = [score.colour_shift for score in scores]
    speeds = [score.seconds * 1e6 / (score.size[0] * score.size[1]) for score in scores]
    harmless = kind == "unharmed"
    return {
        "kind": kind,
        "count": len(scores),
        "input": _means([score.input for score in scores]),
        "output": _means([score.output for score in scores]),
        "gain": dict.fromkeys(scores[0].output) if harmless else _means(gains),
        "worst": {"psnr_rgb": _finite(min(score.output["psnr_rgb"] for score in scores))},
        "colour_shift": {"mean": mean(shifts), "worst": max(shifts)},
        "unchanged": sum(not score.changed for score in scores),
        "seconds_per_megapixel": statistics.median(speeds),
        **facts,
        **_downstream(scores, task),
        "images": [_image(score, harmless) | _downstream([score], task) for score in scores],
    }


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    count, steps, metrics = report["count"], report["steps"], report["output"]
    lines = [
        f"{report['kind']}: {count} photo{'s' * (count != 1)}, model {report['model']} "
        f"({report['model_sha256'][:12]}), {steps} step{'s' * (steps != 1)} on "
        f"{report['device_name']}",
        "",
        f"{'':<10}" + "".join(f"{_title(name):>15}" for name in metrics),
    ]
    for row in ("input", "output", "gain"):
        cells = [_cell(report[row][name], _digits(name), row == "gain") for name in metrics]
        lines.append(f"{row:<10}" + "".join(f"{cell:>15}" for cell in cells))
    shift = report["colour_shift"]
    lines += [
        "",
        f"lowest PSNR RGB of a result: {_cell(report['worst']['psnr_rgb'], 2)} dB",
        f"colour shift in 1/255: mean {shift['mean']:.3f}, worst {shift['worst']:.3f}",
        f"returned unchanged: {report['unchanged']} of {count}",
        f"{report['seconds_per_megapixel']:.2f} s per megapixel",
    ]
    if summary := report.get("downstream"):
        lines.append(downstream.line(summary))
    return "\n".join(lines)


def _downstream(scores: Sequence[ImageScore], task: Task | None) -> dict[str, Any]:
    answers = [score.answers for score in scores if score.answers is not None]
    return {"downstream": downstream.summarize(task, answers)} if task and answers else {}


def _means(scores: Sequence[Scores]) -> dict[str, float | None]:
    return {name: mean([score[name] for score in scores]) for name in scores[0]}


def _image(score: ImageScore, harmless: bool) -> dict[str, Any]:
    gain = dict.fromkeys(score.output) if harmless else _nulls(score.gain)
    return {
        "name": score.name,
        "sharp": score.sharp,
        "width": score.size[0],
        "height": score.size[1],
        "input": _nulls(score.input),
        "output": _nulls(score.output),
        "gain": gain,
        "colour_shift": score.colour_shift,
        "changed": score.changed,
        "seconds": score.seconds,
    }


def _nulls(scores: Scores) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in scores.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _title(metric: str) -> str:
    """`ssim_skimage_gaussian` -> "SSIM gaussian"."""
    measure, _, convention = metric.partition("_")
    convention = convention.removeprefix("skimage_")
    return f"{measure.upper()} {convention.upper() if measure == 'psnr' else convention}"


def _digits(metric: str) -> int:
    return 2 if metric.startswith("psnr") else 4


def _cell(value: float | None, digits: int, signed: bool = False) -> str:
    if value is None:
        return "-"
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
