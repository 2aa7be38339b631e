"""The README's tables of blur synthesis, from their results."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

ENGINES = {
    "real": "other real photos",
    "sharp": "none (sharp)",
    "gaussian": "Gaussian kernel",
    "frame_average": "frame averaging",
    "physics_clean": "BlurSynth without sensor",
    "physics_full": "BlurSynth",
    "physics_mixed": "three quarters BlurSynth, a quarter its diffusion engine",
    "gan": "GAN",
}
OUTPUTS = {
    ("physics", None): "physics",
    ("base", "pixels"): "diffusion, small base: pixels",
    ("base", "attributes"): "its attributes",
    ("aligned", "pixels"): "diffusion, aligned to real blur: pixels",
    ("aligned", "attributes"): "its attributes",
}
"""Engines and their outputs in the table of `control`."""


def engines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Figure 3: the picture, and each engine's distances; nothing where it was not measured."""
    if not rows:
        return []
    lines = [
        "### Blur synthesis against real blur",
        "",
        "![One scene blurred by each engine](benchmarks/results/figure3.jpg)",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        lines += [
            "",
            f"| distance from {of_kind[0]['real_photos']} real blurred photos ({kind}) "
            "| Fréchet, spectrum | KID, spectrum | Fréchet, patches | KID, patches |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name in dict.fromkeys(row["engine"] for row in of_kind):
            mine = {row["features"]: row for row in of_kind if row["engine"] == name}
            cells = [
                f"{row['frechet']:.1f} | {row['kid']:.2f} ± {row['kid_stderr']:.2f}"
                for row in (mine["spectrum"], mine["patches"])
            ]
            lines.append(f"| {ENGINES.get(name, name)} | {' | '.join(cells)} |")
    lines += [
        "",
        f"All photos were shrunk to a longer side of {rows[0]['long_side']} px. The rows of a "
        "table have equally many windows of 64 px; standard errors are over photos.",
    ]
    return lines


def family(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How near the camera model comes to measured kernels, beside the usual shapes."""
    if not rows:
        return []
    lines = [
        "| measured kernels | engine: error, PSNR | best Gaussian | best disk |",
        "| --- | --- | --- | --- |",
    ]
    for kind, title in (("shake", "hand shakes (Levin 2009)"), ("lens", "ray-traced lenses")):
        mine = [row for row in rows if row["kind"] == kind]
        cells = []
        for name in ("engine", "gaussian", "disk"):
            error, psnr = (
                statistics.mean(row[value][name] for row in mine)
                for value in ("relative_error", "psnr_db")
            )
            cells.append(f"{100 * error:.1f}%, {psnr:.1f} dB")
        lines.append(f"| {len(mine)} {title} | {' | '.join(cells)} |")
    return lines


def trainings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What tiny learns from each kind of blur, in dB on each set of real pairs."""
    if not rows:
        return []
    sets = list(rows[0]["pairs"])
    titles = [f"{name} ({rows[0]['pairs'][name]})" for name in sets]
    lines = [
        f"| trained on | all real pairs | {' | '.join(titles)} |",
        f"| --- | --- | {' | '.join('---' for _ in sets)} |",
    ]
    for row in rows:
        spread = row["real_pairs_gain_db_std"]
        main = f"{row['real_pairs_gain_db']:+.2f}" + (f" ± {spread:.2f}" if spread else "")
        cells = [f"{row[f'{name}_gain_db']:+.2f}" for name in sets]
        lines.append(f"| {ENGINES[row['training']]} | {main} | {' | '.join(cells)} |")
    first = rows[0]
    seeds = f"mean of {first['seeds']} seeds" if first["seeds"] > 1 else "one seed"
    budget = (
        f"Gain in PSNR (dB) after {first['steps']} steps of {first['batch']} crops of "
        f"{first['crop']} px on {first['trained_on']}, {seeds}."
    )
    return [*lines, "", budget]


def control(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Whether the diffusion engine obeys the camera and keeps the photo."""
    if not rows:
        return []
    lines = [
        "| engine | blur over exposure time | blur over aperture | noise over ISO "
        "| pairs accepted | their low band | shift | Fréchet, spectrum | Fréchet, patches |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, title in OUTPUTS.items():
        mine = [row for row in rows if (row["engine"], row["output"]) == key]
        if not mine:
            continue
        ranks = {row["setting"]: row["rank_correlation"] for row in mine if "setting" in row}
        (kept,) = (row for row in mine if row["question"] == "content")
        settings = ("exposure_s", "f_number", "iso")
        cells = [f"{ranks[name]:.2f}" if name in ranks else "-" for name in settings]
        cells.append(f"{kept['accepted']} of {kept['pairs']}")
        cells += [f"{kept['low_band_psnr_db']:.1f} dB", f"{kept['shift_px']:.2f} px"]
        far = {row["features"]: row["frechet"] for row in mine if "frechet" in row}
        cells += [f"{far[name]:.1f}" if name in far else "-" for name in ("spectrum", "patches")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    first = rows[0]
    told = (
        f"Rank correlations with the prediction of physics, crops of {first['crop']} px, "
        f"{first['steps']} steps of DDIM, photos that no training saw; "
        "Fréchet distances of crops at random places from real blurred photos."
    )
    real = {row["features"]: row for row in rows if row["engine"] == "real"}
    if real:
        means = [f"{real[name]['frechet']:.1f}" for name in ("spectrum", "patches")]
        told += (
            f" {real['spectrum']['photos']} of these, as many as were blurred, are on average "
            f"{' and '.join(means)} from the others: so few hardly come nearer."
        )
    falls = [row for row in rows if row["question"] == "alignment" and row["output"] == "pixels"]
    for row in falls:
        fall = row["frechet_falls_by"]
        told += (
            f" The alignment {'raises' if fall < 0 else 'lowers'} the Fréchet distance from real "
            f"blurred photos ({row['features']}) by {100 * abs(fall):.0f}%."
        )
    return [*lines, "", told]
