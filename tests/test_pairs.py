"""Matching of blurred and sharp photos by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from freqdiff.errors import InputError
from freqdiff.pairs import match_pairs, photos_in


def folders(tmp_path: Path, blurred: str, sharp: str) -> tuple[Path, Path]:
    """Make two folders of empty files; only their names count here."""
    for folder, names in (("blurred", blurred), ("sharp", sharp)):
        (tmp_path / folder).mkdir()
        for name in names.split():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return tmp_path / "blurred", tmp_path / "sharp"


@pytest.mark.parametrize(
    ("blurred", "sharp", "rule", "expected"),
    [
        ("b.png a.png", "a.jpg b.tif c.png", "equal names", "a.png-a.jpg b.png-b.tif"),
        ("x/1.png y/1.png", "x/1.png y/1.png", "equal names", "x/1.png-x/1.png y/1.png-y/1.png"),
        ("a.png b.png", "truth.png", "one sharp photo for all", "a.png-truth.png b.png-truth.png"),
        (
            "im1_k1.png im1_k2.png im10_k1.png",
            "im1.png im10.png",
            "sharp names that start the blurred ones",
            "im1_k1.png-im1.png im1_k2.png-im1.png im10_k1.png-im10.png",
        ),
        (
            "a_x_1.png a_1.png",
            "a.png a_x.png",
            "sharp names that start the blurred ones",
            "a_1.png-a.png a_x_1.png-a_x.png",
        ),
        (
            "blur10.png blur2.png",
            "sharp2.png sharp10.png",
            "natural order",
            "blur2.png-sharp2.png blur10.png-sharp10.png",
        ),
    ],
)
def test_rules(tmp_path: Path, blurred: str, sharp: str, rule: str, expected: str) -> None:
    left, right = folders(tmp_path, blurred, sharp)
    pairing = match_pairs(left, right)
    assert pairing.rule == rule
    found = [f"{a.relative_to(left)}-{b.relative_to(right)}" for a, b in pairing.pairs]
    assert found == expected.split()


@pytest.mark.parametrize(
    ("blurred", "sharp", "word"),
    [
        ("a.png b.png c.png", "a.png b.png d.png", "matches 'c.png'"),
        ("a.png b.png", "a_1.png b_1.png c_1.png", "2 blurred, 3 sharp"),
        ("1.png 2.png 3.png 4.png 5.png", "x.png y.png", "and 2 more"),
        ("a.png a.jpg", "a.png", "2 photos called 'a'"),
        ("a.png", "a.png a.jpg", "2 photos called 'a'"),
        ("", "a.png", "holds no photos"),
        ("a.png", "a.txt", "holds no photos"),
    ],
)
def test_what_does_not_match(tmp_path: Path, blurred: str, sharp: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as error:
        match_pairs(*folders(tmp_path, blurred, sharp))
    assert str(error.value).endswith(".")


def test_photos_come_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.png", "9.png", "a2b.png", "a10b.png", "a2.png"):
        (tmp_path / name).touch()
    names = [path.name for path in photos_in(tmp_path)]
    assert names == ["9.png", "10.png", "a2.png", "a2b.png", "a10b.png"]
    with pytest.raises(InputError, match="not a folder"):
        photos_in(tmp_path / "9.png")
