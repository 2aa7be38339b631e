"""Objects in photos: the boxes that a network finds, and their mean average precision."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from freqdiff.downstream_models import Network
from freqdiff.errors import InputError

TRUTH_SCORE = 0.5
"""What is found in the sharp photo with at least this score counts as being there."""
_LEAST_SCORE = 0.01
_MOST = 100
_SAME_IOU = 0.5
"""Overlap from which two boxes of one class are one object, where the network leaves both."""
_IOUS = torch.from_numpy(np.linspace(0.5, 0.95, 10))
_RECALLS = torch.from_numpy(np.linspace(0, 1, 101))


@dataclasses.dataclass(frozen=True)
class Detections:
    """Objects of one photo, the most certain first.

    Attributes:
        boxes: (N, 4) left, top, right, bottom in pixels.
        scores: (N,) in [0, 1].
        labels: (N,) int64.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def take(self, index: Tensor) -> Detections:
        """Some of them."""
        return Detections(self.boxes[index], self.scores[index], self.labels[index])


def certain(found: Detections) -> Detections:
    """Those that count as being there."""
    return found.take(found.scores >= TRUTH_SCORE)


def detect(network: Network, image: Tensor) -> Detections:
    """Objects in an image (3, H, W).

    The outputs decide what kind of network it is: `logits` and `pred_boxes` as of DETR and its kin,
    `boxes`, `scores` and `labels`, one output (1, 4 + C, N) as of YOLO, or one of (1, 5 + C, h, w)
    as of FastestDet.

    Raises:
        InputError: other outputs.
    """
    outputs = network(image)
    rows, columns = (int(n) for n in outputs.pop("input"))
    no_object = bool(outputs.pop("no_object"))
    size = torch.tensor([columns, rows, columns, rows], dtype=torch.float32)
    first = next(iter(outputs.values()))
    if {"logits", "pred_boxes"} <= outputs.keys():
        found = _of_queries(outputs["logits"][0], outputs["pred_boxes"][0], no_object)
    elif {"boxes", "scores", "labels"} <= outputs.keys():
        boxes, scores, labels = (
            outputs[name].reshape(-1, 4) if name == "boxes" else outputs[name].flatten()
            for name in ("boxes", "scores", "labels")
        )
        found = Detections(boxes.float() / size, scores.float(), labels.long())
    elif len(outputs) == 1 and first.ndim == 3 and first.shape[1] > 4:
        scores, labels = first[0, 4:].max(0)
        found = _suppressed(_corners(first[0, :4].mT / size), scores, labels)
    elif len(outputs) == 1 and first.ndim == 4 and first.shape[1] > 5:
        found = _of_grid(first[0])
    else:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in outputs.items())
        raise InputError(
            f"The detector gives {shapes}: expected logits and pred_boxes, or boxes, scores and "
            "labels, or one output (1, 4 + classes, N) or (1, 5 + classes, h, w)."
        )
    height, width = image.shape[1:]
    scaled = found.boxes * torch.tensor([width, height, width, height], dtype=torch.float32)
    order = found.scores.argsort(descending=True, stable=True)[:_MOST]
    found = Detections(scaled, found.scores, found.labels).take(order)
    return found.take(found.scores >= _LEAST_SCORE)


def _corners(boxes: Tensor) -> Tensor:
    """(N, 4) middle x, middle y, width, height -> left, top, right, bottom."""
    middle, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat((middle - half, middle + half), 1)


def _of_queries(logits: Tensor, boxes: Tensor, no_object: bool) -> Detections:
    """Of a set of queries, with "nothing" as their last class or a chance for each class."""
    shares = logits.softmax(-1)[:, :-1] if no_object else logits.sigmoid()
    scores, labels = shares.max(-1)
    return Detections(_corners(boxes), scores, labels)


