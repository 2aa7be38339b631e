"""`freqdiff evaluate`: PSNR and SSIM of a model on pairs, sharp photos or synthetic blur."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freqdiff.arguments import whole_number
from freqdiff.cli_base import add_model_options, complain
from freqdiff.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from freqdiff.evaluate import Sample

SUMMARY = "measure PSNR and SSIM of a model"
USAGE = """\
(--pairs BLURRED SHARP | --dataset NAME ROOT |
                          --unharmed DIR | --synthetic DIR) [options]"""
EXAMPLES = """\
examples:
  freqdiff evaluate --pairs blurred sharp --json
  freqdiff evaluate --dataset gopro GOPRO_Large
  freqdiff evaluate --unharmed photos --steps 4
  freqdiff evaluate --synthetic photos --seed 1 --output results.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument(
        "--pairs",
        nargs=2,
        metavar=("BLURRED", "SHARP"),
        help="two folders, matched by the names of their photos",
    )
    kinds.add_argument(
        "--dataset",
        nargs=2,
        metavar=("NAME", "ROOT"),
        help="gopro, hide, realblur_j, realblur_r, rsblur, reds, uhd_blur or "
        "blursynth, by its own protocol",
    )
    kinds.add_argument("--unharmed", metavar="DIR", help="sharp photos, which should stay so")
    kinds.add_argument(
        "--synthetic", metavar="DIR", help="sharp photos, to be blurred by BlurSynth"
    )
    parser.add_argument(
        "--align",
        action="store_true",
        help="compare at the best shift of up to 5 px (Levin 2009)",
    )
    parser.add_argument(
        "--linear",
        action="store_true",
        help="the pairs hold linear light, as raw data (Levin 2009)",
    )
    parser.add_argument(
        "--downstream",
        choices=("detection", "segmentation", "ocr"),
        metavar="TASK",
        help="also what detection, segmentation or ocr loses",
    )
    parser.add_argument(
        "--downstream-model",
        metavar="MODEL",
        help="ONNX file, folder or name of transformers' model",
    )
    parser.add_argument(
        "--draws", type=whole_number(1), default=1, metavar="N", help="blurs of each photo (1)"
    )
    add_model_options(parser)
    parser.add_argument(
        "--limit", type=whole_number(1), metavar="N", help="only the first N photos"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output", metavar="FILE", help="write the JSON object to a file")
    parser.add_argument("--save", metavar="DIR", help="write the results as PNG")


def run(arguments: argparse.Namespace) -> int:
    """Measure and report; returns the exit code."""
    from tqdm import tqdm

    from freqdiff.atomic import write_atomically
    from freqdiff.batch import check_writable
    from freqdiff.deblurrer import load
    from freqdiff.downstream import load_task
    from freqdiff.evaluate import measure
    from freqdiff.info import model_facts, peak_memory, provenance
    from freqdiff.report import summarize, table

    output = None if arguments.output is None else Path(arguments.output)
    save = None if arguments.save is None else Path(arguments.save)
    if output is not None:
        check_writable(output)
    if save is not None:
        _check_save(save, arguments)
    if arguments.align and arguments.dataset is not None:
        raise InputError("--align does not go with --dataset, which has a protocol of its own.")
    if arguments.linear and arguments.pairs is None:
        raise InputError("--linear goes with --pairs, whose photos it is about.")
    if arguments.draws > 1 and arguments.synthetic is None:
        raise InputError("--draws goes with --synthetic, whose photos are blurred.")
    if arguments.downstream_model is not None and arguments.downstream is None:
        raise InputError("--downstream-model goes with --downstream, which says what it does.")
    kind, count, facts, samples = _samples(arguments)
    protocol = facts.setdefault("protocol", "shift" if arguments.align else "plain")
    model = load(arguments.model, arguments.device)
    task = None
    if arguments.downstream is not None:
        device = str(model.device)
        task = load_task(arguments.downstream, arguments.downstream_model, device)
    settings = {name: getattr(arguments, name) for name in ("steps", "seed", "tile", "ensemble")}
    bar = tqdm(samples, total=count, desc=kind, unit="photo", leave=False, disable=None)
    scores = [
        measure(sample, model, **settings, save=save, protocol=protocol, task=task)
        for sample in bar
    ]
    facts |= {
        "model": arguments.model,
        "model_sha256": model_facts(arguments.model)["sha256"],
        **settings,
        "aligned": arguments.align,
        "linear": arguments.linear,
        "steps": arguments.steps or model.denoiser.config.default_steps,
        **provenance(model.device),
        "peak_memory_bytes": peak_memory(model.device),
    }
    if task is not None:
        facts["downstream_model"] = arguments.downstream_model and _label(
            Path(arguments.downstream_model)
        )
    report = summarize(kind, scores, facts, task)
    text = json.dumps(report, indent=2, allow_nan=False)
    if output is not None:
        write_atomically(output, f"{text}\n".encode())
    print(text if arguments.json else table(report))
    return 0


def _samples(
    arguments: argparse.Namespace,
) -> tuple[str, int, dict[str, Any], Iterator[Sample]]:
    """Kind, number, facts about the data, and the samples."""
    from freqdiff.evaluate import pair_samples, sharp_samples, synthetic_samples
    from freqdiff.pairs import match_pairs, photos_in

    if arguments.pairs is not None:
        blurred, sharp = (Path(name) for name in arguments.pairs)
        pairing = match_pairs(blurred, sharp)
        if pairing.rule != "equal names":
            complain(f"Note: names differ, so pairs were matched by {pairing.rule}.")
        pairs = pairing.pairs[: arguments.limit]
        data = {"data": [_label(blurred), _label(sharp)], "matched_by": pairing.rule}
        samples = pair_samples(pairs, blurred, linear=arguments.linear)
        return "pairs", len(pairs), data, samples
    if arguments.dataset is not None:
        from freqdiff.datasets import find_pairs

        name, root = arguments.dataset[0], Path(arguments.dataset[1])
        found = find_pairs(name, root)
        if found.note is not None:
            complain(f"Note: {found.note[0].lower()}{found.note[1:]}")
        pairs = found.pairs[: arguments.limit]
        data = {"data": [_label(root)], "dataset": name, "protocol": found.protocol}
        return "pairs", len(pairs), data, pair_samples(pairs, root)
    folder = Path(arguments.unharmed or arguments.synthetic)
    paths = photos_in(folder)[: arguments.limit]
    data = {"data": [_label(folder)]}
    if arguments.unharmed is not None:
        return "unharmed", len(paths), data, sharp_samples(paths, folder)
    draws = arguments.draws
    samples = synthetic_samples(paths, folder, arguments.seed, draws)
    return "synthetic", len(paths) * draws, {**data, "draws": draws}, samples


def _check_save(save: Path, arguments: argparse.Namespace) -> None:
    """Refuse to write results among the photos that are measured."""
    from freqdiff.batch import check_writable

    check_writable(save / "file")
    dataset = (arguments.dataset or (None, None))[1]
    for name in (*(arguments.pairs or ()), dataset, arguments.unharmed, arguments.synthetic):
        if name is not None and save.resolve() == Path(name).resolve():
            raise InputError(
                f"--save is {str(save)!r}, which holds photos to measure: give another folder."
            )


def _label(folder: Path) -> str:
    """The end of a folder's path: enough to tell data sets apart, and nothing of the machine."""
    return "/".join(folder.resolve().parts[-2:])
