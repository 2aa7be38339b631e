"""Writes the README's tables from benchmarks/results/*.json: `python -m benchmarks.readme`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`; with `--check` nothing is written and
the exit code says whether the README is up to date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import blur_tables, comparison, roofline
from benchmarks.harness import RESULTS

README = Path(__file__).parents[1] / "README.md"
TITLES = {
    "evaluate_validation": "8 held-out 4K photos, 5 simulated blurs each",
    "evaluate_reds_320x180": "REDS, real video blur, 320x180",
    "evaluate_gopro": "GoPro, one frame of real camera motion",
    "evaluate_levin": "Levin 2009, measured camera shake",
}


def read(name: str) -> dict[str, Any]:
    """A results file, or an empty one where it was not measured."""
    path = RESULTS / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def quality() -> list[str]:
    """One row per data set: input and output, never the output alone."""
    lines = [
        "| test set | photos | steps | PSNR in -> out (dB) | gain | SSIM matlab3d in -> out |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, title in TITLES.items():
        if not (row := read(name)):
            continue
        before, after = row["input"], row["output"]
        title += ", up to a shift" if row.get("aligned") else ""
        title += ", in linear light" if row.get("linear") else ""
        lines.append(
            f"| {title} | {row['count']} | {row['steps']} "
            f"| {before['psnr_rgb']:.2f} -> {after['psnr_rgb']:.2f} "
            f"| {row['gain']['psnr_rgb']:+.2f} "
            f"| {before['ssim_matlab3d']:.4f} -> {after['ssim_matlab3d']:.4f} |"
        )
    if row := read("evaluate_unharmed"):
        came_back = f"{row['unchanged']} unchanged, the others "
        lines.append(
            f"| {row['count']} sharp 4K photos: result against the photo itself | {row['count']} "
            f"| {row['steps']} | {came_back if row['unchanged'] else ''}"
            f"{row['output']['psnr_rgb']:.2f} (worst {row['worst']['psnr_rgb']:.2f}) | "
            f"| {row['output']['ssim_matlab3d']:.4f} |"
        )
    return [*lines, "", source(read("evaluate_validation"))]


def steps() -> list[str]:
    """What more sampling steps give and cost."""
    rows = roofline.read(RESULTS / "steps.json")
    if not rows:
        return []
    lines = [
        "| steps | PSNR (dB) | SSIM matlab3d | fine texture against the truth (dB) | NIQE |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            str(row["steps"]) if row["steps"] else "blurred photo",
            f"{row['psnr_rgb']:.2f}",
            f"{row['ssim_matlab3d']:.4f}",
            f"{row['spectrum_bias_db']:+.1f}",
            f"{row['niqe']:.2f}" if "niqe" in row else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"Means over {rows[0]['crops']} crops of {rows[0]['crop']} px of held-out photos with "
        "simulated blur.",
        "",
        "![PSNR and texture over the number of steps](benchmarks/results/steps.png)",
        "",
        source(rows[0]["provenance"]),
    ]


def downstream() -> list[str]:
    """What a program sees in blurred photos and in results, against what it sees in sharp ones."""
    rows = roofline.read(RESULTS / "downstream.json")
    if not rows:
        return []
    titles = {
        "reds_320x180": "REDS, real video blur, 320x180",
        "gopro": "GoPro, one frame of real camera motion",
        "simulated": "held-out 4K photos, simulated camera blur",
        "pages": "pages of text, simulated camera blur",
    }
    lines = [
        "| photos | found in the sharp ones | score | blurred -> result | recovered |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        summary, title = row["downstream"], titles.get(row["set"], row["set"])
        share = summary["recovered"]
        lines.append(
            f"| {row['count']} {title} | {summary['amount']} {summary['unit']} "
            f"| {summary['metric']} | {100 * summary['input']:.1f}% -> "
            f"{100 * summary['output']:.1f}% | {'' if share is None else f'{100 * share:.0f}%'} |"
        )
    return [*lines, "", source(rows[0]["provenance"])]


def self_check() -> list[str]:
    """How well a result knows where it is wrong."""
    if not (row := read("self_check")):
        return []
    return [
        f"Over the {row['cells']} cells of {row['crops']} blurred crops of held-out photos, the "
        f"expected error goes with the true one with a rank correlation of "
        f"{row['rank_correlation']:.2f}; in the mean it is {row['mean_expected_error']:.1f} levels "
        f"of 255, and the true one {row['mean_error']:.1f}.",
        "",
        source(row["provenance"]),
    ]


def reliability() -> list[str]:
    """What damaged files and killed batches led to, and the memory of large photos."""
    lines = []
    if fuzzed := read("fuzz"):
        counts = fuzzed["counts"]
        lines += [
            f"* {fuzzed['files']} damaged photo files made from {fuzzed['formats']} kinds: "
            f"{counts.get('refused', 0)} were refused with one sentence, the others could be read; "
            f"{counts.get('crash', 0)} crashes, {counts.get('finding', 0)} other findings.",
            "",
            source(fuzzed["provenance"]),
        ]
    if killed := read("kills"):
        lines += [
            f"* A batch of {killed['photos']} photos that was killed {killed['kills']} times at "
            f"any moment: {len(killed['lost'])} results were lost or half written, and the next "
            "run completed the rest with the very files of an undisturbed run.",
            "",
            source(killed["provenance"]),
        ]
    if used := read("load"):
        counts, growth = used["counts"], used["growth"]
        kinds = ", ".join(f"{counts[kind]:,} {kind}" for kind in sorted(counts, key=counts.get))
        lines += [
            f"* {used['minutes'] / 60:.1f} hours of mixed use of the web page and the Python API "
            f"({kinds}): {len(used['findings'])} findings; the memory of the server changed by "
            f"{100 * growth['server']:+.1f}%, to {used['memory_mb']['server'][-1]:.0f} MB, that of "
            f"the program by {100 * growth['api']:+.1f}%.",
            "",
            source(used["provenance"]),
        ]
    if measured := read("memory"):
        for row in measured["rows"]:
            limit = row["limit_bytes"]
            lines.append(
                f"* A photo of {row['width']}x{row['height']} "
                + (f"that was to keep to {limit / 1e9:.1f} GB " if limit else "without a limit ")
                + f"took {row['peak_bytes'] / 1e9:.1f} GB."
            )
        lines += ["", source(measured["provenance"])]
    return lines


def speed() -> list[str]:
    """Whole photos on the CPU and, if measured, on a GPU."""
    lines = [
        "| photo | steps | device | seconds | peak memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    results = [roofline.read(RESULTS / f"deblur_{device}.json") for device in ("cpu", "gpu")]
    for row in (row for rows in results for row in rows):
        memory = f"{row.get('peak_gpu_gb', row['peak_rss_gb']):.2f} GB"
        device = f"CPU, {row['threads']} threads" if row["device"] == "cpu" else "GPU"
        photo = row["case"].split(",")[0]
        lines.append(f"| {photo} | {row['steps']} | {device} | {row['median_s']:.2f} | {memory} |")
    if not results[1]:
        lines.append("| any | | GPU | not measured | |")
    return [*lines, *sources(results)]


def synthesis() -> list[str]:
    """How fast pairs are made."""
    results = [roofline.read(RESULTS / f"blursynth_{device}.json") for device in ("cpu", "gpu")]
    if not any(results):
        return []
    lines = [
        "| blur synthesis | case | device | speed | peak memory |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in (row for rows in results for row in rows):
        memory = f"{row['peak_rss_gb']:.2f} GB" if "peak_rss_gb" in row else ""
        if row["op"] == "frame":
            what, device = f"{row['size']} pair", f"CPU, {row['threads']} threads"
            speed = f"{row['median_s']:.2f} s"
        elif "crops_per_s" in row:
            what, device = "training crops of 256 px", f"CPU, {row['workers']} processes"
            if row["case"] == "cuda":
                what, device = "training crops of 256 px, on the GPU already", "GPU"
            speed = f"{row['crops_per_s']:.0f} per second"
        elif row["op"] == "build":
            what, device = (
                f"{row['pairs']} pairs of 256 px, built",
                f"CPU, {row['workers']} processes",
            )
            speed = f"{row['pairs_per_s']:.0f} per second"
        else:
            continue
        case = row["case"] if row["op"] == "frame" else "random recipe"
        lines.append(f"| {what} | {case} | {device} | {speed} | {memory} |")
    if not results[1]:
        lines.append("| any | | GPU | not measured | |")
    return [*lines, *sources(results)]


def kernels() -> list[str]:
    """Each operation, forward and with all threads, against what else one would write."""
    lines = [
        "| operation | case | device | times the copy floor | faster than |",
        "| --- | --- | --- | --- | --- |",
    ]
    results = [roofline.read(RESULTS / f"kernels_{device}.json") for device in ("cpu", "gpu")]
    results = [[row for row in rows if row["direction"] == "forward"] for rows in results]
    most = max((row["threads"] for row in results[0]), default=1)
    results[0] = [row for row in results[0] if row["threads"] == most]
    for row in (row for rows in results for row in rows):
        how = f"{row['threads']} threads" if row["device"] == "cpu" else row["backend"]
        device = f"{row['provenance']['device']}, {how}"
        case = f"{row['case']}, {row['dtype']}"
        ratio = row["median_us"] / row["floor_us"]
        against = ", ".join(f"{name} {ratio:.1f}x" for name, ratio in row["speedup"].items())
        lines.append(f"| {row['op']} | {case} | {device} | {ratio:.1f} | {against} |")
    if not results[1]:
        lines.append("| all | | GPU | not measured | |")
    return [*lines, *sources(results)]


def sources(results: list[list[dict[str, Any]]]) -> list[str]:
    """Where the numbers of a table of several devices come from."""
    told = dict.fromkeys(source(row["provenance"]) for rows in results for row in rows)
    return [line for one in told for line in ("", one)]


def compared(name: str, render: Callable[[list[dict[str, Any]]], list[str]]) -> list[str]:
    """A table of `comparison` or `blur_tables`, and where its numbers come from."""
    rows = roofline.read(RESULTS / f"{name}.json")
    return [*render(rows), *sources([rows])]


def source(provenance: dict[str, Any]) -> str:
    """Where the numbers of a table come from."""
    device = provenance.get("device_name") or provenance.get("device", "unknown device")
    commit = str(provenance.get("git_sha") or provenance.get("git") or "unknown")[:10]
    date = str(provenance.get("date", "unknown"))[:10]
    torch = provenance.get("torch", "unknown")
    return f"*Measured on {date}, {device}, torch {torch}, commit {commit}.*"


def render(text: str) -> str:
    """The README with its tables replaced."""
    tables = {
        "quality": quality(),
        "check": self_check(),
        "steps": steps(),
        "reliability": reliability(),
        "table1": compared("table1", comparison.table1),
        "downstream": downstream(),
        "trainings": compared("table_blur", blur_tables.trainings),
        "ablations": compared("ablations", comparison.ablations),
        "engines": compared("blur_engines", blur_tables.engines),
        "family": compared("psf_family", blur_tables.family),
        "mixed": compared("table_mixed", blur_tables.trainings),
        "control": compared("diffusion_control", blur_tables.control),
        "speed": speed(),
        "synthesis": synthesis(),
        "kernels": kernels(),
    }
    for name, lines in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin not in text:
            raise SystemExit(f"README.md has no place for the table {name!r}: add {begin} {end}.")
        block = "\n".join([begin, *lines, end])
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text = re.sub(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def main() -> None:
    """Rewrite the README, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    new = render(text)
    if options.check and new != text:
        sys.exit("README.md is not up to date: run `make results`.")
    if not options.check:
        README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