def _of_grid(maps: Tensor) -> Detections:
    """(5 + C, h, w): certainty of an object, its place in the cell, its size, its classes."""
    rows, columns = maps.shape[1:]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    best, labels = maps[5:].max(0)
    scores = maps[0].clamp_min(0) ** 0.6 * best.clamp_min(0) ** 0.4
    middle_x, middle_y = (x + maps[1].tanh()) / columns, (y + maps[2].tanh()) / rows
    boxes = torch.stack((middle_x, middle_y, maps[3].sigmoid(), maps[4].sigmoid()), -1)
    return _suppressed(_corners(boxes.flatten(0, 1)), scores.flatten(), labels.flatten())


def _suppressed(boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
    """Without boxes that overlap a more certain one of their class."""
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if scores[index] < _LEAST_SCORE or len(kept) == _MOST:
            break
        same = [other for other in kept if labels[other] == labels[index]]
        if not same or float(overlaps(boxes[[index]], boxes[same]).max()) < _SAME_IOU:
            kept.append(index)
    return Detections(boxes, scores, labels).take(torch.tensor(kept, dtype=torch.long))


def overlaps(some: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) and (M, 4): (N, M)."""
    low = torch.maximum(some[:, None, :2], others[:, :2])
    high = torch.minimum(some[:, None, 2:], others[:, 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(-1) for boxes in (some, others)]
    return shared / (areas[0][:, None] + areas[1] - shared).clamp_min(1e-12)


def score(truths: Sequence[Detections], found: Sequence[Detections]) -> float | None:
    """`mean_average_precision` against what is certain in the truth."""
    return mean_average_precision([certain(truth) for truth in truths], found)


def mean_average_precision(
    truths: Sequence[Detections], found: Sequence[Detections]
) -> float | None:
    """COCO's AP: mean over classes and over overlaps of 0.5 to 0.95 from which a box is right.

    Precision is the largest at any recall from the one in question on, averaged over 101 recalls.
    Each photo has a truth and what was found, at most 100 boxes of a class. None without truths.
    """
    classes = sorted({int(label) for truth in truths for label in truth.labels})
    values = [_average_precision(label, truths, found) for label in classes]
    return float(torch.stack(values).mean()) if values else None


def _average_precision(
    label: int, truths: Sequence[Detections], found: Sequence[Detections]
) -> Tensor:
    """Mean over the overlaps."""
    right, certainty, count = [], [], 0
    for truth, guess in zip(truths, found, strict=True):
        truth = truth.take(truth.labels == label)
        guess = guess.take(guess.labels == label)
        guess = guess.take(guess.scores.argsort(descending=True, stable=True)[:_MOST])
        count += len(truth.scores)
        certainty.append(guess.scores.double())
        right.append(torch.stack(list(_matched(truth.boxes, guess.boxes))))
    order = torch.cat(certainty).argsort(descending=True, stable=True)
    hits = torch.cat(right, 1)[:, order].double().cumsum(1)
    recall = hits / count
    precision = hits / torch.arange(1, hits.shape[1] + 1, dtype=torch.float64)
    precision = precision.flip(1).cummax(1).values.flip(1)
    # The first place where a recall is reached; precision 0 where it never is.
    place = torch.searchsorted(recall.contiguous(), _RECALLS.expand(len(_IOUS), -1).contiguous())
    padded = torch.nn.functional.pad(precision, (0, 1))
    return padded.gather(1, place.clamp_max(hits.shape[1])).mean()


def _matched(truth: Tensor, guess: Tensor) -> Iterator[Tensor]:
    """For each overlap, which guesses (the most certain first) are right; a truth counts once."""
    overlap = overlaps(guess.double(), truth.double())
    for least in _IOUS:
        free = torch.ones(len(truth), dtype=torch.bool)
        right = torch.zeros(len(guess), dtype=torch.bool)
        for row in range(len(guess)):
            value = torch.where(free, overlap[row], -1.0)
            if len(truth) and float(value.max()) >= float(least):
                right[row] = True
                free[value.argmax()] = False
        yield right
