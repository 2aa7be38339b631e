"""The public test sets of deblurring, read from the folders in which they are published.

| name         | test split      | blurred -> sharp                                        |
| ------------ | --------------- | ------------------------------------------------------- |
| `gopro`      | 1111, Nah 2017  | `test/*/blur/*` -> `test/*/sharp/*`, never `blur_gamma` |
| `hide`       | 2025, Shen 2019 | `test/test-*/*` (two folders) -> `GT/*`                 |
| `realblur_j` | 980, Rim 2020   | the pairs that `RealBlur_J_test_list.txt` names         |
| `realblur_r` | 980, Rim 2020   | the pairs that `RealBlur_R_test_list.txt` names         |
| `rsblur`     | 3360, Rim 2022  | the pairs that `RSBlur_real_test.txt` names             |
| `reds`       | 3000, Nah 2019  | `val/val_blur/*/*` -> `val/val_sharp/*/*`               |
| `uhd_blur`   | 300, Wang 2024  | `testing_set/input/*` -> `testing_set/gt/*`             |
| `blursynth`  | ours            | `blur/*` -> `sharp/*` beside `metadata.jsonl`           |

GoPro, HIDE and RealBlur are also read as others have packed their test splits again: `input/*` ->
`target/*`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from freqdiff.errors import InputError
from freqdiff.pairs import natural
from freqdiff.photo import INPUT_SUFFIXES


@dataclasses.dataclass(frozen=True)
class Tree:
    """Folders of pairs: the blurred photos, and how their paths turn into those of the sharp ones.

    Attributes:
        blurred: pattern of the blurred photos within the root, one `*` for each folder or name.
        sharp: pattern of the sharp ones; its last `*`s stand for the same as those of `blurred`.
    """

    blurred: str
    sharp: str


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is known about a public test set.

    Attributes:
        title: its usual name.
        count: pairs in its published test split; None where there is none.
        trees: the folders in which it comes; one of them must be there, and no other.
        listing: the file in the root that names the pairs, sharp photo first, one pair a line.
        list_source: where that file is from.
        folder: where the photos of the listing lie, for messages.
        protocol: how its results are compared, see `freqdiff.protocol`.
        needs: a file that must be there.
        never: a folder name that is like the right one, and what is wrong with it.
    """

    title: str
    count: int | None
    trees: tuple[Tree, ...] = ()
    listing: str | None = None
    list_source: str = ""
    folder: str = ""
    protocol: str = "plain"
    needs: str | None = None
    never: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True)
class Found:
    """The pairs of a test set.

    Attributes:
        pairs: (blurred, sharp) in natural order.
        protocol: how they are to be compared, see `freqdiff.protocol`.
        note: a sentence where the number of pairs is not that of the published split.
    """

    pairs: tuple[tuple[Path, Path], ...]
    protocol: str
    note: str | None


_PACKED = Tree("input/*", "target/*")


def _realblur(kind: str, folder: str) -> Benchmark:
    return Benchmark(
        f"RealBlur-{kind}",
        980,
        (_PACKED,),
        f"RealBlur_{kind}_test_list.txt",
        "the RealBlur archive",
        folder,
        "registered",
    )


DATA_SETS = {
    "gopro": Benchmark(
        "GoPro",
        1111,
        (Tree("test/*/blur/*", "test/*/sharp/*"), _PACKED),
        never=("test/*/blur_gamma/*", "'blur_gamma' is another blur, worth about 3 dB"),
    ),
    "hide": Benchmark("HIDE", 2025, (Tree("test/test-*/*", "GT/*"), _PACKED)),
    "realblur_j": _realblur("J", "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"),
    "realblur_r": _realblur("R", "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref"),
    "rsblur": Benchmark(
        "RSBlur",
        3360,
        listing="RSBlur_real_test.txt",
        list_source="datalist/RSBlur of its repository",
        folder="RSBlur",
        protocol="registered",
    ),
    "reds": Benchmark("REDS", 3000, (Tree("val/val_blur/*/*", "val/val_sharp/*/*"),)),
    "uhd_blur": Benchmark(
        "UHD-Blur", 300, (Tree("testing_set/input/*", "testing_set/gt/*"),), protocol="y"
    ),
    "blursynth": Benchmark("BlurSynth", None, (Tree("blur/*", "sharp/*"),), needs="metadata.jsonl"),
}


