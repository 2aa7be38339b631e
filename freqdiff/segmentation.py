"""What each pixel of a photo shows: the classes that a network sees, and their overlap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from freqdiff.downstream_models import Network
from freqdiff.errors import InputError


def segment(network: Network, image: Tensor) -> Tensor:
    """Class of each pixel (H, W) int64 of an image (3, H, W).

    The network gives `logits`, or one output, of (1, C, h, w), or the classes themselves as
    (1, h, w).

    Raises:
        InputError: other outputs.
    """
    outputs = network(image)
    del outputs["input"], outputs["no_object"]
    values = outputs.get("logits", next(iter(outputs.values())))
    size = (image.shape[1], image.shape[2])
    if values.ndim == 4 and len(values) == 1 and values.shape[1] > 1:
        return F.interpolate(values.float(), size, mode="bilinear")[0].argmax(0)
    if values.ndim == 3 and len(values) == 1 and not values.is_floating_point():
        return F.interpolate(values[None].double(), size, mode="nearest")[0, 0].long()
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in outputs.items())
    raise InputError(
        f"The segmenter gives {shapes}: expected logits (1, classes, h, w), or whole numbers "
        "(1, h, w)."
    )


def score(truths: Sequence[Tensor], found: Sequence[Tensor]) -> float | None:
    """Mean intersection over union of the classes, each over all photos.

    A class counts that is in the truth or was found. None without photos.
    """
    if not truths:
        return None
    count = 1 + max(int(classes.max()) for classes in (*truths, *found))
    pairs = zip(truths, found, strict=True)
    confusion = torch.zeros(count, count, dtype=torch.int64)
    for truth, guess in pairs:
        index = (truth * count + guess).flatten()
        confusion += torch.bincount(index, minlength=count**2).view(count, count)
    shared = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - shared
    there = union > 0
    return float((shared[there].double() / union[there]).mean())
