"""What blur costs a program that looks at photos, and how much of it a result gives back.

The program's own answer for the sharp photo is the truth, so no annotations are needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from freqdiff import detection, reading, segmentation
from freqdiff.downstream_models import load_network
from freqdiff.errors import InputError

Kind = Literal["detection", "segmentation", "ocr"]
KINDS: tuple[Kind, ...] = ("detection", "segmentation", "ocr")


@dataclasses.dataclass(frozen=True)
class Task:
    """A program and how its answers are compared.

    Attributes:
        kind: see `KINDS`.
        metric: name of the score.
        unit: what `amount` counts.
        observe: answer for an image (3, H, W) in [0, 1].
        score: of answers against those for the sharp photos, photo by photo, in [0, 1]; None where
            the sharp photos hold nothing to be found.
        amount: how much a sharp photo's answer holds.
    """

    kind: Kind
    metric: str
    unit: str
    observe: Callable[[Tensor], Any]
    score: Callable[[Sequence[Any], Sequence[Any]], float | None]
    amount: Callable[[Any], int]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a program makes of the sharp photo, the blurred one and the result."""

    sharp: Any
    input: Any
    output: Any


def load_task(kind: Kind, model: str | None, device: str = "cpu") -> Task:
    """A task by name.

    Args:
        kind: see `KINDS`.
        model: an ONNX file, a folder of a model of transformers, or its name on the hub; "ocr"
            brings its own.
        device: for models of transformers.

    Raises:
        InputError: the model is missing, not needed, or cannot be used.
    """
    if kind == "ocr":
        if model is not None:
            raise InputError("--downstream ocr brings its own models: leave out the model.")
        reader, score, amount = reading.rapid_reader(), reading.score, len
        return Task(kind, "character accuracy", "characters", reader, score, amount)
    if model is None:
        raise InputError(
            f"--downstream {kind} needs a model: give an ONNX file, a folder of a model of "
            "transformers, or its name on the hub with --downstream-model."
        )
    network = load_network(kind, model, device)
    if kind == "detection":
        return Task(
            kind,
            "mAP",
            "objects",
            lambda image: detection.detect(network, image),
            detection.score,
            lambda found: len(detection.certain(found).scores),
        )
    return Task(
        kind,
        "mIoU",
        "classes",
        lambda image: segmentation.segment(network, image),
        segmentation.score,
        lambda classes: len(classes.unique()),
    )


def summarize(task: Task, answers: Sequence[Answers]) -> dict[str, Any]:
    """Scores over all photos, ready for JSON, and the share of the loss that is recovered.

    `recovered` is (output - input) / (sharp - input): null where blur cost nothing.
    """
    truths = [answer.sharp for answer in answers]
    amounts = [task.amount(truth) for truth in truths]
    scores = {
        side: task.score(truths, [getattr(answer, side) for answer in answers])
        for side in ("sharp", "input", "output")
    }
    recovered = None
    before, after, best = scores["input"], scores["output"], scores["sharp"]
    if before is not None and after is not None and best is not None and before < best:
        recovered = (after - before) / (best - before)
    return {
        "task": task.kind,
        "metric": task.metric,
        "unit": task.unit,
        "amount": sum(amounts),
        "photos": sum(amount > 0 for amount in amounts),
        **scores,
        "recovered": recovered,
    }


def line(summary: dict[str, Any]) -> str:
    """A summary for people."""

    def percent(share: float | None) -> str:
        return "-" if share is None else f"{100 * share:.0f}%"

    return (
        f"{summary['metric']} against the sharp photos ({summary['amount']} {summary['unit']} on "
        f"{summary['photos']}): {percent(summary['input'])} -> {percent(summary['output'])}, "
        f"{percent(summary['recovered'])} of the loss recovered"
    )