def find_pairs(name: str, root: Path) -> Found:
    """The pairs of a public test set.

    Args:
        name: a key of `DATA_SETS`.
        root: the folder that holds what the table at the top names.

    Raises:
        InputError: an unknown name, or folders that are not laid out as they should be: the message
            says what was expected where, and what was found.
    """
    if name not in DATA_SETS:
        raise InputError(f"There is no data set {name!r}: choose one of {', '.join(DATA_SETS)}.")
    known = DATA_SETS[name]
    if not root.is_dir():
        raise InputError(f"{str(root)!r} is not a folder: give the one that holds {known.title}.")
    wanted = [tree.blurred for tree in known.trees]
    there = [tree for tree in known.trees if next(_photos(root, tree.blurred), None)]
    listed = known.listing is not None and (root / known.listing).is_file()
    if known.listing is not None:
        wanted.insert(0, f"{known.listing} (from {known.list_source}) beside {known.folder!r}")
    if not there and not listed:
        raise InputError(
            f"{str(root)!r} is not laid out as {known.title}: expected {' or '.join(wanted)}, "
            f"found {_contents(root, known)}."
        )
    if len(there) + listed > 1:
        names = [known.listing] * listed + [tree.blurred for tree in there]
        raise InputError(
            f"{str(root)!r} mixes layouts of {known.title}: it holds "
            f"{' and '.join(map(str, names))}, so give a folder with one of them."
        )
    if known.needs is not None and not (root / known.needs).is_file():
        raise InputError(
            f"{str(root)!r} holds no {known.needs}, which {known.title} writes when a data set is "
            "whole: finish the build, or compare its folders with --pairs."
        )
    pairs = _from_list(root, known) if listed else _from_tree(root, there[0], known)
    note = None
    if known.count is not None and len(pairs) != known.count:
        note = (
            f"The test split of {known.title} has {known.count} pairs, {str(root)!r} has "
            f"{len(pairs)}: its numbers are not comparable with published ones."
        )
    return Found(tuple(sorted(pairs, key=lambda pair: natural(str(pair[0])))), known.protocol, note)


def _from_tree(root: Path, tree: Tree, known: Benchmark) -> list[tuple[Path, Path]]:
    """Pairs of a tree: every blurred photo with its sharp one, and no sharp one left over."""
    partner = _partner(tree)
    blurred = {partner(path.relative_to(root)): path for path in _photos(root, tree.blurred)}
    sharp = {_stem(path.relative_to(root)): path for path in _photos(root, tree.sharp)}
    for mine, others, kind, other_pattern in (
        (blurred, sharp, "blurred", tree.sharp),
        (sharp, blurred, "sharp", tree.blurred),
    ):
        # HIDE keeps the sharp photos of its training split in the same folder.
        if kind == "sharp" and tree.sharp.count("*") < tree.blurred.count("*"):
            continue
        alone = sorted(set(mine) - set(others))
        if alone:
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            path = mine[alone[0]].relative_to(root).as_posix()
            raise InputError(
                f"{known.title} in {str(root)!r} is not whole: the {kind} photo {path}{more} has "
                f"no partner in {other_pattern}, so unpack the data set again."
            )
    return [(path, sharp[key]) for key, path in blurred.items()]


def _from_list(root: Path, known: Benchmark) -> list[tuple[Path, Path]]:
    """Pairs that the listing names."""
    path = root / str(known.listing)
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        names = line.split()
        if not names:
            continue
        if len(names) < 2:
            raise InputError(
                f"Line {number} of {str(path)!r} names no pair: expected the paths of a sharp and "
                "a blurred photo, so fetch the list again."
            )
        sharp, blurred = (root / name for name in names[:2])
        for photo in (sharp, blurred):
            if not photo.is_file():
                raise InputError(
                    f"{known.title} in {str(root)!r} is not whole: {path.name} names "
                    f"{photo.relative_to(root).as_posix()}, which is not there; found "
                    f"{_contents(root, known)}."
                )
        pairs.append((blurred, sharp))
    if not pairs:
        raise InputError(f"{str(path)!r} names no pairs: fetch the list again.")
    return pairs


def _photos(root: Path, pattern: str) -> Iterator[Path]:
    for path in root.glob(pattern):
        if path.suffix.lower() in INPUT_SUFFIXES and not path.name.startswith("."):
            yield path


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _partner(tree: Tree) -> Callable[[Path], str]:
    """Function from the path of a blurred photo to that of the sharp one, without suffix."""
    pattern = re.compile(re.escape(tree.blurred).replace(r"\*", "([^/]*)"))
    stars = tree.sharp.count("*")

    def partner(path: Path) -> str:
        match = pattern.fullmatch(_stem(path))
        assert match is not None, path
        parts = iter(match.groups()[-stars:])
        return re.sub(r"\*", lambda _: next(parts), tree.sharp)

    return partner


def _contents(root: Path, known: Benchmark) -> str:
    """What a folder holds, for a message."""
    if known.never is not None and next(_photos(root, known.never[0]), None):
        return f"{known.never[0]} ({known.never[1]})"
    names = sorted(
        f"{path.name}/" if path.is_dir() else path.name
        for path in root.iterdir()
        if not path.name.startswith(".")
    )
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more if names else "nothing"
