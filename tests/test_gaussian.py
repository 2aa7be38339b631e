"""Gaussian smoothing of planes."""

from __future__ import annotations

import pytest
import torch

from freqdiff.gaussian import smooth


def test_an_impulse_becomes_the_gaussian() -> None:
    plane = torch.zeros(2, 1, 11, 13, dtype=torch.float64)
    plane[1, 0, 5, 6] = 1
    found = smooth(plane, 1.3, 3)
    line = torch.exp(-0.5 * (torch.arange(-3.0, 4.0, dtype=torch.float64) / 1.3) ** 2)
    expected = torch.outer(line, line)
    torch.testing.assert_close(found[1, 0, 2:9, 3:10], expected / expected.sum())
    assert float(found.sum()) == pytest.approx(1)
    assert not found[0].any()


def test_what_lies_outside() -> None:
    flat = torch.ones(1, 1, 9, 9)
    torch.testing.assert_close(smooth(flat, 2.0, 4), flat)
    dark = smooth(flat, 2.0, 4, "constant")
    assert float(dark[0, 0, 4, 4]) == pytest.approx(1)
    assert float(dark[0, 0, 0, 0]) < 0.5
