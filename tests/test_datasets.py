"""Public test sets: their folders as they are published, and what is said about other ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import commands
import pytest

from freqdiff import datasets
from freqdiff.datasets import DATA_SETS, find_pairs
from freqdiff.errors import InputError
from freqdiff.protocol import PROTOCOLS

J = "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"
R = "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref"

PUBLISHED = {
    "gopro": "test/G1/blur/01.png test/G1/blur_gamma/01.png test/G1/sharp/01.png "
    "test/G2/blur/01.png test/G2/sharp/01.png train/G3/blur/01.png train/G3/sharp/01.png",
    "hide": "test/test-close-ups/1.png test/test-long-shot/2.png GT/1.png GT/2.png GT/3.png "
    "train/3.png",
    "realblur_j": f"{J}/scene1/blur/blur_1.png {J}/scene1/gt/gt_1.png "
    f"{J}/scene2/blur/blur_1.png {J}/scene2/gt/gt_1.png {R}/scene1/gt/gt_1.png",
    "realblur_r": f"{R}/scene1/blur/blur_1.png {R}/scene1/gt/gt_1.png",
    "rsblur": "RSBlur/0001/000022/real_blur/real_blur.png RSBlur/0001/000022/gt/gt_sharp.png "
    "RSBlur/0001/000022/avg65_img/avg_blur.png RSBlur/0002/1/gt/gt_sharp.png",
    "reds": "val/val_blur/000/00000000.png val/val_sharp/000/00000000.png "
    "val/val_blur/001/00000000.png val/val_sharp/001/00000000.png",
    "uhd_blur": "testing_set/input/1.png testing_set/gt/1.png training_set/input/2.png "
    "training_set/gt/2.png",
    "blursynth": "blur/000000.png sharp/000000.png metadata.jsonl",
}
LISTS = {
    "realblur_j": (
        "RealBlur_J_test_list.txt",
        f"{J}/scene2/gt/gt_1.png {J}/scene2/blur/blur_1.png ",
    ),
    "realblur_r": (
        "RealBlur_R_test_list.txt",
        f"{R}/scene1/gt/gt_1.png {R}/scene1/blur/blur_1.png",
    ),
    "rsblur": (
        "RSBlur_real_test.txt",
        "RSBlur/0001/000022/gt/gt_sharp.png RSBlur/0001/000022/real_blur/real_blur.png",
    ),
}
EXPECTED = {
    "gopro": [
        "test/G1/blur/01.png test/G1/sharp/01.png",
        "test/G2/blur/01.png test/G2/sharp/01.png",
    ],
    "hide": ["test/test-close-ups/1.png GT/1.png", "test/test-long-shot/2.png GT/2.png"],
    "realblur_j": [f"{J}/scene2/blur/blur_1.png {J}/scene2/gt/gt_1.png"],
    "realblur_r": [f"{R}/scene1/blur/blur_1.png {R}/scene1/gt/gt_1.png"],
    "rsblur": ["RSBlur/0001/000022/real_blur/real_blur.png RSBlur/0001/000022/gt/gt_sharp.png"],
    "reds": [
        "val/val_blur/000/00000000.png val/val_sharp/000/00000000.png",
        "val/val_blur/001/00000000.png val/val_sharp/001/00000000.png",
    ],
    "uhd_blur": ["testing_set/input/1.png testing_set/gt/1.png"],
    "blursynth": ["blur/000000.png sharp/000000.png"],
}


def lay_out(root: Path, names: str) -> Path:
    """Make empty files; only their names count here."""
    for name in names.split():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def published(name: str, root: Path) -> Path:
    """A data set as it is published."""
    lay_out(root, PUBLISHED[name])
    if name in LISTS:
        file, lines = LISTS[name]
        (root / file).write_text(f"{lines}\n\n")
    return root


@pytest.mark.parametrize("name", DATA_SETS)
def test_published_layouts(name: str, tmp_path: Path) -> None:
    found = find_pairs(name, published(name, tmp_path))
    pairs = [" ".join(p.relative_to(tmp_path).as_posix() for p in pair) for pair in found.pairs]
    assert pairs == EXPECTED[name]
    assert found.protocol in PROTOCOLS
    if DATA_SETS[name].count is None:
        assert found.note is None
    else:
        assert f"has {DATA_SETS[name].count} pairs" in str(found.note)


def test_a_whole_split_needs_no_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = dataclasses.replace(DATA_SETS["gopro"], count=2)
    monkeypatch.setitem(datasets.DATA_SETS, "gopro", changed)
    assert find_pairs("gopro", published("gopro", tmp_path)).note is None


@pytest.mark.parametrize("name", ["gopro", "hide", "realblur_j", "realblur_r"])
def test_packed_again(name: str, tmp_path: Path) -> None:
    lay_out(tmp_path, "input/a-1.png input/a-2.png target/a-1.png target/a-2.png")
    assert len(find_pairs(name, tmp_path).pairs) == 2


@pytest.mark.parametrize(
    ("name", "names", "words"),
    [
        ("gopro", "test/G1/blur_gamma/1.png test/G1/sharp/1.png", ("blur_gamma", "3 dB")),
        ("gopro", PUBLISHED["hide"], ("as GoPro", "test/*/blur/*", "found GT/, test/, train/")),
        ("gopro", "", ("as GoPro", "found nothing")),
        ("gopro", PUBLISHED["gopro"] + " input/1.png target/1.png", ("mixes layouts", "input/*")),
        ("gopro", PUBLISHED["gopro"] + " test/G1/blur/02.png", ("test/G1/blur/02.png has no",)),
        ("gopro", PUBLISHED["gopro"] + " test/G1/sharp/02.png", ("sharp photo test/G1/sharp/02",)),
        ("hide", PUBLISHED["gopro"], ("as HIDE", "test/test-*/*", "found test/, train/")),
        ("hide", "test/test-close-ups/1.png GT/2.png", ("test-close-ups/1.png has no partner",)),
        ("realblur_j", PUBLISHED["realblur_j"], ("RealBlur_J_test_list.txt", J, R)),
        ("rsblur", PUBLISHED["rsblur"], ("RSBlur_real_test.txt", "repository", "found RSBlur/")),
        ("reds", "train/train_blur/000/1.png", ("as REDS", "val/val_blur/*/*", "found train/")),
        ("uhd_blur", "input/1.png gt/1.png", ("testing_set/input/*", "found gt/, input/")),
        ("blursynth", "blur/0.png sharp/0.png", ("holds no metadata.jsonl", "finish the build")),
        ("ghost", "", ("no data set 'ghost'", "gopro, hide")),
    ],
)
def test_other_layouts_are_refused(
    name: str, names: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(InputError) as error:
        find_pairs(name, lay_out(tmp_path, names))
    message = str(error.value)
    for word in words:
        assert word in message
    assert message.endswith(".")
    assert message.count("\n") == 0


def test_lists_that_do_not_fit(tmp_path: Path) -> None:
    published("realblur_j", tmp_path)
    path = tmp_path / "RealBlur_J_test_list.txt"
    for text, word in (
        (f"{J}/scene2/gt/gt_1.png\n", "Line 1 of"),
        ("\n", "names no pairs"),
        (
            f"{J}/scene9/gt/gt_1.png {J}/scene9/blur/blur_1.png\n",
            "scene9/gt/gt_1.png, which is not",
        ),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=word):
            find_pairs("realblur_j", tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_pairs("realblur_j", path)


def test_evaluation_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = commands.untrained_model(tmp_path)
    for folder, name in (("input", "astronaut"), ("target", "coffee")):
        commands.put_photo(Path("packed", folder, "1.png"), 64, 72, name)
        commands.put_photo(Path("uhd/testing_set", {"target": "gt"}.get(folder, folder), "1.png"))
    arguments = ("evaluate", "--dataset", "gopro", "packed", "--model", model)
    code, out, err = commands.run(*arguments, "--json")
    assert code == 0
    commands.sentence(err, "Note: the test split of GoPro has 1111 pairs")
    report = json.loads(out)
    assert (report["dataset"], report["protocol"], report["count"]) == ("gopro", "plain", 1)
    assert report["output"] == report["input"]
    code, out, err = commands.run("evaluate", "--dataset", "uhd_blur", "uhd", "--model", model)
    assert code == 0
    assert "SSIM y" in out
    commands.refused(commands.run(*arguments, "--align"), "--align", "protocol of its own")
    commands.refused(commands.run(*arguments, "--save", "packed"), "--save")
    wrong = ("evaluate", "--dataset", "reds", "packed", "--model", model)
    commands.refused(commands.run(*wrong), "as REDS", "found input/, target/")


def test_evaluation_of_registered_pairs(tmp_path: Path) -> None:
    """What a model that changes nothing gets is the input's value, both after registration."""
    model = commands.untrained_model(tmp_path)
    for folder in ("input", "target"):
        commands.put_photo(tmp_path / "packed" / folder / "1.png", 64, 72)
    where = ("--dataset", "realblur_j", tmp_path / "packed", "--model", model, "--json")
    code, out, _ = commands.run("evaluate", *where)
    assert code == 0
    report = json.loads(out)
    assert report["protocol"] == "registered"
    assert set(report["input"]) == {"psnr_rgb", "psnr_y", "ssim_skimage_gaussian"}
    assert report["output"] == report["input"]
